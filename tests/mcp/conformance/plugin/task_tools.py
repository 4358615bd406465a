"""Tools of the fixtures whose calls may become tasks, and some that tests of tasks need.

`write_once` and `write_again` append to a file, so that effects can be counted: the first may not
be repeated, the second may.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio

from agent_runtime_mcp.definitions import (
    Asked,
    McpFault,
    ToolAnswer,
    ToolDefinition,
    failed,
    text,
)
from agent_runtime_mcp.wire import META_KEY

STRING = {"type": "string"}
NUMBER = {"type": "number"}
NAME = {"type": "object", "properties": {"name": STRING}, "required": ["name"]}
CONFIRM = {"type": "object", "properties": {"confirm": {"type": "boolean"}}}


def _wants(required: Sequence[str] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


def _form(message: str, schema: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    return "elicitation/create", {"message": message, "requestedSchema": schema}


async def greet(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
    return text(f"Hello, {arguments.get('name', 'World')}!")


async def slow_compute(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
    seconds = float(arguments.get("seconds", 0))
    await asked.progress(0, seconds, "computing")
    await anyio.sleep(seconds)
    return text(f"computed {arguments.get('label', '')} in {seconds:g} s")


async def failing_job(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
    await anyio.sleep(1)
    return failed("this job always fails")


async def protocol_error_job(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
    raise McpFault(McpFault.INTERNAL, "this job always ends with a protocol error")


async def confirm_delete(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
    name = arguments.get("filename", "?")
    found = await asked.ask({"confirm": _form(f"Delete {name}?", CONFIRM)})
    answer = found["confirm"]
    agreed = answer.get("action") == "accept" and (answer.get("content") or {}).get("confirm")
    return text(f"{name} was {'deleted' if agreed else 'kept'}")


async def multi_input(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
    found = await asked.ask(
        {"first": _form("First name?", NAME), "second": _form("Second name?", NAME)}
    )
    return text(" and ".join(str(found[key].get("content")) for key in ("first", "second")))


async def ask_first(arguments: Mapping[str, Any], asked: Asked) -> Mapping[str, Any]:
    found = await asked.ask({"user_name": _form("What is your name?", NAME)})
    return {"user_name": (found["user_name"].get("content") or {}).get("name", "nobody")}


async def test_tool_with_task(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
    return text(f"Hello, {arguments.get('user_name', 'nobody')}!")


async def write(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
    """One line, with the key of the call, and then it takes its time."""
    with Path(arguments["path"]).open("a", encoding="utf-8") as file:
        file.write(f"{arguments['word']} {asked.meta.get(META_KEY)}\n")
    await anyio.sleep(float(arguments.get("seconds", 0)))
    return text(f"wrote {arguments['word']}")


def definitions() -> list[ToolDefinition]:
    """All of them."""

    def tool(name: str, run: Any, schema: Mapping[str, Any], **more: Any) -> ToolDefinition:
        more.setdefault("task_support", "optional")
        return ToolDefinition(
            name=name, description=f"Fixture {name}.", input_schema=schema, run=run, **more
        )

    nothing = _wants()
    lines = _wants(("path", "word"), path=STRING, word=STRING, seconds=NUMBER)
    return [
        tool("greet", greet, _wants(name=STRING), task_support="forbidden"),
        tool(
            "slow_compute", slow_compute, _wants(seconds=NUMBER, label=STRING),
            repeatable=lambda _: True,
        ),
        tool("failing_job", failing_job, nothing, task_support="required"),
        tool("protocol_error_job", protocol_error_job, nothing),
        tool("confirm_delete", confirm_delete, _wants(filename=STRING)),
        tool("multi_input", multi_input, nothing),
        tool(
            "test_tool_with_task", test_tool_with_task, nothing, task_support="required",
            begin=ask_first,
        ),
        tool("write_once", write, lines),
        tool("write_again", write, lines, repeatable=lambda _: True),
    ]  # fmt: skip
