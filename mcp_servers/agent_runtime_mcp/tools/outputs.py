"""`read_output`: all that a call printed, in pieces, where its answer had head and tail only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agent_runtime.errors import NotFound
from agent_runtime.loop import codec
from agent_runtime.loop.events import CallReturned
from agent_runtime.runtime import Runtime
from agent_runtime.types import BlobId, Json, TaskId
from agent_runtime_mcp.definitions import Asked, RunTool, ToolAnswer, ToolDefinition, failed, text

NAME: Final = "read_output"
BYTES: Final = 10_000
BYTES_MAX: Final = 100_000

_SCHEMA: Final[Mapping[str, Json]] = {
    "type": "object",
    "properties": {
        "call": {"type": "string", "description": "As the answer that was cut names it."},
        "offset": {"type": "integer", "minimum": 0, "description": "First byte, from 0."},
        "bytes": {"type": "integer", "minimum": 1, "maximum": BYTES_MAX},
    },
    "required": ["call"],
    "additionalProperties": False,
}


def definition(run: RunTool) -> ToolDefinition:
    """The tool."""
    return ToolDefinition(
        name=NAME,
        description="Read on in the output of an earlier call that was too long to be shown.",
        input_schema=_SCHEMA,
        annotations={"readOnlyHint": True, "destructiveHint": False, "idempotentHint": True,
                     "openWorldHint": False},
        run=run,
    )  # fmt: skip


async def read(runtime: Runtime, arguments: Mapping[str, Json], asked: Asked) -> ToolAnswer:
    """A piece of the output of a call of the same caller, and where the next one begins."""
    name = arguments["call"]
    task_id, _, call_id = name.partition("/")
    try:
        summary = await runtime.summary(TaskId(task_id))
    except NotFound:
        return failed(f"call: there is no call {name!r}")
    if summary.submitted_by != asked.caller.by:
        return failed(f"call: there is no call {name!r}")
    data = await _output(runtime, TaskId(task_id), call_id)
    if data is None:
        return failed(f"call: there is no call {name!r}, or its answer was whole")
    offset, size = arguments.get("offset", 0), arguments.get("bytes", BYTES)
    piece = data[offset : offset + size]
    end = offset + len(piece)
    left = f"[bytes {offset:,} to {end:,} of {len(data):,}"
    left += f"; the next piece begins at offset {end}]" if end < len(data) else "; this is the end]"
    return text(f"{piece.decode('utf-8', 'replace')}\n{left}")


async def _output(runtime: Runtime, task_id: TaskId, call_id: str) -> bytes | None:
    named = call_id.encode()
    for row in reversed(await runtime.rows(task_id)):
        if row.type == CallReturned.__name__ and named and named in row.data:
            event = codec.decode(row)
            if isinstance(event, CallReturned) and event.call_id == call_id and event.output_blob:
                return await runtime.ports.store.get_blob(BlobId(event.output_blob))
    return None
