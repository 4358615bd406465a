"""The clean checkout that checks run on: what the task hands over, protected files restored."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from agent_runtime import protect
from agent_runtime.errors import WorkspaceError
from agent_runtime.ports.workspaces import DiskQuota
from agent_runtime.types import TreeId
from agent_runtime.workspaces import quota
from agent_runtime.workspaces.files import directory, make_temporary, remove_path
from agent_runtime.workspaces.objects import Listing, shown
from agent_runtime.workspaces.scan import Scan
from agent_runtime.workspaces.trees import Trees
from agent_runtime.workspaces.write import write_listing


def export_tree(
    trees: Trees,
    exports: str,
    *,
    tree: TreeId,
    base: TreeId,
    protected: Sequence[str],
    disk: DiskQuota | None = None,
) -> tuple[str, TreeId]:
    """Write a clean checkout below `exports`; returns it and the tree read back from it. Blocks.

    With `disk` it gets a disk of its own; `remove_export` takes both away.
    """
    listing = trees.listing(tree)
    if tree != base:
        before = trees.listing(base)
        listing = with_protected(without_new_caches(listing, before), before, protected)
    os.makedirs(exports, mode=0o711, exist_ok=True)
    path = make_temporary(exports, "", mode=0o755)
    try:
        if disk is not None:
            quota.make(path, disk)
            os.chmod(path, 0o755)
        with directory(path) as root:
            write_listing(trees.store, root, listing, now=None, scan=Scan(trees.store))
            # Read back with nothing remembered: the certificate speaks of what lies on the disk.
            known = {bytes.fromhex(oid) for _, oid in listing.values()}
            held = Scan(trees.store, known=known).run(root, None)
    except BaseException as error:
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC and quota.is_used_up(path)
        said = quota.full(path) if full else ""
        remove_export(path)
        if said:
            raise WorkspaceError(f"a checkout for a check does not fit: {said}") from error
        raise
    return path, TreeId(held.tree_hex)


def remove_export(path: str) -> None:
    """Remove a checkout and its disk. Safe to repeat. Blocks."""
    if quota.exists(path):
        quota.remove(path)
    remove_path(path)


def without_new_caches(tree: Listing, base: Listing) -> Listing:
    """`tree` without what test runners and linters left: nobody wants that in a patch."""
    return {
        path: item
        for path, item in tree.items()
        if path in base or not protect.is_cache(shown(path))
    }


def with_protected(tree: Listing, base: Listing, protected: Sequence[str]) -> Listing:
    """`tree` with the protected paths of `base` and no protected path of its own."""
    # Only what differs is matched: 10,000 paths times all patterns would take a second.
    differing = [p for p in tree.keys() | base.keys() if tree.get(p) != base.get(p)]
    changed = {path for path in differing if is_protected(path, protected)}
    restored = {path: base[path] for path in changed if path in base}
    # A protected file may have been replaced by a directory, or its directory by a file or link.
    above = {path[:cut] for path in restored for cut in _slashes(path)}
    return {
        path: item
        for path, item in tree.items()
        if path not in changed
        and path not in above
        and not any(path[:cut] in restored for cut in _slashes(path))
    } | restored


def is_protected(path: bytes, patterns: Sequence[str]) -> bool:
    """Does a protected pattern match?"""
    return protect.matches(shown(path), patterns) is not None


def _slashes(path: bytes) -> list[int]:
    return [index for index, byte in enumerate(path) if byte == 0x2F]
