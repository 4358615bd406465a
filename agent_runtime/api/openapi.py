"""The OpenAPI 3.1 document of the operations: what is served and what is written cannot differ."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from agent_runtime.api.operations import Operation
from agent_runtime.api.problems import Problem
from agent_runtime.taskfile import LABEL_CHARS_MAX, LABELS_MAX
from agent_runtime.types import Json

_PROBLEMS: Final[Mapping[int, str]] = {
    400: "The request is malformed",
    401: "Credentials are missing or do not count",
    403: "The credentials do not allow this",
    404: "There is no such thing",
    408: "The body did not come in time",
    409: "The state does not allow this",
    412: "If-Match does not fit",
    413: "The body is too large",
    415: "The body has another media type",
    421: "This server is not known by that name",
    422: "The input is not valid; `errors` points at what is wrong",
    429: "Too many requests, or a budget is used up",
    500: "A defect",
    503: "The daemon cannot take this now; Retry-After says when to come back",
}

_HEADERS: Final[Mapping[str, Json]] = {
    "Idempotency-Key": {"type": "string", "pattern": "^[!-~]{1,255}$"},
    "If-Match": {"type": "string"},
    "If-None-Match": {"type": "string"},
    "Last-Event-ID": {"type": "string", "pattern": "^[0-9]{0,18}$"},
    "Prefer": {"type": "string", "pattern": "^wait=[0-9]{1,2}$"},
}
_ANY_TEXT: Final[Json] = {"type": "string"}
_MEDIA: Final[Mapping[str, Json]] = {"application/json": {"type": "object"}}

_TEMPLATE = "#/components/schemas/{name}"


def openapi(operations: Sequence[Operation], version: str) -> dict[str, Json]:
    """The document, as JSON values."""
    types = [Problem, *_types(operations)]
    refs, components = msgspec.json.schema_components(types, ref_template=_TEMPLATE)
    by_type = {repr(kind): ref for kind, ref in zip(types, refs, strict=True)}
    _constrain(components)
    paths: dict[str, dict[str, Json]] = {}
    for each in operations:
        entry = _entry(each, by_type, components)
        paths.setdefault(each.path, {})[each.method.lower()] = entry
    for each in operations:
        if each.query is not None:
            components.pop(each.query.__name__, None)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "agent-runtime",
            "version": version,
            "description": "Hand off a coding task; get back a proven branch, or an honest "
            '"not done".',
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The local token, an API key, or a JWT.",
                },
                "signature": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "webhook-signature",
                    "description": "A signature with the hook's secret: this header, or the one "
                    "of the hook's scheme.",
                },
            },
        },
    }


def _types(operations: Iterable[Operation]) -> list[Any]:
    found: dict[str, Any] = {}
    for each in operations:
        kinds = [each.body, each.query, *each.answers.values()]
        found.update(
            {repr(k): k for k in kinds if k is not None and not isinstance(k, (str, tuple))}
        )
    return list(found.values())


def _entry(
    each: Operation, refs: Mapping[str, Json], components: Mapping[str, Json]
) -> dict[str, Json]:
    parameters: list[Json] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", each.path)
    ]
    parameters += _query(each, components)
    parameters += [
        {"name": name, "in": "header", "description": text, "schema": _HEADERS[name]}
        for name, text in each.headers.items()
        if name != "Accept"  # OpenAPI knows it by itself, and ignores one that is named
    ]
    entry: dict[str, Json] = {
        "operationId": each.name,
        "summary": each.summary,
        "parameters": parameters,
        "responses": _responses(each, refs),
        "security": _security(each),
    }
    if each.description:
        entry["description"] = each.description
    if each.body is not None or each.raw or each.streamed:
        schema = refs[repr(each.body)] if each.body is not None else {}
        entry["requestBody"] = {
            "required": not each.body_optional,
            "content": {each.takes: {"schema": schema}},
        }
    return entry


def _security(each: Operation) -> list[Json]:
    if each.signed:
        return [{"signature": []}]
    return [{"bearer": [each.scope]}] if each.scope else []


def _query(each: Operation, components: Mapping[str, Json]) -> list[Json]:
    if each.query is None:
        return []
    schema = components[each.query.__name__]
    required = schema.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _plain(value)}
        for name, value in schema["properties"].items()
    ]


def _plain(schema: dict[str, Json]) -> dict[str, Json]:
    """A parameter that is left out is null; one cannot be sent."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) == 1:
        rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
        return {**choices[0], **rest}
    return schema


def _responses(each: Operation, refs: Mapping[str, Json]) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for status, kind in each.answers.items():
        answer: dict[str, Json] = {"description": _said(status)}
        if isinstance(kind, (str, tuple)):
            kinds = (kind,) if isinstance(kind, str) else kind
            answer["content"] = {each: {"schema": _MEDIA.get(each, _ANY_TEXT)} for each in kinds}
        elif kind is not None:
            answer["content"] = {"application/json": {"schema": refs[repr(kind)]}}
        found[str(status)] = answer
    problems = {400, 421, *each.errors}
    if each.scope:
        problems |= {401, 403, 429, 503}
    if each.body is not None or each.raw or each.streamed:
        problems |= {408, 413, 415, 422}
    if each.query is not None or each.headers:
        problems |= {422}
    for status in sorted(problems - each.answers.keys()):
        found[str(status)] = {
            "description": _PROBLEMS[status],
            "content": {"application/problem+json": {"schema": refs[repr(Problem)]}},
        }
    return found


def _said(status: int) -> str:
    return {201: "Stored", 202: "Stored; it is carried out", 204: "Nothing to say",
            207: "One answer for each", 304: "Not changed"}.get(status, "As asked")  # fmt: skip


def _constrain(components: dict[str, Json]) -> None:
    """Rules of the task file that JSON Schema can say; the rest is answered with 422."""
    for name, fields in _RULES.items():
        properties = components.get(name, {}).get("properties", {})
        for key, rule in fields.items():
            if key in properties:
                properties[key] = _with(properties[key], rule)


def _with(schema: dict[str, Json], rule: Mapping[str, Json]) -> dict[str, Json]:
    if "anyOf" in schema:
        choices = [
            {**choice, **rule} if choice != {"type": "null"} else choice
            for choice in schema["anyOf"]
        ]
        return {**schema, "anyOf": choices}
    return {**schema, **rule}


_TEXT: Final = {"minLength": 1, "pattern": r"\S"}
_NAME: Final = {"pattern": r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$"}
_LINE: Final = r"^[^\u0000-\u001f\u007f]*$"
_DAY: Final = {"exclusiveMinimum": 0, "maximum": 86_400}
_LABELS: Final[Mapping[str, Json]] = {
    "maxProperties": LABELS_MAX,
    "propertyNames": {"minLength": 1, "maxLength": LABEL_CHARS_MAX, "pattern": _LINE},
    "additionalProperties": {"type": "string", "maxLength": LABEL_CHARS_MAX, "pattern": _LINE},
}
_RULES: Final[Mapping[str, Mapping[str, Mapping[str, Json]]]] = {
    "TaskSpec": {
        "goal": _TEXT,
        "priority": {"minimum": 0, "maximum": 9},
        "labels": _LABELS,
    },
    "ChangeSpec": {
        "priority": {"minimum": 0, "maximum": 9},
        "labels": _LABELS,
    },
    "WorkspaceSpec": {"repo": _TEXT, "ref": {"minLength": 1, "pattern": r"^[^-\s][^\s]*$"}},
    "Limits": {
        "steps": {"minimum": 1, "maximum": 100_000},
        "usd": {"minimum": 0, "maximum": 100_000},
        "tokens": {"minimum": 0, "maximum": 10**10},
        "seconds": {"exclusiveMinimum": 0, "maximum": 30 * 86_400},
    },
    "Objective": {"id": _NAME},
    "ServiceSpec": {"id": _NAME},
    "StepSpec": {
        "id": _NAME, "tool": _TEXT, "goal": _TEXT, "when": _TEXT,
        "retry": {"minimum": 0, "maximum": 100}, "timeout_seconds": _DAY,
    },
    "Check": {"exit": {"minimum": 0, "maximum": 255}, "timeout_seconds": _DAY},
    "Expect": {"exit": {"minimum": 0, "maximum": 255}, "contains": _TEXT},
    "Alternative": {"tool": _TEXT},
    "ServiceReady": {"port": {"minimum": 1, "maximum": 65_535}},
}  # fmt: skip
