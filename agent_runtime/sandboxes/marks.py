"""A mark that all processes of a sandbox bear, to find them by where they have no namespace.

It is the hard limit of real-time processor time, a number that nothing else uses (no process of a
sandbox may become real-time). A child inherits it, nothing raises a hard limit without
privileges, a seccomp filter forbids to lower it (`narrowing`), and `/proc/PID/limits` shows it to
everybody, also of other users' processes and of those that hide their memory. Nothing but the
standard library: see `launcher`.
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from typing import Final

_LINE: Final = b"Max realtime timeout"
_HALF: Final = 1 << 61


def new() -> int:
    """A number for one sandbox; some 36,000 years of microseconds or more."""
    return _HALF + int.from_bytes(os.urandom(7), "big")


def bear(mark: int) -> None:
    """Mark this process. `ValueError` or `OSError` if its limit is lower already."""
    resource.setrlimit(resource.RLIMIT_RTTIME, (mark, mark))


def bearers(mark: int) -> list[int]:
    """Every process that bears it."""
    if not mark:
        return []
    found, wanted = [], str(mark).encode()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/limits", "rb") as file:
                for line in file:
                    if line.startswith(_LINE):
                        if line[len(_LINE) :].split()[1] == wanted:
                            found.append(int(name))
                        break
    return found
