"""File operations below a directory that somebody else may have filled with traps.

An agent can plant symbolic links, pipes, unreadable or very deep directories. Everything here goes
from one open directory to the next and follows no link, so nothing outside is read or written.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from agent_runtime.errors import WorkspaceError
from agent_runtime.workspaces.objects import MODE_EXECUTABLE, MODE_LINK

DEPTH_MAX = 200
"""Nested directories; every level holds a descriptor while a tree is read."""

if sys.platform != "win32":  # where this file imports too, and opens nothing: it has no `dir_fd`
    _DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    # O_NONBLOCK: opening a pipe that took a file's place must not wait for a writer.
    _FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    _NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Name = str | bytes


def open_directory(name: Name, *, below: int | None = None) -> int:
    """A descriptor of a real directory. `OSError` if it is a link or something else.

    A directory that its own owner may not enter is made accessible first.
    """
    try:
        return os.open(name, _DIRECTORY, dir_fd=below)
    except PermissionError:
        facts = os.stat(name, dir_fd=below, follow_symlinks=False)
        if not stat.S_ISDIR(facts.st_mode):
            raise
        os.chmod(name, stat.S_IMODE(facts.st_mode) | 0o700, dir_fd=below)
        return os.open(name, _DIRECTORY, dir_fd=below)


@contextmanager
def directory(name: Name, *, below: int | None = None) -> Iterator[int]:
    """`open_directory` for a `with` statement."""
    fd = open_directory(name, below=below)
    try:
        yield fd
    finally:
        os.close(fd)


def open_file(name: Name, *, below: int) -> int:
    """A descriptor for reading a regular file; `OSError` if it is a link or cannot be read."""
    try:
        return os.open(name, _FILE, dir_fd=below)
    except PermissionError:
        facts = os.stat(name, dir_fd=below, follow_symlinks=False)
        if not stat.S_ISREG(facts.st_mode):
            raise
        os.chmod(name, stat.S_IMODE(facts.st_mode) | 0o400, dir_fd=below)
        return os.open(name, _FILE, dir_fd=below)


def make_writable(fd: int) -> None:
    """Let the owner change the open directory, as far as that is ours to allow."""
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    if mode & 0o700 != 0o700:
        os.fchmod(fd, mode | 0o700)


class Walker:
    """Opens the parent directories of paths that come in sorted order, each as seldom as possible.

    With `create`, missing parents are made; new things belong to the owner of the root when we are
    root ourselves.
    """

    def __init__(self, root: int, *, create: bool = False) -> None:
        self._root = root
        self._create = create
        self._names: list[bytes] = []
        self._fds: list[int] = []
        facts = os.fstat(root)
        self._owner = (facts.st_uid, facts.st_gid) if os.geteuid() == 0 else None

    def __enter__(self) -> Walker:
        return self

    def __exit__(self, *_: object) -> None:
        self._pop(0)

    def parent(self, path: bytes) -> tuple[int, bytes]:
        """(descriptor of the parent, last name). `OSError` if a parent is a link or missing."""
        *parents, name = path.split(b"/")
        return self.enter(parents), name

    def enter(self, parents: list[bytes]) -> int:
        """The descriptor of a directory, valid until the next call."""
        same = 0
        for ours, theirs in zip(self._names, parents, strict=False):
            if ours != theirs:
                break
            same += 1
        self._pop(same)
        for name in parents[same:]:
            below = self._fds[-1] if self._fds else self._root
            if self._create:
                self._make(name, below)
            self._fds.append(open_directory(name, below=below))
            self._names.append(name)
        return self._fds[-1] if self._fds else self._root

    def own(self, fd: int) -> None:
        """Give a new file to the root's owner."""
        if self._owner is not None:
            os.fchown(fd, *self._owner)

    def own_link(self, name: bytes, below: int) -> None:
        """Give a new link to the root's owner."""
        if self._owner is not None:
            os.chown(name, *self._owner, dir_fd=below, follow_symlinks=False)

    def _make(self, name: bytes, below: int) -> None:
        with suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=below)
            self.own_link(name, below)

    def _pop(self, keep: int) -> None:
        for fd in self._fds[keep:]:
            os.close(fd)
        del self._fds[keep:], self._names[keep:]


def write_entry(
    walker: Walker, path: bytes, mode: int, chunks: Iterable[bytes]
) -> tuple[os.stat_result, bytes]:
    """Create a file or link at a free path; returns its facts and its first kilobyte."""
    below, name = walker.parent(path)
    head = b""
    if mode == MODE_LINK:
        head = b"".join(chunks)
        os.symlink(head, name, dir_fd=below)
        walker.own_link(name, below)
        return os.stat(name, dir_fd=below, follow_symlinks=False), b""
    fd = os.open(name, _NEW, 0o755 if mode == MODE_EXECUTABLE else 0o644, dir_fd=below)
    try:
        for chunk in chunks:
            head = head or chunk[:1024]
            view = memoryview(chunk)
            while view:
                view = view[os.write(fd, view) :]
        # The umask of the daemon must not decide whether a file is executable.
        os.fchmod(fd, 0o755 if mode == MODE_EXECUTABLE else 0o644)
        walker.own(fd)
        return os.fstat(fd), head
    finally:
        os.close(fd)


def remove_entry(name: Name, *, below: int, is_directory: bool) -> None:
    """Remove whatever is there; nothing happens if it is gone already."""
    if is_directory:
        remove_tree(name, below=below)
    else:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=below)


def remove_tree(name: Name, *, below: int | None = None) -> None:
    """Remove a directory with all it holds, however deep, without following a link.

    Nested directories are moved side by side into one heap first: depth then costs neither stack
    nor descriptors.
    """
    try:
        root = open_directory(name, below=below)
    except FileNotFoundError:
        return
    try:
        make_writable(root)
        heap_name = _free_name(root)
        os.mkdir(heap_name, 0o700, dir_fd=root)
        heap = open_directory(heap_name, below=root)
        try:
            number = _empty(root, heap, 0, spare=heap_name)
            done = 0
            while done < number:
                inner = open_directory(str(done), below=heap)
                try:
                    number = _empty(inner, heap, number, spare=None)
                finally:
                    os.close(inner)
                os.rmdir(str(done), dir_fd=heap)
                done += 1
        finally:
            os.close(heap)
        os.rmdir(heap_name, dir_fd=root)
    finally:
        os.close(root)
    os.rmdir(name, dir_fd=below)


def _empty(fd: int, heap: int, number: int, *, spare: str | None) -> int:
    make_writable(fd)
    with os.scandir(fd) as entries:
        found = [(e.name, e.is_dir(follow_symlinks=False)) for e in entries]
    for name, is_directory in found:
        if name == spare:
            continue
        if is_directory:
            # Moving a directory changes its "..", which asks for the right to write in it.
            with directory(name, below=fd) as inner:
                make_writable(inner)
            os.rename(name, str(number), src_dir_fd=fd, dst_dir_fd=heap)
            number += 1
        else:
            os.unlink(name, dir_fd=fd)
    return number


def _free_name(root: int) -> str:
    taken = set(os.listdir(root))
    number = 0
    while (name := f".removing-{number}") in taken:
        number += 1
    return name


def remove_path(path: str) -> None:
    """Remove a file, a link or a whole directory given by an absolute path of ours."""
    try:
        facts = os.lstat(path)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(facts.st_mode):
        remove_tree(path)
    else:
        os.unlink(path)


def copy_into(source: str, root: str, path: str) -> None:
    """A copy of a file, link or directory at `path` below `root`, in the place of what is there.

    With its modes and times; the sandbox that uses it makes its user the owner. What lies below
    `root` may be an agent's: nobody may write there meanwhile.

    Raises:
        WorkspaceError: a parent is a link or no directory: the copy would land somewhere else.
    """
    place = root
    for part in path.split("/")[:-1]:
        place = os.path.join(place, part)
        with suppress(FileExistsError):
            os.mkdir(place, 0o755)
        if not stat.S_ISDIR(os.lstat(place).st_mode):
            raise WorkspaceError(
                f"{os.path.relpath(place, root)!r} in the workspace is not a directory (any more), "
                f"and {path!r} of its environment belongs below it; make it a directory again"
            )
    target = os.path.join(root, path)
    remove_path(target)
    if os.path.isdir(source) and not os.path.islink(source):
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target, follow_symlinks=False)


def make_temporary(parent: str, prefix: str, *, mode: int) -> str:
    """A new directory below `parent`."""
    path = tempfile.mkdtemp(prefix=prefix, dir=parent)
    os.chmod(path, mode)
    return path


def too_deep(path: str) -> WorkspaceError:
    """What to raise beyond `DEPTH_MAX`."""
    return WorkspaceError(
        f"directories are nested more than {DEPTH_MAX} deep below {path[:200]!r}; remove them"
    )
