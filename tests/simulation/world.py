"""One seed, one life of one task: random plan, random faults, crashes, and what must hold anyway.

Everything runs on trio's virtual clock with the real driver, journal and core. The world keeps its
own account of what really happened (effects, acknowledged rows); `checks` compares it with the log.
A sandbox outlives the process that opened it, as a real one may: its tools go on until they are
reaped.
"""

import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace

import anyio
import anyio.lowlevel
import trio.testing
from anyio.abc import TaskGroup
from msgspec import structs

from agent_runtime.bus import LocalBus
from agent_runtime.decisions import OpenDecision, answer, open_decision
from agent_runtime.errors import (
    Conflict,
    DeadlineExceeded,
    PluginError,
    PublishFailed,
    StoreUnavailable,
    UsageError,
    WorkerLost,
    WorkspaceError,
)
from agent_runtime.loop import codec, journal
from agent_runtime.loop import events as e
from agent_runtime.loop.asking import effect_if_known
from agent_runtime.loop.continuing import continuation
from agent_runtime.loop.driver import drive
from agent_runtime.loop.evolve import fold
from agent_runtime.loop.journal import append_fact
from agent_runtime.loop.state import State, status_of
from agent_runtime.loop.stopping import Stop
from agent_runtime.loop.submission import submit
from agent_runtime.messages import Brain, Message, ModelChoice, ModelUsage, ToolUse
from agent_runtime.ports import (
    DiskQuota,
    EgressRecord,
    Furnishing,
    LeftWork,
    ModelAnswer,
    ModelFault,
    ModelFaultKind,
    ModelRequest,
    OpenedWorkspace,
    Ports,
    SandboxSession,
    SandboxSpec,
)
from agent_runtime.stores.memory import MemoryStore, SharedMemory
from agent_runtime.testing import (
    FakeEnvironment,
    FakePublisher,
    FakeRemote,
    FakeSandbox,
    FakeSession,
    FakeToolbox,
    FakeVerifier,
    FakeWorkspaces,
    VirtualClock,
    deterministic_trio,
    says,
)
from agent_runtime.toolkit import FunctionTool, tool
from agent_runtime.types import (
    ContinuationSpec,
    Effect,
    Json,
    PreparedEnvironment,
    PublishSpec,
    Row,
    Status,
    TaskId,
    TaskSpec,
    ToolCall,
    ToolInfo,
    ToolResult,
    WorkspaceSpec,
)
from tests.simulation.plans import TOOLS, Scene, random_continuation, random_task

TASK = TaskId("task_0")
OWNERS_MAX = 80
"""Owners of one life: more of them and it is stuck."""
VIRTUAL_SECONDS_MAX = 400_000.0
FOREVER_SECONDS = 5000.0
"""Past every deadline of a call."""


class Crash(BaseException):
    """The process dies here. Not an `Exception`: nothing may catch it."""


@dataclass
class Account:
    """What really happened, as nobody but the world can know."""

    effects: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(tool, idempotency key) -> times the outside world was changed by it."""
    runs: Counter[str] = field(default_factory=Counter)
    """call id -> times its tool ran far enough to have an effect."""
    keys: dict[str, dict[str, tuple[str, Mapping[str, Json]]]] = field(default_factory=dict)
    """idempotency key -> call id -> (tool, arguments), in the order of their first run."""
    acknowledged: dict[int, str] = field(default_factory=dict)
    """seq -> hash of every row whose append returned."""
    facts: list[e.AnyEvent] = field(default_factory=list)
    """What people were told is stored."""
    asked: list[tuple[Message, ...]] = field(default_factory=list)
    """The messages of every request to the model."""
    violations: list[str] = field(default_factory=list)
    writing: int = 0
    reading_most: int = 0
    reading: int = 0
    requested: dict[str, str] = field(default_factory=dict)
    """Names of the calls that a client was told are taken, and their tools."""
    loads: list[State] = field(default_factory=list)
    """The state with which each owner ended."""


@dataclass(frozen=True)
class Chances:
    """How unkind the world is."""

    fault: float = 0.1
    crashes: int = 1
    crash_at: int | None = None
    """Crash at exactly this point of the first owner; None: at a random one."""


class World:
    """A world with one task in it."""

    def __init__(self, seed: int, chances: Chances, scene: Scene | None = None) -> None:
        self.rng = random.Random(seed)
        self.chances = chances
        self.account = Account()
        self.scene = scene or Scene(random_task(self.rng))
        if scene is None and seed % 3 == 0:
            spec = structs.replace(self.scene.spec, publish=PublishSpec())
            self.scene = replace(self.scene, spec=spec)
        self.remote = FakeRemote(base="elsewhere" if seed % 2 else "c0ffee")
        self.random = scene is None
        self.shared = SharedMemory()
        self.clock = VirtualClock()
        self.points = 0
        self.crashes_left = chances.crashes
        self.crash_at = chances.crash_at or self.rng.randint(1, 120)
        self.crash_place = self._some_place()
        self.dead = False
        self.owner = 0
        self.scope: anyio.CancelScope | None = None
        """Of the living owner: cancelled when it is killed from outside."""
        self.host: TaskGroup | None = None
        """Sandboxes run here: they outlive their owner."""
        self.sessions: set[WorldSession] = set()
        self.slow = set(self.scene.slow)
        self.verifications = 0
        self.stop = Stop()
        self.continuations_left = 2
        self.wishes = list(self.scene.wishes)
        self.snapshot_events = self.rng.choice([4, 500]) if self.random else 500
        self.goes_out = self.random and seed % 2 == 1
        """Do its tools connect to somewhere? They do so without an await."""
        self.record: list[EgressRecord] = []
        """What the sandboxes' own record has: it outlives every owner."""
        self.tools = world_tools(self)
        self.workspaces = WorldWorkspaces(self)
        self.toolbox = WorldToolbox(self)

    @property
    def spec(self) -> TaskSpec:
        return self.scene.spec

    # ---- dying ---------------------------------------------------------------------------

    async def point(self, place: str) -> None:
        """An await of the process: it may die here."""
        if self._dies(place):
            raise Crash
        await self._yield()
        if self.dead:
            raise Crash

    async def worker_point(self, place: str) -> None:
        """An await inside a sandbox: its owner may die here, the sandbox goes on."""
        if self._dies(place) and self.scope is not None:
            self.scope.cancel()
        await self._yield()

    def _dies(self, place: str) -> bool:
        if self.dead:
            return True
        self.points += 1
        due = self.crashes_left and self.points >= self.crash_at
        if due and place.startswith(self.crash_place):
            self.crashes_left -= 1
            self.dead = True
        return self.dead

    def _some_place(self) -> str:
        # The few places between an effect and its record deserve more than their share.
        return self.rng.choice(["", "", "", "after", "append", "half"]) if self.random else ""

    async def _yield(self) -> None:
        # Now and then time passes as well: more often would only be slower.
        if self.rng.random() < 0.2:
            await anyio.sleep(0.001)
        else:
            await anyio.lowlevel.checkpoint()

    def faulty(self, part: float = 1.0) -> bool:
        return self.chances.fault > 0 and self.rng.random() < self.chances.fault * part

    def blame(self, what: str) -> None:
        self.account.violations.append(what)

    # ---- living --------------------------------------------------------------------------

    def ports(self, store: "FaultyStore") -> Ports:
        return Ports(
            store=store,
            clock=self.clock,
            bus=store.bus,
            toolbox=self.toolbox,
            sandbox=WorldSandbox(self),
            workspaces=self.workspaces,
            verifier=FakeVerifier(self.workspaces, self._judge, self.point),
            environment=WorldEnvironment(self),
            model=WorldModel(self),
            egress_files=WorldRecord(self),
            publisher=WorldPublisher(self),
        )

    def _judge(self, files: Mapping[str, str]) -> bool:
        self.verifications += 1
        return self.verifications > self.scene.failed_verifications and not self.faulty()

    async def live(self) -> State:
        """Submit the task and drive it through every crash to its end."""
        first = MemoryStore(self.shared)
        await submit(self.spec, first, self.clock, task_id=TASK, submitted_by="world")
        if self.random and self.rng.random() < 0.05:
            await self._say(e.Steered(by="world", message="before you begin"))
        with anyio.fail_after(VIRTUAL_SECONDS_MAX):
            async with anyio.create_task_group() as host:
                self.host = host
                for _ in range(OWNERS_MAX):
                    state = await self._one_owner()
                    if state is not None and state.ended:
                        if await self._continue(state):
                            continue
                        host.cancel_scope.cancel()
                        return folded(self.shared.tasks[TASK].rows)
                    if state is not None and state.alive:
                        self.blame("an owner went away and did not say so")
                    if state is not None and not self.stop.is_set():
                        await self._person(state)
                host.cancel_scope.cancel()
        raise AssertionError("stuck: the task has not ended")

    async def _one_owner(self) -> State | None:
        store = FaultyStore(self)
        self.dead, self.owner, self.stop = False, self.owner + 1, Stop()
        state: State | None = None
        try:
            lease = await store.claim(TASK)
            async with anyio.create_task_group() as tg:
                self.scope = tg.cancel_scope
                tg.start_soon(self._people, store)
                state = await drive(lease, self.ports(store), self.stop)
                self.scope = None
                tg.cancel_scope.cancel()
        except* (Crash, StoreUnavailable, WorkspaceError):
            state = None
        self.scope = None
        if self.dead or state is None:
            await self._bury(store)
            return None
        self.account.loads.append(state)
        await store.release(lease)
        return state

    async def _bury(self, store: "FaultyStore") -> None:
        """The process is gone; its sandbox may go on for a while, and the next one may crash."""
        store.crash()
        self.dead = False
        self.owner += 1
        self.crash_at = self.points + self.rng.randint(1, 120)
        self.crash_place = self._some_place()
        await anyio.sleep(self.rng.choice([0, 0, 0.5, 10]))

    async def _people(self, store: "FaultyStore") -> None:
        """Decide approvals, sometimes pause, steer, stop or cancel, from other processes."""
        outside = MemoryStore(self.shared)
        while True:
            if self.wishes and self._now() >= self.wishes[0][0]:
                await self._wish(self.wishes.pop(0)[1], store)
            await anyio.sleep(self.rng.uniform(0.5, 20) if self.random else self._patience())
            rows = self.shared.tasks[TASK].rows
            if self.dead or rows[-1].type == "TaskEnded":
                return
            dice = self.rng.random()
            if not self.random and dice > 0.3:
                continue
            state = folded(await outside.load(TASK))
            if state.ended or state.conclusion:
                continue
            if self.random and state.is_open and dice < 0.7:
                await self._wish(self._clients_wish(state), store)
            elif state.asked_client:
                await self._decide(store)
            elif state.approvals and dice < 0.9:
                approves = self.rng.random() < 0.7 if self.random else not self.scene.denies
                await self._say(_answer(state, approves=approves), store)
            elif self.random and dice < 0.02:
                await self._wish("cancel", store)
            elif self.random and dice < 0.1:
                await self._wish("steer", store)
            elif self.random and dice < 0.18:
                await self._wish("pause", store)
            elif self.random and dice < 0.22:
                await self._wish("stop", store)
            elif self.random and dice < 0.26:
                self.clock.offset_us -= int(self.rng.uniform(0, 60) * 1e6)

    async def _continue(self, state: State) -> bool:
        """Somebody re-opens the ended task, now and then two at once, of whom one wins."""
        wishes = self.scene.continuations
        if self.random:
            again = self.continuations_left and self.rng.random() < 0.5
            wish = random_continuation(self.rng, state) if again else None
        else:
            wish = wishes[state.run - 1] if state.run <= len(wishes) else None
        if wish is None:
            return False
        self.continuations_left -= 1
        won = 0
        for by in ("world", "other")[: 1 + (self.random and self.rng.random() < 0.2)]:
            try:
                await self._reopen(wish, by)
                won += 1
            except UsageError:
                return False  # there is nothing to do
            except Conflict:
                pass
        if won != 1:
            self.blame(f"{won} of those who continued the task at once have won")
        return True

    async def _reopen(self, wish: ContinuationSpec, by: str) -> None:
        fact: e.OutsideFact = e.PauseRequested(by=by)

        def make(state: State) -> e.OutsideFact:
            nonlocal fact
            fact = e.Continued(by=by, message=wish.message, spec=continuation(state, wish))
            return fact

        await append_fact(MemoryStore(self.shared), self.clock, LocalBus(), TASK, make)
        self.account.facts.append(fact)

    async def _decide(self, store: "FaultyStore | None" = None) -> None:
        """A connected client answers its open decision, and no other one, once."""
        said: list[e.OutsideFact] = []

        def make(state: State) -> e.OutsideFact:
            asked = open_decision(state, self.toolbox)
            if asked is None:
                raise Conflict("it is not the client's turn")
            messages = self.account.asked[-1:] != [asked.messages] and [asked.messages]
            self.account.asked += messages or []
            message = self._clients_answer(asked)
            said.append(self._reply(state, asked.decision_id, message))
            for other in ("work.t999", "plan.t1", "plan:99", ""):
                try:
                    self._reply(state, other, message)
                except Conflict:
                    continue
                self.blame(f"a client has answered {other!r}, which is not open")
            return said[-1]

        try:
            await append_fact(MemoryStore(self.shared), self.clock, LocalBus(), TASK, make)
        except Conflict:
            return
        self.account.facts.append(said[-1])
        if store is not None:
            store.announce()

    def _clients_answer(self, asked: OpenDecision) -> Message:
        if not self.random:
            turns = sum(m.role == "assistant" for m in asked.messages)
            return self.scene.answers[min(turns, len(self.scene.answers) - 1)].message
        message = random_answer(self.rng, plan=asked.answer_schema is not None).message
        # What it is told at once to mend.
        told_apart = {use.id: use for use in message.calls}.values()
        return structs.replace(message, calls=tuple(told_apart))

    def _reply(self, state: State, decision_id: str, message: Message) -> e.ModelReplied:
        return answer(
            state, self.toolbox, decision_id, text=message.text, calls=message.calls, by="ide"
        )

    def _now(self) -> float:
        return anyio.current_time()

    def _patience(self) -> float:
        return 0.25 if self.wishes else 3.0

    async def _wish(self, wish: str, store: "FaultyStore | None" = None) -> None:
        match wish:
            case "cancel":
                await self._say(e.CancelRequested(by="world"), store)
            case "pause":
                await self._say(e.PauseRequested(by="world"), store)
            case "steer":
                await self._say(e.Steered(by="world", message="hurry"), store)
            case "change":
                await self._say(e.TaskChanged(by="world", priority=self.rng.randint(1, 5)), store)
            case "withdraw":
                step_id = self.rng.choice(list(self.account.requested) or ["never"])
                await self._say(e.CallWithdrawn(step_id=step_id, by="ide"), store)
            case "again":
                await self._request(self.rng.choice(list(self.account.requested)), "pay", store)
            case wish if wish.startswith("call "):
                step_id = f"c{len(self.account.requested)}"
                await self._request(step_id, wish.removeprefix("call "), store)
            case _:
                self.stop.set()

    def _clients_wish(self, state: State) -> str:
        """What the client of a session does next; it ends it by and by."""
        if len(self.account.requested) > 12 or self.rng.random() < 0.03:
            return "cancel"
        wishes = [f"call {self.rng.choice((*TOOLS, 'nowhere'))}"] * 8
        if self.account.requested:
            wishes += ["withdraw", "again"]
        return self.rng.choice([*wishes, "change"])

    async def _request(self, step_id: str, tool: str, store: "FaultyStore | None" = None) -> None:
        """Ask for a call as a client's server does. A name is good for one call for ever."""
        said: list[e.CallRequested] = []

        def make(state: State) -> e.OutsideFact:
            if state.ended or state.conclusion or state.cancel:
                raise Conflict("it is over")
            if step_id in state.steps or step_id in state.past:
                raise Conflict("it was asked for before")
            if step_id in self.account.requested:
                self.blame(f"the call {step_id} was asked for, and is forgotten")
            effect = effect_if_known(state.task, tool, {}, self.toolbox)
            said.append(
                e.CallRequested(step_id=step_id, tool=tool, arguments={}, effect=effect, by="ide")
            )
            return said[-1]

        try:
            await append_fact(MemoryStore(self.shared), self.clock, LocalBus(), TASK, make)
        except Conflict:
            return
        self.account.requested[step_id] = tool
        self.account.facts.append(said[-1])
        if store is not None:
            store.announce()

    async def _person(self, state: State) -> None:
        """The driver came back without an end: somebody has to do something."""
        status, _ = status_of(state)
        if state.paused:
            await self._say(e.ResumeRequested(by="world"))
        elif state.asked_client:
            await self._decide()
        elif state.awaits_calls and (self.random or self.wishes):
            await self._wish(self._clients_wish(state) if self.random else self.wishes.pop(0)[1])
        elif status is Status.RUNNING:
            return  # somebody has answered meanwhile: it goes on
        elif state.approvals:
            self.blame("a driver went away while an approval was pending: it never expires")
            await self._say(_answer(state, approves=True))
        else:
            await self._say(e.CancelRequested(by="world", reason="it waits"))

    async def _say(
        self,
        fact: e.OutsideFact,
        store: "FaultyStore | None" = None,
    ) -> None:
        def make(state: State) -> e.OutsideFact:
            if state.ended or state.conclusion:
                raise Conflict("it is over")
            if isinstance(fact, e.ApprovalDecided) and fact.approval_id not in state.approvals:
                raise Conflict("it is decided")
            return fact

        outside = MemoryStore(self.shared)
        try:
            await append_fact(outside, self.clock, LocalBus(), TASK, make)
        except Conflict:
            return
        self.account.facts.append(fact)
        if store is not None:
            store.announce()


def _answer(state: State, *, approves: bool) -> e.ApprovalDecided:
    return e.ApprovalDecided(
        approval_id=sorted(state.approvals)[0],
        decision="approve" if approves else "deny",
        by="world",
    )


def folded(rows: Sequence[Row]) -> State:
    """The state that a log leads to."""
    return fold(((codec.decode(r), r.at_us) for r in rows), State(task_id=TASK))


# ---- the adapters ------------------------------------------------------------------------


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


class WorldWorkspaces(FakeWorkspaces):
    """Sees who touches a workspace while an earlier owner's sandbox is alive."""

    def __init__(self, world: World) -> None:
        super().__init__({"a": "0"}, self._look)
        self._world = world

    async def _look(self, place: str) -> None:
        world = self._world
        await world.point(place)
        strangers = [s for s in world.sessions if s.owner != world.owner]
        if strangers and place != "open workspace":
            world.blame(f"{place} while an earlier owner's sandbox is alive")

    async def open(
        self,
        task_id: TaskId,
        spec: WorkspaceSpec,
        *,
        disk: DiskQuota | None = None,
        left: LeftWork | None = None,
    ) -> OpenedWorkspace:
        if self._world.faulty():
            raise OSError("the disk is slow")
        return await super().open(task_id, spec, left=left)


class WorldToolbox(FakeToolbox):
    """A toolbelt that does not start now and then."""

    def __init__(self, world: World) -> None:
        super().__init__(world.tools, world.point)
        self._world = world

    async def activate(self, toolbelt: str) -> Sequence[str]:
        if self._world.faulty():
            raise PluginError(f"{toolbelt!r} did not start")
        return await super().activate(toolbelt)


class WorldSandbox(FakeSandbox):
    """Sandboxes that outlive their owner until they are closed or reaped."""

    def __init__(self, world: World) -> None:
        super().__init__(world.tools, world.point)
        self._world = world

    async def open(self, spec: SandboxSpec) -> SandboxSession:
        await self._world.point("open sandbox")
        session = WorldSession(self, spec, self._world)
        self._world.sessions.add(session)
        await self._world.point("sandbox is open")
        return session

    async def reap(self, owner_id: str) -> int:
        await self._world.point("reap")
        found = list(self._world.sessions)
        for session in found:
            await session.kill()
        await self._world.point("reaped")
        return len(found)


class WorldSession(FakeSession):
    """A worker: its tools run beside the owner and are told of their end by a cancellation."""

    def __init__(self, sandbox: WorldSandbox, spec: SandboxSpec, world: World) -> None:
        super().__init__(sandbox, spec)
        self._world = world
        self.owner = world.owner
        self._jobs: set[_Job] = set()

    async def call(self, info: ToolInfo, call: ToolCall, *, deadline_seconds: float) -> ToolResult:
        world = self._world
        await world.point(f"call {call.call_id}")
        await self._die_perhaps()
        job = _Job(call)
        self._jobs.add(job)
        assert world.host is not None
        world.host.start_soon(self._work, info.name, job)
        try:
            with anyio.fail_after(deadline_seconds):
                await job.done.wait()
        except TimeoutError:
            await self.close()
            raise DeadlineExceeded(f"no answer within {deadline_seconds:g} s") from None
        await world.point(f"called {call.call_id}")
        await self._die_perhaps()
        if job.result is None:
            raise WorkerLost("the worker was killed")
        return job.result

    async def _die_perhaps(self) -> None:
        if self._world.faulty(0.5):
            await self.kill()
        if not self.alive:
            raise WorkerLost("the worker is dead")

    async def _work(self, name: str, job: "_Job") -> None:
        self._tell(job, "opened")
        try:
            with job.scope:
                job.result = await self._sandbox.tools[name].execute(job.call)
        except Exception as error:  # noqa: BLE001 - a defect of the tools below
            self._world.blame(f"tool {name}: {error!r}")
        finally:
            self._tell(job, "closed")
            self._jobs.discard(job)
            job.done.set()

    def _tell(self, job: "_Job", kind: str) -> None:
        """The way out ends with the owner: what a sandbox does then, it does without it."""
        world, heard = self._world, self.spec.egress_heard
        if world.goes_out and heard is not None and self.owner == world.owner and not world.dead:
            host = f"host{len(job.call.call_id) % 3}"
            record = EgressRecord(
                kind=kind, number=id(job), host=host, port=1, address="192.0.2.1", bytes_sent=1,
                mark=len(world.record) + 1,
            )  # fmt: skip
            world.record.append(record)
            heard(record)

    async def close(self) -> None:
        await self._world.point("close sandbox")
        await self.kill()
        await self._world.point("sandbox is closed")

    async def kill(self) -> None:
        """SIGKILL; returns when nothing of it is alive."""
        self.alive = False
        with anyio.CancelScope(shield=True):
            for job in tuple(self._jobs):
                job.scope.cancel()
                await job.done.wait()
        self._world.sessions.discard(self)


class WorldEnvironment(FakeEnvironment):
    """Every sandbox stands on what the preparation found, and nothing else."""

    def __init__(self, world: World) -> None:
        super().__init__(point=world.point)
        self._world = world

    async def furnish(self, task_id: TaskId, prepared: PreparedEnvironment) -> Furnishing:
        self._look(prepared)
        return await super().furnish(task_id, prepared)

    @asynccontextmanager
    async def fresh(
        self, task_id: TaskId, prepared: PreparedEnvironment, checkout: str
    ) -> AsyncIterator[Furnishing]:
        self._look(prepared)
        async with super().fresh(task_id, prepared, checkout) as furnishing:
            yield furnishing

    def _look(self, prepared: PreparedEnvironment) -> None:
        if prepared != self.found:
            self._world.blame(f"environment: a sandbox stands on {prepared.source!r}")


class WorldPublisher(FakePublisher):
    """A forge that fails now and then, and whose base moves."""

    def __init__(self, world: World) -> None:
        super().__init__(world.remote, world.workspaces, world.point)
        self._world = world

    async def _step(self, place: str) -> None:
        await self._world.point(place)
        if self._world.faulty():
            raise PublishFailed("no", kind=self._world.rng.choice(["transient", "denied"]))
        if self._world.faulty(0.3):
            self._world.remote.base += "x"


class WorldRecord:
    """Each record's mark is its number."""

    def __init__(self, world: World) -> None:
        self._world = world

    def after(self, owner_id: str, mark: int) -> list[EgressRecord]:
        return self._world.record[mark:]


class _Job:
    """One tool that runs in a worker."""

    def __init__(self, call: ToolCall) -> None:
        self.call = call
        self.scope = anyio.CancelScope()
        self.done = anyio.Event()
        self.result: ToolResult | None = None


MODELS = (
    ModelChoice(
        name="world/first", provider="a", context_tokens=16_000, output_tokens_max=2_000,
        input_usd_per_mtok=3.0, output_usd_per_mtok=15.0,
    ),
    ModelChoice(
        name="world/second", provider="b", context_tokens=9_000, output_tokens_max=9_000,
        input_usd_per_mtok=1.0, output_usd_per_mtok=5.0,
    ),
)  # fmt: skip
"""Two, so that the second takes over; with small windows, so that conversations are compacted."""

FAULTS: tuple[ModelFaultKind, ...] = (
    "rate", "overload", "transport", "truncated", "bad_request", "context", "auth",
)  # fmt: skip


class WorldModel:
    """Asks for a few calls, fails in all ways, and keeps to what was reserved for it."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def find(self, task: TaskSpec) -> Brain:
        if task.model is None:
            return Brain(kind="none", offers=("name a model",))
        if task.model == "client":
            return Brain(kind="client")
        return Brain(kind="model", models=MODELS)

    async def complete(self, request: ModelRequest) -> ModelAnswer | ModelFault:
        world, rng = self._world, self._world.rng
        world.account.asked.append(request.messages)
        await world.point("ask model")
        await anyio.sleep(rng.uniform(0.1, 30) if world.random else 1)
        prompt = sum(len(m.text) for m in request.messages) // 4
        if world.faulty(2):
            kind = rng.choice(FAULTS)
            after = rng.choice([None, 2.5, 30.0]) if kind == "rate" else None
            used = ModelUsage(input=rng.choice([0, prompt]))
            usd = used.input * request.model.input_usd_per_mtok / 1e6
            return ModelFault(
                kind=kind, message="no", retry_after_seconds=after, usage=used, usd=usd
            )
        await world.point("model answered")
        if not world.random:
            # A turn that is asked again after a crash is answered alike.
            turns = sum(m.role == "assistant" for m in request.messages)
            answers = world.scene.answers
            return answers[min(turns, len(answers) - 1)]
        usage = ModelUsage(input=prompt, output=rng.randint(1, request.output_tokens_max))
        choice = request.model
        return replace(
            random_answer(rng, plan=request.answer_schema is not None),
            usage=usage,
            usd=(usage.input * choice.input_usd_per_mtok
                 + usage.output * choice.output_usd_per_mtok) / 1e6,
        )  # fmt: skip


def random_answer(rng: random.Random, *, plan: bool) -> ModelAnswer:
    """What a brain says that now and then has lost its way, or lies."""
    if plan:
        return says(rng.choice([_PLAN, _PLAN, "I would rather not.", "", _DEEP]))
    names = [
        "look", "look", "look", "write", "pay", "put", "post", "nothing_like_it", "special",
        "find_tools", "recall",
    ]  # fmt: skip
    chosen = rng.choices(names, k=rng.choice([0, 0, 1, 2, 3, 4]))
    answer = says(
        rng.choice(["hm", "hm " * 500, ""]), *((n, _ARGUMENTS.get(n, {})) for n in chosen)
    )
    if rng.random() < 0.1:
        junk = tuple(rng.choice(_JUNK) for _ in range(rng.choice([1, 1, 2, 150])))
        message = answer.message
        return replace(
            answer,
            message=structs.replace(message, calls=(*message.calls, *junk)),
            stop="calls",
        )
    return replace(answer, stop="length") if rng.random() < 0.05 else answer


_ARGUMENTS: Mapping[str, dict[str, Json]] = {
    "write": {"text": "x"},
    "find_tools": {"query": "something special"},
    "recall": {"ref": "work.t1.0"},
}
_JUNK = (
    ToolUse(id="use_junk", name="look", raw='{"a": '),
    ToolUse(id="", name="look", arguments={}),
    ToolUse(id="use_1", name="write", arguments={"text": "\udc00"}),
    ToolUse(id="\ud800", name="lo.ok", arguments={"a": float("nan")}),
    ToolUse(id="use_9", name="", arguments={"a": 10**400}),
    ToolUse(id="use_9", name="recall", arguments={"ref": "\ud83d", "start": -1}),
)
"""What no log can hold, what is there twice, what no tool takes."""
_DEEP = '{"a":' + "[" * 5_000 + "}"
_PLAN = json.dumps(
    {
        "requirements": ["it lives"],
        "steps": [
            {"id": "first", "goal": "look", "needs": []},
            {"id": "second", "goal": "write", "needs": ["first"]},
        ],
        "objectives": [{"id": "own", "command": "true"}],
    }
)


# ---- the tools ---------------------------------------------------------------------------


def world_tools(world: World) -> list[FunctionTool]:
    """A tool for every effect class; each may fail or take too long."""
    rng, account = world.rng, world.account

    async def work(name: str, call: ToolCall) -> ToolResult | None:
        account.keys.setdefault(call.idempotency_key, {}).setdefault(
            call.call_id, (name, call.arguments)
        )
        await anyio.sleep(rng.uniform(0.001, 3) if world.random else 0.5)
        if name in world.slow or world.faulty(0.3):
            world.slow.discard(name)
            await anyio.sleep(FOREVER_SECONDS)
        if name in world.scene.failing or world.faulty():
            return ToolResult(ok=False, output="it did not work", exit=1, kind="failed")
        return None

    @contextmanager
    def lane(name: str, call: ToolCall) -> Iterator[None]:
        account.writing += 1
        if account.writing > 1:
            world.blame(f"{name} {call.call_id} overlaps another writing call")
        try:
            yield
        finally:
            account.writing -= 1

    async def outside(call: ToolCall, name: str) -> ToolResult:
        with lane(name, call):
            failed = await work(name, call)
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
        account.reading += 1
        account.reading_most = max(account.reading_most, account.reading)
        try:
            failed = await work("look", call)
            return failed or ToolResult(ok=True, output="seen", exit=0)
        finally:
            account.reading -= 1

    @tool(effect=Effect.WORKSPACE, parameters={"text": {"type": "string"}})
    async def write(call: ToolCall) -> ToolResult:
        """Append to a file, in two halves."""
        with lane("write", call):
            files = world.workspaces.files[call.task_id]
            files["a"] += "<"
            await world.worker_point("half written")
            failed = await work("write", call)
            files["a"] += ">"
            account.runs[call.call_id] += 1
            await world.worker_point("written")
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
        await work("special", call)
        return ToolResult(ok=True, output="special", exit=0)

    return [look, write, pay, put, post, special]


# ---- running a life ----------------------------------------------------------------------


@dataclass(frozen=True)
class Life:
    """What came of one seed."""

    state: State
    rows: Sequence[Row]
    events: Sequence[e.AnyEvent]
    world: World

    @property
    def head(self) -> str:
        return self.rows[-1].hash

    @property
    def points(self) -> int:
        return self.world.points


def live(seed: int, chances: Chances | None = None, scene: Scene | None = None) -> Life:
    """Live one life on virtual time."""
    world = World(seed, chances or Chances(), scene)
    main: Callable[[], Awaitable[State]] = world.live
    with deterministic_trio(seed), _snapshots_every(world.snapshot_events):
        clock = trio.testing.MockClock(autojump_threshold=0)
        state = anyio.run(main, backend="trio", backend_options={"clock": clock})
    rows = world.shared.tasks[TASK].rows
    return Life(state, rows, [codec.decode(r) for r in rows], world)


@contextmanager
def _snapshots_every(events: int) -> Iterator[None]:
    before, journal.SNAPSHOT_EVENTS = journal.SNAPSHOT_EVENTS, events
    try:
        yield
    finally:
        journal.SNAPSHOT_EVENTS = before
