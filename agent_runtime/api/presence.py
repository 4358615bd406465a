"""How other processes find the daemon of a state directory: a file with its address.

The file is there as long as its process holds a lock on it: what a killed daemon leaves behind is
seen to be stale. Whoever looks must start at once, so nothing slow is imported here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

NAME: Final = "daemon.json"


class Presence(NamedTuple):
    """Where a daemon serves."""

    address: str
    pid: int


@contextmanager
def daemon_file(state_dir: str, address: str) -> Iterator[None]:
    """Say that a daemon serves at `address`, until the block ends.

    Of two daemons on one state directory the later one is found, and when that one ends the other:
    each keeps a file of its own name, too.
    """
    import fcntl  # here: only a daemon needs POSIX, whoever looks for one may live without

    path = os.path.join(state_dir, NAME)
    own = f"{path}.{os.urandom(6).hex()}"
    partial = f"{own}.new"
    for name in _others(state_dir):
        left = os.path.join(state_dir, name)
        with suppress(OSError):
            # What is empty, its daemon is about to lock or to fill.
            if os.path.getsize(left) and _look(left) is None:
                os.unlink(left)
    with open(own, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps({"address": address, "pid": os.getpid()}).encode())
        file.flush()
        os.link(own, partial)
        os.replace(partial, path)
        try:
            yield
        finally:
            with suppress(OSError):
                os.unlink(own)
                if os.stat(path).st_ino == os.fstat(file.fileno()).st_ino:
                    os.unlink(path)


def find_daemon(state_dir: str) -> Presence | None:
    """The daemon that serves this state directory now, the latest of several; None: none does."""
    if found := _look(os.path.join(state_dir, NAME)):
        return found
    looks = (_look(os.path.join(state_dir, name)) for name in _others(state_dir))
    return next((found for found in looks if found), None)


def find_daemons(state_dir: str) -> list[Presence]:
    """Every daemon that serves this state directory now, by its process."""
    looks = (_look(os.path.join(state_dir, name)) for name in _others(state_dir))
    return sorted({found for found in looks if found}, key=lambda found: found.pid)


def _others(state_dir: str) -> list[str]:
    """The files that daemons keep beside the one of the latest."""
    try:
        return [name for name in os.listdir(state_dir) if name.startswith(f"{NAME}.")]
    except OSError:
        return []


def _look(path: str) -> Presence | None:
    """The daemon that holds this file; None: nobody does, or it is no such file."""
    try:
        import fcntl
    except ImportError:
        return None  # where there is none, no daemon runs
    try:
        with open(path, "rb") as file:
            try:
                # Shared: two who look at once must not take each other for the daemon.
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                found = json.loads(file.read())
                return Presence(str(found["address"]), int(found["pid"]))
            return None  # nobody holds it: a killed one left it
    except (OSError, ValueError, KeyError, TypeError):
        return None
