"""A stranger's schema as one that the registry takes and `agent_runtime.schema` can check. Pure.

What cannot be taken over is left out: the server checks its arguments itself. References within the
schema are written out, unless they lead in circles.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from agent_runtime.types import Json
from agent_runtime_mcp.client.names import harmless

DEPTH_MAX: Final = 12
NODES_MAX: Final = 400
BYTES_MAX: Final = 16 << 10
TEXT_CHARS_MAX: Final = 300
ENUM_MAX: Final = 200
MORE: Final = "additional_arguments"
"""Where a tool takes arguments by any name: an object of them."""

_TYPES: Final = frozenset(
    ("string", "integer", "number", "boolean", "array", "object", "null"),
)
_COUNTS: Final = ("minLength", "maxLength", "minItems", "maxItems")


@dataclass(slots=True)
class _Writer:
    root: Mapping[str, Json]
    nodes: int = 0
    open_references: list[str] = field(default_factory=list)


def adapted(schema: Json) -> dict[str, Json]:
    """An object's schema with `additionalProperties: false`, at most `BYTES_MAX` long."""
    root: Mapping[str, Json] = schema if isinstance(schema, Mapping) else {}
    made = _object(root, texts=True)
    if _bytes(made) > BYTES_MAX:
        made = _object(root, texts=False)
    if _bytes(made) > BYTES_MAX:
        made["properties"] = {name: {} for name in made["properties"]}
        made = {
            key: made[key] for key in ("type", "properties", "required", "additionalProperties")
        }
    if _bytes(made) > BYTES_MAX:
        made = _closed({MORE: {"type": "object", "description": "All arguments, by name."}}, [])
    return made


def unfolded(arguments: Mapping[str, Json], schema: Json) -> dict[str, Json]:
    """The arguments as the server wants them: those of `MORE` beside the others."""
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    if isinstance(properties, Mapping) and MORE in properties:
        return dict(arguments)
    more = arguments.get(MORE)
    rest = {key: value for key, value in arguments.items() if key != MORE}
    return {**more, **rest} if isinstance(more, Mapping) else rest


def _object(root: Mapping[str, Json], *, texts: bool) -> dict[str, Json]:
    writer = _Writer(root)
    whole = _subschema(root, writer, 0, texts=texts)
    properties = whole.get("properties")
    properties = dict(properties) if isinstance(properties, dict) else {}
    open_ended = "additionalProperties" in root and root["additionalProperties"] is not False
    if (open_ended or (not properties and _says_more(root))) and MORE not in properties:
        properties[MORE] = {"type": "object", "description": "Further arguments, by name."}
    made = _closed(properties, [k for k in whole.get("required", ()) if k in properties])
    for key in ("anyOf", "oneOf"):
        # Choices about arguments that are named above; others could not be met here.
        if key in whole and all(
            set(each.get("properties", ())) <= set(properties) for each in whole[key]
        ):
            made[key] = whole[key]
    return made


def _says_more(root: Mapping[str, Json]) -> bool:
    return any(key in root for key in ("anyOf", "oneOf", "allOf", "$ref", "patternProperties"))


def _closed(properties: dict[str, Json], required: list[str]) -> dict[str, Json]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _subschema(value: Json, writer: _Writer, depth: int, *, texts: bool) -> dict[str, Json]:
    writer.nodes += 1
    if not isinstance(value, Mapping) or depth > DEPTH_MAX or writer.nodes > NODES_MAX:
        return {}
    reference = value.get("$ref")
    if isinstance(reference, str):
        if reference in writer.open_references:
            return {}
        target = _pointed(reference, writer.root)
        writer.open_references.append(reference)
        try:
            beside = {key: each for key, each in value.items() if key != "$ref"}
            return _subschema({**target, **beside}, writer, depth + 1, texts=texts)
        finally:
            writer.open_references.pop()

    def below(each: Json) -> dict[str, Json]:
        return _subschema(each, writer, depth + 1, texts=texts)

    made: dict[str, Json] = {}
    stated = value.get("type")
    kinds = [stated] if isinstance(stated, str) else stated if isinstance(stated, list) else []
    kinds = [kind for kind in kinds if isinstance(kind, str) and kind in _TYPES]
    if kinds:
        made["type"] = kinds[0] if len(kinds) == 1 else kinds
    if texts:
        for key in ("title", "description"):
            if text := harmless(value.get(key), TEXT_CHARS_MAX):
                made[key] = text
    options = value.get("enum")
    if isinstance(options, list) and 0 < len(options) <= ENUM_MAX:
        made["enum"] = [each for each in options if not isinstance(each, dict | list)] or options[
            :1
        ]
    if isinstance(value.get("const"), str | int | float | bool):
        made["const"] = value["const"]
    for key in _COUNTS:
        if isinstance(count := value.get(key), int) and not isinstance(count, bool):
            made[key] = count
    for key in ("minimum", "maximum"):
        if isinstance(bound := value.get(key), int | float) and not isinstance(bound, bool):
            made[key] = bound
    properties = value.get("properties")
    if isinstance(properties, Mapping):
        made["properties"] = {str(name): below(each) for name, each in properties.items()}
    if isinstance(value.get("items"), Mapping):
        made["items"] = below(value["items"])
    others = value.get("additionalProperties")
    if others is False and depth:
        made["additionalProperties"] = False
    elif isinstance(others, Mapping) and depth:
        made["additionalProperties"] = below(others)
    required = value.get("required")
    if isinstance(required, list):
        made["required"] = [each for each in required if isinstance(each, str)]
    for key in ("anyOf", "oneOf"):
        choices = value.get(key)
        if isinstance(choices, list) and choices:
            made[key] = [below(each) for each in choices]
    parts = value.get("allOf")
    for part in parts if isinstance(parts, list) else ():
        _merge(made, below(part))
    return made


def _merge(into: dict[str, Json], part: Mapping[str, Json]) -> None:
    """What `allOf` asks for, beside the rest; where they differ, the first stands."""
    into.setdefault("properties", {}).update(
        {k: v for k, v in part.get("properties", {}).items() if k not in into["properties"]}
    )
    into["required"] = [*into.get("required", ()), *part.get("required", ())]
    if not into["properties"]:
        del into["properties"]
    if not into["required"]:
        del into["required"]
    for key, each in part.items():
        into.setdefault(key, each)


def _pointed(reference: str, root: Mapping[str, Json]) -> dict[str, Json]:
    """What a reference within the document means; nothing if it leads elsewhere."""
    if not reference.startswith("#"):
        return {}
    found: Json = root
    for part in reference[1:].strip("/").split("/"):
        if not part:
            continue
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, Mapping) or key not in found:
            return {}
        found = found[key]
    return dict(found) if isinstance(found, Mapping) else {}


def _bytes(value: Json) -> int:
    return len(json.dumps(value))
