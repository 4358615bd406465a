"""What each write does inside the transaction, and what it answers; those of the log are next door.

A write first checks and only then changes anything, so a refusal leaves nothing behind and its
neighbours in the transaction are untouched. It may be run again, in another transaction.
"""

from __future__ import annotations

import asyncio  # noqa: TID251  # this store runs on asyncio alone, see `Write.waiting`
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import apsw

from agent_runtime.errors import Conflict, LeaseHeld, NotFound
from agent_runtime.stores.limits import day_of
from agent_runtime.stores.owners import Owners
from agent_runtime.types import BlobId, Epoch, Lease, Seq, TaskId

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


class Do(Write[T]):
    """A write that is a function."""

    def __init__(self, do: Callable[[apsw.Connection], T], data_bytes: int = 0) -> None:
        super().__init__()
        self._do = do
        self.data_bytes = data_bytes

    def run(self, db: apsw.Connection) -> T:
        return self._do(db)


def no_task(task_id: str) -> NotFound:
    return NotFound(f"there is no task {task_id!r} in this store")


# ---- leases ------------------------------------------------------------------------------


def _free_task(db: apsw.Connection, owners: Owners, task_id: TaskId) -> int:
    """The epoch of a task that nobody alive drives, or that was made to be driven by this store."""
    found = db.execute("SELECT epoch, owner FROM tasks WHERE task_id = ?", (task_id,)).fetchone()
    if found is None:
        raise no_task(task_id)
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
