"""What a brain sees from the start."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from agent_runtime import plugins
from agent_runtime.loop import native
from agent_runtime.loop.discover import CORE, SCHEMA_BYTES_MAX, discover, offered, schema_bytes
from agent_runtime.ports import Tool, Toolbox
from agent_runtime.toolbox import PluginToolbox
from agent_runtime.types import Policy, TaskSpec, ToolInfo, WorkspaceSpec
from tests.discovery.catalogue import infos

TASK = TaskSpec(goal="Mend the parser", workspace=WorkspaceSpec(repo="/repo"))
BUILT_IN = PluginToolbox.from_plugins(plugins.load())


class Registered:
    """The built-in tools and others, of which only the faces are there."""

    def __init__(self, *others: ToolInfo) -> None:
        self._infos = {info.name: info for info in (*BUILT_IN.all(), *others)}

    def find(self, name: str) -> ToolInfo | None:
        return self._infos.get(name)

    def all(self) -> list[ToolInfo]:
        return sorted(self._infos.values(), key=lambda info: info.name)

    def get(self, name: str) -> Tool:
        return BUILT_IN.get(name)

    async def activate(self, toolbelt: str) -> list[str]:
        raise NotImplementedError

    async def deactivate(self, toolbelt: str) -> None:
        raise NotImplementedError


def sent(names: list[str], toolbox: Toolbox) -> str:
    """The schemas as they go out, by another encoder than the one that made the choice."""
    shown = [offered(info) for name in names if (info := toolbox.find(name) or native.find(name))]
    return json.dumps(
        [{"name": t.name, "description": t.description, "parameters": t.parameters} for t in shown],
        separators=(",", ":"),
        ensure_ascii=False,
    )


def test_with_a_hundred_tools_the_schemas_have_at_most_6_kb() -> None:
    """Our contract: whatever is installed, a brain's prefix stays small."""
    toolbox = Registered(*infos())
    found = discover(TASK, toolbox)
    assert len(found.tools) >= 100
    assert len(sent(found.visible, toolbox).encode()) <= SCHEMA_BYTES_MAX <= 6 * 1024
    assert tuple(found.visible) == CORE


def test_the_order_does_not_depend_on_the_goal_or_on_who_registered_first() -> None:
    others = [replace(info, toolbelt="standard") for info in infos()]
    forward, backward = Registered(*others), Registered(*reversed(others))
    seen = discover(TASK, forward).visible
    assert discover(TASK, backward) == discover(TASK, forward)
    other_goal = discover(replace_goal("Resize all images"), forward).visible
    assert seen[: len(CORE)] == other_goal[: len(CORE)] == list(CORE)
    assert other_goal[len(CORE) :] == sorted(other_goal[len(CORE) :])


def test_of_standard_tools_that_do_not_all_fit_those_that_suit_the_goal_are_seen() -> None:
    """A plug-in's tool is standard if its author says so; the room is what it is."""
    others = [replace(info, toolbelt="standard") for info in infos()]
    ranked = discover(replace_goal("Resize the logo"), Registered(*others))
    assert ranked.tools[0].name == "image_resize"
    bare = Only(*others)
    seen = discover(replace_goal("Resize the logo"), bare).visible
    assert "image_resize" in seen and "mongo_find" not in seen
    assert seen[:2] == ["find_tools", "recall"]
    assert len(sent(seen, bare).encode()) <= SCHEMA_BYTES_MAX


def test_what_the_author_names_is_seen_although_its_toolbelt_is_off() -> None:
    ticket = ToolInfo(
        name="open_ticket", description="Open a ticket.", toolbelt="tickets", where="daemon",
        parameters={"type": "object", "properties": {}, "additionalProperties": False},
    )  # fmt: skip
    task = TaskSpec(goal="g", policy=Policy(tools=["open_ticket"]))
    assert discover(task, Only(ticket)).visible == ["find_tools", "recall", "open_ticket"]
    assert discover(TaskSpec(goal="g"), Only(ticket)).visible == ["find_tools", "recall"]


def test_a_tool_with_a_huge_schema_is_left_to_find_tools() -> None:
    huge = replace(infos()[0], name="huge", toolbelt="standard", description="x" * 7000)
    found = discover(TASK, Only(huge))
    assert found.visible == ["find_tools", "recall"]
    assert "huge" in {tool.name for tool in found.tools}


def test_a_toolbelt_that_the_policy_forbids_is_not_seen_either() -> None:
    task = TaskSpec(
        goal="g", workspace=WorkspaceSpec(repo="/repo"), policy=Policy(toolbelts=["git"])
    )
    seen = discover(task, BUILT_IN).visible
    assert "python" not in seen and "git_status" in seen


@pytest.mark.parametrize("info", [*BUILT_IN.all(), *native.NATIVE], ids=lambda info: info.name)
def test_what_is_sent_says_all_but_what_the_runtime_checks_itself(info: ToolInfo) -> None:
    short = offered(info).parameters
    assert set(short["properties"]) == set(info.parameters["properties"])
    assert short.get("required", []) == info.parameters.get("required", [])
    assert "additionalProperties" not in short
    assert not {"minLength", "maximum", "minItems"} & set(json.dumps(short).split('"'))
    assert schema_bytes(info) <= 1200


def test_an_argument_that_is_called_like_a_keyword_is_kept() -> None:
    parameters = {"type": "object", "properties": {"minimum": {"type": "integer", "minimum": 1}}}
    made = replace(infos()[0], parameters=parameters)
    assert offered(made).parameters == {
        "type": "object",
        "properties": {"minimum": {"type": "integer"}},
    }


class Only(Registered):
    """These tools, and none that is built in."""

    def __init__(self, *given: ToolInfo) -> None:
        self._infos = {info.name: info for info in given}


def replace_goal(goal: str) -> TaskSpec:
    return TaskSpec(goal=goal, workspace=WorkspaceSpec(repo="/repo"))
