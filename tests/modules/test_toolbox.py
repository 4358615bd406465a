"""`PluginToolbox` keeps the promises of `ports.Toolbox`."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest

from agent_runtime import plugins
from agent_runtime.contributions import Contribution, of_module
from agent_runtime.errors import NotFound, PluginError
from agent_runtime.ports import ModuleContext, Tool, Toolbox
from agent_runtime.testing import info_of
from agent_runtime.toolbox import PluginToolbox
from agent_runtime.toolkit import FunctionTool, tool
from agent_runtime.types import Effect, ToolCall, ToolInfo, ToolResult, Where

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def made(name: str, *, toolbelt: str = "standard", where: Where = "worker") -> FunctionTool:
    @tool(
        name=name, description=name, effect=Effect.READ, parameters={}, toolbelt=toolbelt,
        where=where,
    )  # fmt: skip
    async def execute(call: ToolCall) -> ToolResult:
        return ToolResult(ok=True, output=name)

    return execute


class OneModule:
    description = "A test module."

    def __init__(self, name: str, *, toolbelt: str, fault: str = "") -> None:
        self.name, self._toolbelt, self._fault = name, toolbelt, fault
        self.alive = False

    def tools(self) -> Sequence[Tool]:
        return [made(f"{self.name}_tool", toolbelt=self._toolbelt, where="daemon")]

    async def initialize(self, context: ModuleContext) -> None:
        if self._fault:
            raise OSError(self._fault)
        self.alive = True

    async def cleanup(self) -> None:
        self.alive = False

    async def health(self) -> str | None:
        return None


def plain(*tools: Tool, source: str = "acme:tools") -> Contribution:
    return Contribution(tools=tools, sources={each.name: source for each in tools})


def as_port(toolbox: PluginToolbox) -> Toolbox:
    """For the type checker."""
    return toolbox


async def test_tools_are_found_by_name_with_their_source() -> None:
    look = made("look")
    toolbox = as_port(PluginToolbox([plain(look, made("hear"))]))
    assert toolbox.get("look") is look
    assert toolbox.find("look") == ToolInfo(
        name="look", description="look", parameters=look.parameters, toolbelt="standard",
        where="worker", source="acme:tools",
    )  # fmt: skip
    assert toolbox.find("nothing") is None
    assert [info.name for info in toolbox.all()] == ["hear", "look"]


async def test_a_missing_tool_is_answered_with_the_nearest() -> None:
    toolbox = PluginToolbox([plain(made("read_file"))])
    with pytest.raises(NotFound, match="'readfile'; did you mean 'read_file'"):
        toolbox.get("readfile")


async def test_the_standard_toolbelt_is_always_on() -> None:
    assert await PluginToolbox([plain(made("b"), made("a"))]).activate("standard") == ["a", "b"]
    assert await PluginToolbox().activate("standard") == []


async def test_a_missing_toolbelt_is_answered_with_the_nearest() -> None:
    toolbox = PluginToolbox([plain(made("a", toolbelt="python"))])
    with pytest.raises(NotFound, match=r"'pyton'; did you mean 'python'\? \(installed: python, st"):
        await toolbox.activate("pyton")


async def test_a_toolbelt_of_plain_tools_starts_nothing() -> None:
    toolbox = PluginToolbox([plain(made("a", toolbelt="git"), made("b"))])
    assert await toolbox.activate("git") == ["a"]
    await toolbox.deactivate("git")


async def test_a_toolbelt_may_come_from_tools_and_several_modules() -> None:
    one, two, other = (
        OneModule("one", toolbelt="db"), OneModule("two", toolbelt="db"),
        OneModule("other", toolbelt="other"),
    )  # fmt: skip
    parts = [plain(made("plain", toolbelt="db")), of_module(one), of_module(two), of_module(other)]
    async with PluginToolbox(parts) as toolbox:
        assert await toolbox.activate("db") == ["one_tool", "plain", "two_tool"]
        assert (one.alive, two.alive, other.alive) == (True, True, False)
        await toolbox.activate("db")
        await toolbox.deactivate("db")
        assert (one.alive, two.alive) == (True, True)
        await toolbox.deactivate("db")
        assert (one.alive, two.alive) == (False, False)


async def test_a_deactivation_too_many_takes_nothing_from_the_others() -> None:
    one = OneModule("one", toolbelt="db")
    async with PluginToolbox([of_module(one)]) as toolbox:
        await toolbox.deactivate("db")
        await toolbox.deactivate("no_such_toolbelt")
        await toolbox.activate("db")
        assert one.alive


async def test_when_one_module_does_not_start_the_others_are_let_go() -> None:
    good, bad = OneModule("good", toolbelt="db"), OneModule("bad", toolbelt="db", fault="no disk")
    async with PluginToolbox([of_module(good), of_module(bad)]) as toolbox:
        with pytest.raises(PluginError, match=r"module 'bad' is in quarantine.*no disk"):
            await toolbox.activate("db")
        with anyio.fail_after(5):
            await toolbox.modules.stopped("good")
        assert not good.alive
        await toolbox.deactivate("db")


async def test_what_a_module_says_of_itself_helps_to_find_its_tools() -> None:
    info = PluginToolbox([of_module(OneModule("good", toolbelt="db"))]).find("good_tool")
    assert info is not None
    assert info.about == OneModule.description != ""


async def test_a_toolbox_is_made_of_what_was_loaded() -> None:
    loaded = plugins.load()
    toolbox = PluginToolbox.from_plugins(loaded)
    shell = toolbox.find("shell")
    assert shell is not None
    assert shell.source == "agent_runtime_tools.shell:tools"
    assert info_of(toolbox.get("shell")).name == "shell"
