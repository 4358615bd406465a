"""Writes that add events: what they check, and how many of them become few statements.

A batch is written twice at most. First it is *believed*: each write says itself where its task
stands, and the statements touch only what does stand there. A batch of which anything turns out to
be otherwise (a repeated write, a lost lease, a log that has moved on) is rolled back as a whole and
run again, and then the tasks are *looked up* first and each write gets the answer that it deserves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

import apsw
import msgspec
from msgspec.structs import astuple

from agent_runtime.errors import Conflict, LeaseLost, NotFound
from agent_runtime.ports.store import NewTask
from agent_runtime.stores.sqlite_rows import run_rows
from agent_runtime.stores.sqlite_writes import Write, keep_blob, no_task
from agent_runtime.types import BlobId, Epoch, Row, Seq, Snapshot, TaskId, TaskSummary

T = TypeVar("T")


class MustLookUp(Exception):
    """A batch was believed that must not be: roll back, and run it again with `look_up`."""


def run_all(db: apsw.Connection, writes: Sequence[Write[Any]], *, look_up: bool) -> None:
    """Run `writes` in order, inside a transaction. An `apsw.Error` spoils all of it.

    Raises:
        MustLookUp: likewise; never with `look_up`.
    """
    neighbours: list[_Joining[Any]] = []
    for write in writes:
        if isinstance(write, LogWrite) or (isinstance(write, CreateAll) and not look_up):
            neighbours.append(write)
            continue
        if neighbours:
            _run_together(db, neighbours, look_up)
            neighbours = []
        try:
            write.succeed(write.run(db))
        except (Conflict, NotFound) as refusal:
            write.fail(refusal)
    if neighbours:
        _run_together(db, neighbours, look_up)


def _run_together(db: apsw.Connection, writes: Sequence[_Joining[Any]], look_up: bool) -> None:
    batch = _Batch(db)
    if look_up:
        batch.look_up(cast(Sequence[LogWrite[Any]], writes))
    for write in writes:
        try:
            write.succeed(write.join(batch))
        except (Conflict, NotFound) as refusal:
            if not look_up:
                raise MustLookUp from refusal
            write.fail(refusal)
    batch.store()


class _Joining(Write[T]):
    """A write that goes in together with its neighbours."""

    def join(self, batch: _Batch) -> T:
        """Check, add to the batch, and say what the answer is once that is stored."""
        raise NotImplementedError


class LogWrite(_Joining[T]):
    """A write that adds events to one task."""

    def __init__(
        self, rows: Sequence[Row], summary: TaskSummary, blobs: Mapping[BlobId, bytes]
    ) -> None:
        super().__init__()
        self.task_id = summary.task_id
        self.rows = rows
        self.summary = summary
        self.blobs = blobs
        self.idempotency_key: str | None = None
        self.snapshot: Snapshot | None = None
        self.relabel = False
        self.data_bytes = sum(len(row.data) for row in rows)
        if blobs:
            self.data_bytes += sum(len(data) for data in blobs.values())


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

    def join(self, batch: _Batch) -> TaskId:
        if self.idempotency_key is not None and self.idempotency_key in batch.keys:
            return TaskId(batch.keys[self.idempotency_key])
        if self.task_id in batch.heads:
            if not batch.holds(self.rows):
                raise Conflict(f"task {self.task_id!r} exists already, with other events")
        else:
            batch.make(self)
        return TaskId(self.task_id)


class CreateAll(_Joining[list[TaskId]]):
    """Several new tasks, all or none."""

    def __init__(self, tasks: Sequence[NewTask]) -> None:
        super().__init__()
        self._creates = [Create(new.rows, new.summary, {}, new.idempotency_key) for new in tasks]
        self.data_bytes = sum(create.data_bytes for create in self._creates)

    def join(self, batch: _Batch) -> list[TaskId]:
        return [create.join(batch) for create in self._creates]

    def run(self, db: apsw.Connection) -> list[TaskId]:
        """Alone: the tasks that come before the one that is refused must not go in."""
        batch = _Batch(db)
        batch.look_up(self._creates)
        ids = self.join(batch)
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

    def join(self, batch: _Batch) -> Seq:
        seq, epoch = batch.head(self)
        # Fencing comes before repetition: who lost the lease must stop, whatever was stored.
        if self.epoch is not None and self.epoch != epoch:
            raise LeaseLost(
                f"epoch {self.epoch} of task {self.task_id!r} is over: {epoch} drives it now"
            )
        if self.expected == seq:
            batch.move(self, seq, epoch)
        elif not batch.holds(self.rows):
            raise Conflict(
                f"task {self.task_id!r} stands at event {seq}, not {self.expected}:"
                " load, fold and decide again"
            )
        return Seq(self.rows[-1].seq)


# ---- a batch -----------------------------------------------------------------------------

_HEADS = """
SELECT json_group_array(json_array(task_id, seq, epoch, idempotency_key)) FROM tasks
WHERE task_id IN (SELECT value FROM json_each(?1))
   OR (idempotency_key IS NOT NULL AND idempotency_key IN (SELECT value FROM json_each(?2)))
"""
"""One row, however many tasks: each row that is fetched releases the interpreter lock once."""

# OR ROLLBACK: whatever fails here takes the transaction with it, so SQLite need not keep copies of
# the pages that a statement changes, to undo it alone.

_ADD_TASKS = """
INSERT OR ROLLBACK INTO tasks (task_id, status, phase, reason, goal, seq, head_hash, created_at_us,
    updated_at_us, priority, repo, submitted_by, wake_at_us, tokens, microusd, labels,
    idempotency_key, owner)
SELECT * FROM ({rows}) WHERE column1 IS NOT NULL
"""

_ADD_EVENTS = """
INSERT OR ROLLBACK INTO events (task_id, seq, type, schema, at_us, data, prev_hash, hash)
SELECT * FROM ({rows}) WHERE column1 IS NOT NULL
"""

_ADD_LABELS = """
INSERT OR ROLLBACK INTO task_labels (key, value, task_id)
SELECT * FROM ({rows}) WHERE column1 IS NOT NULL
"""

_FORGET_LABELS = """
DELETE FROM task_labels WHERE task_id = ?1 AND (key, value) IN (
    SELECT l.key, l.value FROM tasks, json_each(tasks.labels) AS l WHERE tasks.task_id = ?1)
"""

_PROJECT = """
UPDATE OR ROLLBACK tasks SET status = to_.column4, phase = to_.column5, reason = to_.column6,
    seq = to_.column7, head_hash = to_.column8, updated_at_us = to_.column9,
    wake_at_us = to_.column10, tokens = to_.column11, microusd = to_.column12
FROM ({rows}) AS to_
WHERE task_id = to_.column1 AND seq = to_.column2 AND epoch = ifnull(to_.column3, epoch)
"""
"""What a task is made with is left alone: each column named here costs, and so do its indexes.
Labels and priority are changed by `_relabel`."""

_KEEP_SNAPSHOT = (
    "INSERT OR REPLACE INTO snapshots (task_id, seq, version, data) VALUES (?, ?, ?, ?)"
)


class _Batch:
    """Neighbouring log writes: what they need to know, and what they add."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db
        self._looked_up = False
        self.heads: dict[str, tuple[int, int | None]] = {}
        """Last number and epoch of each task, with what this batch adds. Epoch None: not known."""
        self.keys: dict[str, str] = {}
        """Task of each idempotency key."""
        self._added: list[LogWrite[Any]] = []
        self._made: list[Create] = []
        self._moved: dict[str, tuple[int, int | None, TaskSummary]] = {}
        """Of each task that was there: where it stood before, its epoch, and how it stands then."""

    def look_up(self, writes: Sequence[LogWrite[Any]]) -> None:
        """From here on it is known what is stored, of the tasks and the keys of `writes`."""
        self._looked_up = True
        task_ids = {write.task_id for write in writes}
        keys = {write.idempotency_key for write in writes if write.idempotency_key is not None}
        found = self._db.execute(_HEADS, (_json(list(task_ids)), _json(list(keys)))).fetchone()
        assert found is not None
        for task_id, seq, epoch, key in msgspec.json.decode(cast(str, found[0])):
            self.heads[task_id] = (seq, epoch)
            if key is not None:
                self.keys[key] = task_id

    def head(self, write: Append) -> tuple[int, int | None]:
        """Where its task stands; believed, unless it was looked up or is in this batch."""
        head = self.heads.get(write.task_id)
        if head is None:
            if self._looked_up:
                raise no_task(write.task_id)
            return write.expected, write.epoch
        return head

    def make(self, write: Create) -> None:
        self._added.append(write)
        self._made.append(write)
        self.heads[write.task_id] = (write.rows[-1].seq, 0)
        if write.idempotency_key is not None:
            self.keys[write.idempotency_key] = write.task_id

    def move(self, write: Append, seq: int, epoch: int | None) -> None:
        self._added.append(write)
        self.heads[write.task_id] = (write.summary.seq, epoch)
        before = self._moved.get(write.task_id)
        if before is not None:
            seq, epoch, _ = before
        self._moved[write.task_id] = (seq, epoch, write.summary)

    def holds(self, rows: Sequence[Row]) -> bool:
        """Whether these very rows are stored already: a write is being repeated."""
        if not self._looked_up:
            raise MustLookUp
        first, last = rows[0], rows[-1]
        stored = {(row.task_id, row.seq): row.hash for write in self._added for row in write.rows}
        hashes = self._db.execute(
            "SELECT seq, hash FROM events WHERE task_id = ? AND seq BETWEEN ? AND ?",
            (first.task_id, first.seq, last.seq),
        )
        stored.update({(first.task_id, seq): text for seq, text in hashes})
        return all(stored.get((row.task_id, row.seq)) == row.hash for row in rows)

    def store(self) -> None:
        try:
            self._store_rows()
        except apsw.ConstraintError as error:
            if self._looked_up:
                raise
            raise MustLookUp from error
        for write in self._added:
            if write.relabel:
                _relabel(self._db, write.summary)
        snapshots = {
            write.task_id: (write.task_id, write.summary.seq, s.version, s.data)
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

    def _store_rows(self) -> None:
        if self._made:
            tasks, labels = list[object](), list[object]()
            for made in self._made:
                tasks += _described(made)
                labels += _labels(made.summary)
            run_rows(self._db, _ADD_TASKS, 18, tasks)
            run_rows(self._db, _ADD_LABELS, 3, labels)
        if self._moved:
            moves = list[object]()
            for seq, epoch, summary in self._moved.values():
                moves += _standing(seq, epoch, summary)
            if run_rows(self._db, _PROJECT, 12, moves) != len(self._moved):
                assert not self._looked_up, "a task that was looked up stands elsewhere"
                raise MustLookUp
        events = list[object]()
        for write in self._added:
            for row in write.rows:
                events += astuple(row)
        run_rows(self._db, _ADD_EVENTS, 8, events)


def _relabel(db: apsw.Connection, summary: TaskSummary) -> None:
    """Seldom, so that the statement of every append need not name these columns."""
    task_id, labels = summary.task_id, _json(summary.labels)
    db.execute(_FORGET_LABELS, (task_id,))
    db.execute(
        "UPDATE tasks SET labels = ?, priority = ? WHERE task_id = ?",
        (labels, summary.priority, task_id),
    )
    run_rows(db, _ADD_LABELS, 3, _labels(summary))


def _described(write: Create) -> tuple[object, ...]:
    s = write.summary
    return (
        *(s.task_id, s.status, s.phase, s.reason, s.goal, s.seq, s.head_hash, s.created_at_us),
        *(s.updated_at_us, s.priority, s.repo, s.submitted_by, s.wake_at_us, s.tokens, s.microusd),
        *(_json(s.labels), write.idempotency_key, write.holder),
    )


def _labels(summary: TaskSummary) -> list[str]:
    found: list[str] = []
    for key, value in summary.labels.items():
        found += (key, value, summary.task_id)
    return found


def _standing(seq: int, epoch: int | None, s: TaskSummary) -> tuple[object, ...]:
    return (
        *(s.task_id, seq, epoch, s.status, s.phase, s.reason, s.seq, s.head_hash),
        *(s.updated_at_us, s.wake_at_us, s.tokens, s.microusd),
    )


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
