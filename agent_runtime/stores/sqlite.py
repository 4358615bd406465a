"""The store on disk: one SQLite file, several processes, and every answer durable.

Writing is queued for one thread (`sqlite_writer`); reading is here. Small reads run on the event
loop, where they take microseconds; large ones, and those that meet a lock, go to a thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.lowlevel
import apsw
import msgspec
from anyio import to_thread

from agent_runtime.errors import CorruptLog, NotFound, StoreUnavailable
from agent_runtime.ports.store import NewTask
from agent_runtime.stores import sqlite_queries as queries
from agent_runtime.stores.changes import Changes
from agent_runtime.stores.limits import check_blobs, check_rows, digest, fits, identify
from agent_runtime.stores.owners import Owners
from agent_runtime.stores.sqlite_database import open_reader, open_writer, prepare, translated
from agent_runtime.stores.sqlite_leases import ClaimAll, UnclaimAll
from agent_runtime.stores.sqlite_log import Append, Create, CreateAll
from agent_runtime.stores.sqlite_writer import Writer
from agent_runtime.stores.sqlite_writes import (
    Claim,
    Delete,
    GiveBack,
    Probe,
    PutBlob,
    Release,
    Unclaim,
    Write,
)
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

T = TypeVar("T")

BUSY_SECONDS = 5.0
"""How long a write waits for another process's transaction, which takes milliseconds."""

POLL_SECONDS = 0.01
"""How often `wait_changed` looks for other processes' writes while there are some; see `Changes`.
A look takes 2 us."""

PAGE_INLINE_MAX = 100
"""So many tasks are read on the event loop, in half a millisecond."""

INLINE_BYTES_MAX = 256 << 10
"""What may be read or hashed on the event loop: well below a millisecond."""

_HEADS = """SELECT json_group_object(task_id, seq) FROM tasks
    WHERE task_id IN (SELECT value FROM json_each(?))"""
"""One row, however many tasks: each one that is fetched releases the interpreter lock."""


class SqliteStore:
    """Implements `ports.Store`. Make one with `open`, on the event loop that uses it (asyncio)."""

    def __init__(
        self,
        path: Path,
        owners: Owners,
        writer_db: apsw.Connection,
        near_db: apsw.Connection,
        far_db: apsw.Connection,
    ) -> None:
        self._path = path
        self._owners = owners
        self._near_db = near_db
        """Read on the event loop; never waits for a lock."""
        self._far_db = far_db
        """Read in threads, one at a time."""
        self._far_lock = anyio.Lock()
        self._version = near_db.pragma("data_version")
        self._changes = Changes(self._has_changed, POLL_SECONDS)
        self._writer = Writer(writer_db, path, self._changes.announce)
        self._closed = False

    @classmethod
    async def open(
        cls,
        path: str | os.PathLike[str],
        *,
        busy_seconds: float = BUSY_SECONDS,
        file_bytes_max: int | None = None,
    ) -> SqliteStore:
        """Open the store at `path`; make it if it is missing, bring its schema up to date.

        At `file_bytes_max` writes are answered as on a full disk.

        Raises:
            ConfigError: it cannot be opened there, or file locks do not work there.
            StoreBroken: no store, damaged, or written by a newer version.
            StoreUnavailable: another process holds the file for longer than `busy_seconds`.
        """
        real_path = Path(os.path.realpath(path))
        parts = await to_thread.run_sync(_open, real_path, busy_seconds, file_bytes_max)
        return cls(real_path, *parts)

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
        check_rows(TaskId(summary.task_id), Seq(0), rows, summary)
        if blobs:
            await _check_blobs(blobs)
        holder = self._owners.owner_id if held else ""
        return await self._write(Create(rows, summary, blobs, idempotency_key, holder))

    async def create_all(self, tasks: Sequence[NewTask]) -> list[TaskId]:
        for new in tasks:
            check_rows(TaskId(new.summary.task_id), Seq(0), new.rows, new.summary)
        return await self._write(CreateAll(tasks)) if tasks else []

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
        if blobs:
            await _check_blobs(blobs)
        kept = snapshot if fits(snapshot) else None
        return await self._write(
            Append(expected, rows, summary, blobs, epoch, kept, relabel=relabel)
        )

    async def made_by(self, idempotency_key: str) -> TaskId | None:
        found = "SELECT task_id FROM tasks WHERE idempotency_key = ?"
        return await self._read(lambda db: db.execute(found, (idempotency_key,)).get)

    async def load(self, task_id: TaskId, after: int = 0, limit: int | None = None) -> list[Row]:
        most = -1 if limit is None else limit  # -1: SQLite knows no bound then
        rows, is_all = await self._read(
            lambda db: _rows(db, task_id, after, most, INLINE_BYTES_MAX)
        )
        if not is_all:
            last, left = rows[-1].seq, most if limit is None else limit - len(rows)
            more, _ = await self._read(lambda db: _rows(db, task_id, last, left, None), far=True)
            rows += more
        return rows

    async def tail(self, after: int, limit: int = 1000) -> list[tuple[int, Row]]:
        return await self._read(lambda db: _tail(db, after, limit))

    async def position(self) -> int:
        newest = "SELECT seq FROM sqlite_sequence WHERE name = 'events'"
        return await self._read(lambda db: db.execute(newest).get or 0)

    # ---- the projection ------------------------------------------------------------------

    async def summary(self, task_id: TaskId) -> TaskSummary:
        found = await self._read(lambda db: queries.summary(db, task_id))
        if found is None:
            raise _no_task(task_id)
        return found

    async def tasks(
        self,
        *,
        statuses: Sequence[str] = (),
        labels: Mapping[str, str] = {},
        submitted_by: str | None = None,
        before: TaskId | None = None,
        limit: int = 100,
    ) -> list[TaskSummary]:
        def query(db: apsw.Connection) -> list[TaskSummary]:
            return queries.listed(
                db,
                statuses=statuses,
                labels=labels,
                submitted_by=submitted_by,
                before=before,
                limit=limit,
            )

        # Two filters may have to look at many tasks for a few, and a large page takes its time.
        several = len(labels) + bool(statuses) + (submitted_by is not None) > 1
        return await self._read(query, far=several or limit > PAGE_INLINE_MAX)

    async def counts(self) -> dict[str, int]:
        return await self._read(queries.counts, far=True)

    async def waiting(self, task_ids: Sequence[TaskId]) -> dict[TaskId, int]:
        return await self._read(lambda db: queries.waiting(db, task_ids))

    async def spent(self, submitted_by: str, day: int) -> Spent:
        return await self._read(lambda db: queries.spent(db, submitted_by, day), far=True)

    async def heads(self, task_ids: Sequence[TaskId]) -> dict[TaskId, int]:
        found = await self._read(
            lambda db: db.execute(_HEADS, (msgspec.json.encode(task_ids).decode(),)).get
        )
        return msgspec.json.decode(found, type=dict[TaskId, int])

    async def probe(self) -> None:
        await self._write(Probe())

    # ---- leases --------------------------------------------------------------------------

    async def claim(self, task_id: TaskId) -> Lease:
        claim = Claim(task_id, self._owners)
        try:
            return await self._write(claim)
        except anyio.get_cancelled_exc_class():
            if not self._closed:
                self._writer.put(Unclaim(claim, self._owners))
            raise

    async def claim_all(self, task_ids: Sequence[TaskId]) -> list[Lease]:
        claims = ClaimAll(task_ids, self._owners)
        try:
            return await self._write(claims)
        except anyio.get_cancelled_exc_class():
            if not self._closed:
                self._writer.put(UnclaimAll(claims, self._owners))
            raise

    async def release(self, lease: Lease) -> None:
        await self._write(Release(lease, self._owners))

    async def owner(self, task_id: TaskId) -> str | None:
        found = await self._read(
            lambda db: db.execute("SELECT owner FROM tasks WHERE task_id = ?", (task_id,)).get
        )
        if found is None:
            raise _no_task(task_id)
        if not found or not self._owners.is_alive(found):
            return None
        return self._owners.describe(found)

    async def ready(
        self, *, now_us: int, of_each: int = 100, limit: int = 1000, without: Sequence[TaskId] = ()
    ) -> list[Ready]:
        def query(db: apsw.Connection) -> list[Ready]:
            return queries.ready(
                db, self._owners, now_us=now_us, of_each=of_each, limit=limit, without=without
            )

        return await self._read(query)

    # ---- blobs, snapshots, retention -----------------------------------------------------

    async def put_blob(self, data: bytes) -> BlobId:
        far = len(data) > INLINE_BYTES_MAX
        blob_id = await to_thread.run_sync(identify, data) if far else identify(data)
        return await self._write(PutBlob(blob_id, data))

    async def get_blob(self, blob_id: BlobId) -> bytes:
        data_bytes = await self._read(
            lambda db: (
                db.execute("SELECT sum(length(data)) FROM blobs WHERE blob_id = ?", (blob_id,)).get
            )
        )
        if data_bytes is None:
            raise NotFound(f"there is no blob {blob_id!r} in this store")
        far = data_bytes > INLINE_BYTES_MAX
        return await self._read(lambda db: _blob(db, blob_id), far=far)

    async def load_snapshot(self, task_id: TaskId, version: int) -> tuple[Seq, bytes] | None:
        found = await self._read(
            lambda db: db.execute(
                "SELECT seq, data FROM snapshots WHERE task_id = ? AND version = ?",
                (task_id, version),
            ).fetchone()
        )
        return found  # columns are STRICT: INTEGER and BLOB

    async def delete(self, task_id: TaskId, *, expected: Seq | None = None) -> None:
        await self._write(Delete(task_id, self._owners, expected))

    async def ended(
        self, before_us: int, *, after: TaskSummary | None = None, limit: int = 100
    ) -> list[TaskSummary]:
        return await self._read(lambda db: queries.ended(db, before_us, after, limit))

    async def kept_bytes(self) -> int:
        def used(db: apsw.Connection) -> int:
            pages = db.pragma("page_count") - db.pragma("freelist_count")
            return int(pages * db.pragma("page_size"))

        return await self._read(used)

    async def give_back(self, bytes_max: int) -> int:
        return await self._write(GiveBack(bytes_max))

    def backlog(self) -> Backlog:
        return self._writer.backlog

    # ---- life ----------------------------------------------------------------------------

    async def wait_changed(self, seconds_max: float) -> None:
        self._require_open()
        await self._changes.wait(seconds_max)

    async def close(self) -> None:
        """Safe to call twice; a cancelled caller still closes."""
        if self._closed:
            return
        self._closed = True
        self._writer.finish()
        with anyio.CancelScope(shield=True):  # bounded by CLOSE_SECONDS_MAX of the writer
            await to_thread.run_sync(self._writer.join)
            async with self._far_lock:
                self._far_db.close()
            self._near_db.close()
            # The last connection to close moves the log into the file: it must be the writer.
            await to_thread.run_sync(self._writer.close_file)
            self._owners.close()

    # ---- for the other tables of this file -----------------------------------------------

    @property
    def owners(self) -> Owners:
        """Who is alive, this store among them."""
        return self._owners

    async def write(self, write: Write[T]) -> T:
        """Have `write` done by the one writer; its answer is durable. Errors as of the port."""
        return await self._write(write)

    async def read(self, query: Callable[[apsw.Connection], T], *, far: bool = False) -> T:
        """What `query` finds; in a thread if `far`, or if it meets a lock."""
        return await self._read(query, far=far)

    def peek(self, query: Callable[[apsw.Connection], T]) -> T:
        """What a query of microseconds finds, at once. `StoreUnavailable` where it met a lock."""
        self._require_open()
        with translated(self._path):
            return query(self._near_db)

    def version(self) -> int:
        """Another number after each commit to the file, whoever made it. Takes 2 us."""
        return int(self.peek(_data_version))

    # ---- doing it ------------------------------------------------------------------------

    def _require_open(self) -> None:
        if self._closed:
            raise StoreUnavailable(f"the store {str(self._path)!r} is closed: open it again")

    async def _write(self, write: Write[T]) -> T:
        await anyio.lowlevel.checkpoint_if_cancelled()
        self._require_open()
        # A caller that is cancelled from here on just leaves: the write may still happen.
        answered = write.waiting()
        self._writer.put(write)
        await answered
        return write.answer()

    async def _read(self, query: Callable[[apsw.Connection], T], *, far: bool = False) -> T:
        await anyio.lowlevel.checkpoint_if_cancelled()
        self._require_open()
        with translated(self._path):
            if not far:
                try:
                    return query(self._near_db)
                except apsw.BusyError:
                    pass  # rare in WAL mode (another process recovers the log): wait elsewhere
            async with self._far_lock:
                self._require_open()
                return await to_thread.run_sync(query, self._far_db)

    def _has_changed(self) -> bool:
        try:
            version = self._near_db.pragma("data_version")
        except apsw.Error:
            return True  # it may have; who looks is told what is wrong
        before, self._version = self._version, version
        return bool(before != version)


def _open(
    path: Path, busy_seconds: float, file_bytes_max: int | None
) -> tuple[Owners, apsw.Connection, apsw.Connection, apsw.Connection]:
    with ExitStack() as undo:
        prepare(path)
        owners = Owners(path.parent / "owners")
        undo.callback(owners.close)
        writer_db = open_writer(path, busy_seconds=busy_seconds, file_bytes_max=file_bytes_max)
        undo.callback(writer_db.close)
        near_db = open_reader(path, busy_seconds=0)
        undo.callback(near_db.close)
        far_db = open_reader(path, busy_seconds=busy_seconds)
        undo.pop_all()
        return owners, writer_db, near_db, far_db


# ---- reading -----------------------------------------------------------------------------


def _rows(
    db: apsw.Connection, task_id: TaskId, after: int, limit: int, bytes_max: int | None
) -> tuple[list[Row], bool]:
    """At most `limit` rows after `after`, up to about `bytes_max`, and whether these are all."""
    rows: list[Row] = []
    rows_bytes = 0
    found = db.execute(
        """SELECT task_id, seq, type, schema, at_us, data, prev_hash, hash FROM events
        WHERE task_id = ? AND seq > ? ORDER BY seq LIMIT ?""",
        (task_id, after, limit),
    )
    for columns in found:
        row = Row(*columns)
        rows.append(row)
        rows_bytes += _ROW_BYTES + len(row.data)
        if bytes_max is not None and rows_bytes > bytes_max:
            found.close()  # an open statement would keep the write-ahead log from being reused
            return rows, False
    if not rows and db.execute("SELECT 1 FROM tasks WHERE task_id = ?", (task_id,)).get is None:
        raise _no_task(task_id)
    return rows, True


def _tail(db: apsw.Connection, after: int, limit: int) -> list[tuple[int, Row]]:
    """As `SqliteStore.tail`, and no more at once than may be read on the event loop."""
    found = db.execute(
        """SELECT position, task_id, seq, type, schema, at_us, data, prev_hash, hash FROM events
        WHERE position > ? ORDER BY position LIMIT ?""",
        (after, limit),
    )
    rows: list[tuple[int, Row]] = []
    rows_bytes = 0
    for position, *columns in found:
        row = Row(*columns)
        rows.append((position, row))
        rows_bytes += _ROW_BYTES + len(row.data)
        if rows_bytes > INLINE_BYTES_MAX:
            found.close()
            break
    return rows


_ROW_BYTES = 512
"""What a row costs besides its data, in the same coin."""


def _data_version(db: apsw.Connection) -> int:
    version: int = db.pragma("data_version")
    return version


def _blob(db: apsw.Connection, blob_id: BlobId) -> bytes:
    parts = db.execute("SELECT data FROM blobs WHERE blob_id = ? ORDER BY part", (blob_id,))
    data = b"".join([part for (part,) in parts])
    if digest(data) != blob_id:
        raise CorruptLog(f"blob {blob_id!r} is not what was stored", task_id="")
    return data


def _no_task(task_id: TaskId) -> NotFound:
    return NotFound(f"there is no task {task_id!r} in this store")


async def _check_blobs(blobs: Mapping[BlobId, bytes]) -> None:
    if sum(len(data) for data in blobs.values()) > INLINE_BYTES_MAX:
        await to_thread.run_sync(check_blobs, blobs)
    else:
        check_blobs(blobs)
