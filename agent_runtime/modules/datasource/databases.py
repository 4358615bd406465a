"""One SELECT over SQLite, and nothing else: the authorizer, limits of time, rows and lengths.

What is opened is opened read-only; `query` refuses every action but reading. No extension is
loaded, nothing is attached, and what a database's own schema would run (views, virtual tables) is
held to the same list.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

import apsw

from agent_runtime.types import Json

SECONDS_MAX: Final = 5.0
COPY_BYTES_MAX: Final = 128 << 20
"""Of a database with a journal beside it, which must be copied to be read."""
_LENGTH_MAX: Final = 8 << 20
_SQL_CHARS_MAX: Final = 20_000
_STEPS: Final = 2_000
"""Of SQLite's machine between two looks at the clock."""
_ALLOWED: Final = frozenset(
    {apsw.SQLITE_SELECT, apsw.SQLITE_READ, apsw.SQLITE_FUNCTION, apsw.SQLITE_RECURSIVE}
)
_READING_PRAGMAS: Final = frozenset(
    {"table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo",
     "foreign_key_list", "data_version"}
)  # fmt: skip
_REFUSED_FUNCTIONS: Final = frozenset({"load_extension", "fts3_tokenizer", "readfile", "writefile"})
_SCHEMA_OPTIONS: Final = (
    "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA mmap_size = 0"
)


class QueryRefused(Exception):
    """The query is malformed or asks for more than reading; says what would do."""


class QueryStopped(Exception):
    """The query is allowed and has no end within the limits."""


class DatabaseUnusable(Exception):
    """The file is no database, damaged, or cannot be opened."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What a query gave. `more` where there are rows beyond the limit."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Json | bytes, ...], ...]
    more: bool


def query(db: apsw.Connection, sql: str, *, limit: int, seconds: float = SECONDS_MAX) -> Rows:
    """Run one statement that only reads. Leaves the connection as it was.

    Raises:
        QueryRefused, QueryStopped, DatabaseUnusable: see there.
    """
    if len(sql) > _SQL_CHARS_MAX:
        raise QueryRefused(f"the query has {len(sql):,} characters, at most {_SQL_CHARS_MAX:,}")
    denied: list[str] = []
    statements = 0
    columns: tuple[str, ...] = ()

    def authorize(action: int, one: str | None, two: str | None, *_: str | None) -> int:
        if action in _ALLOWED and not (
            action == apsw.SQLITE_FUNCTION and (two or "").lower() in _REFUSED_FUNCTIONS
        ):
            return apsw.SQLITE_OK
        if action == apsw.SQLITE_PRAGMA and (one or "").lower() in _READING_PRAGMAS:
            return apsw.SQLITE_OK
        word = str(apsw.mapping_authorizer_function.get(action, action))
        word = word.removeprefix("SQLITE_").replace("_", " ")
        denied.append(f"{word} {two if action == apsw.SQLITE_FUNCTION else one or ''}".strip())
        return apsw.SQLITE_DENY

    def one_statement(running: apsw.Cursor, *_: object) -> bool:
        nonlocal statements, columns
        statements += 1
        if statements > 1:
            return False
        columns = tuple(str(each[0]) for each in running.get_description())
        # What finds nothing to do asks for no permission: REINDEX without an index.
        if not columns:
            denied.append(sql.split(maxsplit=1)[0][:40].upper())
        return not denied

    deadline = time.monotonic() + seconds
    for limit_id, value in (
        (apsw.SQLITE_LIMIT_ATTACHED, 0), (apsw.SQLITE_LIMIT_LENGTH, _LENGTH_MAX),
        (apsw.SQLITE_LIMIT_SQL_LENGTH, 4 * _SQL_CHARS_MAX), (apsw.SQLITE_LIMIT_WORKER_THREADS, 0),
    ):  # fmt: skip
        db.limit(limit_id, value)
    db.authorizer = authorize
    db.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
    cursor = db.cursor()
    cursor.exec_trace = one_statement
    rows: list[tuple[Json | bytes, ...]] = []
    try:
        cursor.execute(sql, can_cache=False)
        for row in cursor:
            rows.append(row)
            if len(rows) > limit:
                break
    except apsw.InterruptError:
        raise QueryStopped(
            f"the query has no end within {seconds:g} s and was stopped; narrow it with WHERE"
        ) from None
    except (apsw.ExecTraceAbort, apsw.AuthError):
        if statements > 1 and not denied:
            told = "only one statement at a time is run; leave out what follows ';'"
        else:
            what = ", ".join(denied[:3]) or "this"
            told = f"{what} is not allowed: data is read-only, and only SELECT is run"
        raise QueryRefused(told) from None
    except apsw.TooBigError:
        told = f"a value has more than {_LENGTH_MAX:,} bytes; ask for less of it"
        raise QueryStopped(told) from None
    except (apsw.FullError, apsw.NoMemError, MemoryError):
        raise QueryStopped("the query needs more room than there is; narrow it") from None
    except (apsw.NotADBError, apsw.CorruptError, apsw.CantOpenError, apsw.IOError) as error:
        raise DatabaseUnusable(str(error)) from None
    except apsw.Error as error:
        raise QueryRefused(str(error)) from None
    finally:
        cursor.close(True)
        db.authorizer = None
        db.set_progress_handler(None)
    return Rows(columns, tuple(rows[:limit]), len(rows) > limit)


@contextmanager
def opened(path: str) -> Iterator[apsw.Connection]:
    """A database file, to be read; nothing is written beside it.

    Raises:
        DatabaseUnusable: it is no database, or has changes beside it that are too large to copy.
    """
    with tempfile.TemporaryDirectory(prefix="datasource-") as scratch:
        beside = [suffix for suffix in ("-wal", "-journal") if _bytes(path + suffix)]
        name, immutable = path, "&immutable=1"
        if beside:
            # Opened where it is, SQLite would write there: to recover, or to share its index.
            count = _bytes(path) + sum(_bytes(path + suffix) for suffix in beside)
            if count > COPY_BYTES_MAX:
                raise DatabaseUnusable(
                    f"it has changes in a {beside[0]} file and {count:,} bytes, and at most "
                    f"{COPY_BYTES_MAX:,} are copied; close its writer, or checkpoint it"
                )
            name, immutable = os.path.join(scratch, "copy.db"), ""
            for suffix in ("", *beside):
                shutil.copyfile(path + suffix, name + suffix)
        mode = "ro" if immutable else "rw"
        try:
            db = apsw.Connection(
                f"file:{quote(name)}?mode={mode}{immutable}",
                flags=apsw.SQLITE_OPEN_URI
                | (apsw.SQLITE_OPEN_READONLY if immutable else apsw.SQLITE_OPEN_READWRITE),
            )
            try:
                harden(db)
                db.execute("SELECT count(*) FROM sqlite_schema").fetchall()
                yield db
            finally:
                db.close(True)
        except apsw.Error as error:
            raise DatabaseUnusable(str(error)) from None


def harden(db: apsw.Connection) -> None:
    """What no query needs is off."""
    db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    db.execute(_SCHEMA_OPTIONS)


def schema_of(db: apsw.Connection) -> list[str]:
    """Its tables and views, each with its columns: `orders(id INTEGER, at TEXT)`."""
    found = []
    names = list(
        db.execute(
            "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')"
            " AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name LIMIT 200"
        )
    )
    for (name,) in names:
        try:
            rows = list(db.execute("SELECT name, type FROM pragma_table_info(?)", (name,)))
        except apsw.Error:
            rows = []  # a view over something that is not there
        columns = ", ".join(f"{column} {kind}".strip() for column, kind in rows[:60])
        found.append(f"{name}({columns}{', …' if len(rows) > 60 else ''})")
    return found


def _bytes(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
