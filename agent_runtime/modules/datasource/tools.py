"""`list_datasources` and `query_datasource`."""

from __future__ import annotations

import os
from typing import Final

from agent_runtime.toolkit import tool
from agent_runtime.types import SHARED_VARIABLE, Effect, ToolCall, ToolResult

LIMIT: Final = 50
LIMIT_MAX: Final = 500


@tool(effect=Effect.READ, toolbelt="datasource", parameters={})
def list_datasources(call: ToolCall) -> ToolResult:
    """List the authoritative data of this installation and repository: name, kind, origin, age."""
    from agent_runtime.modules.datasource import answers

    return answers.listed(call.workspace, _shared())


@tool(
    # A document is fetched by GET, which changes nothing.
    effect=Effect.READ,
    toolbelt="datasource",
    parameters={
        "source": {"type": "string", "minLength": 1, "maxLength": 64},
        "query": {
            "type": "string",
            "maxLength": 20_000,
            "description": "SQL SELECT (a CSV or list is the table data, rowid its line); for JSON "
            "a pointer like /a/0; for text words or lines like 10-40. None: an overview.",
        },
        "limit": {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX},
    },
    required=("source",),
)
def query_datasource(call: ToolCall) -> ToolResult:
    """Read authoritative data; the answer says where it is from, how old, and whether stale."""
    from agent_runtime.modules.datasource import answers

    return answers.queried(
        call.workspace,
        _shared(),
        name=str(call.arguments["source"]),
        query=str(call.arguments.get("query", "")).strip(),
        limit=int(call.arguments.get("limit", LIMIT)),
    )


def _shared() -> str:
    # Not `call.env`, which a repository may set: it must not pose as the operator.
    shared = os.environ.get(SHARED_VARIABLE, "")
    return os.path.join(shared, "datasource") if shared else ""
