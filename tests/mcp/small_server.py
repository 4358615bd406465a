"""A server of one file, for tests of the wires: on stdio when it is run as a program."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import anyio

from agent_runtime.errors import NotFound
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


def echo_now(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer | None:
    """At once, but for what is said to be slow."""
    if arguments["text"].startswith("fail"):
        raise NotFound(f"{arguments['text']!r} cannot be found")
    return None if arguments["text"].startswith("slow") else text(arguments["text"])


async def echo(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
    await asked.progress(1, 2, "half")
    return text(arguments["text"])


async def greet(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    question = ("elicitation/create", {"message": "Who are you?", "requestedSchema": schema})
    found = await asked.ask({"who": question})
    return text(f"{found['who']['action']} {found['who'].get('content')}")


async def hang(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
    await asked.log("info", "hanging")
    await anyio.sleep_forever()
    raise AssertionError


STRING = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
NOTHING: dict[str, Any] = {"type": "object", "properties": {}}


class SmallServer(McpServer):
    """Two tools that answer at once, and some that do not."""

    name = "small"
    title = "Small"
    instructions = "Echo."
    has_resources = True

    def fixed_tools(self) -> Sequence[ToolDefinition]:
        return [
            ToolDefinition(
                name="echo", description="Says it again.", input_schema=STRING,
                now=echo_now, run=echo, annotations={"readOnlyHint": True},
            ),
            ToolDefinition(name="greet", description="Asks.", input_schema=NOTHING, run=greet),
            ToolDefinition(name="hang", description="Hangs.", input_schema=NOTHING, run=hang),
        ]  # fmt: skip

    async def resources(self, asked: Asked, cursor: str) -> Page[ResourceDefinition]:
        return Page([ResourceDefinition(uri="test://one", name="one")])

    async def changes(self, uris: Sequence[str], asked: Asked) -> AsyncIterator[Change]:
        for uri in uris:
            yield Change("resource", uri)
        await anyio.sleep_forever()


if __name__ == "__main__":
    from agent_runtime_mcp.stdio import Stdio

    Stdio(SmallServer(), {}, short_way="--long" not in sys.argv).run()
