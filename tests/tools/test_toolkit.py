from __future__ import annotations

import functools
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime.ports import ProbingTool, Tool
from agent_runtime.toolkit import cap, tool
from agent_runtime.types import Effect, EffectPolicy, Json, ToolCall, ToolResult

PATH: Json = {"path": {"type": "string", "description": "The file to count."}}


@tool(effect=Effect.READ, parameters=PATH, required=("path",))
async def word_count(call: ToolCall) -> ToolResult:
    """Count the words
    of a text file.
    """
    return ToolResult(ok=True, output=str(len(call.arguments["path"].split())))


async def exists(call: ToolCall) -> bool | None:
    return call.arguments.get("id") == 7


@tool(effect=Effect.PROBE, parameters={"id": {"type": "integer"}}, probe=exists, name="make_it")
async def create_it(call: ToolCall) -> ToolResult:
    """Make something outside."""
    return ToolResult(ok=True)


def call_of(**arguments: Json) -> ToolCall:
    return ToolCall(call_id="c", tool="t", arguments=arguments, workspace="/w")


def test_a_function_becomes_a_tool_that_fits_the_port() -> None:
    assert isinstance(word_count, Tool)
    assert not isinstance(word_count, ProbingTool)
    assert (word_count.name, word_count.toolbelt, word_count.where) == (
        "word_count",
        "standard",
        "worker",
    )
    assert word_count.description == "Count the words\nof a text file."
    assert word_count.parameters == {
        "type": "object",
        "properties": PATH,
        "required": ["path"],
        "additionalProperties": False,
    }
    assert word_count.effect({}, EffectPolicy()) is Effect.READ


@pytest.mark.anyio
async def test_arguments_are_checked_before_the_function_runs() -> None:
    assert (await word_count.execute(call_of(path="a b c"))).output == "3"
    wrong = await word_count.execute(call_of(pth="a"))
    assert (wrong.ok, wrong.kind) == (False, "bad_input")
    assert wrong.output == (
        "word_count: 'path' is required and missing; 'pth' is not a known key; did you mean "
        "'path'? (known: path)"
    )


@pytest.mark.anyio
async def test_a_tool_of_effect_probe_can_look() -> None:
    assert isinstance(create_it, ProbingTool)
    assert create_it.name == "make_it"
    assert await create_it.probe(call_of(id=7)) is True
    assert await create_it.probe(call_of(id=8)) is False


@pytest.mark.anyio
async def test_a_plain_function_is_a_tool_too_and_needs_no_event_loop() -> None:
    @tool(effect=Effect.READ, parameters=PATH)
    def where(call: ToolCall) -> ToolResult:
        """Say which thread runs it."""
        return ToolResult(ok=True, output=threading.current_thread().name)

    here = threading.current_thread().name
    assert word_count.execute_blocking is None
    assert where.execute_blocking is not None
    assert where.execute_blocking(call_of()).output == here
    assert where.execute_blocking(call_of(no=1)).kind == "bad_input"
    assert (await where.execute(call_of())).output != here
    assert (where.name, where.description) == ("where", "Say which thread runs it.")


@pytest.mark.anyio
async def test_whatever_can_be_awaited_is_an_async_tool() -> None:
    class Counter:
        """Count calls."""

        calls = 0

        async def __call__(self, call: ToolCall) -> ToolResult:
            self.calls += 1
            return ToolResult(ok=True, output=str(self.calls))

    make = tool(effect=Effect.READ, parameters={}, name="count", description="Count calls.")
    for function in (Counter(), Counter().__call__, functools.partial(Counter.__call__, Counter())):
        made = make(function)
        assert made.execute_blocking is None
        assert (await made.execute(call_of())).output == "1"


def test_the_effect_may_depend_on_the_arguments() -> None:
    @tool(
        effect=lambda arguments, policy: Effect.ONCE if arguments.get("post") else Effect.READ,
        parameters={"post": {"type": "boolean"}},
    )
    async def fetch(call: ToolCall) -> ToolResult:
        """Fetch or post."""
        return ToolResult(ok=True)

    assert fetch.effect({}, EffectPolicy()) is Effect.READ
    assert fetch.effect({"post": True}, EffectPolicy()) is Effect.ONCE


def test_a_whole_schema_is_taken_as_it_is_and_an_argument_may_be_called_type() -> None:
    whole: Json = {"type": "object", "properties": PATH, "additionalProperties": False}

    async def count(call: ToolCall) -> ToolResult:
        """Count."""
        return ToolResult(ok=True)

    assert tool(effect=Effect.READ, parameters=whole)(count).parameters is whole
    named_type = tool(effect=Effect.READ, parameters={"type": {"type": "string"}})(count)
    assert named_type.parameters["properties"] == {"type": {"type": "string"}}


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"name": "Word-Count"}, "a name is lower case"),
        ({"description": " "}, "needs a description"),
        ({"required": ("pth",)}, "required argument 'pth' has no schema"),
        ({"parameters": {"type": "object", "properties": {}}}, "additionalProperties: false"),
        ({"effect": Effect.PROBE}, "effect probe needs probe="),
    ],
)
def test_a_broken_definition_is_an_error_that_names_the_tool_and_the_rule(
    broken: dict[str, Json], says: str
) -> None:
    async def count(call: ToolCall) -> ToolResult:
        return ToolResult(ok=True)

    given_arguments: dict[str, Json] = {
        "effect": Effect.READ, "parameters": PATH, "description": "Count.", **broken,
    }  # fmt: skip
    with pytest.raises(ValueError, match=says):
        tool(**given_arguments)(count)


def test_importing_the_toolkit_waits_for_nothing() -> None:
    """The pure loop uses `cap`."""
    code = (
        "import sys; import agent_runtime.toolkit, agent_runtime.protect, agent_runtime.schema\n"
        "print([name for name in ('anyio', 'asyncio', 'subprocess') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_short_text_is_not_cut() -> None:
    assert cap("x" * 10_000) == "x" * 10_000


def test_long_text_keeps_whole_lines_of_head_and_tail() -> None:
    text = "".join(f"line {n}\n" for n in range(5000))
    short = cap(text)
    assert len(short) <= 10_000
    head, _, tail = short.partition("[… ")
    note, _, tail = tail.partition("]\n")
    assert head.startswith("line 0\n") and head.endswith("\n")
    assert tail.endswith("line 4999\n") and tail.startswith("line ")
    lines_cut = 5000 - head.count("\n") - tail.count("\n")
    assert (
        note == f"{len(text) - len(head) - len(tail):,} characters, {lines_cut:,} line ends cut …"
    )


@given(st.text(), st.integers(min_value=0, max_value=300), st.integers(1, 50))
def test_it_is_never_longer_than_the_limit_and_cutting_twice_changes_nothing(
    text: str, limit: int, times: int
) -> None:
    short = cap(text * times, limit)
    assert len(short) <= limit
    assert cap(short, limit) == short
