"""One task's log in its owner's hands: load and fold it, decide, commit, catch up with others.

`Journal` is the only place that appends the owner's events. A commit decides on the newest state:
when somebody else's fact came first, the tail is loaded and the outcome is decided anew, so a
fact is never lost and an announcement that no longer fits is dropped. `append_fact` is for
everybody else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence

import anyio
import msgspec

from agent_runtime.errors import Conflict, CorruptLog, LeaseLost, StoreUnavailable
from agent_runtime.loop import codec
from agent_runtime.loop import events as e
from agent_runtime.loop.decide import advance
from agent_runtime.loop.evolve import evolve, fold
from agent_runtime.loop.outcomes import CallPrepared, Outcome, Woken
from agent_runtime.loop.state import FOLD_VERSION, State, status_of
from agent_runtime.ports.bus import Bus
from agent_runtime.ports.clock import Clock
from agent_runtime.ports.store import Store
from agent_runtime.types import (
    BlobId,
    Epoch,
    Lease,
    Row,
    Seq,
    Snapshot,
    Status,
    TaskId,
    TaskSummary,
)

HeldUp = Callable[[str, bool], Awaitable[None]]
Follow = Callable[[State], CallPrepared | e.CallResolved | None]
"""What is known about a call, the next one or a dead owner's, as soon as a state is reached."""

APPEND_TRIES = 6
"""One and five more, waiting 50 ms and twice as long each time: a full disk, a long lock."""
APPEND_DELAY_SECONDS = 0.05
SNAPSHOT_EVENTS = 32
"""Events between two snapshots, at least: folding that many takes a quarter of a millisecond."""
SNAPSHOT_PART = 2
"""A new one comes when the log has grown by one such part of the last one: a long conversation must
not be written again at every turn."""


class _Snapshot(msgspec.Struct, frozen=True, gc=False):
    head: str
    state: State


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Snapshot).decode
_DIGEST_BYTES = 32


def pack_snapshot(state: State, head: str) -> bytes:
    """`state` and the hash of its last row, behind a digest of both.

    Raises `OverflowError` for an integer of more than 64 bits.
    """
    data = _encode(_Snapshot(head, state))
    return hashlib.sha256(data).digest() + data


def unpack_snapshot(packed: bytes) -> tuple[State, str] | None:
    """None: it is damaged, or of another shape. It is only a shortcut: the log says it all."""
    data = memoryview(packed)[_DIGEST_BYTES:]
    if hashlib.sha256(data).digest() != packed[:_DIGEST_BYTES]:
        return None
    try:
        snapshot = _decode(data)
    except msgspec.MsgspecError:
        return None
    return snapshot.state, snapshot.head


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
        self._snapshot_seq = self._snapshot_bytes = 0
        self._grown_bytes = 0
        """By how much the log has grown since the last snapshot."""
        self.held_up: HeldUp | None = None
        """Told when the log cannot be written and when it can again: nothing goes on without it."""

    @property
    def seq(self) -> int:
        """Number of the last event that is known here, or that is being stored from here.

        A store may show an append to everybody before it answers. If another's event takes the
        number, the append itself finds out.
        """
        return max(self.state.seq, self._appending_to)

    async def open(self, follow: Follow | None = None) -> None:
        """Load, check and fold the log, and record that this owner took the task.

        What `follow` knows about its predecessor's calls is stored in the same append.

        Raises:
            CorruptLog: the log is not what was written; nothing is touched.
            LeaseLost: somebody newer owns the task.
        """
        task_id = self.lease.task_id
        saved = await self._store.load_snapshot(task_id, FOLD_VERSION)
        unpacked = unpack_snapshot(saved[1]) if saved is not None else None
        if saved is not None and unpacked is not None:
            self.state, self._head = unpacked
            self._snapshot_seq, self._snapshot_bytes = self.state.seq, len(saved[1])
        await self._catch_up()
        await self._check_head()
        if self.state.ended:
            return  # its last owner died between the terminal event and giving the lease back
        taken = e.LeaseTaken(epoch=self.lease.epoch, owner=self.lease.owner)
        await self.commit(taken, follow=follow)

    async def commit(
        self,
        outcome: Outcome,
        blobs: Mapping[BlobId, bytes] = {},
        follow: Follow | None = None,
    ) -> None:
        """Decide about `outcome` on the newest state and store what follows, all or nothing.

        Calls that `follow` has ready are intended in the same append, or settled: the events are
        those of one commit after the other, and what came back is as durable as the intent before
        it runs.

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
                        if not added or not isinstance(added[0], e.CallIntended | e.CallResolved):
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
                return

    async def refresh(self) -> None:
        """Read what others have appended, and decide what follows from it."""
        async with self._lock:
            await self._catch_up()
        await self.commit(Woken())

    async def _append(self, rows: list[Row], state: State, blobs: Mapping[BlobId, bytes]) -> None:
        snapshot = self._snapshot(rows, state)
        self._appending_to = rows[-1].seq
        try:
            await _append(self._store, rows, state, blobs, self.lease.epoch, snapshot, self.held_up)
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

    def _snapshot(self, rows: Sequence[Row], state: State) -> Snapshot | None:
        """The state that `rows` lead to, if it is time to keep one."""
        self._grown_bytes += sum(len(row.data) for row in rows)
        enough = self._grown_bytes * SNAPSHOT_PART >= self._snapshot_bytes
        if not enough or state.seq - self._snapshot_seq < SNAPSHOT_EVENTS:
            return None
        self._snapshot_seq, self._grown_bytes = state.seq, 0
        try:
            data = pack_snapshot(state, rows[-1].hash)
        except OverflowError:
            return None  # the next one may do without such a number
        self._snapshot_bytes = len(data)
        return Snapshot(FOLD_VERSION, data)


async def _append(
    store: Store,
    rows: list[Row],
    state: State,
    blobs: Mapping[BlobId, bytes] = {},
    epoch: Epoch | None = None,
    snapshot: Snapshot | None = None,
    held_up: HeldUp | None = None,
    *,
    relabel: bool = False,
) -> None:
    """Append `rows`, which lead to `state`; an unknown outcome is asked for again."""
    task_id, summary = TaskId(state.task_id), summarize(state, rows[-1].hash)
    for attempt in range(1, APPEND_TRIES + 1):
        try:
            await store.append(
                task_id,
                Seq(rows[0].seq - 1),
                rows,
                epoch=epoch,
                summary=summary,
                blobs=blobs,
                snapshot=snapshot,
                relabel=relabel,
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


Newest = MutableMapping[TaskId, tuple[State, str]]
"""States that were seen, and the hashes of their last rows: the log goes on from there."""


async def append_fact(
    store: Store,
    clock: Clock,
    bus: Bus,
    task_id: TaskId,
    make: Callable[[State], e.OutsideFact],
    seen: Newest | None = None,
) -> State:
    """Append one fact from outside the loop, as `make` finds it right on the newest state.

    With `seen` not all of a long log is read and checked: it goes on from what was seen there, or
    else from the newest snapshot. `seen` is kept up to date.

    Raises:
        Conflict: raised by `make`, because the state forbids it.
        NotFound: no such task.
        StoreUnavailable: it was tried often enough; whether it is stored is unknown.
    """
    state, head = State(task_id=task_id), codec.GENESIS
    if seen is not None:
        state, head = seen.get(task_id) or await _snapshot_of(store, task_id)
    clashed = False
    while True:
        rows = await store.load(task_id, state.seq)
        if clashed and not rows:
            # The log does not go on from there: only all of it says what is wrong.
            state, head = State(task_id=task_id), codec.GENESIS
            rows = await store.load(task_id)
        head = codec.check_chain(rows, task_id=task_id, after=state.seq, head=head)
        state = fold(((codec.decode(row), row.at_us) for row in rows), state)
        if seen is not None:
            seen[task_id] = (state, head)
        event = make(state)
        at_us = max(clock.now_us(), state.at_us)
        after = evolve(state, event, at_us)
        fact = codec.encode(task_id, [event], after=state.seq, head=head, at_us=at_us)
        try:
            await _append(store, fact, after, relabel=isinstance(event, e.TaskChanged))
        except Conflict:
            clashed = True
            continue  # somebody was faster: look at the newest state again
        if seen is not None:
            seen[task_id] = (after, fact[-1].hash)
        bus.publish(task_id, after.seq)
        return after


async def _snapshot_of(store: Store, task_id: TaskId) -> tuple[State, str]:
    saved = await store.load_snapshot(task_id, FOLD_VERSION)
    unpacked = unpack_snapshot(saved[1]) if saved is not None else None
    return unpacked or (State(task_id=task_id), codec.GENESIS)


def summarize(state: State, head_hash: str, *, submitted_by: str = "") -> TaskSummary:
    """The row of `ps` for a state. Only the one that makes a task says who submitted it."""
    status, reason = status_of(state)
    task, usage = state.task, state.usage
    spent = state.total if state.earlier else usage
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
        submitted_by=submitted_by,
        wake_at_us=_wakes_at(state) if status is Status.WAITING else 0,
        tokens=spent.tokens + usage.reserved_tokens,
        microusd=round((spent.usd + usage.reserved_usd) * 1e6),
    )


def _wakes_at(state: State) -> int:
    """When a task that waits goes on without an answer; 0: it does not."""
    return min((asked.expires_at_us for asked in state.approvals.values()), default=0)
