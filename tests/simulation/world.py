"""One seed, one life of one task: random plan, random faults, crashes, and what must hold anyway.

Everything runs on trio's virtual clock with the real driver, journal and core. The world keeps its
own account of what really happened (effects, acknowledged rows) and compares it with the log.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import anyio
import trio
import trio.testing

from agent_runtime.bus import LocalBus
from agent_runtime.errors import Conflict, StoreUnavailable, WorkerLost
from agent_runtime.loop import codec
from agent_runtime.loop import events as e
from agent_runtime.loop.driver import drive
from agent_runtime.loop.journal import append_fact
from agent_runtime.loop.state import State, fold, status_of
from agent_runtime.loop.submission import submit
from agent_runtime.ports import ModelAnswer, ModelRequest, Ports
from agent_runtime.stores.memory import MemoryStore, SharedMemory
from agent_runtime.testing import (
    FakeEnvironment,
    FakeSandbox,
    FakeToolbox,
    FakeVerifier,
    FakeWorkspaces,
    VirtualClock,
    deterministic_trio,
)
from agent_runtime.toolkit import FunctionTool, tool
from agent_runtime.types import (
    Alternative,
    Check,
    Effect,
    Expect,
    Limits,
    Objective,
    PlanSpec,
    Policy,
    Status,
    StepSpec,
    TaskId,
    TaskSpec,
    ToolCall,
    ToolResult,
    WorkspaceSpec,
)

TASK = TaskId("task_0")
LIVES_MAX = 60
"""Crashes of one life: more of them and it is stuck."""
VIRTUAL_SECONDS_MAX = 200_000.0


class Crash(BaseException):
    """The process dies here. Not an `Exception`: nothing may catch it."""


@dataclass
class Account:
    """What really happened, as nobody but the world can know."""

    effects: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(tool, idempotency key) -> times the outside world was changed by it."""
    runs: Counter[str] = field(default_factory=Counter)
    """call id -> times its tool ran far enough to have an effect."""
    idempotent: set[str] = field(default_factory=set)
    acknowledged: dict[int, str] = field(default_factory=dict)
    """seq -> hash of every row whose append returned."""
    model_calls: int = 0


@dataclass(frozen=True)
class Chances:
    """How unkind the world is."""

    fault: float = 0.1
    crashes: int = 1
    crash_at: int | None = None
    """Crash at exactly this point of the first life; None: at a random one."""


class World:
    """A world with one task in it."""

    def __init__(self, seed: int, chances: Chances, spec: TaskSpec | None = None) -> None:
        self.rng = random.Random(seed)
        self.chances = chances
        self.account = Account()
        self.spec = spec or random_task(self.rng)
        self.shared = SharedMemory()
        self.clock = VirtualClock()
        self.points = 0
        self.crashes_left = chances.crashes
        self.crash_at = chances.crash_at or self.rng.randint(1, 250)
        self.dead = False
        self.faults = chances.fault > 0
        self.tools = world_tools(self)
        self.workspaces = FakeWorkspaces({"a": "0"}, self.point)
        self.places: list[str] = []

    async def point(self, place: str) -> None:
        """An await of the adapters: the process may die here."""
        if self.dead:
            raise Crash
        self.points += 1
        if self.crashes_left and self.points == self.crash_at:
            self.crashes_left -= 1
            self.dead = True
            raise Crash
        await anyio.sleep(0.001)
        if self.dead:
            raise Crash

    def faulty(self, part: float = 1.0) -> bool:
        return self.faults and self.rng.random() < self.chances.fault * part

    def ports(self, store: FaultyStore) -> Ports:
        sandbox = WorldSandbox(self)
        return Ports(
            store=store,
            clock=self.clock,
            bus=store.bus,
            toolbox=FakeToolbox(self.tools, self.point),
            sandbox=sandbox,
            workspaces=self.workspaces,
            verifier=FakeVerifier(self.workspaces, point=self.point),
            environment=FakeEnvironment(),
            model=WorldModel(self),
        )

    async def live(self) -> State:
        """Submit the task and drive it through every crash to its end."""
        first = MemoryStore(self.shared)
        await submit(self.spec, first, self.clock, task_id=TASK, submitted_by="world")
        with anyio.fail_after(VIRTUAL_SECONDS_MAX):
            for _ in range(LIVES_MAX):
                state = await self._one_owner()
                if state is not None and state.ended:
                    return state
                if state is not None:
                    await self._person(state)
        raise AssertionError("stuck: the task has not ended")

    async def _one_owner(self) -> State | None:
        store = FaultyStore(self)
        self.dead = False
        try:
            lease = await store.claim(TASK)
            async with anyio.create_task_group() as tg:
                tg.start_soon(self._outsiders, store)
                state = await drive(lease, self.ports(store))
                tg.cancel_scope.cancel()
            await store.release(lease)
            return state
        except* Crash:
            self._bury(store)
        except* StoreUnavailable:
            self._bury(store)
        return None

    def _bury(self, store: FaultyStore) -> None:
        """The process is gone; the next one may crash too."""
        self.dead = False
        store.crash()
        self.crash_at = self.points + self.rng.randint(1, 120)

    async def _outsiders(self, store: FaultyStore) -> None:
        """People: decide approvals, sometimes pause, steer or cancel, each from a process of theirs."""
        clock, bus = self.clock, LocalBus()
        outside = MemoryStore(self.shared)
        while True:
            await anyio.sleep(self.rng.uniform(0.5, 20))
            state = fold(
                ((codec.decode(r), r.at_us) for r in await outside.load(TASK)),
                State(task_id=TASK),
            )
            if state.ended or state.conclusion or self.dead:
                continue
            fact: e.InputEvent | None = None
            dice = self.rng.random()
            if state.approvals and dice < 0.9:
                approval_id = sorted(state.approvals)[0]
                verdict = "approve" if self.rng.random() < 0.7 else "deny"
                fact = e.ApprovalDecided(
                    approval_id=approval_id,
                    decision=verdict,  # type: ignore[arg-type]
                    by="world",
                )
            elif dice < 0.02:
                fact = e.CancelRequested(by="world")
            elif dice < 0.1:
                fact = e.Steered(by="world", message="hurry")
            elif dice < 0.2:
                fact = e.PauseRequested(by="world")
            if fact is not None:
                try:
                    await append_fact(outside, clock, bus, TASK, _unless_over(fact))
                except Conflict:
                    continue
                store.announce()

    async def _person(self, state: State) -> None:
        """The driver came back without an end: somebody has to do something."""
        outside = MemoryStore(self.shared)
        status, _ = status_of(state)
        fact: e.InputEvent
        if status is Status.PAUSED or state.paused:
            fact = e.ResumeRequested(by="world")
        elif state.approvals:
            fact = e.ApprovalDecided(
                approval_id=sorted(state.approvals)[0], decision="approve", by="world"
            )
        else:
            fact = e.CancelRequested(by="world", reason="it waits")
        await append_fact(outside, self.clock, LocalBus(), TASK, _unless_over(fact))


def _unless_over(fact: e.InputEvent) -> Callable[[State], e.InputEvent]:
    def make(state: State) -> e.InputEvent:
        if state.ended or state.conclusion:
            raise Conflict("it is over")
        return fact

    return make


class FaultyStore(MemoryStore):
    """One process's store: fails now and then, before the write or after it."""

    def __init__(self, world: World) -> None:
        super().__init__(world.shared)
        self._world = world
        self.bus = LocalBus()

    def announce(self) -> None:
        """Tell this process's driver that somebody else has written."""
        task = self._world.shared.tasks[TASK]
        self.bus.publish(TASK, len(task.rows))

    async def append(self, task_id, expected, rows, **more):  # type: ignore[no-untyped-def]
        await self._world.point("append")
        if self._world.faulty(0.5):
            raise StoreUnavailable("the disk is full")
        last = await super().append(task_id, expected, rows, **more)
        await self._world.point("appended")
        if self._world.faulty(0.5):
            raise StoreUnavailable("the answer was lost")
        for row in rows:
            self._world.account.acknowledged[row.seq] = row.hash
        return last


class WorldSandbox(FakeSandbox):
    """Loses its worker now and then, before a call's effect or after it."""

    def __init__(self, world: World) -> None:
        super().__init__(world.tools, self._point)
        self._world = world

    async def _point(self, place: str) -> None:
        await self._world.point(place)
        if place.startswith("call") and self._world.faulty(0.5):
            raise WorkerLost("the worker was killed")


class WorldModel:
    """Asks for a few calls, fails in all ways, sometimes says more than was reserved."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def complete(self, request: ModelRequest) -> ModelAnswer:
        world, rng = self._world, self._world.rng
        await world.point("ask model")
        world.account.model_calls += 1
        await anyio.sleep(rng.uniform(0.1, 30))
        if world.faulty(2):
            error = rng.choice(["rate", "overload", "transport", "truncated", "bad_request"])
            return ModelAnswer(error=error, text="no")
        calls: list[tuple[str, Mapping[str, object]]] = []
        if rng.random() < 0.6:
            name = rng.choice(["look", "write", "pay", "put", "post", "nothing_like_it", "special"])
            calls = [(name, {"text": "x"} if name == "write" else {})]
        await world.point("model answered")
        return ModelAnswer(text="hm", calls=tuple(calls), tokens=rng.randint(1, 9000), usd=0.01)


def world_tools(world: World) -> list[FunctionTool]:
    """A tool for every effect class; each may fail or take too long."""
    rng, account = world.rng, world.account

    async def work(call: ToolCall) -> ToolResult | None:
        await anyio.sleep(rng.uniform(0.001, 3))
        if world.faulty(0.3):
            await anyio.sleep(5000)  # past every deadline
        if world.faulty():
            return ToolResult(ok=False, output="it did not work", exit=1, kind="failed")
        return None

    async def outside(call: ToolCall, name: str) -> ToolResult:
        failed = await work(call)
        if failed:
            return failed
        await world.point(f"before {name}")
        account.effects[name, call.idempotency_key] += 1
        account.runs[call.call_id] += 1
        await world.point(f"after {name}")
        return ToolResult(ok=True, output=name, exit=0)

    @tool(effect=Effect.READ, parameters={})
    async def look(call: ToolCall) -> ToolResult:
        """Look."""
        failed = await work(call)
        return failed or ToolResult(ok=True, output="seen", exit=0)

    @tool(effect=Effect.WORKSPACE, parameters={"text": {"type": "string"}})
    async def write(call: ToolCall) -> ToolResult:
        """Append to a file, in two halves."""
        files = world.workspaces.files[call.task_id]
        files["a"] += "<"
        await world.point("half written")
        failed = await work(call)
        files["a"] += ">"
        await world.point("written")
        return failed or ToolResult(ok=True, output="written", exit=0)

    @tool(effect=Effect.ONCE, parameters={}, where="daemon")
    async def pay(call: ToolCall) -> ToolResult:
        """Pay."""
        return await outside(call, "pay")

    @tool(effect=Effect.IDEMPOTENT, parameters={}, where="daemon")
    async def put(call: ToolCall) -> ToolResult:
        """Put."""
        return await outside(call, "put")

    async def posted(call: ToolCall) -> bool | None:
        await world.point("probe")
        if world.faulty():
            return None
        return account.effects["post", call.idempotency_key] > 0

    @tool(effect=Effect.PROBE, parameters={}, where="daemon", probe=posted)
    async def post(call: ToolCall) -> ToolResult:
        """Post."""
        return await outside(call, "post")

    @tool(effect=Effect.READ, parameters={}, toolbelt="extra")
    async def special(call: ToolCall) -> ToolResult:
        """Look specially."""
        return ToolResult(ok=True, output="special", exit=0)

    return [look, write, pay, put, post, special]


TOOLS = ("look", "write", "pay", "put", "post", "special")
DAEMON_TOOLS = ["pay", "put", "post"]


def random_task(rng: random.Random) -> TaskSpec:
    """A plan, or a goal for the model, with limits that are sometimes too small."""
    limits = Limits(
        steps=rng.choice([3, 10, 60, 250]),
        usd=rng.choice([0.15, 3.0]),
        tokens=rng.choice([20_000, 200_000]),
        seconds=rng.choice([20.0, 3600.0, 50_000.0]),
    )
    policy = Policy(
        tools=DAEMON_TOOLS,
        approvals={t: "ask" for t in TOOLS if rng.random() < 0.1},
        approval_seconds=rng.choice([5.0, 86_400.0]),
        unknown_effect=rng.choice(["ask", "fail", "continue"]),
    )
    thinking = rng.random() < 0.2
    return TaskSpec(
        goal="live",
        workspace=WorkspaceSpec(repo="/fake"),
        model="world/model" if thinking else None,
        plan=None if thinking else random_plan(rng),
        objectives=[Objective(id="ok", check=Check(command="true"))],
        limits=limits,
        policy=policy,
    )


def random_plan(rng: random.Random) -> PlanSpec:
    count = rng.randint(1, 8)
    fallbacks: set[int] = set()
    steps: list[StepSpec] = []
    for i in range(count):
        name = rng.choice(TOOLS)
        needs = [f"s{j}" for j in range(i) if rng.random() < 0.3 and j not in fallbacks]
        fallback = None
        if i + 1 < count and rng.random() < 0.15 and i not in fallbacks:
            fallbacks.add(i + 1)
            fallback = f"s{i + 1}"
        steps.append(
            StepSpec(
                id=f"s{i}",
                tool=name,
                args={"text": "{{ steps.s0.output }}"} if name == "write" and "s0" in needs else {},
                needs=[] if i in fallbacks else needs,
                retry=rng.choice([0, 0, 1, 3]),
                timeout_seconds=rng.choice([None, 4.0, 100.0]),
                expect=Expect(contains="nothing") if rng.random() < 0.03 else None,
                alternative=Alternative(tool="look") if rng.random() < 0.15 else None,
                fallback=fallback,
            )
        )
    return PlanSpec(steps=steps)


# ---- running a life and judging it -------------------------------------------------------


@dataclass(frozen=True)
class Life:
    """What came of one seed."""

    state: State
    events: Sequence[e.AnyEvent]
    head: str
    points: int
    world: World


def run_life(seed: int, chances: Chances = Chances(), spec: TaskSpec | None = None) -> Life:  # noqa: B008
    """Live one life on virtual time and check everything that must hold."""
    world = World(seed, chances, spec)

    async def main() -> State:
        return await world.live()

    with deterministic_trio(seed):
        clock = trio.testing.MockClock(autojump_threshold=0)
        state = anyio.run(main, backend="trio", backend_options={"clock": clock})
    rows = world.shared.tasks[TASK].rows
    life = Life(state, [codec.decode(r) for r in rows], rows[-1].hash, world.points, world)
    check_life(life)
    return life


def check_life(life: Life) -> None:
    """0 lost, 0 repeated `once`, 0 unreported unknowns, 0 budget overshoot, and the right tree."""
    world, account = life.world, life.world.account
    rows = world.shared.tasks[TASK].rows
    codec.check_chain(rows, task_id=TASK)
    for seq, digest in account.acknowledged.items():
        assert rows[seq - 1].hash == digest, f"acknowledged event {seq} was lost"
    intents = [x for x in life.events if isinstance(x, e.CallIntended)]
    returned = {x.call_id for x in life.events if isinstance(x, e.CallReturned)}
    unknown = {x.call_id for x in life.events if isinstance(x, e.EffectUnknown)}
    assert len({x.call_id for x in intents}) == len(intents), "a call was intended twice"
    for intent in intents:
        if intent.effect is Effect.ONCE:
            runs = account.runs[intent.call_id]
            assert runs <= 1, f"{intent.call_id} took effect {runs} times"
            told = intent.call_id in returned or intent.call_id in unknown
            assert told, f"{intent.call_id} has neither result nor report"
        if intent.effect is Effect.PROBE:
            assert account.runs[intent.call_id] <= 1, f"{intent.call_id} was posted twice"
    known = {x.call_id for x in intents}
    assert set(account.runs) <= known, "an effect without an intent"
    usage, limits = life.state.usage, world.spec.limits
    assert usage.steps <= limits.steps, "more attempts than the budget"
    assert usage.reserved_tokens == 0 and usage.reserved_usd == 0, "a reservation was left open"
    check_budget_stops(life)
    check_tree(life)
    assert isinstance(life.events[-1], e.TaskEnded)
    if life.state.conclusion and life.state.conclusion.status is Status.SUCCEEDED:
        assert any(isinstance(x, e.VerificationEnded) and x.ok for x in life.events)


def check_budget_stops(life: Life) -> None:
    """Once a limit is reached, nothing new is intended."""
    exhausted = False
    for event in life.events:
        exhausted = exhausted or isinstance(event, e.BudgetExhausted)
        if exhausted:
            assert not isinstance(event, e.CallIntended | e.ModelCallStarted), "budget overshoot"


def check_tree(life: Life) -> None:
    """The workspace is what the log says it is, and no half of a write is left."""
    world = life.world
    if TASK not in world.workspaces.files:
        return
    text = world.workspaces.files[TASK]["a"]
    assert text.count("<") == text.count(">"), f"half a write is left: {text!r}"
    trees = [x.tree_after for x in life.events if isinstance(x, e.CallReturned) and x.tree_after]
    restored = [
        x for x in life.events if isinstance(x, e.CallResolved) and x.resolution == "dropped"
    ]
    if trees and not restored:
        assert world.workspaces.tree_of(TASK) == trees[-1], "the tree is not the log's"
