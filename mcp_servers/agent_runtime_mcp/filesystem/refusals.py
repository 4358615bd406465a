"""How a call ends that cannot be done, and how one says that it would take too long for now."""

from __future__ import annotations

import errno
import os
import stat
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
    """How long a call may take. Long ones look now and then whether they are `stopped`."""

    __slots__ = ("quick", "stopped")

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick
        self.stopped = False

    def slow(self) -> None:
        """What comes now takes long. Raises `NotNow` on the short way."""
        if self.quick:
            raise NotNow


QUICK: Final = Turn(quick=True)


def of_os(error: OSError, path: str | None = None) -> str:
    """An error of the file system, as `CODE: reason: path`."""
    number = error.errno or 0
    code = errno.errorcode.get(number, "EIO")
    reason = _WORDS.get(number) or os.strerror(number).lower()
    named = path if path is not None else error.filename
    where = f": {shown(os.fsdecode(named))!r}" if isinstance(named, (str, bytes)) else ""
    return f"{code}: {reason}{where}"


def kind(mode: int) -> str:
    """What a file mode stands for, in a word or two."""
    for test, word in (
        (stat.S_ISREG, "file"),
        (stat.S_ISDIR, "directory"),
        (stat.S_ISLNK, "symbolic link"),
        (stat.S_ISFIFO, "named pipe"),
        (stat.S_ISSOCK, "socket"),
        (stat.S_ISCHR, "character device"),
        (stat.S_ISBLK, "block device"),
    ):
        if test(mode):
            return word
    return "special file"
