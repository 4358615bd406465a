"""Where a path leads: opened for reading, or as a name in an open directory for changes.

Nothing here leaves the roots, whatever is renamed or linked at the same time. The usual way is one
`openat2`; the other one, and the second try for what that refuses, is `steps`.
"""

from __future__ import annotations

import errno
import os
import stat
from types import TracebackType
from typing import Final

from agent_runtime.file_kinds import kind
from agent_runtime_mcp.filesystem import kernel, steps
from agent_runtime_mcp.filesystem.refusals import Refused, of_os
from agent_runtime_mcp.filesystem.roots import Root, Roots

# Not to wait for the other end of a pipe, nor to become the terminal's owner.
READING: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
LISTING: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Where only Linux has a way to look without opening, a pipe is at least not waited for.
LOOKING: Final = (kernel.O_PATH or READING) | os.O_CLOEXEC
_BY_STEPS: Final = (errno.EXDEV, errno.ELOOP, errno.EAGAIN)
_BYTES_IN_PATH: Final = "a path is Unicode text; this one holds half a character"


class Missing(Refused):
    """There is nothing by that name."""


def opened(roots: Roots, path: str, flags: int) -> int:
    """Open what a path leads to, links included. Raises `Refused`, `Missing`."""
    root, relative = roots.find(path)
    return _opened(roots, root, relative, path, flags)


def _opened(roots: Roots, root: Root, relative: str, path: str, flags: int) -> int:
    try:
        if roots.openat2:
            try:
                handle = root.handle()
                return kernel.open_beneath(handle.descriptor, os.fsencode(relative) or b".", flags)
            except OSError as error:
                if error.errno not in _BY_STEPS and (
                    error.errno != errno.ENOENT or relative.isascii()
                ):
                    raise
        return _by_steps(roots, root, relative, path, flags)
    except UnicodeEncodeError:
        raise Refused(f"{path!r}: {_BYTES_IN_PATH}") from None
    except OSError as error:
        raise refusal(error, path) from None


def open_regular(roots: Roots, path: str) -> tuple[int, os.stat_result]:
    """Open a regular file for reading; a pipe or device is told from it before it is touched.

    Raises:
        Refused: it is something else; the message says what. `Missing`: nothing is there.
    """
    root, relative = roots.find(path)
    handle = root.handle()
    try:
        # A look from outside, which a link may lead astray: it decides on nothing but the way.
        mode = os.stat(relative or ".", dir_fd=handle.descriptor).st_mode
    except (OSError, UnicodeEncodeError):
        mode = stat.S_IFREG
    if not stat.S_ISREG(mode):
        looked = _opened(roots, root, relative, path, LOOKING)
        try:
            must_be_file(os.fstat(looked).st_mode, path)
        finally:
            os.close(looked)
    descriptor = _opened(roots, root, relative, path, READING)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            must_be_file(found.st_mode, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, found


def must_be_file(mode: int, path: str) -> None:
    """Raises `Refused` unless it is a regular file."""
    if stat.S_ISDIR(mode):
        raise Refused(f"EISDIR: {path!r} is a directory; look into it with list_directory")
    if not stat.S_ISREG(mode):
        raise Refused(f"{path!r} is a {kind(mode)}, not a file: it is neither read nor written")


def refusal(error: OSError, path: str) -> Refused:
    """An error of the file system for whoever named the path."""
    message = of_os(error, path)
    return Missing(message) if error.errno == errno.ENOENT else Refused(message)


class Place:
    """A name in an open directory: `with Place(…) as place`. What is there may be missing.

    `follow` False: a link is itself what is meant, not where it leads.
    """

    def __init__(self, roots: Roots, path: str, *, follow: bool = True) -> None:
        """Raises `Refused`."""
        self.asked = path
        root, relative = roots.find(path)
        try:
            reached = None
            if roots.openat2 and relative:
                reached = _at_once(root, relative, follow=follow)
            if reached is None:
                reached = steps.walk(roots, root, relative, asked=path, follow=follow)
        except UnicodeEncodeError:
            raise Refused(f"{path!r}: {_BYTES_IN_PATH}") from None
        except OSError as error:
            raise refusal(error, path) from None
        self.parent, self.name, self.root, self.below, self.missing = reached

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self.parent)

    @property
    def is_root(self) -> bool:
        """Is it an allowed directory itself, rather than something in one?"""
        return self.name == "."

    def stat(self) -> os.stat_result | None:
        """What lies there now, not following a link; None if nothing does."""
        if self.missing:
            return None
        try:
            return os.stat(self.name, dir_fd=self.parent, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def open(self, flags: int) -> int:
        """Open what lies there, never through a link. Raises `OSError`; `Refused`: a link does."""
        try:
            return os.open(self.name, flags | os.O_NOFOLLOW, dir_fd=self.parent)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise Refused(
                    f"{self.asked!r} became a symbolic link meanwhile: try again"
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
            flags = kernel.DIRECTORY_FLAGS | os.O_NOFOLLOW
            entered = os.open(part, flags, dir_fd=self.parent)
            os.close(self.parent)
            self.parent = entered
            self.below = f"{self.below}/{part}" if self.below else part
            self.missing = tuple(rest)


def _at_once(root: Root, relative: str, *, follow: bool) -> steps.Reached | None:
    """The directory by one call; None: the way must be gone step by step."""
    below, _, name = relative.rpartition("/")
    try:
        parent = kernel.open_beneath(
            root.handle().descriptor, os.fsencode(below) or b".", kernel.DIRECTORY_FLAGS
        )
    except OSError as error:
        if error.errno in (*_BY_STEPS, errno.ENOENT, errno.ENOTDIR):
            return None
        raise
    try:
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        known = not (follow and stat.S_ISLNK(mode))
    except FileNotFoundError:
        known = name.isascii()
    except BaseException:
        os.close(parent)
        raise
    if known:
        return steps.Reached(parent, name, root, below, ())
    os.close(parent)
    return None


def _by_steps(roots: Roots, root: Root, relative: str, path: str, flags: int) -> int:
    parent, name, _, _, missing = steps.walk(roots, root, relative, asked=path, follow=True)
    try:
        if missing:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        try:
            return os.open(name, flags | os.O_NOFOLLOW, dir_fd=parent)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise Refused(f"{path!r} became a symbolic link meanwhile: try again") from None
            raise
    finally:
        os.close(parent)
