"""One owner at a time for a directory that a task works on in place.

The lock is an advisory one on a file of ours, so it ends with the process that holds it, however
that process ends; nothing is written into the user's directory.
"""

from __future__ import annotations

import hashlib
import os

import anyio

_POLL_SECONDS_FIRST = 0.02
_POLL_SECONDS_MAX = 0.5


class DirectoryLock:
    """Held from `take` until `release` or the end of the process."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def release(self) -> None:
        """Let the next one in. Safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


async def take(locks_dir: str, path: str) -> DirectoryLock:
    """Wait until nobody else works in the directory `path`, for as long as the caller waits.

    The other task may run for hours: a cancel or the caller's deadline ends this wait.
    """
    # Imported here: Windows has none, and everything that opens no workspace must import there.
    import fcntl

    os.makedirs(locks_dir, mode=0o700, exist_ok=True)
    name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()
    fd = os.open(os.path.join(locks_dir, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    seconds = _POLL_SECONDS_FIRST
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                await anyio.sleep(seconds)
                seconds = min(2 * seconds, _POLL_SECONDS_MAX)
            else:
                return DirectoryLock(fd)
    except BaseException:
        os.close(fd)
        raise
