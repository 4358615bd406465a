"""`mcp`: tools and tasks for IDEs and Claude Desktop, as MCP servers on stdin and stdout.

What speaks the protocol is a plug-in of the runtime, found by its entry point. Nothing here may be
slow: a client starts one such process for each of its windows and waits for it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any, Final

import click

GROUP: Final = "agent_runtime.mcp_servers"
DISTRIBUTION: Final = "agent-runtime"


@click.group(
    short_help="Serve tools, files and tasks to MCP clients on stdin and stdout.",
    epilog="""\b
Examples:
  agent-runtime mcp filesystem --root ~/project
""",
)
def mcp() -> None:
    """Serve tools, files and tasks to MCP clients, such as IDEs, on stdin and stdout.

    A client starts these commands itself; its configuration names them. A daemon serves the same
    over HTTP, at /mcp/filesystem, /mcp/tools and /mcp/runtime.
    """


@mcp.command(
    short_help="Read, search and edit files below some directories.",
    epilog="""\b
Examples:
  agent-runtime mcp filesystem --root ~/project
  agent-runtime mcp filesystem --root ~/project --root ~/notes --read-only
""",
)
@click.option(
    "--root", "roots", multiple=True, metavar="DIR",
    type=click.Path(exists=True, file_okay=False, resolve_path=True),
    help="A directory that may be read and written; may be given again. Default: those that the "
    "client says, else the working directory.",
)  # fmt: skip
@click.option("--read-only", is_flag=True, help="Only tools that change nothing.")
@click.option("--no-short-way", is_flag=True, help="Send every message through the SDK; slower.")
def filesystem(roots: tuple[str, ...], read_only: bool, no_short_way: bool) -> int:
    """Serve files below the roots, and nothing outside of them; needs no daemon."""
    _entry("filesystem").stdio(
        {"roots": roots, "read_only": read_only, "short_way": not no_short_way}
    )
    return 0


def _entry(name: str) -> Any:
    """What the built-in entry point of that name points at.

    Only our own distribution is looked at: reading the metadata of everything that is installed
    would take longer than all the rest of the start.
    """
    own = importlib.metadata.distribution(DISTRIBUTION).entry_points
    (found,) = own.select(group=GROUP, name=name)
    module, _, attribute = found.value.partition(":")
    return getattr(importlib.import_module(module), attribute)
