"""What the entry point points at: the filesystem server in the daemon, and on stdin and stdout."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agent_runtime_mcp.entries import Entry
from agent_runtime_mcp.filesystem.server import FilesystemServer
from agent_runtime_mcp.stdio import Stdio

if TYPE_CHECKING:
    from agent_runtime.api.mounts import MountContext


def make(context: MountContext) -> FilesystemServer:
    """Its roots in the daemon are the setting `workspace_roots`."""
    return FilesystemServer(context.settings.workspace_roots)


def stdio(options: Mapping[str, Any]) -> None:
    """Options: `roots`, `read_only`, `short_way`."""
    server = FilesystemServer(
        options["roots"],
        read_only=options["read_only"],
        alone=True,
        default_root=_working_directory(),
    )
    for fault in server.faults():
        sys.stderr.write(f"agent-runtime mcp filesystem: {fault}\n")
    Stdio(server, {}, short_way=options["short_way"]).run()


def _working_directory() -> str:
    """Empty where nobody chose it: clients with windows start their servers in `/` or at home."""
    here = os.getcwd()
    return "" if here in ("/", os.path.expanduser("~")) else here


ENTRY = Entry(make, stdio)
