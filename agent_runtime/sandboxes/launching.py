"""The daemon's side of `launcher`: start it, ask it for sandboxes, hear how they ended.

One `Launcher` serves one adapter. A `Running` is one running sandbox; closing its control socket,
or the end of this process, ends the sandbox. What is asked for is decided by the adapters.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import sys
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

import anyio
import anyio.to_thread

from agent_runtime.errors import SandboxUnavailable
from agent_runtime.ports.sandbox import SandboxLimits
from agent_runtime.sandboxes import cgroups, control, groups, keeper, kernel, launcher, records
from agent_runtime.sandboxes.becoming import Source

END_SECONDS_MAX: Final = keeper.KILL_SECONDS_MAX + 5.0
"""How long a keeper may take to prove that its sandbox is dead."""
_ENDED_SECONDS_MAX: Final = 1.0
_counter = itertools.count(1)

Stdio = Literal["captured", "worker", "attached"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One sandbox as the launcher understands it. See `Source` for paths."""

    kind: Literal["bwrap", "plain"]
    command: Sequence[str]
    """What runs inside, looked up by nobody: the first word is a path."""
    workspace: Source
    limits: SandboxLimits
    sources: Sequence[str] = ()
    arguments: Sequence[Source] = ()
    """Bubblewrap's options."""
    program: Source = ""
    filter: str = ""
    """The compiled seccomp filter."""
    uid: int | None = None
    gid: int | None = None
    """Whom a root daemon becomes; None stays."""
    give: Sequence[str] = ()
    """Directories that are made that user's own first."""
    env: dict[str, str] = field(default_factory=dict)
    """Of the plain kind only: bubblewrap gets options."""
    confine: dict[str, Any] | None = None
    """Of the plain kind only: what it gives up (see `confining`); None: nothing."""
    held: Sequence[int] = ()
    """Descriptors that stay open in the keeper."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What a keeper reported when everything in its sandbox was dead."""

    exit: int
    output: bytes
    output_bytes: int
    timed_out: bool
    dead: bool
    oom_kills: int = 0
    """Processes that the kernel killed at the sandbox's memory limit."""
    failure: tuple[str, str] | None = None
    """Why it was not started: `unwritable` or `unavailable`, and the system's words."""


class Launcher:
    """Starts the launcher process on first use, and again if it should have died."""

    def __init__(self, state_dir: str) -> None:
        self._state_dir = state_dir
        self._socket: socket.socket | None = None

    async def launch(
        self,
        launch: Launch,
        *,
        owner_id: str,
        stdio: Stdio,
        passed: Sequence[int] = (),
        deadline_seconds: float | None,
        scratch: bool = False,
    ) -> Running:
        """Ask for a sandbox. `passed` are fds: a worker's channel, or the caller's 0, 1 and 2.

        With `scratch` the keeper makes a directory, `Running.scratch`, and removes it at the end.
        """
        name = f"{os.getpid()}-{next(_counter)}-{time.monotonic_ns():x}"
        record = os.path.join(records.directory(self._state_dir, owner_id), f"{name}.json")
        made = record.removesuffix(".json") + ".home" if scratch else ""
        places = await anyio.to_thread.run_sync(cgroups.here)
        limits = asdict(launch.limits)
        if "memory" in places.found:
            # As a whole is better than each: programs reserve much more than they use.
            limits["memory_bytes"] = None
        env = dict(launch.env)
        if launch.kind == "plain" and launch.confine is None:
            env[records.TAG_VARIABLE] = name
            if made:
                env["HOME"] = made
        request = {
            **asdict(launch),
            "env": env,
            "limits": limits,
            "groups": cgroups.groups(places, launch.limits),
            "output_bytes": launch.limits.output_bytes,
            "stdio": stdio,
            "hide": os.path.realpath(self._state_dir),
            "output": "keep" if stdio == "worker" else "send",
            "deadline_seconds": deadline_seconds,
            "record": record,
            "scratch": made,
            "tag": name,
            "daemon": [os.getpid(), kernel.start_time(os.getpid())],
        }
        control, theirs = socket.socketpair()
        try:
            await self._ask([theirs.fileno(), *passed, *launch.held], cgroups.bases(places))
        except BaseException:
            control.close()
            raise
        finally:
            theirs.close()
        kept = Running(control, record=record, scratch=made)
        try:
            await kept.send(b"R", json.dumps(request).encode())
        except BaseException:
            await kept.end()
            raise
        return kept

    async def _ask(self, fds: list[int], bases: Sequence[str]) -> None:
        for attempt in (1, 2):
            if self._socket is None:
                self._socket = _start(self, bases)
            try:
                while True:
                    try:
                        socket.send_fds(self._socket, [b"+"], fds)
                        return
                    except BlockingIOError:
                        await anyio.wait_writable(self._socket)
            except (BrokenPipeError, ConnectionResetError) as error:
                self._socket = None
                if attempt == 2:
                    raise SandboxUnavailable(
                        f"the launcher {launcher.__file__!r} does not start with the interpreter "
                        f"{sys.executable!r}: {error}"
                    ) from error


class Running:
    """One sandbox in the hands of its keeper."""

    def __init__(self, control: socket.socket, *, record: str, scratch: str) -> None:
        control.setblocking(False)
        self.scratch = scratch
        self._control = control
        self._record = record
        self._buffer = bytearray()
        self._output = b""
        self._ended: Ended | None = None
        self._lock = anyio.Lock()

    async def wait(self) -> Ended:
        """How it ended, once everything in it is dead. Cancelled, it may be called again."""
        async with self._lock:
            while self._ended is None:
                match await self._receive():
                    case b"O", payload:
                        self._output = payload
                    case b"X", payload:
                        self._ended = self._report(json.loads(payload))
                    case b"", _:
                        # The keeper was killed, and took bubblewrap along: make sure.
                        oom = self.oom_kills()
                        dead = await records.end(self._record)
                        self._ended = Ended(
                            exit=137, output=b"", output_bytes=0, timed_out=False, dead=dead,
                            oom_kills=oom,
                        )  # fmt: skip
        return self._ended

    def oom_kills(self) -> int:
        """How many processes were killed for their memory so far, while it runs."""
        return groups.oom_kills(records.groups(self._record))

    async def freeze(self) -> None:
        """Let everything inside stand still, its deadline included; it can still be ended."""
        await self._say(b"F")

    async def thaw(self) -> None:
        """Let it go on."""
        await self._say(b"T")

    async def _say(self, kind: bytes) -> None:
        if self._ended is None and self._control.fileno() >= 0:
            await self.send(kind, b"")

    async def end(self) -> Ended:
        """Kill everything inside and return when it is dead. Safe to call twice, also cancelled."""
        with anyio.CancelScope(shield=True):
            with suppress(OSError):
                self._control.shutdown(socket.SHUT_WR)
            with anyio.move_on_after(END_SECONDS_MAX):
                await self.wait()
            self._control.close()
        return self._ended or Ended(
            exit=137, output=b"", output_bytes=0, timed_out=False, dead=False
        )

    async def send(self, kind: bytes, payload: bytes) -> None:
        data = memoryview(control.FRAME.pack(kind, len(payload)) + payload)
        while data:
            try:
                data = data[self._control.send(data) :]
            except BlockingIOError:
                await anyio.wait_writable(self._control)
            except (BrokenPipeError, ConnectionResetError):
                return  # `wait` says so

    async def _receive(self) -> tuple[bytes, bytes]:
        """The next frame; an empty kind at the end."""
        header = control.FRAME.size
        while True:
            if len(self._buffer) >= header:
                kind, length = control.FRAME.unpack_from(self._buffer)
                if len(self._buffer) >= header + length:
                    payload = bytes(self._buffer[header : header + length])
                    del self._buffer[: header + length]
                    return kind, payload
            try:
                data = self._control.recv(1 << 18)
            except BlockingIOError:
                await anyio.wait_readable(self._control)
                continue
            except OSError:
                data = b""
            if not data:
                return b"", b""
            self._buffer += data

    def _report(self, report: dict[str, Any]) -> Ended:
        failure = report["failure"]
        return Ended(
            exit=report["exit"],
            output=self._output,
            output_bytes=report["output_bytes"],
            timed_out=report["timed_out"],
            dead=report["dead"],
            oom_kills=report["oom_kills"],
            failure=(failure[0], failure[1]) if failure else None,
        )


def _start(owner: Launcher, bases: Sequence[str]) -> socket.socket:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        # Not `Popen`: the process outlives every call and ends with its socket. No environment:
        # the daemon's secrets are not for the processes that stand beside a sandbox.
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", launcher.__file__, *bases],
            {},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            ],
        )
    weakref.finalize(owner, _stop, ours, pid)
    return ours


def _stop(ours: socket.socket, pid: int) -> None:
    """The launcher ends when its socket does; collect it, but do not wait for long."""
    ours.close()
    end = time.monotonic() + _ENDED_SECONDS_MAX
    with suppress(ChildProcessError):
        while os.waitpid(pid, os.WNOHANG)[0] == 0 and time.monotonic() < end:
            time.sleep(0.001)
