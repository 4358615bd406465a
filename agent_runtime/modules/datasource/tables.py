"""CSV, JSON Lines and JSON lists as a table called `data`, so that SQL asks them all.

A row's `rowid` is the line where it begins (in a JSON list: its number, from 1). A column is a
number only if every value in it is one that stays the same when it is written again; else it is
text, exactly as it stands: 007 is no 7.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import apsw

from agent_runtime.modules.datasource.databases import harden
from agent_runtime.modules.reading import Unreadable
from agent_runtime.types import Json

COLUMNS_MAX: Final = 300
ROWS_MAX: Final = 1_000_000
_FIELD_CHARS_MAX: Final = 1 << 20
_SNIFFED_ROWS: Final = 50
_DELIMITERS: Final = (",", ";", "\t", "|")
_INTEGER: Final = re.compile(r"-?(?:0|[1-9]\d{0,14})\Z")
_DECIMAL: Final = re.compile(r"-?(?:0|[1-9]\d{0,8})(?:\.\d{1,6})?\Z")
_BIGGEST: Final = 1 << 63

Cell = str | int | float | bytes | None
Numbered = tuple[int, Sequence[Cell]]


@dataclass(frozen=True, slots=True)
class Table:
    """The connection that holds `data`, its columns as declared, and what a reader must know."""

    db: apsw.Connection
    columns: tuple[str, ...]
    rows: int
    notes: tuple[str, ...] = ()


def from_csv(text: str, *, delimiter: str = "") -> Table:
    """Raises `Unreadable`: it is no CSV, or has too many columns or rows."""
    csv.field_size_limit(_FIELD_CHARS_MAX)
    chosen = delimiter or sniffed(text)
    header = next(_records(text, chosen), None)
    if header is None:
        raise Unreadable("it is empty: a CSV file has a header line")
    names = _names([str(name) for name in header[1]])
    integers, decimals = [True] * len(names), [True] * len(names)
    longer: list[int] = []
    shorter: list[int] = []
    # Types first, then the rows: a second pass costs less than all rows twice in memory.
    for line, row in _body(text, chosen):
        if len(row) != len(names):
            (longer if len(row) > len(names) else shorter).append(line)
        for column, cell in enumerate(row[: len(names)]):
            if cell and decimals[column]:
                integers[column] = integers[column] and bool(_INTEGER.match(str(cell)))
                decimals[column] = integers[column] or bool(_DECIMAL.match(str(cell)))
    kinds = ["INTEGER" if i else "REAL" if d else "TEXT"
             for i, d in zip(integers, decimals, strict=True)]  # fmt: skip

    def typed() -> Iterator[Numbered]:
        for line, row in _body(text, chosen):
            cells = [_typed(cell, kind) for cell, kind in zip(row, kinds, strict=False)]
            yield line, cells + [None] * (len(names) - len(cells))

    notes = [f"the delimiter is {chosen!r}"] if chosen != "," else []
    if longer:
        notes.append(
            f"{len(longer)} rows have more fields than the header, the first in line {longer[0]}: "
            "what is beyond it is left out"
        )
    if shorter:
        notes.append(f"{len(shorter)} rows have fewer fields, the first in line {shorter[0]}")
    return _table(names, kinds, typed(), notes)


def from_json_lines(text: str) -> Table:
    """Raises `Unreadable`: a line is no JSON, or there are too many columns or rows."""

    def values() -> Iterator[tuple[int, Json]]:
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield number, parsed_json(line, line=number)

    return _from_objects(values)


def from_list(items: Sequence[Json]) -> Table:
    """A JSON list. Raises as `from_json_lines`."""
    return _from_objects(lambda: enumerate(items, 1))


def parsed_json(text: str, *, line: int = 0) -> Json:
    """Raises `Unreadable` with the place."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = f"line {line or error.lineno}, column {error.colno}"
        raise Unreadable(f"it is no JSON: {error.msg} ({at})") from None
    except RecursionError:
        raise Unreadable("it is nested too deep to be read") from None
    except ValueError as error:  # a number of thousands of digits
        raise Unreadable(f"it is no JSON that can be read: {error}") from None


def sniffed(text: str) -> str:
    """The delimiter that cuts the first records into equally many fields, the most of them."""
    best, fields = ",", 1
    for delimiter in _DELIMITERS:
        counts = []
        try:
            for _, row in _records(text[: 1 << 18], delimiter):
                counts.append(len(row))
                if len(counts) >= _SNIFFED_ROWS:
                    break
        except Unreadable:
            pass  # its start was cut in a quoted field
        # A file that is cut in its last record still counts.
        if counts and counts[0] > fields and set(counts[:-1] or counts) == {counts[0]}:
            best, fields = delimiter, counts[0]
    return best


def _records(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Records that are not empty, with the line where each begins."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    before = 0
    try:
        for row in reader:
            first, before = before + 1, reader.line_num
            if row:
                yield first, row
    except csv.Error as error:
        raise Unreadable(f"it is no CSV from line {before + 1} on: {error}") from None


def _body(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    records = _records(text, delimiter)
    next(records, None)
    return records


def _names(header: Sequence[str]) -> list[str]:
    if len(header) > COLUMNS_MAX:
        raise Unreadable(f"it has {len(header):,} columns, and at most {COLUMNS_MAX} are read")
    names: list[str] = []
    folded: set[str] = set()
    for number, each in enumerate(header, 1):
        base = " ".join(each.replace("\0", "").split())[:100] or f"column_{number}"
        # `rowid` is the row's line.
        name, count = (f"{base}_" if base.lower() == "rowid" else base), 1
        while name.lower() in folded:
            count += 1
            name = f"{base}_{count}"
        folded.add(name.lower())
        names.append(name)
    return names


def _typed(cell: str, kind: str) -> Cell:
    if kind == "TEXT":
        return cell
    if not cell:
        return None
    return int(cell) if kind == "INTEGER" else float(cell)


def _from_objects(values: Callable[[], Iterable[tuple[int, Json]]]) -> Table:
    keys: dict[str, str] = {}
    for _, value in values():
        for key in value if isinstance(value, dict) else ("value",):
            keys.setdefault(key, "")
            if len(keys) > COLUMNS_MAX:
                raise Unreadable(f"its objects have more than {COLUMNS_MAX} different keys")
    order = list(keys)

    def rows() -> Iterator[Numbered]:
        for number, value in values():
            row = value if isinstance(value, dict) else {"value": value}
            yield number, [_cell(row.get(key)) for key in order]

    # Without a type a value keeps the one that it has.
    return _table(_names(order or ["value"]), [""] * max(len(order), 1), rows(), [])


def _cell(value: Json) -> Cell:
    match value:
        case bool():
            return int(value)
        case int() if not -_BIGGEST <= value < _BIGGEST:
            return str(value)
        case None | str() | int() | float():
            return value.replace("\0", "\ufffd") if isinstance(value, str) else value
        case _:
            return json.dumps(value, ensure_ascii=False)


def _table(
    names: Sequence[str], kinds: Sequence[str], rows: Iterable[Numbered], notes: Sequence[str]
) -> Table:
    db = apsw.Connection(":memory:")
    db.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
    quoted = ['"' + name.replace('"', '""') + '"' for name in names]
    declared = ", ".join(f"{name} {kind}".strip() for name, kind in zip(quoted, kinds, strict=True))
    count = 0

    def bounded() -> Iterator[list[Cell]]:
        nonlocal count
        for number, cells in rows:
            count += 1
            if count > ROWS_MAX:
                raise Unreadable(f"it has more than {ROWS_MAX:,} rows")
            yield [number, *cells]

    with db:
        db.execute(f"CREATE TABLE data ({declared})")
        places = ", ".join("?" * (len(names) + 1))
        db.executemany(
            f"INSERT INTO data (rowid, {', '.join(quoted)}) VALUES ({places})", bounded()
        )
    harden(db)
    columns = tuple(f"{name} {kind}".strip() for name, kind in zip(names, kinds, strict=True))
    return Table(db, columns, count, tuple(notes))
