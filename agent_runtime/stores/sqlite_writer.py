"""The one thread that commits: it drains a queue and makes what it finds one durable transaction.

Each caller gets an answer of its own. What one write must not do to another is decided here: a
refusal (conflict, not found) concerns nobody else; a failure that may be one write's fault makes
each run again in a transaction of its own; a full or locked disk is everybody's; damage stays.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import anyio.lowlevel
import apsw

from agent_runtime.errors import AgentRuntimeError, StoreBroken
from agent_runtime.stores.sqlite_database import translate
from agent_runtime.stores.sqlite_log import MustLookUp, run_all
from agent_runtime.stores.sqlite_writes import Write
from agent_runtime.types import Backlog

BATCH_WRITES_MAX = 1000
"""Beyond this, a larger transaction saves nothing and the first caller waits for the last."""

BATCH_BYTES_MAX = 64 << 20
"""Likewise; and SQLite copies what is bound."""

HAND_OVER_WRITES = 64
"""So many are written while the loop's turn goes on. Else loop and thread wait for each other by
turns: a hundred busy tasks take a fifth longer for a step then, a thousand a third."""

GATHER_TURNS_MAX = 2
"""So many more turns of the loop may add to a batch, as long as each does; a write that came alone
goes at once. A commit costs as much as ten of the tasks in it. Of 64 connections that submit tasks
27 used to share one; since they wait for each other, the writer's processor time for a task is a
sixth less, the loop's a tenth, and they wait no longer in all. With 4 turns they do."""

LOOK_UP_BATCHES = 16
"""So many look up what is stored before they are believed again, see `sqlite_log`. Where one batch
was repeated writes, more will be: each of those would be run twice."""

CLOSE_SECONDS_MAX = 30.0
"""For what is queued and a checkpoint. What is not durable by then has not been answered either."""

SWITCH_SECONDS = 0.001
"""How long a busy event loop may keep this thread from going on. It asks for the interpreter lock
some five times a batch; with Python's 5 ms, a hundred busy tasks wait most of the time for that."""

AnyWrite = Write[Any]


class Writer:
    """Owns the connection that writes. `put` and `finish` are called on the event loop."""

    def __init__(self, db: apsw.Connection, path: Path, on_commit: Callable[[], None]) -> None:
        """`on_commit` runs on the event loop, once for each batch, before its callers wake."""
        self._db = db
        self._path = path
        self._on_commit = on_commit
        self.backlog = Backlog()
        """Changed on the event loop only."""
        # Not bounded: every write has a caller who waits for its answer. Whoever takes new work in
        # looks at the backlog first.
        self._queue: queue.SimpleQueue[list[AnyWrite] | None] = queue.SimpleQueue()
        self._gathered: list[AnyWrite] = []
        """Of this turn of the loop and some more. They go to the thread together: each hand-over
        wakes it, and both then fight for the interpreter. Of a long turn they go in parts."""
        self._is_gathering = False
        self._closed = False
        self._broken: str | None = None
        self._errno = 0
        self._look_ups = 0
        """How many batches are still looked up."""
        # One wake-up of the loop for a batch. `anyio.from_thread.run_sync` would keep this thread
        # waiting until the loop has run it, and for ever if the loop ends meanwhile.
        token = anyio.lowlevel.current_token()
        loop = cast(Any, getattr(token, "native_token", token))
        self._wake_loop: Callable[..., object] = loop.call_soon_threadsafe
        self._call_soon: Callable[..., object] = loop.call_soon
        # For the whole process: there is no other. Never longer than somebody has set it.
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_SECONDS))
        # A daemon: a store that nobody closed must not keep its process alive.
        self._thread = threading.Thread(target=self._run, name="sqlite-writer", daemon=True)
        self._thread.start()

    def put(self, write: AnyWrite) -> None:
        """Queue `write`; it is woken when the answer is there."""
        assert not self._closed
        self.backlog.writes += 1
        self.backlog.bytes += write.data_bytes
        if not self._is_gathering:
            self._is_gathering = True
            self._call_soon(self._gather, 1, 0)
        self._gathered.append(write)
        if len(self._gathered) >= HAND_OVER_WRITES:
            self._hand_over()

    def _gather(self, before: int, turn: int) -> None:
        """Hand over, unless more than `before` are there since the last turn of the loop."""
        count = len(self._gathered)
        if count > before and turn < GATHER_TURNS_MAX:
            self._call_soon(self._gather, count, turn + 1)
        else:
            self._is_gathering = False
            self._hand_over()

    def _hand_over(self) -> None:
        gathered, self._gathered = self._gathered, []
        if gathered:
            self._queue.put(gathered)

    def finish(self) -> None:
        """Take nothing more; what is queued is still written."""
        if not self._closed:
            self._closed = True
            self._hand_over()
            self._queue.put(None)

    def join(self) -> None:
        """Wait until everything is written and answered. Blocks: call it in a thread."""
        self._thread.join(CLOSE_SECONDS_MAX)

    def close_file(self) -> None:
        """Move the log into the file and close it. Blocks: call it in a thread, after `join`."""
        if self._thread.is_alive():
            return  # a hanging disk: the process is about to end, and the log holds everything
        try:
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except apsw.Error:
            pass  # the next one to open the store does it
        self._db.close()

    # ---- on the writer's thread ----------------------------------------------------------

    def _run(self) -> None:
        last = False
        while not last:
            writes, last = self._take()
            for batch in _batches(writes):
                self._commit(batch)
                self._answer(batch)

    def _take(self) -> tuple[list[AnyWrite], bool]:
        """All that waits, and whether it is the last."""
        writes: list[AnyWrite] = []
        found = self._queue.get()
        while found is not None:
            writes += found
            try:
                found = self._queue.get_nowait()
            except queue.Empty:
                return writes, False
        return writes, True

    def _commit(self, batch: Sequence[AnyWrite]) -> None:
        if self._broken is not None:
            for write in batch:
                write.fail(StoreBroken(self._broken))
            return
        try:
            self._transact(batch, look_up=self._look_ups > 0)
            self._look_ups = max(self._look_ups - 1, 0)
        except MustLookUp:
            self._look_ups = LOOK_UP_BATCHES
            self._roll_back()
            self._commit(batch)
        except Exception as error:  # noqa: BLE001  # the border of the thread: callers get it
            self._errno = self._db.system_errno
            self._roll_back()
            self._settle(batch, error)

    def _transact(self, batch: Sequence[AnyWrite], *, look_up: bool) -> None:
        # IMMEDIATE: what is checked inside stays true until the commit, whoever else writes.
        self._db.execute("BEGIN IMMEDIATE")
        run_all(self._db, batch, look_up=look_up)
        self._db.execute("COMMIT")

    def _settle(self, batch: Sequence[AnyWrite], error: Exception) -> None:
        if len(batch) > 1 and _may_be_one_writes_fault(error):
            for write in batch:
                self._commit([write])
            return
        for write in batch:
            write.fail(self._translate(error))
        if isinstance(error, (apsw.IOError, apsw.CorruptError, apsw.NotADBError)):
            # After a failed fsync nobody knows what is on the disk, and asking again would lie.
            told = self._translate(error)
            self._broken = str(told) if isinstance(told, StoreBroken) else None

    def _translate(self, error: Exception) -> Exception:
        if not isinstance(error, apsw.Error):
            return error
        told: AgentRuntimeError = translate(error, self._path, said=self._errno)
        told.__cause__ = error
        return told

    def _roll_back(self) -> None:
        try:
            # Some errors have rolled it back already.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except apsw.Error as error:
            self._broken = f"the store {str(self._path)!r} cannot roll back: {error}"

    def _answer(self, batch: Sequence[AnyWrite]) -> None:
        try:
            self._wake_loop(self._deliver, batch)
        except RuntimeError:
            pass  # the loop has ended, and every caller with it

    # ---- on the event loop ---------------------------------------------------------------

    def _deliver(self, batch: Sequence[AnyWrite]) -> None:
        self.backlog.writes -= len(batch)
        self.backlog.bytes -= sum(write.data_bytes for write in batch)
        self._on_commit()
        for write in batch:
            write.wake()


def _batches(writes: Sequence[AnyWrite]) -> Iterator[list[AnyWrite]]:
    """In their order, each as much as goes into one transaction."""
    batch: list[AnyWrite] = []
    batch_bytes = 0
    for write in writes:
        batch.append(write)
        batch_bytes += write.data_bytes
        if len(batch) >= BATCH_WRITES_MAX or batch_bytes >= BATCH_BYTES_MAX:
            yield batch
            batch, batch_bytes = [], 0
    if batch:
        yield batch


def _may_be_one_writes_fault(error: Exception) -> bool:
    return not isinstance(
        error,
        (
            apsw.BusyError,
            apsw.LockedError,
            apsw.FullError,
            apsw.IOError,
            apsw.CorruptError,
            apsw.NotADBError,
            apsw.ReadOnlyError,
        ),
    )
