"""A tool made of a Struct of arguments: its schema, its validation, and what its errors become.

Schemas are written out without references, because many clients hand them to models as they are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec

from agent_runtime.errors import AgentRuntimeError, UsageError
from agent_runtime.types import Json
from agent_runtime_mcp.definitions import Asked, ToolAnswer, ToolDefinition, failed

WishT = TypeVar("WishT", bound=msgspec.Struct)

_REF = "#"
_NO_DEFAULT = ("default", None)


def schema_of(kind: type[msgspec.Struct]) -> dict[str, Json]:
    """The JSON schema of a Struct that is not recursive, everything in its place."""
    (found,), parts = msgspec.json.schema_components([kind], ref_template=_REF + "{name}")
    schema = _written_out(found, parts)
    assert isinstance(schema, dict)
    schema.pop("description", None)  # the docstring: for readers of the code
    return schema


def _written_out(schema: Json, parts: Mapping[str, Json]) -> Json:
    match schema:
        case {"$ref": str(ref), **more}:
            return {**_written_out(parts[ref.removeprefix(_REF)], parts), **more}
        case dict():
            return {
                key: _written_out(value, parts)
                for key, value in schema.items()
                if not (key == "title" and isinstance(value, str)) and (key, value) != _NO_DEFAULT
            }
        case list():
            return [_written_out(item, parts) for item in schema]
    return schema


def make_tool(
    run: Callable[[WishT, Asked], Awaitable[ToolAnswer]],
    kind: type[WishT],
    *,
    name: str,
    title: str,
    description: str,
    scope: str,
    answers: type[msgspec.Struct] | None = None,
    reads: bool = False,
    destroys: bool = False,
    repeats: bool = False,
    begin: Callable[[WishT, Asked], Awaitable[str | None]] | None = None,
) -> ToolDefinition:
    """A tool whose arguments are `kind` and whose structured answer is `answers`.

    `reads`: it changes nothing; `destroys`: what it does cannot be undone; `repeats`: to do it
    again with the same arguments changes nothing more. `begin`: a call may become an MCP task; it
    gives the id of ours that is meant, or None: this call is answered at once.
    """

    async def call(arguments: Mapping[str, Json], asked: Asked) -> ToolAnswer:
        try:
            wish = msgspec.convert(dict(arguments), kind)
        except msgspec.ValidationError as error:
            return failed(f"{name} was not called: {error}")
        try:
            return await run(wish, asked)
        except AgentRuntimeError as error:
            return failed(_words(error))

    async def start(arguments: Mapping[str, Json], asked: Asked) -> str | None:
        assert begin is not None
        try:
            wish = msgspec.convert(dict(arguments), kind)
        except msgspec.ValidationError as error:
            raise UsageError(f"{name} was not called: {error}") from None
        return await begin(wish, asked)

    return ToolDefinition(
        name=name,
        title=title,
        description=description,
        input_schema=schema_of(kind),
        output_schema=None if answers is None else schema_of(answers),
        run=call,
        scope=scope,
        task_support="forbidden" if begin is None else "optional",
        begin=None if begin is None else start,
        annotations={
            "readOnlyHint": reads,
            "destructiveHint": destroys,
            "idempotentHint": reads or repeats,
            "openWorldHint": not reads,
        },
    )


def _words(error: AgentRuntimeError) -> str:
    seconds: Any = getattr(error, "retry_after_seconds", None)
    return f"{error} (try again in {max(1, round(seconds))} s)" if seconds else str(error)


def answer(value: msgspec.Struct, text: str) -> ToolAnswer:
    """A structured answer, and a text that stands alone: many clients show their model no more."""
    return ToolAnswer([{"type": "text", "text": text}], structured=msgspec.to_builtins(value))
