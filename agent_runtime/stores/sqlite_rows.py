"""Statements over many rows of bound values, each a single step of SQLite.

A step gives up the interpreter lock and has to get it back, and under load that takes longer than
a row does: so not one statement a row. Nor one that takes its rows out of JSON, which spends a
third of its time on writing and reading the JSON.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import cache
from typing import Any, Final

import apsw

_SIZES: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Rows of a statement: what is fewer is filled up with NULLs. Each text is compiled once and kept
by apsw, which has room for a hundred, none of them above 16 KiB; all of the log's take 3 MB."""

ROWS: Final = "{rows}"
"""In a statement: where the rows go, as `VALUES`. Its columns are called `column1` and so on."""


def run_rows(db: apsw.Connection, statement: str, columns: int, values: list[Any]) -> int:
    """Run `statement` for rows of `columns` values, which follow each other in `values`.

    It has to pass over a row whose first column is NULL. Returns how many rows it has changed.
    """
    changed, step = 0, _SIZES[-1] * columns
    for start in range(0, len(values), step):
        part = values[start : start + step]
        rows = _SIZES[bisect_left(_SIZES, len(part) // columns)]
        part.extend([None] * (rows * columns - len(part)))
        db.execute(_text(statement, columns, rows), part)
        changed += db.changes()
    return changed


@cache
def _text(statement: str, columns: int, rows: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return statement.replace(ROWS, f"VALUES {', '.join([row] * rows)}")
