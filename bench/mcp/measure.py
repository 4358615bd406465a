"""One MCP server under load: `python -m bench.mcp.measure WIRE WHO DIRECTORY`.

WIRE: `stdio` or `http` (the stateless wire of 2026-07-28, but for the TypeScript server, which
speaks sessions). WHO: `ours` (the filesystem server, over HTTP in the daemon with its
credentials), `typescript`, `mcpserver`, `fastmcp`, `tools-2`, `tools-100` (ours with so many
tools). Prints one JSON object: processor microseconds a call, calls a second, milliseconds from
spawning to the first list.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.http.processes import daemon
from bench.mcp.load import over_http, over_stdio

ROOT = Path(__file__).parents[2]
PLUGIN = Path(__file__).parent / "plugin"
TYPESCRIPT = ("@modelcontextprotocol/server-filesystem", "2026.8.31")
READ_BYTES = 10_240
START_SECONDS = 60


def main() -> None:
    """Serve, load, tell."""
    wire, who, directory = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    file = directory / "ten.txt"
    file.write_text(("x" * 63 + "\n") * (READ_BYTES // 64), encoding="ascii")
    trivial = ("ping", {}) if who in ("mcpserver", "fastmcp") else _TRIVIAL.get(who, _LISTING)
    calls = {"trivial": trivial}
    if not who.startswith("tools-"):
        calls["read"] = ("read_text_file", {"path": str(file)})
    if wire == "stdio":
        command = _command(who, directory)
        told = asyncio.run(over_stdio(command, calls, modern=who != "typescript"))
    else:
        told = _http(who, directory, calls)
    told["versions"] = _versions(who)
    print(json.dumps(told))


_LISTING: tuple[str, dict[str, Any]] = ("list_allowed_directories", {})
_TRIVIAL: dict[str, tuple[str, dict[str, Any]]] = {
    "tools-2": ("tool_1", {}),
    "tools-100": ("tool_99", {}),
}


def _versions(who: str) -> dict[str, str]:
    if who == "typescript":
        return dict([TYPESCRIPT])
    return {"fastmcp": version("fastmcp")} if who == "fastmcp" else {"mcp": version("mcp")}


def _command(who: str, directory: Path) -> list[str]:
    match who:
        case "ours":
            # The console script: what a client's configuration names.
            script = Path(sys.executable).parent / "agent-runtime"
            return [str(script), "mcp", "filesystem", "--root", str(directory)]
        case "typescript":
            from tests.mcp.node import program

            return [*program(*TYPESCRIPT), str(directory)]
        case "tools-2" | "tools-100":
            return [sys.executable, "-m", "bench.mcp.many_tools", who.partition("-")[2]]
        case _:
            return [sys.executable, "-m", "bench.peers.mcp_servers", who, "stdio"]


def _http(
    who: str, directory: Path, calls: dict[str, tuple[str, dict[str, Any]]]
) -> dict[str, Any]:
    if who in ("ours", "tools-2", "tools-100"):
        name = "filesystem" if who == "ours" else who
        os.environ["AGENT_RUNTIME_WORKSPACE_ROOTS"] = str(directory)
        os.environ["AGENT_RUNTIME_PLUGINS"] = "bench-many-tools"
        with daemon(directory, (ROOT, PLUGIN)) as (process, port, _, token):
            return asyncio.run(over_http(port, process.pid, f"/mcp/{name}", calls, token))
    with _peer(who, directory) as (process, port):
        return asyncio.run(over_http(port, process.pid, "/mcp", calls))


@contextmanager
def _peer(who: str, directory: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "bench.peers.mcp_servers", who, str(port)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(words, cwd=directory, env=env, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + START_SECONDS
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{who} does not serve")
            time.sleep(0.05)
        yield process, port
    finally:
        process.kill()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    main()
