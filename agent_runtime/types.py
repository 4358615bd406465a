"""The words everything shares: ids, fixed words, the task file's shape, calls and their results.

Pure data. What is stored is a `msgspec.Struct` (the task file travels inside its first event);
what only lives in memory is a frozen dataclass. Reading a task file is in `taskfile`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Final, Literal, NewType

import msgspec

TaskId = NewType("TaskId", str)
"""`task_` and a UUIDv7 in hex: sorts by creation."""
StepId = NewType("StepId", str)
CallId = NewType("CallId", str)
"""`<step>.<attempt>` for a planned step, `<step>.t<turn>.<index>` for a call of a model's turn."""
TreeId = NewType("TreeId", str)
"""Git's id of a tree: the content of a workspace at one moment."""
BlobId = NewType("BlobId", str)
"""SHA-256 of the content, in hex."""
Seq = NewType("Seq", int)
"""Number of an event in its task's log; the first is 1."""
Epoch = NewType("Epoch", int)
"""Number of a lease of a task; the first is 1. Events of an older epoch are refused."""

Json = Any
"""A JSON value. `Any`, because a recursive alias helps neither msgspec nor the reader."""


class Effect(StrEnum):
    """What a call changes in the world: decides what happens when it has no result."""

    READ = "read"
    WORKSPACE = "workspace"
    IDEMPOTENT = "idempotent"
    PROBE = "probe"
    TASK = "task"
    ONCE = "once"


class Status(StrEnum):
    """Where a task stands for its user (the phase says what the machine does)."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    UNVERIFIED = "unverified"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL_STATUSES = frozenset(
    {Status.SUCCEEDED, Status.UNVERIFIED, Status.FAILED, Status.CANCELLED}
)

Where = Literal["worker", "daemon"]
Command = str | list[str]
"""A string runs by `/bin/sh -c`, a list is argv."""


# ---- the task file -----------------------------------------------------------------------


class Spec(msgspec.Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """Base of the task file's parts: unknown keys are errors."""


class WorkspaceSpec(Spec, frozen=True, kw_only=True):
    """Which repository the task works on. A relative `repo` is made absolute when it is read."""

    repo: str
    ref: str = "HEAD"
    include_dirty: bool = True
    in_place: bool = False


class ResourcesSpec(Spec, frozen=True, kw_only=True):
    """What each sandbox of the task may take; None: the installation's default."""

    memory: str | None = None
    """Of all its processes together, as a size: `2GiB`."""
    cpus: float | None = None
    """Processors' time: 1.5 is one and a half."""
    processes: int | None = None
    disk: str | None = None
    """Of the working copy and HOME together, and of each check's checkout."""
    inodes: int | None = None
    """Files, directories and links there."""


class ServiceReady(Spec, frozen=True, kw_only=True):
    """When a service counts as ready: its port takes a connection, or its command ends with 0."""

    port: int | None = None
    """On 127.0.0.1, which every sandbox has for itself."""
    command: Command | None = None
    timeout_seconds: float = 60.0


class ServiceSpec(Spec, frozen=True, kw_only=True):
    """A process that runs beside the tools, and beside every check, in their own sandbox."""

    id: str
    command: Command
    env: dict[str, str] = {}
    ready: ServiceReady | None = None


class EnvironmentSpec(Spec, frozen=True, kw_only=True):
    """What the task's commands find around the repository.

    `python` names a venv that is bound read-only. `setup` are commands that run once, in a sandbox
    of their own that may reach `egress` and knows the `secrets`; what they leave is kept, and used
    by every task with the same commands and lockfiles (`cache`). `maintenance` brings a kept
    environment up to date with another version of the repository. None is nothing said: what the
    repository says is taken then; an empty `setup` is none at all. `env` are extra variables of
    every command.
    """

    python: str | None = None
    setup: list[Command] | None = None
    maintenance: list[Command] = []
    setup_seconds: float = 1800.0
    """Of all setup or maintenance commands together."""
    egress: list[str] | None = None
    """What setup may reach, in the form of `policy.egress`; None: the installation's registries."""
    secrets: list[str] = []
    """Names that the installation's settings know; only setup gets them."""
    cache: Literal["lockfiles", "tree", "off"] = "lockfiles"
    env: dict[str, str] = {}
    services: list[ServiceSpec] | None = None
    resources: ResourcesSpec | None = None


class Expect(Spec, frozen=True, kw_only=True):
    """When a step counts as done; without it, when its tool says ok (exit 0)."""

    exit: int | None = None
    contains: str | None = None


class Alternative(Spec, frozen=True, kw_only=True):
    """The same step another way."""

    tool: str
    args: dict[str, Json] = {}


class StepSpec(Spec, frozen=True, kw_only=True):
    """One node of the plan. No `tool` means that the model works on it (`goal` says at what)."""

    id: str
    tool: str | None = None
    args: dict[str, Json] = {}
    goal: str | None = None
    needs: list[str] = []
    when: str | None = None
    expect: Expect | None = None
    effect: Effect | None = None
    retry: int = 0
    timeout_seconds: float | None = None
    alternative: Alternative | None = None
    fallback: str | None = None


class PlanSpec(Spec, frozen=True, kw_only=True):
    """A playbook: steps that need no model."""

    steps: list[StepSpec]


class Check(Spec, frozen=True, kw_only=True):
    """A command whose exit code decides. `min_passed` needs a pytest-like summary in its output."""

    command: Command
    exit: int = 0
    min_passed: int | None = None
    timeout_seconds: float = 600.0
    may_lose: list[str] = []
    """Names or patterns of tests that need not be there any more after the work."""


Origin = Literal["given", "self_chosen"]
"""Who chose a check: the task's author, or whoever does the work."""
Grade = Literal["proven", "regression_only", "self_chosen"]
"""What evidence is worth, the best first; see `loop.grades`."""


class Objective(Spec, frozen=True, kw_only=True):
    """A check that decides "done"."""

    id: str
    check: Check
    origin: Origin = "given"


class ArtifactSpec(Spec, frozen=True, kw_only=True):
    """Files that the task keeps beside its patch: a glob below the workspace.

    With `required`, a task that leaves none of them does not succeed. A text stands for `path`.
    """

    short: ClassVar[str] = "path"
    """The key that a text alone stands for."""

    path: str
    required: bool = False


class Limits(Spec, frozen=True, kw_only=True):
    """What a task may spend. `seconds` counts running time only."""

    steps: int = 250
    usd: float = 3.0
    tokens: int = 2_000_000
    seconds: float = 3600.0


Decision = Literal["ask", "allow", "deny"]


class Policy(Spec, frozen=True, kw_only=True):
    """What a task may do.

    `network`: none; `restricted` to the hosts of `egress`; `full` is every public address, and what
    `egress` adds. `toolbelts` limits which may be activated (None: every installed one); `tools`
    names the tools that run in the daemon and are given to a task only by name; `approvals` maps
    rules (a tool, its arguments, a toolbelt, `*`) to ask, allow or deny, see `loop.approvals`.
    """

    network: Literal["none", "restricted", "full"] = "none"
    egress: list[str] = []
    toolbelts: list[str] | None = None
    tools: list[str] = []
    secrets: list[str] = []
    """Names that tools get too, as variables; checks never do."""
    approvals: dict[str, Decision] = {}
    approval_seconds: float = 86_400.0
    unknown_effect: Literal["ask", "fail", "continue"] = "ask"


class PublishSpec(Spec, frozen=True, kw_only=True):
    """Where the proven branch goes once the task has succeeded; a text alone stands for `push`.

    `push` is a git URL, or `origin`: where the task's repository comes from. Empty texts are chosen
    by the runtime: a branch of the task's own, the branch that the task began from, the goal.
    """

    short: ClassVar[str] = "push"

    push: str = "origin"
    branch: str = ""
    pr: Literal["draft", "ready", "none"] = "draft"
    base: str = ""
    title: str = ""


class TaskSpec(Spec, frozen=True, kw_only=True):
    """A whole task file."""

    goal: str
    workspace: WorkspaceSpec | None = None
    environment: EnvironmentSpec = EnvironmentSpec()
    model: str | None = None
    plan: PlanSpec | None = None
    objectives: list[Objective] = []
    accept: Grade = "regression_only"
    """The least evidence that makes the task succeed."""
    protect: list[str] = []
    artifacts: list[ArtifactSpec] = []
    limits: Limits = Limits()
    policy: Policy = Policy()
    publish: PublishSpec | None = None
    labels: dict[str, str] = {}
    priority: int = 5


class LimitsChange(Spec, frozen=True, kw_only=True):
    """Limits of a continuation; None: as the task has it."""

    steps: int | None = None
    usd: float | None = None
    tokens: int | None = None
    seconds: float | None = None


class ContinuationSpec(Spec, frozen=True, kw_only=True):
    """What a finished task goes on with; see `loop.continuing` for what each part does."""

    message: str = ""
    model: str | None = None
    plan: PlanSpec | None = None
    objectives: list[Objective] = []
    protect: list[str] = []
    artifacts: list[ArtifactSpec] = []
    limits: LimitsChange = LimitsChange()
    policy: Policy | None = None


class Once(msgspec.Struct, frozen=True):
    """An idempotency key of one caller, and the SHA-256 of what was asked for with it."""

    key: str
    sha256: str


class ChangeSpec(Spec, frozen=True, kw_only=True):
    """What of a task becomes another; None: as it is. `labels` are all of them."""

    labels: dict[str, str] | None = None
    priority: int | None = None


class AnsweredCall(Spec, frozen=True, kw_only=True):
    """One call that a made-up answer of a model asks for."""

    name: str
    arguments: dict[str, Json] = {}


class AnswerSpec(Spec, frozen=True, kw_only=True):
    """What a model says in a fork, in place of what it said."""

    text: str = ""
    calls: list[AnsweredCall] = []


class ResultSpec(Spec, frozen=True, kw_only=True):
    """What a call gives in a fork, in place of what it gave."""

    ok: bool = True
    output: str = ""
    exit: int | None = None
    kind: FailureKind = ""
    data: Json = None


class ForkSpec(Spec, frozen=True, kw_only=True):
    """Where a task is forked, and what is another in the fork; see `loop.forking`.

    `answer` and `result` stand in the place of event `at`; the others are in force after it.
    """

    at: int
    answer: AnswerSpec | None = None
    result: ResultSpec | None = None
    model: str | None = None
    policy: Policy | None = None
    message: str = ""


# ---- the environment as it was prepared --------------------------------------------------


class PreparedEnvironment(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What commands find around the repository, as stored; the files lie in the entry `key`.

    Paths begin with `~/` (below HOME), or are relative to the workspace.
    """

    source: str = ""
    """Who said how to set it up, in words; empty: nobody."""
    key: str = ""
    """Names the kept files of its setup; empty: there are none."""
    python: str = ""
    """A venv on the host, or below the mount where the setup made it; empty: none."""
    python_source: str = ""
    mounted: list[str] = []
    """Read-only for everybody: venvs, node_modules, package stores."""
    copied: list[str] = []
    """A writable copy for the tools, and a fresh one for every check; part of no tree."""
    home: bool = False
    """Setup left files in HOME: tools get a copy, and every check a fresh one."""
    path: list[str] = []
    """Directories before those of the system on PATH."""
    env: dict[str, str] = {}
    services: list[ServiceSpec] = []


# ---- the log as stored -------------------------------------------------------------------


class Snapshot(msgspec.Struct, frozen=True, gc=False):
    """A folded state as a store keeps it beside the log; `version` is that of the fold."""

    version: int
    data: bytes


class Row(msgspec.Struct, frozen=True, gc=False):
    """One stored event, exactly as it lies in the store; hashes are over these bytes."""

    task_id: str
    seq: int
    type: str
    schema: int
    at_us: int
    data: bytes
    prev_hash: str
    hash: str


def name_fits(task_id: str, name: str) -> bool:
    """May a task be called that: by its id, or by four or more digits of its beginning or end?"""
    bare = task_id.removeprefix("task_")
    return len(name) >= 4 and (
        task_id.startswith(name) or bare.startswith(name) or task_id.endswith(name)
    )


class TaskSummary(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The `tasks` projection: what `ps` prints without reading a log. Written with each append."""

    task_id: str
    status: str
    phase: str
    reason: str
    goal: str
    seq: int
    head_hash: str
    created_at_us: int
    updated_at_us: int
    labels: dict[str, str] = {}
    priority: int = 5
    repo: str = ""
    submitted_by: str = ""
    """Said when a task is made; the store keeps it, whatever later ones say."""
    wake_at_us: int = 0
    """Of a task that waits: when it goes on without an answer. 0: it does not."""
    tokens: int = 0
    """Of all runs, with what is reserved for the turn that goes on; likewise `microusd`."""
    microusd: int = 0
    """Millionths of a US dollar."""


class Ready(msgspec.Struct, frozen=True, array_like=True):
    """A task that may be driven now, and what decides whose turn it is."""

    task_id: TaskId
    submitted_by: str
    priority: int
    since_us: int
    """When its log grew last: since then it can go on."""
    begun: bool
    """It had an owner already, who died, or a time that it waited for has come: it goes first."""


class Spent(msgspec.Struct, frozen=True):
    """What one submitter has used up on one day (UTC); a turn that goes on counts as reserved."""

    tasks: int = 0
    tokens: int = 0
    microusd: int = 0


@dataclass(slots=True)
class Backlog:
    """What waits to be written; kept up to date by the store that it belongs to."""

    writes: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to drive one task, until released or until the owner's process is dead."""

    task_id: TaskId
    epoch: Epoch
    owner: str


# ---- calls -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectPolicy:
    """What a tool may know when it says what a call changes."""

    network: str = "none"
    stated: Effect | None = None


SHARED_VARIABLE: Final = "AGENT_RUNTIME_SHARED"
"""Tells tools where the modules' shared directory is; see `ports.ModuleContext.shared_dir`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """Everything a tool gets. Paths are as the tool sees them (inside the sandbox for a worker).

    `idempotency_key` is the same for every run of the same call. `protected` are glob patterns
    relative to the workspace that file tools must refuse to change. `memory` is a read-only view.
    """

    call_id: str
    tool: str
    arguments: Mapping[str, Json]
    workspace: str
    task_id: str = ""
    agent_id: str = ""
    idempotency_key: str = ""
    home: str = ""
    protected: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: float = 120.0
    memory: Mapping[str, Json] = field(default_factory=dict)


FailureKind = Literal[
    "", "failed", "timeout", "refused", "bad_input", "not_found", "denied", "transient",
    "unknown_effect", "internal", "stuck",
]  # fmt: skip
"""Why a call or a step failed: decides the recovery. See `loop.recovery`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What came back from a tool. `output` is text for the brain; `exit` only where there is one.

    `ok=False` is data, not an error: `kind` classifies it. `data` is the structured result.
    `paths` names protected files that were refused. `raw` is the full output when `output` is not
    (the runtime keeps it in a blob and caps `output`).
    """

    ok: bool
    output: str = ""
    exit: int | None = None
    kind: FailureKind = ""
    data: Json = None
    paths: tuple[str, ...] = ()
    raw: bytes | None = None


class _Returned(msgspec.Struct, frozen=True, gc=False):
    """What of a `ToolResult` must be as it says."""

    ok: bool
    output: str
    exit: int | None
    kind: FailureKind
    paths: tuple[str, ...]


def checked_result(tool: str, returned: object) -> ToolResult:
    """What a tool returned, if it is a result that a log can hold and read back.

    `data` is not looked at: what is no JSON in it becomes text when it is stored.

    Raises:
        TypeError: it is none; says what is wrong. A fault of the tool: the call failed.
    """
    if not isinstance(returned, ToolResult):
        raise TypeError(f"{tool!r} returned {type(returned).__name__}, no ToolResult")
    try:
        msgspec.convert(returned, _Returned, from_attributes=True)
    except msgspec.ValidationError as error:
        raise TypeError(f"{tool!r} returned a ToolResult that is none: {error}") from None
    if not isinstance(returned.raw, bytes | None):
        raise TypeError(f"{tool!r} returned raw {type(returned.raw).__name__}, expected bytes")
    return returned


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolInfo:
    """How a registered tool looks to the loop and the brain."""

    name: str
    description: str
    parameters: Mapping[str, Json]
    toolbelt: str
    where: Where
    source: str = ""
    """`module:attribute` of the plug-in that made it; the worker imports it there."""
    about: str = ""
    """What its module says of itself: for the ranking, no brain sees it."""
    open: bool = False
    """Of the daemon's tools: the operator gives it to every task, named or not."""


# ---- where a task and its steps stand ----------------------------------------------------


class Phase(StrEnum):
    """Where the phase machine stands; see `loop.phases` for what may follow what."""

    IDLE = "idle"
    TASK_INITIATION = "task_initiation"
    ANALYZE_REQUIREMENTS = "analyze_requirements"
    TOOL_DISCOVERY = "tool_discovery"
    PLANNING = "planning_phase"
    EXECUTION = "execution_phase"
    TOOL_TRANSITION_EVALUATION = "tool_transition_evaluation"
    TOOLBELT_ACTIVATION = "toolbelt_activation"
    COMPLETION_VERIFICATION = "completion_verification"
    STATE_CLEANUP = "state_cleanup"
    ERROR_HANDLING = "error_handling"


class StepStatus(StrEnum):
    """Where one step of the plan stands."""

    READY = "ready"
    RUNNING = "running"
    EVALUATING = "evaluating"
    RECOVERING = "recovering"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


ENDED_STEPS = frozenset({StepStatus.DONE, StepStatus.FAILED, StepStatus.SKIPPED})


class Strategy(StrEnum):
    """What error handling does about a failed step."""

    RETRY = "retry"
    ALTERNATIVE = "alternative"
    FALLBACK = "fallback"
    ABORT = "abort"
