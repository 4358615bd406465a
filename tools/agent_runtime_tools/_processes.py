"""Running a child process to its end or its deadline, and keeping what it said.

Everything here blocks; it runs in a thread. A child leads a session of its own, so that it can be
killed with all its children. A child that leaves the session is found by `MARK_VARIABLE` in its
environment; one that cleans that too dies with the sandbox.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Literal

from agent_runtime.types import ToolCall

KEPT_BYTES_MAX: Final = 8 << 20
"""What is kept of an output; the rest is read, so that nobody blocks, and counted."""
GRACE_SECONDS: Final = 0.25
"""How long output may still come after its command has ended, when another process holds it."""
DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MARK_VARIABLE: Final = "AGENT_RUNTIME_PROCESS"
"""In the environment of a child and of all that it starts; its value is of one child only."""
_CHUNK_BYTES = 1 << 16
_POLL_SECONDS = 0.02
_WAIT_SECONDS_MAX = 3600.0

LOOK_SECONDS: Final = 0.5
FROZEN_SECONDS_MIN: Final = 1.0
"""Who looks every `LOOK_SECONDS` and finds that much more gone by stood still meanwhile."""

Ended = Literal["exited", "stopped", "timeout"]
Process = subprocess.Popen[bytes]


def environment(call: ToolCall) -> dict[str, str]:
    """What a child of this call sees: the call's variables, and what no command can do without."""
    defaults = {"PATH": DEFAULT_PATH, "LANG": "C.UTF-8"}
    if call.home:
        defaults["HOME"] = call.home
    return {**defaults, **call.env, **mark()}


def mark() -> dict[str, str]:
    """The variable by which a child's descendants are found."""
    return {MARK_VARIABLE: os.urandom(12).hex()}


class Kept:
    """The head and the tail of a stream, at most `limit` bytes together."""

    def __init__(self, limit: int = KEPT_BYTES_MAX) -> None:
        self.bytes_seen = 0
        self._half = limit // 2
        self._head = bytearray()
        self._tail = bytearray()

    def add(self, chunk: bytes) -> None:
        """Take the next piece."""
        self.bytes_seen += len(chunk)
        room = self._half - len(self._head)
        self._head += chunk[:room]
        self._tail += chunk[room:]
        if len(self._tail) > 2 * self._half:
            del self._tail[: -self._half]

    @property
    def bytes_cut(self) -> int:
        """How many are not in `content`."""
        return self.bytes_seen - len(self._head) - min(len(self._tail), self._half)

    def content(self) -> bytes:
        """What was kept, with a line where something is missing."""
        if not self.bytes_cut:
            return bytes(self._head + self._tail)
        note = f"\n[… {self.bytes_cut:,} of {self.bytes_seen:,} bytes cut …]\n".encode()
        return bytes(self._head) + note + bytes(self._tail[-self._half :])


@dataclass(slots=True)
class Pump:
    """Reads the outputs of one process while it runs.

    `sinks` maps a file descriptor to what takes its pieces; a descriptor leaves it at its end.
    """

    process: Process
    sinks: dict[int, Callable[[bytes], None]] = field(default_factory=dict)

    def run(self, *, deadline: float, stop: Callable[[], bool] = lambda: False) -> Ended:
        """Read until the process has exited, `stop` says so, or `deadline` (monotonic) is past.

        After an exit, or a stop, everything that was written before it has been read. Time during
        which the whole sandbox was frozen does not count.
        """
        for descriptor in self.sinks:
            os.set_blocking(descriptor, False)
        with _Watch(self.process) as watch:
            looked_at = time.monotonic()
            while True:
                stood_still = time.monotonic() - looked_at - LOOK_SECONDS
                if stood_still > FROZEN_SECONDS_MIN:
                    deadline += stood_still
                looked_at = time.monotonic()
                exited = watch.exited()
                read = self._read_ready()
                if stop():
                    self._drain()
                    return "stopped"
                if exited:
                    self._drain()
                    return "exited"
                left = deadline - time.monotonic()
                if left <= 0:
                    return "timeout"
                if not read:
                    watch.wait(self.sinks, seconds=min(left, LOOK_SECONDS))

    def linger(self, seconds: float = GRACE_SECONDS) -> bool:
        """Read on until every output has ended; False if some other process still holds one."""
        deadline = time.monotonic() + seconds
        while self.sinks and (left := deadline - time.monotonic()) > 0:
            if not self._read_ready():
                _wait_readable(self.sinks, seconds=left)
        return not self.sinks

    def abandon(self) -> None:
        """Let a background process write on: a thread reads and drops it until it ends.

        Closing the pipe would kill a server that was started with `&` at its next line.
        """
        for descriptor in self.sinks:
            # The pipe belongs to the thread now, and no longer to the process object.
            owned = os.dup(descriptor)
            threading.Thread(target=_drop, args=(owned,), daemon=True).start()
        self.sinks.clear()

    def _drain(self) -> None:
        deadline = time.monotonic() + GRACE_SECONDS
        while self._read_ready() and time.monotonic() < deadline:
            pass

    def _read_ready(self) -> bool:
        """One piece of each output; False if there was nothing to read."""
        read = False
        for descriptor, sink in list(self.sinks.items()):
            try:
                chunk = os.read(descriptor, _CHUNK_BYTES)
            except BlockingIOError:
                continue
            read = True
            if chunk:
                sink(chunk)
            else:
                del self.sinks[descriptor]
        return read


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that came to its end, or was brought there. `exit` follows shells."""

    exit: int
    output: bytes
    output_bytes: int
    timed_out: bool
    detached: bool
    """A process that the command left behind still holds the output."""


class Command:
    """One command, run once; `kill` may come from another thread at any time."""

    def __init__(
        self, argv: Sequence[str], *, cwd: str, env: Mapping[str, str], seconds: float
    ) -> None:
        self._argv = list(argv)
        self._cwd = cwd
        self._env = dict(env)
        self._seconds = seconds
        self._process: Process | None = None
        self._killed = False

    async def run(self) -> Finished:
        """Run it; a cancelled caller kills it.

        Raises:
            OSError: it could not be started.
        """
        # A worker never comes here, and starts faster without anyio.
        from anyio import to_thread

        done = False
        try:
            finished = await to_thread.run_sync(self.run_blocking, abandon_on_cancel=True)
            done = True
        finally:
            if not done:
                self.kill()
        return finished

    def kill(self) -> None:
        """Kill it and its children, also if it is only about to start."""
        self._killed = True
        if self._process is not None:
            kill_all(self._process, self._env)

    def run_blocking(self) -> Finished:
        """As `run`, in the caller's thread."""
        kept = Kept()
        with subprocess.Popen(
            self._argv,
            cwd=self._cwd,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process:
            self._process = process
            if self._killed:
                self.kill()
            assert process.stdout is not None
            pump = Pump(process, {process.stdout.fileno(): kept.add})
            timed_out = pump.run(deadline=time.monotonic() + self._seconds) == "timeout"
            if timed_out:
                self.kill()
            detached = not pump.linger()
            if detached:
                pump.abandon()
            code = process.wait()
        return Finished(
            exit=124 if timed_out else shell_exit(code),
            output=kept.content(),
            output_bytes=kept.bytes_seen,
            timed_out=timed_out,
            detached=detached,
        )


def shell_exit(code: int) -> int:
    """128+n for a death by signal n."""
    return code if code >= 0 else 128 - code


def kill_all(process: Process, env: Mapping[str, str]) -> None:
    """SIGKILL the process, its group, and every process that carries the mark of its `env`."""
    # The group may be killed only while its leader is not reaped: later its number may be reused.
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    # A process that forks while it is looked for is found by the next round.
    for _ in range(5):
        if not _kill_strays(f"{MARK_VARIABLE}={env[MARK_VARIABLE]}".encode()):
            return


def _kill_strays(marker: bytes) -> int:
    killed = 0
    for pid in _pids():
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                variables = file.read().split(b"\0")
            if marker in variables and pid != os.getpid():
                os.kill(pid, signal.SIGKILL)
                killed += 1
        except OSError:
            continue
    return killed


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def _drop(descriptor: int) -> None:
    with suppress(OSError):
        os.set_blocking(descriptor, True)
        while os.read(descriptor, _CHUNK_BYTES):
            pass
    os.close(descriptor)


def _wait_readable(descriptors: Iterable[int], *, seconds: float) -> bool:
    """Wait until one can be read or has ended; poll, because select ends at descriptor 1023."""
    poller = select.poll()
    for descriptor in descriptors:
        poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(min(seconds, _WAIT_SECONDS_MAX) * 1000))


class _Watch:
    """Waits for the end of a process beside its outputs.

    By pidfd where there is one, else by looking again every 20 ms.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._pidfd: int | None = None

    def __enter__(self) -> _Watch:
        with suppress(AttributeError, OSError):
            self._pidfd = os.pidfd_open(self._process.pid)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)

    def exited(self) -> bool:
        if self._pidfd is None:
            return self._process.poll() is not None
        return _wait_readable([self._pidfd], seconds=0)

    def wait(self, outputs: Mapping[int, object], *, seconds: float) -> None:
        watched = list(outputs)
        if self._pidfd is None:
            seconds = min(seconds, _POLL_SECONDS)
        else:
            watched.append(self._pidfd)
        _wait_readable(watched, seconds=seconds)
