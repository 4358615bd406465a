"""What each write does inside the transaction, and what it answers.

A write first checks and only then changes anything, so a refusal leaves nothing behind and its
neighbours in the transaction are untouched. Neighbouring log writes go in together: one statement
for all checks, one for all rows, one for all projections. Each statement costs a release of the
interpreter lock, and under load that is what takes the time, not the rows.
"""

from __future__ import annotations

import asyncio  # noqa: TID251  # this store runs on asyncio alone, see `Write.waiting`
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, Generic, TypeVar, cast

import apsw
import msgspec

from agent_runtime.errors import Conflict, LeaseHeld, LeaseLost, NotFound
from agent_runtime.ports.store import NewTask
from agent_runtime.stores.limits import day_of
from agent_runtime.stores.owners import Owners
from agent_runtime.types import (
    BlobId,
    Epoch,
    Lease,
    Phase,
    Row,
    Seq,
    Snapshot,
    Status,
    TaskId,
    TaskSummary,
)

T = TypeVar("T")

BLOB_PART_BYTES = 4 << 20
"""One row of a large blob; SQLite takes less than a gigabyte as one value."""


class Write(Generic[T]):
    """One caller's wish, and the answer when it is durable."""

    data_bytes = 0
    """Roughly what it adds to the transaction."""

    def __init__(self) -> None:
        self._done: asyncio.Future[None] | None = None
        self._value: T | None = None
        self._error: BaseException | None = None

    def waiting(self) -> Awaitable[None]:
        """Over when the answer is there. Every step waits once: an `anyio.Event` costs twice."""
        self._done = asyncio.get_running_loop().create_future()
        return self._done

    def wake(self) -> None:
        """On the event loop: the answer is there."""
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def run(self, db: apsw.Connection) -> T:
        """Check, then do it. Raises what the caller is to get."""
        raise NotImplementedError

    def succeed(self, value: T) -> None:
        self._value, self._error = value, None

    def fail(self, error: BaseException) -> None:
        self._value, self._error = None, error

    def answer(self) -> T:
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # T itself may be None

    @property
    def succeeded(self) -> bool:
        return self._error is None and self._value is not None


def run_all(db: apsw.Connection, writes: Sequence[Write[Any]]) -> None:
    """Run `writes` in order, inside a transaction. An `apsw.Error` spoils all of it."""
    for are_log_writes, neighbours in groupby(writes, lambda write: isinstance(write, LogWrite)):
        if are_log_writes:
            _run_log_writes(db, [cast(LogWrite[Any], write) for write in neighbours])
        else:
            for write in neighbours:
                _answer(write, partial(write.run, db))


def _answer(write: Write[T], attempt: Callable[[], T]) -> None:
    try:
        write.succeed(attempt())
    except (Conflict, NotFound) as refusal:
        write.fail(refusal)


def _run_log_writes(db: apsw.Connection, writes: Sequence[LogWrite[Any]]) -> None:
    batch = _LogBatch(db, writes)
    for write in writes:
        _answer(write, partial(write.join, batch))
    batch.store()


class Do(Write[T]):
    """A write that is a function."""

    def __init__(self, do: Callable[[apsw.Connection], T], data_bytes: int = 0) -> None:
        super().__init__()
        self._do = do
        self.data_bytes = data_bytes

    def run(self, db: apsw.Connection) -> T:
        return self._do(db)


# ---- the log -----------------------------------------------------------------------------


class LogWrite(Write[T]):
    """A write that adds events, together with its neighbours."""

    def __init__(
        self, rows: Sequence[Row], summary: TaskSummary, blobs: Mapping[BlobId, bytes]
    ) -> None:
        super().__init__()
        self.task_id = rows[0].task_id
        self.rows = rows
        self.summary = summary
        self.blobs = blobs
        self.idempotency_key: str | None = None
        self.snapshot: Snapshot | None = None
        self.relabel = False
        self.data_bytes = sum(len(row.data) for row in rows)
        self.data_bytes += sum(len(data) for data in blobs.values())

    def join(self, batch: _LogBatch) -> T:
        """Check, add to the batch, and say what the answer is once that is stored."""
        raise NotImplementedError


class Create(LogWrite[TaskId]):
    """A new task with its first rows."""

    def __init__(
        self,
        rows: Sequence[Row],
        summary: TaskSummary,
        blobs: Mapping[BlobId, bytes],
        idempotency_key: str | None,
        holder: str = "",
    ) -> None:
        super().__init__(rows, summary, blobs)
        self.idempotency_key = idempotency_key
        self.holder = holder

    def join(self, batch: _LogBatch) -> TaskId:
        if self.idempotency_key is not None and self.idempotency_key in batch.keys:
            return TaskId(batch.keys[self.idempotency_key])
        if self.task_id in batch.heads:
            if not batch.holds(self.rows):
                raise Conflict(f"task {self.task_id!r} exists already, with other events")
        else:
            batch.add(self, epoch=0)
        return TaskId(self.task_id)


class CreateAll(Write[list[TaskId]]):
    """Several new tasks, all or none."""

    def __init__(self, tasks: Sequence[NewTask]) -> None:
        super().__init__()
        self._creates = [Create(new.rows, new.summary, {}, new.idempotency_key) for new in tasks]
        self.data_bytes = sum(create.data_bytes for create in self._creates)

    def run(self, db: apsw.Connection) -> list[TaskId]:
        batch = _LogBatch(db, self._creates)
        ids = [create.join(batch) for create in self._creates]
        batch.store()
        return ids


class Append(LogWrite[Seq]):
    """More rows of a task, if it still stands where the writer believes."""

    def __init__(
        self,
        expected: Seq,
        rows: Sequence[Row],
        summary: TaskSummary,
        blobs: Mapping[BlobId, bytes],
        epoch: Epoch | None,
        snapshot: Snapshot | None,
        *,
        relabel: bool = False,
    ) -> None:
        super().__init__(rows, summary, blobs)
        self.expected = expected
        self.epoch = epoch
        self.snapshot = snapshot
        self.relabel = relabel
        if snapshot is not None:
            self.data_bytes += len(snapshot.data)

    def join(self, batch: _LogBatch) -> Seq:
        if self.task_id not in batch.heads:
            raise _no_task(self.task_id)
        seq, epoch = batch.heads[self.task_id]
        # Fencing comes before repetition: who lost the lease must stop, whatever was stored.
        if self.epoch is not None and self.epoch != epoch:
            raise LeaseLost(
                f"epoch {self.epoch} of task {self.task_id!r} is over: {epoch} drives it now"
            )
        if self.expected == seq:
            batch.add(self, epoch=epoch)
        elif not batch.holds(self.rows):
            raise Conflict(
                f"task {self.task_id!r} stands at event {seq}, not {self.expected}:"
                " load, fold and decide again"
            )
        return Seq(self.rows[-1].seq)


_HEADS = """
SELECT json_group_array(json_array(task_id, seq, epoch, idempotency_key)) FROM tasks
WHERE task_id IN (SELECT value FROM json_each(?1))
   OR (idempotency_key IS NOT NULL AND idempotency_key IN (SELECT value FROM json_each(?2)))
"""
"""One row, however many tasks: each row that is fetched releases the interpreter lock once."""

_ADD_EVENTS = """
INSERT INTO events (task_id, seq, type, schema, at_us, data, prev_hash, hash)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4,
       substr(?2, value ->> 5, value ->> 6), value ->> 7, value ->> 8
FROM json_each(?1)
"""
"""The data come as one blob that is cut here: the bytes pass as they are, valid JSON or not."""

_ADD_NEW_TASKS = """
INSERT INTO tasks (task_id, status, phase, reason, goal, seq, head_hash, created_at_us,
                   updated_at_us, labels, priority, repo, idempotency_key, submitted_by)
SELECT value ->> 0, 'pending', 'idle', '', value ->> 1, value ->> 2, value ->> 3, value ->> 4,
       value ->> 4, value -> 5, value ->> 6, value ->> 7, value ->> 8, value ->> 9
FROM json_each(?1)
"""
"""Of tasks that nobody has touched; each value that is taken out of the text costs 0.3 us."""

_ADD_TASKS = """
INSERT INTO tasks (task_id, goal, seq, head_hash, created_at_us, labels, priority, repo,
                   idempotency_key, submitted_by, status, phase, reason, updated_at_us,
                   wake_at_us, tokens, microusd)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value -> 5, value ->> 6,
       value ->> 7, value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12,
       value ->> 13, value ->> 14, value ->> 15, value ->> 16
FROM json_each(?1)
"""
"""Of forks, and of what is brought in."""

_ADD_LABELS = """
INSERT INTO task_labels (key, value, task_id)
SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1)
"""

_FORGET_LABELS = """
DELETE FROM task_labels WHERE task_id = ?1 AND (key, value) IN (
    SELECT l.key, l.value FROM tasks, json_each(tasks.labels) AS l WHERE tasks.task_id = ?1)
"""

_PROJECT = """
UPDATE tasks SET status = value ->> 1, phase = value ->> 2, reason = value ->> 3,
    seq = value ->> 4, head_hash = value ->> 5, updated_at_us = value ->> 6,
    wake_at_us = value ->> 7, tokens = value ->> 8, microusd = value ->> 9
FROM json_each(?1) WHERE task_id = value ->> 0
"""
"""What a task is made with is left alone: each column named here costs, and so do its indexes.
Labels and priority are changed by `_relabel`."""


_KEEP_SNAPSHOT = (
    "INSERT OR REPLACE INTO snapshots (task_id, seq, version, data) VALUES (?, ?, ?, ?)"
)


class _LogBatch:
    """Neighbouring log writes: what they need to know, and what they add."""

    def __init__(self, db: apsw.Connection, writes: Sequence[LogWrite[Any]]) -> None:
        self._db = db
        self.heads: dict[str, tuple[int, int]] = {}
        """Last number and epoch of each task, with what this batch adds."""
        self.keys: dict[str, str] = {}
        """Task of each idempotency key."""
        self._added: list[LogWrite[Any]] = []
        self._look_up(writes)

    def _look_up(self, writes: Sequence[LogWrite[Any]]) -> None:
        task_ids = {write.task_id for write in writes}
        keys = {write.idempotency_key for write in writes if write.idempotency_key is not None}
        found = self._db.execute(_HEADS, (_json(list(task_ids)), _json(list(keys)))).fetchone()
        assert found is not None
        for task_id, seq, epoch, key in msgspec.json.decode(cast(str, found[0])):
            self.heads[task_id] = (seq, epoch)
            if key is not None:
                self.keys[key] = task_id

    def add(self, write: LogWrite[Any], *, epoch: int) -> None:
        self.heads[write.task_id] = (write.rows[-1].seq, epoch)
        if write.idempotency_key is not None:
            self.keys[write.idempotency_key] = write.task_id
        self._added.append(write)

    def holds(self, rows: Sequence[Row]) -> bool:
        """Whether these very rows are stored already: a write is being repeated."""
        first, last = rows[0], rows[-1]
        stored = {(row.task_id, row.seq): row.hash for write in self._added for row in write.rows}
        hashes = self._db.execute(
            "SELECT seq, hash FROM events WHERE task_id = ? AND seq BETWEEN ? AND ?",
            (first.task_id, first.seq, last.seq),
        )
        stored.update({(first.task_id, seq): text for seq, text in hashes})
        return all(stored.get((row.task_id, row.seq)) == row.hash for row in rows)

    def store(self) -> None:
        if not self._added:
            return
        rows = [row for write in self._added for row in write.rows]
        data = b"".join([row.data for row in rows])
        self._db.execute(_ADD_EVENTS, (_json(list(_described(rows))), data))
        made, moved = list[tuple[object, ...]](), dict[str, tuple[object, ...]]()
        touched = False
        for write in self._added:
            if isinstance(write, Create):
                made.append(_described_task(write.summary, write.idempotency_key))
                touched = touched or _is_touched(write.summary)
            else:
                moved[write.task_id] = _standing(write.summary)  # the last of a task stands
        if made:
            if not touched:
                made = [columns[:_OF_NEW] for columns in made]
            self._db.execute(_ADD_TASKS if touched else _ADD_NEW_TASKS, (_json(made),))
            labelled = [
                (key, value, write.task_id)
                for write in self._added
                if isinstance(write, Create) and write.summary.labels
                for key, value in write.summary.labels.items()
            ]
            if labelled:
                self._db.execute(_ADD_LABELS, (_json(labelled),))
            held = [
                (write.holder, write.task_id)
                for write in self._added
                if isinstance(write, Create) and write.holder
            ]
            if held:
                self._db.executemany("UPDATE tasks SET owner = ? WHERE task_id = ?", held)
        if moved:
            self._db.execute(_PROJECT, (_json(list(moved.values())),))
        for write in self._added:
            if write.relabel:
                _relabel(self._db, write.summary)
        snapshots = {
            write.task_id: (write.task_id, write.rows[-1].seq, s.version, s.data)
            for write in self._added
            if (s := write.snapshot) is not None
        }
        if snapshots:
            self._db.executemany(_KEEP_SNAPSHOT, snapshots.values())
        for write in self._added:
            for blob_id, content in write.blobs.items():
                keep_blob(self._db, blob_id, content)
                self._db.execute(
                    "INSERT OR IGNORE INTO task_blobs VALUES (?, ?)", (write.task_id, blob_id)
                )


def _relabel(db: apsw.Connection, summary: TaskSummary) -> None:
    """Seldom, so that the statement of every append need not name these columns."""
    task_id, labels = summary.task_id, _json(summary.labels)
    db.execute(_FORGET_LABELS, (task_id,))
    db.execute(
        "UPDATE tasks SET labels = ?, priority = ? WHERE task_id = ?",
        (labels, summary.priority, task_id),
    )
    db.execute(_ADD_LABELS, (_json([(k, v, task_id) for k, v in summary.labels.items()]),))


def _described(rows: Sequence[Row]) -> Iterator[tuple[object, ...]]:
    start = 1  # SQL counts bytes from 1
    for row in rows:
        data_bytes = len(row.data)
        yield (
            *(row.task_id, row.seq, row.type, row.schema, row.at_us),
            *(start, data_bytes, row.prev_hash, row.hash),
        )
        start += data_bytes


_OF_NEW = 10
"""So many columns differ between tasks that nobody has touched."""


def _described_task(summary: TaskSummary, key: str | None) -> tuple[object, ...]:
    return (
        *(summary.task_id, summary.goal, summary.seq, summary.head_hash, summary.created_at_us),
        *(summary.labels, summary.priority, summary.repo, key, summary.submitted_by),
        *(summary.status, summary.phase, summary.reason, summary.updated_at_us),
        *(summary.wake_at_us, summary.tokens, summary.microusd),
    )


def _is_touched(summary: TaskSummary) -> bool:
    return (
        summary.status != Status.PENDING
        or summary.phase != Phase.IDLE
        or summary.reason != ""
        or summary.updated_at_us != summary.created_at_us
        or summary.wake_at_us + summary.tokens + summary.microusd != 0
    )


def _standing(summary: TaskSummary) -> tuple[object, ...]:
    return (
        *(summary.task_id, summary.status, summary.phase, summary.reason, summary.seq),
        *(summary.head_hash, summary.updated_at_us),
        *(summary.wake_at_us, summary.tokens, summary.microusd),
    )


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _no_task(task_id: str) -> NotFound:
    return NotFound(f"there is no task {task_id!r} in this store")


# ---- leases ------------------------------------------------------------------------------


def _free_task(db: apsw.Connection, owners: Owners, task_id: TaskId) -> int:
    """The epoch of a task that nobody alive drives, or that was made to be driven by this store."""
    found = db.execute("SELECT epoch, owner FROM tasks WHERE task_id = ?", (task_id,)).fetchone()
    if found is None:
        raise _no_task(task_id)
    epoch, owner = found
    is_kept = owner == owners.owner_id and epoch == 0  # held since it was made
    if owner and not is_kept and owners.is_alive(owner):
        raise LeaseHeld(
            f"task {task_id!r} is driven by {owners.describe(owner)}: wait, or stop that process"
        )
    assert isinstance(epoch, int)
    return epoch


class Claim(Write[Lease]):
    """Take a lease that nobody alive has."""

    def __init__(self, task_id: TaskId, owners: Owners) -> None:
        super().__init__()
        self._task_id, self._owners = task_id, owners

    def run(self, db: apsw.Connection) -> Lease:
        epoch = _free_task(db, self._owners, self._task_id) + 1
        db.execute(
            "UPDATE tasks SET epoch = ?, owner = ? WHERE task_id = ?",
            (epoch, self._owners.owner_id, self._task_id),
        )
        return Lease(self._task_id, Epoch(epoch), self._owners.name)


class Release(Write[None]):
    """Give a lease back, if it is still the newest."""

    def __init__(self, lease: Lease, owners: Owners) -> None:
        super().__init__()
        self._lease, self._owners = lease, owners

    def run(self, db: apsw.Connection) -> None:
        db.execute(
            "UPDATE tasks SET owner = '' WHERE task_id = ? AND epoch = ? AND owner = ?",
            (self._lease.task_id, self._lease.epoch, self._owners.owner_id),
        )


class Unclaim(Write[None]):
    """Undo a claim whose caller has gone: nobody else would release that lease."""

    def __init__(self, claim: Claim, owners: Owners) -> None:
        super().__init__()
        self._claim, self._owners = claim, owners

    def run(self, db: apsw.Connection) -> None:
        if self._claim.succeeded:
            Release(self._claim.answer(), self._owners).run(db)


# ---- blobs, snapshots, retention ---------------------------------------------------------


def keep_blob(db: apsw.Connection, blob_id: BlobId, data: bytes) -> None:
    view = memoryview(data)
    for part, start in enumerate(range(0, max(len(data), 1), BLOB_PART_BYTES)):
        db.execute(
            "INSERT OR IGNORE INTO blobs (blob_id, part, data) VALUES (?, ?, ?)",
            (blob_id, part, view[start : start + BLOB_PART_BYTES]),
        )
        if not db.changes():
            return  # it is there, and all of it: parts come and go in one transaction


class PutBlob(Write[BlobId]):
    """Keep content that no task names yet."""

    def __init__(self, blob_id: BlobId, data: bytes) -> None:
        super().__init__()
        self._blob_id, self._data = blob_id, data
        self.data_bytes = len(data)

    def run(self, db: apsw.Connection) -> BlobId:
        keep_blob(db, self._blob_id, self._data)
        return self._blob_id


class Probe(Write[None]):
    """Change the file and change it back: a full or read-only disk shows itself."""

    def run(self, db: apsw.Connection) -> None:
        db.execute("INSERT INTO probes VALUES (1)")
        db.execute("DELETE FROM probes")


class Delete(Write[None]):
    """Forget a task that nobody alive drives, and what only it names."""

    def __init__(self, task_id: TaskId, owners: Owners, expected: Seq | None) -> None:
        super().__init__()
        self._task_id, self._owners, self._expected = task_id, owners, expected

    def run(self, db: apsw.Connection) -> None:
        _free_task(db, self._owners, self._task_id)
        seq = db.execute("SELECT seq FROM tasks WHERE task_id = ?", (self._task_id,)).get
        if self._expected is not None and seq != self._expected:
            raise Conflict(f"task {self._task_id!r} has moved on to event {seq}")
        if (day := day_of(self._task_id)) is not None:
            db.execute(_REMEMBER, (self._task_id, day))
        for statement in _DELETE:
            db.execute(statement, (self._task_id,))


class GiveBack(Write[int]):
    """Return free pages at the end of the file to the disk; answers with their bytes."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__()
        self._bytes_max = bytes_max

    def run(self, db: apsw.Connection) -> int:
        page_bytes, free = int(db.pragma("page_size")), int(db.pragma("freelist_count"))
        wanted = min(free, self._bytes_max // page_bytes)
        if not wanted or db.pragma("auto_vacuum") != 2:
            return 0
        # Each page is a row of its own: only a statement that is read to its end moves them all.
        db.execute(f"PRAGMA incremental_vacuum({wanted})").fetchall()
        return (free - int(db.pragma("freelist_count"))) * page_bytes


_REMEMBER = """
INSERT INTO spending SELECT submitted_by, ?2, 1, 0, 0 FROM tasks WHERE task_id = ?1
ON CONFLICT DO UPDATE SET tasks = tasks + 1
"""
"""A task that is forgotten on its own day was submitted all the same."""

_DELETE = (
    """
    DELETE FROM blobs WHERE blob_id IN (
        SELECT mine.blob_id FROM task_blobs AS mine WHERE mine.task_id = ?1 AND NOT EXISTS (
            SELECT 1 FROM task_blobs AS other
            WHERE other.blob_id = mine.blob_id AND other.task_id <> mine.task_id))
    """,
    "DELETE FROM task_blobs WHERE task_id = ?1",
    "DELETE FROM snapshots WHERE task_id = ?1",
    "DELETE FROM events WHERE task_id = ?1",
    "DELETE FROM tasks WHERE task_id = ?1",
)
