"""Files that a task keeps beside its patch: found in its last tree, and written out of it.

Nothing is copied for them. A tree holds every file of the workspace, ignored ones too, under the
hash of its content and until retention (ADR 8), so that no link can lead a reader elsewhere and
nothing can change a file behind its hash.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import stat
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress

from agent_runtime.errors import Conflict, UsageError, WorkspaceError
from agent_runtime.ports.workspaces import ArtifactLimits, FoundFile, FoundFiles
from agent_runtime.protect import glob_regex
from agent_runtime.types import TreeId
from agent_runtime.workspaces.files import Walker, directory, open_file, write_entry
from agent_runtime.workspaces.git import Git
from agent_runtime.workspaces.objects import (
    CHUNK_BYTES,
    MODE_EXECUTABLE,
    MODE_FILE,
    MODE_LINK,
    Listing,
    shown,
)
from agent_runtime.workspaces.trees import Trees

LEFT_OUT_TOLD_MAX = 20
_GLOB = re.compile(r"[\\*?\[]")
_REGULAR = frozenset({MODE_FILE, MODE_EXECUTABLE})


def find(trees: Trees, tree: TreeId, patterns: Sequence[str], limits: ArtifactLimits) -> FoundFiles:
    """See `Workspaces.find`. Blocks."""
    listing = trees.listing(tree)
    meant = {pattern: matching(listing, pattern) for pattern in patterns}
    left_out: list[str] = []
    chosen: dict[str, bytes] = {}
    for path in sorted(set().union(*meant.values())):
        name = shown(path)
        if listing[path][0] not in _REGULAR:
            what = "a link" if listing[path][0] == MODE_LINK else "no regular file"
            left_out.append(f"{name}: {what}, and only files are kept")
        elif name in chosen:
            left_out.append(f"{name}: another file is spelled like it")
        else:
            chosen[name] = path
    sizes = _sizes(trees, [listing[path][1] for path in chosen.values()])
    kept: dict[str, bytes] = {}
    kept_bytes = 0
    for (name, path), size_bytes in zip(chosen.items(), sizes, strict=True):
        if len(kept) == limits.files:
            left_out.append(f"{name}: more than {limits.files} files (setting artifact_files)")
        elif kept_bytes + size_bytes > limits.bytes:
            left_out.append(
                f"{name}: {size_bytes:,} bytes, more than {limits.bytes:,} in all (setting "
                "artifact_bytes)"
            )
        else:
            kept[name] = path
            kept_bytes += size_bytes
    files = _hashed(trees, listing, kept)
    there = set(kept.values())
    return FoundFiles(
        files=files,
        missing=tuple(pattern for pattern, paths in meant.items() if there.isdisjoint(paths)),
        left_out=tuple(_few(left_out)),
    )


def matching(paths: Collection[bytes], pattern: str) -> set[bytes]:
    """Which of `paths` a glob means; one that names a directory means all that is in it."""
    if (plain := pattern.encode()) in paths and not _GLOB.search(pattern):
        return {plain}
    regex = glob_regex(posixpath.normpath(pattern))
    named: dict[bytes, bool] = {b"": False}

    def is_named(path: bytes, *, is_file: bool = False) -> bool:
        if path not in named:
            fits = regex.fullmatch(shown(path)) and not (is_file and pattern.endswith("/"))
            named[path] = bool(fits) or is_named(posixpath.dirname(path))
        return named[path]

    return {path for path in paths if is_named(path, is_file=True)}


def _sizes(trees: Trees, oids: Sequence[str]) -> list[int]:
    asked = "".join(f"{oid}\n" for oid in oids).encode()
    told = trees.store.run(["cat-file", "--batch-check=%(objectsize)"], stdin=asked).split()
    if len(told) != len(oids) or not all(map(bytes.isdigit, told)):
        raise WorkspaceError("a file of the last tree is missing from the runtime's private store")
    return [int(size) for size in told]


def _hashed(trees: Trees, listing: Listing, kept: dict[str, bytes]) -> tuple[FoundFile, ...]:
    files: list[FoundFile] = []
    names = list(kept)

    def take(index: int, chunks: Iterator[bytes]) -> None:
        digest, size_bytes = hashlib.sha256(), 0
        for chunk in chunks:
            digest.update(chunk)
            size_bytes += len(chunk)
        mode = listing[kept[names[index]]][0]
        files.append(
            FoundFile(
                path=names[index],
                bytes=size_bytes,
                sha256=digest.hexdigest(),
                executable=mode == MODE_EXECUTABLE,
            )
        )

    trees.store.blobs([listing[path][1] for path in kept.values()], take)
    return tuple(files)


def _few(lines: list[str]) -> list[str]:
    more = len(lines) - LEFT_OUT_TOLD_MAX
    return [*lines[:LEFT_OUT_TOLD_MAX], f"and {more} more"] if more > 0 else lines


# ---- not part of the patch ---------------------------------------------------------------


def without_ignored(
    trees: Trees, tree: TreeId, base: TreeId, patterns: Sequence[str], git: Git
) -> TreeId:
    """See `Workspaces.without_ignored`. Blocks.

    `.gitignore` files that the task has written decide nothing.
    """
    listing, before = trees.listing(tree), trees.listing(base)
    new = {path for path in listing if path not in before}
    meant = set().union(*(matching(new, pattern) for pattern in patterns))
    ignored = _ignored(trees, before, sorted(meant), git) if meant else set()
    if not ignored:
        return tree
    rest = {path: item for path, item in listing.items() if path not in ignored}
    return TreeId(trees.store.put_listing(rest))


def _ignored(trees: Trees, before: Listing, paths: Sequence[bytes], git: Git) -> set[bytes]:
    """Which of `paths` the `.gitignore` files of a tree name."""
    rules = [
        path
        for path, (mode, _) in before.items()
        if posixpath.basename(path) == b".gitignore" and mode in _REGULAR
    ]
    if not rules:
        return set()
    with tempfile.TemporaryDirectory(prefix="agent-runtime-ignore-") as place:
        with directory(place) as root, Walker(root, create=True) as walker:

            def take(index: int, chunks: Iterator[bytes]) -> None:
                write_entry(walker, rules[index], MODE_FILE, chunks)

            rules.sort()
            trees.store.blobs([before[path][1] for path in rules], take)
        # A private GIT_DIR: the only rules are those that lie in `place`.
        out = git.run(
            ["check-ignore", "--no-index", "-z", "--stdin"],
            git_dir=trees.store.path,
            work_tree=place,
            # It takes no literal pathspecs, and `./` keeps a colon from being read as magic.
            stdin=b"".join(b"./" + path + b"\0" for path in paths),
            env={"GIT_LITERAL_PATHSPECS": "0"},
            codes=(0, 1),
        )
    return {path.removeprefix(b"./") for path in out.split(b"\0")[:-1]}


# ---- writing them out --------------------------------------------------------------------


def take_out(trees: Trees, tree: TreeId, paths: Sequence[str], target: str) -> None:
    """See `Workspaces.take_out`. Blocks."""
    listing = trees.listing(tree)
    by_name = {shown(path): path for path in listing}
    wanted: list[bytes] = []
    for name in paths:
        path = by_name.get(name)
        if path is None or listing[path][0] not in _REGULAR:
            raise WorkspaceError(f"the last tree holds no file {name!r}")
        wanted.append(path)
    wanted.sort()
    place = os.path.realpath(target)
    try:
        os.makedirs(place, exist_ok=True)
        with directory(place) as root:
            there = _there(trees, listing, wanted, root, target)
            missing = [path for path in wanted if path not in there]
            with Walker(root, create=True) as walker:

                def take(index: int, chunks: Iterator[bytes]) -> None:
                    _write(walker, missing[index], listing[missing[index]][0], chunks)

                trees.store.blobs([listing[path][1] for path in missing], take)
    except OSError as error:
        raise UsageError(f"{target!r} cannot be written: {error.strerror}") from error


def _there(
    trees: Trees, listing: Listing, paths: Sequence[bytes], root: int, target: str
) -> set[bytes]:
    """Those that lie there already. `Conflict` if something else is in the place of one."""
    found = set()
    with Walker(root) as walker:
        for path in paths:
            try:
                below, name = walker.parent(path)
                facts = os.stat(name, dir_fd=below, follow_symlinks=False)
            except FileNotFoundError:
                continue
            except OSError:
                facts = None  # a file or a link where a directory must be
            if facts is not None and stat.S_ISREG(facts.st_mode):
                fd = open_file(name, below=below)
                try:
                    same = _git_id(fd, facts.st_size) == listing[path][1]
                finally:
                    os.close(fd)
                if same:
                    found.add(path)
                    continue
            raise Conflict(
                f"{shown(path)!r} is in {target!r} already, with another content; nothing was "
                "written: name another directory, or remove it"
            )
    return found


def _git_id(fd: int, size_bytes: int) -> str:
    digest = hashlib.sha1(b"blob %d\0" % size_bytes, usedforsecurity=False)
    while chunk := os.read(fd, CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def _write(walker: Walker, path: bytes, mode: int, chunks: Iterator[bytes]) -> None:
    """A whole file or none: it gets its name when all of it is there."""
    parent, name = posixpath.split(path)
    partial = posixpath.join(parent, b".%s.%d.part" % (name[:200], os.getpid()))
    below, partial_name = walker.parent(partial)
    try:
        write_entry(walker, partial, mode, chunks)
        os.rename(partial_name, name, src_dir_fd=below, dst_dir_fd=below)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial_name, dir_fd=below)
        raise
