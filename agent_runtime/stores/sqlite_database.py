"""Opening a store's file: its rights, its identity, its schema; and what SQLite's errors mean here.

Only apsw touches the file. Its SQLite is newer than 3.51.2, whose write-ahead log could be damaged
by two connections (sqlite.org/wal.html, "the WAL-reset bug"). And no file descriptor of our own may
ever be closed on it: POSIX would drop SQLite's locks with it (sqlite.org/howtocorrupt.html, 2.2).
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Final

import apsw

from agent_runtime.errors import AgentRuntimeError, ConfigError, StoreBroken, StoreUnavailable

APPLICATION_ID = 0x41475254
"""Marks the file as ours ("AGRT"), so that another program's database is never written to."""

CHECKPOINT_PAGES = 8000
"""32 MB of log before its pages go into the file: a page that many commits change goes there once.
With SQLite's own 1000, checkpoints took a fifth of what a submission costs."""

WAL_BYTES_MAX = 64 << 20
"""What the write-ahead log is cut down to after a large write."""

_LOCK_CODES = frozenset(
    {
        apsw.SQLITE_IOERR_LOCK,
        apsw.SQLITE_IOERR_RDLOCK,
        apsw.SQLITE_IOERR_UNLOCK,
        apsw.SQLITE_IOERR_CHECKRESERVEDLOCK,
        apsw.SQLITE_IOERR_SHMLOCK,
        apsw.SQLITE_IOERR_SHMMAP,
        apsw.SQLITE_IOERR_SHMOPEN,
    }
)


def prepare(path: Path) -> None:
    """Make the directory (0700) and an empty file (0600) if they are missing.

    Raises:
        ConfigError: this user may not write there.
        StoreUnavailable: there is no room.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _make_empty(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_room(f"the store {str(path)!r}", error) from error
        raise ConfigError(
            f"cannot make the store {str(path)!r}: {error.strerror};"
            " put it where this user may write (--store)"
        ) from error


def _make_empty(path: Path) -> None:
    # Made under another name and then linked: see the module's docstring on closing descriptors.
    unnamed = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    os.close(os.open(unnamed, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        os.link(unnamed, path)
    except FileExistsError:
        pass  # another process was first
    finally:
        unnamed.unlink()
    fd = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_writer(
    path: Path, *, busy_seconds: float, file_bytes_max: int | None = None
) -> apsw.Connection:
    """The one connection that writes, with the schema brought up to date.

    Raises:
        ConfigError: the file cannot be opened, or its file system has no working locks.
        StoreBroken: damaged, not ours, or written by a newer version.
        StoreUnavailable: another process holds the file for longer than `busy_seconds`.
    """
    with translated(path, opening=True):
        db = _connect(path, busy_seconds)
        try:
            _require_ours(db, path)
            if db.pragma("page_count") == 0:
                # So that room comes back in small steps; only a new file can be told.
                db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            _switch_to_wal(db, path, busy_seconds)
            # FULL is what makes a commit durable in WAL mode; the fullfsyncs matter on macOS only.
            db.execute("PRAGMA synchronous = FULL; PRAGMA fullfsync = 1")
            db.execute("PRAGMA checkpoint_fullfsync = 1")
            db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_MAX}")
            db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            _migrate(db, path)
            # A statement that writes many rows keeps copies of the pages that it changes, to be
            # undone alone: more than a few go to a file, as many writes again as the log's.
            db.execute("PRAGMA temp_store = MEMORY")
            if file_bytes_max is not None:
                page_bytes = db.pragma("page_size")
                db.execute(f"PRAGMA max_page_count = {file_bytes_max // page_bytes}")
        except BaseException:
            db.close()
            raise
        return db


def open_reader(path: Path, *, busy_seconds: float) -> apsw.Connection:
    """A connection that cannot write. Raises as `open_writer`."""
    with translated(path, opening=True):
        db = _connect(path, busy_seconds)
        db.execute("PRAGMA query_only = 1")
        return db


def _connect(path: Path, busy_seconds: float) -> apsw.Connection:
    # Without SQLITE_OPEN_CREATE: the file is there, with the rights that `prepare` gave it.
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    if busy_seconds:
        db.set_busy_handler(_patience(busy_seconds))
    return db


def _patience(busy_seconds: float) -> Callable[[int], bool]:
    """Ask for a lock each millisecond, for `busy_seconds`.

    SQLite's own time-out asks more and more rarely, down to ten times a second, and misses the
    short gaps that a busy neighbour leaves: the longest wait beside one fell from 740 to 75 ms.
    """
    deadline = 0.0

    def wait(asked: int) -> bool:
        nonlocal deadline
        if asked == 0:
            deadline = time.monotonic() + busy_seconds
        time.sleep(0.001)
        return time.monotonic() < deadline

    return wait


def _require_ours(db: apsw.Connection, path: Path) -> None:
    """Reads only: a file that is not ours stays exactly as it is."""
    version, newest = db.pragma("user_version"), len(_migrations())
    if db.pragma("application_id") == APPLICATION_ID:
        if version > newest:
            raise StoreBroken(
                f"the store {str(path)!r} has schema version {version}, and this agent-runtime"
                f" knows {newest}: install a newer agent-runtime, or name another store (--store)"
            )
    elif version or db.execute("SELECT count(*) FROM sqlite_schema").fetchone() != (0,):
        raise StoreBroken(
            f"{str(path)!r} is a database of another program: name another store (--store)"
        )


def _switch_to_wal(db: apsw.Connection, path: Path, busy_seconds: float) -> None:
    # Several processes may switch a new file at once. SQLite does not always wait for its busy
    # time-out then: waiting while holding a read lock could be a deadlock.
    deadline = time.monotonic() + busy_seconds
    while True:
        try:
            mode = db.pragma("journal_mode", "wal")
            break
        except apsw.BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)
    if mode != "wal":
        raise ConfigError(
            f"the store {str(path)!r} cannot have a write-ahead log (it stays in mode {mode!r});"
            " put it on a local file system (--store)"
        )


def _migrate(db: apsw.Connection, path: Path) -> None:
    migrations = _migrations()
    if db.pragma("user_version") == len(migrations):
        return
    db.execute("BEGIN EXCLUSIVE")
    try:
        # Looked at again: another process may have been first, and may have been newer.
        _require_ours(db, path)
        for migration in migrations[db.pragma("user_version") :]:
            db.execute(migration)
        db.pragma("user_version", len(migrations))
        db.pragma("application_id", APPLICATION_ID)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _migrations() -> list[str]:
    """The texts of `sql/NNN_*.sql`; number N brings a store from version N-1 to N."""
    folder = resources.files("agent_runtime.stores") / "sql"
    files = sorted((entry for entry in folder.iterdir()), key=lambda entry: entry.name)
    files = [entry for entry in files if entry.name.endswith(".sql")]
    numbers = [int(entry.name.partition("_")[0]) for entry in files]
    assert numbers == list(range(1, len(files) + 1)), "migrations are numbered without holes"
    return [entry.read_text(encoding="utf-8") for entry in files]


# ---- errors ------------------------------------------------------------------------------


@contextmanager
def translated(path: Path, *, opening: bool = False) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except apsw.Error as error:
        raise translate(error, path, opening=opening) from error


_MAY_NOT: Final = frozenset({errno.EROFS, errno.EPERM, errno.EACCES})
_REFUSED: Final = frozenset({apsw.SQLITE_IOERR_WRITE, apsw.SQLITE_IOERR_TRUNCATE})
"""Where nothing was written, and it is known why: unlike after a failed fsync."""


def translate(
    error: apsw.Error, path: Path, *, opening: bool = False, said: int = 0
) -> AgentRuntimeError:
    """What an error of SQLite means for the caller, and what a person can do about it.

    `said`: the system's own number, where that is known.
    """
    store = f"the store {str(path)!r}"
    code = getattr(error, "extendedresult", 0)
    match error:
        case apsw.BusyError() | apsw.LockedError():
            return StoreUnavailable(
                f"{store} is locked by another process for longer than the busy time-out;"
                " end what holds it (a backup, a database browser) and try again"
            )
        case apsw.FullError():
            return _no_room(store, error)
        case apsw.IOError() if code == apsw.SQLITE_IOERR_SHMSIZE:
            # A full disk can show first where the shared memory of the log grows.
            return _no_room(store, error)
        case apsw.IOError() if code in _REFUSED and said in _MAY_NOT:
            return StoreUnavailable(
                f"{store} cannot be written just now ({os.strerror(said)}): nothing that was "
                "stored is lost; mend the mount or the rights, and it goes on by itself"
            )
        case apsw.ReadOnlyError() | apsw.CantOpenError() | apsw.PermissionsError():
            return ConfigError(
                f"cannot open {store} for writing ({error}); it must be a file, in a directory,"
                " that this user may write: mend the rights or name another store (--store)"
            )
        case apsw.ProtocolError() if opening:
            return _no_locks(store, error)
        case apsw.IOError() if opening and code in _LOCK_CODES:
            return _no_locks(store, error)
        case apsw.NotADBError():
            return StoreBroken(f"{store} is no SQLite database: name another store (--store)")
        case apsw.CorruptError():
            return StoreBroken(f"{store} is damaged ({error}): restore it from a backup")
        case apsw.IOError():
            return StoreBroken(
                f"reading or writing {store} failed ({error}): look at the disk{_file_limit()}"
            )
        case _:
            return StoreBroken(f"{store} failed: {type(error).__name__}: {error}")


def _file_limit() -> str:
    """A limit that SQLite reports as a broken disk."""
    if sys.platform == "win32":
        return ""
    import resource  # here, for nothing else of the store needs POSIX

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit == resource.RLIM_INFINITY:
        return ""
    return f", and at the limit of a file's size (`ulimit -f`), which is {limit:,} bytes"


def _no_locks(store: str, error: apsw.Error) -> ConfigError:
    return ConfigError(
        f"file locks do not work for {store} ({error}); put it on a local file system (--store)"
    )


def _no_room(store: str, error: Exception) -> StoreUnavailable:
    return StoreUnavailable(f"no room for {store} ({error}): free some and try again")
