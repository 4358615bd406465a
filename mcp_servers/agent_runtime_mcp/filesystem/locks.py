"""One writer at a time: in a directory by an advisory lock, of a file by a lock in this process.

Calls of this process wait for each other by name. Other filesystem servers (an editor and a chat
program each start one) are kept out by `flock` on the directory. Programs that take no lock are
noticed just before a file is put in place (`staging`).
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from agent_runtime_mcp.filesystem.places import LISTING, Place
from agent_runtime_mcp.filesystem.refusals import NotNow, Refused, Turn

WAIT_SECONDS_MAX: Final = 30.0
_LOOK_SECONDS: Final = 0.005

Key = tuple[int, int, str]


class Locks:
    """Those of one server."""

    def __init__(self) -> None:
        self._table = threading.Lock()
        self._known: dict[Key, tuple[threading.Lock, int]] = {}

    @contextmanager
    def hold(self, turn: Turn, *places: Place) -> Iterator[None]:
        """Change what is at these places alone. Their directories exist.

        Raises:
            NotNow: somebody else changes one, and this is the short way.
            Refused: somebody did so for `WAIT_SECONDS_MAX`.
        """
        keys = {_key(place): place for place in places}
        with ExitStack() as held:
            # In one order, so that two moves cannot wait for each other.
            for key in sorted(keys):
                held.enter_context(self._name(key, turn, keys[key]))
            folders = {key[:2]: place for key, place in keys.items()}
            for folder in sorted(folders):
                held.enter_context(_directory(folders[folder], turn))
            yield

    @contextmanager
    def _name(self, key: Key, turn: Turn, place: Place) -> Iterator[None]:
        with self._table:
            lock, users = self._known.get(key) or (threading.Lock(), 0)
            self._known[key] = (lock, users + 1)
        try:
            if not lock.acquire(blocking=False):
                if turn.quick:
                    raise NotNow
                if not lock.acquire(timeout=WAIT_SECONDS_MAX):
                    raise _busy(place)
            try:
                yield
            finally:
                lock.release()
        finally:
            with self._table:
                lock, users = self._known[key]
                if users == 1:
                    del self._known[key]
                else:
                    self._known[key] = (lock, users - 1)


def _key(place: Place) -> Key:
    found = os.fstat(place.parent)
    return found.st_dev, found.st_ino, place.name


@contextmanager
def _directory(place: Place, turn: Turn) -> Iterator[None]:
    try:
        descriptor = os.open(".", LISTING, dir_fd=place.parent)
    except OSError:
        # A directory that may be written but not listed: then only this process is kept out.
        yield
        return
    try:
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while not _locked(descriptor):
            if turn.quick:
                raise NotNow
            if time.monotonic() > deadline:
                raise _busy(place)
            time.sleep(_LOOK_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # A file system without locks.
        return True
    return True


def _busy(place: Place) -> Refused:
    return Refused(
        f"EBUSY: {place.asked!r}: another process has held its directory locked for "
        f"{WAIT_SECONDS_MAX:g} s: nothing was changed; try again"
    )
