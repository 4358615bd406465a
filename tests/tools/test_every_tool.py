from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from agent_runtime.ports import Tool
from agent_runtime.toolkit import NAME_PATTERN, FunctionTool
from agent_runtime.types import Effect, EffectPolicy, Json, ToolCall
from agent_runtime_tools import files, git, http, python, search, shell

TOOLS: list[Tool] = [
    made for module in (shell, files, search, git, python, http) for made in module.tools()
]
KEYWORDS = {
    "type", "properties", "required", "additionalProperties", "enum", "minimum", "maximum",
    "minLength", "maxLength", "items", "minItems", "maxItems", "anyOf", "oneOf", "description",
}  # fmt: skip

every_tool = pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: str(tool.name))


def test_the_names_are_the_contract() -> None:
    """DESIGN, section 8."""
    assert sorted(tool.name for tool in TOOLS) == [
        "apply_patch", "copy_file", "create_file", "delete_file", "edit_file", "git_add",
        "git_blame", "git_branch", "git_checkout", "git_commit", "git_diff", "git_log",
        "git_reset", "git_show", "git_stash", "git_status", "glob", "grep", "http",
        "list_directory", "move_file", "python", "read_file", "shell", "write_file",
    ]  # fmt: skip


@every_tool
def test_it_fits_the_port(tool: Tool) -> None:
    assert isinstance(tool, Tool)
    assert NAME_PATTERN.fullmatch(tool.name)
    assert len(tool.description) > 20
    assert tool.where == "worker"
    assert tool.toolbelt in ("standard", "git", "http", "python")


@every_tool
def test_a_worker_can_run_it_without_an_event_loop(tool: Tool) -> None:
    """Loading one costs a cold start more than everything else together."""
    assert isinstance(tool, FunctionTool)
    assert tool.execute_blocking is not None


@every_tool
def test_its_schema_is_closed_and_documented(tool: Tool) -> None:
    schema = tool.parameters
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) <= set(schema["properties"])
    for key, argument in schema["properties"].items():
        assert argument.get("description"), f"{key} has no description"
    assert _keywords(schema) <= KEYWORDS


@every_tool
def test_its_effect_is_safe_to_repeat_or_rolled_back_without_egress(tool: Tool) -> None:
    assert tool.effect({}, EffectPolicy()) in (Effect.READ, Effect.WORKSPACE)


@every_tool
@pytest.mark.anyio
async def test_a_misspelled_argument_is_refused_with_the_nearest_key(tool: Tool) -> None:
    key = next(iter(tool.parameters["properties"]), None)
    assert key is not None
    call = ToolCall(call_id="c", tool=tool.name, arguments={key + "s_": 1}, workspace="/nowhere")
    result = await tool.execute(call)
    assert (result.ok, result.kind) == (False, "bad_input")
    assert f"'{key}s_' is not a known key; did you mean {key!r}?" in result.output


@every_tool
@pytest.mark.anyio
async def test_an_argument_of_the_wrong_type_is_refused_with_its_name(tool: Tool) -> None:
    arguments: dict[str, Json] = dict.fromkeys(tool.parameters["properties"])
    result = await tool.execute(
        ToolCall(call_id="c", tool=tool.name, arguments=arguments, workspace="/nowhere")
    )
    assert result.kind == "bad_input"
    for key in arguments:
        assert repr(key) in result.output


def test_importing_every_entry_point_loads_nothing_heavy() -> None:
    """A worker's cold start has 100 ms for everything."""
    heavy = ("git", "difflib", "tomllib", "anyio", "asyncio", "shutil", "pathlib", "ssl", "socket")
    code = (
        "import sys; from agent_runtime_tools import shell, files, search, git, python, http\n"
        "assert len(git.tools()) == 11\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def _keywords(schema: Json) -> set[str]:
    return set(_walk(schema))


def _walk(schema: Json) -> Iterator[str]:
    yield from schema
    for below in schema.get("properties", {}).values():
        yield from _walk(below)
    for choice in schema.get("anyOf", ()):
        yield from _walk(choice)
    if "items" in schema:
        yield from _walk(schema["items"])
