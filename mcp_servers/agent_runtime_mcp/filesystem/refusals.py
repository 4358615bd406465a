"""How a call ends that cannot be done, and how one says that it would take too long for now."""

from __future__ import annotations

import errno
import os
from typing import Final

from agent_runtime.texts import shown

_WORDS: Final = {
    errno.ENOENT: "no such file or directory",
    errno.EACCES: "permission denied to the user that the server runs as",
    errno.EROFS: "the file system is read-only",
    errno.ENOSPC: "no space left on the device: nothing was written",
    errno.ENAMETOOLONG: "the name or path is too long",
    errno.ENOTDIR: "a part of the path is not a directory",
}


class Refused(Exception):
    """The call is not done; the message says why, and what would work. A model reads it."""


class NotNow(Exception):
    """It would take longer than the short way may; nothing has been done yet."""


class Turn:
    """How much a call may do. Long ones look now and then whether they are `stopped`.

    On the short way there are bounds, and what is above them ends with `NotNow`.
    """

    __slots__ = ("_bytes_max", "_entries_max", "quick", "seconds_max", "stopped")

    def __init__(
        self, *, quick: bool = False,
        bytes_max: int = 0, entries_max: int = 0, seconds_max: float = 0.0,
    ) -> None:  # fmt: skip
        self.quick = quick
        self._bytes_max = bytes_max
        self._entries_max = entries_max
        self.seconds_max = seconds_max
        """That another process may be waited for."""
        self.stopped = False

    def takes_bytes(self, count: int) -> None:
        """So many are read or written. Raises `NotNow`."""
        if self.quick and count > self._bytes_max:
            raise NotNow

    def takes_entries(self, count: int) -> None:
        """So many names or lines are looked at. Raises `NotNow`."""
        if self.quick and count > self._entries_max:
            raise NotNow


SHARED: Final = Turn(quick=True, bytes_max=128 << 10, entries_max=200)
"""The short way where others wait on the same thread: some tens of microseconds."""
ALONE: Final = Turn(quick=True, bytes_max=2 << 20, entries_max=5_000, seconds_max=0.3)
"""The short way of a process that one client started for itself."""


def of_os(error: OSError, path: str | None = None) -> str:
    """An error of the file system, as `CODE: reason: path`."""
    number = error.errno or 0
    code = errno.errorcode.get(number, "EIO")
    reason = _WORDS.get(number) or os.strerror(number).lower()
    named = path if path is not None else error.filename
    where = f": {shown(os.fsdecode(named))!r}" if isinstance(named, (str, bytes)) else ""
    return f"{code}: {reason}{where}"
