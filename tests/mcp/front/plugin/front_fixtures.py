"""A server for tests of what happens to a conversation when its daemon dies.

What its tools do is seen in the daemon's directory: a call leaves a line in `effects`, under the
key that came with it, and is not done again under the same key. A call waits until a file says that
it may end.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio

from agent_runtime_mcp.definitions import (
    Asked,
    Change,
    McpServer,
    Page,
    ResourceDefinition,
    ToolAnswer,
    ToolDefinition,
    text,
)
from agent_runtime_mcp.entries import Entry
from agent_runtime_mcp.wire import META_KEY

STRING = {"type": "string"}


def takes(*names: str, **properties: Any) -> dict[str, Any]:
    known = dict.fromkeys(names, STRING) | properties
    return {"type": "object", "properties": known, "required": list(known)}


class Fixtures(McpServer):
    """Counts, waits, asks."""

    name = "fixtures"
    title = "Fixtures"
    has_resources = True

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def fixed_tools(self) -> Sequence[ToolDefinition]:
        marked = {"type": "string", "x-mcp-header": "Region"}
        return [
            ToolDefinition(
                name="count", description="Has an effect, once for each key.",
                input_schema=takes("name"), run=self.count,
            ),
            ToolDefinition(
                name="wait", description="Ends when a file of that name is there.",
                input_schema=takes("name"), run=self.wait,
            ),
            ToolDefinition(
                name="ask", description="Asks who you are.", input_schema=takes(), run=ask
            ),
            ToolDefinition(
                name="marked", description="Wants a header.",
                input_schema=takes(region=marked), run=marked_tool,
            ),
            ToolDefinition(
                name="options", description="Options of the address.",
                input_schema=takes(), run=options,
            ),
        ]  # fmt: skip

    async def count(self, arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
        """Write the effect down, then wait: whoever kills us now leaves it unanswered."""
        effects = self._directory / "effects"
        key = str(asked.meta[META_KEY])
        done = effects.read_text().splitlines() if effects.exists() else []
        if key not in done:
            with effects.open("a") as file:
                file.write(f"{key}\n")
        await asked.progress(1, 2, "done")
        return await self.wait(arguments, asked)

    async def wait(self, arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
        name = arguments["name"]
        (self._directory / f"{name}.begun").touch()
        try:
            while not (self._directory / name).exists():
                await anyio.sleep(0.01)
        except anyio.get_cancelled_exc_class():
            (self._directory / f"{name}.cancelled").touch()
            raise
        return text(f"{name} is there")

    async def resources(self, asked: Asked, cursor: str) -> Page[ResourceDefinition]:
        return Page([ResourceDefinition(uri="test://one", name="one")])

    async def changes(self, uris: Sequence[str], asked: Asked) -> AsyncIterator[Change]:
        """A file named `changed` is a change of every document; each listener says that it is."""
        if uris:
            with (self._directory / "following").open("a") as file:
                file.write(f"{json.dumps(list(uris))}\n")
        while not (self._directory / "changed").exists():
            await anyio.sleep(0.01)
        for uri in uris:
            yield Change("resource", uri)
        await anyio.sleep_forever()


async def ask(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    question = ("elicitation/create", {"message": "Who are you?", "requestedSchema": schema})
    found = await asked.ask({"who": question})
    return text(str((found["who"].get("content") or {}).get("name")))


async def marked_tool(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
    return text(arguments["region"])


async def options(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
    return text(json.dumps(dict(asked.query)))


def serve_alone(options: Mapping[str, Any]) -> None:
    raise AssertionError("only the daemon has it")


fixtures = Entry(lambda context: Fixtures(Path(context.daemon.state_dir)), serve_alone)
