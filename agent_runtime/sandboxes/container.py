"""The sandbox where there are no namespaces to be had: this container itself is the boundary.

Used only where `surroundings` says so, by one task at a time (`turns`). Inside the container it
still keeps tools from the runtime: another user for each task where root may be one and the paths
can be reached, Landlock for files and for where connections lead, the shipped seccomp filter and a
second one, no capabilities, rlimits, an environment of its own, and everything dead at the end
(`confining`, `marks`). What this does not stop is listed in docs/sandboxes.md. Paths are those of
the container: nothing is mounted, a call's workspace is where it is.
"""

from __future__ import annotations

import os
import secrets
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import anyio.to_thread

from agent_runtime.errors import SandboxUnavailable
from agent_runtime.ports.sandbox import ExecResult, Probe, SandboxSpec
from agent_runtime.sandboxes import (
    bubblewrap,
    cgroups,
    diagnosis,
    landlock,
    marks,
    mounts,
    records,
    surroundings,
)
from agent_runtime.sandboxes.egress import Gate, Outlet
from agent_runtime.sandboxes.egress_company import sandbox_variables
from agent_runtime.sandboxes.egress_heads import TOKEN_USER
from agent_runtime.sandboxes.interpreters import (
    SYSTEM_DIRECTORIES,
    interpreter_binds,
    is_below,
    is_visible,
    own_interpreter,
    venv_binds,
)
from agent_runtime.sandboxes.launching import Launch, Launcher
from agent_runtime.sandboxes.seccomp import filter_path
from agent_runtime.sandboxes.session import WorkerSession, moved
from agent_runtime.sandboxes.surroundings import Boundary
from agent_runtime.sandboxes.turns import Turn, Turns

NAME: Final = "container"
_WRAPPER: Final = ("/bin/sh", "-c", 'exec "$@"', "sh")
_DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "fd")
_ETC: Final = ("passwd", "group", "hosts", "hostname", "ld.so.preload", "inputrc", "shells")
_ETC_SHARED: Final = ("resolv.conf", "host.conf")
"""Needed only where names are looked up from inside."""
_SERVICES: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "services.py")
_OWN_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@dataclass(frozen=True, slots=True)
class User:
    """Whom a sandbox runs as; None: as the daemon's own user."""

    uid: int | None = None
    gid: int | None = None
    why_own: str = ""
    """Why it is the daemon's own."""


class ContainerSandbox:
    """Implements `ports.Sandbox` without namespaces. `turns` is for tests: whom to wait for."""

    def __init__(self, state_dir: str, boundary: Boundary, turns: str = "") -> None:
        self._state_dir = os.path.abspath(state_dir)
        self._boundary = boundary
        self._launcher = Launcher(self._state_dir)
        self._turns = Turns(turns)
        self._landlock = landlock.abi()
        self._probe: Probe | None = None

    @property
    def name(self) -> str:
        """Which rung of the ladder this is."""
        return NAME

    async def probe(self) -> Probe:
        """Is it the boundary, and does `true` run with everything a real sandbox has?"""
        if self._probe is None:
            self._probe = await self._look()
        return self._probe

    async def open(self, spec: SandboxSpec) -> WorkerSession:
        """See `ports.Sandbox.open`. Waits while another task runs in this container."""
        await self._ready()
        turn = await self._take(spec.owner_id)
        gate: Gate | None = None
        try:
            gate = await Gate.open(self._state_dir, spec, on_port=True)
            launch, home = self._worker(spec, gate.outlet if gate else None, turn)
            rewrite = moved(
                mount=spec.mount,
                workspace=os.path.realpath(spec.workspace),
                inner_home=mounts.home_of(spec),
                home=home,
            )
            # The task's variables come with its first frame: an LD_PRELOAD is for commands.
            bare = {"PATH": mounts.PATH, "LANG": "C.UTF-8"}
            if said := launch.env.get(mounts.SERVICES_VARIABLE):
                bare[mounts.SERVICES_VARIABLE] = said
            env = {k: v for k, v in launch.env.items() if k != mounts.SERVICES_VARIABLE}
            session = await bubblewrap.open_worker(
                self._launcher,
                replace(launch, env=bare),
                spec,
                env,
                rewrite=rewrite,
                gate=gate,
                closed=turn.end,
            )
        except BaseException:
            if gate is not None:
                await gate.close()
            turn.end()
            raise
        return session

    async def execute(
        self, spec: SandboxSpec, argv: Sequence[str], *, deadline_seconds: float
    ) -> ExecResult:
        """See `ports.Sandbox.execute`; waiting for its turn is no part of the deadline."""
        await self._ready()
        async with self._command(spec, argv, deadline_seconds) as launch:
            return await bubblewrap.run_captured(
                self._launcher, launch, spec, deadline_seconds=deadline_seconds
            )

    async def run_attached(
        self,
        spec: SandboxSpec,
        argv: Sequence[str],
        *,
        deadline_seconds: float | None = None,
        stdio: bubblewrap.Stdio = bubblewrap.OWN,
    ) -> int:
        """Run one command on this process's own stdin, stdout and stderr; return its exit code."""
        await self._ready()
        async with self._command(spec, argv, deadline_seconds) as launch:
            return await bubblewrap.run_attached(
                self._launcher, launch, spec, deadline_seconds=deadline_seconds, stdio=stdio
            )

    async def reap(self, owner_id: str) -> int:
        """See `ports.Sandbox.reap`."""
        return await records.reap(self._state_dir, owner_id)

    # ---- what is started -----------------------------------------------------------------

    @asynccontextmanager
    async def _command(
        self, spec: SandboxSpec, argv: Sequence[str], seconds: float | None
    ) -> AsyncIterator[Launch]:
        turn = await self._take(spec.owner_id)
        gate: Gate | None = None
        try:
            gate = await Gate.open(self._state_dir, spec, on_port=True)
            outlet = gate.outlet if gate else None
            launch = self._launch(spec, (*_WRAPPER, *argv), outlet, needed=[], turn=turn)
            yield _preceded(launch, spec, seconds=seconds)
        finally:
            if gate is not None:
                await gate.close()
            turn.end()

    async def _take(self, owner_id: str) -> Turn:
        """A turn, with nothing left of an earlier task whose daemon and keepers were killed."""
        turn = await self._turns.take(owner_id)
        try:
            await records.reap_dead(self._state_dir)
        except BaseException:
            turn.end()
            raise
        return turn

    def _worker(self, spec: SandboxSpec, outlet: Outlet | None, turn: Turn) -> tuple[Launch, str]:
        """The worker's launch, with the variables of its commands, and its HOME."""
        binds = mounts.worker_binds(spec.plugin_paths)
        directories: list[str] = []
        package = ""
        for source, destination in binds:
            if destination == f"{mounts.RUNTIME}/packages/agent_runtime":
                package = source
            is_package = destination.startswith(f"{mounts.RUNTIME}/packages/")
            directories.append(os.path.dirname(source) if is_package else source)
        command = bubblewrap.worker_command(directories, package)
        needed = [own_interpreter(), *(source for source, _ in binds)]
        launch = self._launch(spec, command, outlet, needed=needed, turn=turn, listed=directories)
        return _preceded(launch, spec), launch.env["HOME"]

    def _launch(
        self,
        spec: SandboxSpec,
        command: Sequence[str],
        outlet: Outlet | None,
        *,
        needed: Sequence[str],
        turn: Turn | None,
        listed: Sequence[str] = (),
    ) -> Launch:
        mounts.check(spec)
        if spec.read_only_paths:
            raise SandboxUnavailable(
                f"the {NAME} sandbox cannot keep {', '.join(spec.read_only_paths)} read-only "
                "inside a directory that may be written, so it does not work in place; leave out "
                "'workspace.in_place', for a clone"
            )
        if moved_away := [layer.path for layer in spec.layers if layer.path != layer.source]:
            raise SandboxUnavailable(
                f"the {NAME} sandbox has no mounts to show {moved_away[0]!r} by; install what the "
                "task needs into the image, or name a venv with environment.python"
            )
        workspace = os.path.realpath(spec.workspace)
        if is_below(os.path.realpath(self._state_dir), workspace):
            raise SandboxUnavailable(
                f"the runtime's own state {self._state_dir!r} lies in the workspace {workspace!r}, "
                "where tools could write it; keep it elsewhere with the setting store"
            )
        scratch = os.path.join(
            tempfile.gettempdir(), f"agent-runtime-{os.getpid()}-{secrets.token_hex(8)}"
        )
        home = os.path.realpath(spec.home) if spec.home else os.path.join(scratch, "home")
        tmp = os.path.realpath(spec.tmp) if spec.tmp else os.path.join(scratch, "tmp")
        reads = [*needed, *self._reads(spec)]
        # A worker's interpreter decides for commands, too: all of a task runs as one user.
        always = [own_interpreter(), _OWN_PACKAGE]
        places = [workspace, spec.home or "/", os.path.dirname(scratch), *always, *reads]
        user = self._user(spec, places)
        give = [] if user.uid is None else [os.path.realpath(spec.home)] if spec.home else []
        if user.uid is not None and spec.chown:
            give.append(workspace)
        rules = [
            *(["read", path] for path in (*reads, *_system_paths(self._boundary))),
            *(["list", path] for path in listed),
            *(["read", layer.source] for layer in spec.layers),
            *(["device", f"/dev/{name}"] for name in _DEVICES),
            *(["write", path] for path in (workspace, home, tmp, scratch, "/dev/shm")),
            *(["write", path] for path in self._boundary.writable),
        ]
        if outlet is not None:
            rules += [["read", path] for path in (outlet.ca_bundle, outlet.ca_extra) if path]
        confine = {
            "rules": rules,
            "landlock": self._landlock,
            "scratch": scratch,
            "mark": marks.new(),
            # Before the third ABI Landlock does not see a file being cut by its name.
            "truncate": self._landlock < 3,
            **self._network(outlet),
        }
        return Launch(
            kind="plain",
            command=command,
            workspace=workspace,
            limits=spec.limits,
            filter=filter_path() or "",
            uid=user.uid,
            gid=user.gid,
            give=give,
            env=_variables(replace(spec, mount=workspace), home, tmp, outlet),
            confine=confine,
            held=[] if turn is None else [turn.fd],
        )

    def _reads(self, spec: SandboxSpec) -> list[str]:
        """What may be read beyond the system and the worker's code."""
        binds = interpreter_binds(own_interpreter())
        services = [_SERVICES] if spec.services else []
        if spec.python:
            binds += venv_binds(spec.python)
        return [*services, *(bind.source for bind in binds if not is_visible(bind.source))]

    def _network(self, outlet: Outlet | None) -> dict[str, Any]:
        """Which sockets there are, and where they lead."""
        if self._boundary.network == "shared":
            return {"network": "any", "ports": None}
        if outlet is None:
            return {"network": "none", "ports": []}
        if self._landlock < landlock.NETWORK_ABI:
            raise SandboxUnavailable(
                f"the {NAME} sandbox cannot keep a task to its proxy here: that takes Landlock's "
                f"ABI {landlock.NETWORK_ABI} (Linux 6.7), and this is {self._landlock}; leave the "
                "task without a network, or, if something around this container limits its "
                "connections, set AGENT_RUNTIME_CONTAINER_NETWORK=shared"
            )
        return {"network": "tcp", "ports": [outlet.port]}

    def _user(self, spec: SandboxSpec, paths: Sequence[str]) -> User:
        """Another user if that works here and is of use, else our own behind Landlock.

        Raises:
            SandboxUnavailable: neither; what the daemon's user may read, tools could.
        """
        user, workspace = _another(spec, paths), paths[0]
        if user.uid is None and not self._landlock:
            raise SandboxUnavailable(_no_wall(user.why_own))
        if user.uid is None and spec.chown and _is_strange(workspace):
            # Another kind of sandbox had given it to a user of the task's own.
            return User(0, 0, user.why_own)
        if user.uid is None or self._landlock:
            return user
        _close(self._state_dir)
        return user

    # ---- does it work here? --------------------------------------------------------------

    async def _ready(self) -> None:
        probe = await self.probe()
        if not probe.ok:
            raise SandboxUnavailable(f"no sandbox: {probe.detail}\n{probe.remedy}".strip())

    async def _look(self) -> Probe:
        if sys.platform != "linux":
            return Probe(False, NAME, f"it needs Linux; this is {sys.platform}")
        found = surroundings.container_marks()
        if refusal := surroundings.refuse(self._boundary, found):
            return Probe(False, NAME, *refusal)
        if filter_path() is None:
            return Probe(
                False, NAME, f"there is no seccomp filter for a {os.uname().machine} processor",
                "x86_64 and aarch64 have one",
            )  # fmt: skip
        # Not bubblewrap's, which a root daemon may have given to another user.
        directory = os.path.join(self._state_dir, "probe-container")
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            spec = SandboxSpec(owner_id="probe", workspace=directory, mount="/workspace")
            launch = self._launch(spec, (*_WRAPPER, "true"), None, needed=[], turn=None)
            ended = await bubblewrap.run(self._launcher, launch, spec, bubblewrap.PROBE_SECONDS_MAX)
        except SandboxUnavailable as error:
            return Probe(False, NAME, str(error), _LANDLOCK_REMEDY)
        except OSError as error:
            return Probe(False, NAME, f"it cannot be started: {error}", _remedy(str(error)))
        if ended.exit != 0 or ended.failure is not None:
            said = ended.failure[1] if ended.failure else ended.output.decode(errors="replace")
            words = said.strip() or f"'true' ended with {ended.exit}"
            return Probe(False, NAME, words, _remedy(words))
        where = ", ".join(found) or f"container_name {self._boundary.name}"
        places = await anyio.to_thread.run_sync(cgroups.here)
        return Probe(
            True,
            NAME,
            f"this container is the boundary ({where}); {self._described()}",
            can_mount=False,
            limits=cgroups.means(places),
        )

    def _described(self) -> str:
        """How strong it is here, for `doctor`."""
        spec = SandboxSpec(owner_id="probe", workspace=self._state_dir, mount="/workspace")
        user = _another(spec, [self._state_dir, own_interpreter(), _OWN_PACKAGE])
        parts = [
            "another user for each task"
            if user.uid is not None
            else f"tools run as the runtime's own user ({user.why_own})",
            f"Landlock ABI {self._landlock}" if self._landlock else "no Landlock",
            "the network of the container is shared"
            if self._boundary.network == "shared"
            else "no direct connections, also none to a server on 127.0.0.1",
        ]
        found = not_stopped(self._landlock, user)
        if self._boundary.network == "closed" and self._landlock >= landlock.NETWORK_ABI:
            # Landlock knows ports and not addresses, and not the port that `listen` picks itself.
            found.append(
                "for a task with a network, other hosts at the number of its proxy's port, and "
                "listening"
            )
        return f"{', '.join(parts)}; not stopped: {', '.join(found)}"


_LANDLOCK_REMEDY: Final = "use a kernel with Landlock (Linux 5.13), switched on (lsm=landlock,…)"
_SECCOMP_REMEDY: Final = "the container's own filter must allow prctl, as Docker's default does"


def _remedy(words: str) -> str:
    if "Resource temporarily unavailable" in words:
        return diagnosis.TOO_FEW_PROCESSES
    return _SECCOMP_REMEDY if "seccomp" in words else ""


def not_stopped(version: int, user: User) -> list[str]:
    """What this kind does not keep a task from, in short; docs/sandboxes.md has it at length."""
    found = ["seeing other processes and files' names and sizes", "unix sockets that have a path"]
    if user.uid is None:
        found.append("changing modes and times of the runtime's own files")
        if version < landlock.SCOPES_ABI:
            found.append("signals to the runtime")
    found += ["files that others leave in /dev/shm", "filling the disk"]
    return found


def _another(spec: SandboxSpec, paths: Sequence[str]) -> User:
    """A user of the task's own, or why there is none."""
    if os.geteuid() != 0:
        return User(why_own="only root can be somebody else")
    if missing := surroundings.missing_capabilities():
        return User(why_own=f"root lacks {', '.join(f'CAP_{name}' for name in missing)}")
    uid, gid = bubblewrap.identity(spec)
    if uid is None or gid is None:
        return User(why_own="this container maps root only")
    for path in paths:
        if place := surroundings.unreachable(path, uid, gid):
            return User(why_own=f"another one could not pass {place}")
    return User(uid, gid)


def _preceded(launch: Launch, spec: SandboxSpec, *, seconds: float | None = None) -> Launch:
    """With the task's services before the command; the proxy needs nothing in between here."""
    if not spec.services:
        return launch
    logs = os.path.join(launch.env["TMPDIR"], "services")
    said = mounts.services_variable(spec, launch.env, seconds=seconds, logs=logs)
    command = [own_interpreter(), "-I", "-S", "-B", _SERVICES, *launch.command]
    return replace(launch, command=command, env={**launch.env, **said})


def _is_strange(path: str) -> bool:
    """Is it somebody else's, and may root change that?"""
    if os.geteuid() != 0 or os.stat(path).st_uid == 0:
        return False
    return not {"CHOWN", "SETUID", "SETGID"} & set(surroundings.missing_capabilities())


def _no_wall(why: str) -> str:
    return (
        "there is no Landlock here, and no user of its own for a task "
        f"({why}): tools could read what the runtime may"
    )


def _close(state_dir: str) -> None:
    """Without Landlock it is modes that keep another user out; but workspaces are on his way."""
    try:
        for entry in os.scandir(state_dir):
            mode = stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode)
            closed = mode & (0o711 if entry.name == "workspaces" else 0o700)
            if closed != mode and not entry.is_symlink():
                os.chmod(entry.path, closed)
    except OSError as error:
        raise SandboxUnavailable(
            f"without Landlock the runtime's state must be closed to others, and is not: {error}"
        ) from error


def _system_paths(boundary: Boundary) -> list[str]:
    names = [*mounts.etc_names(), *_ETC]
    if boundary.network == "shared":
        names += _ETC_SHARED
    return [*SYSTEM_DIRECTORIES, "/proc", *(os.path.join("/etc", name) for name in names)]


def _variables(spec: SandboxSpec, home: str, tmp: str, outlet: Outlet | None) -> dict[str, str]:
    """The whole environment of what runs inside."""
    network = {}
    if outlet is not None:
        network = sandbox_variables(
            ca_bundle=outlet.ca_bundle,
            ca_extra=outlet.ca_extra,
            relay=f"http://{TOKEN_USER}:{outlet.token}@127.0.0.1:{outlet.port}",
        )
    env = mounts.variables(spec, home)
    own = os.environ.get("PATH", "").split(":")
    # An image has its toolchains where its PATH says, /usr/local/go/bin for one.
    more = [path for path in own if is_visible(path) and path not in mounts.PATH.split(":")]
    path = ":".join([env["PATH"], *dict.fromkeys(more)])
    return {**env, "PATH": path, "TMPDIR": tmp, **network, **spec.env}
