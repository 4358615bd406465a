"""The versions of one workspace: trees of its files, and beside each the state of its `.git`.

A `TreeId` is about content alone, so that the log's tree can be compared with the disk's. But a
commit changes only `.git`, and an interrupted commit must be rolled back too. So `snapshot` also
keeps, under the tree's id, the last *state*: every file of `.git` but the objects (those are only
ever added) and git's lock files, and the names of empty directories. `restore` puts it back.

A nested repository's files belong to the tree; its own `.git` neither to the tree nor to the state.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress

from agent_runtime.errors import WorkspaceError
from agent_runtime.ports.workspaces import Change
from agent_runtime.types import TreeId
from agent_runtime.workspaces.files import directory, remove_entry
from agent_runtime.workspaces.git import Git, write_atomically
from agent_runtime.workspaces.objects import (
    EMPTY_TREE,
    MODE_EXECUTABLE,
    MODE_FILE,
    MODE_LINK,
    MODE_TREE,
    Listing,
    ObjectStore,
    Oid,
    shown,
    tree_entry,
)
from agent_runtime.workspaces.scan import Node, Scan
from agent_runtime.workspaces.write import is_directory, write_listing

PATCH_BYTES_MAX = 256 << 20
"""It passes through memory and lies in the store: a result, not a data set."""
PACK_BYTES_MAX = 768 << 20
"""Likewise: all files of a repository at two or three moments."""
PATHS_BYTES_MAX = 64 << 20
"""Of one tree that comes from elsewhere: some million files."""
_FORBIDDEN = frozenset({b"", b".", b"..", b".git"})
"""No part of a path that `snapshot` makes."""
_MODES = frozenset({MODE_FILE, MODE_EXECUTABLE, MODE_LINK})
_NAMED_MAX = 3
_STATE_LEFT_OUT = frozenset({"objects"})


class Trees:
    """The private store of one task and what is known about its directory. Every method blocks."""

    def __init__(self, path: str, git: Git) -> None:
        self.store = ObjectStore(os.path.join(path, "store"), git)
        self._states = os.path.join(path, "states")
        self._files: Node | None = None
        self._git_files: Node | None = None
        self._state_of: dict[str, str] = {}
        self._resumed = True
        self.omit: frozenset[str] = frozenset()
        """See `Scan.omit`: what belongs to the environment."""

    def create(self) -> None:
        """Make the store if it is not there."""
        self.store.create()
        os.makedirs(self._states, mode=0o700, exist_ok=True)

    def exists(self) -> bool:
        """False once forgotten, or never opened."""
        return self.store.exists()

    # -- versions --

    def snapshot(self, work: str, *, with_git: bool) -> TreeId:
        """The tree of `work` now; `with_git` keeps the state of its `.git` beside it."""
        with directory(work) as root:
            self._files = self._scan_files().run(root, self._files)
            tree = self._files.tree_hex
            if with_git:
                self._save_state(root, tree)
        return TreeId(tree)

    def restore(self, work: str, tree: TreeId, *, with_git: bool = True) -> None:
        """Make `work` equal to `tree`, and its `.git` as it was when `tree` was last taken."""
        self._need(tree)
        state = self._load_state(tree)
        with directory(work) as root:
            empty = self.store.blob(state["empty"]).split(b"\0") if "empty" in state else []
            if self._files is None:
                self._files = self._scan_files().run(root, None)
            else:
                self._files = self._scan_files().run(root, self._files)
            wanted = {path for path in empty if path}
            specials = self._files.special_paths()
            if (
                self._files.tree_hex != tree
                or set(self._files.empty_directories()) != wanted
                or specials
            ):
                self._files, _ = write_listing(
                    self.store,
                    root,
                    self.store.listing(tree),
                    directories=wanted,
                    now=self._files,
                    scan=self._scan_files(),
                )
            if self._files.tree_hex != tree:
                raise WorkspaceError(
                    f"the workspace {work!r} could not be made equal to tree {tree}; it is"
                    f" {self._files.tree_hex}: does something else write there?"
                )
            if with_git and "git" in state:
                self._restore_git(root, state["git"])
        self._resumed = False

    def take_over(self, other: Trees) -> None:
        """Have every version that `other` has, the state of `.git` beside each included.

        Objects are shared where the file system can: they are never written again. Whatever is
        added there meanwhile belongs to versions that nobody has asked for yet.
        """
        self.create()
        # First the states: what they name is there already.
        for name in os.listdir(other._states):
            with suppress(FileNotFoundError), open(os.path.join(other._states, name), "rb") as file:
                write_atomically(self._state_path(name), file.read())
        self.store.take_over(other.store)

    def require(self, *trees: TreeId) -> None:
        """`WorkspaceError` if one of them is not kept here."""
        self._need(*trees)

    def adopt(self, files: Node) -> None:
        """Take over what is known about a directory that was just written."""
        self._files = files

    def fresh(self) -> None:
        """From here on the directory is a new one: its first snapshot keeps its state."""
        self._resumed = False
        self._state_of.clear()

    def specials(self) -> list[str]:
        """Pipes, sockets and devices that the last snapshot left out."""
        return [shown(path) for path in self._files.special_paths()] if self._files else []

    # -- comparing --

    def changes(self, before: TreeId, after: TreeId) -> list[Change]:
        """What differs, sorted by path."""
        if before == after:
            return []
        self._need(before, after)
        out = self.store.run(["diff-tree", "-r", "-z", "--no-renames", before, after])
        fields = out.split(b"\0")[:-1]
        found = [
            Change(shown(path), facts.rsplit(b" ", 1)[1][:1].decode())
            for facts, path in zip(fields[::2], fields[1::2], strict=True)
        ]
        return sorted(found, key=lambda change: change.path)

    def patch(self, before: TreeId, after: TreeId) -> bytes:
        """A patch with whole object names and binary content, for `git apply`.

        Raises:
            WorkspaceError: it is larger than `PATCH_BYTES_MAX`; names the largest files.
        """
        if before == after:
            return b""
        self._need(before, after)
        made = self.store.run_capped(
            ["diff-tree", "-r", "-p", "--binary", "--full-index", "--no-renames", "--no-color",
             "--no-ext-diff", "--no-textconv", "--unified=3", before, after],
            bytes_max=PATCH_BYTES_MAX,
        )  # fmt: skip
        if made is None:
            raise WorkspaceError(
                f"patch_too_large: the changes make a patch of more than {PATCH_BYTES_MAX:,} bytes;"
                f" the largest files: {self._largest(before, after)}; remove what is no result, or"
                " let it be written outside of the repository"
            )
        return made

    def pack(self, trees: Sequence[TreeId]) -> bytes:
        """These trees with all their files as one git pack.

        Raises:
            WorkspaceError: one is unknown, or they need more than `PACK_BYTES_MAX`.
        """
        self._need(*trees)
        made = self.store.run_capped(
            ["pack-objects", "--revs", "--stdout", "-q"],
            bytes_max=PACK_BYTES_MAX,
            stdin="".join(f"{tree}\n" for tree in trees).encode(),
        )
        if made is None:
            raise WorkspaceError(
                f"the versions of the workspace need more than {PACK_BYTES_MAX:,} bytes as one file"
            )
        return made

    def unpack(self, trees: Sequence[TreeId], packed: bytes) -> None:
        """Add what `pack` made to the store, which is created if need be. Safe to repeat.

        Every object is named by its content, so none can take the place of another one.

        Raises:
            WorkspaceError: it is no pack, one of `trees` is not whole, or a path of one is none
                that a workspace can have.
        """
        self.create()
        size = f"--max-input-size={PACK_BYTES_MAX}"
        ok, _, said = self.store.succeeds(["index-pack", "--stdin", size], stdin=packed)
        if not ok:
            raise WorkspaceError(f"the versions of the workspace cannot be read: {said[-500:]}")
        for tree in trees:
            # Deeper than a tree: every object that it needs must be there.
            ok, _, said = self.store.succeeds(
                ["rev-list", "--objects", "--quiet", "--end-of-options", tree]
            )
            if not ok or not self.store.has_tree(tree):
                raise WorkspaceError(f"tree {tree!r} is not whole: {said[-500:]}")
            # A few small trees that name each other can stand for 10^10 paths.
            names = ["ls-tree", "-r", "-z", "--name-only", "--full-tree", tree]
            if self.store.run_capped(names, bytes_max=PATHS_BYTES_MAX) is None:
                raise WorkspaceError(
                    f"tree {tree!r} has paths of more than {PATHS_BYTES_MAX:,} bytes"
                )
            if strange := _strange_path(self.store.listing(tree)):
                raise WorkspaceError(f"tree {tree!r} has no workspace's file: {shown(strange)!r}")

    def _largest(self, before: TreeId, after: TreeId) -> str:
        out = self.store.run(["diff-tree", "-r", "-z", "--no-renames", before, after])
        fields = out.split(b"\0")[:-1]
        ids = [facts.split(b" ")[2:4] for facts in fields[::2]]
        asked = b"".join(oid + b"\n" for pair in ids for oid in pair)
        told = self.store.run(["cat-file", "--batch-check=%(objectsize)"], stdin=asked).splitlines()
        # What there is on one side only is "missing" on the other.
        sizes = [int(line) if line.isdigit() else 0 for line in told]
        largest = sorted(
            ((max(pair), path) for *pair, path in zip(sizes[::2], sizes[1::2], fields[1::2],
                                                      strict=True)),
            reverse=True,
        )  # fmt: skip
        return ", ".join(f"{shown(path)!r} ({size:,} bytes)" for size, path in largest[:_NAMED_MAX])

    def listing(self, tree: TreeId) -> Listing:
        """Every file and link of a tree."""
        self._need(tree)
        return self.store.listing(tree)

    def contents(self, tree: TreeId, paths: Sequence[str]) -> dict[str, bytes | None]:
        """What the paths hold that `changes` spells so; None for what is no regular file."""
        wanted = set(paths)
        found: dict[str, list[str]] = {}
        for path, (mode, oid) in self.listing(tree).items():
            if (spelled := shown(path)) in wanted:
                found.setdefault(spelled, []).append("" if mode == MODE_LINK else oid)
        # A path that is not UTF-8 may be spelled as another one is: then nobody knows which.
        oids = {path: each[0] for path, each in found.items() if len(each) == 1 and each[0]}
        held: dict[str, bytes | None] = dict.fromkeys(paths)
        names = list(oids)

        def take(index: int, chunks: Iterator[bytes]) -> None:
            held[names[index]] = b"".join(chunks)

        self.store.blobs(list(oids.values()), take)
        return held

    def _need(self, *trees: TreeId) -> None:
        for tree in trees:
            if len(tree) != 40 or not self.exists() or not self.store.has_tree(tree):
                raise WorkspaceError(f"tree {tree!r} is not one that was recorded for this task")

    # -- state --

    def _save_state(self, root: int, tree: str) -> None:
        assert self._files is not None
        parts: list[tuple[bytes, bytes]] = []
        if is_directory(".git", below=root):
            with directory(".git", below=root) as git_fd:
                self._git_files = self._scan_git().run(git_fd, self._git_files)
            oid = self._git_files.tree or bytes.fromhex(EMPTY_TREE)
            parts.append((b"git", tree_entry(MODE_TREE, b"git", oid)))
        if empty := self._files.empty_directories():
            oid = self.store.put(b"blob", b"\0".join(empty))
            parts.append((b"empty", tree_entry(MODE_FILE, b"empty", oid)))
        state = self.store.put(b"tree", b"".join(data for _, data in sorted(parts))).hex()
        resumed, self._resumed = self._resumed, False
        if self._state_of.get(tree) == state:
            return
        # After a restart somebody may look before rolling back: that look must not overwrite the
        # state to roll back to.
        if not (resumed and os.path.exists(self._state_path(tree))):
            write_atomically(self._state_path(tree), state.encode())
            self._state_of[tree] = state

    def _load_state(self, tree: str) -> dict[str, str]:
        """Name -> object of what was kept beside a tree; empty if the tree came from elsewhere."""
        with suppress(FileNotFoundError), open(self._state_path(tree), "rb") as file:
            out = self.store.run(["ls-tree", "-z", "--full-tree", file.read().decode()])
            records = [record.split(b"\t", 1) for record in out.split(b"\0")[:-1]]
            return {name.decode(): facts.split(b" ")[2].decode() for facts, name in records}
        return {}

    def _restore_git(self, root: int, state: str) -> None:
        if not is_directory(".git", below=root):
            remove_entry(".git", below=root, is_directory=False)
            os.mkdir(".git", 0o755, dir_fd=root)
            self._git_files = None
        with directory(".git", below=root) as git_fd:
            self._git_files = self._scan_git().run(git_fd, self._git_files)
            remove_locks(git_fd)
            if self._git_files.tree_hex != state:
                self._git_files, _ = write_listing(
                    self.store,
                    git_fd,
                    self.store.listing(state),
                    directories=(b"refs/heads", b"refs/tags"),
                    now=self._git_files,
                    scan=self._scan_git(),
                )

    def _state_path(self, tree: str) -> str:
        return os.path.join(self._states, tree)

    def _scan_files(self) -> Scan:
        known: set[Oid] = self.store.known() if self._files is None else set()
        return Scan(self.store, known=known, omit=self.omit)

    def _scan_git(self) -> Scan:
        return Scan(self.store, left_out=_STATE_LEFT_OUT, left_out_below=frozenset(), locks=False)


def _strange_path(listing: Listing) -> bytes | None:
    """A path that no scan of a directory gives, such as one below a link."""
    for path, (mode, _) in listing.items():
        parts = path.split(b"/")
        parents = (b"/".join(parts[:depth]) for depth in range(1, len(parts)))
        if (
            mode not in _MODES
            or not _FORBIDDEN.isdisjoint(parts)
            or any(parent in listing for parent in parents)
        ):
            return path
    return None


def remove_locks(git_fd: int) -> None:
    """Remove what a killed git left behind. Only while no sandbox of the workspace lives."""
    _remove_locks(git_fd, 0)


def _remove_locks(fd: int, depth: int) -> None:
    with os.scandir(fd) as entries:
        found = [(e.name, e.is_dir(follow_symlinks=False)) for e in entries]
    for name, is_dir in found:
        if is_dir and depth < 20 and not (depth == 0 and name == "objects"):
            with directory(name, below=fd) as inner:
                _remove_locks(inner, depth + 1)
        elif not is_dir and name.endswith(".lock"):
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=fd)
