"""Giving a workspace to the sandbox's user."""

from __future__ import annotations

import os
import stat
from contextlib import suppress


def give(root: str, uid: int, gid: int) -> None:
    """Make `uid` the owner of a directory and everything in it that is safely the directory's own.

    Nothing is dereferenced: names are looked up in open directories and symbolic links are given,
    never followed. A file with several hard links may be somebody else's, elsewhere: it is left.
    """
    for _, directories, files, directory_fd in os.fwalk(root, follow_symlinks=False):
        _give_entry(".", directory_fd, uid, gid)
        for name in (*directories, *files):
            _give_entry(name, directory_fd, uid, gid)


def _give_entry(name: str, directory_fd: int, uid: int, gid: int) -> None:
    with suppress(FileNotFoundError):
        entry = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
        linked = entry.st_nlink > 1 and not stat.S_ISDIR(entry.st_mode)
        device = stat.S_ISBLK(entry.st_mode) or stat.S_ISCHR(entry.st_mode)
        if entry.st_uid != uid and not linked and not device:
            os.chown(name, uid, gid, dir_fd=directory_fd, follow_symlinks=False)
