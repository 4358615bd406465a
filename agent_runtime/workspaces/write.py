"""From a tree to a directory: make what lies on disk equal to a listing, and touch nothing else.

Used for a rollback, for the first checkout of a clone and for exports. Unchanged files keep their
stamps; nothing is ever written through a link; no filter or line-ending rule applies.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Sequence

from agent_runtime.workspaces.files import (
    Walker,
    directory,
    make_writable,
    remove_entry,
    write_entry,
)
from agent_runtime.workspaces.objects import (
    MODE_SUBMODULE,
    Listing,
    ObjectStore,
)
from agent_runtime.workspaces.scan import Entry, Node, Scan, signature_of

LFS_HEAD = b"version https://git-lfs.github.com/spec/v1\n"


def write_listing(
    store: ObjectStore,
    root: int,
    listing: Listing,
    *,
    directories: Collection[bytes] = (),
    now: Node | None,
    scan: Scan,
) -> tuple[Node, list[bytes]]:
    """Make the open directory `root` equal to `listing` plus the empty `directories`.

    `now` is what a scan found there (None: it is empty). Nobody else may write meanwhile. Returns
    what the directory holds afterwards, and which written files are Git LFS pointers.
    """
    files = {path: item for path, item in listing.items() if item[0] != MODE_SUBMODULE}
    wanted = set(directories) | {path for path in listing if path not in files}
    known = now if now is not None else Node()
    same = {path for path, item in known.listing().items() if files.get(path) == item}
    if now is not None:
        parents = _with_parents([*files, *wanted], wanted)
        _remove_others(root, b"", same, parents, scan, 0)
    missing = sorted(path for path in files if path not in same)
    pointers: list[bytes] = []
    with Walker(root, create=True) as walker:

        def take(index: int, chunks: Iterator[bytes]) -> None:
            path = missing[index]
            mode, oid = files[path]
            facts, head = write_entry(walker, path, mode, chunks)
            known.insert(path, Entry(signature_of(facts), False, mode, bytes.fromhex(oid)))
            if facts.st_size < 1024 and head.startswith(LFS_HEAD):
                pointers.append(path)

        store.blobs([files[path][1] for path in missing], take)
        for path in sorted(wanted):
            walker.enter(path.split(b"/"))
    scan.quiet = True
    return scan.run(root, known), pointers


def _with_parents(paths: Sequence[bytes], directories: Collection[bytes]) -> set[bytes]:
    """Every directory that must stay."""
    parents = set(directories)
    for path in paths:
        while (cut := path.rfind(b"/")) > 0:
            path = path[:cut]
            if path in parents:
                break
            parents.add(path)
    return parents


def _remove_others(
    fd: int, prefix: bytes, same: set[bytes], parents: set[bytes], scan: Scan, depth: int
) -> None:
    left_out = scan.left_out_below if depth else scan.left_out
    with os.scandir(fd) as entries:
        found = [(e.name, e.is_dir(follow_symlinks=False)) for e in entries]
    others: list[tuple[str, bool]] = []
    for name, is_directory in found:
        if name in left_out:
            continue
        path = prefix + os.fsencode(name)
        if scan.omit and f"/{os.fsdecode(path)}" in scan.omit:
            continue
        if is_directory and path in parents:
            with directory(name, below=fd) as inner:
                # A file in a read-only directory could be neither removed nor written.
                make_writable(inner)
                _remove_others(inner, path + b"/", same, parents, scan, depth + 1)
        elif is_directory or path not in same:
            others.append((name, is_directory))
    if others:
        make_writable(fd)
    for name, is_directory in others:
        remove_entry(name, below=fd, is_directory=is_directory)


def is_directory(name: str, *, below: int) -> bool:
    """Is there a real directory of that name?"""
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=below, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False
