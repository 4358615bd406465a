"""Public fakes of the ports, for tests of tools, of modules and of the loop itself.

They wait where the real ones wait: `point` is awaited before and after every effect, so that a test
can fail or crash there. The loop's own simulation and third-party tests use the same ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import PurePosixPath

import anyio
import anyio.lowlevel
import msgspec

from agent_runtime.errors import (
    DeadlineExceeded,
    NotFound,
    PreviewFailed,
    PublishFailed,
    ToolRefused,
    UsageError,
    WorkerLost,
    WorkspaceError,
)
from agent_runtime.messages import Brain, Message, ModelChoice, ModelUsage, ToolUse
from agent_runtime.ports.egress import EgressRecord
from agent_runtime.ports.environment import Furnishing, Preparation
from agent_runtime.ports.model import ModelAnswer, ModelFault, ModelRequest
from agent_runtime.ports.publisher import OpenedRequest, PreparedBranch, PublishOrder
from agent_runtime.ports.sandbox import (
    ExecResult,
    Probe,
    Sandbox,
    SandboxLimits,
    SandboxSession,
    SandboxSpec,
)
from agent_runtime.ports.tools import PreviewingTool, Tool
from agent_runtime.ports.verifier import CheckOutcome, Furnished, Verification
from agent_runtime.ports.workspaces import (
    ArtifactLimits,
    Change,
    DiskQuota,
    FoundFile,
    FoundFiles,
    LeftWork,
    OpenedWorkspace,
)
from agent_runtime.types import (
    Json,
    Objective,
    PreparedEnvironment,
    TaskId,
    TaskSpec,
    ToolCall,
    ToolInfo,
    ToolResult,
    TreeId,
    WorkspaceSpec,
)

Point = Callable[[str], Awaitable[None]]
"""Awaited at every place where the real adapter would wait; gets the place's name."""


async def checkpoint(place: str) -> None:
    """The point of a fake in which nothing special happens."""
    await anyio.lowlevel.checkpoint()


class VirtualClock:
    """Wall time that follows the event loop's clock, so virtual under trio's `MockClock`."""

    def __init__(self, start_us: int = 1_750_000_000_000_000) -> None:
        self.offset_us = start_us

    def now_us(self) -> int:
        """Microseconds; set `offset_us` to let it jump."""
        return self.offset_us + int(anyio.current_time() * 1e6)


@contextmanager
def deterministic_trio(seed: int) -> Iterator[None]:
    """Make trio's scheduler choose the same order for the same seed.

    Uses two private names of trio (pinned for that reason); there is no public way.
    """
    import trio._core._run as trio_run

    before = trio_run._ALLOW_DETERMINISTIC_SCHEDULING
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    trio_run._r.seed(seed)
    try:
        yield
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = before  # type: ignore[misc]


class FakeToolbox:
    """Tools from a list; a toolbelt is activated by being asked for."""

    def __init__(self, tools: Sequence[Tool], point: Point = checkpoint) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._point = point
        self.activated: list[str] = []

    def find(self, name: str) -> ToolInfo | None:
        """The tool's face, or None."""
        tool = self._tools.get(name)
        return None if tool is None else info_of(tool)

    def all(self) -> Sequence[ToolInfo]:
        """Sorted by name."""
        return [info_of(tool) for _, tool in sorted(self._tools.items())]

    def get(self, name: str) -> Tool:
        """The tool itself. `NotFound` if there is none."""
        if name not in self._tools:
            raise NotFound(f"no tool is called {name!r}")
        return self._tools[name]

    async def activate(self, toolbelt: str) -> Sequence[str]:
        """Remember it."""
        await self._point(f"activate {toolbelt}")
        self.activated.append(toolbelt)
        return sorted(t.name for t in self._tools.values() if t.toolbelt == toolbelt)

    async def deactivate(self, toolbelt: str) -> None:
        """Forget it."""
        await self._point(f"deactivate {toolbelt}")


def info_of(tool: Tool) -> ToolInfo:
    """The face of a tool object."""
    return ToolInfo(
        name=tool.name,
        description=tool.description,
        parameters=tool.parameters,
        toolbelt=tool.toolbelt,
        where=tool.where,
    )


class FakeWorkspaces:
    """Workspaces in memory: `files[task_id]` maps paths to text, trees are hashes of that."""

    def __init__(self, base: Mapping[str, str] | None = None, point: Point = checkpoint) -> None:
        self.files: dict[str, dict[str, str]] = {}
        self.trees: dict[TreeId, dict[str, str]] = {}
        self._base = {"README": "hello"} if base is None else dict(base)
        self._point = point
        self.closed: list[str] = []
        self._open: set[str] = set()

    def tree_of(self, task_id: str) -> TreeId:
        """The tree of the files as they are now."""
        files = dict(self.files[task_id])
        text = repr(sorted(files.items()))
        tree = TreeId(hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
        self.trees[tree] = files
        return tree

    async def check(self, spec: WorkspaceSpec, *, at: str = "") -> None:
        """Everything can be opened."""

    async def open(
        self,
        task_id: TaskId,
        spec: WorkspaceSpec,
        *,
        disk: DiskQuota | None = None,
        left: LeftWork | None = None,
    ) -> OpenedWorkspace:
        """A copy of the base for every task, or what was left of it."""
        await self._point("open workspace")
        if left is not None and task_id not in self._open:
            self.files[task_id] = dict(self.trees[left.tree])
        self.files.setdefault(task_id, dict(self._base))
        self._open.add(task_id)
        base = TreeId(hashlib.sha1(repr(sorted(self._base.items())).encode()).hexdigest())
        self.trees[base] = dict(self._base)
        await self._point("workspace is open")
        return OpenedWorkspace(
            path=f"/fake/{task_id}", mount="/workspace", base_commit="c0ffee", base_tree=base
        )

    async def require(self, task_id: TaskId, trees: Sequence[TreeId]) -> None:
        """Those that were taken."""
        if gone := [tree for tree in trees if tree not in self.trees]:
            raise WorkspaceError(f"the versions {gone} are gone")

    async def find(
        self, task_id: TaskId, tree: TreeId, patterns: Sequence[str], *, limits: ArtifactLimits
    ) -> FoundFiles:
        """Patterns as the standard library's `fnmatch` has them."""
        await self._point("find")
        files = self.trees[tree]
        names = [n for n in sorted(files) if any(fnmatch(n, pattern) for pattern in patterns)]
        found = [
            FoundFile(path=n, bytes=len(text), sha256=hashlib.sha256(text).hexdigest())
            for n, text in ((name, files[name].encode()) for name in names[: limits.files])
        ]
        missing = (p for p in patterns if not any(fnmatch(file.path, p) for file in found))
        left_out = tuple(f"{name}: too many" for name in names[limits.files :])
        return FoundFiles(files=tuple(found), missing=tuple(missing), left_out=left_out)

    async def without_ignored(
        self, task_id: TaskId, tree: TreeId, *, base: TreeId, patterns: Sequence[str]
    ) -> TreeId:
        """Nothing is ignored."""
        await self._point("without ignored")
        return tree

    async def take_out(
        self, task_id: TaskId, tree: TreeId, paths: Sequence[str], target: str
    ) -> None:
        """Nothing is written."""
        await self._point("take out")

    async def snapshot(self, task_id: TaskId) -> TreeId:
        """The tree now."""
        await self._point("snapshot")
        return self.tree_of(task_id)

    async def restore(self, task_id: TaskId, tree: TreeId) -> None:
        """Put the files back as they were."""
        await self._point("restore")
        self.files[task_id] = dict(self.trees[tree])
        await self._point("restored")

    async def changes(self, task_id: TaskId, before: TreeId, after: TreeId) -> list[Change]:
        """What differs."""
        await self._point("changes")
        old, new = self.trees.get(before, {}), self.trees.get(after, {})
        return [
            Change(path, "A" if path not in old else "D" if path not in new else "M")
            for path in sorted(old.keys() | new.keys())
            if old.get(path) != new.get(path)
        ]

    async def patch(self, task_id: TaskId, before: TreeId, after: TreeId) -> bytes:
        """Something that differs when the trees do."""
        await self._point("patch")
        return repr(
            sorted(set(self.trees[after].items()) - set(self.trees[before].items()))
        ).encode()

    async def contents(
        self, task_id: TaskId, tree: TreeId, paths: Sequence[str]
    ) -> dict[str, bytes | None]:
        """Files only: there are no links here."""
        await self._point("contents")
        files = self.trees[tree]
        return {path: files[path].encode() if path in files else None for path in paths}

    async def pack(self, task_id: TaskId, trees: Sequence[TreeId]) -> bytes:
        """The files as JSON."""
        await self._point("pack")
        try:
            return msgspec.json.encode({tree: self.trees[tree] for tree in trees})
        except KeyError as error:
            raise WorkspaceError(f"tree {error} is unknown") from None

    async def unpack(self, task_id: TaskId, trees: Sequence[TreeId], packed: bytes) -> None:
        """Only trees whose files have that hash."""
        await self._point("unpack")
        try:
            found = msgspec.json.decode(packed, type=dict[str, dict[str, str]])
        except msgspec.MsgspecError as error:
            raise WorkspaceError(f"these are no packed trees: {error}") from None
        for tree in trees:
            text = repr(sorted(found.get(tree, {}).items()))
            if hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() != tree:
                raise WorkspaceError(f"tree {tree!r} is not whole")
        self.trees.update({tree: found[tree] for tree in trees})

    async def branch_bundle(
        self, task_id: TaskId, patch: bytes, *, base_commit: str, message: str, at_us: int
    ) -> bytes:
        """The patch."""
        await self._point("branch bundle")
        return patch

    async def fork(self, task_id: TaskId, fork_id: TaskId) -> None:
        """Trees are everybody's here."""
        await self._point("fork workspace")

    async def export(
        self, task_id: TaskId, tree: TreeId, *, base: TreeId, protected: Sequence[str]
    ) -> tuple[str, TreeId]:
        """No directory, only the tree."""
        await self._point("export")
        return f"/fake/export/{tree}", tree

    async def discard(self, path: str) -> None:
        """Nothing to remove."""
        await self._point("discard")

    async def scratch(self, task_id: TaskId, *, disk: DiskQuota | None = None) -> str:
        """A name."""
        return f"/fake/{task_id}-home"

    async def close(self, task_id: TaskId) -> None:
        """Remember that it was closed."""
        await self._point("close workspace")
        self.closed.append(task_id)
        self._open.discard(task_id)

    async def forget(self, task_id: TaskId) -> None:
        """Drop the files."""
        self.files.pop(task_id, None)


class FakeSession:
    """A worker that runs the tool object in this process, with the real one's deadlines."""

    def __init__(self, sandbox: FakeSandbox, spec: SandboxSpec) -> None:
        self._sandbox, self.spec = sandbox, spec
        self.alive = True
        self.frozen = False

    async def call(self, info: ToolInfo, call: ToolCall, *, deadline_seconds: float) -> ToolResult:
        """Run the tool. `WorkerLost` if this session has ended."""
        if not self.alive:
            raise WorkerLost("the worker is dead")
        try:
            with anyio.fail_after(deadline_seconds):
                await self._sandbox.point(f"call {call.call_id}")
                try:
                    result = await self._sandbox.tools[info.name].execute(call)
                except ToolRefused as error:
                    result = ToolResult(
                        ok=False, kind="refused", output=str(error), paths=error.paths
                    )
                await self._sandbox.point(f"called {call.call_id}")
                return result
        except TimeoutError:
            await self.close()
            raise DeadlineExceeded(f"no answer within {deadline_seconds:g} s") from None
        except WorkerLost:
            await self.close()
            raise

    async def preview(self, info: ToolInfo, call: ToolCall, *, deadline_seconds: float) -> str:
        """What the tool says. `WorkerLost` if this session has ended."""
        if not self.alive:
            raise WorkerLost("the worker is dead")
        await self._sandbox.point("preview")
        tool = self._sandbox.tools[info.name]
        if not isinstance(tool, PreviewingTool):
            return ""
        try:
            with anyio.fail_after(deadline_seconds):
                return await tool.preview(call)
        except TimeoutError:
            raise PreviewFailed(f"it was not made within {deadline_seconds:g} s") from None
        except ToolRefused as error:
            raise PreviewFailed(f"the call would be refused: {error}") from None
        except Exception as error:
            raise PreviewFailed(f"{type(error).__name__}: {error}") from error

    async def render(
        self, template: Json, variables: Mapping[str, Json], *, deadline_seconds: float
    ) -> Json:
        """Fill `{{ steps.ID.output }}` and `.exit` only."""
        await self._sandbox.point("render")
        return _render(template, variables)

    async def freeze(self) -> None:
        """Say so; what runs in this process runs on."""
        self.frozen = True

    async def thaw(self) -> None:
        """Say so."""
        self.frozen = False

    async def close(self) -> None:
        """End it."""
        self.alive = False
        await self._sandbox.point("close sandbox")
        self._sandbox.live.discard(self)


class FakeSandbox:
    """Sandboxes without a process. `live` are the sessions that have not been closed."""

    name = "fake"

    def __init__(self, tools: Sequence[Tool], point: Point = checkpoint) -> None:
        self.tools = {tool.name: tool for tool in tools}
        self.point = point
        self.live: set[FakeSession] = set()

    async def probe(self) -> Probe:
        """It always works."""
        return Probe(True, self.name, "in this process")

    async def open(self, spec: SandboxSpec) -> SandboxSession:
        """Start a session."""
        await self.point("open sandbox")
        session = FakeSession(self, spec)
        self.live.add(session)
        return session

    async def execute(
        self, spec: SandboxSpec, argv: Sequence[str], *, deadline_seconds: float
    ) -> ExecResult:
        """No command can run here."""
        raise NotImplementedError("FakeSandbox runs tools, not commands")

    async def reap(self, owner_id: str) -> int:
        """End what an earlier owner left."""
        await self.point("reap")
        for session in self.live:
            session.alive = False
        found = len(self.live)
        self.live.clear()
        return found


@dataclass
class FakeRemote:
    """A git remote with a forge, in memory; it outlives every daemon."""

    base: str = "c0ffee"
    """Where its base branch stands."""
    branches: dict[str, str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    """Head branch of every pull request that was ever opened."""
    pushes: int = 0
    """That changed something."""
    faults: list[PublishFailed] = field(default_factory=list)
    """Raised by the next steps, one each."""


class FakePublisher:
    """Publishes to a `FakeRemote`. A base that has moved is verified again on the same tree."""

    def __init__(
        self, remote: FakeRemote, workspaces: FakeWorkspaces, point: Point = checkpoint
    ) -> None:
        self._remote, self._workspaces, self._point = remote, workspaces, point
        self.bodies: list[str] = []

    async def check(self, task: TaskSpec) -> None:
        """Everything can be reached."""

    async def prepare(self, order: PublishOrder) -> PreparedBranch:
        """A commit's name made of what is in it."""
        await self._step("prepare publication")
        base = self._remote.base
        packed = None
        if base != order.base_commit:
            packed = await self._workspaces.pack(order.task_id, [order.tree])
        made = hashlib.sha1(f"{base} {order.tree}".encode(), usedforsecurity=False).hexdigest()
        return PreparedBranch(
            url="https://git.test/a.git",
            branch=order.spec.branch or f"agent-runtime/{order.task_id}",
            base=order.spec.base or "main",
            base_commit=base,
            commit=made,
            tree=order.tree,
            base_tree=order.tree,
            packed=packed,
        )

    async def push(self, order: PublishOrder, prepared: PreparedBranch) -> bool:
        """Look, compare, and set."""
        await self._step("look for the branch")
        there = self._remote.branches.get(prepared.branch, "")
        if there == prepared.commit:
            return True
        if self._remote.base != prepared.base_commit:
            raise PublishFailed("the base has moved", kind="failed", moved=True)
        if there and there not in order.ours:
            raise PublishFailed("the branch is somebody else's", kind="refused")
        await self._point("push")
        self._remote.branches[prepared.branch] = prepared.commit
        self._remote.pushes += 1
        await self._point("after the push")
        return False

    async def open_request(
        self, order: PublishOrder, prepared: PreparedBranch, *, title: str, body: str
    ) -> OpenedRequest:
        """Look, and open."""
        await self._step("look for the pull request")
        found = prepared.branch in self._remote.requests
        if not found:
            await self._point("open the pull request")
            self._remote.requests.append(prepared.branch)
            self.bodies.append(body)
            await self._point("after the pull request")
        number = self._remote.requests.index(prepared.branch) + 1
        return OpenedRequest(url=f"https://git.test/a/{number}", number=number, found=found)

    async def forget(self, task_id: TaskId) -> None:
        """There is nothing."""

    async def _step(self, place: str) -> None:
        await self._point(place)
        if self._remote.faults:
            raise self._remote.faults.pop(0)


class FakeVerifier:
    """Judges by `judge(files)`, a function of the files that would be handed over."""

    def __init__(
        self,
        workspaces: FakeWorkspaces,
        judge: Callable[[Mapping[str, str]], bool] = lambda files: True,
        point: Point = checkpoint,
    ) -> None:
        self._workspaces, self._judge, self._point = workspaces, judge, point

    async def verify(
        self,
        task_id: TaskId,
        *,
        objectives: Sequence[Objective],
        base: TreeId,
        tree: TreeId,
        protected: Sequence[str],
        sandbox: Sandbox,
        furnished: Furnished,
    ) -> Verification:
        """Every objective gets the same judgement."""
        await self._point("verify")
        ok = self._judge(self._workspaces.trees[tree])
        was_ok = self._judge(self._workspaces.trees[base])
        checks = tuple(
            replace(_outcome(objective, ok), before=_outcome(objective, was_ok))
            for objective in objectives
        )
        await self._point("verified")
        return Verification(ok=ok, tree=tree, checks=checks, protected_changed=())


def _outcome(objective: Objective, ok: bool) -> CheckOutcome:
    return CheckOutcome(
        id=objective.id,
        command=objective.check.command,
        exit=0 if ok else 1,
        expected_exit=0,
        ok=ok,
        reason="" if ok else "exit 1, expected 0",
        origin=objective.origin,
    )


_NOTHING_NEEDED = PreparedEnvironment(source="nothing is needed")


@dataclass
class FakeEnvironment:
    """Nothing is needed, and nothing is made; `prepared` counts how often it was asked for."""

    found: PreparedEnvironment = _NOTHING_NEEDED
    point: Point = checkpoint
    prepared: int = 0

    def check(self, task: TaskSpec) -> None:
        """Everything can be had."""

    async def prepare(
        self, task_id: TaskId, task: TaskSpec, opened: OpenedWorkspace, sandbox: Sandbox,
        *, limits: SandboxLimits, heard: Callable[[EgressRecord], None] | None = None,
    ) -> Preparation:  # fmt: skip
        """`found`."""
        await self.point("prepare environment")
        self.prepared += 1
        await self.point("prepared environment")
        return Preparation(environment=self.found)

    async def furnish(self, task_id: TaskId, prepared: PreparedEnvironment) -> Furnishing:
        """No files."""
        return Furnishing()

    async def adopt(self, task_id: TaskId, prepared: PreparedEnvironment) -> None:
        """No files."""

    @asynccontextmanager
    async def fresh(
        self, task_id: TaskId, prepared: PreparedEnvironment, checkout: str
    ) -> AsyncIterator[Furnishing]:
        """No files."""
        yield Furnishing()

    def secrets(self, task: TaskSpec) -> Mapping[str, str]:
        """There are none."""
        return {}


@dataclass
class ScriptedModel:
    """Answers from a list, then with nothing more to do. `requests` holds what it was asked.

    It thinks for every task that names a model.
    """

    answers: list[ModelAnswer | ModelFault] = field(default_factory=list)
    requests: list[ModelRequest] = field(default_factory=list)
    point: Point = checkpoint
    models: tuple[ModelChoice, ...] = (ModelChoice(name="test/model"),)

    async def find(self, task: TaskSpec) -> Brain:
        """Its own models, or nobody."""
        if task.model == "client":
            return Brain(kind="client", why="the task says so")
        if task.model is None:
            return Brain(kind="none", offers=("name a model",))
        return Brain(kind="model", models=self.models, why="the task names it")

    async def complete(self, request: ModelRequest) -> ModelAnswer | ModelFault:
        """The next answer."""
        await self.point("ask model")
        self.requests.append(request)
        answer = self.answers.pop(0) if self.answers else says("done", tokens=10)
        await self.point("model answered")
        return answer


def says(
    text: str = "",
    *calls: str | tuple[str, Mapping[str, Json]],
    tokens: int = 100,
    usd: float = 0.01,
) -> ModelAnswer:
    """A model's answer: a text, and calls as (tool, arguments), or as a tool's name alone."""
    pairs = [(call, dict[str, Json]()) if isinstance(call, str) else call for call in calls]
    uses = tuple(
        ToolUse(id=f"use_{number}", name=name, arguments=dict(arguments))
        for number, (name, arguments) in enumerate(pairs, 1)
    )
    return ModelAnswer(
        message=Message(role="assistant", text=text, calls=uses),
        stop="calls" if uses else "end",
        usage=ModelUsage(output=tokens),
        usd=usd,
    )


def _render(template: Json, variables: Mapping[str, Json]) -> Json:
    match template:
        case str() if "{{" in template:
            before, _, rest = template.partition("{{")
            expression, _, after = rest.partition("}}")
            value: Json = variables
            for name in PurePosixPath(expression.strip().replace(".", "/")).parts:
                if not isinstance(value, Mapping) or name not in value:
                    raise UsageError(f"{name!r} is undefined in {template!r}")
                value = value[name]
            return value if not (before or after) else f"{before}{value}{after}"
        case Mapping():
            return {key: _render(item, variables) for key, item in template.items()}
        case list():
            return [_render(item, variables) for item in template]
        case _:
            return template
