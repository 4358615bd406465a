"""A plug-in for the bench: a call that goes on for as long as the daemon lives."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from agent_runtime.ports import Tool
from agent_runtime.toolkit import tool
from agent_runtime.types import Effect, ToolCall, ToolResult


@tool(effect=Effect.READ, parameters={}, where="daemon")
async def linger(call: ToolCall) -> ToolResult:
    """Do nothing, for a day."""
    await anyio.sleep(86_400)
    return ToolResult(ok=True, output="")


def tools() -> Sequence[Tool]:
    """The entry point."""
    return [linger]
