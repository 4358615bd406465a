"""One task's log in its owner's hands: load and fold it, decide, commit, catch up with others.

`Journal` is the only place that appends the owner's events. A commit decides on the newest state:
when somebody else's fact came first, the tail is loaded and the outcome is decided anew, so a
fact is never lost and an announcement that no longer fits is dropped. `append_fact` is for
everybody else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import anyio
import msgspec

from agent_runtime.errors import Conflict, CorruptLog, LeaseLost, StoreUnavailable, UsageError
from agent_runtime.loop import codec
from agent_runtime.loop import events as e
from agent_runtime.loop.decide import advance
from agent_runtime.loop.evolve import evolve, fold
from agent_runtime.loop.outcomes import CallPrepared, Outcome, Woken
from agent_runtime.loop.state import FOLD_VERSION, State, status_of
from agent_runtime.ports import Bus, Clock, Store
from agent_runtime.types import BlobId, Epoch, Lease, Row, Seq, TaskId, TaskSummary

HeldUp = Callable[[str, bool], Awaitable[None]]
Follow = Callable[[State], CallPrepared | None]
"""The next call that is ready as soon as a state is reached."""

APPEND_TRIES = 6
"""One and five more, waiting 50 ms and twice as long each time: a full disk, a long lock."""
APPEND_DELAY_SECONDS = 0.05
SNAPSHOT_EVENTS = 500
"""Events between two snapshots: folding that many takes a few milliseconds."""


class _Snapshot(msgspec.Struct, frozen=True):
    head: str
    state: State


_snapshot_encode = msgspec.msgpack.Encoder().encode
_snapshot_decode = msgspec.msgpack.Decoder(_Snapshot).decode


class Journal:
    """The log of a task that this process drives."""

    def __init__(self, lease: Lease, store: Store, clock: Clock, bus: Bus) -> None:
        self.lease = lease
        self.state = State(task_id=lease.task_id)
        self._head = codec.GENESIS
        self._appending_to = 0
        self._store, self._clock, self._bus = store, clock, bus
        # Whoever holds it waits for the store: nobody starves without the turn of a fair one.
        self._lock = anyio.Lock(fast_acquire=True)
        self._snapshot_seq = 0
        self.held_up: HeldUp | None = None
        """Told when the log cannot be written and when it can again: nothing goes on without it."""

    @property
    def seq(self) -> int:
        """Number of the last event that is known here, or that is being stored from here.

        A store may show an append to everybody before it answers. If another's event takes the
        number, the append itself finds out.
        """
        return max(self.state.seq, self._appending_to)

    async def open(self) -> None:
        """Load, check and fold the log, and record that this owner took the task.

        Raises:
            CorruptLog: the log is not what was written; nothing is touched.
            LeaseLost: somebody newer owns the task.
        """
        task_id = self.lease.task_id
        saved = await self._store.load_snapshot(task_id, FOLD_VERSION)
        if saved is not None:
            try:
                snapshot = _snapshot_decode(saved[1])
            except msgspec.MsgspecError:
                pass  # a snapshot is only a shortcut: without it the whole log is folded
            else:
                self.state, self._head = snapshot.state, snapshot.head
                self._snapshot_seq = self.state.seq
        await self._catch_up()
        await self._check_head()
        if self.state.ended:
            return  # its last owner died between the terminal event and giving the lease back
        await self.commit(e.LeaseTaken(epoch=self.lease.epoch, owner=self.lease.owner))

    async def commit(
        self,
        outcome: Outcome,
        blobs: Mapping[BlobId, bytes] = {},
        follow: Follow | None = None,
    ) -> None:
        """Decide about `outcome` on the newest state and store what follows, all or nothing.

        Calls that `follow` has ready are intended in the same append: the events are those of one
        commit after the other, and what came back is as durable as the intent before it runs.

        Raises:
            LeaseLost: stop, and touch nothing of the task any more.
            StoreUnavailable: the log cannot be written; the task must not go on without it.
        """
        async with self._lock:
            while True:
                at_us = max(self._clock.now_us(), self.state.at_us)
                # A conversation's fold encodes what is said, as the log does.
                try:
                    events, state = advance(self.state, outcome, at_us)
                    if not events:
                        return
                    while follow is not None and (call := follow(state)) is not None:
                        added, after = advance(state, call, at_us)
                        if not added or not isinstance(added[0], e.CallIntended):
                            break  # what asks or stops takes the usual way, beside those before it
                        events, state = events + added, after
                    rows = codec.encode(
                        self.lease.task_id,
                        events,
                        after=self.state.seq,
                        head=self._head,
                        at_us=at_us,
                    )
                except (UnicodeEncodeError, TypeError):
                    if follow is not None:
                        follow = None  # each by itself: only one of them is at fault
                        continue
                    plain = codec.storable(outcome)
                    if plain == outcome:
                        raise
                    outcome = plain
                    continue
                try:
                    await self._append(rows, state, blobs)
                except LeaseLost:
                    raise
                except Conflict:
                    if not await self._catch_up():
                        raise self._cut() from None
                    continue
                self.state, self._head = state, rows[-1].hash
                self._bus.publish(self.lease.task_id, state.seq)
                await self._keep_snapshot()
                return

    async def refresh(self) -> None:
        """Read what others have appended, and decide what follows from it."""
        async with self._lock:
            await self._catch_up()
        await self.commit(Woken())

    async def _append(self, rows: list[Row], state: State, blobs: Mapping[BlobId, bytes]) -> None:
        self._appending_to = rows[-1].seq
        try:
            await _append(self._store, rows, state, blobs, self.lease.epoch, self.held_up)
        finally:
            self._appending_to = 0

    async def _check_head(self) -> None:
        """A chain alone does not see a cut tail: the task's row holds the last number and hash."""
        while (told := await self._store.summary(self.lease.task_id)).seq > self.state.seq:
            if not await self._catch_up():
                raise self._cut()
        if (told.seq, told.head_hash) != (self.state.seq, self._head):
            raise self._cut()

    def _cut(self) -> CorruptLog:
        task_id, seq = self.lease.task_id, self.state.seq
        return CorruptLog(
            f"the log of {task_id!r} is not what was written: it does not end as its task's row "
            f"says, near event {seq}",
            task_id=task_id,
            seq=seq,
        )

    async def _catch_up(self) -> bool:
        rows = await self._store.load(self.lease.task_id, self.state.seq)
        if not rows:
            return False
        self._head = codec.check_chain(
            rows, task_id=self.lease.task_id, after=self.state.seq, head=self._head
        )
        self.state = fold(((codec.decode(row), row.at_us) for row in rows), self.state)
        return True

    async def _keep_snapshot(self) -> None:
        if self.state.seq - self._snapshot_seq < SNAPSHOT_EVENTS:
            return
        self._snapshot_seq = self.state.seq
        try:
            data = _snapshot_encode(_Snapshot(self._head, self.state))
            await self._store.save_snapshot(
                self.lease.task_id, Seq(self.state.seq), FOLD_VERSION, data
            )
        except (StoreUnavailable, UsageError, OverflowError):
            pass  # a shortcut only; the next one may fit (an integer over 64 bits never does)


async def _append(
    store: Store,
    rows: list[Row],
    state: State,
    blobs: Mapping[BlobId, bytes] = {},
    epoch: Epoch | None = None,
    held_up: HeldUp | None = None,
) -> None:
    """Append `rows`, which lead to `state`; an unknown outcome is asked for again."""
    task_id, summary = TaskId(state.task_id), summarize(state, rows[-1].hash)
    for attempt in range(1, APPEND_TRIES + 1):
        try:
            await store.append(
                task_id, Seq(rows[0].seq - 1), rows, epoch=epoch, summary=summary, blobs=blobs
            )
            if held_up is not None and attempt > 1:
                await held_up("log", False)
            return
        except StoreUnavailable:
            # Nothing is known about the write; the same rows again are recognised by hash.
            if attempt == APPEND_TRIES:
                raise
            if held_up is not None and attempt == 1:
                await held_up("log", True)
            await anyio.sleep(APPEND_DELAY_SECONDS * 2 ** (attempt - 1))


async def append_fact(
    store: Store,
    clock: Clock,
    bus: Bus,
    task_id: TaskId,
    make: Callable[[State], e.OutsideFact],
) -> State:
    """Append one fact from outside the loop, as `make` finds it right on the newest state.

    Raises:
        Conflict: raised by `make`, because the state forbids it.
        NotFound: no such task.
        StoreUnavailable: it was tried often enough; whether it is stored is unknown.
    """
    while True:
        rows = await store.load(task_id)
        head = codec.check_chain(rows, task_id=task_id)
        state = fold(((codec.decode(row), row.at_us) for row in rows), State(task_id=task_id))
        event = make(state)
        at_us = max(clock.now_us(), state.at_us)
        after = evolve(state, event, at_us)
        fact = codec.encode(task_id, [event], after=state.seq, head=head, at_us=at_us)
        try:
            await _append(store, fact, after)
        except Conflict:
            continue  # somebody was faster: look at the newest state again
        bus.publish(task_id, after.seq)
        return after


def summarize(state: State, head_hash: str) -> TaskSummary:
    """The row of `ps` for a state."""
    status, reason = status_of(state)
    task = state.task
    return TaskSummary(
        task_id=state.task_id,
        status=status,
        phase=state.phase,
        reason=reason,
        goal=task.goal,
        seq=state.seq,
        head_hash=head_hash,
        created_at_us=state.created_at_us,
        updated_at_us=state.at_us,
        labels=task.labels,
        priority=task.priority,
        repo=task.workspace.repo if task.workspace else "",
    )
