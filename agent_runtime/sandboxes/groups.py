"""Control groups as the launcher handles them: made, joined, emptied, removed.

Which groups a sandbox gets, and with which limits, is decided in `cgroups`.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from agent_runtime.sandboxes.kernel import read, start_time

GROUP_PREFIX: Final = "agent-runtime-"
"""Of every control group's name: nothing else is ever emptied or removed."""
GROUP_SECONDS_MAX: Final = 2.0
"""How long an emptied group may still be busy: the last process leaves it after it was reaped."""

Group = dict[str, Any]
"""`base`, where the control group is made, and `values`: pairs of file and text, in order."""


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
                        path = os.path.join(base, name)
                        # What was killed while it was frozen dies of it only when it is thawed.
                        set_frozen([path], frozen=False)
                        os.rmdir(path)


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


def set_frozen(paths: Sequence[str], *, frozen: bool) -> bool:
    """Freeze or thaw the groups; False if none of them can be frozen."""
    for path in paths:
        # Version 2, where a frozen process can be killed; version 1, where it must be thawed.
        for name, words in (("cgroup.freeze", "01"), ("freezer.state", ("THAWED", "FROZEN"))):
            file = os.path.join(path, name)
            if os.path.exists(file):
                with suppress(FileNotFoundError):
                    write(file, words[frozen])
                return True
    return False


def oom_kills(paths: Sequence[str]) -> int:
    """How many processes the kernel killed because a group had reached its memory limit."""
    for path in paths:
        for name in ("memory.events", "memory.oom_control"):  # version 2, version 1
            with suppress(OSError, IndexError, ValueError):
                for line in read(os.path.join(path, name)).splitlines():
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
        with suppress(OSError):
            set_frozen([path], frozen=False)
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
