"""Every port between the loop and the world: what an adapter promises, and what its caller does.

Each has a fake in `testing` and one contract suite under `tests/contracts` that every adapter runs.
Adapters know this file and the pure loop, never each other.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from agent_runtime.egress_rules import NetworkMode
from agent_runtime.messages import NO_USAGE, Brain, Message, ModelChoice, ModelUsage
from agent_runtime.remote_servers import RemoteServer
from agent_runtime.types import (
    Backlog,
    BlobId,
    Effect,
    EffectPolicy,
    Epoch,
    Json,
    Lease,
    Objective,
    Origin,
    PreparedEnvironment,
    PublishSpec,
    Ready,
    Row,
    Seq,
    ServiceSpec,
    Snapshot,
    Spent,
    TaskId,
    TaskSpec,
    TaskSummary,
    ToolCall,
    ToolInfo,
    ToolResult,
    TreeId,
    Where,
    WorkspaceSpec,
)
from agent_runtime.verdicts import NOTHING_SEEN, Seen, TestsCompared

# ---- clock and bus -----------------------------------------------------------------------


class Clock(Protocol):
    """Wall time for the log; waiting is `anyio.sleep`, which tests move."""

    def now_us(self) -> int:
        """Microseconds since 1970, may jump back; the log takes max(now, previous)."""


class Bus(Protocol):
    """Tells readers in this process that a task's log has grown. Losing a message loses nothing."""

    def publish(self, task_id: TaskId, seq: int) -> None:
        """The log of `task_id` reaches to `seq` now; never blocks."""

    def subscribe(self, task_id: TaskId, heard: Callable[[int], None]) -> Callable[[], None]:
        """Call `heard(seq)` on every publish until the returned function is called."""


# ---- store -------------------------------------------------------------------------------


class NewTask(NamedTuple):
    """What `Store.create_all` stores of each task."""

    summary: TaskSummary
    rows: Sequence[Row]
    idempotency_key: str | None = None


class Store(Protocol):
    """The only truth: one ordered log per task, content-addressed blobs, leases, a projection.

    All methods may raise `StoreUnavailable` (nothing is known: repeat with the same arguments) and
    `StoreBroken` (end the process).
    """

    async def create(
        self,
        summary: TaskSummary,
        rows: Sequence[Row],
        *,
        blobs: Mapping[BlobId, bytes] = {},
        idempotency_key: str | None = None,
    ) -> TaskId:
        """Store a new task with its first rows and return its id, durable.

        Its goal, repository, submitter and time are kept as they are said here, and so are labels
        and priority until an append with `relabel`.

        A known `idempotency_key` stores nothing and returns the id of the task it made.

        Raises:
            Conflict: the task id exists.
        """

    async def create_all(self, tasks: Sequence[NewTask]) -> list[TaskId]:
        """Store many new tasks in one transaction, all or none, durable; ids in their order.

        Idempotency keys as for `create`, also between these tasks.

        Raises:
            Conflict: one of the task ids exists; nothing was stored.
        """

    async def append(
        self,
        task_id: TaskId,
        expected: Seq,
        rows: Sequence[Row],
        *,
        epoch: Epoch | None,
        summary: TaskSummary,
        blobs: Mapping[BlobId, bytes] = {},
        snapshot: Snapshot | None = None,
        relabel: bool = False,
    ) -> Seq:
        """Store `rows` after `expected`, all or none, with blobs and projection; durable on return.

        Rows are numbered expected+1…, without holes. `epoch` is the writer's lease; None marks a
        fact from outside. An append whose first row is already stored with the same hash has
        succeeded (repeat after `StoreUnavailable`). `snapshot` is the state that the rows lead to;
        it replaces an older one, and is left out if it is too large. `relabel`: labels and priority
        become those of `summary`. Returns the new last number.

        Raises:
            Conflict: the log has moved on; reload, fold and decide again.
            LeaseLost: `epoch` is not the task's newest; stop.
            NotFound: no such task.
        """

    async def made_by(self, idempotency_key: str) -> TaskId | None:
        """The task that was stored with this key; None: none was, or it is forgotten."""

    async def load(self, task_id: TaskId, after: int = 0, limit: int | None = None) -> list[Row]:
        """Rows after `after`, in order: all, or the first `limit`.

        `NotFound` if there is no such task.
        """

    async def tail(self, after: int, limit: int = 1000) -> list[tuple[int, Row]]:
        """Events of all tasks behind position `after`, in the order in which they became durable.

        A position is greater than every earlier one, and is never given again, also not after
        `delete`. What was deleted is left out.
        """

    async def position(self) -> int:
        """The newest position; 0: nothing was ever stored."""

    async def summary(self, task_id: TaskId) -> TaskSummary:
        """The projection of one task. `NotFound` if there is none."""

    async def tasks(
        self,
        *,
        statuses: Sequence[str] = (),
        labels: Mapping[str, str] = {},
        submitted_by: str | None = None,
        before: TaskId | None = None,
        limit: int = 100,
    ) -> list[TaskSummary]:
        """Newest first, those created before `before`; filters are conjunctive.

        The last id of a page is the cursor of the next one: what was there when the first page was
        read is neither skipped nor repeated, whatever arrives or changes meanwhile.
        """

    async def counts(self) -> dict[str, int]:
        """How many tasks have each status; those that none has are left out."""

    async def waiting(self, task_ids: Sequence[TaskId]) -> dict[TaskId, int]:
        """Those of them whose status is `waiting`, and since when (microseconds since 1970)."""

    async def spent(self, submitted_by: str, day: int) -> Spent:
        """What one submitter has used up on `day` (days since 1970, UTC), of tasks that were
        forgotten since, too. What a fork or an imported task had used before counts for nobody."""

    async def probe(self) -> None:
        """Write nothing, durably: raises what a write would raise now, if that can be known."""

    async def claim(self, task_id: TaskId) -> Lease:
        """Take the lease with a new epoch.

        Raises:
            LeaseHeld: a live process (also this one) has it.
            NotFound: no such task.
        """

    async def release(self, lease: Lease) -> None:
        """Give the lease back; nothing happens if it is not the newest any more."""

    async def owner(self, task_id: TaskId) -> str | None:
        """Who holds the lease now, for people (`pid 123 on host`), or None if nobody alive does."""

    async def heads(self, task_ids: Sequence[TaskId]) -> dict[TaskId, int]:
        """The last event number of each known task: one cheap query for many."""

    async def ready(
        self, *, now_us: int, of_each: int = 100, limit: int = 1000, without: Sequence[TaskId] = ()
    ) -> list[Ready]:
        """Tasks that nobody alive holds and that can go on: pending, running, or waiting for a time
        that has come (`now_us`).

        First at most `limit` that had begun or whose time has come, then at most `of_each` of every
        submitter and priority, the oldest; by priority, then age. Those in `without` are left out.
        """

    async def put_blob(self, data: bytes) -> BlobId:
        """Keep `data` under its SHA-256, durable on return; the same content is kept once."""

    async def get_blob(self, blob_id: BlobId) -> bytes:
        """The content. `NotFound` if it is not there, `CorruptLog` if it does not match its id."""

    async def load_snapshot(self, task_id: TaskId, version: int) -> tuple[Seq, bytes] | None:
        """The newest snapshot and its number, if it is of fold version `version`; else None."""

    async def delete(self, task_id: TaskId, *, expected: Seq | None = None) -> None:
        """Forget a task and the blobs that nobody else names (retention).

        Raises:
            Conflict: its newest event is not `expected`: it was continued meanwhile.
            LeaseHeld: it is being driven.
        """

    async def ended(
        self, before_us: int, *, after: TaskSummary | None = None, limit: int = 100
    ) -> list[TaskSummary]:
        """Tasks that ended before `before_us`, those that ended first before the others; the next
        page begins after the last one of the page before, which may be gone by then."""

    async def kept_bytes(self) -> int:
        """What logs and blobs take, without room that is free for new ones."""

    async def give_back(self, bytes_max: int) -> int:
        """Return about so many bytes of free room to the disk; the number returned, 0: no more."""

    def backlog(self) -> Backlog:
        """What waits to be written now: the same object each time."""

    async def wait_changed(self, seconds_max: float) -> None:
        """Return when another process, or this one, may have written, or after `seconds_max`."""

    async def close(self) -> None:
        """Finish queued writes, release what this process holds, close."""


# ---- tools and modules -------------------------------------------------------------------


@runtime_checkable
class Tool(Protocol):
    """What the agent calls. `where="worker"`: runs inside the sandbox, importable there."""

    @property
    def name(self) -> str:
        """Unique; lower case, digits and underscores."""

    @property
    def description(self) -> str:
        """One paragraph for the brain."""

    @property
    def parameters(self) -> Mapping[str, Json]:
        """JSON schema of the arguments: an object, `additionalProperties: false`."""

    @property
    def toolbelt(self) -> str:
        """`standard` is always on; any other is activated when a step needs it."""

    @property
    def where(self) -> Where:
        """`daemon` tools hold credentials and are given to a task only by name."""

    def effect(self, arguments: Mapping[str, Json], policy: EffectPolicy) -> Effect:
        """What this very call changes; pure and fast."""

    async def execute(self, call: ToolCall) -> ToolResult:
        """Do it. `ToolRefused` is turned into data; any other exception is kind `internal`."""


@runtime_checkable
class ProbingTool(Protocol):
    """A tool of effect `probe` can look whether a call without a result happened."""

    async def probe(self, call: ToolCall) -> bool | None:
        """True: it happened. False: it did not. None: cannot be known."""


@runtime_checkable
class AttachingTool(Protocol):
    """A tool of effect `task` knows which task of somebody else a call has become."""

    async def attached(self, call: ToolCall) -> bool:
        """Can a call without a result be run again, to attach to its task, or because it was never
        sent? False: it may be running somewhere, and nobody knows under which id."""


@runtime_checkable
class PreviewingTool(Protocol):
    """A tool that can say what a call would change, for the person who is asked to allow it."""

    async def preview(self, call: ToolCall) -> str:
        """As text, best a unified diff; changes nothing. Asked where the call would run.

        `ToolRefused` and other exceptions are told to the person in its place. A tool may have a
        `preview_blocking` as well, a plain function: a worker runs that without an event loop.
        """


@dataclass(frozen=True, slots=True)
class ModuleContext:
    """What a module may use while it lives."""

    state_dir: str
    """A directory of its own, which exists and outlives the process."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """What the installation says about this module; names and values are the module's own."""
    shared_dir: str = ""
    """What every task's tools see read-only, at this path, which `types.SHARED_VARIABLE` tells them
    in their environment. All modules share it: each writes below its name only. Empty if no module
    has settings."""


@runtime_checkable
class Module(Protocol):
    """Contributes tools and has a life of its own.

    It is made and `tools` is called when plug-ins load, before `initialize`, although no task may
    ever need it. `initialize` and `cleanup` may take turns several times, in one task each time.

    A module may also have `source`, a text `"package.module:function"`: a plain function that
    returns its tools and needs no module. Only a module with tools of `where="worker"` needs it:
    the worker in the sandbox imports them there.
    """

    @property
    def name(self) -> str:
        """Unique among modules; lower case, digits and underscores."""

    @property
    def description(self) -> str:
        """One line for people and for the ranking of tools."""

    def tools(self) -> Sequence[Tool]:
        """Its tools, always the same; each has a toolbelt other than `standard`.

        Called once, when nothing of the module has been started: it opens and starts nothing.
        """

    async def initialize(self, context: ModuleContext) -> None:
        """Start, because the first task needs a tool; 30 s. An exception quarantines the module."""

    async def cleanup(self) -> None:
        """Stop, because the last task that used it has ended; 10 s, also while being cancelled."""

    async def health(self) -> str | None:
        """None if well, else what is wrong, within 5 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedTool:
    """A tool of somebody else's as it is offered now. `name` is theirs, `tool` ours."""

    name: str
    tool: str
    description: str
    effect: Effect
    change: Literal["same", "new", "changed", "gone"]
    diff: str = ""
    """What has changed since it was consented to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteOffer:
    """What somebody else's server says of itself: claims."""

    server: str
    wire: str
    endpoint: str
    resources: bool
    tools: tuple[OfferedTool, ...]
    definitions: object = None
    """The module's own: goes back to `consent`."""


@runtime_checkable
class ConsentingModule(Protocol):
    """A module whose tools are somebody else's: a person looks at them before anybody uses them."""

    @property
    def endpoint(self) -> str:
        """Where they come from, without secrets."""

    def standing(self) -> str:
        """What a person should do about it; empty: nothing. Opens nothing."""

    async def offered(self) -> RemoteOffer:
        """Ask the server, on a connection of its own.

        Raises:
            PluginError: it cannot be asked; says why.
        """

    def consent(self, offer: RemoteOffer | None) -> None:
        """From the next start on these are the tools; None: none are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """What a maker of modules (`agent_runtime.module_makers`) is told of the installation.

    A maker is called when plug-ins load and returns modules, none or several; it opens and starts
    nothing.
    """

    state_dir: str
    mcp_servers: Mapping[str, RemoteServer] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    """Where each is, see `secret_sources`."""
    environ: Mapping[str, str] = field(default_factory=dict)
    sandbox: Sandbox | None = None
    """For programs that a module starts; None: nothing will be started."""


class Toolbox(Protocol):
    """Every registered tool, local or remote, behind one door."""

    def find(self, name: str) -> ToolInfo | None:
        """The tool's face, or None."""

    def all(self) -> Sequence[ToolInfo]:
        """Sorted by name."""

    def get(self, name: str) -> Tool:
        """The tool itself. `NotFound` names the nearest."""

    async def activate(self, toolbelt: str) -> Sequence[str]:
        """Initialise the modules behind a toolbelt and return its tools' names, sorted.

        Raises:
            NotFound: nobody contributes it.
            PluginError: its module did not start; it is quarantined.
        """

    async def deactivate(self, toolbelt: str) -> None:
        """Undo one `activate`; the last one cleans the modules up."""


# ---- sandbox -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxLimits:
    """Per sandbox; bytes and counts."""

    processes: int = 256
    open_files: int = 1024
    file_bytes: int = 512 << 20
    tmp_bytes: int = 256 << 20
    memory_bytes: int | None = None
    """All processes together where cgroups can be had (None: 2 GiB), else the address space of each
    (None: not limited, for programs reserve much more than they use)."""
    cpus: float | None = None
    """Processors' time; None: seven tenths of the machine. Only where cgroups can be had."""
    disk_bytes: int | None = None
    """Of the working copy and HOME together, and of each check's checkout; None: not limited. Only
    where quotas can be had: the workspaces' business, here for the words of a full one."""
    inodes: int | None = None
    """Files, directories and links there; None: one for 16 KiB of `disk_bytes`."""
    output_bytes: int = 8 << 20
    """What is kept of a command's output; the rest is read and thrown away, and said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxCeiling:
    """What no task may ask more of: the operator's; None: no bound. See `SandboxLimits`."""

    memory_bytes: int | None = None
    cpus: float | None = None
    processes: int | None = None
    disk_bytes: int | None = None
    inodes: int | None = None

    def named(self) -> list[tuple[str, float]]:
        """The bounds that there are."""
        found = {
            "memory_bytes": self.memory_bytes, "cpus": self.cpus, "processes": self.processes,
            "disk_bytes": self.disk_bytes, "inodes": self.inodes,
        }  # fmt: skip
        return [(name, value) for name, value in found.items() if value is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressRecord:
    """One fact about a connection that a sandbox asked for; `number` tells them apart in a sandbox.

    `kind`: opened (announced before it is made, once for each address that is tried), closed (with
    its bytes), refused (by a rule, with the reason), failed (the other side could not be reached).
    """

    kind: str
    number: int
    method: str = ""
    host: str = ""
    port: int = 0
    address: str = ""
    """What was dialled; empty if nothing was, or if `via` a company's proxy."""
    via: str = ""
    reason: str = ""
    bytes_sent: int = 0
    bytes_received: int = 0
    seconds: float = 0.0
    mark: int = 0
    """Where this record ends in the sandboxes' own one; 0: it is not in there."""


class EgressFiles(Protocol):
    """What the sandboxes of each owner wrote down by themselves, before anybody could store it."""

    def after(self, owner_id: str, mark: int) -> list[EgressRecord]:
        """What follows `mark`, in order; nothing if it cannot be read."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A host directory or file that is visible read-only at `path` inside.

    `path` is absolute, relative to the mount, or begins with `~/`, which is HOME.
    """

    source: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSpec:
    """What one sandbox sees. Host paths on the left, inside paths on the right.

    `workspace` is the only writable host directory besides `home`; it appears at `mount` and is the
    working directory. `python` is a venv, bound read-only at its own path with its base
    interpreter and first on PATH. `owner_id` names the sandbox for `reap`.
    """

    owner_id: str
    workspace: str
    mount: str
    home: str | None = None
    python: str | None = None
    """Or where one of the `layers` shows a venv."""
    base_python: bool = False
    """The interpreter that the runtime's own stands on is visible, and on PATH: to make venvs."""
    tmp: str | None = None
    """A host directory at /tmp, in place of memory."""
    layers: tuple[Layer, ...] = ()
    path: tuple[str, ...] = ()
    """Directories inside, on PATH after the venv's and before the system's."""
    services: tuple[ServiceSpec, ...] = ()
    """Started, and waited for, before the worker or the command."""
    env: Mapping[str, str] = field(default_factory=dict)
    read_only_paths: tuple[str, ...] = ()
    """Paths below `workspace` (such as `.git`) that are bound read-only again."""
    chown: bool = True
    """May a root daemon give `workspace` to the sandbox's uid? Never for a user's own directory."""
    plugin_paths: tuple[str, ...] = ()
    """Directories and files that must be importable in the worker, beyond the runtime's own."""
    network: NetworkMode = "none"
    egress: tuple[str, ...] = ()
    """Rules as in `policy.egress`: what `restricted` may reach, and `full` beside the public."""
    egress_place: str = "policy.egress of the task"
    """Where these rules are written, for messages."""
    egress_heard: Callable[[EgressRecord], None] | None = None
    """Called on the event loop for every record; must not block. `OSError`: it is not made."""
    egress_redacted: Callable[[str], str] | None = None
    """Takes secrets out of a host or a reason before anybody keeps it."""
    limits: SandboxLimits = SandboxLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecResult:
    """A finished command. `exit` follows shells: 124 deadline, 125 sandbox not started, 128+n."""

    exit: int
    output: bytes
    """stdout and stderr as they came, capped."""
    output_bytes: int
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class Probe:
    """Whether a sandbox kind works here, and if not, why and how to mend it."""

    ok: bool
    name: str
    detail: str
    remedy: str = ""
    can_mount: bool = True
    """Can it show files at places where they are not? An environment's setup needs that."""
    limits: Mapping[str, str] = field(default_factory=dict)
    """By what memory, cpus and processes are limited: in words, `none` and the reason if not."""


class SandboxSession(Protocol):
    """A live sandbox with its worker. Calls may overlap."""

    async def call(self, info: ToolInfo, call: ToolCall, *, deadline_seconds: float) -> ToolResult:
        """Run a tool in the worker.

        Raises:
            WorkerLost: the worker died; the session is closed and every process in it is dead.
            DeadlineExceeded: no answer in time; likewise closed and dead.
        """

    async def preview(self, info: ToolInfo, call: ToolCall, *, deadline_seconds: float) -> str:
        """What the tool says a call would change; empty if it cannot tell any.

        Nothing is changed, and a deadline ends only the waiting: the session lives on.

        Raises:
            WorkerLost: as `call`.
            PreviewFailed: with the reason, for people.
        """

    async def render(
        self, template: Json, variables: Mapping[str, Json], *, deadline_seconds: float
    ) -> Json:
        """Fill `{{ … }}` expressions in every string of a JSON value, under limits.

        A string that is one whole expression keeps its type. Raises `UsageError` (undefined name,
        statement, too long, too large), and as `call`.
        """

    async def freeze(self) -> None:
        """Stop everything inside where it stands, deadlines included, until `thaw`.

        Asked for on return, done within milliseconds. `close` works all the same. Safe to repeat.
        """

    async def thaw(self) -> None:
        """Let it go on. Safe to repeat."""

    async def close(self) -> None:
        """SIGKILL everything inside; returns when all of it is dead. Safe to call twice."""


@runtime_checkable
class Attaches(Protocol):
    """A sandbox that can run a command on descriptors of ours."""

    async def run_attached(
        self,
        spec: SandboxSpec,
        argv: Sequence[str],
        *,
        deadline_seconds: float | None = None,
        stdio: tuple[int, int, int] = (0, 1, 2),
    ) -> int:
        """The command's exit code; 124 at the deadline. Cancelled, everything in it is dead."""


class Sandbox(Protocol):
    """Starts sandboxes of one kind."""

    @property
    def name(self) -> str:
        """For people: `bubblewrap`, say."""

    async def probe(self) -> Probe:
        """Try it for real, cheaply; cached."""

    async def open(self, spec: SandboxSpec) -> SandboxSession:
        """Start a worker. `SandboxUnavailable` if that fails."""

    async def execute(
        self, spec: SandboxSpec, argv: Sequence[str], *, deadline_seconds: float
    ) -> ExecResult:
        """Run one command in a sandbox of its own; everything in it is dead on return.

        What goes wrong is a result: 124 the deadline, 125 no sandbox, with the reason as output.
        """

    async def reap(self, owner_id: str) -> int:
        """Kill what an earlier, dead process left under `owner_id`; returns how many sandboxes.

        On return nothing of it is alive: live processes are known by (boot id, pid, start time).
        """


@runtime_checkable
class Prestarts(Protocol):
    """A sandbox whose workers can be started before they are asked for."""

    async def prestart(self, spec: SandboxSpec) -> None:
        """Start a worker for the next `open` with an equal spec, if there is room; never waits.

        A failure is for that `open` to tell. Whoever asks for one must `discard` it.
        """

    async def discard(self, owner_id: str) -> None:
        """End what was started for an owner and was not handed out; on return it is dead."""


# ---- workspaces --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskQuota:
    """How much a task's working copy and HOME may take together, and each of its checkouts."""

    bytes: int
    inodes: int | None = None
    """Files, directories and links; None: one for 16 KiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedWorkspace:
    """A task's workspace on disk. `mount` is where sandboxes see it."""

    path: str
    mount: str
    base_commit: str
    """Commit the task started from; empty in a repository with no commit."""
    base_tree: TreeId
    """What the task started from, uncommitted edits included."""
    branch: str = ""
    carried: tuple[str, ...] = ()
    """Uncommitted paths that were carried over."""
    notes: tuple[str, ...] = ()
    """What a user should know (a shallow clone, LFS pointers, ignored submodules)."""
    disk: str = ""
    """The means by which a `DiskQuota` holds, or why it does not; empty if there is none."""


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs between two trees. `kind` is git's letter: A, D, M or T."""

    path: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftWork:
    """What an ended run left, to be gone on with: its own base, and the last tree."""

    base_commit: str
    base_tree: TreeId
    tree: TreeId


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactLimits:
    """Of one task's artifacts together."""

    files: int = 1000
    bytes: int = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFile:
    """A regular file of a tree, with the SHA-256 of its content in hex."""

    path: str
    bytes: int
    sha256: str
    executable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFiles:
    """What patterns mean in a tree, sorted by path."""

    files: tuple[FoundFile, ...] = ()
    missing: tuple[str, ...] = ()
    """Patterns of which nothing is among `files`."""
    left_out: tuple[str, ...] = ()
    """What matched and is not among `files`, and why, in words."""


class Workspaces(Protocol):
    """Working copies, versioned in a private store that no sandbox sees.

    Trees stay after `close`, until `forget`. Operating errors are `WorkspaceError`; of these
    `DiskFull` says nothing about the task: it stops, and is resumed when there is room.
    """

    async def check(self, spec: WorkspaceSpec, *, at: str = "") -> None:
        """Refuse what no `open` could use, as far as a quick look tells; nothing is made.

        `at` is the commit that a task which shall go on began with.
        """

    async def open(
        self,
        task_id: TaskId,
        spec: WorkspaceSpec,
        *,
        disk: DiskQuota | None = None,
        left: LeftWork | None = None,
    ) -> OpenedWorkspace:
        """Make the working clone, or find the one that a first, interrupted `open` finished.

        Waits while another task owns an in-place directory. `disk` is the first `open`'s or
        `scratch`'s to say; where it cannot be had, `notes` say so. With `left` the clone is made
        from that commit and holds that tree, and it has the commits of the earlier run, or the
        notes say why not. An in-place directory is taken as it is.
        """

    async def require(self, task_id: TaskId, trees: Sequence[TreeId]) -> None:
        """Are these trees still kept? `WorkspaceError` if not."""

    async def snapshot(self, task_id: TaskId) -> TreeId:
        """The tree of the workspace now: raw bytes of everything but `.git`."""

    async def restore(self, task_id: TaskId, tree: TreeId) -> None:
        """Make the workspace equal to `tree`; ignored and untracked files included."""

    async def changes(self, task_id: TaskId, before: TreeId, after: TreeId) -> list[Change]:
        """What differs, sorted by path."""

    async def patch(self, task_id: TaskId, before: TreeId, after: TreeId) -> bytes:
        """A binary-safe patch that `git apply` takes."""

    async def find(
        self, task_id: TaskId, tree: TreeId, patterns: Sequence[str], *, limits: ArtifactLimits
    ) -> FoundFiles:
        """The files that globs below the workspace mean. No link is followed, none is a file."""

    async def without_ignored(
        self, task_id: TaskId, tree: TreeId, *, base: TreeId, patterns: Sequence[str]
    ) -> TreeId:
        """`tree` without the new files that `patterns` mean and a `.gitignore` of `base` names."""

    async def take_out(
        self, task_id: TaskId, tree: TreeId, paths: Sequence[str], target: str
    ) -> None:
        """Write files of a tree below the directory `target`, which is made if need be.

        All or none: a path that is none, and a file that is there with another content, are refused
        before anything is written. What lies at `target` is never followed out of it.

        Raises:
            UsageError: `target` cannot be written.
            Conflict: a file is in the way.
        """

    async def contents(
        self, task_id: TaskId, tree: TreeId, paths: Sequence[str]
    ) -> dict[str, bytes | None]:
        """What these paths hold in a tree; None for what is no regular file there."""

    async def pack(self, task_id: TaskId, trees: Sequence[TreeId]) -> bytes:
        """These trees with all their files as one text of bytes, for `unpack` elsewhere."""

    async def unpack(self, task_id: TaskId, trees: Sequence[TreeId], packed: bytes) -> None:
        """Take in trees of a task that was worked on elsewhere; there is no workspace of it here.

        From then on `changes` and `patch` know them. Safe to repeat. `packed` may come from
        anybody.

        Raises:
            WorkspaceError: it is nothing that `pack` made, or one of `trees` is not whole in it.
        """

    async def branch_bundle(
        self, task_id: TaskId, patch: bytes, *, base_commit: str, message: str, at_us: int
    ) -> bytes:
        """A git bundle with the task's branch: `patch` on `base_commit`, which the taker must have.

        Works after `close`. Equal results make equal commits.
        """

    async def fork(self, task_id: TaskId, fork_id: TaskId) -> None:
        """Give another task, which has none, every version of this one, and its commits.

        Nothing of `task_id` is changed, and it may be worked on meanwhile. Then `open` makes the
        fork's own working copy. Safe to repeat.
        """

    async def export(
        self, task_id: TaskId, tree: TreeId, *, base: TreeId, protected: Sequence[str]
    ) -> tuple[str, TreeId]:
        """A clean checkout in a new directory: `tree` with protected files as in `base`.

        Returns the directory (caller removes it with `discard`) and the tree of what it holds.
        """

    async def discard(self, path: str) -> None:
        """Remove an exported directory."""

    async def scratch(self, task_id: TaskId, *, disk: DiskQuota | None = None) -> str:
        """The task's HOME on the host: outside the workspace, gone with `close`."""

    async def close(self, task_id: TaskId) -> None:
        """Remove working clone and scratch; keep the trees. Never touches an in-place directory."""

    async def forget(self, task_id: TaskId) -> None:
        """Remove everything of the task (retention)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOutcome:
    """One objective's check as it ran. `output` is capped, `raw` is everything that was kept."""

    id: str
    command: str | list[str]
    exit: int
    expected_exit: int
    ok: bool
    reason: str = ""
    """Why it is not ok; empty if it is."""
    passed: int | None = None
    ran: int | None = None
    """Tests that came to a verdict, good or bad; None where the output does not say."""
    min_passed: int | None = None
    output: str = ""
    seconds: float = 0.0
    before: CheckOutcome | None = None
    """The same check on the base, without the work: the baseline."""
    flaky: bool = False
    """On one and the same tree it ended well once and once not, or never for the same tests."""
    countered: tuple[str, ...] = ()
    """Tests that turned good; made to fail once more, they made the check fail: it listens."""
    seen: Seen = NOTHING_SEEN
    """The single tests, as far as they are known."""
    compared: TestsCompared | None = None
    """What became of the tests of `before`; None where their names are not known."""
    origin: Origin = "given"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What the runtime saw on a clean checkout of `tree`, the handed-over tree."""

    ok: bool
    tree: TreeId
    checks: tuple[CheckOutcome, ...]
    protected_changed: tuple[str, ...]
    suspects: tuple[str, ...] = ()
    """Changed sources that reach for the test runner, in words."""


Furnished = Callable[[str], AbstractAsyncContextManager[SandboxSpec]]
"""Puts the environment around a checkout's directory, for as long as one check runs in it."""


class Verifier(Protocol):
    """Runs the objectives' checks, each in a new sandbox on a fresh checkout."""

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
        """Export, check, check the base as well, compare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """How a task's environment was prepared."""

    environment: PreparedEnvironment
    cached: bool = False
    seconds: float = 0.0
    output: bytes = b""
    """What setup's commands printed, without secrets."""
    notes: tuple[str, ...] = ()
    """What a user should know: ignored keys, missing tools, files that were not kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Furnishing:
    """The environment's files, ready for one sandbox."""

    layers: tuple[Layer, ...] = ()
    home: str | None = None


class Environment(Protocol):
    """What a task's commands run with, beyond the repository."""

    def check(self, task: TaskSpec) -> None:
        """Refuse what no `prepare` could use.

        Raises:
            UsageError: it names a secret that the installation does not know.
        """

    async def prepare(
        self,
        task_id: TaskId,
        task: TaskSpec,
        opened: OpenedWorkspace,
        sandbox: Sandbox,
        *,
        limits: SandboxLimits,
        heard: Callable[[EgressRecord], None] | None = None,
    ) -> Preparation:
        """Run the setup, or find what an earlier one left. The workspace is as it was afterwards.

        No sandbox of the task may be alive. Safe to repeat.

        Raises:
            SetupFailed: a command failed; says which, and what it printed.
            WorkspaceError: the named venv is none, or the files cannot be kept.
        """  # fmt: skip

    async def furnish(self, task_id: TaskId, prepared: PreparedEnvironment) -> Furnishing:
        """The files for the tools' sandbox; copies are made once a task. HOME is the task's own.

        Raises:
            WorkspaceError: the kept files are gone.
        """

    async def adopt(self, task_id: TaskId, prepared: PreparedEnvironment) -> None:
        """Put into a new working copy and HOME what `prepare` had put into those of another task.

        Raises:
            WorkspaceError: the kept files are gone.
        """

    def fresh(
        self, task_id: TaskId, prepared: PreparedEnvironment, checkout: str
    ) -> AbstractAsyncContextManager[Furnishing]:
        """The files as setup left them, for one check in `checkout`; copies are removed at the end.

        Raises:
            WorkspaceError: the kept files are gone.
        """

    def secrets(self, task: TaskSpec) -> Mapping[str, str]:
        """Every secret that the task names, by name; empty where none is named.

        Raises:
            WorkspaceError: one cannot be read just now; names it and says why.
        """


# ---- models ------------------------------------------------------------------------------


ModelFaultKind = Literal[
    "rate", "overload", "transport", "truncated", "auth", "not_found", "bad_request", "context",
    "filter", "too_large", "internal",
]  # fmt: skip
"""Why there is no answer; see `loop.recovery` for what follows.

rate: too many requests or too much spent per minute; overload: the provider cannot just now;
transport: no connection, time-out, TLS; truncated: the answer ended before its finish marker, or is
none; auth: no key, or it is refused; not_found: no such model or address; bad_request: refused as
malformed; context: the prompt is too long; filter: the provider refuses to answer this;
too_large: an answer of absurd size; internal: a fault of the adapter.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """One turn. Everything in it is without secrets, and in an order that never changes: `system`,
    `tools`, `messages` only ever grow at their ends, so that a provider's prompt cache holds."""

    model: ModelChoice
    system: str
    messages: tuple[Message, ...]
    tools: tuple[ToolInfo, ...] = ()
    answer_schema: Mapping[str, Json] | None = None
    """JSON schema of the text that is wanted; None: free text and calls."""
    output_tokens_max: int = 8_192
    """Reserved for the answer, thinking included: an adapter never asks for more."""
    conversation: str = ""
    """The same for all turns of a task: helps a provider to find its cache. Tells nothing."""
    heard: Callable[[str], None] | None = None
    """Gets the text as it comes; None: nobody watches, and nothing is streamed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAnswer:
    """What a model said. `message.role` is assistant."""

    message: Message
    stop: Literal["end", "calls", "length"] = "end"
    usage: ModelUsage = NO_USAGE
    usd: float = 0.0
    model: str = ""
    """As the provider names what answered."""
    cached: bool = False
    """It comes from the runtime's own cache of exact repetitions, and cost nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFault:
    """Why there is no answer. `message` is for people and without secrets."""

    kind: ModelFaultKind
    message: str
    retry_after_seconds: float | None = None
    usage: ModelUsage = NO_USAGE
    """What it cost all the same, as far as that is known."""
    usd: float = 0.0


class Model(Protocol):
    """Decides the next call. Never retries and never falls over to another model: the loop does
    both, by its table, and each attempt is in the log."""

    async def find(self, task: TaskSpec) -> Brain:
        """Who can think for this task: what it names, else what the installation has a key for.

        Never raises for what is missing: `Brain(kind="none")` says what would serve.
        """

    async def complete(self, request: ModelRequest) -> ModelAnswer | ModelFault:
        """Ask once. Whatever goes wrong comes back as a fault."""


class Listeners(Protocol):
    """Who watches a task as it thinks. What they hear is not stored, and may be said twice."""

    def of(self, task_id: TaskId) -> Callable[[str], None] | None:
        """Gets each piece of a model's text as it comes; None: nobody watches this task."""

    def listen(self, task_id: TaskId, heard: Callable[[str], None]) -> Callable[[], None]:
        """Hear each piece until the returned function is called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishOrder:
    """One task's result, and where it is to go. Equal orders make equal commits."""

    task_id: TaskId
    repo: str
    """`workspace.repo` of the task: `origin` means where that comes from."""
    ref: str
    spec: PublishSpec
    base_commit: str
    """What the task began from; empty: a repository without commits."""
    carried: bool
    """Did it begin with uncommitted edits? The patch is about those, too."""
    tree: TreeId
    """What was certified."""
    patch: bytes
    message: str
    at_us: int
    """When the end was decided: the commit's time."""
    ours: tuple[str, ...] = ()
    """Commits that an earlier try may have pushed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedBranch:
    """The commit that is to leave; see `events.PublicationPrepared`."""

    url: str
    """Without user and password."""
    branch: str
    base: str
    base_commit: str
    commit: str
    tree: TreeId
    base_tree: TreeId
    packed: bytes | None = None
    """Both trees for `Workspaces.unpack`, if what was certified is not what the commit holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedRequest:
    """A pull request. `found`: it was there."""

    url: str
    number: int
    found: bool


class Publisher(Protocol):
    """Brings a branch to a git remote and asks for it to be pulled, with credentials of its own.

    Every operating error is `PublishFailed`, and says nothing secret.
    """

    def check(self, task: TaskSpec) -> None:
        """Refuse what could never be published, without a connection.

        Raises:
            UsageError: `publish` names what is no address, or one that may not be reached.
        """

    async def prepare(self, order: PublishOrder) -> PreparedBranch:
        """Make the commit on the newest base, here. Safe to repeat."""

    async def push(self, order: PublishOrder, prepared: PreparedBranch) -> bool:
        """Push the branch, unless it is there: True then. Never forces away what is not ours.

        Fails with `moved` when the base is no longer the prepared one.
        """

    async def open_request(
        self, order: PublishOrder, prepared: PreparedBranch, *, title: str, body: str
    ) -> OpenedRequest:
        """Open the pull request, or find the one that there is for the branch.

        An open one of an earlier publication gets the new text.
        """

    async def forget(self, task_id: TaskId) -> None:
        """Remove what `prepare` made. Safe to repeat."""


class Uploads(Protocol):
    """Repositories that came over the wire, by their content."""

    async def receive(self, chunks: AsyncIterable[bytes]) -> str:
        """Take in a git bundle; the name that `workspace.repo` may have then.

        Raises:
            UsageError: it is no bundle that a task could work on, or too large; nothing is kept.
        """

    async def unused(self, named: Collection[str], before: float) -> list[str]:
        """Uploads that no task of `named` works on and that nobody has sent since `before`."""

    async def remove(self, name: str) -> None:
        """Remove one. Safe to repeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Everything the loop may touch, put together in `app`."""

    store: Store
    clock: Clock
    bus: Bus
    toolbox: Toolbox
    sandbox: Sandbox
    workspaces: Workspaces
    verifier: Verifier
    environment: Environment
    model: Model | None = None
    plugin_paths: tuple[str, ...] = ()
    """What every worker must be able to import; see `SandboxSpec.plugin_paths`."""
    shared_dir: str = ""
    """What modules hand to the tools' sandboxes; see `ModuleContext.shared_dir`."""
    sandbox_limits: SandboxLimits = SandboxLimits()
    """Of every sandbox of a task, its checks included."""
    sandbox_ceiling: SandboxCeiling = SandboxCeiling()
    """What no task may ask more of."""
    listeners: Listeners | None = None
    egress_files: EgressFiles | None = None
    artifact_limits: ArtifactLimits = ArtifactLimits()
    publisher: Publisher | None = None
    uploads: Uploads | None = None
