"""A third-party plug-in for the crash matrix: one daemon tool for each class of effects."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from agent_runtime.ports import Tool
from agent_runtime.toolkit import tool
from agent_runtime.types import Effect, ToolCall, ToolResult
from bench.crashes import outside


@tool(effect=Effect.READ, parameters={}, where="daemon")
async def look(call: ToolCall) -> ToolResult:
    """Look: changes nothing, so it may be done again."""
    outside.pay(call.idempotency_key)
    return ToolResult(ok=True, output="seen")


@tool(effect=Effect.IDEMPOTENT, parameters={}, where="daemon")
async def put(call: ToolCall) -> ToolResult:
    """Put: the receiver knows the key."""
    outside.pay(call.idempotency_key)
    return ToolResult(ok=True, output="put")


async def happened(call: ToolCall) -> bool | None:
    """Ask the receiver."""
    return call.idempotency_key in outside.taken(Path(os.environ[outside.REQUESTS]))


@tool(effect=Effect.PROBE, parameters={}, where="daemon", probe=happened)
async def post(call: ToolCall) -> ToolResult:
    """Post: its probe can look whether it happened."""
    outside.pay(call.idempotency_key)
    return ToolResult(ok=True, output="posted")


@tool(effect=Effect.ONCE, parameters={}, where="daemon")
async def pay(call: ToolCall) -> ToolResult:
    """Pay: must never happen twice, and nobody can look."""
    outside.pay(call.idempotency_key)
    return ToolResult(ok=True, output="paid")


@tool(effect=Effect.READ, parameters={}, where="daemon")
async def close(call: ToolCall) -> ToolResult:
    """The step behind it."""
    outside.close()
    return ToolResult(ok=True, output="closed")


def tools() -> Sequence[Tool]:
    """The entry point."""
    return [look, put, post, pay, close]
