"""Limits of a process: those it sets itself, and those that are set from outside."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from typing import Any


def limit_self(limits: dict[str, Any]) -> None:
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_FSIZE: limits["file_bytes"],
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_MEMLOCK: 64 << 10,
    }
    if limits["memory_bytes"] is not None:
        wanted[resource.RLIMIT_AS] = limits["memory_bytes"]
    limit(os.getpid(), wanted)


def limit(pid: int, limits: dict[int, int]) -> None:
    """Set soft and hard limits, never above what the process may have already."""
    with suppress(ProcessLookupError):
        for which, value in limits.items():
            hard = resource.prlimit(pid, which)[1]
            lower = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.prlimit(pid, which, (lower, lower))


def limit_as(uid: int, gid: int, pid: int, limits: dict[int, int]) -> None:
    """The same as another user: in most containers root lacks CAP_SYS_RESOURCE."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            limit(pid, limits)
            code = 0
        finally:
            os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
        raise OSError("the sandbox's processes could not be limited")
