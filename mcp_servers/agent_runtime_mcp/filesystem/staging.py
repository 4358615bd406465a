"""Writing a file at one stroke: beside its place first, then renamed into it.

A reader sees the old content or the new one. Permission bits stay, and the owner where this process
may set it. A file with several hard links becomes one of its own: a name outside of the roots keeps
the old content. There is no fsync: a power failure may lose the last seconds, as with an editor.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from types import TracebackType
from typing import Final

from agent_runtime_mcp.filesystem import kernel
from agent_runtime_mcp.filesystem.places import READING, Place, must_be_file
from agent_runtime_mcp.filesystem.refusals import Refused, Turn

WHOLE_BYTES_MAX: Final = 64 << 20
"""A larger file is not changed in memory."""


class Changed(Exception):
    """Somebody else wrote the file since it was read; nothing was done to it."""


def existing(place: Place) -> os.stat_result | None:
    """The regular file there, None if nothing is. Raises `Refused`: it is something else."""
    found = place.stat()
    if found is not None:
        must_be_file(found.st_mode, place.asked)
    return found


def whole(place: Place, turn: Turn) -> tuple[bytes, os.stat_result]:
    """The content of the regular file there.

    Raises:
        FileNotFoundError: nothing is there.
        Refused: it is something else, or too large to be changed.
    """
    found = place.stat()
    if found is not None:
        must_be_file(found.st_mode, place.asked)
    descriptor = place.open(READING)
    try:
        found = os.fstat(descriptor)
        must_be_file(found.st_mode, place.asked)
        turn.takes_bytes(found.st_size)
        pieces, room = [], WHOLE_BYTES_MAX
        while piece := os.read(descriptor, min(found.st_size, room) + 1):
            pieces.append(piece)
            room -= len(piece)
            if room < 0:
                raise Refused(
                    f"{place.asked!r} has {found.st_size:,} bytes; files above "
                    f"{WHOLE_BYTES_MAX:,} are not changed in memory"
                )
        return b"".join(pieces), found
    finally:
        os.close(descriptor)


def same(one: os.stat_result | None, other: os.stat_result | None) -> bool:
    """Has nobody written it in between, as far as the file system tells?"""
    if one is None or other is None:
        return one is other
    return _version(one) == _version(other)


class Staged:
    """A content beside its place, one rename away from being there: `with Staged(…) as staged`."""

    def __init__(
        self, place: Place, old: os.stat_result | None, *, keep_owner: bool = True
    ) -> None:
        """Make an empty one, with the mode and owner of `old`; None: as new files are made."""
        self._place = place
        self._name = f".agent-runtime-{os.urandom(8).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._name, flags, 0o666, dir_fd=place.parent)
        self._there = True
        if old is not None:
            new = os.fstat(self._descriptor)
            if keep_owner and (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
                with suppress(OSError):
                    os.fchown(self._descriptor, old.st_uid, old.st_gid)
            with suppress(OSError):
                os.fchmod(self._descriptor, stat.S_IMODE(old.st_mode) & 0o777)

    def __enter__(self) -> Staged:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)
        if self._there:
            with suppress(OSError):
                os.unlink(self._name, dir_fd=self._place.parent)

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

    def replace_if(self, old: os.stat_result | None) -> None:
        """Put it in place of `old` (None: of nothing). Raises `Changed`: that is not there."""
        if old is None:
            try:
                self.create()
            except FileExistsError:
                raise Changed from None
        else:
            if not same(old, self._place.stat()):
                raise Changed
            self.replace()

    def create(self) -> None:
        """Put it there if nothing is. Raises `FileExistsError` if something is."""
        place = self._place
        kernel.rename_exclusive(
            place.parent, self._name, place.parent, place.name, is_directory=False
        )
        self._there = False


def _version(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
