"""A process that serves *tools* to whoever writes lines to it: the one that tests kill.

`python -m tests.mcp.tools.serving STORE ROOT` reads requests `{id, tool, arguments, key, query}`
and writes answers `{id, text, error}`, each as one line of JSON, whichever is ready first.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread

from agent_runtime.api.daemon import Daemon, Readiness
from agent_runtime.api.hub import Hub
from agent_runtime.api.metrics import Metrics
from agent_runtime.app import open_runtime
from agent_runtime.settings import Settings, state_dir
from agent_runtime.toolbox import PluginToolbox
from agent_runtime_mcp.definitions import McpFault
from agent_runtime_mcp.tools.server import ToolsServer
from agent_runtime_mcp.wire import META_KEY
from tests.mcp.asked import FakeAsked, call, text_of


@asynccontextmanager
async def serving(
    settings: Settings, root: str, **options: Any
) -> AsyncIterator[tuple[ToolsServer, Daemon]]:
    """A daemon without its HTTP face, whose tasks are driven."""
    async with open_runtime(settings) as runtime, anyio.create_task_group() as tasks:
        toolbox = runtime.ports.toolbox
        assert isinstance(toolbox, PluginToolbox)
        daemon = Daemon(
            runtime=runtime, hub=Hub(runtime.ports.store), metrics=Metrics(),
            modules=toolbox.modules.health, state_dir=state_dir(settings),
            workspace_roots=(root,), readiness=Readiness.READY,
        )  # fmt: skip
        server = ToolsServer(daemon, **options)
        tasks.start_soon(server.run)
        tasks.start_soon(runtime.supervisor.run_until_stopped)
        yield server, daemon
        runtime.supervisor.stop.set()
        tasks.cancel_scope.cancel()


async def main(*argv: str) -> None:
    """Until killed."""
    store, root = argv
    settings = Settings(store=store)
    async with serving(settings, root) as (server, _), anyio.create_task_group() as tasks:
        print("ready", flush=True)
        while line := await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            tasks.start_soon(_answer, server, json.loads(line))


async def _answer(server: ToolsServer, request: dict[str, Any]) -> None:
    meta = {META_KEY: request["key"]} if request.get("key") else {}
    asked = FakeAsked(query=request["query"], meta=meta)
    try:
        answer = await call(server, request["tool"], asked, **request["arguments"])
        said = {"text": text_of(answer), "error": answer.is_error}
    except McpFault as fault:
        said = {"text": fault.message, "error": True}
    print(json.dumps({"id": request["id"], **said}), flush=True)


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
