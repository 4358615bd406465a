"""Connections of which no request is under way: when there are too many, the oldest have to go.

So do those whose client does not read its answer. Whoever opens connections and says nothing, or
reads nothing, would otherwise keep others out for as long as he comes
back. It is said in the log what was closed, once a minute at most: a stranger causes it.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import resource
from collections.abc import Callable
from functools import lru_cache
from typing import Final, Protocol

log = logging.getLogger(__name__)

CONNECTIONS_MAX: Final = 20_000
"""Some 9 KB each."""
FILES_KEPT: Final = 512
"""Of the files that a process may open: for the store, the sandboxes and their pipes."""
FILES_FREE_MIN: Final = 64
"""Fewer, and connections have to go: a sandbox that is started needs some dozens."""
SAID_SECONDS: Final = 60.0
TRIMMED_CONNECTIONS: Final = 1000
"""After so many have gone, memory is given back: some milliseconds, for some kilobytes each."""


@lru_cache(maxsize=1)
def connections_max() -> int:
    """How many connections may be open at once; raises the process's limit of files first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + FILES_KEPT
    if soft < wanted and (hard == resource.RLIM_INFINITY or hard > soft):
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(64, min(CONNECTIONS_MAX, soft - FILES_KEPT))


def files_free() -> int:
    """How many files the process may still open; 4 ms with 10,000 that are."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        return max(0, soft - len(os.listdir("/dev/fd")) + 1)
    except OSError as error:
        # To look takes one, too. Where there is no such directory, nothing is known.
        return 0 if error.errno in {errno.EMFILE, errno.ENFILE} else soft


class Guest(Protocol):
    """A connection."""

    def dismiss(self) -> None:
        """Close it; nothing of it is under way, or nobody reads that."""


class Lobby:
    """One for a server."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._waiting: dict[Guest, None] = {}
        """In the order in which they began to."""
        self._dismissed = self._refused = 0
        self._said_at: float | None = None
        self._most = 0
        """Connections, since memory was given back."""

    def enter(self, guest: Guest) -> None:
        """Nothing of it is under way from now on."""
        self._waiting[guest] = None

    def leave(self, guest: Guest) -> None:
        """A request of it is, or it has gone."""
        self._waiting.pop(guest, None)

    def make_room(self) -> bool:
        """Close the one that has waited longest; False if there is none."""
        found = next(iter(self._waiting), None)
        if found is None:
            self._refused += 1
            return False
        del self._waiting[found]
        self._dismissed += 1
        found.dismiss()
        return True

    def look(self, connections: int) -> str:
        """Once a second: make room where files run out, and say what had to go.

        Returns what is wrong, if that was not enough.
        """
        free, waiting = files_free(), len(self._waiting)
        if free < FILES_FREE_MIN:
            for _ in range(min(waiting, max(FILES_FREE_MIN, waiting // 4))):
                self.make_room()
        self._say(connections, free)
        self._most = max(self._most, connections)
        if self._most - connections >= TRIMMED_CONNECTIONS:
            self._most = connections
            _give_back_memory()
        if free or waiting:
            return ""
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return (
            f"no more files can be opened (the limit is {limit}): raise the limit (ulimit -n, "
            "LimitNOFILE=), or lower the setting tasks_max"
        )

    def _say(self, connections: int, free: int) -> None:
        if not self._dismissed and not self._refused:
            return
        now = self._monotonic()
        if self._said_at is not None and now - self._said_at < SAID_SECONDS:
            return
        self._said_at = now
        log.warning(
            "too many connections (%d open, at most %d; %d more files can be opened): closed %d "
            "that waited for a request or were not read from, refused %d; raise the limit of open "
            "files (ulimit -n, LimitNOFILE=), or put a proxy before the daemon",
            connections, connections_max(), free, self._dismissed, self._refused,
        )  # fmt: skip
        self._dismissed = self._refused = 0


def _give_back_memory() -> None:
    """What C libraries freed; glibc keeps all but the end of its heap otherwise."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
