"""Reading files that somebody else wrote, for the built-in modules: bounded, and never outside.

A path is resolved first and must then lie below its root. In the worker this keeps answers honest
(what is cited as the repository's is the repository's); the wall is the sandbox.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

DEPTH_MAX: Final = 24
ENTRIES_MAX: Final = 100_000
"""Of one tree: some 300 ms. What lies behind is not looked at, and that is said."""
SKIPPED_DIRECTORIES: Final = frozenset(
    {
        ".git", ".hg", ".svn", "node_modules", "__pycache__", ".venv", "venv", ".tox", ".nox",
        ".mypy_cache", ".pytest_cache", ".ruff_cache", "site-packages", "target",
    }
)  # fmt: skip
"""What tools keep there is not the project's own word."""


class Unreadable(Exception):
    """A file cannot be used; says the rule and the value, without the path.

    `is_absent` where nothing is there, `is_outside` where the path leaves its root.
    """

    def __init__(self, message: str, *, is_absent: bool = False, is_outside: bool = False) -> None:
        super().__init__(message)
        self.is_absent = is_absent
        self.is_outside = is_outside


@dataclass(frozen=True, slots=True)
class Stamp:
    """What changes when a file's content does."""

    mtime_ns: int
    ctime_ns: int
    inode: int
    bytes_count: int


@dataclass(frozen=True, slots=True)
class Content:
    """A file's bytes and their stamp, taken from one descriptor."""

    data: bytes
    stamp: Stamp


def resolve(root: str, path: str) -> str:
    """Where a path below `root` really is.

    Raises:
        Unreadable: it leaves the root, also through links, or there is nothing.
        OSError: the root itself cannot be reached: try again, or use what was read before.
    """
    if "\0" in path or not path:
        raise Unreadable("the path is empty or holds a zero byte", is_outside=True)
    real_root = os.path.realpath(root, strict=True)
    try:
        real = os.path.realpath(os.path.join(real_root, path), strict=True)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Unreadable("its symbolic links lead in a circle") from None
        if error.errno == errno.ENAMETOOLONG:
            raise Unreadable("the path is longer than a path can be", is_absent=True) from None
        _outside(real_root, os.path.realpath(os.path.join(real_root, path)))
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise Unreadable("there is no such file", is_absent=True) from None
        raise Unreadable(os.strerror(error.errno or errno.EIO)) from None
    _outside(real_root, real)
    return real


def _outside(real_root: str, real: str) -> None:
    if real != real_root and not real.startswith(real_root.rstrip("/") + "/"):
        raise Unreadable(f"it leads out of {real_root!r}, to {real!r}", is_outside=True)


def read(root: str, path: str, *, bytes_max: int) -> Content:
    """A regular file's bytes. Raises as `resolve`; a file that is too large is not read at all."""
    return read_file(resolve(root, path), bytes_max=bytes_max, below=os.path.realpath(root))


def check_file(real: str, *, bytes_max: int) -> Stamp:
    """What is known of a regular file that others will open. Raises `Unreadable`."""
    try:
        found = os.stat(real)
    except OSError as error:
        absent = error.errno in (errno.ENOENT, errno.ENOTDIR)
        raise Unreadable(os.strerror(error.errno or errno.EIO), is_absent=absent) from None
    _check(found, bytes_max)
    return stamp_of(found)


def read_file(real: str, *, bytes_max: int, below: str = "") -> Content:
    """The bytes of a file whose path has no links, or is trusted; `below` is where it must lie.

    Raises:
        Unreadable: it cannot be read, is no file or too large, or was moved meanwhile.
    """
    try:
        # A named pipe would wait for its writer.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
        descriptor = os.open(real, flags)
    except OSError as error:
        absent = error.errno in (errno.ENOENT, errno.ENOTDIR)
        raise Unreadable(os.strerror(error.errno or errno.EIO), is_absent=absent) from None
    try:
        if below and os.path.lexists(opened := f"/proc/self/fd/{descriptor}"):
            # A directory on the way may have become a link since the path was resolved.
            _outside(below, os.readlink(opened))
        found = os.fstat(descriptor)
        _check(found, bytes_max)
        data = bytearray()
        while len(data) <= bytes_max and (piece := os.read(descriptor, 1 << 20)):
            data += piece
    except OSError as error:
        raise Unreadable(os.strerror(error.errno or errno.EIO)) from None
    finally:
        os.close(descriptor)
    if len(data) > bytes_max:
        raise Unreadable(f"it grows while it is read, beyond {bytes_max:,} bytes")
    return Content(bytes(data), stamp_of(found))


def _check(found: os.stat_result, bytes_max: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise Unreadable(f"it is no regular file but {_kind(found.st_mode)}")
    if found.st_size > bytes_max:
        raise Unreadable(f"it has {found.st_size:,} bytes, and at most {bytes_max:,} are read")


def text_of(data: bytes) -> str:
    """A text file's text; other encodings than UTF-8 as far as a mark at its start says so.

    Raises:
        Unreadable: it is binary. Bytes that fit no encoding become U+FFFD, one for one.
    """
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    if b"\0" in data:
        raise Unreadable("it is no text: it holds zero bytes")
    return data.decode("utf-8-sig", "replace")


def walk(root: str) -> Iterator[tuple[str, os.stat_result]]:
    """Every file below a root that is worth a look, in order, with what `lstat` says.

    Links are told as links and not entered. Stops after `ENTRIES_MAX`.

    Raises:
        OSError: the root itself cannot be listed.
    """
    left = ENTRIES_MAX
    waiting = [("", 0)]
    while waiting:
        directory, depth = waiting.pop()
        try:
            with os.scandir(os.path.join(root, directory)) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            if not directory:
                raise
            continue
        if any(entry.name == "pyvenv.cfg" for entry in listed):
            continue
        below = []
        for entry in listed:
            left -= 1
            if left < 0:
                return
            path = directory + entry.name
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if not stat.S_ISDIR(found.st_mode):
                yield path, found
            elif entry.name not in SKIPPED_DIRECTORIES and depth < DEPTH_MAX:
                below.append((path + "/", depth + 1))
        waiting += reversed(below)


def stamp_of(found: os.stat_result) -> Stamp:
    """Of what `stat` said."""
    return Stamp(found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size)


def _kind(mode: int) -> str:
    for test, word in (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISLNK, "a symbolic link"),
    ):
        if test(mode):
            return word
    return "a device"
