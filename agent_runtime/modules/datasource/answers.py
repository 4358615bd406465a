"""What the brain is shown of a source: provenance and age first, then rows, lines or a value."""

from __future__ import annotations

import json
import re
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from agent_runtime.modules import reading
from agent_runtime.modules.datasource import databases, documents, sources, tables
from agent_runtime.modules.datasource.databases import (
    DatabaseUnusable,
    QueryRefused,
    QueryStopped,
    Rows,
)
from agent_runtime.modules.datasource.documents import NothingThere
from agent_runtime.modules.datasource.sources import Opened, Source
from agent_runtime.modules.reading import Unreadable
from agent_runtime.schema import nearest
from agent_runtime.toolkit import OUTPUT_CHARS_MAX, cap
from agent_runtime.types import FailureKind, Json, ToolResult

CELL_CHARS_MAX: Final = 500
_TABLES_MAX: Final = 3
_SQL: Final = re.compile(
    r"(?:select|with|values|explain|pragma|insert|update|delete|attach|create|drop|alter|replace|"
    r"detach|vacuum|reindex|begin)\b",
    re.IGNORECASE,
)
"""What begins so is meant for SQLite, which refuses what does more than read."""
_SELECT: Final = re.compile(r"select\s.+\sfrom\s", re.IGNORECASE | re.DOTALL)

_tables: dict[tuple[str, str, str], tables.Table] = {}
"""(sha256, kind, delimiter) -> the table; the newest last."""
_lock = threading.Lock()


def listed(workspace: str, shared: str) -> ToolResult:
    """Every source with its kind, who declares it, where it is, and its age as far as known."""
    found, problems = sources.all_sources(workspace, shared)
    lines = [_line(source) for source in found.values()]
    if not lines:
        lines = [
            "There are no datasources. They are declared in .agent-runtime.yaml or the settings."
        ]
    lines += [f"[{problem}]" for problem in problems[:20]]
    data = [
        {"source": s.name, "kind": s.kind, "declared_by": s.origin, "location": s.location}
        for s in found.values()
    ]
    return ToolResult(
        ok=True, output=cap("\n".join(lines)), data={"sources": data, "problems": problems[:20]}
    )


def queried(workspace: str, shared: str, *, name: str, query: str, limit: int) -> ToolResult:
    """The answer to one query; whatever is wrong names source, rule, value and way out."""
    found, problems = sources.all_sources(workspace, shared)
    source = found.get(name)
    if source is None:
        guess = nearest(name, found)
        hint = f"; did you mean {guess!r}?" if guess else ""
        known = ", ".join(found) or "none"
        wrong = "".join(f"; {each}" for each in problems if f".{name}:" in each)
        return _failed(
            "not_found", f"no datasource is called {name!r}{hint} (there are: {known}){wrong}"
        )
    try:
        opened = sources.opened(source, workspace, shared)
        with _lock:  # connections are shared by the worker's threads
            return _answer(opened, query, limit)
    except Unreadable as error:
        kind: FailureKind = (
            "not_found" if error.is_absent else "refused" if error.is_outside else "failed"
        )
        return _failed(kind, f"source {name!r} ({source.location}): {error}")
    except QueryRefused as error:
        return _failed("bad_input", f"source {name!r}: {error}")
    except NothingThere as error:
        return _failed("not_found", f"source {name!r}: {error}")
    except QueryStopped as error:
        return _failed("failed", f"source {name!r}: {error}")
    except DatabaseUnusable as error:
        return _failed("failed", f"source {name!r} ({source.location}): {error}")
    except RecursionError:
        return _failed("failed", f"source {name!r}: it is nested too deep to be shown")


def _answer(opened: Opened, query: str, limit: int) -> ToolResult:
    is_sql = bool(_SQL.match(query))
    if opened.kind == "sqlite":
        return _database(opened, query, limit)
    assert opened.data is not None
    if opened.kind in ("csv", "jsonl"):
        return _table(opened, _loaded(opened), query, limit)
    text = reading.text_of(opened.data)
    if opened.kind == "text":
        if _SELECT.match(query):
            raise QueryRefused(
                "it is text, which SQL cannot ask: give words to look for, or lines like 10-40"
            )
        return _text(opened, text, query, limit)
    value = tables.parsed_json(text)
    if is_sql:
        if not isinstance(value, list):
            raise QueryRefused(
                f"SQL asks a JSON list, and this is {documents.shape(value)}; "
                "give a pointer like /a/0"
            )
        return _table(opened, _loaded(opened, value), query, limit)
    if query and not query.startswith("/"):
        raise QueryRefused(
            f"{query[:80]!r} is no pointer: that begins with /, as /a/0; "
            f"it is {documents.shape(value)}"
        )
    return _value(opened, documents.pointed(value, query), query)


# ---- the kinds ---------------------------------------------------------------------------


def _database(opened: Opened, query: str, limit: int) -> ToolResult:
    with _on_disk(opened) as path, databases.opened(path) as db:
        if query:
            return _rows(opened, databases.query(db, query, limit=limit), query, [])
        schema = databases.schema_of(db)
    text = "\n".join(["Tables:", *schema]) if schema else "It has no tables."
    return _told(opened, text, "overview", {"tables": schema})


@contextmanager
def _on_disk(opened: Opened) -> Iterator[str]:
    """A database's file; one that was fetched by the worker itself is in memory only."""
    if opened.data is None:
        yield opened.path
        return
    with tempfile.NamedTemporaryFile(prefix="datasource-", suffix=".db") as file:
        file.write(opened.data)
        file.flush()
        yield file.name


def _table(opened: Opened, table: tables.Table, query: str, limit: int) -> ToolResult:
    about = [f"{table.rows:,} rows; data({', '.join(table.columns)})", *table.notes]
    sql = query or f"SELECT rowid, * FROM data LIMIT {min(limit, 5)}"
    if not _SQL.match(sql):
        raise QueryRefused(
            f"{query[:80]!r} is no SELECT; the table is {about[0].partition('; ')[2]}"
        )
    rows = databases.query(table.db, sql, limit=limit)
    return _rows(opened, rows, sql, about if not query else list(table.notes))


def _loaded(opened: Opened, value: Json = None) -> tables.Table:
    key = (opened.sha256, opened.kind, opened.source.delimiter)
    table = _tables.pop(key, None)
    if table is None:
        assert opened.data is not None
        if opened.kind == "json":
            table = tables.from_list(value)
        else:
            text = reading.text_of(opened.data)
            table = (
                tables.from_csv(text, delimiter=opened.source.delimiter)
                if opened.kind == "csv"
                else tables.from_json_lines(text)
            )
        if "\ufffd" in reading.text_of(opened.data[: 1 << 20]):
            note = "it is no UTF-8 everywhere: what does not fit is shown as \ufffd"
            table = tables.Table(table.db, table.columns, table.rows, (*table.notes, note))
    _tables[key] = table
    while len(_tables) > _TABLES_MAX:
        _tables.pop(next(iter(_tables))).db.close(True)
    return table


def _text(opened: Opened, text: str, query: str, limit: int) -> ToolResult:
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    if (asked := documents.lines_asked(query)) is not None or not query:
        first, last = asked or (1, len(lines))
        if not 1 <= first <= last or first > max(len(lines), 1):
            raise QueryRefused(f"it has lines 1-{len(lines)}; {query!r} is no range of them")
        chosen = list(enumerate(lines[first - 1 : last], first))
    else:
        chosen = list(documents.lines_with(lines, query))
    total = len(chosen)
    cut = chosen[:limit] if query and asked is None else chosen
    shown = [f"{number}: {_short(line)}" for number, line in cut]
    body, count = _fitting(shown)
    rest = f"\n[{total - count:,} more of {total:,} lines]" if count < total else ""
    data = {
        "lines": [number for number, _ in cut[:count]], "total_lines": len(lines), "found": total,
    }  # fmt: skip
    return _told(opened, (body or "no line has these words") + rest, query or "overview", data)


def _value(opened: Opened, value: Json, pointer: str) -> ToolResult:
    text = json.dumps(value, ensure_ascii=False, indent=1)
    if len(text) > OUTPUT_CHARS_MAX - 1_500:
        told = f"It is {documents.shape(value)}; {len(text):,} characters, cut:\n"
        text = told + cap(text, OUTPUT_CHARS_MAX - 1_500 - len(told))
    return _told(opened, text, pointer or "overview", {"pointer": pointer})


def _rows(opened: Opened, rows: Rows, query: str, about: Sequence[str]) -> ToolResult:
    lines = [" | ".join(_cell(cell) for cell in row) for row in rows.rows]
    body, count = _fitting(lines)
    head = " | ".join(rows.columns)
    said = [*about, head, body] if rows.columns else [*about, body]
    if count < len(rows.rows):
        said.append(f"[{len(rows.rows) - count} rows cut: ask for fewer columns or rows]")
    if rows.more:
        said.append(f"[there are more than {len(rows.rows)} rows: give a limit, LIMIT or WHERE]")
    if not rows.rows:
        said.append("[no row]")
    data: dict[str, Json] = {
        "columns": list(rows.columns),
        "rows": [[_plain(cell) for cell in row] for row in rows.rows[:count]],
        "more": rows.more or count < len(rows.rows),
    }
    return _told(opened, "\n".join(line for line in said if line), query, data)


# ---- words -------------------------------------------------------------------------------


def _told(opened: Opened, text: str, query: str, data: dict[str, Json]) -> ToolResult:
    provenance = opened.provenance()
    head = [_origin(opened), _freshness(opened)]
    head.append(f"[query: {' '.join(query.split())[:300]}]")
    return ToolResult(
        ok=True,
        output=cap("\n".join([*head, text])),
        data={**data, "query": query, "provenance": provenance},
    )


def _origin(opened: Opened) -> str:
    source = opened.source
    by = (
        "the operator"
        if source.origin == "operator"
        else "the repository, which the task can change"
    )
    about = f": {source.description}" if source.description else ""
    etag = f", ETag {opened.etag}" if opened.etag else ""
    return (
        f"[{source.name}{about}; declared by {by}; {opened.kind} from {source.location}, "
        f"{opened.bytes_count:,} bytes, sha256 {opened.sha256[:12]}{etag}]"
    )


def _freshness(opened: Opened) -> str:
    parts = [
        f"{word} {sources.stated(at)}"
        for word, at in (
            ("modified", opened.modified_at), ("fetched", opened.fetched_at),
            ("checked", opened.checked_at),
        )
        if at
    ]  # fmt: skip
    age, limit = opened.age_seconds(), opened.source.max_age_seconds
    if age is not None:
        parts.append(f"age {_duration(age)}")
    if limit is None:
        parts.append("no max age is declared")
    elif age is not None:
        word = "STALE" if age > limit else "fresh"
        parts.append(f"{word}: max age {_duration(limit)}")
    if opened.fault:
        parts.append(f"MAY BE BEHIND: {opened.fault}")
    return f"[{'; '.join(parts)}]"


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _line(source: Source) -> str:
    about = f": {source.description}" if source.description else ""
    entry = source.entry
    told = ""
    if entry is not None:
        if not entry.sha256:
            told = f"; NOT AVAILABLE: {entry.fault or 'not read yet'}"
        elif entry.fault:
            told = f"; MAY BE BEHIND: {entry.fault}"
    return (
        f"- {source.name} ({source.kind}, declared by the {source.origin}, {source.location})"
        f"{about}{told}"
    )


def _fitting(lines: Sequence[str]) -> tuple[str, int]:
    """As many lines as fit beside the provenance, and their number."""
    room = OUTPUT_CHARS_MAX - 2_500
    count = 0
    for line in lines:
        room -= len(line) + 1
        if room < 0 and count:
            break
        count += 1
    return "\n".join(lines[:count]), count


def _cell(cell: Json | bytes) -> str:
    if isinstance(cell, bytes):
        return f"x'{cell[:32].hex()}'" + (f" (of {len(cell):,} bytes)" if len(cell) > 32 else "")
    if cell is None:
        return "NULL"
    text = str(cell)
    shown = _short(text).replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return shown.replace("|", "\\|")


def _plain(cell: Json | bytes) -> Json:
    if isinstance(cell, bytes):
        return _cell(cell)
    return _short(cell) if isinstance(cell, str) else cell


def _short(text: str) -> str:
    if len(text) <= CELL_CHARS_MAX:
        return text
    return f"{text[:CELL_CHARS_MAX]}… ({len(text):,} characters)"


def _failed(kind: FailureKind, text: str) -> ToolResult:
    return ToolResult(ok=False, kind=kind, output=text)
