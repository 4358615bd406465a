"""A third-party plug-in for the tests: daemon tools whose effects are lines in a file outside.

The line is on the disk before the tool returns, so that a kill between effect and record shows.
"""

import os
from collections.abc import Sequence

import anyio

from agent_runtime.ports import Tool
from agent_runtime.toolkit import tool
from agent_runtime.types import Effect, ToolCall, ToolResult

PATH = "OUTSIDE_EFFECTS"
ANSWER_SECONDS = 0.1
"""Like a service over a network: long enough to be killed before and after the effect."""


def record(call: ToolCall) -> None:
    """One line a run: tool, call id, idempotency key."""
    line = f"{call.tool} {call.call_id} {call.idempotency_key}\n"
    fd = os.open(os.environ[PATH], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, line.encode())
        os.fsync(fd)
    finally:
        os.close(fd)


@tool(effect=Effect.ONCE, parameters={}, where="daemon", name="pay_once")
async def pay_once(call: ToolCall) -> ToolResult:
    """Pay: must never happen twice."""
    await anyio.sleep(ANSWER_SECONDS)
    record(call)
    await anyio.sleep(ANSWER_SECONDS)
    return ToolResult(ok=True, output="paid")


@tool(effect=Effect.IDEMPOTENT, parameters={}, where="daemon", name="put_again")
async def put_again(call: ToolCall) -> ToolResult:
    """Put: may happen again under the same key."""
    record(call)
    await anyio.sleep(ANSWER_SECONDS)
    return ToolResult(ok=True, output="put")


async def look(call: ToolCall) -> bool | None:
    """Is there a line with this key?"""
    try:
        with open(os.environ[PATH], encoding="utf-8") as file:
            return any(line.split()[-1] == call.idempotency_key for line in file)
    except FileNotFoundError:
        return False


@tool(effect=Effect.PROBE, parameters={}, where="daemon", name="post_probed", probe=look)
async def post_probed(call: ToolCall) -> ToolResult:
    """Post: its probe can look."""
    record(call)
    await anyio.sleep(ANSWER_SECONDS)
    return ToolResult(ok=True, output="posted")


@tool(effect=Effect.ONCE, parameters={}, where="daemon", name="outlast")
async def outlast(call: ToolCall) -> ToolResult:
    """Outlast every stop for half a minute: only a kill ends it sooner."""
    record(call)
    with anyio.CancelScope(shield=True):
        await anyio.sleep(30)
    return ToolResult(ok=True, output="outlasted")


def tools() -> Sequence[Tool]:
    """The entry point."""
    return [pay_once, put_again, post_probed, outlast]
