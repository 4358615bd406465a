"""The ports for sandboxes: what one sees, what it may use, and what can be run in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from agent_runtime.egress_rules import NetworkMode
from agent_runtime.ports.egress import EgressRecord
from agent_runtime.types import Json, ServiceSpec, ToolCall, ToolInfo, ToolResult


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
