"""A store without a disk: the reference for the others, and the store of the simulation.

It has no thread, no clock and no chance, so that whole lives run on trio's virtual time. Several
`MemoryStore`s on one `SharedMemory` behave like processes on one file; `crash` is kill -9. Every
method waits once before and once after its effect, so that a cancellation hits either side of it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice

import anyio.lowlevel
import msgspec

from agent_runtime.errors import (
    Conflict,
    CorruptLog,
    LeaseHeld,
    LeaseLost,
    NotFound,
    StoreUnavailable,
)
from agent_runtime.ports.store import NewTask
from agent_runtime.stores.changes import Changes
from agent_runtime.stores.limits import check_blobs, check_rows, day_of, digest, fits, identify
from agent_runtime.types import (
    TERMINAL_STATUSES,
    Backlog,
    BlobId,
    Epoch,
    Lease,
    Ready,
    Row,
    Seq,
    Snapshot,
    Spent,
    Status,
    TaskId,
    TaskSummary,
)

_DAY_US = 86_400_000_000
_KEPT = ("goal", "repo", "submitted_by", "created_at_us")
_NO_BACKLOG = Backlog()


@dataclass(slots=True)
class _Task:
    summary: TaskSummary
    rows: list[Row]
    idempotency_key: str | None
    epoch: int = 0
    owner: int | None = None
    blob_ids: set[BlobId] = field(default_factory=set)
    snapshot: tuple[Seq, int, bytes] | None = None


class SharedMemory:
    """What several `MemoryStore`s have in common: the "file"."""

    def __init__(self) -> None:
        self.tasks: dict[TaskId, _Task] = {}
        self.blobs: dict[BlobId, bytes] = {}
        self.living: set[int] = set()
        self.stores_made = 0
        self.order: list[Row | None] = []
        """Every event ever stored, at its position less one; None: deleted."""
        self.changes = Changes()
        self.spent: dict[tuple[str, int], Counter[str]] = defaultdict(Counter)
        """By submitter and day, of tasks that go on; `tasks` counts forgotten ones."""

    def charge(self, before: TaskSummary, after: TaskSummary) -> None:
        """Add what a task has used since."""
        if (before.tokens, before.microusd) != (after.tokens, after.microusd):
            spent = self.spent[before.submitted_by, after.updated_at_us // _DAY_US]
            spent["tokens"] += after.tokens - before.tokens
            spent["microusd"] += after.microusd - before.microusd

    def task(self, task_id: TaskId) -> _Task:
        try:
            return self.tasks[task_id]
        except KeyError:
            raise NotFound(f"there is no task {task_id!r} in this store") from None

    def holder(self, task: _Task) -> int | None:
        return task.owner if task.owner in self.living else None


class MemoryStore:
    """Implements `ports.Store` for one "process"."""

    def __init__(self, shared: SharedMemory | None = None) -> None:
        self._shared = shared if shared is not None else SharedMemory()
        self._shared.stores_made += 1
        self._number = self._shared.stores_made
        self._shared.living.add(self._number)

    def crash(self) -> None:
        """Die as by kill -9: its leases are dead and nothing it still tries has an effect."""
        self._shared.living.discard(self._number)

    @asynccontextmanager
    async def _effect(self) -> AsyncIterator[SharedMemory]:
        await anyio.lowlevel.checkpoint()
        if self._number not in self._shared.living:
            raise StoreUnavailable(f"{_name(self._number)} has ended: open a new store")
        yield self._shared
        await anyio.lowlevel.checkpoint()

    # ---- the log -------------------------------------------------------------------------

    async def create(
        self,
        summary: TaskSummary,
        rows: Sequence[Row],
        *,
        blobs: Mapping[BlobId, bytes] = {},
        idempotency_key: str | None = None,
        held: bool = False,
    ) -> TaskId:
        task_id = TaskId(summary.task_id)
        check_rows(task_id, Seq(0), rows, summary)
        check_blobs(blobs)
        async with self._effect() as shared:
            for known_id, known in shared.tasks.items():
                if idempotency_key is not None and known.idempotency_key == idempotency_key:
                    return known_id
            if task_id in shared.tasks:
                if _are_stored(shared.tasks[task_id], rows):
                    return task_id
                raise Conflict(f"task {task_id!r} exists already, with other events")
            task = _Task(summary, list(rows), idempotency_key)
            task.owner = self._number if held else None
            shared.tasks[task_id] = task
            shared.order += rows
            self._keep_blobs(task, blobs)
            shared.changes.announce()
            return task_id

    async def create_all(self, tasks: Sequence[NewTask]) -> list[TaskId]:
        for new in tasks:
            check_rows(TaskId(new.summary.task_id), Seq(0), new.rows, new.summary)
        async with self._effect() as shared:
            keys = {t.idempotency_key: task_id for task_id, t in shared.tasks.items()}
            made: dict[TaskId, _Task] = {}
            ids: list[TaskId] = []
            for new in tasks:
                task_id, key = TaskId(new.summary.task_id), new.idempotency_key
                if key is not None and key in keys:
                    ids.append(keys[key])
                    continue
                known = shared.tasks.get(task_id) or made.get(task_id)
                if known is None:
                    made[task_id] = _Task(new.summary, list(new.rows), key)
                    keys[key] = task_id
                elif not _are_stored(known, new.rows):
                    raise Conflict(f"task {task_id!r} exists already, with other events")
                ids.append(task_id)
            shared.tasks.update(made)
            shared.order += [row for task in made.values() for row in task.rows]
            shared.changes.announce()
            return ids

    async def append(
        self,
        task_id: TaskId,
        expected: Seq,
        rows: Sequence[Row],
        *,
        epoch: Epoch | None,
        summary: TaskSummary,
        blobs: Mapping[BlobId, bytes] = {},
        snapshot: Snapshot | None = None,
        relabel: bool = False,
    ) -> Seq:
        check_rows(task_id, expected, rows, summary)
        check_blobs(blobs)
        async with self._effect() as shared:
            task = shared.task(task_id)
            # Fencing comes before repetition: who lost the lease must stop, whatever was stored.
            if epoch is not None and epoch != task.epoch:
                raise LeaseLost(
                    f"epoch {epoch} of task {task_id!r} is over: {task.epoch} drives it"
                )
            if expected != len(task.rows):
                if _are_stored(task, rows):
                    return Seq(rows[-1].seq)
                raise Conflict(
                    f"task {task_id!r} stands at event {len(task.rows)}, not {expected}:"
                    " load, fold and decide again"
                )
            task.rows.extend(rows)
            shared.order += rows
            shared.charge(task.summary, summary)
            names = _KEPT if relabel else (*_KEPT, "labels", "priority")
            kept = {name: getattr(task.summary, name) for name in names}
            task.summary = msgspec.structs.replace(summary, **kept)
            if snapshot is not None and fits(snapshot):
                task.snapshot = (Seq(rows[-1].seq), snapshot.version, snapshot.data)
            self._keep_blobs(task, blobs)
            shared.changes.announce()
            return Seq(rows[-1].seq)

    def _keep_blobs(self, task: _Task, blobs: Mapping[BlobId, bytes]) -> None:
        self._shared.blobs.update(blobs)
        task.blob_ids.update(blobs)

    async def made_by(self, idempotency_key: str) -> TaskId | None:
        async with self._effect() as shared:
            for task_id, known in shared.tasks.items():
                if known.idempotency_key == idempotency_key:
                    return task_id
            return None

    async def load(self, task_id: TaskId, after: int = 0, limit: int | None = None) -> list[Row]:
        async with self._effect() as shared:
            return shared.task(task_id).rows[after : None if limit is None else after + limit]

    async def tail(self, after: int, limit: int = 1000) -> list[tuple[int, Row]]:
        async with self._effect() as shared:
            behind = enumerate(shared.order[after:], after + 1)
            return list(islice(((at, row) for at, row in behind if row is not None), limit))

    async def position(self) -> int:
        async with self._effect() as shared:
            return len(shared.order)

    # ---- the projection ------------------------------------------------------------------

    async def summary(self, task_id: TaskId) -> TaskSummary:
        async with self._effect() as shared:
            return shared.task(task_id).summary

    async def tasks(
        self,
        *,
        statuses: Sequence[str] = (),
        labels: Mapping[str, str] = {},
        submitted_by: str | None = None,
        before: TaskId | None = None,
        limit: int = 100,
    ) -> list[TaskSummary]:
        async with self._effect() as shared:
            found = [
                task.summary
                for task_id, task in sorted(shared.tasks.items(), reverse=True)
                if (not statuses or task.summary.status in statuses)
                and labels.items() <= task.summary.labels.items()
                and submitted_by in (None, task.summary.submitted_by)
                and (before is None or task_id < before)
            ]
            return found[:limit]

    async def counts(self) -> dict[str, int]:
        async with self._effect() as shared:
            return dict(Counter(task.summary.status for task in shared.tasks.values()))

    async def waiting(self, task_ids: Sequence[TaskId]) -> dict[TaskId, int]:
        async with self._effect() as shared:
            found = [
                shared.tasks[task_id].summary for task_id in task_ids if task_id in shared.tasks
            ]
            return {
                TaskId(summary.task_id): summary.updated_at_us
                for summary in found
                if summary.status == Status.WAITING
            }

    async def spent(self, submitted_by: str, day: int) -> Spent:
        async with self._effect() as shared:
            spent = shared.spent[submitted_by, day]
            here = [
                task_id
                for task_id, task in shared.tasks.items()
                if task.summary.submitted_by == submitted_by and day_of(task_id) == day
            ]
            return Spent(
                tasks=spent["tasks"] + len(here),
                tokens=max(spent["tokens"], 0),
                microusd=max(spent["microusd"], 0),
            )

    async def heads(self, task_ids: Sequence[TaskId]) -> dict[TaskId, int]:
        async with self._effect() as shared:
            return {
                task_id: len(shared.tasks[task_id].rows)
                for task_id in task_ids
                if task_id in shared.tasks
            }

    async def probe(self) -> None:
        async with self._effect():
            pass

    # ---- leases --------------------------------------------------------------------------

    async def claim(self, task_id: TaskId) -> Lease:
        [lease] = await self._claim(lambda: {task_id: self._free(task_id)})
        return lease

    async def claim_all(self, task_ids: Sequence[TaskId]) -> list[Lease]:
        def free() -> dict[TaskId, _Task]:
            found: dict[TaskId, _Task] = {}
            for task_id in task_ids:
                with suppress(LeaseHeld, NotFound):
                    found[task_id] = self._free(task_id)
            return found

        return await self._claim(free)

    async def _claim(self, find: Callable[[], dict[TaskId, _Task]]) -> list[Lease]:
        found: dict[TaskId, _Task] = {}
        try:
            async with self._effect() as shared:
                found = find()
                for task in found.values():
                    task.epoch += 1
                    task.owner = self._number
                shared.changes.announce()
                name = _name(self._number)
                return [Lease(task_id, Epoch(task.epoch), name) for task_id, task in found.items()]
        except anyio.get_cancelled_exc_class():
            # Nobody gets to know of these leases, so nobody would release them.
            if self._number in self._shared.living:
                for task in found.values():
                    task.owner = None
            raise

    def _free(self, task_id: TaskId) -> _Task:
        task = self._shared.task(task_id)
        holder = self._shared.holder(task)
        is_kept = holder == self._number and task.epoch == 0  # held since it was made
        if holder is not None and not is_kept:
            raise LeaseHeld(
                f"task {task_id!r} is driven by {_name(holder)}: wait, or stop that one"
            )
        return task

    async def release(self, lease: Lease) -> None:
        async with self._effect() as shared:
            task = shared.tasks.get(lease.task_id)
            if task is not None and (task.epoch, task.owner) == (lease.epoch, self._number):
                task.owner = None
                shared.changes.announce()

    async def owner(self, task_id: TaskId) -> str | None:
        async with self._effect() as shared:
            holder = shared.holder(shared.task(task_id))
            return None if holder is None else _name(holder)

    async def ready(
        self, *, now_us: int, of_each: int = 100, limit: int = 1000, without: Sequence[TaskId] = ()
    ) -> list[Ready]:
        async with self._effect() as shared:
            begun, queued = list[Ready](), list[Ready]()
            queues = Counter[tuple[int, str]]()
            for task_id, task in sorted(shared.tasks.items()):
                summary, due_us = task.summary, task.summary.wake_at_us
                runs = summary.status in (Status.PENDING, Status.RUNNING)
                due = summary.status == Status.WAITING and 0 < due_us <= now_us
                if not (runs or due) or shared.holder(task) is not None or task_id in without:
                    continue
                is_begun = due or task.owner is not None
                found = Ready(
                    task_id,
                    summary.submitted_by,
                    summary.priority,
                    summary.updated_at_us,
                    is_begun,
                )
                queue = (summary.priority, summary.submitted_by)
                if is_begun:
                    begun.append(found)
                elif queues[queue] < of_each:
                    queues[queue] += 1
                    queued.append(found)
            queued.sort(key=lambda task: (-task.priority, task.task_id))
            return begun[:limit] + queued

    # ---- blobs, snapshots, retention -----------------------------------------------------

    async def put_blob(self, data: bytes) -> BlobId:
        blob_id = identify(data)
        async with self._effect() as shared:
            shared.blobs[blob_id] = data
            return blob_id

    async def get_blob(self, blob_id: BlobId) -> bytes:
        async with self._effect() as shared:
            if blob_id not in shared.blobs:
                raise NotFound(f"there is no blob {blob_id!r} in this store")
            data = shared.blobs[blob_id]
            if digest(data) != blob_id:
                raise CorruptLog(f"blob {blob_id!r} is not what was stored", task_id="")
            return data

    async def load_snapshot(self, task_id: TaskId, version: int) -> tuple[Seq, bytes] | None:
        async with self._effect() as shared:
            task = shared.tasks.get(task_id)
            if task is None or task.snapshot is None or task.snapshot[1] != version:
                return None
            seq, _, data = task.snapshot
            return seq, data

    async def delete(self, task_id: TaskId, *, expected: Seq | None = None) -> None:
        async with self._effect() as shared:
            task = self._free(task_id)
            if expected is not None and expected != len(task.rows):
                raise Conflict(f"task {task_id!r} has moved on to event {len(task.rows)}")
            del shared.tasks[task_id]
            order = shared.order
            order[:] = [row if row and row.task_id != task_id else None for row in order]
            if (day := day_of(task_id)) is not None:
                shared.spent[task.summary.submitted_by, day]["tasks"] += 1
            for blob_id in task.blob_ids:
                if not any(blob_id in other.blob_ids for other in shared.tasks.values()):
                    del shared.blobs[blob_id]
            shared.changes.announce()

    async def ended(
        self, before_us: int, *, after: TaskSummary | None = None, limit: int = 100
    ) -> list[TaskSummary]:
        def place(summary: TaskSummary) -> tuple[int, str]:
            return summary.updated_at_us, summary.task_id

        async with self._effect() as shared:
            found = [
                task.summary
                for task in shared.tasks.values()
                if task.summary.status in TERMINAL_STATUSES
                and task.summary.updated_at_us < before_us
                and (after is None or place(task.summary) > place(after))
            ]
            return sorted(found, key=place)[:limit]

    async def kept_bytes(self) -> int:
        async with self._effect() as shared:
            rows = (row for task in shared.tasks.values() for row in task.rows)
            return sum(len(row.data) for row in rows) + sum(map(len, shared.blobs.values()))

    async def give_back(self, bytes_max: int) -> int:
        async with self._effect():
            return 0

    def backlog(self) -> Backlog:
        return _NO_BACKLOG

    # ---- life ----------------------------------------------------------------------------

    async def wait_changed(self, seconds_max: float) -> None:
        async with self._effect() as shared:
            await shared.changes.wait(seconds_max)

    async def close(self) -> None:
        """Safe to call twice, and after `crash`."""
        await anyio.lowlevel.checkpoint()
        self.crash()


def _are_stored(task: _Task, rows: Sequence[Row]) -> bool:
    first = rows[0].seq - 1
    stored = task.rows[first : first + len(rows)]
    return [row.hash for row in stored] == [row.hash for row in rows]


def _name(number: int) -> str:
    return f"memory process {number}"
