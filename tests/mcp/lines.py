"""A stdio server as a process, and JSON-RPC with it line by line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any

ROOT = Path(__file__).parents[2]
SECONDS_MAX = 30.0
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
    "io.modelcontextprotocol/clientInfo": {"name": "lines", "version": "0"},
}
"""What a request of the stateless wire says for itself."""


class Lines:
    """One conversation. Replies come by their id, notifications in their order."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.heard: Queue[dict[str, Any] | None] = Queue()
        self.notifications: list[dict[str, Any]] = []
        self._replies: dict[Any, dict[str, Any]] = {}
        self._number = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.heard.put(json.loads(line))
        self.heard.put(None)

    def send(self, message: object) -> None:
        """A message, or a line as it is."""
        assert self.process.stdin is not None
        line = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def reply(self, request_id: Any) -> dict[str, Any]:
        """The response to a request that was sent."""
        while request_id not in self._replies:
            message = self.heard.get(timeout=SECONDS_MAX)
            assert message is not None, "the server has gone"
            if "method" in message:
                self.notifications.append(message)
            else:
                self._replies[message["id"]] = message
        return self._replies.pop(request_id)

    def ask(self, method: str, *, modern: bool = False, **params: Any) -> dict[str, Any]:
        """One request, and its response."""
        self._number += 1
        if modern:
            params["_meta"] = {**META, **params.get("_meta", {})}
        message: dict[str, Any] = {"jsonrpc": "2.0", "id": self._number, "method": method}
        if params:
            message["params"] = params
        self.send(message)
        return self.reply(self._number)

    def initialize(self, version: str = "2025-11-25") -> dict[str, Any]:
        """The handshake of the wires with sessions."""
        client = {"name": "lines", "version": "0"}
        said = self.ask("initialize", protocolVersion=version, capabilities={}, clientInfo=client)
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return said

    def call(self, name: str, *, modern: bool = False, **arguments: Any) -> dict[str, Any]:
        """`tools/call`; its result."""
        said = self.ask("tools/call", modern=modern, name=name, arguments=arguments)
        assert "result" in said, said
        result: dict[str, Any] = said["result"]
        return result

    def end(self) -> None:
        """Of the process, to be noted here too."""
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def close(self) -> int:
        """As a client goes that takes its time; the exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(SECONDS_MAX)


@contextmanager
def speaking(command: Sequence[str], **environment: str) -> Iterator[Lines]:
    """A server that is killed at the end, if it still lives."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    lines = Lines(process)
    try:
        yield lines
    finally:
        process.kill()
        lines.end()


def small(*arguments: str) -> list[str]:
    """The command of the small server."""
    return [sys.executable, "-m", "tests.mcp.small_server", *arguments]
