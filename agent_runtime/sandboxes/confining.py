"""How a process becomes the first of a `container` sandbox, without any namespace.

Used by the keeper and between fork and exec: a directory of its own for HOME and temporary files,
a mark (`marks`), no capabilities, no new privileges, Landlock (`landlock`), both seccomp filters
(`narrowing`). What is allowed is decided in `container`. Nothing but the standard library: see
`launcher`.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import struct
from contextlib import suppress
from typing import Any, Final

from agent_runtime.sandboxes import landlock, marks, narrowing
from agent_runtime.sandboxes.kernel import check, libc

Request = dict[str, Any]
Confinement = dict[str, Any]
"""`rules`, `landlock` (the ABI to use), `ports`, `network`, `truncate`, `mark`, `scratch`."""

SCRATCH: Final = ("home", "tmp")
_CAPSET: Final = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION: Final = 0x20080522
_PR_CAPBSET_DROP: Final = 24
_PR_CAP_AMBIENT, _CLEAR_ALL = 47, 4
_CAPABILITIES_MAX: Final = 64
_DEPTH_MAX: Final = 10
"""Closed directories in closed directories that are still opened; who makes more leaves some."""


def make_scratch(request: Request) -> None:
    """The keeper's part, before: HOME and TMPDIR, of the sandbox's user."""
    place = request["confine"]["scratch"]
    os.mkdir(place, 0o700)
    for path in (place, *(os.path.join(place, name) for name in SCRATCH)):
        os.makedirs(path, mode=0o700, exist_ok=True)
        if request["uid"] is not None:
            os.chown(path, request["uid"], request["gid"])


def remove_scratch(place: str) -> None:
    """The keeper's part, afterwards, also for one that was killed. Follows no link."""

    def again(_: object, path: str, __: object) -> None:
        # A directory that its owner closed to himself; never one outside of the place.
        for each in (os.path.dirname(path), path):
            if each == place or each.startswith(f"{place}/"):
                with suppress(OSError):
                    if stat.S_ISDIR(os.lstat(each).st_mode):
                        os.chmod(each, 0o700)

    if os.path.isdir(place) and not os.path.islink(place):
        for _ in range(_DEPTH_MAX):
            shutil.rmtree(place, onerror=again)
            if not os.path.lexists(place):
                return


class Entering:
    """The child's part, in three steps around its change of user."""

    def __init__(self, request: Request) -> None:
        """While it may still open everything: what stays allowed, the filters, the mark."""
        wanted: Confinement = request["confine"]
        self._filters = [
            narrowing.read(request["filter"]),
            narrowing.program(
                narrowing.rules(network=wanted["network"], truncate=wanted["truncate"])
            ),
        ]
        self.ruleset = -1
        if wanted["landlock"]:
            self.ruleset = landlock.ruleset(
                wanted["rules"], version=wanted["landlock"], ports=wanted["ports"]
            )
        marks.bear(wanted["mark"])
        for number in range(_CAPABILITIES_MAX):
            if libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
                break  # not allowed, or no such capability; without any in use it is no matter

    def drop(self) -> None:
        """After the change of user: no capability, in use or to be had."""
        libc.prctl(_PR_CAP_AMBIENT, _CLEAR_ALL, 0, 0, 0)
        header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
        number = ctypes.c_long(_CAPSET[narrowing.machine()])
        check(libc.syscall(number, header, bytes(24)), "dropping capabilities")

    def close(self) -> None:
        """At last, before exec: everything that cannot be undone."""
        narrowing.forbid_new_privileges()
        if self.ruleset >= 0:
            landlock.restrict(self.ruleset)
            os.close(self.ruleset)
        for each in self._filters:
            narrowing.load(each)
