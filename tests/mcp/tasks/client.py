"""A client of the stateless wire that knows tasks and keeps nothing but their ids."""

from __future__ import annotations

import http.client
import itertools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent_runtime_mcp.wire import (
    META_CAPABILITIES,
    META_KEY,
    META_VERSION,
    MODERN,
    TASKS_EXTENSION,
)

CAPABILITIES: dict[str, Any] = {"elicitation": {}, "extensions": {TASKS_EXTENSION: {}}}
ENDED = ("completed", "failed", "cancelled")
_numbers = itertools.count(1)


class Refused(Exception):
    """A JSON-RPC error."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.code: int = error["code"]


@dataclass
class TaskClient:
    """Speaks to one server of a daemon, which may be gone at any time."""

    port: int
    token: str
    path: str = "/mcp/conformance"
    seconds_max: float = 30.0
    losses: int = 0
    """Requests that were cut, refused a connection or not answered in time."""
    capabilities: Mapping[str, Any] = field(default_factory=lambda: CAPABILITIES)

    def once(self, method: str, **params: Any) -> dict[str, Any]:
        """One request. `OSError` or `HTTPException`: nothing is known of it."""
        meta = {META_VERSION: MODERN, META_CAPABILITIES: self.capabilities}
        params["_meta"] = meta | params.get("_meta", {})
        body = {"jsonrpc": "2.0", "id": next(_numbers), "method": method, "params": params}
        headers = {
            "Authorization": f"Bearer {self.token}", "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream", "MCP-Protocol-Version": MODERN,
            "Mcp-Method": method, "Mcp-Name": params.get("name") or params.get("taskId") or "",
        }  # fmt: skip
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("POST", self.path, json.dumps(body).encode(), headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status == 503:
            raise ConnectionRefusedError(text)  # it starts or ends: as good as not there
        if text.startswith(b"event:"):
            text = text.split(b"data: ")[-1]
        said: dict[str, Any] = json.loads(text)
        if "error" in said:
            raise Refused(said["error"])
        result: dict[str, Any] = said["result"]
        return result

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """The request, made again for as long as nothing is known of it."""
        deadline = time.monotonic() + self.seconds_max
        while True:
            try:
                return self.once(method, **params)
            except (OSError, http.client.HTTPException, json.JSONDecodeError):
                self.losses += 1
                assert time.monotonic() < deadline, f"{method} was not answered"
                time.sleep(0.02)

    def call(self, name: str, key: str = "", **arguments: Any) -> dict[str, Any]:
        meta = {META_KEY: key} if key else {}
        return self.ask("tools/call", name=name, arguments=arguments, _meta=meta)

    def get(self, task_id: str) -> dict[str, Any]:
        return self.ask("tasks/get", taskId=task_id)

    def until(self, task_id: str, reached: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """Poll until it stands so."""
        deadline = time.monotonic() + self.seconds_max
        while not reached(task := self.get(task_id)):
            assert time.monotonic() < deadline, f"{task_id} stays {task}"
            time.sleep(0.03)
        return task

    def end(self, task_id: str) -> dict[str, Any]:
        return self.until(task_id, lambda task: task["status"] in ENDED)
