"""Definitions in the form in which they go over the wire, and the words of the protocol.

Imports nothing of the SDK: both ways of answering use it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from agent_runtime import __version__
from agent_runtime.errors import AgentRuntimeError
from agent_runtime.schema import check
from agent_runtime.types import Json
from agent_runtime_mcp.definitions import (
    Asked,
    McpServer,
    PromptDefinition,
    ResourceDefinition,
    ToolAnswer,
    ToolDefinition,
    failed,
)

log = logging.getLogger(__name__)

MODERN: Final = "2026-07-28"
"""The stateless revision: each request says for itself who asks and in which version."""
SESSION_VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
"""Revisions that begin with `initialize`, oldest first."""

META_VERSION: Final = "io.modelcontextprotocol/protocolVersion"
META_CAPABILITIES: Final = "io.modelcontextprotocol/clientCapabilities"
META_CLIENT: Final = "io.modelcontextprotocol/clientInfo"
META_SERVER: Final = "io.modelcontextprotocol/serverInfo"
TASKS_EXTENSION: Final = "io.modelcontextprotocol/tasks"
"""What tasks are called on the stateless wire."""
META_KEY: Final = "io.agent-runtime/idempotencyKey"
"""Of `_meta`: a client that repeats a request with the same key gets the first one's answer."""
FRONT_KEYS: Final = "front-"
"""How keys begin that `agent-runtime mcp` gives to requests which have none, one to each: it
repeats them when the daemon was restarted, and their client knows nothing of them."""

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601

LIST_SECONDS: Final = 60
"""How long clients of the stateless wire may keep a list without asking again."""


def tool_entry(tool: ToolDefinition, *, tasks: bool = False) -> dict[str, Json]:
    """As `tools/list` has it. `tasks`: calls can become tasks, on a wire that says it by tool."""
    entry: dict[str, Json] = {
        "name": tool.name,
        "description": tool.description,
        "inputSchema": dict(tool.input_schema),
    }
    if tool.title:
        entry["title"] = tool.title
    if tool.output_schema is not None:
        entry["outputSchema"] = dict(tool.output_schema)
    if tool.annotations:
        entry["annotations"] = dict(tool.annotations)
    if tasks and tool.task_support != "forbidden":
        entry["execution"] = {"taskSupport": tool.task_support}
    if tool.meta:
        entry["_meta"] = dict(tool.meta)
    return entry


def call_result(answer: ToolAnswer) -> dict[str, Json]:
    """As `tools/call` has it."""
    result: dict[str, Json] = {"content": list(answer.content), "isError": answer.is_error}
    if answer.structured is not None:
        result["structuredContent"] = answer.structured
    if answer.meta:
        result["_meta"] = dict(answer.meta)
    return result


def resource_entry(resource: ResourceDefinition) -> dict[str, Json]:
    """As `resources/list` and `resources/templates/list` have it."""
    entry: dict[str, Json] = {
        "uriTemplate" if resource.is_template else "uri": resource.uri,
        "name": resource.name,
    }
    said = {
        "title": resource.title,
        "description": resource.description,
        "mimeType": resource.mime_type,
    }
    entry |= {key: value for key, value in said.items() if value}
    if resource.size is not None and not resource.is_template:
        entry["size"] = resource.size
    if resource.annotations:
        entry["annotations"] = dict(resource.annotations)
    return entry


def prompt_entry(prompt: PromptDefinition) -> dict[str, Json]:
    """As `prompts/list` has it."""
    entry: dict[str, Json] = {"name": prompt.name}
    if prompt.title:
        entry["title"] = prompt.title
    if prompt.description:
        entry["description"] = prompt.description
    if prompt.arguments:
        entry["arguments"] = [
            {"name": each.name, "description": each.description, "required": each.required}
            for each in prompt.arguments
        ]
    return entry


def server_info(server: McpServer) -> dict[str, Json]:
    """Name and version, as every answer of the stateless wire repeats them."""
    return {"name": f"agent-runtime-{server.name}", "version": __version__, "title": server.title}


def capabilities(
    server: McpServer, *, modern: bool = False, tasks: bool = False
) -> dict[str, Json]:
    """What a server can do, as `initialize` and `server/discover` (`modern`) say it.

    `tasks`: calls of it can become tasks here.
    """
    found: dict[str, Json] = {"logging": {}, "tools": {"listChanged": True}}
    if server.has_resources:
        found["resources"] = {"subscribe": True, "listChanged": True}
    if server.has_prompts:
        found["prompts"] = {"listChanged": True}
    if server.has_completion:
        found["completions"] = {}
    if tasks and modern:
        found["extensions"] = {TASKS_EXTENSION: {}}
    elif tasks:
        found["tasks"] = {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}
    return found


def refusal(tool: ToolDefinition, arguments: Json, asked: Asked) -> ToolAnswer | None:
    """Why a call is not made; None: it may be. A model reads it and does better."""
    if tool.scope and not asked.caller.may(tool.scope):
        return failed(
            f"{tool.name} needs the scope {tool.scope!r}, which {asked.caller.by!r} does not have"
        )
    if problems := check(arguments, tool.input_schema):
        return failed(f"{tool.name} was not called: {'; '.join(problems)}")
    return None


def told(name: str, error: Exception) -> ToolAnswer:
    """What a model is told of an exception: operating errors in full, defects by name only."""
    if isinstance(error, AgentRuntimeError):
        return failed(str(error))
    log.error("tool %s failed by a defect", name, exc_info=error)
    return failed(
        f"{name} failed: {type(error).__name__}. This is a defect of the server; its log has more"
    )


def mapping(value: Json) -> Mapping[str, Json]:
    """`value` if it is an object, else an empty one: what clients claim is read with care."""
    return value if isinstance(value, Mapping) else {}
