"""What a person sees of a call that waits for a yes."""

from __future__ import annotations

from dataclasses import dataclass

import anyio
import pytest

from agent_runtime.errors import ToolRefused, WorkerLost
from agent_runtime.loop import events as e
from agent_runtime.loop.calls import PREVIEW_CHARS_MAX
from agent_runtime.testing import FakeEnvironment
from agent_runtime.toolkit import FunctionTool
from agent_runtime.types import Effect, Status, TaskSpec, ToolCall, Where
from tests.loop.harness import Bench, Script, step, task
from tests.loop.test_approvals import answer

pytestmark = pytest.mark.anyio

ASK = {"approvals": {"pay": "ask"}}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Foreseeing(FunctionTool):
    """A scripted tool with a preview: a text, an exception, or seconds."""

    told: str | float | Exception
    asked: list[ToolCall]

    async def preview(self, call: ToolCall) -> str:
        self.asked.append(call)
        if isinstance(self.told, Exception):
            raise self.told
        if isinstance(self.told, float):
            await anyio.sleep(self.told)
            return "late"
        return self.told


def bench_with(
    told: str | float | Exception,
    *others: Script,
    where: Where = "worker",
    effect: Effect = Effect.WORKSPACE,
) -> tuple[Bench, list[ToolCall]]:
    asked: list[ToolCall] = []

    class Foreseen(Script):
        def tool(self) -> FunctionTool:
            made = Script.tool(self)
            fields = {name: getattr(made, name) for name in FunctionTool.__dataclass_fields__}
            return Foreseeing(told=told, asked=asked, **fields)

    return Bench(Foreseen("pay", effect, where=where), *others), asked


async def shown(bench: Bench, *, policy: object = ASK) -> str:
    """What the first question shows."""
    await bench.submit(task(step("a", "pay", args={"text": "hi"}), policy=policy))
    await bench.drive_and_die(100)
    return bench.of(e.ApprovalRequested)[0].preview


@pytest.mark.parametrize("where", ["worker", "daemon"])
async def test_the_question_shows_what_the_call_would_change(where: Where) -> None:
    bench, asked = bench_with("+new line\n", where=where)
    assert await shown(bench) == "+new line\n"
    [call] = asked
    assert call.arguments == {"text": "hi"} and call.tool == "pay"
    assert not bench.scripts["pay"].calls
    await bench.say(answer("approve"))
    state = await bench.drive()
    assert len(bench.scripts["pay"].calls) == 1
    assert len(asked) == 1, "once it is allowed, nobody asks what it would change"
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED


@pytest.mark.parametrize("decision", ["allow", "deny"])
async def test_nothing_is_foreseen_for_a_call_that_nobody_is_asked_about(decision: str) -> None:
    bench, asked = bench_with("+new line\n")
    await bench.run(task(step("a", "pay"), policy={"approvals": {"pay": decision}}))
    assert not asked


async def test_a_rule_for_an_argument_asks_with_its_preview_too() -> None:
    bench, _ = bench_with("+x")
    rules = {"approvals": {"pay(text=h*)": "ask"}}
    assert await shown(bench, policy=rules) == "+x"
    [asked] = bench.of(e.ApprovalRequested)
    assert asked.question == "May step 'a' call 'pay'? (asked by the rule 'pay(text=h*)')"


@pytest.mark.parametrize("where", ["worker", "daemon"])
@pytest.mark.parametrize(
    ("told", "note"),
    [
        (ToolRefused("'a' is protected"), "'a' is protected"),
        (ValueError("a fault"), "a fault"),
        (1e6, "was not made within 10 s"),
    ],
)
async def test_a_preview_that_fails_is_a_note_and_the_question_is_asked(
    told: Exception | float, note: str, where: Where
) -> None:
    bench, _ = bench_with(told, where=where)
    preview = await shown(bench)
    assert preview.startswith("[no preview: ") and note in preview
    await bench.say(answer("approve"))
    state = await bench.drive()
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED


async def test_a_worker_that_dies_of_a_preview_is_no_failure_of_the_step() -> None:
    bench, _ = bench_with("+x")

    async def point(name: str) -> None:
        if name == "preview":
            raise WorkerLost("it died")

    bench.sandbox.point = point
    assert await shown(bench) == "[no preview: it died]"


async def test_a_long_preview_keeps_its_head_and_tail() -> None:
    bench, _ = bench_with("+first\n" + "+x\n" * 20_000 + "+last\n")
    preview = await shown(bench)
    assert len(preview) <= PREVIEW_CHARS_MAX
    assert preview.startswith("+first\n") and preview.endswith("+last\n")
    assert "characters" in preview and "cut …]" in preview


async def test_a_tool_without_a_preview_is_asked_for_without_one() -> None:
    bench = Bench(Script("pay", Effect.WORKSPACE, where="worker"))
    assert await shown(bench) == ""


async def test_a_secret_in_a_preview_is_blotted_out_before_it_is_stored() -> None:
    """A file of the workspace may hold what a tool was given."""
    bench, _ = bench_with("-key = hunter2hunter2\n+key = ''\n")

    class Knowing(FakeEnvironment):
        def secrets(self, task: TaskSpec) -> dict[str, str]:
            return {"KEY": "hunter2hunter2"}

    policy = {**ASK, "secrets": ["KEY"]}
    await bench.submit(task(step("a", "pay"), policy=policy))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: bench.drive(environment=Knowing()))
        with anyio.fail_after(1e5):  # virtual: secrets are read in a thread, which it does not see
            while not (asked := bench.of(e.ApprovalRequested)):
                await anyio.sleep(0.1)
        tasks.cancel_scope.cancel()
    assert asked[0].preview.startswith("-key = ") and "hunter2" not in asked[0].preview
    assert not [row for row in bench.rows() if b"hunter2" in row.data]


async def test_a_call_that_follows_at_once_is_foreseen_as_well() -> None:
    """The intent of such a call joins the append before it, unless a person is asked."""
    bench, asked = bench_with("+x", Script("look"), where="daemon")
    await bench.submit(task(step("b", "look"), step("a", "pay", needs=["b"]), policy=ASK))
    await bench.drive_and_die(100)
    assert [x.preview for x in bench.of(e.ApprovalRequested)] == ["+x"]
    assert len(asked) == 1
