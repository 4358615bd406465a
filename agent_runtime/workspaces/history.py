"""The commits that an agent made, kept from the end of a run until the task is continued.

Only object files that the clone did not have when it was opened, and only as files: no git is run
on what an agent may have written. With them the state of `.git` that belongs to the last tree (see
`trees`) is whole again; without them only files are brought back.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress

from agent_runtime.workspaces.files import (
    Walker,
    directory,
    make_temporary,
    open_file,
    remove_path,
    write_entry,
)
from agent_runtime.workspaces.git import write_atomically
from agent_runtime.workspaces.objects import CHUNK_BYTES, MODE_FILE

BYTES_MAX = 256 << 20
"""What is kept of one task: commits of a session, not a data set."""
FILES_MAX = 100_000

_KNOWN, _KEPT = "objects-at-open", "history"
_LOOSE = re.compile(r"[0-9a-f]{2}/[0-9a-f]{38}")
_PACKED = re.compile(r"pack/pack-[0-9a-f]{40}\.(pack|idx|rev)")


def remember(task_path: str, git_dir: str) -> None:
    """Note which objects a new clone came with."""
    names = (name for name, _ in _objects(git_dir))
    write_atomically(os.path.join(task_path, _KNOWN), "\n".join(names).encode())


def keep(task_path: str, git_dir: str) -> None:
    """Copy the other objects, all or none. What was kept before is replaced."""
    kept = os.path.join(task_path, _KEPT)
    # First: whatever fails below, those of an earlier run do not fit the state of this one.
    remove_path(kept)
    partial = make_temporary(task_path, "keeping-", mode=0o700)
    try:
        with open(os.path.join(task_path, _KNOWN), encoding="ascii") as file:
            known = set(file.read().split("\n"))
        new = sorted((name, size) for name, size in _objects(git_dir) if name not in known)
        if len(new) > FILES_MAX or sum(size for _, size in new) > BYTES_MAX:
            return
        _copy([name for name, _ in new], os.path.join(git_dir, "objects"), partial)
        os.rename(partial, kept)
    finally:
        remove_path(partial)


def bring_back(task_path: str, git_dir: str) -> bool:
    """Give the objects to a new clone. False if none were kept: its `.git` stays as it is."""
    kept = os.path.join(task_path, _KEPT)
    if not os.path.isdir(kept):
        return False
    with suppress(FileNotFoundError):
        names = sorted(
            f"{below}/{name}" for below in os.listdir(kept)
            for name in os.listdir(os.path.join(kept, below))
        )  # fmt: skip
        _copy(names, kept, os.path.join(git_dir, "objects"))
    return True


def take_over(task_path: str, other_path: str, other_git_dir: str) -> None:
    """Keep for a new task the commits that another one has: those of its clone, if that is open."""
    with suppress(FileNotFoundError):
        with open(os.path.join(other_path, _KNOWN), "rb") as file:
            write_atomically(os.path.join(task_path, _KNOWN), file.read())
        if os.path.isdir(other_git_dir):
            keep(task_path, other_git_dir)
            return
    kept = os.path.join(other_path, _KEPT)
    if os.path.isdir(kept):
        remove_path(os.path.join(task_path, _KEPT))
        shutil.copytree(kept, os.path.join(task_path, _KEPT), symlinks=True)


def _objects(git_dir: str) -> Iterator[tuple[str, int]]:
    """Name and bytes of every object file; links and whatever else lies there are passed over."""
    with directory(os.path.join(git_dir, "objects")) as root:
        for below in os.listdir(root):
            if not re.fullmatch("[0-9a-f]{2}|pack", below):
                continue
            with suppress(OSError), directory(below, below=root) as fd, os.scandir(fd) as entries:
                for entry in entries:
                    name = f"{below}/{entry.name}"
                    if _LOOSE.fullmatch(name) or _PACKED.fullmatch(name):
                        facts = entry.stat(follow_symlinks=False)
                        if stat.S_ISREG(facts.st_mode):
                            yield name, facts.st_size


def _copy(names: list[str], source: str, target: str) -> None:
    with (
        directory(source) as from_root,
        directory(target) as to_root,
        Walker(from_root) as reader,
        Walker(to_root, create=True) as writer,
    ):
        for name in names:
            below, last = reader.parent(name.encode())
            with suppress(FileExistsError):
                write_entry(writer, name.encode(), MODE_FILE, _chunks(open_file(last, below=below)))


def _chunks(fd: int) -> Iterator[bytes]:
    try:
        while chunk := os.read(fd, CHUNK_BYTES):
            yield chunk
    finally:
        os.close(fd)
