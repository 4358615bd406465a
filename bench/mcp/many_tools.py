"""Servers with two and with a hundred tools, to see whether the others of a tool cost anything."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from agent_runtime_mcp.definitions import Asked, McpServer, ToolAnswer, ToolDefinition, text
from agent_runtime_mcp.entries import Entry

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        name: {"type": "string", "description": f"The {name} that it is about, if any."}
        for name in ("subject", "reason", "place")
    },
}


def _now(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
    return text("done")


async def _run(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
    return text("done")


class ManyTools(McpServer):
    """All do the same."""

    name = "tools"
    title = "Many tools"

    def __init__(self, count: int) -> None:
        self._tools = [
            ToolDefinition(
                name=f"tool_{number}",
                description=f"Does what tool {number} does, and says so.",
                input_schema=SCHEMA,
                now=_now,
                run=_run,
            )
            for number in range(count)
        ]

    def fixed_tools(self) -> Sequence[ToolDefinition]:
        return self._tools


def _no_stdio(options: Mapping[str, Any]) -> None:
    raise NotImplementedError


two = Entry(lambda context: ManyTools(2), _no_stdio)
hundred = Entry(lambda context: ManyTools(100), _no_stdio)


if __name__ == "__main__":
    from agent_runtime_mcp.stdio import Stdio

    Stdio(ManyTools(int(sys.argv[1])), {}).run()
