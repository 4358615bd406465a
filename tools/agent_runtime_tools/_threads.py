"""Blocking tool code, run in a thread, with the errors of the file system turned into results."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable

from anyio import to_thread

from agent_runtime.toolkit import Execute
from agent_runtime.types import ToolCall, ToolResult


def in_thread(function: Callable[[ToolCall], ToolResult]) -> Execute:
    """Make an async tool function of a blocking one.

    A cancelled call waits for its thread: whatever runs here is bounded by itself.
    """

    @functools.wraps(function)
    async def execute(call: ToolCall) -> ToolResult:
        return await to_thread.run_sync(_guarded, function, call)

    return execute


def shown(path: str) -> str:
    """A path for people and JSON: what cannot be printed is written as an escape."""
    if path.isprintable():
        return path
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in path
    )


def _guarded(function: Callable[[ToolCall], ToolResult], call: ToolCall) -> ToolResult:
    try:
        return function(call)
    except OSError as error:
        return _failure(call, error)


def _failure(call: ToolCall, error: OSError) -> ToolResult:
    reason = os.strerror(error.errno) if error.errno else str(error)
    named = f" {shown(os.fsdecode(error.filename))!r}" if error.filename is not None else ""
    match error.errno:
        case errno.ENOENT:
            return ToolResult(ok=False, kind="not_found", output=f"{call.tool}:{named} not found")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return ToolResult(ok=False, kind="denied", output=f"{call.tool}:{named}: {reason}")
        case _:
            return ToolResult(ok=False, kind="failed", output=f"{call.tool}:{named}: {reason}")
