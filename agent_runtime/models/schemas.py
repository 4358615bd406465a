"""JSON schemas as providers take them for structured answers: a part of the language only. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agent_runtime.types import Json

_KEPT: Final = frozenset(
    "type properties required items enum const anyOf allOf $ref $defs definitions title "
    "description default additionalProperties".split()
)
"""What structured outputs know of every schema."""
_FORMATS: Final = frozenset(
    "date-time time date duration email hostname uri ipv4 ipv6 uuid".split()
)


def is_strict(schema: Mapping[str, Json]) -> bool:
    """Does it keep OpenAI's rules for `strict`: objects are closed and every property required?"""
    properties = schema.get("properties")
    if schema.get("type") == "object" or isinstance(properties, dict):
        if schema.get("additionalProperties") is not False:
            return False
        if set(schema.get("required", ())) != set(properties or {}):
            return False
    return all(is_strict(part) for part in _parts(schema))


def closed(schema: Mapping[str, Json]) -> dict[str, Json]:
    """The schema as providers take it: objects closed, and rules that are refused put into words.

    What is lost as a rule stands in the description, so that the model may still follow it; whoever
    asked checks the answer.
    """
    kept: dict[str, Json] = {}
    told: list[str] = []
    for key, value in schema.items():
        if key in ("properties", "$defs", "definitions") and isinstance(value, dict):
            kept[key] = {name: closed(part) for name, part in value.items()}
        elif key == "items" and isinstance(value, dict):
            kept[key] = closed(value)
        elif key in ("anyOf", "allOf", "oneOf") and isinstance(value, list):
            kept["anyOf" if key == "oneOf" else key] = [closed(part) for part in value]
        elif key in _KEPT:
            kept[key] = value
        elif (key == "format" and value in _FORMATS) or (key == "minItems" and value in (0, 1)):
            kept[key] = value
        elif not key.startswith("$"):
            told.append(f"{key}: {value}")
    if kept.get("type") == "object" or "properties" in kept:
        kept["additionalProperties"] = False
    if told:
        words = f"{{{', '.join(told)}}}"
        kept["description"] = "\n\n".join(filter(None, (kept.get("description"), words)))
    return kept


def _parts(schema: Mapping[str, Json]) -> list[Mapping[str, Json]]:
    """The schemas directly below."""
    below: list[Json] = []
    for key in ("properties", "$defs", "definitions"):
        if isinstance(schema.get(key), dict):
            below += schema[key].values()
    for key in ("anyOf", "allOf", "oneOf"):
        if isinstance(schema.get(key), list):
            below += schema[key]
    below.append(schema.get("items"))
    return [part for part in below if isinstance(part, dict)]
