"""The port for the log: what every store promises about tasks, events, blobs and leases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from agent_runtime.types import (
    Backlog,
    BlobId,
    Epoch,
    Lease,
    Ready,
    Row,
    Seq,
    Snapshot,
    Spent,
    TaskId,
    TaskSummary,
)


class NewTask(NamedTuple):
    """What `Store.create_all` stores of each task."""

    summary: TaskSummary
    rows: Sequence[Row]
    idempotency_key: str | None = None


class Store(Protocol):
    """The only truth: one ordered log per task, content-addressed blobs, leases, a projection.

    All methods may raise `StoreUnavailable` (nothing is known: repeat with the same arguments) and
    `StoreBroken` (end the process).
    """

    async def create(
        self,
        summary: TaskSummary,
        rows: Sequence[Row],
        *,
        blobs: Mapping[BlobId, bytes] = {},
        idempotency_key: str | None = None,
        held: bool = False,
    ) -> TaskId:
        """Store a new task with its first rows and return its id, durable.

        Its goal, repository, submitter and time are kept as they are said here, and so are labels
        and priority until an append with `relabel`.

        A known `idempotency_key` stores nothing and returns the id of the task it made.

        A task that is `held` can be claimed by this store alone, as long as its process lives: a
        daemon beside it would otherwise be faster than whoever means to drive it itself.

        Raises:
            Conflict: the task id exists.
        """

    async def create_all(self, tasks: Sequence[NewTask]) -> list[TaskId]:
        """Store many new tasks in one transaction, all or none, durable; ids in their order.

        Idempotency keys as for `create`, also between these tasks.

        Raises:
            Conflict: one of the task ids exists; nothing was stored.
        """

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
        """Store `rows` after `expected`, all or none, with blobs and projection; durable on return.

        Rows are numbered expected+1…, without holes. `epoch` is the writer's lease; None marks a
        fact from outside. An append whose first row is already stored with the same hash has
        succeeded (repeat after `StoreUnavailable`). `snapshot` is the state that the rows lead to;
        it replaces an older one, and is left out if it is too large. `relabel`: labels and priority
        become those of `summary`. Returns the new last number.

        Raises:
            Conflict: the log has moved on; reload, fold and decide again.
            LeaseLost: `epoch` is not the task's newest; stop.
            NotFound: no such task.
        """

    async def made_by(self, idempotency_key: str) -> TaskId | None:
        """The task that was stored with this key; None: none was, or it is forgotten."""

    async def load(self, task_id: TaskId, after: int = 0, limit: int | None = None) -> list[Row]:
        """Rows after `after`, in order: all, or the first `limit`.

        `NotFound` if there is no such task.
        """

    async def tail(self, after: int, limit: int = 1000) -> list[tuple[int, Row]]:
        """Events of all tasks behind position `after`, in the order in which they became durable.

        A position is greater than every earlier one, and is never given again, also not after
        `delete`. What was deleted is left out.
        """

    async def position(self) -> int:
        """The newest position; 0: nothing was ever stored."""

    async def summary(self, task_id: TaskId) -> TaskSummary:
        """The projection of one task. `NotFound` if there is none."""

    async def tasks(
        self,
        *,
        statuses: Sequence[str] = (),
        labels: Mapping[str, str] = {},
        submitted_by: str | None = None,
        before: TaskId | None = None,
        limit: int = 100,
    ) -> list[TaskSummary]:
        """Newest first, those created before `before`; filters are conjunctive.

        The last id of a page is the cursor of the next one: what was there when the first page was
        read is neither skipped nor repeated, whatever arrives or changes meanwhile.
        """

    async def counts(self) -> dict[str, int]:
        """How many tasks have each status; those that none has are left out."""

    async def waiting(self, task_ids: Sequence[TaskId]) -> dict[TaskId, int]:
        """Those of them whose status is `waiting`, and since when (microseconds since 1970)."""

    async def spent(self, submitted_by: str, day: int) -> Spent:
        """What one submitter has used up on `day` (days since 1970, UTC), of tasks that were
        forgotten since, too. What a fork or an imported task had used before counts for nobody."""

    async def probe(self) -> None:
        """Write nothing, durably: raises what a write would raise now, if that can be known."""

    async def claim(self, task_id: TaskId) -> Lease:
        """Take the lease with a new epoch.

        Raises:
            LeaseHeld: a live process (also this one) has it.
            NotFound: no such task.
        """

    async def claim_all(self, task_ids: Sequence[TaskId]) -> list[Lease]:
        """As `claim` of each, in one write; what is held or unknown is left out."""

    async def release(self, lease: Lease) -> None:
        """Give the lease back; nothing happens if it is not the newest any more."""

    async def owner(self, task_id: TaskId) -> str | None:
        """Who holds the lease now, for people (`pid 123 on host`), or None if nobody alive does."""

    async def heads(self, task_ids: Sequence[TaskId]) -> dict[TaskId, int]:
        """The last event number of each known task: one cheap query for many."""

    async def ready(
        self, *, now_us: int, of_each: int = 100, limit: int = 1000, without: Sequence[TaskId] = ()
    ) -> list[Ready]:
        """Tasks that nobody alive holds and that can go on: pending, running, or waiting for a time
        that has come (`now_us`).

        First at most `limit` that had begun or whose time has come, then at most `of_each` of every
        submitter and priority, the oldest; by priority, then age. Those in `without` are left out.
        """

    async def put_blob(self, data: bytes) -> BlobId:
        """Keep `data` under its SHA-256, durable on return; the same content is kept once."""

    async def get_blob(self, blob_id: BlobId) -> bytes:
        """The content. `NotFound` if it is not there, `CorruptLog` if it does not match its id."""

    async def load_snapshot(self, task_id: TaskId, version: int) -> tuple[Seq, bytes] | None:
        """The newest snapshot and its number, if it is of fold version `version`; else None."""

    async def delete(self, task_id: TaskId, *, expected: Seq | None = None) -> None:
        """Forget a task and the blobs that nobody else names (retention).

        Raises:
            Conflict: its newest event is not `expected`: it was continued meanwhile.
            LeaseHeld: it is being driven.
        """

    async def ended(
        self, before_us: int, *, after: TaskSummary | None = None, limit: int = 100
    ) -> list[TaskSummary]:
        """Tasks that ended before `before_us`, those that ended first before the others; the next
        page begins after the last one of the page before, which may be gone by then."""

    async def kept_bytes(self) -> int:
        """What logs and blobs take, without room that is free for new ones."""

    async def give_back(self, bytes_max: int) -> int:
        """Return about so many bytes of free room to the disk; the number returned, 0: no more."""

    def backlog(self) -> Backlog:
        """What waits to be written now: the same object each time."""

    async def wait_changed(self, seconds_max: float) -> None:
        """Return when another process, or this one, may have written, or after `seconds_max`."""

    async def close(self) -> None:
        """Finish queued writes, release what this process holds, close."""
