"""A life that has ended is forked, and the fork lives on in the same world; what must hold then."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import anyio
import trio.testing

from agent_runtime.bus import LocalBus
from agent_runtime.errors import Conflict, StoreUnavailable, WorkspaceError
from agent_runtime.forks import fork_task
from agent_runtime.loop import codec
from agent_runtime.loop import events as e
from agent_runtime.loop.driver import drive
from agent_runtime.loop.evolve import fold
from agent_runtime.loop.journal import append_fact
from agent_runtime.loop.replay import replay
from agent_runtime.loop.state import State
from agent_runtime.ports import Ports
from agent_runtime.stores.memory import MemoryStore
from agent_runtime.testing import deterministic_trio
from agent_runtime.types import Effect, ForkSpec, Row, TaskId, TaskSpec
from tests.simulation.checks import check_approvals, check_budget, check_run_end, runs_of
from tests.simulation.world import TASK, Chances, Crash, FaultyStore, Life, World

OWNERS_MAX = 60


@dataclass(frozen=True)
class Fork:
    """What came of it."""

    task_id: TaskId
    rows: Sequence[Row]

    @property
    def events(self) -> list[e.AnyEvent]:
        return [codec.decode(row) for row in self.rows]

    @property
    def state(self) -> State:
        times = (row.at_us for row in self.rows)
        return fold(zip(self.events, times, strict=True), State(task_id=self.task_id))


def fork_life(life: Life, wish: ForkSpec, *, crashes: int = 0) -> Fork:
    """Fork it and drive the fork to its end. Raises what `fork_task` does."""
    world = life.world
    # Another run of the event loop begins at its own zero.
    world.clock.offset_us += int(1e12)
    world.crashes_left, world.crash_at = 0, world.points + world.rng.randint(1, 80)
    # A check that failed at first fails in the fork, too, unless it had failed before.
    before = life.events[: wish.at]
    world.verifications = sum(isinstance(event, e.VerificationEnded) for event in before)

    async def main() -> TaskId:
        with anyio.fail_after(1e7):
            async with anyio.create_task_group() as host:
                world.host = host
                ports = _ports(world)
                chances, world.chances = world.chances, Chances(fault=0.0)
                fork_id = await fork_task(TASK, wish, ports, by="world", check=_nothing)
                world.chances, world.crashes_left = chances, crashes
                for _ in range(OWNERS_MAX):
                    state = await _one_owner(world, fork_id)
                    if state is not None and state.ended:
                        host.cancel_scope.cancel()
                        return fork_id
                    if state is not None:
                        await _person(world, state)
        raise AssertionError("stuck: the fork has not ended")

    with deterministic_trio(wish.at):
        clock = trio.testing.MockClock(autojump_threshold=0)
        fork_id = anyio.run(main, backend="trio", backend_options={"clock": clock})
    return Fork(fork_id, world.shared.tasks[fork_id].rows)


async def _nothing(spec: TaskSpec) -> None:
    """Everything can run here."""


def _ports(world: World) -> Ports:
    ports = world.ports(FaultyStore(world))
    return replace(ports, store=MemoryStore(world.shared), bus=LocalBus())


async def _one_owner(world: World, task_id: TaskId) -> State | None:
    ports = _ports(world)
    assert isinstance(ports.store, MemoryStore)
    world.dead, world.owner = False, world.owner + 1
    try:
        lease = await ports.store.claim(task_id)
        async with anyio.create_task_group() as tg:
            world.scope = tg.cancel_scope
            tg.start_soon(_people, world, task_id, ports)
            state = await drive(lease, ports)
            world.scope = None
            tg.cancel_scope.cancel()
    except* (Crash, StoreUnavailable, WorkspaceError):
        state = None
    world.scope = None
    if world.dead or state is None:
        ports.store.crash()
        world.dead = False
        world.owner += 1
        return None
    await ports.store.release(lease)
    return state


async def _people(world: World, task_id: TaskId, ports: Ports) -> None:
    """Answer what is asked, from another process."""
    while True:
        await anyio.sleep(0.5)
        rows = world.shared.tasks[task_id].rows
        state = fold(((codec.decode(r), r.at_us) for r in rows), State(task_id=task_id))
        if state.approvals and not state.ended:
            await _person(world, state)
            ports.bus.publish(task_id, len(rows) + 1)


async def _person(world: World, state: State) -> None:
    """Says yes to what is asked, and lets go on what waits for nothing."""
    approvals = sorted(state.approvals)
    denies = world.scene.denies
    fact: e.OutsideFact = e.CancelRequested(by="world", reason="it waits")
    if approvals:
        fact = e.ApprovalDecided(
            approval_id=approvals[0], decision="deny" if denies else "approve", by="world"
        )
    elif state.paused:
        fact = e.ResumeRequested(by="world")
    outside = MemoryStore(world.shared)
    await append_fact(outside, world.clock, LocalBus(), TaskId(state.task_id), lambda _: fact)


def check_fork(life: Life, at: int, *, crashes: int = 0, model: bool = False) -> Fork | None:
    """Fork a life somewhere and check what must hold; None: the event is no place for it.

    The parent is as it was; no call of it has another effect, but where its tool declares that
    safe; the fork keeps every promise that its log can tell of.
    """
    world = life.world
    parent, runs = list(life.rows), Counter(world.account.runs)
    effects = Counter(world.account.effects)
    has_model = model and life.state.task.model is not None
    wish = ForkSpec(at=at, model="world/another" if has_model else None)
    try:
        fork = fork_life(life, wish, crashes=crashes)
    except BaseException as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, Conflict):
            return None
        raise
    assert not world.account.violations, world.account.violations[0]
    assert world.shared.tasks[TASK].rows == parent, "the parent's log was changed"
    found = replay(fork.rows)
    assert found.difference is None, found.difference
    codec.check_chain(fork.rows, task_id=fork.task_id)
    again = Life(fork.state, fork.rows, fork.events, world)
    for run in runs_of(again):
        check_run_end(run)
    check_budget(again)
    check_approvals(again)
    _check_effects(life, at, fork, Counter(world.account.runs) - runs)
    new = Counter(world.account.effects) - effects
    for (tool, key), count in new.items():
        if tool in ("pay", "post"):
            assert count == world.account.effects[tool, key] == 1, f"{tool} again under {key}"
        if tool == "pay":
            assert key.startswith(fork.task_id), f"{tool} under the parent's {key}"
    return fork


def _check_effects(life: Life, at: int, fork: Fork, new: Counter[str]) -> None:
    """Calls of the parent that were over have no effect in the fork, and none of `once` has."""
    copied = life.events[:at]
    over = {x.call_id for x in copied if isinstance(x, e.CallReturned)} | {
        x.call_id for x in copied if isinstance(x, e.CallResolved) and x.resolution != "rerun"
    }
    own = {x.call_id for x in fork.events[at:] if isinstance(x, e.CallIntended)}
    for intent in (x for x in copied if isinstance(x, e.CallIntended)):
        call_id = intent.call_id
        assert call_id not in own, f"{call_id} is intended twice"
        may_run = call_id not in over and intent.effect not in (Effect.ONCE,)
        assert may_run or not new[call_id], f"{call_id} has another effect in the fork"
