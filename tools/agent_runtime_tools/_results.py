"""Results of tools: errors of the file system as data."""

from __future__ import annotations

import errno
import functools
import os

from agent_runtime.texts import shown
from agent_runtime.toolkit import Block
from agent_runtime.types import ToolCall, ToolResult


def os_errors_as_results(function: Block) -> Block:
    """Make a result of an `OSError`: for the brain it is news about the workspace."""

    @functools.wraps(function)
    def execute(call: ToolCall) -> ToolResult:
        try:
            return function(call)
        except OSError as error:
            return _failure(call, error)

    return execute


def _failure(call: ToolCall, error: OSError) -> ToolResult:
    reason = os.strerror(error.errno) if error.errno else str(error)
    # A write to an open file, such as one to a full disk, names no file.
    named = f" {shown(os.fsdecode(error.filename))!r}" if error.filename is not None else ""
    what = f"{call.tool}:{named}:" if named else f"{call.tool}:"
    match error.errno:
        case errno.ENOENT:
            return ToolResult(ok=False, kind="not_found", output=f"{call.tool}:{named} not found")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return ToolResult(ok=False, kind="denied", output=f"{what} {reason}")
        case _:
            return ToolResult(ok=False, kind="failed", output=f"{what} {reason}")
