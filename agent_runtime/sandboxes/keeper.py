"""The keeper of one sandbox: builds it, holds its deadline, keeps its output, ends it.

**How death is proven.** A keeper is a child subreaper: whatever the sandbox leaves behind becomes
its child. It kills its children and waits until it has none (`ECHILD`). The init process of a pid
namespace ends only after everything in the namespace has. A keeper that is killed itself takes
bubblewrap along (`--die-with-parent`); what the unsafe kind leaves then is found by `records.reap`.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from agent_runtime.sandboxes.becoming import Request, parked
from agent_runtime.sandboxes.confining import make_scratch, remove_scratch
from agent_runtime.sandboxes.control import FRAME, cmsg_cloexec, receive, send
from agent_runtime.sandboxes.giving import give
from agent_runtime.sandboxes.groups import (
    group_name,
    join_groups,
    limit_group,
    members,
    oom_kills,
    remove_groups,
    set_frozen,
    sweep,
)
from agent_runtime.sandboxes.kept import Kept
from agent_runtime.sandboxes.kernel import (
    PIPE_BYTES,
    PR_SET_CHILD_SUBREAPER,
    children,
    descendants,
    prctl,
    processes_of,
    read,
    set_pipe_bytes,
    start_time,
    version,
)
from agent_runtime.sandboxes.marks import bearers
from agent_runtime.sandboxes.rlimits import limit, limit_as

KILL_SECONDS_MAX: Final = 10.0
"""A SIGKILL that has not worked by then never will (a process stuck in the kernel): say so."""
ERROR_BYTES_MAX: Final = 16 << 10
"""What is kept of a worker's stderr, for the message when it does not start."""


def keep(requests: socket.socket, bases: Sequence[str]) -> None:
    """One sandbox from before its request to the proof of its end."""
    sweep(bases)  # now, for nobody waits yet
    keeper = Keeper(bases)
    try:
        keeper.park(requests)
    except Exception as error:  # noqa: BLE001 - the border: whoever asks for a sandbox is told
        keeper.failure = StartFailed("unavailable", f"its control group: {error}")
    fds = socket.recv_fds(requests, 1, 8, cmsg_cloexec())[1]
    requests.close()
    try:
        control = socket.socket(fileno=fds[0])
        kind, payload = receive(control)
    except (IndexError, EOFError, OSError):  # the daemon is gone before it asked for anything
        keeper.discard()
        return
    assert kind == b"R", kind
    keeper.take(control, json.loads(payload), list(fds[1:]))
    try:
        if keeper.failure is None:
            keeper.start()
            keeper.watch()
    except StartFailed as failure:
        keeper.failure = failure
    except Exception as error:  # noqa: BLE001 - the border: whatever it is, what was started must end
        keeper.failure = StartFailed("unavailable", f"{type(error).__name__}: {error}")
    keeper.finish()


class StartFailed(Exception):
    """The sandbox was not started; `kind` tells the daemon which error it is."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Keeper:
    """Watches one sandbox. Every method blocks; a keeper has nothing else to do."""

    def __init__(self, bases: Sequence[str]) -> None:
        self.control: socket.socket
        self.request: Request
        self.passed: list[int] = []
        self.held: list[int] = []
        """Open until this process ends: what a sandbox must outlive, such as its turn."""
        self.confine: dict[str, Any] = {}
        self.failure: StartFailed | None = None
        self.outer = 0
        self.inner = 0
        self._inner_started = 0
        """It is bubblewrap's child: once that has reaped it, its pid may be somebody else's."""
        self.status: int | None = None
        """What `waitpid` said of the outer process."""
        self.exit_code: int | None = None
        """What bubblewrap said of the command; None if the command was never started."""
        self.timed_out = False
        self.groups = [os.path.join(base, group_name()) for base in bases]
        self.output: Kept
        self._status_text = b""
        self._pipe = self._status = self._block = self._errors = -1
        self._wakeup, wakeup = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(wakeup, False)
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)

    # ---- before the request --------------------------------------------------------------

    def park(self, requests: socket.socket) -> None:
        """Fork the sandbox's first process and put it into its control groups; there it waits.

        Before anybody asks: the kernel takes 5 to 20 ms to move a process (an RCU grace period).
        """
        for path in self.groups:
            os.mkdir(path)
        output, status, block = os.pipe(), os.pipe(), os.pipe()
        errors, errors_child = os.pipe()
        with suppress(OSError):  # only makes a flood cheaper
            set_pipe_bytes(output[0])
        keeper = os.getpid()
        self._channel, channel = socket.socketpair()
        self.outer = os.fork()
        if self.outer == 0:
            requests.close()  # a keeper that was killed must not look alive to the launcher
            self._channel.close()
            parked(channel, output[1], status[1], block[0], errors_child, keeper)
        channel.close()
        for fd in (output[1], status[1], block[0], errors_child):
            os.close(fd)
        self._pipe, self._status, self._block = output[0], status[0], block[1]
        self._errors = errors
        os.set_blocking(self._pipe, False)
        join_groups(self.groups, self.outer)

    def discard(self) -> None:
        """There will be no request."""
        self._kill()
        remove_groups(self.groups)

    # ---- start ---------------------------------------------------------------------------

    def take(self, control: socket.socket, request: Request, passed: list[int]) -> None:
        """This is what is wanted."""
        self.control, self.request = control, request
        count = len(passed) - len(request["held"])
        self.passed, self.held = passed[:count], passed[count:]
        self.confine = request["confine"] or {}
        self.output = Kept(
            ERROR_BYTES_MAX if request["output"] == "keep" else request["output_bytes"]
        )

    def start(self) -> None:
        request = self.request
        self._record()
        if request.get("scratch"):
            os.makedirs(request["scratch"], mode=0o700)
        if self.confine:
            make_scratch(request)
        for root in request["give"]:
            give(root, request["uid"], request["gid"])
        try:
            for group in request["groups"]:
                limit_group(os.path.join(group["base"], group_name()), group["values"])
        except OSError as error:
            raise StartFailed("unavailable", f"its control group: {error}") from error
        payload = json.dumps(request).encode()
        with suppress(BrokenPipeError):  # it was killed, and its end tells so
            socket.send_fds(self._channel, [FRAME.pack(b"R", len(payload))], self.passed)
            self._channel.sendall(payload)
        self._channel.close()
        for fd in self.passed:
            os.close(fd)
        text = b""
        while data := os.read(self._errors, 4096):
            text += data
        os.close(self._errors)
        if text:
            raise StartFailed(*json.loads(text))
        if request["kind"] == "plain":
            self._started(self.outer)

    def _started(self, inner: int) -> None:
        """The first process of the sandbox is known: limit it, record it, let it go on."""
        self.inner, self._inner_started = inner, start_time(inner)
        limits = self.request["limits"]
        # Linux counts these per user and, from 5.14 on, per user namespace: set from outside once
        # the sandbox has its namespace, they do not count what else the user runs.
        processes = limits["processes"]
        if version() < (5, 14) or self.request["kind"] == "plain":
            processes += processes_of(self.request["uid"])
        wanted = {resource.RLIMIT_NPROC: processes, resource.RLIMIT_SIGPENDING: 1024}
        if self.request["uid"] is None:
            limit(inner, wanted)
        else:
            limit_as(self.request["uid"], self.request["gid"], inner, wanted)
        self._record()
        with suppress(BrokenPipeError):
            os.write(self._block, b"x")
        with suppress(OSError):
            send(self.control, b"S", json.dumps({"pids": [self.outer, inner]}).encode())

    def _record(self) -> None:
        """Tell a later process what to kill, should everybody here be killed at once."""
        path = self.request["record"]
        record = {
            "boot": read("/proc/sys/kernel/random/boot_id"),
            "pid_namespace": os.readlink("/proc/self/ns/pid"),
            "tag": self.request["tag"],
            "daemon": self.request["daemon"],
            "groups": self.groups,
            "mark": self.confine.get("mark", 0),
            "scratch": self.confine.get("scratch", ""),
            "processes": [
                [pid, start_time(pid)] for pid in (os.getpid(), self.outer, self.inner) if pid
            ],
        }
        for _ in range(100):
            with suppress(FileNotFoundError):  # another keeper tidied the directory away
                os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
                with open(path + ".new", "w", encoding="utf-8") as file:
                    json.dump(record, file)
                os.replace(path + ".new", path)
                return

    # ---- watch ---------------------------------------------------------------------------

    def watch(self) -> None:
        """Return when the command has ended, its time is over, or the daemon wants it gone."""
        seconds = self.request["deadline_seconds"]
        end = None if seconds is None else time.monotonic() + seconds
        frozen_at: float | None = None
        poll = select.poll()
        for fd in (self.control.fileno(), self._wakeup, self._status, self._pipe):
            poll.register(fd, select.POLLIN)
        while True:
            # No deadline runs while everything stands still.
            left = None if end is None or frozen_at is not None else end - time.monotonic()
            if left is not None and left <= 0:
                self.timed_out = True
                return
            for fd, _ in poll.poll(None if left is None else left * 1000 + 1):
                if fd == self.control.fileno():
                    try:
                        wanted = receive(self.control)[0]
                    except (EOFError, OSError):
                        return  # nothing more is ever asked: the daemon has closed, or is dead
                    if wanted == b"F" and frozen_at is None:
                        frozen_at = time.monotonic()
                        self._freeze()
                    elif wanted == b"T" and frozen_at is not None:
                        self._thaw()
                        end = None if end is None else end + time.monotonic() - frozen_at
                        frozen_at = None
                if fd == self._wakeup:
                    os.read(fd, 4096)
                    self._reap()
                elif fd == self._status and not self._read_status():
                    poll.unregister(fd)
                elif fd == self._pipe and not self._read_output():
                    poll.unregister(fd)
            if self.status is not None:
                return

    def _freeze(self) -> None:
        """Let nothing of the sandbox run. Without a freezer, stop what is seen until all is."""
        if set_frozen(self.groups, frozen=True):
            return
        stopped: set[int] = set()
        while found := set(descendants(os.getpid())) - stopped:
            for pid in found:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGSTOP)
            stopped |= found

    def _thaw(self) -> None:
        if set_frozen(self.groups, frozen=False):
            return
        for pid in descendants(os.getpid()):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGCONT)

    def _reap(self) -> bool:
        """Collect what has ended; False when there is nobody left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.outer:
                self.status = status
            if pid == self.inner:
                self.inner = 0

    def _read_status(self) -> bool:
        """Bubblewrap's status lines: the child's pid, then the command's exit code."""
        data = os.read(self._status, 65536)
        self._status_text += data
        while b"\n" in self._status_text:
            line, self._status_text = self._status_text.split(b"\n", 1)
            said = json.loads(line)
            if "child-pid" in said:
                self._started(said["child-pid"])
            if "exit-code" in said:
                self.exit_code = said["exit-code"]
        return bool(data)

    def _read_output(self) -> bool:
        """One read; False at the end. Nothing to read now is not the end."""
        try:
            data = os.read(self._pipe, PIPE_BYTES)
        except BlockingIOError:
            return True
        self.output.add(data)
        return bool(data)

    # ---- finish --------------------------------------------------------------------------

    def finish(self) -> None:
        """Kill everything, prove it, tidy up, report."""
        dead = self._kill()
        oom = oom_kills(self.groups)
        dead = remove_groups(self.groups) and dead
        if self._status >= 0:
            while self._read_status():
                pass
        if self._pipe >= 0:
            size = -1
            while size != self.output.total:  # all writers are dead: nothing more will come
                size = self.output.total
                self._read_output()
        if self.request.get("scratch"):
            import shutil

            shutil.rmtree(self.request["scratch"], ignore_errors=True)
        if self.confine:
            remove_scratch(self.confine["scratch"])
        if dead:
            with suppress(OSError):
                os.unlink(self.request["record"])
            with suppress(OSError):  # another sandbox of the same owner may live
                os.rmdir(os.path.dirname(self.request["record"]))
        report = {
            "exit": self._exit(),
            "timed_out": self.timed_out,
            "output_bytes": self.output.total,
            "dead": dead,
            "oom_kills": oom,
            "failure": [self.failure.kind, str(self.failure)] if self.failure else None,
        }
        with suppress(OSError):  # nobody may be listening any more
            self.control.setblocking(True)
            send(self.control, b"O", self.output.join())
            send(self.control, b"X", json.dumps(report).encode())

    def _kill(self) -> bool:
        end = time.monotonic() + KILL_SECONDS_MAX
        while True:
            same = self.inner != 0 and start_time(self.inner) == self._inner_started
            inner = [self.inner] if same else []
            grouped = (pid for group in self.groups for pid in members(group))
            marked = bearers(self.confine.get("mark", 0))
            for pid in (*inner, *children(), *grouped, *marked):
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            with suppress(OSError):  # in version 1 what is frozen dies when it is thawed
                set_frozen(self.groups, frozen=False)
            if not self._reap():
                return True
            if time.monotonic() > end:
                return False
            select.select([self._wakeup], [], [], 0.005)
            with suppress(BlockingIOError):
                os.read(self._wakeup, 4096)

    def _exit(self) -> int:
        if self.failure:
            return 125
        if self.timed_out:
            return 124
        if self.exit_code is not None:
            return self.exit_code
        if self.status is None:
            return 137
        if os.WIFSIGNALED(self.status):
            return 128 + os.WTERMSIG(self.status)
        # Bubblewrap reports the exit code of every command that it could start.
        return os.WEXITSTATUS(self.status) if self.request["kind"] == "plain" else 125
