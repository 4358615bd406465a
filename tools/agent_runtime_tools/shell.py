"""`shell`: run a command in the workspace. What it may reach is the sandbox's business."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from agent_runtime.errors import ToolRefused
from agent_runtime.toolkit import OUTPUT_CHARS_MAX, cap, changes_workspace_unless_networked, tool
from agent_runtime.types import ToolCall, ToolResult
from agent_runtime_tools import _places
from agent_runtime_tools._processes import Command, Finished, environment

if TYPE_CHECKING:  # every import here costs a worker's start
    from agent_runtime.ports import Tool

TIMEOUT_SECONDS_MAX: Final = 86_400
_FILE_TOO_LARGE: Final = 128 + 25
"""As a shell tells of SIGXFSZ."""


def tools() -> Sequence[Tool]:
    """The entry point."""
    return [shell]


def _shell_blocking(call: ToolCall) -> ToolResult:
    argv, command, seconds = _command(call)
    try:
        return _result(command.run_blocking(), seconds)
    except OSError as error:
        return _not_started(argv[0], error)


@tool(
    effect=changes_workspace_unless_networked,
    parameters={
        "command": {
            "description": "A string runs by /bin/sh -c, a list as it is.",
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "items": {"type": "string"}, "minItems": 1},
            ],
        },
        "cwd": {
            "type": "string",
            "description": "Directory to run in; default: the workspace.",
        },
        "timeout_seconds": {
            "type": "number",
            "minimum": 0.1,
            "maximum": TIMEOUT_SECONDS_MAX,
            "description": "Then it is killed.",
        },
    },
    required=("command",),
    blocking=_shell_blocking,
)
async def shell(call: ToolCall) -> ToolResult:
    """Run a command in the workspace; returns its exit code and what it printed.

    Each call is a new process: `cd` and variables do not carry over. Standard input is empty.
    """
    # Exit codes are a shell's: 126 not executable, 127 not found, 128+n killed by signal n, 124 out
    # of time. A process started with `&` lives on after the call; what it prints then is dropped.
    argv, command, seconds = _command(call)
    try:
        return _result(await command.run(), seconds)
    except OSError as error:
        return _not_started(argv[0], error)


def _command(call: ToolCall) -> tuple[list[str], Command, float]:
    command = call.arguments["command"]
    argv = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
    if any("\0" in word for word in argv):
        raise ToolRefused("a command cannot hold a NUL character; write it as an escape")
    seconds = float(call.arguments.get("timeout_seconds", call.timeout_seconds))
    cwd = _places.directory(call.workspace, call.arguments.get("cwd", "."))
    return argv, Command(argv, cwd=cwd, env=environment(call), seconds=seconds), seconds


def _result(finished: Finished, seconds: float) -> ToolResult:
    text = finished.output.decode("utf-8", "replace")
    notes = []
    if finished.timed_out:
        notes.append(f"[timed out after {seconds:g} s: the command and its children were killed]")
    if finished.detached:
        notes.append("[a background process still holds the output; what it prints now is dropped]")
    if finished.exit == _FILE_TOO_LARGE:
        notes.append(f"[a file may have at most {_file_bytes_max():,} bytes in the sandbox]")
    shown = _with_notes(text, notes)
    exact = len(text) <= OUTPUT_CHARS_MAX and text.encode() == finished.output
    return ToolResult(
        ok=finished.exit == 0,
        output=shown,
        exit=finished.exit,
        kind="" if finished.exit == 0 else "timeout" if finished.timed_out else "failed",
        data={"exit": finished.exit, "output_bytes": finished.output_bytes},
        raw=None if exact else finished.output,
    )


def _file_bytes_max() -> int:
    assert sys.platform != "win32"
    import resource

    return resource.getrlimit(resource.RLIMIT_FSIZE)[0]


def _with_notes(text: str, notes: Sequence[str]) -> str:
    tail = "\n".join(notes)
    shown = cap(text, OUTPUT_CHARS_MAX - len(tail) - 1)
    return shown + ("\n" if tail and shown and not shown.endswith("\n") else "") + tail


def _not_started(program: str, error: OSError) -> ToolResult:
    """The program could not be executed: exit codes as shells have them."""
    missing = isinstance(error, FileNotFoundError)
    reason = "not found" if missing else (error.strerror or str(error))
    return ToolResult(
        ok=False,
        output=f"{program}: {reason}",
        exit=127 if missing else 126,
        kind="failed",
        data={"exit": 127 if missing else 126, "output_bytes": 0},
    )
