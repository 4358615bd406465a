"""What the launcher asks the kernel for, by names that tell what it is.

Nothing but the standard library: see `launcher`.
"""

from __future__ import annotations

import ctypes
import os
import re
from contextlib import suppress
from typing import Final

PIPE_BYTES: Final = 1 << 20
PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36
CLONE_NEWNS: Final = 0x00020000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18

MNT_DETACH: Final = 2

libc = ctypes.CDLL(None, use_errno=True)


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


def descendants(pid: int) -> list[int]:
    """Every process below `pid`, parents first."""
    below: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError, IndexError), open(f"/proc/{name}/stat", "rb") as file:
                parent = int(file.read().rsplit(b")", 1)[1].split()[1])
                below.setdefault(parent, []).append(int(name))
    found, pending = [], [pid]
    while pending:
        pending += (more := below.get(pending.pop(0), []))
        found += more
    return found


def children() -> list[int]:
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


def processes_of(uid: int | None) -> int:
    own, count = os.geteuid() if uid is None else uid, 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                if os.stat(f"/proc/{name}").st_uid == own:
                    count += len(os.listdir(f"/proc/{name}/task"))
    return count


def version() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()) or 0)


def close_all_but(fds: set[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in fds:
            with suppress(OSError):
                os.close(int(name))


def prctl(option: int, value: int) -> None:
    libc.prctl(option, value, 0, 0, 0)


def mount(
    source: str | None, target: str, kind: str | None, flags: int, data: str | None = None
) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    result = libc.mount(*encoded, ctypes.c_ulong(flags), data and data.encode())
    check(result, f"mounting {source!r} on {target!r}")


def mounted_below(path: str) -> list[str]:
    """Mount points below a directory, the latest first (proc_pid_mountinfo(5))."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = [line.split()[4] for line in file]
    found = [re.sub(r"\\([0-7]{3})", lambda each: chr(int(each[1], 8)), text) for text in points]
    return [point for point in reversed(found) if point.startswith(f"{path}/")]


def check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def set_pipe_bytes(fd: int) -> None:
    import fcntl

    fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()
