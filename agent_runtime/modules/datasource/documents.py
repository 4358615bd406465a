"""JSON by pointer (RFC 6901), and text by lines or words. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Final

from agent_runtime.schema import nearest
from agent_runtime.types import Json

KEYS_MAX: Final = 60
_LINES: Final = re.compile(r"\s*(\d{1,9})\s*-\s*(\d{1,9})\s*\Z")


class NothingThere(Exception):
    """A pointer leads nowhere; says how far it went and what is there."""


def pointed(value: Json, pointer: str) -> Json:
    """What a pointer such as `/prices/0/amount` leads to; an empty one is the whole.

    Raises:
        NothingThere: it leads nowhere.
    """
    at = ""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        where = at or "the whole"
        if isinstance(value, dict):
            if key not in value:
                guess = nearest(key, list(value)[:1000])
                hint = f"; did you mean {guess!r}?" if guess else ""
                raise NothingThere(f"{where} has no key {key[:80]!r}{hint} It is {shape(value)}")
            value = value[key]
        elif isinstance(value, list):
            if not re.fullmatch(r"0|[1-9]\d{0,8}", key) or int(key) >= len(value):
                raise NothingThere(
                    f"{where} is {shape(value)}; {key[:80]!r} is none of its numbers"
                )
            value = value[int(key)]
        else:
            raise NothingThere(f"{where} is {shape(value)}, which has no {key[:80]!r} in it")
        at += f"/{part}"
    return value


def shape(value: Json) -> str:
    """What a value is, in a few words: `an object with keys a, b, c`."""
    match value:
        case dict():
            shown = ", ".join(str(key)[:40] for key in list(value)[:KEYS_MAX])
            more = f" and {len(value) - KEYS_MAX} more" if len(value) > KEYS_MAX else ""
            return f"an object with keys {shown}{more}" if value else "an empty object"
        case list():
            first = f", the first is {shape(value[0])}" if value and depth_one(value[0]) else ""
            return f"a list of {len(value)}{first}"
        case str():
            return f"a text of {len(value)} characters"
        case _:
            return json.dumps(value)[:80]


def depth_one(value: Json) -> bool:
    """Can `shape` tell a list's first item without going deeper?"""
    return not isinstance(value, list)


def lines_asked(query: str) -> tuple[int, int] | None:
    """`10-40` as numbers; None if it is none, so words."""
    found = _LINES.match(query)
    return (int(found[1]), int(found[2])) if found else None


def lines_with(lines: Sequence[str], query: str) -> Iterator[tuple[int, str]]:
    """Numbered lines that hold every word of the query, whatever its case."""
    words = query.lower().split()
    for number, line in enumerate(lines, 1):
        lowered = line.lower()
        if all(word in lowered for word in words):
            yield number, line
