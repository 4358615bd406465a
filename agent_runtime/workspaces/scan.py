"""From a directory to a tree: what is there now, hashed raw, unchanged files from memory.

This is not `git add`: git stores a nested repository as a link to a commit (its files would be
hidden from the proof), refuses some names, and asks the repository's attributes. Here a tree is
path, type, executable bit and raw bytes of everything but `.git`, at any depth. Empty directories
and pipes, sockets and devices are not part of a tree; they are remembered beside it.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from agent_runtime.workspaces.files import (
    DEPTH_MAX,
    open_directory,
    open_file,
    too_deep,
)
from agent_runtime.workspaces.objects import (
    EMPTY_TREE,
    MODE_EXECUTABLE,
    MODE_FILE,
    MODE_LINK,
    MODE_TREE,
    Listing,
    ObjectStore,
    Oid,
    tree_entry,
)

_RACY_NS = 20_000_000
"""Linux stamps files by a clock that ticks every 1 to 10 ms: two writes in a tick look alike."""

_REPLACED = (errno.ELOOP, errno.EINVAL, errno.ENXIO, errno.ENOTDIR, errno.EISDIR)
"""Something else took the place of a file between listing and opening it."""

Signature = tuple[int, int, int, int, int]
"""mtime, ctime, size, inode, mode: if none of them moved, the bytes are the same."""


@dataclass(slots=True)
class Entry:
    """A file or link as it was hashed. Not `settled`: changed too lately to believe its stamp."""

    signature: Signature
    settled: bool
    mode: int
    oid: Oid


@dataclass(slots=True)
class Node:
    """A directory as it was scanned. `tree` is None when it holds nothing that counts."""

    files: dict[str, Entry] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    specials: tuple[str, ...] = ()
    tree: Oid | None = None

    @property
    def tree_hex(self) -> str:
        """The id of the whole tree, for a root."""
        return self.tree.hex() if self.tree is not None else EMPTY_TREE

    def listing(self) -> Listing:
        """Every file and link."""
        return dict(self._listed(b""))

    def empty_directories(self) -> list[bytes]:
        """Directories below this one that hold nothing that counts, parents left out."""
        return sorted(self._empty(b""))

    def special_paths(self) -> list[bytes]:
        """Pipes, sockets and devices, which no tree can hold."""
        return sorted(self._special(b""))

    def insert(self, path: bytes, entry: Entry) -> None:
        """Remember an entry that we wrote ourselves, so that the next scan need not read it."""
        *parents, name = path.split(b"/")
        node = self
        for parent in parents:
            node = node.nodes.setdefault(os.fsdecode(parent), Node())
            node.tree = None
        self.tree = None
        node.files[os.fsdecode(name)] = entry

    def _listed(self, prefix: bytes) -> Iterator[tuple[bytes, tuple[int, str]]]:
        for name, entry in self.files.items():
            yield prefix + os.fsencode(name), (entry.mode, entry.oid.hex())
        for name, node in self.nodes.items():
            yield from node._listed(prefix + os.fsencode(name) + b"/")

    def _empty(self, prefix: bytes) -> Iterator[bytes]:
        for name, node in self.nodes.items():
            path = prefix + os.fsencode(name)
            if not node.files and not node.nodes:
                yield path
            yield from node._empty(path + b"/")

    def _special(self, prefix: bytes) -> Iterator[bytes]:
        for name in self.specials:
            yield prefix + os.fsencode(name)
        for name, node in self.nodes.items():
            yield from node._special(prefix + os.fsencode(name) + b"/")


def signature_of(facts: os.stat_result) -> Signature:
    """What must not have moved for a file to be the same."""
    return (facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size, facts.st_ino, facts.st_mode)


@dataclass(slots=True)
class Scan:
    """One pass over a directory.

    `left_out` names what is not looked at in the root, `left_out_below` deeper down; `locks=False`
    skips git's lock files. `quiet` says that nobody else can have written since `cached` was made,
    so that its stamps are believed however young. `known` are objects that need no writing.
    """

    store: ObjectStore
    left_out: frozenset[str] = frozenset({".git"})
    left_out_below: frozenset[str] = frozenset({".git"})
    locks: bool = True
    quiet: bool = False
    known: frozenset[Oid] | set[Oid] = frozenset()
    omit: frozenset[str] = frozenset()
    """Paths with a slash at the front that are not looked at, nor anything below them."""
    _clock_ns: int = 0

    def run(self, root: int, cached: Node | None) -> Node:
        """Scan the open directory `root`. `WorkspaceError` if it is too deep or never at rest."""
        # An entry is settled when its stamp is older than a moment at which we had not yet read it:
        # whatever is written after our reading gets a younger stamp.
        self._clock_ns = time.time_ns() - _RACY_NS
        return self._directory(root, cached, "", 0)

    def _directory(self, fd: int, cached: Node | None, path: str, depth: int) -> Node:
        if depth > DEPTH_MAX:
            raise too_deep(path)
        left_out = self.left_out_below if depth else self.left_out
        old_files = cached.files if cached is not None else {}
        files: dict[str, Entry] = {}
        directories: list[str] = []
        specials: list[str] = []
        changed = False
        quiet = self.quiet
        with os.scandir(fd) as entries:
            for item in entries:
                name = item.name
                if name in left_out or (not self.locks and name.endswith(".lock")):
                    continue
                if self.omit and f"{path}/{name}" in self.omit:
                    continue
                try:
                    facts = item.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                mode = facts.st_mode
                kind = mode & 0o170000
                if kind == stat.S_IFDIR:
                    directories.append(name)
                    continue
                if kind != stat.S_IFREG and kind != stat.S_IFLNK:
                    specials.append(name)
                    continue
                old = old_files.get(name)
                if (
                    old is not None
                    and (old.settled or quiet)
                    and old.signature
                    == (facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size, facts.st_ino, mode)
                ):
                    if not old.settled and facts.st_ctime_ns < self._clock_ns:
                        old.settled = True
                    files[name] = old
                    continue
                new = self._read(fd, name, facts)
                if new is None:
                    continue
                if old is None or (old.oid, old.mode) != (new.oid, new.mode):
                    changed = True
                files[name] = new
        node = Node(files=files, specials=tuple(specials))
        old_nodes = cached.nodes if cached is not None else {}
        for name in directories:
            old_node = old_nodes.get(name)
            try:
                below = open_directory(name, below=fd)
            except (FileNotFoundError, NotADirectoryError):
                continue  # it vanished, or something else took its place: next time
            try:
                child = self._directory(below, old_node, f"{path}/{name}", depth + 1)
            finally:
                os.close(below)
            node.nodes[name] = child
            changed |= old_node is None or old_node.tree != child.tree
        if (
            cached is not None
            and not changed
            and cached.tree is not None
            and len(files) == len(old_files)
            and len(node.nodes) == len(old_nodes)
        ):
            node.tree = cached.tree
        else:
            node.tree = self._write_tree(node)
        return node

    def _read(self, below: int, name: str, facts: os.stat_result) -> Entry | None:
        """None if the file has vanished meanwhile: then it is not there."""
        try:
            if stat.S_ISLNK(facts.st_mode):
                target = os.readlink(os.fsencode(name), dir_fd=below)
                oid, mode = self.store.put(b"blob", target), MODE_LINK
                after = os.stat(name, dir_fd=below, follow_symlinks=False)
            else:
                fd = open_file(name, below=below)
                try:
                    before = os.fstat(fd)
                    if not stat.S_ISREG(before.st_mode):
                        return None
                    oid = self.store.put_file(fd, self.known)
                    after = os.fstat(fd)
                    mode = MODE_EXECUTABLE if after.st_mode & 0o100 else MODE_FILE
                finally:
                    os.close(fd)
                if signature_of(before) != signature_of(after):
                    return Entry(signature_of(after), False, mode, oid)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in _REPLACED:
                return None
            raise
        settled = after.st_ctime_ns < self._clock_ns
        return Entry(signature_of(after), settled, mode, oid)

    def _write_tree(self, node: Node) -> Oid | None:
        items = [
            (name, tree_entry(entry.mode, name, entry.oid))
            for name, entry in ((os.fsencode(n), e) for n, e in node.files.items())
        ]
        # Git sorts a directory as if its name ended with a slash.
        items += [
            (name + b"/", tree_entry(MODE_TREE, name, tree))
            for name, tree in ((os.fsencode(n), c.tree) for n, c in node.nodes.items())
            if tree is not None
        ]
        if not items:
            return None
        items.sort()
        return self.store.put(b"tree", b"".join(data for _, data in items), self.known)
