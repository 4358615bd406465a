"""Contents of files: reading them whole, writing them at one stroke, and which may be written.

A content is written to a temporary file beside the old one and renamed over it: a reader sees the
old one or the new one. There is no fsync: after a crash the runtime restores the whole workspace.
A file with several hard links becomes one of its own.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from contextlib import suppress
from typing import Final

from agent_runtime import protect
from agent_runtime.errors import ToolRefused
from agent_runtime.file_kinds import kind
from agent_runtime.texts import shown
from agent_runtime.types import ToolCall
from agent_runtime_tools._places import Place

WHOLE_BYTES_MAX: Final = 64 << 20
"""A larger file is not changed in memory; a shell can stream it."""
_NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)


def open_file(place: Place) -> tuple[int, os.stat_result]:
    """Open a regular file for reading; never waits for a pipe, never wakes a device.

    Raises:
        FileNotFoundError: nothing is there.
        ToolRefused: it is no regular file; the message says what it is.
    """
    found = place.stat()
    if found is not None:
        _must_be_file(place, found)
    descriptor = place.open(os.O_RDONLY | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        _must_be_file(place, found)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, found


def read_whole(place: Place) -> tuple[bytes, int]:
    """A regular file's content and permission bits. Raises as `open_file`, and if it is too big."""
    descriptor, found = open_file(place)
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(WHOLE_BYTES_MAX + 1)
    if len(content) > WHOLE_BYTES_MAX:
        raise ToolRefused(
            f"{shown(place.path)!r} has {found.st_size:,} bytes; more than {WHOLE_BYTES_MAX:,} are "
            "not changed in memory: use shell"
        )
    return content, stat.S_IMODE(found.st_mode)


def existing_mode(place: Place) -> int | None:
    """Permission bits of the regular file there; None if nothing is. Raises `ToolRefused`."""
    found = place.stat()
    if found is None:
        return None
    _must_be_file(place, found)
    return stat.S_IMODE(found.st_mode)


def must_be_free(place: Place) -> None:
    """Raises `ToolRefused` if anything is there, naming it."""
    if (found := place.stat()) is not None:
        raise ToolRefused(f"{shown(place.path)!r} already exists (a {kind(found.st_mode)})")


def check_writable(call: ToolCall, place: Place, *, before: bytes, after: bytes) -> None:
    """Refuse what the repository and the task keep to themselves; a missing file is b"".

    Raises:
        ToolRefused: with the path in `paths` if it is protected.
    """
    for path in dict.fromkeys((place.path, place.asked)):
        if any(part.lower() == ".git" for part in path.split("/")):
            raise ToolRefused(f"{shown(path)!r} belongs to git; use the git tools")
        if reason := protect.forbids(path, call.protected, before=before, after=after):
            raise ToolRefused(
                f"{shown(path)!r} is protected by {reason!r} and must stay as it is; only the"
                f" task's author can release it, with `protect: [{'!' + shown(path)!r}]`",
                paths=(shown(path),),
            )


def guarded_content(place: Place, *names: Place) -> bytes:
    """The content, if it is a file and one of the names has guarded sections; else b"".

    Most names have none, and their content is not looked at.
    """
    paths = (path for name in names for path in (name.path, name.asked))
    if not any(protect.has_guarded_sections(path) for path in paths):
        return b""
    found = place.stat()
    return read_whole(place)[0] if found is not None and stat.S_ISREG(found.st_mode) else b""


def digest(content: bytes) -> str:
    """What `expected_hash` is compared with."""
    return hashlib.sha256(content).hexdigest()


class Staged:
    """A content beside its destination, in a temporary file, one rename away from being there."""

    def __init__(self, place: Place, *, mode: int | None) -> None:
        """Make an empty one; `mode` None means what new files get."""
        place.make_parents()
        self._place = place
        self._name = f".agent-runtime-{os.urandom(8).hex()}"
        self._there = True
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._name, flags, 0o666, dir_fd=place.parent)
        if mode is not None:
            os.fchmod(self._descriptor, mode & 0o777)

    def write(self, content: bytes) -> None:
        """Append to it."""
        view = memoryview(content)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def replace(self) -> None:
        """Put it in place of whatever is there."""
        place = self._place
        os.replace(self._name, place.name, src_dir_fd=place.parent, dst_dir_fd=place.parent)
        self._there = False

    def create(self) -> None:
        """Put it there if nothing is. Raises `ToolRefused` if something is, also since a check."""
        place = self._place
        try:
            os.link(
                self._name,
                place.name,
                src_dir_fd=place.parent,
                dst_dir_fd=place.parent,
                follow_symlinks=False,
            )
        except FileExistsError:
            raise ToolRefused(f"{shown(place.path)!r} already exists") from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # A file system without hard links: two steps instead of one.
            must_be_free(place)
            self.replace()

    def finish(self) -> None:
        """Nothing more is written; gives the descriptor back."""
        if self._descriptor != -1:
            os.close(self._descriptor)
            self._descriptor = -1

    def close(self) -> None:
        """Remove what was not put in place. Safe to call twice."""
        self.finish()
        if self._there:
            self._there = False
            with suppress(OSError):
                os.unlink(self._name, dir_fd=self._place.parent)


def replace(place: Place, content: bytes, *, mode: int | None) -> None:
    """Write a file at one stroke, whether it was there or not."""
    staged = Staged(place, mode=mode)
    try:
        staged.write(content)
        staged.replace()
    finally:
        staged.close()


def create(place: Place, content: bytes, *, mode: int | None = None) -> None:
    """Write a new file at one stroke. Raises `ToolRefused` if something is there."""
    staged = Staged(place, mode=mode)
    try:
        staged.write(content)
        staged.create()
    finally:
        staged.close()


def _must_be_file(place: Place, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ToolRefused(f"{shown(place.path)!r} is a {kind(found.st_mode)}, not a file")
