"""Checking arguments against a tool's JSON schema, with messages that say what would have worked.

The subset that tools use: type, enum, const, properties, required, additionalProperties, items,
minItems, maxItems, minimum, maximum, minLength, maxLength, anyOf, oneOf. Any other keyword is left
to whoever wrote the schema: a remote tool's `pattern` or `$ref` is checked by its own server.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Final

from agent_runtime.types import Json

PROBLEMS_MAX: Final = 20
"""More than a reader corrects in one go; a hostile argument must not make a huge message."""
SHOWN_CHARS_MAX: Final = 60

_SURROGATE = re.compile("[\ud800-\udfff]")
_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list, tuple),
    "object": (Mapping,),
    "null": (type(None),),
}
_ARTICLES: Final = {"integer": "an integer", "array": "an array", "object": "an object"}


def check(arguments: Json, schema: Mapping[str, Json]) -> list[str]:
    """What is wrong with `arguments`, one sentence a problem; empty if nothing is.

    Every sentence names the key, the rule and the value, and an unknown key's nearest known one.
    An integer must be written as one: 5.0 is refused, because tools count with it.
    """
    return list(islice(_problems(arguments, schema, where=""), PROBLEMS_MAX))


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` is most likely a misspelling of."""
    # difflib costs milliseconds to import, and only a mistake needs it: a worker starts without.
    import difflib

    by_folded = {_folded(candidate): candidate for candidate in known}
    found = difflib.get_close_matches(_folded(word), by_folded, n=1, cutoff=0.5)
    return by_folded[found[0]] if found else None


def _problems(value: Json, schema: Mapping[str, Json], *, where: str) -> Iterable[str]:
    stated = schema.get("type")
    if stated is not None and not _is_type(value, stated):
        yield f"{_subject(where)} must be {_type_text(stated)}, got {_shown(value)}"
        return
    if "enum" in schema and not any(_same(value, option) for option in schema["enum"]):
        yield _not_listed(value, schema["enum"], where=where)
    if "const" in schema and not _same(value, schema["const"]):
        yield f"{_subject(where)} must be {_shown(schema['const'])}, got {_shown(value)}"
    if isinstance(value, str):
        yield from _string_problems(value, schema, where=where)
    elif isinstance(value, Mapping):
        yield from _object_problems(value, schema, where=where)
    elif isinstance(value, (list, tuple)):
        yield from _array_problems(value, schema, where=where)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from _number_problems(value, schema, where=where)
    yield from _choice_problems(value, schema, where=where)


def _object_problems(
    value: Mapping[str, Json], schema: Mapping[str, Json], *, where: str
) -> Iterable[str]:
    properties: Mapping[str, Json] = schema.get("properties", {})
    others = schema.get("additionalProperties", True)
    for key in schema.get("required", ()):
        if key not in value:
            yield f"{_inside(where, key)!r} is required and missing"
    for key, item in value.items():
        if key in properties:
            yield from _problems(item, properties[key], where=_inside(where, key))
        elif others is False:
            yield _unknown_key(key, properties, where=where)
        elif isinstance(others, Mapping):
            yield from _problems(item, others, where=_inside(where, key))


def _unknown_key(key: object, properties: Mapping[str, Json], *, where: str) -> str:
    known = ", ".join(sorted(properties)) or "none"
    guess = nearest(str(key), properties)
    hint = f"; did you mean {guess!r}?" if guess else ""
    of = f" of {where!r}" if where else ""
    return f"{_shown(key)} is not a known key{of}{hint} (known: {known})"


def _array_problems(
    value: Sequence[Json], schema: Mapping[str, Json], *, where: str
) -> Iterable[str]:
    yield from _range_problems(
        len(value), schema.get("minItems"), schema.get("maxItems"), where=where, unit="items"
    )
    if isinstance(items := schema.get("items"), Mapping):
        for index, item in enumerate(value):
            yield from _problems(item, items, where=f"{where}[{index}]")


def _string_problems(value: str, schema: Mapping[str, Json], *, where: str) -> Iterable[str]:
    # JSON can spell half of a character pair; no file, path or process can take it.
    if not value.isascii() and _SURROGATE.search(value):
        yield f"{_subject(where)} holds half of a surrogate pair: {_shown(value)}"
    yield from _range_problems(
        len(value), schema.get("minLength"), schema.get("maxLength"), where=where, unit="characters"
    )


def _number_problems(value: float, schema: Mapping[str, Json], *, where: str) -> Iterable[str]:
    if value != value:
        yield f"{_subject(where)} must be a number, got NaN"
    yield from _range_problems(
        value, schema.get("minimum"), schema.get("maximum"), where=where, unit=""
    )


def _range_problems(
    value: float, low: float | None, high: float | None, *, where: str, unit: str
) -> Iterable[str]:
    must = "must have" if unit else "must be"
    tail = f" {unit}" if unit else ""
    if low is not None and value < low:
        yield f"{_subject(where)} {must} at least {low}{tail}, got {value}"
    if high is not None and value > high:
        yield f"{_subject(where)} {must} at most {high}{tail}, got {value}"


def _choice_problems(value: Json, schema: Mapping[str, Json], *, where: str) -> Iterable[str]:
    for keyword in ("anyOf", "oneOf"):
        choices: Sequence[Mapping[str, Json]] = schema.get(keyword, ())
        if not choices:
            continue
        found = [list(islice(_problems(value, choice, where=where), 3)) for choice in choices]
        fitting = found.count([])
        if not fitting:
            # The choice that the writer meant is the one with the right type: show its problems.
            meant = [
                problems
                for choice, problems in zip(choices, found, strict=True)
                if "type" in choice and _is_type(value, choice["type"])
            ]
            if len(meant) == 1:
                yield from meant[0]
            else:
                options = "; or ".join(problems[0] for problems in found)
                yield f"{_subject(where)} fits none of {len(choices)} choices: {options}"
        elif keyword == "oneOf" and fitting > 1:
            yield f"{_subject(where)} must fit one choice only, and fits {fitting}"


def _not_listed(value: Json, options: Sequence[Json], *, where: str) -> str:
    words = [option for option in options if isinstance(option, str)]
    guess = nearest(value, words) if isinstance(value, str) else None
    hint = f"; did you mean {guess!r}?" if guess else ""
    listed = ", ".join(_shown(option) for option in options)
    return f"{_subject(where)} must be one of {listed}; got {_shown(value)}{hint}"


def _is_type(value: Json, stated: str | Sequence[str]) -> bool:
    names = (stated,) if isinstance(stated, str) else stated
    for name in names:
        if isinstance(value, bool) and name != "boolean":
            continue
        if isinstance(value, _TYPES.get(name, (object,))):
            return True
    return False


def _same(left: Json, right: Json) -> bool:
    return type(left) is type(right) and bool(left == right)


def _type_text(stated: str | Sequence[str]) -> str:
    names = (stated,) if isinstance(stated, str) else stated
    return " or ".join(_ARTICLES.get(name, f"a {name}") for name in names)


def _subject(where: str) -> str:
    return repr(where) if where else "the value"


def _inside(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _folded(word: str) -> str:
    """`oldText`, `old_text` and `OldText` are one word to the one who misspells it."""
    return word.replace("_", "").replace("-", "").lower()[:100]


def _shown(value: object) -> str:
    if isinstance(value, (list, tuple, Mapping)) and len(value) > 5:
        return f"{'an object' if isinstance(value, Mapping) else 'an array'} of {len(value)}"
    text = repr(value[:SHOWN_CHARS_MAX] if isinstance(value, str) else value)
    return text if len(text) <= SHOWN_CHARS_MAX + 2 else text[:SHOWN_CHARS_MAX] + "…"
