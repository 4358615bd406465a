"""The loop: keep going what `next_actions` wants, stop what it no longer wants, commit the rest.

Nothing is decided here. Starting a task, resuming it after a crash and reacting to a cancel are the
same few lines, because actions are derived from the state.
"""

from __future__ import annotations

import math

import anyio

from agent_runtime.loop import events as e
from agent_runtime.loop.actions import Action, next_actions
from agent_runtime.loop.hands import Hands
from agent_runtime.loop.journal import Journal
from agent_runtime.loop.outcomes import CallPrepared
from agent_runtime.loop.perform import perform
from agent_runtime.loop.ready import ready_call, ready_resolution
from agent_runtime.loop.state import State
from agent_runtime.loop.stopping import Stop
from agent_runtime.ports.everything import Ports
from agent_runtime.types import Lease, Phase

COMMIT_SECONDS_MAX = 60.0
"""How long a commit may take although its task is being cancelled: lock waits and retries."""


async def drive(lease: Lease, ports: Ports, stop: Stop | None = None) -> State:
    """Drive one task until it ends, waits or is paused, or `stop` is set; return its last state.

    When `stop` is set, running calls are stopped and `Interrupted` says that it was on purpose.

    Raises:
        LeaseLost, StoreUnavailable, StoreBroken, CorruptLog: the task goes no further here.
    """
    journal = Journal(lease, ports.store, ports.clock, ports.bus)
    hands = Hands(journal, ports)
    loop = _Loop(journal, hands, stop or Stop())
    await journal.open(loop.resolution)
    async with hands:
        await loop.run()
    return journal.state


_BEFORE_CALLS = (Phase.ANALYZE_REQUIREMENTS, Phase.TOOL_DISCOVERY, Phase.PLANNING)
"""The working copy is there, and its worker may start beside what these do."""


class _Loop:
    """The actions of one task that are going on."""

    def __init__(self, journal: Journal, hands: Hands, stop: Stop) -> None:
        self._journal, self._hands, self._stop = journal, hands, stop
        self._running: dict[str, anyio.CancelScope] = {}
        self._changed = anyio.Event()
        self._outside = False
        self._asked_about: State | None = None
        self._asked_for: tuple[Action, ...] = ()

    def resolution(self, state: State) -> e.CallResolved | None:
        """What is known at once about a call of the last owner, which is dead."""
        return ready_resolution(state, self._actions(state), self._hands.ports.toolbox)

    async def run(self) -> None:
        journal = self._journal
        unsubscribe = self._hands.ports.bus.subscribe(journal.lease.task_id, self._heard)
        deaf = self._stop.subscribe(self._wake)
        try:
            async with anyio.create_task_group() as tg:
                while True:
                    if self._changed.is_set():
                        self._changed = anyio.Event()
                    if self._outside:
                        self._outside = False
                        await journal.refresh()
                    await self._hands.hold("paused", journal.state.paused)
                    wanted = {} if self._stop.is_set() else self._wanted()
                    unwanted = [key for key in self._running if key not in wanted]
                    for key in unwanted:
                        self._running[key].cancel()
                    if not unwanted:
                        for key, action in wanted.items():
                            if key not in self._running:
                                scope = self._running[key] = anyio.CancelScope()
                                tg.start_soon(self._act, action, scope)
                    before_calls = journal.state.stage in _BEFORE_CALLS and bool(wanted)
                    if before_calls and self._hands.may_prestart():
                        tg.start_soon(self._hands.prestart)
                    if self._running:
                        await self._changed.wait()
                    elif await self._may_end():
                        break
                tg.cancel_scope.cancel()
        finally:
            deaf()
            unsubscribe()
        if self._stop.is_set() and journal.state.alive:
            await journal.commit(e.Interrupted(reason=self._stop.reason))

    def _wanted(self) -> dict[str, Action]:
        return {action.key: action for action in self._actions(self._journal.state)}

    def _actions(self, state: State) -> tuple[Action, ...]:
        """What `state` wants; it is asked for more than once between two events."""
        if self._asked_about is not state:
            self._asked_about, self._asked_for = state, next_actions(state)
        return self._asked_for

    async def _may_end(self) -> bool:
        """Nothing runs. Waiting is not running: say so, unless somebody has just answered."""
        journal = self._journal
        if not self._stop.is_set() and journal.state.alive:
            await journal.commit(e.Interrupted(reason=e.NOTHING_TO_DO))
        return self._stop.is_set() or not journal.state.alive

    async def _act(self, action: Action, scope: anyio.CancelScope) -> None:
        """Do `action`, and what follows from it if that is one thing: a call after its intent.

        An error ends the driver. The action then counts as running to the last: a call must not
        begin once more in the moment before everything is stopped.
        """
        with scope, anyio.CancelScope() as storing:
            while True:
                outcome, blobs = await perform(action, self._hands)
                # What came back is a fact: it is stored although nobody wants it any more. One
                # scope for all commits of a chain: a new one for each costs twice as much. It is
                # not the action's own, which does not shield from a stop that came before.
                storing.shield = True
                storing.deadline = anyio.current_time() + COMMIT_SECONDS_MAX
                await self._hands.egress.store()
                await self._journal.commit(outcome, blobs, self._follow)
                storing.deadline = math.inf
                storing.shield = False
                following = None if scope.cancel_called else self._following(action)
                if following is None:
                    break
                del self._running[action.key]
                action = following
                self._running[action.key] = scope
        if storing.cancelled_caught:
            raise TimeoutError(f"the log took nothing for {COMMIT_SECONDS_MAX:g} s")
        del self._running[action.key]
        self._changed.set()

    def _follow(self, state: State) -> CallPrepared | None:
        """Calls that are ready at once are intended with what came before, unless all stops."""
        if self._stop.is_set():
            return None
        return ready_call(state, self._actions(state), self._hands.ports.toolbox)

    def _following(self, done: Action) -> Action | None:
        """The one new thing to do, if there is nothing else for `run` to look at."""
        state = self._journal.state
        if self._stop.is_set() or self._outside or state.paused:
            return None
        if state.stage is not Phase.EXECUTION:
            return None
        wanted = self._wanted()
        if done.key in wanted or any(key not in wanted for key in self._running if key != done.key):
            return None
        new = [action for key, action in wanted.items() if key not in self._running]
        return new[0] if len(new) == 1 else None

    def _wake(self) -> None:
        self._changed.set()

    def _heard(self, seq: int) -> None:
        if seq > self._journal.seq:
            self._outside = True
            self._changed.set()
