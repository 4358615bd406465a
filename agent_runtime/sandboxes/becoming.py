"""Between fork and exec: how a parked process becomes the sandbox's first.

It waits in its control groups until `parked` gets the request, opens what the request names, gives
up its rights, and becomes bubblewrap.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from agent_runtime.sandboxes.confining import Entering
from agent_runtime.sandboxes.control import FRAME, cmsg_cloexec, receive_exactly
from agent_runtime.sandboxes.kernel import (
    CLONE_NEWNS,
    MNT_DETACH,
    MS_BIND,
    MS_NODEV,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    PR_SET_PDEATHSIG,
    check,
    close_all_but,
    libc,
    mount,
    mounted_below,
    prctl,
)
from agent_runtime.sandboxes.rlimits import limit_self

STAGE: Final = "/tmp"

Request = dict[str, Any]
Source = str | int | list[Any]
"""A host path: itself, the number of a staged source, or [number, path below it]."""

LEFT_TO_THE_DAEMON: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""A service manager sends these to everybody; only the daemon decides when a sandbox ends."""


def parked(
    channel: socket.socket, output: int, status: int, block: int, errors: int, keeper: int
) -> None:
    """Wait for the request and become what it says. Never returns."""
    try:
        prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != keeper:
            os._exit(125)
        header, passed, _, _ = socket.recv_fds(channel, FRAME.size, 8, cmsg_cloexec())
        payload = receive_exactly(channel, FRAME.unpack(header)[1])
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
        for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ, *LEFT_TO_THE_DAEMON):
            signal.signal(number, signal.SIG_DFL)
        stdio = _stdio(request, passed, output)
        # Before staging, which hides what lies below its directory: an installation, for one.
        seccomp = os.open(request["filter"], os.O_RDONLY) if request["filter"] else -1
        staged = list(request["sources"])
        if request["uid"] is not None and not request["confine"]:
            staged = _stage(staged, request["hide"])
        entering = Entering(request) if request["confine"] else None
        limit_self(request["limits"])
        if request["uid"] is not None:
            os.setgroups([])
            os.setresgid(request["gid"], request["gid"], request["gid"])
            os.setresuid(request["uid"], request["uid"], request["uid"])
        if entering is not None:
            entering.drop()
        os.umask(0o022)
        # Lost by a change of ids, kept by exec: from here on, the keeper's death is ours.
        prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
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
            close_all_but({0, 1, 2, errors, entering.ruleset if entering else -1})
            if entering is not None:
                entering.close()
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
        close_all_but(keep_open)
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


def _stage(sources: list[str], hide: str) -> list[str]:
    """Make every source reachable for a user who may not look into its parents.

    An interpreter below root's home, a workspace below a directory of mode 0700: in a private mount
    namespace, which ends with the sandbox, each is bound below a directory that all can traverse.
    What else is mounted below `hide`, disks of other tasks, is let go: it could not be freed.
    """
    check(libc.unshare(CLONE_NEWNS), "a private mount namespace")
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    for point in mounted_below(hide):
        if not any(f"{source}/".startswith(f"{point}/") for source in sources):
            libc.umount2(os.fsencode(point), MNT_DETACH)
    fds = [os.open(source, os.O_PATH | os.O_CLOEXEC) for source in sources]
    mount("tmpfs", STAGE, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m")
    os.umask(0o022)
    staged = []
    for number, fd in enumerate(fds):
        target = f"{STAGE}/{number}"
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.mkdir(target)
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
        mount(f"/proc/self/fd/{fd}", target, None, MS_BIND | MS_REC)
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
