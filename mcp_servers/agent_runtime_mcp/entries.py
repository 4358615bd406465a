"""What the entry points point at: each built-in server over HTTP and over stdio.

Light on purpose: whatever a server needs is imported when it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from agent_runtime.api.mounts import Mount, MountContext
    from agent_runtime_mcp.definitions import McpServer

SECRET: Final = "mcp-secret"
"""File in the state directory: seals what clients carry between two rounds of a question."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A built-in server. Called, it becomes a face of the daemon."""

    make: Callable[[MountContext], McpServer]
    stdio: Callable[[Mapping[str, Any]], None] | None = None
    """Serves on stdin and stdout until the client has gone; gets the options of the command. None:
    it lives in a daemon only."""

    def __call__(self, context: MountContext) -> Mount:
        """As `api.mounts` wants it."""
        from agent_runtime_mcp.http import HttpFace
        from agent_runtime_mcp.tasks.keeper import Keeper

        server, daemon = self.make(context), context.daemon
        keeper = None
        if server.has_tasks and daemon.kept_calls is not None:
            now_us = daemon.runtime.ports.clock.now_us
            keeper = Keeper(
                server, daemon.kept_calls, now_us=now_us, admit=daemon.refuse_unless_ready
            )
        return HttpFace(
            server,
            secret=secret_of(daemon.state_dir),
            short_way=context.settings.mcp_short_way,
            keeper=keeper,
        )


def secret_of(state_dir: str) -> bytes:
    """32 bytes that only this installation knows, the same after a restart."""
    path = os.path.join(state_dir, SECRET)
    if not os.path.exists(path):
        partial = f"{path}.{os.getpid()}"
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(os.urandom(32))
        with suppress(FileExistsError):  # another process was faster: its secret counts
            os.link(partial, path)
        os.unlink(partial)
    with open(path, "rb") as file:
        return file.read()


def _runtime(context: MountContext) -> McpServer:
    from agent_runtime_mcp.runtime import RuntimeServer

    return RuntimeServer(
        context.daemon,
        prompts_folder=context.settings.mcp_prompts or "",
        kept_days=context.settings.retention_days,
    )


runtime: Final = Entry(_runtime)


def _tools(context: MountContext) -> McpServer:
    from agent_runtime_mcp.tools.server import ToolsServer

    return ToolsServer(context.daemon)


tools: Final = Entry(_tools)
