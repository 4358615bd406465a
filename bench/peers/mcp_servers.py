"""The SDK's own server and fastmcp, with two tools: `python -m bench.peers.mcp_servers WHO WIRE`.

WIRE is `stdio` or a port; over HTTP both answer JSON without sessions, their fastest way.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path


def ping() -> str:
    """Say pong."""
    return "pong"


def read_text_file(path: str) -> str:
    """Read a file."""
    return Path(path).read_text(encoding="utf-8")


def main(who: str, wire: str) -> None:
    """Serve until killed."""
    logging.disable(logging.CRITICAL)
    if who == "mcpserver":
        from mcp.server.mcpserver import MCPServer

        server = MCPServer("bench")
        server.tool()(ping)
        server.tool()(read_text_file)
        if wire == "stdio":
            server.run("stdio")
        else:
            server.run("streamable-http", port=int(wire), json_response=True, stateless_http=True)
    else:
        from fastmcp import FastMCP

        fast = FastMCP("bench")
        fast.tool(ping)
        fast.tool(read_text_file)
        if wire == "stdio":
            fast.run("stdio", show_banner=False)
        else:
            fast.run(
                "http", port=int(wire), json_response=True, stateless_http=True, show_banner=False
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
