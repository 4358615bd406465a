"""The directories that may be reached, and which of them a path belongs to.

A root is held open, and looked at when it is used: where it was replaced by another directory (a
new clone in the old place), that one is opened; a link in its place is refused.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Sequence
from typing import Final

from agent_runtime_mcp.filesystem import kernel
from agent_runtime_mcp.filesystem.refusals import Refused, of_os

NO_ROOTS: Final = (
    "no directory is allowed: start the server with --root DIR (the daemon: with the setting "
    "workspace_roots)"
)


LOOK_SECONDS: Final = 0.02
"""How long it takes at most until a new directory in the place of a root is noticed."""


class Handle:
    """An open directory, closed when the last call that uses it has ended."""

    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


class Root:
    """A directory, as it was given (`path`) and without links (`real`), fixed at the start."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(os.path.expanduser(path))
        self.real = os.path.realpath(self.path)
        self._lock = threading.Lock()
        self._held: tuple[int, int, Handle] | None = None
        self._looked_at = 0.0

    def handle(self) -> Handle:
        """It, open. Raises `Refused`: it does not exist, or is no directory."""
        held, now = self._held, time.monotonic()
        if held is not None and now - self._looked_at < LOOK_SECONDS:
            return held[2]
        try:
            found = os.stat(self.real)
            self._looked_at = now
            if held is not None and held[0] == found.st_ino and held[1] == found.st_dev:
                return held[2]
            return self._open()
        except OSError as error:
            raise Refused(
                f"the allowed directory cannot be used: {of_os(error, self.path)}"
            ) from None

    def fault(self) -> str:
        """Why it cannot be used now; empty if it can."""
        try:
            self.handle()
        except Refused as refused:
            return str(refused)
        return ""

    def _open(self) -> Handle:
        with self._lock:
            if kernel.has_openat2():
                top = os.open("/", kernel.DIRECTORY_FLAGS)
                try:
                    inside = os.fsencode(self.real.lstrip("/")) or b"."
                    descriptor = kernel.open_beneath(
                        top, inside, kernel.DIRECTORY_FLAGS, links=False
                    )
                finally:
                    os.close(top)
            else:
                descriptor = os.open(self.real, kernel.DIRECTORY_FLAGS | os.O_NOFOLLOW)
            handle = Handle(descriptor)
            if os.path.realpath(self.real) != self.real:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), self.path)
            found = os.fstat(descriptor)
            self._held = (found.st_ino, found.st_dev, handle)
            return handle


class Roots:
    """All of them. `openat2` False: as on a kernel that has no such call."""

    def __init__(self, paths: Sequence[str], *, openat2: bool | None = None) -> None:
        self.roots = [Root(path) for path in paths]
        self.refused: list[str] = []
        """What a client wanted as a root and did not get, with the reason."""
        self.openat2 = kernel.has_openat2() if openat2 is None else openat2
        spelled = {
            spelling.rstrip("/"): root
            for root in reversed(self.roots)
            for spelling in (root.real, root.path)
        }
        # A root may lie in another one: the longest fits best.
        self._spelled = sorted(spelled.items(), key=lambda item: len(item[0]), reverse=True)

    def find(self, path: str) -> tuple[Root, str]:
        """The root of a path, and the path below it (without `.`, `..` and outer slashes).

        A relative path is below the first root; `..` goes back by name, whatever links there are.

        Raises:
            Refused: it is outside of all of them, or no path.
        """
        if "\0" in path:
            raise Refused(f"{path!r}: a path holds no NUL character")
        if not self.roots:
            raise Refused(NO_ROOTS)
        absolute = path
        if not path.startswith("/"):
            if path == "~" or path.startswith("~/"):
                absolute = os.path.expanduser(path)
            else:
                absolute = f"{self.roots[0].path}/{path}"
        if "/." in absolute or "//" in absolute or absolute[-1] == "/":
            # POSIX leaves two slashes at the beginning to the system; here they are one.
            absolute = os.path.normpath(f"/{absolute.lstrip('/')}")
        found = self.below(absolute)
        if found is None:
            raise Refused(
                f"Access denied - path outside allowed directories: {absolute} not in "
                + ", ".join(root.path for root in self.roots)
            )
        return found

    def below(self, absolute: str) -> tuple[Root, str] | None:
        """The root of an absolute path that is tidy, by its beginning."""
        for spelling, root in self._spelled:
            if absolute.startswith(spelling):
                rest = absolute[len(spelling) :]
                if not rest or rest == "/":
                    return root, ""
                if rest[0] == "/":
                    return root, rest[1:]
        return None
