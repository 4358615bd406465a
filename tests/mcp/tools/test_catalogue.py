"""What clients see of registered tools, with a hundred of them."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from agent_runtime.api.daemon import Daemon, Readiness
from agent_runtime.api.hub import Hub
from agent_runtime.api.metrics import Metrics
from agent_runtime.contributions import Contribution
from agent_runtime.modules.registry import ModuleHealth
from agent_runtime.runtime import Runtime
from agent_runtime.toolbox import PluginToolbox
from agent_runtime.toolkit import FunctionTool, changes_workspace_unless_networked, tool
from agent_runtime.types import Effect, Policy, TaskSpec, ToolCall, ToolResult, WorkspaceSpec
from agent_runtime_mcp.tools.catalogue import make
from agent_runtime_mcp.tools.server import ToolsServer
from agent_runtime_mcp.wire import tool_entry
from tests.loop.harness import Bench
from tests.mcp.asked import FakeAsked, call, text_of

pytestmark = pytest.mark.anyio


def made(name: str, effect: Any = Effect.READ, **more: Any) -> FunctionTool:
    async def run(call: ToolCall) -> ToolResult:
        return ToolResult(ok=True)

    return tool(
        name=name,
        description=f"Does {name.replace('_', ' ')}, and says what came of it.",
        effect=effect,
        parameters={"path": {"type": "string"}},
        **more,
    )(run)


def toolbox(*tools: FunctionTool) -> PluginToolbox:
    return PluginToolbox([Contribution(tools=tools, module=None, sources={})])


def server(box: PluginToolbox) -> ToolsServer:
    bench = Bench()
    bench.toolbox = box  # type: ignore[assignment]
    runtime = Runtime(bench.ports(bench.store()), state_dir="/nowhere")

    async def modules() -> list[ModuleHealth]:
        return []

    return ToolsServer(
        Daemon(
            runtime=runtime,
            hub=Hub(runtime.ports.store),
            metrics=Metrics(),
            modules=modules,
            state_dir="/nowhere",
            readiness=Readiness.READY,
        )
    )


HUNDRED = [made(f"tool_{number:02}") for number in range(98)] + [
    made("send_letter", Effect.ONCE),
    made("freeze_water", Effect.WORKSPACE),
]


async def test_in_search_mode_a_hundred_tools_are_two() -> None:
    found = server(toolbox(*HUNDRED))
    asked = FakeAsked(query={"mode": "search"})
    listed = [tool_entry(each) for each in await found.tools(asked)]
    assert [each["name"] for each in listed] == ["search_tools", "call_tool"]
    assert len(json.dumps({"tools": listed})) <= 2048
    hits = json.loads(text_of(await call(found, "search_tools", asked, query="post letters")))
    assert hits["tools"][0]["name"] == "send_letter"
    assert hits["tools"][0]["inputSchema"]["properties"] == {"path": {"type": "string"}}
    nothing = await call(found, "search_tools", asked, query="zzz")
    assert nothing.is_error and "standard" in text_of(nothing)


async def test_all_are_listed_in_one_order_and_found_without_a_look_at_the_others() -> None:
    """A call among 100 tools costs what it costs among 2: as many lines of ours are run."""
    counts = []
    for box in (toolbox(*HUNDRED), toolbox(*HUNDRED[-2:])):
        found, asked = server(box), FakeAsked()
        names = [each.name for each in await found.tools(asked)]
        assert names == [*sorted(names[:-1]), "read_output"]
        steps = 0

        def count(*_: object) -> None:
            nonlocal steps
            steps += 1

        sys.setprofile(count)
        try:
            definition = await found.tool("send_letter", asked)
        finally:
            sys.setprofile(None)
        assert definition is not None and await found.tool("nothing_such", asked) is None
        counts.append(steps)
    assert counts[0] == counts[1]


def test_annotations_promise_no_more_than_every_call_keeps() -> None:
    async def probe(call: ToolCall) -> bool | None:
        return None

    box = toolbox(
        made("a", Effect.READ), made("b", Effect.WORKSPACE), made("c", Effect.IDEMPOTENT),
        made("d", Effect.PROBE, probe=probe, where="daemon"), made("e", Effect.ONCE),
        made("f", lambda arguments, policy: Effect.READ),
        made("g", changes_workspace_unless_networked),
        made("h", Effect.READ, where="daemon"), made("i", where="daemon"),
    )  # fmt: skip

    def hints(network: str) -> dict[str, str]:
        policy = Policy(tools=["d", "h"], network=network)  # type: ignore[arg-type]
        task = TaskSpec(goal="-", workspace=WorkspaceSpec(repo="/"), policy=policy)
        short = {"readOnlyHint": "r", "destructiveHint": "d", "idempotentHint": "i",
                 "openWorldHint": "o"}  # fmt: skip
        found = make(task, box, lambda name: None, lambda name: None)  # type: ignore[arg-type, return-value]
        return {
            each.name: "".join(short[key] for key, value in each.annotations.items() if value)
            for each in found.definitions
        }

    # A daemon's tool is given by name only: `i` is not.
    assert hints("none") == {"a": "ri", "b": "d", "c": "dio", "d": "do", "e": "do", "f": "do",
                             "g": "d", "h": "rio"}  # fmt: skip
    assert {name: hints("full")[name] for name in "ag"} == {"a": "rio", "g": "do"}
