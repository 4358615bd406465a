"""One task, one memory store and the public fakes: what the tests of the loop share."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import anyio
import msgspec

from agent_runtime.bus import LocalBus
from agent_runtime.loop import codec
from agent_runtime.loop import events as e
from agent_runtime.loop.driver import drive
from agent_runtime.loop.evolve import fold
from agent_runtime.loop.journal import append_fact
from agent_runtime.loop.replay import replay
from agent_runtime.loop.state import State
from agent_runtime.loop.stopping import Stop
from agent_runtime.loop.submission import submit
from agent_runtime.ports import ModelAnswer, ModelFault, ModelFaultKind, Ports
from agent_runtime.stores.memory import MemoryStore, SharedMemory
from agent_runtime.testing import (
    FakeEnvironment,
    FakeSandbox,
    FakeToolbox,
    FakeVerifier,
    FakeWorkspaces,
    ScriptedModel,
    VirtualClock,
    says,
)
from agent_runtime.toolkit import FunctionTool, tool
from agent_runtime.types import (
    Check,
    Effect,
    Json,
    Objective,
    PlanSpec,
    Policy,
    Row,
    StepSpec,
    TaskId,
    TaskSpec,
    ToolCall,
    ToolResult,
    Where,
    WorkspaceSpec,
)

TASK = TaskId("task_1")
OK = ToolResult(ok=True, output="ok", exit=0)
NO = ToolResult(ok=False, output="no", exit=1, kind="failed")
FOREVER = 1e6
"""As an answer of a tool: it takes longer than any deadline."""

Answer = ToolResult | float | BaseException
Hook = Callable[[Sequence[Row]], Awaitable[None]]
Kind = TypeVar("Kind", bound=e.Event)


@dataclass
class Script:
    """A tool that answers from a list, then well. A number is seconds of waiting before that."""

    name: str
    effect: Effect = Effect.READ
    answers: list[Answer] = field(default_factory=list)
    toolbelt: str = "standard"
    where: Where = "daemon"
    calls: list[ToolCall] = field(default_factory=list)
    probes: list[bool | None] = field(default_factory=list)
    work: Callable[[ToolCall], None] = lambda call: None

    def tool(self) -> FunctionTool:
        async def execute(call: ToolCall) -> ToolResult:
            self.calls.append(call)
            self.work(call)
            answer = self.answers.pop(0) if self.answers else OK
            if isinstance(answer, float):
                await anyio.sleep(answer)
                answer = OK
            if isinstance(answer, BaseException):
                raise answer
            return answer

        async def look(call: ToolCall) -> bool | None:
            return self.probes.pop(0)

        return tool(
            name=self.name,
            description="A scripted tool.",
            # Through a function: only a plug-in's own code can name an effect that is none.
            effect=lambda arguments, policy: self.effect,
            parameters={"text": {"type": "string"}},
            toolbelt=self.toolbelt,
            where=self.where,
            probe=look if self.effect is Effect.PROBE else None,
        )(execute)


class HookedStore(MemoryStore):
    """Calls `hook` with what an append has stored, before its caller hears of it."""

    hook: Hook | None = None

    async def append(self, task_id, expected, rows, **more):  # type: ignore[no-untyped-def]
        last = await super().append(task_id, expected, rows, **more)
        if self.hook is not None:
            await self.hook(rows)
        return last


class Bench:
    """A store and a world around one task; every `drive` is another process."""

    def __init__(
        self,
        *scripts: Script,
        judge: Callable[[Mapping[str, str]], bool] = lambda files: True,
        answers: Sequence[ModelAnswer | ModelFault] = (),
    ) -> None:
        self.scripts = {script.name: script for script in scripts}
        self.tools = [script.tool() for script in scripts]
        self.shared = SharedMemory()
        self.clock = VirtualClock()
        self.bus = LocalBus()
        self.workspaces = FakeWorkspaces()
        self.sandbox = FakeSandbox(self.tools)
        self.toolbox = FakeToolbox(self.tools)
        self.verifier = FakeVerifier(self.workspaces, judge)
        self.model = ScriptedModel(list(answers))
        self.hook: Hook | None = None

    def ports(self, store: MemoryStore, **others: Any) -> Ports:
        """The world as one process sees it; `others` replace adapters."""
        ports = Ports(
            store=store,
            clock=self.clock,
            bus=self.bus,
            toolbox=self.toolbox,
            sandbox=self.sandbox,
            workspaces=self.workspaces,
            verifier=self.verifier,
            environment=FakeEnvironment(),
            model=self.model,
        )
        return replace(ports, **others)

    def store(self) -> HookedStore:
        """The store of another process."""
        store = HookedStore(self.shared)
        store.hook = self.hook
        return store

    async def submit(self, spec: TaskSpec, task_id: TaskId = TASK) -> None:
        await submit(spec, self.store(), self.clock, task_id=task_id, submitted_by="test")

    async def run(self, spec: TaskSpec) -> State:
        """Submit and drive as far as it goes."""
        await self.submit(spec)
        return await self.drive()

    async def drive(self, *, stop: Stop | None = None, **others: Any) -> State:
        """Claim, drive and release, in a process of its own."""
        store = self.store()
        lease = await store.claim(TASK)
        state = await drive(lease, self.ports(store, **others), stop)
        await store.release(lease)
        # Our contract, for every log of every test: the inputs alone give the decisions again.
        assert (different := replay(self.rows()).difference) is None, different
        return state

    async def drive_and_die(self, seconds: float, **others: Any) -> None:
        """Drive for some virtual seconds, then kill -9."""
        store = self.store()
        lease = await store.claim(TASK)
        with anyio.move_on_after(seconds) as life:
            # Dead from then on: what the unwinding tries to write has no effect.
            async with anyio.create_task_group() as tg:
                tg.start_soon(_kill_after, seconds, store)
                await drive(lease, self.ports(store, **others))
        assert life.cancelled_caught, "it ended before it was killed"

    async def say(self, fact: e.OutsideFact) -> State:
        """Somebody appends a fact from outside."""
        return await append_fact(
            MemoryStore(self.shared), self.clock, self.bus, TASK, lambda _: fact
        )

    def rows(self) -> list[Row]:
        return self.shared.tasks[TASK].rows

    def events(self) -> list[e.AnyEvent]:
        return [codec.decode(row) for row in self.rows()]

    def of(self, *kinds: type[Kind]) -> list[Kind]:
        """Events of these types, in order."""
        return [event for event in self.events() if isinstance(event, kinds)]

    def state(self) -> State:
        """The fold of the log."""
        return fold(((codec.decode(r), r.at_us) for r in self.rows()), State(task_id=TASK))


async def _kill_after(seconds: float, store: MemoryStore) -> None:
    await anyio.sleep(seconds - 1e-6)
    store.crash()


def step(step_id: str, tool: str | None, **more: Json) -> StepSpec:
    return msgspec.convert({"id": step_id, "tool": tool, **more}, StepSpec)


def task(*steps: StepSpec, tools: Sequence[str] = (), **more: Json) -> TaskSpec:
    """A task with a plan (or with a model, if there are no steps) and one objective."""
    named = {s.tool for s in steps if s.tool} | {s.alternative.tool for s in steps if s.alternative}
    policy = Policy(tools=sorted(named | set(tools)), **more.pop("policy", {}))
    return TaskSpec(
        goal="make it so",
        workspace=WorkspaceSpec(repo="/repo"),
        plan=PlanSpec(steps=list(steps)) if steps else None,
        model=more.pop("model", None if steps else "test/model"),
        objectives=more.pop("objectives", [Objective(id="ok", check=Check(command="true"))]),
        policy=policy,
        **more,
    )


def asks(*calls: str | tuple[str, Mapping[str, Json]], tokens: int = 100) -> ModelAnswer:
    """A model's answer that asks for calls."""
    return says("next", *calls, tokens=tokens)


def gives_up(kind: ModelFaultKind, after: float | None = None) -> ModelFault:
    """A turn without an answer."""
    return ModelFault(kind=kind, message="no", retry_after_seconds=after)
