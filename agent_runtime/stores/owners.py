"""Who is alive: each open store locks a file of its own, and the kernel frees it when it dies.

A lease names such a file. It is dead exactly when that lock can be taken: no time-to-live, so
neither a slow disk nor a sleeping laptop loses a lease, and no clock is compared. A file that is
gone counts as free. The lock is `flock`: it belongs to the open file, so that two stores in one
process are two owners. What is written in the file is for people only.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import uuid
from pathlib import Path

from agent_runtime.errors import ConfigError, StoreUnavailable

_LOCKED = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})


class Owners:
    """The owners' directory beside a store, with one locked file for this store."""

    def __init__(self, directory: Path) -> None:
        """Make and lock a file in `directory`, and remove those of the dead.

        Raises:
            ConfigError: the directory cannot be written, or locks do not work there.
            StoreUnavailable: there is no room for the file.
        """
        _require_flock()
        self._directory = directory
        self.name = f"pid {os.getpid()} on {socket.gethostname()}"
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            self.owner_id, self._fd = self._make()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreUnavailable(
                    f"no room in {str(directory)!r} ({error.strerror}): free some and try again"
                ) from error
            raise ConfigError(
                f"cannot write {str(directory)!r}: {error.strerror};"
                " put the store where this user may write (--store)"
            ) from error
        try:
            self._require_locks()
        except ConfigError:
            self.close()
            raise
        for name in os.listdir(directory):
            self.is_alive(name)

    def _make(self) -> tuple[str, int]:
        while True:
            owner_id = uuid.uuid4().hex
            path = self._directory / owner_id
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                # Before it is locked, another process may take this file for a dead one's.
                if _try_lock(fd, path, exclusive=True) and os.fstat(fd).st_nlink:
                    os.write(fd, json.dumps(_about_this_process()).encode())
                    return owner_id, fd
            except BaseException:
                path.unlink(missing_ok=True)
                os.close(fd)
                raise
            os.close(fd)

    def _require_locks(self) -> None:
        path = self._directory / self.owner_id
        _require_record_locks(self._fd, path)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _try_lock(fd, path, exclusive=False):
                raise _no_locks(path, "a second lock on one file was granted")
        finally:
            os.close(fd)

    def is_alive(self, owner_id: str) -> bool:
        """Whether that store is still open. Removes the file of a dead one."""
        if owner_id == self.owner_id:
            return True
        path = self._directory / owner_id
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError:
            # Another user's file: its lock cannot be taken, so it is not known to be dead.
            return True
        try:
            # Shared: two processes that look at the same moment must not see each other as it.
            if not _try_lock(fd, path, exclusive=False):
                return True
            # Unlinked under the lock; a file that is gone says the same as one that is free.
            path.unlink(missing_ok=True)
            return False
        finally:
            os.close(fd)

    def describe(self, owner_id: str) -> str:
        """Who that is, for people."""
        try:
            about = json.loads((self._directory / owner_id).read_text(encoding="utf-8"))
            return f"pid {about['pid']} on {about['host']}"
        except (OSError, ValueError, KeyError):
            return "a process that cannot be named"

    def close(self) -> None:
        """Every lease of this store is dead from here on. Safe to call twice."""
        if self._fd >= 0:
            (self._directory / self.owner_id).unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1


def _require_flock() -> None:
    try:
        import fcntl  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise ConfigError(
            f"the SQLite store needs flock, which {sys.platform} does not have: run it on Linux or "
            "macOS, on Windows under WSL"
        ) from error


def _try_lock(fd: int, path: Path, *, exclusive: bool) -> bool:
    # Imported here: Windows has none, and everything that needs no store must import there.
    import fcntl

    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _LOCKED:
            return False
        raise _no_locks(path, error.strerror or str(error)) from error
    return True


def _require_record_locks(fd: int, path: Path) -> None:
    """SQLite's kind of lock. It takes ENOLCK for a busy file and would wait for nobody."""
    import fcntl

    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Where both kinds are one (NFS), our own lock is in the way: they work, then.
        if error.errno not in _LOCKED:
            raise _no_locks(path, error.strerror or str(error)) from error


def _no_locks(path: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"file locks do not work in {str(path.parent)!r} ({reason}), so leases would not either;"
        " put the store on a local file system (--store)"
    )


def _about_this_process() -> dict[str, str | int]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "boot_id": _read("/proc/sys/kernel/random/boot_id"),
        # Field 22 of proc_pid_stat(5), counted behind the command's name, which may hold spaces.
        "start_ticks": (_read("/proc/self/stat").rpartition(")")[2].split() or [""] * 20)[19],
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
