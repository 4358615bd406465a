"""Everything below a directory, in the order of names, without leaving it and without an end.

A directory is opened by its path from where the walk began, no link followed: what was swapped for
one meanwhile is left out. So no directories are held open, however deep it goes.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final

from agent_runtime_mcp.filesystem import kernel
from agent_runtime_mcp.filesystem.places import LISTING, opened
from agent_runtime_mcp.filesystem.refusals import Turn
from agent_runtime_mcp.filesystem.roots import Roots

SECONDS_MAX: Final = 20.0
ENTRIES_MAX: Final = 2_000_000
_LOOK_EVERY: Final = 256
_TOO_LONG: Final = "deeper than a path may be long"

Leave = Callable[[str], bool]
"""(path from the start) -> is it left out, with everything in it?"""


class Found:
    """A name that was come by; `path` is from where the walk began."""

    __slots__ = ("is_directory", "is_file", "name", "path")

    def __init__(self, path: str, name: str, *, is_directory: bool, is_file: bool) -> None:
        self.path = path
        self.name = name
        self.is_directory = is_directory
        self.is_file = is_file


class Walk:
    """One walk; afterwards `notes` tells what was left out, and why."""

    def __init__(
        self,
        roots: Roots,
        path: str,
        turn: Turn,
        *,
        leave: Leave | None = None,
        levels_max: int = sys.maxsize,
    ) -> None:
        """Raises `Refused`: `path` is no directory that can be looked into."""
        self._openat2 = roots.openat2
        self._start = opened(roots, path, LISTING)
        self._turn = turn
        self._leave = leave
        self._levels_max = levels_max
        self._deadline = time.monotonic() + SECONDS_MAX
        self._count = 0
        self._unread: list[str] = []
        self._unread_count = 0
        self._why = ""

    @property
    def notes(self) -> list[str]:
        """Empty: it was all there is."""
        notes = [f"[{self._why}]"] if self._why else []
        if self._unread:
            more = self._unread_count - len(self._unread)
            names = ", ".join(self._unread) + (f" and {more:,} more" if more else "")
            notes.append(f"[not looked into: {names}]")
        return notes

    def close(self) -> None:
        os.close(self._start)

    def run(self, after: tuple[str, ...] = ()) -> Iterator[Found]:
        """All of it, each directory before what is in it; only what comes `after` that path."""
        stack = [iter(self._list("", after[:1]))]
        while stack:
            found = next(stack[-1], None)
            if found is None:
                stack.pop()
                continue
            self._count += 1
            if self._count % _LOOK_EVERY == 0 and self._ended():
                return
            self._turn.takes_entries(self._count)
            depth = len(stack)
            on_way = len(after) >= depth and tuple(found.path.split("/")) == after[:depth]
            if not on_way:
                yield found
            if found.is_directory and depth >= self._levels_max:
                self._not_read(found.path, f"below {self._levels_max} levels")
            elif found.is_directory:
                rest = after[depth : depth + 1] if on_way else ()
                stack.append(iter(self._list(found.path, rest)))

    def _list(self, below: str, first: tuple[str, ...]) -> list[Found]:
        """A directory's entries by name, those before `first` left out."""
        try:
            descriptor = self._opened(below)
        except OSError as error:
            if below and error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
                self._not_read(below, _why(error))
            return []
        found = []
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    name = entry.name
                    if first and name < first[0]:
                        continue
                    path = f"{below}/{name}" if below else name
                    if self._leave is not None and self._leave(path):
                        continue
                    found.append(
                        Found(
                            path, name,
                            is_directory=entry.is_dir(follow_symlinks=False),
                            is_file=entry.is_file(follow_symlinks=False),
                        )
                    )  # fmt: skip
                    self._turn.takes_entries(self._count + len(found))
                    if len(found) > ENTRIES_MAX:
                        break
        except OSError as error:
            self._not_read(below, _why(error))
        finally:
            os.close(descriptor)
        found.sort(key=lambda one: one.name)
        return found

    def _opened(self, below: str) -> int:
        if self._openat2:
            return kernel.open_beneath(
                self._start, os.fsencode(below) or b".", LISTING, links=False
            )
        descriptor = os.dup(self._start)
        for part in (*below.split("/"), ".") if below else (".",):
            try:
                entered = os.open(part, LISTING | os.O_NOFOLLOW, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            descriptor = entered
        return descriptor

    def _not_read(self, below: str, why: str) -> None:
        self._unread_count += 1
        if len(self._unread) < 5:
            shown = below if len(below) <= 200 else f"{below[:100]}…{below[-100:]}"
            self._unread.append(f"{shown!r} ({why})")

    def _ended(self) -> bool:
        if self._turn.stopped:
            self._why = "stopped: not everything was looked at"
        elif self._count > ENTRIES_MAX:
            self._why = f"stopped after {ENTRIES_MAX:,} entries: name a directory further down"
        elif time.monotonic() > self._deadline:
            self._why = (
                f"stopped after {SECONDS_MAX:g} s, not everything was looked at: name a directory "
                "further down, or exclude some"
            )
        return bool(self._why)


def _why(error: OSError) -> str:
    if error.errno == errno.ENAMETOOLONG:
        return _TOO_LONG
    return os.strerror(error.errno or 0).lower()
