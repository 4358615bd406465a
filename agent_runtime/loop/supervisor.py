"""Many drivers in one process: claim a task, drive it, give it back.

One watcher serves them all: when another process has written, drivers whose log has grown are told
through the bus.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from agent_runtime.errors import (
    AgentRuntimeError,
    CorruptLog,
    LeaseHeld,
    LeaseLost,
    NotFound,
    StoreUnavailable,
)
from agent_runtime.loop.driver import drive
from agent_runtime.loop.state import State, status_of
from agent_runtime.loop.stopping import Stop
from agent_runtime.ports import Ports
from agent_runtime.types import Lease, Status, TaskId

log = logging.getLogger(__name__)

WATCH_SECONDS = 0.03
"""Between two looks for what other processes have appended."""
IDLE_SECONDS = 1.0
"""How long an idle supervisor waits for a change before it looks for tasks anyway."""
RELEASE_SECONDS_MAX = 10.0
BACK_OFF_SECONDS_MAX = 60.0
"""Longest wait before a task whose driver failed is tried again; the waits double up to it."""
STARTS_A_TURN = 250
"""Drivers that start in one turn of the loop. Each begins with folding its log, half a millisecond
behind a snapshot: a thousand tasks of a killed daemon must not keep everything else waiting. Nor
may they start too slowly: the first ones would run far ahead of those that nobody has looked at."""
TASKS_MAX = 1000
"""Tasks that one supervisor drives at the same time."""


class Supervisor:
    """Drives tasks of one store in this process."""

    def __init__(self, ports: Ports, *, tasks_max: int = TASKS_MAX) -> None:
        self._ports = ports
        self._tasks_max = tasks_max
        self._driven: dict[TaskId, int] = {}
        self._failures: dict[TaskId, int] = {}
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
                state = await self._drive(lease)
                tg.cancel_scope.cancel()
            return state
        except BaseExceptionGroup as group:
            raise _first_cause(group) from group

    async def run_until_stopped(self) -> None:
        """Claim and drive whatever can be claimed, until `stop` is set."""
        await self._run(until_idle=False)

    async def run_all(self) -> None:
        """Drive every claimable task until none is left that can go on."""
        await self._run(until_idle=True)

    async def _run(self, *, until_idle: bool) -> None:
        tried: dict[TaskId, int] = {}
        async with anyio.create_task_group() as tg:
            tg.start_soon(self._watch)
            tg.start_soon(self._wake_on_stop)
            while not self.stop.is_set():
                try:
                    started = await self._start_claimable(tg, tried)
                except StoreUnavailable as error:
                    log.warning("cannot look for tasks: %s", error)
                    started = True  # there may be some
                if until_idle and not started and not self._driven:
                    break
                await self._wait_for_work()
            while self._driven:
                await self._wait_for_work()
            tg.cancel_scope.cancel()

    async def _start_claimable(self, tg: TaskGroup, tried: dict[TaskId, int]) -> bool:
        """False: there was room, and nothing was found that can go on."""
        room = self._tasks_max - len(self._driven)
        if room <= 0:
            return True  # there may be some: whoever ends while one looks must not end the search
        store = self._ports.store
        found = [task for task in await store.claimable(room) if task not in self._driven]
        heads = await store.heads(found)
        # What came to nothing is left alone as long as nobody has written since.
        fresh = [task for task in found if tried.get(task) != heads.get(task, 0)]
        started = False
        leases = await self._claim(fresh) if fresh else []
        for lease in leases:
            self._driven[lease.task_id] = heads.get(lease.task_id, 0)
        waiting = list(leases)
        try:
            while waiting:
                for lease in waiting[:STARTS_A_TURN]:
                    started = True
                    tg.start_soon(self._drive_one, lease, tried)
                del waiting[:STARTS_A_TURN]
                await anyio.lowlevel.checkpoint()
        except BaseException:
            await self._give_back(waiting)
            raise
        return started

    async def _claim(self, task_ids: Sequence[TaskId]) -> list[Lease]:
        """Leases of those that are free, in one transaction if the store has such.

        Raises:
            StoreUnavailable: none could be had.
        """
        leases: list[Lease] = []
        unavailable: list[StoreUnavailable] = []

        async def claim(task_id: TaskId) -> None:
            try:
                leases.append(await self._ports.store.claim(task_id))
            except (LeaseHeld, NotFound):
                pass
            except StoreUnavailable as error:
                unavailable.append(error)

        try:
            async with anyio.create_task_group() as tg:
                for task_id in task_ids:
                    tg.start_soon(claim, task_id)
        except BaseException:
            await self._give_back(leases)
            raise
        if unavailable and not leases:
            raise unavailable[0]
        return leases

    async def _give_back(self, leases: Sequence[Lease]) -> None:
        """Nobody is going to drive these: nobody else would release them."""
        with anyio.move_on_after(RELEASE_SECONDS_MAX, shield=True):
            for lease in leases:
                self._driven.pop(lease.task_id, None)
                await _release(self._ports, lease)

    async def _drive_one(self, lease: Lease, tried: dict[TaskId, int]) -> None:
        """The border of one task: whatever happens in it leaves the others alone."""
        try:
            state = await self._drive(lease)
            if status_of(state)[0] is not Status.PENDING:  # somebody has just continued it
                tried[lease.task_id] = state.seq
            self._failures.pop(lease.task_id, None)
        except CorruptLog as error:
            log.error("task %s stopped here: %s", lease.task_id, error)
            tried[lease.task_id] = await self._head(lease.task_id)
        except AgentRuntimeError as error:
            log.error("task %s stopped here: %s", lease.task_id, error)
            tried[lease.task_id] = -1
            await self._back_off(lease.task_id)
        except Exception:
            log.exception("task %s stopped here by a defect", lease.task_id)
            tried[lease.task_id] = await self._head(lease.task_id)
        finally:
            self._driven.pop(lease.task_id, None)
            self._ports.bus.publish(_WORK, 0)

    async def _head(self, task_id: TaskId) -> int:
        try:
            return (await self._ports.store.heads([task_id])).get(task_id, 0)
        except AgentRuntimeError:
            return -1

    async def _back_off(self, task_id: TaskId) -> None:
        """What fails now may work later, but not at once: a full disk, a sandbox that lives on."""
        failures = self._failures[task_id] = self._failures.get(task_id, 0) + 1
        self._driven[task_id] = 0
        with anyio.move_on_after(min(IDLE_SECONDS * 2 ** (failures - 1), BACK_OFF_SECONDS_MAX)):
            await self.stop.wait()

    async def _drive(self, lease: Lease) -> State:
        self._driven[lease.task_id] = 0
        try:
            return await drive(lease, self._ports, self.stop)
        except BaseExceptionGroup as group:
            raise _first_cause(group) from group
        finally:
            self._driven.pop(lease.task_id, None)
            with anyio.move_on_after(RELEASE_SECONDS_MAX, shield=True):
                await _release(self._ports, lease)

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
        while True:
            await store.wait_changed(IDLE_SECONDS)
            self._ports.bus.publish(_WORK, 0)
            if self._driven:
                try:
                    heads = await store.heads(list(self._driven))
                except AgentRuntimeError as error:
                    log.warning("cannot look for new facts: %s", error)
                    heads = {}
                for task_id, seq in heads.items():
                    self._ports.bus.publish(task_id, seq)
            await anyio.sleep(WATCH_SECONDS)


_WORK = TaskId("")
"""Bus topic on which a supervisor hears that a driver has ended or that somebody has written."""


async def _release(ports: Ports, lease: Lease) -> None:
    try:
        await ports.store.release(lease)
    except AgentRuntimeError as error:
        # The lock on the owner's file goes with this process at the latest.
        log.warning("lease of %s was not given back: %s", lease.task_id, error)


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
