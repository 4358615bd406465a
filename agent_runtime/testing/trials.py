"""One call of a tool on the real loop, its owner killed at one await, another owner recovering.

Journal, driver and effect ledger are the real ones; store and sandbox are in memory, the workspace
is a temporary directory. What the outcome says about the tool's effect class is judged in
`grading`.

A kill stops the tool where it stands: no `except` and no `finally` of it runs until everything has
been looked at, as after SIGKILL. Only the tool's own awaits are such places: a thread or a task
that it has started itself goes on.
"""

from __future__ import annotations

import inspect
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from agent_runtime.bus import LocalBus
from agent_runtime.clock import SystemClock
from agent_runtime.errors import StoreUnavailable, ToolRefused, UsageError
from agent_runtime.loop import codec
from agent_runtime.loop import events as e
from agent_runtime.loop.driver import drive
from agent_runtime.loop.state import State
from agent_runtime.loop.submission import submit
from agent_runtime.ports.everything import Ports
from agent_runtime.ports.tools import ProbingTool, Tool
from agent_runtime.ports.workspaces import DiskQuota, LeftWork, OpenedWorkspace
from agent_runtime.stores.memory import MemoryStore, SharedMemory
from agent_runtime.testing.fakes import (
    FakeEnvironment,
    FakeSandbox,
    FakeToolbox,
    FakeVerifier,
    FakeWorkspaces,
    Point,
    VirtualClock,
)
from agent_runtime.types import (
    Check,
    Effect,
    EffectPolicy,
    Json,
    Objective,
    PlanSpec,
    Policy,
    StepSpec,
    TaskId,
    TaskSpec,
    ToolCall,
    ToolResult,
    TreeId,
    WorkspaceSpec,
)

Observe = Callable[[], Any]
"""Reads the outside world; may be async. See `count`."""
Reset = Callable[[], Any]
"""Puts the outside world back; may be async."""
Files = Mapping[str, str]
"""Path in the workspace -> text."""

STEP = "graded"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What stays the same from one trial to the next. `seconds` is the deadline of each."""

    tool: Tool | Callable[[], Tool]
    arguments: Mapping[str, Json]
    observe: Observe
    reset: Reset | None
    files: Files
    seconds: float

    def owners_tool(self) -> Tool:
        """The tool as a new process would have it, if it was given as a function."""
        return self.tool if isinstance(self.tool, Tool) else self.tool()


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What one call and its recovery did."""

    places: tuple[str, ...]
    """Where the first owner could have been killed, in order, up to where it was."""
    killed: str
    """Where it was killed; empty if it was not."""
    resolution: str
    """What the effect ledger made of the call without a result; empty if it had one."""
    returned: e.CallReturned | None
    """The call's result; None if it has none."""
    reason: str = ""
    """Why its task ended."""
    added: Counter[str] = field(default_factory=Counter)
    removed: Counter[str] = field(default_factory=Counter)
    """How the outside world differs from before."""
    files: Mapping[str, str] = field(default_factory=dict)
    """The workspace at the end."""

    @property
    def changes(self) -> int:
        """How much of the outside world differs."""
        return self.added.total() + self.removed.total()


async def run_trial(
    experiment: Experiment, *, effect: Effect | None = None, kill_at: int | None = None
) -> Trial:
    """Make the call, kill its owner at the `kill_at`-th place (from 0); another one recovers.

    `effect` stands for the tool's own. Everything the task did has ended when it returns.

    Raises:
        UsageError: it cannot be made like this (bad arguments, no end in time).
    """
    if experiment.reset is not None:
        await _called(experiment.reset)
    with tempfile.TemporaryDirectory(prefix="agent-runtime-trial-") as directory:
        life = _Life(experiment, effect, kill_at, directory)
        try:
            with anyio.fail_after(experiment.seconds):
                return await life.live()
        except TimeoutError:
            where = f"killed {life.killed}, " if life.killed else ""
            raise UsageError(
                f"tool {experiment.owners_tool().name!r}: {where}the call came to no end within "
                f"{experiment.seconds:g} s; give a larger seconds=. If it waits for a lock that "
                "its killed call still holds, give a function that makes the tool instead of "
                "the tool: every owner then has one of its own"
            ) from None


def count(seen: Any) -> Counter[str]:
    """What `observe` saw, as a bag of things, so that a repetition counts.

    A number counts itself, numbers by name count each, a text is its lines; of anything else that
    can be iterated every item is one, and any other value is one thing.
    """
    match seen:
        case bool() | None | bytes():
            return Counter([repr(seen)])
        case int():
            return Counter({"the count": seen})
        case str():
            return Counter(seen.splitlines())
        case Mapping() if seen and all(type(value) is int for value in seen.values()):
            return Counter({repr(key): value for key, value in seen.items()})
        case Mapping():
            return Counter(f"{key!r}: {value!r}" for key, value in seen.items())
        case Iterable():
            return Counter(repr(item) for item in seen)
        case _:
            return Counter([repr(seen)])


async def _called(function: Callable[[], Any]) -> Any:
    value = function()
    return await value if inspect.isawaitable(value) else value


# ---- one life ----------------------------------------------------------------------------


class _Killed(BaseException):
    """The owner dies here. Not an `Exception`: nothing may catch it."""


class _Life:
    """One task with one call in it, its first owner and, if that one was killed, its second."""

    def __init__(
        self, experiment: Experiment, effect: Effect | None, kill_at: int | None, directory: str
    ) -> None:
        self.killed = ""
        self._experiment, self._effect, self._kill_at = experiment, effect, kill_at
        self._shared = SharedMemory()
        self._workspaces = _Directory(experiment.files, directory, self.point)
        self._places: list[str] = []
        self._watching = False
        self._store: _Store | None = None
        self._scope = anyio.CancelScope()
        self._host: TaskGroup | None = None
        self._over = anyio.Event()

    async def live(self) -> Trial:
        before = count(await _called(self._experiment.observe))
        name = self._experiment.owners_tool().name
        task_id = await self._submit(name)
        async with anyio.create_task_group() as host:
            self._host = host
            try:
                state = await self._owner(task_id)
                if self.killed:
                    state = await self._owner(task_id)
                assert state is not None and state.ended, "nothing here makes a task wait"
                after = count(await _called(self._experiment.observe))
                trial = self._trial(task_id, state, before, after)
            finally:
                # Only now may what was killed unwind: nobody looks at what that changes.
                self._over.set()
                host.cancel_scope.cancel()
        return trial

    async def _submit(self, name: str) -> TaskId:
        spec = TaskSpec(
            goal="Grade the effect of one call",
            workspace=WorkspaceSpec(repo="/graded"),
            plan=PlanSpec(
                steps=[
                    StepSpec(
                        id=STEP,
                        tool=name,
                        args=dict(self._experiment.arguments),
                        effect=self._effect,
                        timeout_seconds=self._experiment.seconds,
                    )
                ]
            ),
            objectives=[Objective(id="none", check=Check(command="true"))],
            policy=Policy(tools=[name], unknown_effect="continue"),
        )
        store = MemoryStore(self._shared)
        return await submit(spec, store, SystemClock(), submitted_by="agent_runtime.testing")

    async def _owner(self, task_id: TaskId) -> State | None:
        """One process that drives the task; None if it was killed."""
        store = self._store = _Store(self._shared, self)
        tool = self._experiment.owners_tool()
        guest = _ProbingGuest(self, tool) if isinstance(tool, ProbingTool) else _Guest(self, tool)
        ports = Ports(
            store=store,
            clock=VirtualClock(),
            bus=LocalBus(),
            toolbox=FakeToolbox([guest], self.point),
            sandbox=FakeSandbox([guest], self.point),
            workspaces=self._workspaces,
            verifier=FakeVerifier(self._workspaces, point=self.point),
            environment=FakeEnvironment(),
        )
        state: State | None = None
        try:
            with anyio.CancelScope() as self._scope:
                state = await drive(await store.claim(task_id), ports)
        except* (_Killed, StoreUnavailable):
            if not self.killed:
                raise
        return state

    def _trial(
        self, task_id: TaskId, state: State, before: Counter[str], after: Counter[str]
    ) -> Trial:
        events = [codec.decode(row) for row in self._shared.tasks[task_id].rows]
        returned = [event for event in events if isinstance(event, e.CallReturned)]
        resolved = [event for event in events if isinstance(event, e.CallResolved)]
        return Trial(
            places=tuple(self._places),
            killed=self.killed,
            resolution=resolved[-1].resolution if resolved else "",
            returned=returned[-1] if returned else None,
            reason=state.conclusion.reason if state.conclusion else "",
            added=after - before,
            removed=before - after,
            files=self._workspaces.read(),
        )

    # ---- dying ---------------------------------------------------------------------------

    def watch(self, watching: bool) -> None:
        """From now on the first owner may (not) be killed."""
        self._watching = watching and not self.killed

    async def point(self, place: str) -> None:
        """An await of the owner."""
        if self._dies(f"at {place!r}" if place.islower() and " " not in place else place):
            raise _Killed
        await anyio.lowlevel.checkpoint()

    def _dies(self, place: str) -> bool:
        if not self._watching:
            return False
        self._places.append(place)
        if len(self._places) - 1 != self._kill_at:
            return False
        self.killed, self._watching = place, False
        assert self._store is not None
        self._store.crash()
        self._scope.cancel()
        return True

    async def apart(self, execute: Callable[[], Awaitable[ToolResult]]) -> ToolResult:
        """Run the tool beside its owner, which may then die alone."""
        answers: list[ToolResult | Exception] = []
        done, scope, awaits = anyio.Event(), anyio.CancelScope(), 0

        def dies_inside() -> bool:
            nonlocal awaits
            awaits += 1
            return self._dies(f"at await {awaits} of its own")

        async def body() -> ToolResult:
            return await execute()

        async def run() -> None:
            try:
                with scope:
                    answers.append(await _Stepped(body(), dies_inside, self._over))
            except Exception as error:  # noqa: BLE001 - the border to a plug-in
                answers.append(error)
            except (_Killed, BaseExceptionGroup):
                if not self.killed:
                    raise
            done.set()

        assert self._host is not None
        self._host.start_soon(run)
        try:
            await done.wait()
        except anyio.get_cancelled_exc_class():
            if not self.killed:
                scope.cancel()
            raise
        if isinstance(answers[0], Exception):
            raise answers[0]
        return answers[0]


class _Stepped:
    """Awaits a coroutine; when `dies` says so, it is not resumed until everything is over."""

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, ToolResult],
        dies: Callable[[], bool],
        over: anyio.Event,
    ) -> None:
        self._coroutine, self._dies, self._over = coroutine, dies, over

    def __await__(self) -> Generator[Any, Any, ToolResult]:
        step: Callable[[Any], Any] = self._coroutine.send
        value: Any = None
        while True:
            try:
                trap = step(value)
            except StopIteration as stop:
                result: ToolResult = stop.value
                return result
            try:
                value, step = (yield trap), self._coroutine.send
                # What it waited for has happened. Dying before that would look the same.
                if self._dies():
                    yield from self._lie_dead().__await__()
                    value, step = _Killed(), self._coroutine.throw
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is the coroutine's
                value, step = error, self._coroutine.throw

    async def _lie_dead(self) -> None:
        # Shielded: a deadline of the tool's own must not wake it.
        with anyio.CancelScope(shield=True):
            await self._over.wait()


class _Guest:
    """The tool under test, as the loop sees it."""

    def __init__(self, life: _Life, tool: Tool) -> None:
        self._life, self._tool = life, tool
        self.name, self.description, self.parameters = tool.name, tool.description, tool.parameters
        self.toolbelt, self.where = tool.toolbelt, tool.where

    def effect(self, arguments: Mapping[str, Json], policy: EffectPolicy) -> Effect:
        return self._tool.effect(arguments, policy)

    async def execute(self, call: ToolCall) -> ToolResult:
        await self._life.point("before it starts")
        if self.where == "worker":
            call = replace(call, home=f"{call.workspace}-home")
        try:
            result = await self._life.apart(lambda: self._tool.execute(call))
        except (ToolRefused, TimeoutError):
            raise
        except Exception as error:  # noqa: BLE001 - data, as the real worker makes it
            text = f"it failed with {type(error).__name__}: {error}"
            result = ToolResult(ok=False, kind="internal", output=text)
        await self._life.point("when it has returned")
        return result


class _ProbingGuest(_Guest):
    async def probe(self, call: ToolCall) -> bool | None:
        assert isinstance(self._tool, ProbingTool)
        return await self._tool.probe(call)


class _Store(MemoryStore):
    """One owner's store: it may die on either side of an append."""

    def __init__(self, shared: SharedMemory, life: _Life) -> None:
        super().__init__(shared)
        self._life = life

    async def append(self, task_id, expected, rows, **more):  # type: ignore[no-untyped-def]
        types = {row.type for row in rows}
        intent, result = e.CallIntended.__name__ in types, e.CallReturned.__name__ in types
        what = "intent" if intent else "result" if result else "next event"
        if intent:
            self._life.watch(True)
        await self._life.point(f"before its {what} is stored")
        last = await super().append(task_id, expected, rows, **more)
        await self._life.point(f"once its {what} is stored")
        if result:
            self._life.watch(False)
        return last


class _Directory(FakeWorkspaces):
    """A workspace that tools can write to: a real directory, with trees in memory."""

    def __init__(self, files: Files, directory: str, point: Point) -> None:
        super().__init__({path: f"- {_text(text)}" for path, text in files.items()}, point)
        self._path = os.path.join(directory, "workspace")
        os.makedirs(f"{self._path}-home")
        self._write(self._base)

    async def open(
        self,
        task_id: TaskId,
        spec: WorkspaceSpec,
        *,
        disk: DiskQuota | None = None,
        left: LeftWork | None = None,
    ) -> OpenedWorkspace:
        opened = await super().open(task_id, spec, left=left)
        return replace(opened, path=self._path, mount=self._path)

    def tree_of(self, task_id: str) -> TreeId:
        self.files[task_id] = self.read()
        return super().tree_of(task_id)

    async def restore(self, task_id: TaskId, tree: TreeId) -> None:
        self._write(self.trees[tree])
        await super().restore(task_id, tree)

    async def scratch(self, task_id: TaskId, *, disk: DiskQuota | None = None) -> str:
        return f"{self._path}-home"

    def read(self) -> dict[str, str]:
        """Path -> kind (- file, x executable, l link) and content, as it lies there."""
        found = {}
        for directory, names, files in os.walk(self._path):
            links = [name for name in names if os.path.islink(os.path.join(directory, name))]
            for name in [*files, *links]:
                path = os.path.join(directory, name)
                found[os.path.relpath(path, self._path)] = _read(path)
        return found

    def _write(self, files: Mapping[str, str]) -> None:
        shutil.rmtree(self._path, ignore_errors=True)
        os.makedirs(self._path)
        for name, entry in files.items():
            path, (kind, content) = os.path.join(self._path, name), (entry[0], entry[2:])
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if kind == "l":
                os.symlink(content, path)
                continue
            with open(path, "wb") as file:
                file.write(content.encode("latin-1"))
            os.chmod(path, 0o755 if kind == "x" else 0o644)


def _text(text: str) -> str:
    # Bytes of any kind come and go as latin-1, one character each.
    return text.encode().decode("latin-1")


def _read(path: str) -> str:
    if os.path.islink(path):
        return f"l {os.readlink(path)}"
    with open(path, "rb") as file:
        kind = "x" if os.access(path, os.X_OK) else "-"
        return f"{kind} {file.read().decode('latin-1')}"
