"""The world outside: a file of requests that were taken, and a process that dies at one place.

Imported by every engine's agent, so by the standard library only. A request is on the disk before
the call goes on; a receiver that knows keys takes two requests with one key for the same effect.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

REQUESTS, DIE = "CRASH_REQUESTS", "CRASH_DIE"
"""Environment: the file; the place at which this process dies, or nothing."""
BEFORE, BETWEEN, AFTER = "before", "between", "after"
PLACES = {
    BEFORE: "before the effect",
    BETWEEN: "between the effect and its record",
    AFTER: "after the record",
}


def pay(key: str = "") -> None:
    """The effect. Dies before it or behind it if it is told to."""
    die_at(BEFORE)
    fd = os.open(os.environ[REQUESTS], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, f"{key or '-'}\n".encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    die_at(BETWEEN)


def close() -> None:
    """The step behind it, which begins when the effect's record is there. Changes nothing."""
    die_at(AFTER)


def die_at(place: str) -> None:
    """SIGKILL, if this is the place."""
    if os.environ.get(DIE) == place:
        os.kill(os.getpid(), signal.SIGKILL)


def taken(path: Path) -> list[str]:
    """Keys of the requests in the order they came; `-` for none."""
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def tell(**found: object) -> None:
    """The one line that the caller reads."""
    print(json.dumps(found), flush=True)
