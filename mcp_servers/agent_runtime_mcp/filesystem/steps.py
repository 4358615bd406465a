"""The way to a path, one step at a time: what the kernel's `openat2` does, and somewhat more.

Every directory is entered with O_NOFOLLOW and held open, so that nothing that is renamed or linked
meanwhile leads out. It is the only way where there is no `openat2`, and the second one for what
that refuses: absolute links that end below a root again, names in another Unicode form, and
directories that are still to be made.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from typing import Final, NamedTuple

from agent_runtime.file_kinds import kind
from agent_runtime.texts import shown
from agent_runtime_mcp.filesystem import kernel
from agent_runtime_mcp.filesystem.refusals import Refused
from agent_runtime_mcp.filesystem.roots import Root, Roots

LINKS_MAX: Final = 40
"""As many as Linux follows."""


class Reached(NamedTuple):
    """Where a walk ended: an open directory, and a name in it (`.`: the root itself)."""

    parent: int
    name: str
    root: Root
    below: str
    """The directory, from the root."""
    missing: tuple[str, ...]
    """Directories between `parent` and `name` that do not exist."""


def walk(roots: Roots, root: Root, relative: str, *, asked: str, follow: bool) -> Reached:
    """Go to the directory that holds `relative`; the caller closes `parent`.

    Without `follow`, a link as the last part is what is meant, not where it leads.

    Raises:
        Refused: it leads outside, through something that is no directory, or changes meanwhile.
        OSError: a directory cannot be entered.
    """
    going = _Walk(roots, root, relative, asked)
    try:
        return going.run(follow=follow)
    finally:
        going.close()


class _Walk:
    def __init__(self, roots: Roots, root: Root, relative: str, asked: str) -> None:
        self._roots = roots
        self._asked = asked
        self._names: list[str] = []
        self._open: list[int] = []
        self._links = 0
        self._pending = deque(relative.split("/"))
        self._start(root)

    def run(self, *, follow: bool) -> Reached:
        while self._pending:
            part = self._pending.popleft()
            if part in ("", "."):
                continue
            if part == "..":
                self._up()
                continue
            last = not any(rest not in ("", ".") for rest in self._pending)
            mode = self._mode(part)
            if mode is None:
                if (other := self._other_form(part)) is None:
                    return self._nothing(part)
                self._pending.appendleft(other)
            elif stat.S_ISLNK(mode) and (follow or not last):
                self._follow(part)
            elif last and (stat.S_ISDIR(mode) or not self._pending):
                return self._ended(part)
            else:
                self._enter(part, mode)
        return self._ended(".")

    def close(self) -> None:
        for descriptor in self._open:
            os.close(descriptor)
        self._open = []

    def _ended(self, name: str, missing: tuple[str, ...] = ()) -> Reached:
        return Reached(self._open.pop(), name, self._root, "/".join(self._names), missing)

    def _start(self, root: Root) -> None:
        self.close()
        self._root = root
        self._names = []
        # A copy: the way back up closes what it leaves.
        self._open = [os.dup(root.handle().descriptor)]

    def _mode(self, part: str) -> int | None:
        try:
            return os.stat(part, dir_fd=self._open[-1], follow_symlinks=False).st_mode
        except FileNotFoundError:
            return None

    def _up(self) -> None:
        if not self._names:
            raise self._outside("..")
        os.close(self._open.pop())
        self._names.pop()

    def _enter(self, part: str, mode: int) -> None:
        if not stat.S_ISDIR(mode):
            raise Refused(
                f"ENOTDIR: {self._asked!r}: {self._spelled(part)!r} is a {kind(mode)}, "
                "not a directory"
            )
        try:
            flags = kernel.DIRECTORY_FLAGS | os.O_NOFOLLOW
            self._open.append(os.open(part, flags, dir_fd=self._open[-1]))
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise self._replaced(part) from None
            raise
        self._names.append(part)

    def _follow(self, part: str) -> None:
        try:
            target = os.readlink(part, dir_fd=self._open[-1])
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise self._replaced(part) from None
            raise
        self._links += 1
        if self._links > LINKS_MAX:
            raise Refused(f"ELOOP: {self._asked!r} follows more than {LINKS_MAX} links")
        if target.startswith("/"):
            found = self._roots.below(os.path.normpath(target))
            if found is None:
                raise self._outside(target)
            root, target = found
            self._start(root)
        self._pending.extendleft(reversed(target.split("/")))

    def _other_form(self, part: str) -> str | None:
        """The same name as another system writes it (`é` as one character, or as two)."""
        if part.isascii():
            return None
        from unicodedata import normalize

        descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._open[-1])
        try:
            wanted = normalize("NFC", part)
            same = [name for name in os.listdir(descriptor) if normalize("NFC", name) == wanted]
        finally:
            os.close(descriptor)
        if len(same) > 1:
            raise Refused(f"{self._asked!r}: {self._spelled(part)!r} may be {len(same)} names")
        return same[0] if same else None

    def _nothing(self, part: str) -> Reached:
        rest = [later for later in self._pending if later not in ("", ".")]
        if ".." in rest:
            raise Refused(
                f"ENOENT: {self._asked!r} goes through {self._spelled(part)!r}, which is missing"
            )
        *missing, name = [part, *rest]
        return self._ended(name, tuple(missing))

    def _spelled(self, part: str) -> str:
        return shown("/".join([self._root.path, *self._names, part]))

    def _outside(self, target: str) -> Refused:
        return Refused(
            f"Access denied - symlink target outside allowed directories: {self._asked} leads to "
            f"{shown(target)}, not in {', '.join(root.path for root in self._roots.roots)}"
        )

    def _replaced(self, part: str) -> Refused:
        return Refused(
            f"{self._asked!r}: {self._spelled(part)!r} was replaced while it was opened: try again"
        )
