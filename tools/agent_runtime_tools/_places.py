"""Finding the place that a path names, inside the workspace and nowhere else.

A path is walked one part at a time through open directories, so that what was checked is what is
used: a directory that is swapped for a symbolic link meanwhile is either the old directory or an
error, never a way out. Links are followed by hand while they stay inside. A directory that is moved
out of the workspace by another process while a call has it open is still written to: that is the
sandbox's boundary to hold, not ours. What a hard link points to is not looked at.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections import deque
from types import TracebackType
from typing import Final

from agent_runtime.errors import ToolRefused
from agent_runtime.file_kinds import kind
from agent_runtime.texts import shown

LINKS_MAX: Final = 40
"""As in Linux: more is taken for a loop."""
# A path-only descriptor needs no read permission; systems without it open the directory.
_DIRECTORY_FLAGS: Final = getattr(os, "O_PATH", 0) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Place:
    """A name in an open directory of the workspace; use it as a context manager.

    `parent` is the descriptor of the deepest directory that exists, `missing` are the directories
    that `make_parents` would make below it. `name` is "." for a directory that was named by where
    the path ends (the workspace, `a/..`). `path` is relative to the workspace with every link
    followed; `asked` is what the caller wrote, tidied. Both count when a path is protected.
    """

    __slots__ = ("asked", "missing", "name", "parent", "path", "workspace")

    def __init__(self, workspace: str, path: str, *, follow: bool = True) -> None:
        """Walk to `path`. `follow=False` stops at a link that is the last part.

        Raises:
            ToolRefused: it leads outside, or through a file, or the name is impossible.
            OSError: a directory on the way cannot be entered.
        """
        if "\0" in path or not path:
            raise ToolRefused(f"{path!r} is not a path: it is empty or holds a NUL character")
        self.workspace = workspace
        walk = _Walk(workspace, path)
        try:
            walk.run(follow=follow)
        except BaseException:
            walk.close()
            raise
        self.parent = walk.keep_last()
        self.missing = walk.missing
        self.name = walk.name
        parts = [*walk.names, *walk.missing] + ([] if walk.name == "." else [walk.name])
        self.path = "/".join(parts) or "."
        self.asked = posixpath.normpath(_relative(workspace, path) or ".")

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self.parent)

    def stat(self) -> os.stat_result | None:
        """What lies there now, not following a link; None if nothing does."""
        if self.missing:
            return None
        try:
            return os.stat(self.name, dir_fd=self.parent, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def open(self, flags: int) -> int:
        """Open what lies there, never through a link that was put there since.

        Raises:
            FileNotFoundError: nothing lies there.
            ToolRefused: a link does, now.
        """
        if self.missing:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.path)
        try:
            return os.open(
                self.name, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY, dir_fd=self.parent
            )
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.path) from None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise ToolRefused(
                    f"{shown(self.path)!r} became a symbolic link meanwhile"
                ) from None
            raise

    def make_parents(self) -> None:
        """Make the missing directories; `parent` is then the directory of `name`."""
        while self.missing:
            part, *rest = self.missing
            try:
                os.mkdir(part, dir_fd=self.parent)
            except FileExistsError:
                pass
            entered = os.open(part, _DIRECTORY_FLAGS, dir_fd=self.parent)
            os.close(self.parent)
            self.parent = entered
            self.missing = tuple(rest)


def directory(workspace: str, path: str) -> str:
    """The absolute path of a directory of the workspace, for a process to start in.

    Raises:
        ToolRefused: it is outside, missing, or no directory.
    """
    with Place(workspace, path) as place:
        found = place.stat()
        if found is None or not stat.S_ISDIR(found.st_mode):
            what = "does not exist" if found is None else "is not a directory"
            raise ToolRefused(f"{path!r} {what} in the workspace")
        return posixpath.join(workspace, place.path) if place.path != "." else workspace


class _Walk:
    """One walk: the directories that are open, what is still to go, the links met."""

    def __init__(self, workspace: str, path: str) -> None:
        self.workspace = workspace
        self.asked = path
        self.names: list[str] = []
        self.missing: tuple[str, ...] = ()
        self.name = "."
        self._link = ""
        self._links = 0
        relative = _relative(workspace, path)
        if relative is None:
            raise ToolRefused(
                f"{path!r} is outside the workspace {workspace!r}; "
                "paths are relative to it, or absolute below it"
            )
        self._pending = deque(relative.split("/"))
        # The workspace itself may be reached through links: only what is below it is untrusted.
        self._open = [os.open(workspace, _DIRECTORY_FLAGS & ~os.O_NOFOLLOW)]

    def run(self, *, follow: bool) -> None:
        while self._pending:
            part = self._pending.popleft()
            if part in ("", "."):
                continue
            if part == "..":
                self._up()
                continue
            last = not any(rest not in ("", ".") for rest in self._pending)
            try:
                mode = os.stat(part, dir_fd=self._open[-1], follow_symlinks=False).st_mode
            except FileNotFoundError:
                self._end_in_nothing(part)
                return
            if stat.S_ISLNK(mode) and (follow or not last):
                self._follow(part)
            elif last:
                self.name = part
                return
            else:
                self._enter(part, mode)

    def keep_last(self) -> int:
        *others, last = self._open
        for descriptor in others:
            os.close(descriptor)
        self._open = []
        return last

    def close(self) -> None:
        for descriptor in self._open:
            os.close(descriptor)
        self._open = []

    def _up(self) -> None:
        if not self.names:
            raise ToolRefused(f"{self.asked!r} leads outside the workspace{self._link}")
        os.close(self._open.pop())
        self.names.pop()

    def _enter(self, part: str, mode: int) -> None:
        where = self._spelled(part)
        if not stat.S_ISDIR(mode):
            raise ToolRefused(f"{self.asked!r}: {where!r} is a {kind(mode)}, not a directory")
        try:
            self._open.append(os.open(part, _DIRECTORY_FLAGS, dir_fd=self._open[-1]))
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise ToolRefused(f"{self.asked!r}: {where!r} was replaced meanwhile") from None
            raise
        self.names.append(part)

    def _follow(self, part: str) -> None:
        where = self._spelled(part)
        try:
            target = os.readlink(part, dir_fd=self._open[-1])
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise ToolRefused(f"{self.asked!r}: {where!r} was replaced meanwhile") from None
            raise
        self._link = f": {where!r} is a link to {shown(target)!r}"
        self._links += 1
        if self._links > LINKS_MAX:
            raise ToolRefused(f"{self.asked!r} follows more than {LINKS_MAX} links{self._link}")
        if target.startswith("/"):
            relative = _relative(self.workspace, target)
            if relative is None:
                raise ToolRefused(f"{self.asked!r} leads outside the workspace{self._link}")
            while self.names:
                self._up()
            target = relative
        self._pending.extendleft(reversed(target.split("/")))

    def _end_in_nothing(self, part: str) -> None:
        rest = [later for later in self._pending if later not in ("", ".")]
        if ".." in rest:
            where = self._spelled(part)
            raise ToolRefused(f"{self.asked!r} goes through {where!r}, which does not exist")
        *missing, self.name = [part, *rest]
        self.missing = tuple(missing)

    def _spelled(self, part: str) -> str:
        return shown("/".join([*self.names, part]))


def _relative(workspace: str, path: str) -> str | None:
    """`path` relative to the workspace, not tidied; None if it does not start there."""
    if not path.startswith("/"):
        return path
    for root in (workspace, os.path.realpath(workspace)):
        root = root.rstrip("/")
        if path == root or path.startswith(root + "/"):
            return path[len(root) :].lstrip("/")
    return None
