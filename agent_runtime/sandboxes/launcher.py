"""The process beside the daemon that starts, watches and ends sandboxes.

Run as a script by `launching`, with nothing but the standard library, an empty environment and one
socket as its stdin. It forks a *keeper* for every sandbox; being small and single-threaded it can
fork safely and fast, which the daemon cannot. The next keeper is always there already, with control
groups and a process that waits in them. A keeper builds one sandbox, holds its deadline,
keeps its output, and ends it when the daemon closes the control socket, also by dying.

**How death is proven.** A keeper is a child subreaper: whatever the sandbox leaves behind becomes
its child. It kills its children and waits until it has none (`ECHILD`). The init process of a pid
namespace ends only after everything in the namespace has. A keeper that is killed itself takes
bubblewrap along (`--die-with-parent`); what the unsafe kind leaves then is found by `records.reap`.

Which mounts a sandbox has is decided in `mounts`, and which control groups in `cgroups`; here only
the kernel is talked to.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import socket
import stat
import struct
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

FRAME: Final = struct.Struct(">cI")
"""A frame on the control socket: its kind (R request, S started, O output, X exit), its length."""
KILL_SECONDS_MAX: Final = 10.0
"""A SIGKILL that has not worked by then never will (a process stuck in the kernel): say so."""
ERROR_BYTES_MAX: Final = 16 << 10
"""What is kept of a worker's stderr, for the message when it does not start."""
STAGE: Final = "/tmp"
PIPE_BYTES: Final = 1 << 20
NOTE_BYTES_MAX: Final = 64
"""Room for the line that says how much of an output was left out."""

GROUP_PREFIX: Final = "agent-runtime-"
"""Of every control group's name: nothing else is ever emptied or removed."""
GROUP_SECONDS_MAX: Final = 2.0
"""How long an emptied group may still be busy: the last process leaves it after it was reaped."""

PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36
CLONE_NEWNS: Final = 0x00020000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18

Request = dict[str, Any]
Group = dict[str, Any]
"""`base`, where the control group is made, and `values`: pairs of file and text, in order."""
Source = str | int | list[Any]
"""A host path: itself, the number of a staged source, or [number, path below it]."""

_LEFT_TO_THE_DAEMON: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Serve the daemon on fd 0 until it closes the socket."""
    with suppress(PermissionError):
        os.setsid()  # the terminal's signals are for the daemon, which decides what they mean
    _close_all_but({0, 1, 2})
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    # Ended keepers, and what a killed keeper leaves, are reaped by the kernel.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # A service manager sends these to everybody; only the daemon decides when a sandbox ends.
    for number in _LEFT_TO_THE_DAEMON:
        signal.signal(number, signal.SIG_IGN)
    bases = sys.argv[1:]
    requests = socket.socket(fileno=0)
    spare = _spare(requests, bases)
    while True:
        data, fds, _, _ = socket.recv_fds(requests, 1, 8, _cmsg_cloexec())
        if not data:
            return
        try:
            socket.send_fds(spare, [b"+"], fds)
        except BrokenPipeError:  # it was killed
            spare = _spare(requests, bases)
            socket.send_fds(spare, [b"+"], fds)
        for fd in fds:
            os.close(fd)
        spare.close()
        spare = _spare(requests, bases)


def _spare(requests: socket.socket, bases: Sequence[str]) -> socket.socket:
    """Fork the next sandbox's keeper; it takes the request's descriptors from the socket."""
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        requests.close()
        ours.close()
        code = 1
        try:
            keep(theirs, bases)
            code = 0
        except BaseException:  # noqa: BLE001 - the border: nobody else would say why
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    theirs.close()
    return ours


def keep(requests: socket.socket, bases: Sequence[str]) -> None:
    """One sandbox from before its request to the proof of its end."""
    sweep(bases)  # now, for nobody waits yet
    keeper = Keeper(bases)
    try:
        keeper.park(requests)
    except Exception as error:  # noqa: BLE001 - the border: whoever asks for a sandbox is told
        keeper.failure = StartFailed("unavailable", f"its control group: {error}")
    fds = socket.recv_fds(requests, 1, 8, _cmsg_cloexec())[1]
    requests.close()
    try:
        control = socket.socket(fileno=fds[0])
        kind, payload = _receive(control)
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
        self.failure: StartFailed | None = None
        self.outer = 0
        self.inner = 0
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
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
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
            _set_pipe_bytes(output[0])
        keeper = os.getpid()
        self._channel, channel = socket.socketpair()
        self.outer = os.fork()
        if self.outer == 0:
            requests.close()  # a keeper that was killed must not look alive to the launcher
            self._channel.close()
            _parked(channel, output[1], status[1], block[0], errors_child, keeper)
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
        self.control, self.request, self.passed = control, request, passed
        self.output = Kept(
            ERROR_BYTES_MAX if request["output"] == "keep" else request["output_bytes"]
        )

    def start(self) -> None:
        request = self.request
        self._record()
        if request.get("scratch"):
            os.makedirs(request["scratch"], mode=0o700)
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
        self.inner = inner
        limits = self.request["limits"]
        # Linux counts these per user and, from 5.14 on, per user namespace: set from outside once
        # the sandbox has its namespace, they do not count what else the user runs.
        processes = limits["processes"]
        if _kernel() < (5, 14) or self.request["kind"] == "plain":
            processes += _processes_of(self.request["uid"])
        wanted = {resource.RLIMIT_NPROC: processes, resource.RLIMIT_SIGPENDING: 1024}
        if self.request["uid"] is None:
            _limit(inner, wanted)
        else:
            _limit_as(self.request["uid"], self.request["gid"], inner, wanted)
        self._record()
        with suppress(BrokenPipeError):
            os.write(self._block, b"x")
        with suppress(OSError):
            _send(self.control, b"S", json.dumps({"pids": [self.outer, inner]}).encode())

    def _record(self) -> None:
        """Tell a later process what to kill, should everybody here be killed at once."""
        path = self.request["record"]
        record = {
            "boot": _read("/proc/sys/kernel/random/boot_id"),
            "pid_namespace": os.readlink("/proc/self/ns/pid"),
            "tag": self.request["tag"],
            "daemon": self.request["daemon"],
            "groups": self.groups,
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
        poll = select.poll()
        for fd in (self.control.fileno(), self._wakeup, self._status, self._pipe):
            poll.register(fd, select.POLLIN)
        while True:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                self.timed_out = True
                return
            for fd, _ in poll.poll(None if left is None else left * 1000 + 1):
                if fd == self.control.fileno():
                    return  # nothing more is ever asked: the daemon has closed, or is dead
                if fd == self._wakeup:
                    os.read(fd, 4096)
                    self._reap()
                elif fd == self._status and not self._read_status():
                    poll.unregister(fd)
                elif fd == self._pipe and not self._read_output():
                    poll.unregister(fd)
            if self.status is not None:
                return

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
            _send(self.control, b"O", self.output.join())
            _send(self.control, b"X", json.dumps(report).encode())

    def _kill(self) -> bool:
        end = time.monotonic() + KILL_SECONDS_MAX
        while True:
            for pid in (self.inner, *_children(), *(p for g in self.groups for p in members(g))):
                if pid:
                    with suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, signal.SIGKILL)
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


class Kept:
    """The head and the tail of an output, at most `limit` bytes together, and its whole count."""

    def __init__(self, limit: int) -> None:
        self.total = 0
        self._head_max = limit // 2
        self._tail_max = limit - self._head_max
        self._head = bytearray()
        self._tail = bytearray()

    def add(self, data: bytes) -> None:
        self.total += len(data)
        room = self._head_max - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        if len(self._tail) > 2 * self._tail_max + PIPE_BYTES:
            del self._tail[: -self._tail_max]

    def join(self) -> bytes:
        if self.total <= self._head_max + self._tail_max:
            return bytes(self._head + self._tail)
        tail = self._tail[-max(self._tail_max - NOTE_BYTES_MAX, 1) :]
        missing = self.total - len(self._head) - len(tail)
        return bytes(self._head + b"\n[... %d bytes left out ...]\n" % missing + tail)


# ---- the child: between fork and exec --------------------------------------------------------


def _parked(
    channel: socket.socket, output: int, status: int, block: int, errors: int, keeper: int
) -> None:
    """Wait for the request and become what it says. Never returns."""
    try:
        _prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != keeper:
            os._exit(125)
        header, passed, _, _ = socket.recv_fds(channel, FRAME.size, 8, _cmsg_cloexec())
        payload = _receive_exactly(channel, FRAME.unpack(header)[1])
        _child(json.loads(payload), list(passed), output, status, block, errors, keeper)
    finally:
        os._exit(125)


def _child(
    request: Request,
    passed: list[int],
    output: int,
    status: int,
    block: int,
    errors: int,
    keeper: int,
) -> None:
    """Become the sandbox's outer process. Never returns."""
    kind = "unavailable"
    try:
        with suppress(PermissionError):
            os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ, *_LEFT_TO_THE_DAEMON):
            signal.signal(number, signal.SIG_DFL)
        stdio = _stdio(request, passed, output)
        # Before staging, which hides what lies below its directory: an installation, for one.
        seccomp = os.open(request["filter"], os.O_RDONLY) if request["filter"] else -1
        staged = list(request["sources"])
        if request["uid"] is not None:
            staged = _stage(staged)
        _limit_self(request["limits"])
        if request["uid"] is not None:
            os.setgroups([])
            os.setresgid(request["gid"], request["gid"], request["gid"])
            os.setresuid(request["uid"], request["uid"], request["uid"])
        os.umask(0o022)
        # Lost by a change of ids, kept by exec: from here on, the keeper's death is ours.
        _prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != keeper:
            os._exit(125)
        workspace = _path(staged, request["workspace"])
        if not os.access(workspace, os.R_OK | os.W_OK | os.X_OK):
            kind = "unwritable"
            raise PermissionError(f"uid {os.getuid()} may not write to it")
        if request["kind"] == "plain":
            os.chdir(workspace)
            for fd, target in stdio:
                os.dup2(fd, target)
            _close_all_but({0, 1, 2, errors})
            os.execve(request["command"][0], request["command"], request["env"])
        arguments = [_path(staged, value) for value in request["arguments"]]
        # A zero byte ends an option: one inside a value would begin another, such as a mount.
        assert not any("\0" in value for value in arguments), "a zero byte in an option"
        options = os.memfd_create("options")
        text = b"\0".join(
            os.fsencode(value)
            for value in (
                *("--json-status-fd", str(status), "--block-fd", str(block)),
                *(("--seccomp", str(seccomp)) if seccomp >= 0 else ()),
                *arguments,
            )
        )
        with os.fdopen(os.dup(options), "wb") as file:
            file.write(text + b"\0")
        os.lseek(options, 0, os.SEEK_SET)
        for fd, target in stdio:
            os.dup2(fd, target)
        keep_open = {0, 1, 2, errors, options, status, block} | ({seccomp} - {-1})
        _close_all_but(keep_open)
        for fd in keep_open - {errors}:
            os.set_inheritable(fd, True)
        program = _path(staged, request["program"])
        # An empty environment, for bubblewrap's own stays readable in the sandbox's /proc/1. The
        # options go through a file, for a command line is readable by every user of the host.
        os.execve(program, [program, "--args", str(options), "--", *request["command"]], {})
    except BaseException as error:  # noqa: BLE001 - the border: whatever it is, the keeper reports it
        os.write(errors, json.dumps([kind, f"{type(error).__name__}: {error}"]).encode())
    finally:
        os._exit(125)


def _stdio(request: Request, passed: list[int], output: int) -> list[tuple[int, int]]:
    """Pairs of (fd, which of 0, 1, 2 it becomes); sources are moved out of their way first."""
    null = os.open("/dev/null", os.O_RDWR)
    match request["stdio"]:
        case "captured":
            pairs = [(null, 0), (output, 1), (output, 2)]
        case "worker":
            pairs = [(passed[0], 0), (output, 1), (output, 2)]
        case _:
            pairs = [(passed[0], 0), (passed[1], 1), (passed[2], 2)]
    import fcntl

    return [(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10), target) for fd, target in pairs]


def _stage(sources: list[str]) -> list[str]:
    """Make every source reachable for a user who may not look into its parents.

    An interpreter below root's home, a workspace below a directory of mode 0700: in a private mount
    namespace, which ends with the sandbox, each is bound below a directory that all can traverse.
    """
    _check(_libc.unshare(CLONE_NEWNS), "a private mount namespace")
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    fds = [os.open(source, os.O_PATH | os.O_CLOEXEC) for source in sources]
    _mount("tmpfs", STAGE, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m")
    os.umask(0o022)
    staged = []
    for number, fd in enumerate(fds):
        target = f"{STAGE}/{number}"
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.mkdir(target)
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
        _mount(f"/proc/self/fd/{fd}", target, None, MS_BIND | MS_REC)
        os.close(fd)
        staged.append(target)
    return staged


def _path(staged: Sequence[str], value: Source) -> str:
    match value:
        case int():
            return staged[value]
        case [int(number), str(below)]:
            return os.path.join(staged[number], below)
        case _:
            return str(value)


def _limit_self(limits: dict[str, Any]) -> None:
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_FSIZE: limits["file_bytes"],
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_MEMLOCK: 64 << 10,
    }
    if limits["memory_bytes"] is not None:
        wanted[resource.RLIMIT_AS] = limits["memory_bytes"]
    _limit(os.getpid(), wanted)


def _limit(pid: int, limits: dict[int, int]) -> None:
    """Set soft and hard limits, never above what the process may have already."""
    with suppress(ProcessLookupError):
        for which, value in limits.items():
            hard = resource.prlimit(pid, which)[1]
            lower = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.prlimit(pid, which, (lower, lower))


def _limit_as(uid: int, gid: int, pid: int, limits: dict[int, int]) -> None:
    """The same as another user: in most containers root lacks CAP_SYS_RESOURCE."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            _limit(pid, limits)
            code = 0
        finally:
            os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
        raise StartFailed("unavailable", "the sandbox's processes could not be limited")


# ---- giving a workspace to the sandbox's user ---------------------------------------------------


def give(root: str, uid: int, gid: int) -> None:
    """Make `uid` the owner of a directory and everything in it that is safely the directory's own.

    Nothing is dereferenced: names are looked up in open directories and symbolic links are given,
    never followed. A file with several hard links may be somebody else's, elsewhere: it is left.
    """
    for _, directories, files, directory_fd in os.fwalk(root, follow_symlinks=False):
        _give_entry(".", directory_fd, uid, gid)
        for name in (*directories, *files):
            _give_entry(name, directory_fd, uid, gid)


def _give_entry(name: str, directory_fd: int, uid: int, gid: int) -> None:
    with suppress(FileNotFoundError):
        entry = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
        linked = entry.st_nlink > 1 and not stat.S_ISDIR(entry.st_mode)
        device = stat.S_ISBLK(entry.st_mode) or stat.S_ISCHR(entry.st_mode)
        if entry.st_uid != uid and not linked and not device:
            os.chown(name, uid, gid, dir_fd=directory_fd, follow_symlinks=False)


# ---- control groups ------------------------------------------------------------------------------


def group_name() -> str:
    """Of this process's groups, and of no other's, also when its pid is used again."""
    namespace = os.stat("/proc/self/ns/pid").st_ino
    return f"{GROUP_PREFIX}{namespace}-{os.getpid()}-{start_time(os.getpid())}"


def sweep(bases: Sequence[str]) -> None:
    """Remove empty groups whose makers are dead. Whatever holds a process is left alone."""
    own = str(os.stat("/proc/self/ns/pid").st_ino)
    for base in bases:
        names: list[str] = []
        with suppress(OSError):
            names = os.listdir(base)
        for name in names:
            parts = name.removeprefix(GROUP_PREFIX).split("-")
            if name.startswith(GROUP_PREFIX) and len(parts) == 3 and parts[0] == own:
                with suppress(ValueError, OSError):
                    if start_time(int(parts[1])) != int(parts[2]):
                        os.rmdir(os.path.join(base, name))


def limit_group(path: str, values: Sequence[Sequence[str]]) -> None:
    """Write a group's limits. `OSError` names the file that was refused.

    A file whose name ends with `?` is written if there is one.
    """
    for name, value in values:
        file = os.path.join(path, name.removesuffix("?"))
        if not name.endswith("?") or os.path.exists(file):
            write(file, value)


def join_groups(paths: Sequence[str], pid: int) -> None:
    """Put a process into every group; what it forks from now on is in them, too."""
    for path in paths:
        write(os.path.join(path, "cgroup.procs"), str(pid))


def members(path: str) -> list[int]:
    """The processes in a group and in those below it, except of other pid namespaces."""
    found = []
    for directory, _, _ in os.walk(path):
        with suppress(OSError), open(os.path.join(directory, "cgroup.procs"), "rb") as file:
            found += [int(pid) for pid in file.read().split() if pid != b"0"]
    return found


def oom_kills(paths: Sequence[str]) -> int:
    """How many processes the kernel killed because a group had reached its memory limit."""
    for path in paths:
        for name in ("memory.events", "memory.oom_control"):  # version 2, version 1
            with suppress(OSError, IndexError, ValueError):
                for line in _read(os.path.join(path, name)).splitlines():
                    if line.split()[0] == "oom_kill":
                        return int(line.split()[1])
    return 0


def remove_groups(paths: Sequence[str]) -> bool:
    """Kill what is in the groups and remove them; False if one cannot be removed."""
    end = time.monotonic() + GROUP_SECONDS_MAX
    removed = [_remove_group(path, end) for path in paths]
    return all(removed)


def _remove_group(path: str, end: float) -> bool:
    assert os.path.basename(path).startswith(GROUP_PREFIX), path
    while True:
        # Deepest first. The files of a group are the kernel's, and go with it.
        for directory, _, _ in os.walk(path, topdown=False):
            with suppress(OSError):
                os.rmdir(directory)
        if not os.path.lexists(path):
            return True
        if time.monotonic() > end:
            return False
        with suppress(OSError):
            write(os.path.join(path, "cgroup.kill"), "1")  # Linux 5.14, version 2
        for pid in members(path):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)


def write(path: str, text: str) -> None:
    """One write, as the kernel wants it; never makes a file."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(fd)


# ---- the kernel ----------------------------------------------------------------------------------


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 if there is none, or only a zombie.

    Together with the boot's id this names a process for good: pids are used again.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rsplit(b")", 1)[1].split()
    except (OSError, IndexError):
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def _children() -> list[int]:
    own = os.getpid()
    try:
        with open(f"/proc/self/task/{own}/children", "rb") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        pass
    found = []  # a kernel without CONFIG_PROC_CHILDREN
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError, IndexError), open(f"/proc/{name}/stat", "rb") as file:
                if int(file.read().rsplit(b")", 1)[1].split()[1]) == own:
                    found.append(int(name))
    return found


def _processes_of(uid: int | None) -> int:
    own, count = os.geteuid() if uid is None else uid, 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                if os.stat(f"/proc/{name}").st_uid == own:
                    count += len(os.listdir(f"/proc/{name}/task"))
    return count


def _kernel() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()) or 0)


def _close_all_but(fds: set[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in fds:
            with suppress(OSError):
                os.close(int(name))


def _prctl(option: int, value: int) -> None:
    _libc.prctl(option, value, 0, 0, 0)


def _mount(
    source: str | None, target: str, kind: str | None, flags: int, data: str | None = None
) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    result = _libc.mount(*encoded, ctypes.c_ulong(flags), data and data.encode())
    _check(result, f"mounting {source!r} on {target!r}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _set_pipe_bytes(fd: int) -> None:
    import fcntl

    fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def _cmsg_cloexec() -> int:
    return getattr(socket, "MSG_CMSG_CLOEXEC", 0x40000000)


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def _receive(control: socket.socket) -> tuple[bytes, bytes]:
    kind, length = FRAME.unpack(_receive_exactly(control, FRAME.size))
    return kind, _receive_exactly(control, length)


def _receive_exactly(control: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = control.recv(count - len(data))
        if not chunk:
            raise EOFError("the other side is gone")
        data += chunk
    return data


def _send(control: socket.socket, kind: bytes, payload: bytes) -> None:
    control.sendall(FRAME.pack(kind, len(payload)) + payload)


if __name__ == "__main__":
    main()
