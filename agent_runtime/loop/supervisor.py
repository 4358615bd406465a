"""Many drivers in one process: claim a task, drive it, give it back.

Which tasks, when there are more than may be driven at once, is decided in `fairness`. One watcher
serves them all: when another process has written, drivers whose log has grown are told through the
bus. A task that waits is let go after a while, or as soon as others need its place: it is rows in
the store then, and comes back when its answer, or the time that it waits for, is there.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping, Sequence

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from agent_runtime.errors import (
    AgentRuntimeError,
    CorruptLog,
    LeaseLost,
    StoreUnavailable,
)
from agent_runtime.loop.driver import drive
from agent_runtime.loop.fairness import Turns
from agent_runtime.loop.state import State, status_of
from agent_runtime.loop.stopping import Stop
from agent_runtime.ports.everything import Ports
from agent_runtime.types import Lease, Status, TaskId

log = logging.getLogger(__name__)

WATCH_SECONDS = 0.03
"""Between two looks for what other processes have appended."""
MOVES_MIN = 16
"""Events up to which a look at them costs less than one at every driven task."""
IDLE_SECONDS = 1.0
"""How long an idle supervisor waits for a change before it looks for tasks anyway."""
RELEASE_SECONDS_MAX = 10.0
BACK_OFF_SECONDS_MAX = 60.0
"""Longest wait before a task whose driver failed is tried again; the waits double up to it."""
STARTS_A_TURN = 334
"""Drivers that start in one turn of the loop. Each begins with folding its log, a third of a
millisecond behind a snapshot: a thousand tasks of a killed daemon must not keep everything else
waiting. Nor may they start too slowly: the first ones would run far ahead of those that nobody has
looked at."""
TASKS_MAX = 1000
"""Tasks that one supervisor drives at the same time."""
OF_EACH_QUEUE = 100
"""Tasks of one queue that are looked at in one go; if that was not enough, it looks again."""
HIBERNATE_SECONDS = 300.0
"""How long a task that waits keeps its driver and its worker while there is room."""
LOOK_SECONDS = 1.0
"""Between two looks for tasks that wait and are still driven: 1 us of a query for each."""
YOUNG_OBJECTS_MIN = 50_000
"""Objects, a few MB, before Python looks for those that hold only each other; else after 700."""
HIBERNATED = "hibernated"
"""Reason of the `Interrupted` of a task that waits and was let go."""


class Supervisor:
    """Drives tasks of one store in this process."""

    def __init__(
        self,
        ports: Ports,
        *,
        tasks_max: int = TASKS_MAX,
        submitter_tasks_max: int | None = None,
        hibernate_seconds: float = HIBERNATE_SECONDS,
    ) -> None:
        self._ports = ports
        self._tasks_max = tasks_max
        self._hibernate_us = int(hibernate_seconds * 1e6)
        self._turns = Turns(submitter_max=submitter_tasks_max)
        self._driven: set[TaskId] = set()
        """With those that rest after a failure."""
        self._resting: set[TaskId] = set()
        self._unreleased: list[Lease] = []
        """The store did not take them back; it is asked again."""
        self._stops: dict[TaskId, Stop] = {}
        """Of each task that is driven: to let it go alone."""
        self._failures: dict[TaskId, int] = {}
        self._crowded = False
        """A task could go on, and there is no place for it."""
        self.stop = Stop()
        """Set it to stop gracefully: calls are stopped, `Interrupted` is stored."""

    @property
    def driven(self) -> int:
        """Tasks that are driven here now."""
        return len(self._driven)

    async def run_task(self, task_id: TaskId) -> State:
        """Claim one task and drive it as far as it goes.

        Raises:
            LeaseHeld: another live process drives it.
            AgentRuntimeError: the log cannot be read or written; the message says why.
        """
        lease = await self._ports.store.claim(task_id)
        try:
            async with anyio.create_task_group() as tg:
                tg.start_soon(self._watch)
                state = await self._drive(lease, Stop())
                tg.cancel_scope.cancel()
            return state
        except BaseExceptionGroup as group:
            raise _first_cause(group) from group
        finally:
            self._let_go(task_id)

    async def run_until_stopped(self) -> None:
        """Claim and drive whatever can be claimed, until `stop` is set."""
        await self._run(until_idle=False)

    async def run_all(self) -> None:
        """Drive every claimable task until none is left that can go on."""
        await self._run(until_idle=True)

    async def _run(self, *, until_idle: bool) -> None:
        tried: dict[TaskId, int] = {}
        _spare_the_collector()
        async with anyio.create_task_group() as tg:
            tg.start_soon(self._watch)
            tg.start_soon(self._wake_on_stop)
            tg.start_soon(self._hibernate)
            while not self.stop.is_set():
                try:
                    started, more = await self._start_ready(tg, tried)
                except StoreUnavailable as error:
                    log.warning("cannot look for tasks: %s", error)
                    started, more = True, False  # there may be some
                if until_idle and not started and not self._driven:
                    break
                if not more:
                    await self._wait_for_work()
            while self._driven:
                await self._wait_for_work()
            tg.cancel_scope.cancel()

    async def _start_ready(self, tg: TaskGroup, tried: dict[TaskId, int]) -> tuple[bool, bool]:
        """Begin with what has its turn.

        First: False if there was room, and nothing was found that can go on. Second: there is room
        for more than was looked at.
        """
        room = self._tasks_max - len(self._driven)
        if room <= 0:
            return True, False  # whoever ends while one looks must not end the search
        store, now_us = self._ports.store, self._ports.clock.now_us()
        await _forget_moved(tried, self._ports)
        of_each = min(OF_EACH_QUEUE, room)
        found = await store.ready(
            now_us=now_us, of_each=of_each, limit=room, without=[*self._resting, *tried]
        )
        chosen = self._turns.choose(found, room, now_us)
        self._crowded = len(chosen) < len(found)
        leases = await store.claim_all([task.task_id for task in chosen]) if chosen else []
        claimed = {lease.task_id: lease for lease in leases}
        for task in chosen:
            if task.task_id in claimed:
                self._driven.add(task.task_id)
                self._turns.begin(task, now_us)
        waiting = [claimed[task.task_id] for task in chosen if task.task_id in claimed]
        try:
            while waiting:
                for lease in waiting[:STARTS_A_TURN]:
                    tg.start_soon(self._drive_one, lease, tried)
                del waiting[:STARTS_A_TURN]
                await anyio.lowlevel.checkpoint()
        except BaseException:
            await self._give_back(waiting)
            raise
        more = len(found) >= of_each and 0 < len(leases) < room
        return bool(leases), more

    async def _give_back(self, leases: Sequence[Lease]) -> None:
        """Nobody is going to drive these: nobody else would release them."""
        with anyio.move_on_after(RELEASE_SECONDS_MAX, shield=True):
            for lease in leases:
                self._let_go(lease.task_id)
                await self._release(lease)

    def _let_go(self, task_id: TaskId) -> None:
        self._driven.discard(task_id)
        self._resting.discard(task_id)
        self._turns.end(task_id)

    async def _drive_one(self, lease: Lease, tried: dict[TaskId, int]) -> None:
        """The border of one task: whatever happens in it leaves the others alone."""
        task_id = lease.task_id
        try:
            stop = Stop()
            state = await self._drive(lease, stop)
            # One that ended or waits is not found as ready before somebody has written. One that
            # was let go may have got its answer in the same moment.
            if status_of(state)[0] is Status.RUNNING and not stop.is_set():
                tried[task_id] = state.seq
            self._failures.pop(task_id, None)
        except CorruptLog as error:
            log.error("task %s stopped here: %s", task_id, error, extra={"task_id": task_id})
            tried[task_id] = await self._head(task_id)
        except AgentRuntimeError as error:
            log.error("task %s stopped here: %s", task_id, error, extra={"task_id": task_id})
            await self._back_off(task_id)
        except Exception:
            log.exception("task %s stopped here by a defect", task_id, extra={"task_id": task_id})
            tried[task_id] = await self._head(task_id)
        finally:
            self._let_go(task_id)
            self._ports.bus.publish(_WORK, 0)

    async def _head(self, task_id: TaskId) -> int:
        try:
            return (await self._ports.store.heads([task_id])).get(task_id, 0)
        except AgentRuntimeError:
            return -1

    async def _back_off(self, task_id: TaskId) -> None:
        """What fails now may work later, but not at once: a full disk, a sandbox that lives on."""
        failures = self._failures[task_id] = self._failures.get(task_id, 0) + 1
        self._driven.add(task_id)
        self._resting.add(task_id)
        with anyio.move_on_after(min(IDLE_SECONDS * 2 ** (failures - 1), BACK_OFF_SECONDS_MAX)):
            await self.stop.wait()

    async def _drive(self, lease: Lease, stop: Stop) -> State:
        task_id = lease.task_id
        self._driven.add(task_id)
        self._stops[task_id] = stop
        deaf = self.stop.subscribe(stop.set)
        if self.stop.is_set():
            stop.set()
        try:
            return await drive(lease, self._ports, stop)
        except BaseExceptionGroup as group:
            raise _first_cause(group) from group
        finally:
            deaf()
            del self._stops[task_id]
            # Free, but not to be found here before it is known how it ended.
            self._resting.add(task_id)
            with anyio.move_on_after(RELEASE_SECONDS_MAX, shield=True):
                await self._release(lease)

    async def _release(self, lease: Lease) -> None:
        try:
            await self._ports.store.release(lease)
        except AgentRuntimeError as error:
            # The lock on the owner's file goes with this process at the latest.
            log.warning("lease of %s was not given back: %s", lease.task_id, error)
            self._unreleased.append(lease)

    async def _hibernate(self) -> None:
        """Let tasks go that wait for somebody: soon if others need the place, else after a while.

        Their worker ends, and `WorkerRestarted` will say so; nothing else of them is lost.
        """
        store, clock = self._ports.store, self._ports.clock
        while True:
            await anyio.sleep(LOOK_SECONDS)
            again, self._unreleased = self._unreleased, []
            for lease in again:
                await self._release(lease)
            if not self._stops:
                continue
            try:
                waiting = await store.waiting(list(self._stops))
                if waiting and len(self._driven) >= self._tasks_max:
                    next_ones = await store.ready(now_us=clock.now_us(), of_each=1, limit=1)
                    self._crowded = bool(next_ones)
            except AgentRuntimeError as error:
                log.warning("cannot look for tasks that wait: %s", error)
                continue
            keep_us = 0 if self._crowded else self._hibernate_us
            for task_id, since_us in waiting.items():
                if clock.now_us() - since_us >= keep_us and task_id in self._stops:
                    self._stops[task_id].reason = HIBERNATED
                    self._stops[task_id].set()

    async def _wait_for_work(self) -> None:
        """Until a driver ended, somebody wrote, or `stop` was set; at most `IDLE_SECONDS`."""
        woken = anyio.Event()
        unsubscribe = self._ports.bus.subscribe(_WORK, lambda _: woken.set())
        try:
            with anyio.move_on_after(IDLE_SECONDS):
                await woken.wait()
        finally:
            unsubscribe()

    async def _wake_on_stop(self) -> None:
        await self.stop.wait()
        self._ports.bus.publish(_WORK, 0)

    async def _watch(self) -> None:
        """Tell drivers about facts, and the supervisor about tasks, that others have written.

        A busy store changes a thousand times a second, hence the pause between two looks.
        """
        store = self._ports.store
        position, all_at = 0, anyio.current_time()
        while True:
            await store.wait_changed(IDLE_SECONDS)
            self._ports.bus.publish(_WORK, 0)
            if self._driven:
                heads: Mapping[TaskId, int] | None = None
                try:
                    if anyio.current_time() < all_at:
                        position, heads = await self._moved(position)
                    if heads is None:
                        # Now and then all, so that whoever missed something hears of it.
                        position = await store.position()
                        heads = await store.heads(list(self._driven))
                        all_at = anyio.current_time() + IDLE_SECONDS
                except AgentRuntimeError as error:
                    log.warning("cannot look for new facts: %s", error)
                for task_id, seq in (heads or {}).items():
                    self._ports.bus.publish(task_id, seq)
            await anyio.sleep(WATCH_SECONDS)

    async def _moved(self, position: int) -> tuple[int, Mapping[TaskId, int] | None]:
        """The newest position, and the heads of tasks that have moved on since `position`; None:
        so many events came that it costs less to look at every driven task.

        A store into which somebody submits changes at each look, and hardly ever a driven task.
        """
        limit = max(MOVES_MIN, len(self._driven) // 8)
        found = await self._ports.store.tail(position, limit)
        if len(found) == limit:
            return position, None
        heads = {TaskId(row.task_id): row.seq for _, row in found if row.task_id in self._driven}
        return found[-1][0] if found else position, heads


def _spare_the_collector() -> None:
    """For the whole process: there is no other. Never sooner than somebody has set it.

    What a step leaves behind is freed by its reference counts. Each look finds next to nothing, and
    takes a fifth of the time in which the tasks of a killed daemon come back.
    """
    young, *older = gc.get_threshold()
    if young:
        gc.set_threshold(max(young, YOUNG_OBJECTS_MIN), *older)


async def _forget_moved(tried: dict[TaskId, int], ports: Ports) -> None:
    """What came to nothing is left alone as long as nobody has written since."""
    if tried:
        heads = await ports.store.heads(list(tried))
        for task_id in [task_id for task_id, seq in tried.items() if heads.get(task_id) != seq]:
            del tried[task_id]


_WORK = TaskId("")
"""Bus topic on which a supervisor hears that a driver has ended or that somebody has written."""


def _first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that matters out of a task group: a lost lease first, then what came first."""
    flat: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop(0)
        if isinstance(error, BaseExceptionGroup):
            pending.extend(error.exceptions)
        else:
            flat.append(error)
    return next((error for error in flat if isinstance(error, LeaseLost)), flat[0])
