"""The suite that kills a tool between effect and record: honest tools pass, lying ones are told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from agent_runtime.errors import UsageError
from agent_runtime.testing import check_effect, grade_effect, trials
from agent_runtime.toolkit import FunctionTool, tool
from agent_runtime.types import Effect, Json, ToolCall, ToolResult, Where

pytestmark = pytest.mark.anyio

OK = ToolResult(ok=True, output="ok")
Work = Callable[[ToolCall], Awaitable[ToolResult | None]]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """A plug-in's tests may run on either."""
    return str(request.param)


@dataclass
class Server:
    """The outside world: what it took, in order, and what it knows by key."""

    taken: list[str] = field(default_factory=list)
    known: dict[str, str] = field(default_factory=dict)

    async def post(self, text: str) -> None:
        """Takes whatever comes."""
        await anyio.lowlevel.checkpoint()
        self.taken.append(text)
        await anyio.lowlevel.checkpoint()

    async def post_once(self, key: str, text: str) -> bool:
        """Takes each key once, in one step as a server does; False if it was known."""
        await anyio.lowlevel.checkpoint()
        new = key not in self.known
        if new:
            self.known[key] = text
            self.taken.append(text)
        await anyio.lowlevel.checkpoint()
        return new

    def observe(self) -> list[str]:
        return self.taken


def made(
    work: Work,
    effect: Effect,
    *,
    where: Where = "daemon",
    probe: Callable[[ToolCall], Awaitable[bool | None]] | None = None,
) -> FunctionTool:
    async def execute(call: ToolCall) -> ToolResult:
        return await work(call) or OK

    return tool(
        name="act",
        description="A tool under test.",
        effect=effect,
        where=where,
        probe=probe,
        parameters={"text": {"type": "string"}},
    )(execute)


def poster(server: Server, effect: Effect) -> FunctionTool:
    """Posts whenever it is run: only `once` is true of it."""
    return made(lambda call: server.post("hello"), effect)


def keyed(server: Server, effect: Effect = Effect.IDEMPOTENT) -> FunctionTool:
    async def work(call: ToolCall) -> None:
        await server.post_once(call.idempotency_key, "hello")

    return made(work, effect)


def probing(server: Server, answer: Callable[[bool], bool | None]) -> FunctionTool:
    """Posts, and its probe makes `answer` of the truth."""

    async def work(call: ToolCall) -> None:
        # One step: no await stands between what the probe reads and the effect.
        await anyio.lowlevel.checkpoint()
        server.known[call.idempotency_key] = "hello"
        server.taken.append("hello")
        await anyio.lowlevel.checkpoint()

    async def look(call: ToolCall) -> bool | None:
        return answer(call.idempotency_key in server.known)

    return made(work, Effect.PROBE, probe=look)


def writer(server: Server, effect: Effect = Effect.WORKSPACE, path: str = "log") -> FunctionTool:
    """Appends a line to a file of its workspace."""

    async def work(call: ToolCall) -> None:
        with open(Path(call.workspace) / path, "a", encoding="utf-8") as file:
            file.write("line\n")
        await anyio.lowlevel.checkpoint()

    return made(work, effect, where="worker")


# ---- honest tools ------------------------------------------------------------------------


async def test_an_honest_tool_that_reads_passes() -> None:
    async def work(call: ToolCall) -> ToolResult:
        await anyio.lowlevel.checkpoint()
        return ToolResult(ok=True, output=(Path(call.workspace) / "a" / "b").read_text())

    server = Server()
    grade = await check_effect(
        made(work, Effect.READ, where="worker"),
        {},
        observe=server.observe,
        files={"a/b": "text"},
    )
    assert grade.holds and grade.honest is Effect.READ


async def test_an_honest_tool_of_the_workspace_passes_although_it_appends() -> None:
    grade = await check_effect(
        writer(Server()), {}, observe=lambda: [], files={"log": "before\n", "other": "\u00fc"}
    )
    assert "at await 1 of its own" in grade.places


async def test_an_honest_idempotent_tool_passes() -> None:
    server = Server()
    assert (await check_effect(keyed(server), {}, observe=server.observe)).holds


async def test_an_honest_tool_with_a_probe_passes() -> None:
    server = Server()
    grade = await check_effect(probing(server, lambda it: it), {}, observe=server.observe)
    assert grade.honest is Effect.PROBE


async def test_a_tool_that_promises_nothing_passes_and_is_never_run_twice() -> None:
    server = Server()
    await check_effect(poster(server, Effect.ONCE), {}, observe=server.observe)


async def test_a_remote_task_that_is_attached_to_by_its_key_passes() -> None:
    server = Server()
    grade = await check_effect(keyed(server, Effect.TASK), {}, observe=server.observe)
    assert grade.effect is Effect.TASK


async def test_it_is_killed_on_either_side_of_the_effect_and_of_both_records() -> None:
    server = Server()
    grade = await check_effect(keyed(server), {}, observe=server.observe)
    assert grade.places == (
        "before its intent is stored",
        "once its intent is stored",
        "before it starts",
        "at await 1 of its own",
        "at await 2 of its own",
        "when it has returned",
        "before its result is stored",
        "once its result is stored",
    )


# ---- lying tools -------------------------------------------------------------------------


async def test_a_repeated_effect_under_one_key_is_told_with_tool_class_place_and_way_out() -> None:
    server = Server()
    with pytest.raises(AssertionError) as caught:
        await check_effect(poster(server, Effect.IDEMPOTENT), {}, observe=server.observe)
    assert str(caught.value) == (
        "tool 'act' is declared idempotent (the same idempotency key takes effect once), and that "
        "does not hold: killed at await 2 of its own, it ran again: the outside world saw it "
        "twice: + 'hello', + 'hello' (1 expected) (2 more crash points broke it too). "
        "An honest class for this call: once"
    )


async def test_a_second_answer_that_fails_is_no_idempotence() -> None:
    """The key was recognised, and the agent is told of a failure that there was not."""
    server = Server()

    async def work(call: ToolCall) -> ToolResult:
        if await server.post_once(call.idempotency_key, "hello"):
            return OK
        return ToolResult(ok=False, kind="refused", output="it exists")

    grade = await grade_effect(made(work, Effect.IDEMPOTENT), {}, observe=server.observe)
    assert "it ran again and failed, refused: it exists" in grade.faults[0].message
    assert grade.honest is Effect.ONCE


async def test_a_tool_that_remembers_its_key_before_its_effect_loses_the_effect() -> None:
    server = Server()

    async def work(call: ToolCall) -> None:
        if call.idempotency_key in server.known:
            return
        server.known[call.idempotency_key] = ""
        await server.post("hello")

    grade = await grade_effect(made(work, Effect.IDEMPOTENT), {}, observe=server.observe)
    assert grade.faults[0].place == "at await 1 of its own"
    assert "the outside world saw nothing (1 expected)" in grade.faults[0].message


async def test_what_a_finally_undoes_is_not_undone_by_a_kill() -> None:
    """SIGKILL runs no cleanup, so neither does the suite before it has looked."""
    server = Server()

    async def work(call: ToolCall) -> None:
        server.taken.append("lock")
        try:
            await anyio.lowlevel.checkpoint()
        finally:
            server.taken.remove("lock")
        await server.post_once(call.idempotency_key, "hello")

    grade = await grade_effect(made(work, Effect.IDEMPOTENT), {}, observe=server.observe)
    assert [fault.place for fault in grade.faults] == ["at await 1 of its own"]
    assert "+ 'hello', + 'lock'" in grade.faults[0].message.replace(
        "+ 'lock', + 'hello'", "+ 'hello', + 'lock'"
    )


async def test_a_tool_that_reads_and_changes_the_outside_world_is_told() -> None:
    server = Server()
    grade = await grade_effect(keyed(server, Effect.READ), {}, observe=server.observe)
    assert grade.honest is Effect.IDEMPOTENT
    assert "without any crash it changed the outside world: + 'hello'" in str(grade)


async def test_a_tool_that_reads_and_writes_a_file_is_told() -> None:
    grade = await grade_effect(writer(Server(), Effect.READ), {}, observe=lambda: [])
    assert grade.honest is Effect.WORKSPACE
    assert "changed the workspace: log" in str(grade)


async def test_a_tool_of_the_workspace_that_reaches_outside_is_told() -> None:
    server = Server()

    async def work(call: ToolCall) -> None:
        (Path(call.workspace) / "a").write_text("x")
        await server.post("hello")

    grade = await grade_effect(
        made(work, Effect.WORKSPACE, where="worker"), {}, observe=server.observe
    )
    assert grade.honest is Effect.ONCE
    assert "changed the outside world: + 'hello'" in str(grade)


async def test_a_file_in_its_home_is_not_rolled_back() -> None:
    """Only the workspace is; a tool that counts on HOME there sees its own first run."""

    async def work(call: ToolCall) -> None:
        mark = Path(call.home) / "mark"
        text = "again" if mark.exists() else "first"
        mark.touch()
        (Path(call.workspace) / "a").write_text(text)
        await anyio.lowlevel.checkpoint()

    grade = await grade_effect(made(work, Effect.WORKSPACE, where="worker"), {}, observe=lambda: [])
    assert "it ran again: the workspace is not as after one call: a" in str(grade)


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        (lambda it: True, "its probe said that it had happened: the outside world saw nothing"),
        (lambda it: False, "it ran again: the outside world saw it twice"),
        (lambda it: None, "its probe could not tell at any crash point"),
    ],
)
async def test_a_probe_that_answers_wrongly_is_told(
    answer: Callable[[bool], bool | None], seen: str
) -> None:
    server = Server()
    grade = await grade_effect(probing(server, answer), {}, observe=server.observe)
    assert seen in str(grade)
    assert grade.honest is Effect.ONCE


async def test_a_call_that_is_half_done_is_no_matter_for_a_probe() -> None:
    server = Server()

    async def work(call: ToolCall) -> None:
        await server.post_once(call.idempotency_key, "one")
        await server.post("two")

    async def look(call: ToolCall) -> bool:
        return call.idempotency_key in server.known

    grade = await grade_effect(made(work, Effect.PROBE, probe=look), {}, observe=server.observe)
    assert "the outside world saw + 'one' (2 expected)" in str(grade)


async def test_a_worker_tools_probe_is_never_asked() -> None:
    server = Server()

    async def look(call: ToolCall) -> bool:
        raise AssertionError("it lives in the sandbox")

    work = made(lambda call: server.post("x"), Effect.PROBE, where="worker", probe=look)
    assert "only a daemon tool's is asked" in str(
        await grade_effect(work, {}, observe=server.observe)
    )


async def test_a_careful_tool_that_changes_nothing_is_told_so() -> None:
    async def work(call: ToolCall) -> None:
        await anyio.lowlevel.checkpoint()

    grade = await grade_effect(made(work, Effect.ONCE), {}, observe=lambda: [])
    assert "it changed nothing that observe() sees" in str(grade)
    assert grade.honest is Effect.READ


# ---- what cannot be graded ---------------------------------------------------------------


async def test_a_world_that_remembers_the_first_call_must_be_put_back() -> None:
    names: set[str] = set()

    async def work(call: ToolCall) -> None:
        await anyio.lowlevel.checkpoint()
        names.add(call.arguments["text"])

    put = made(work, Effect.IDEMPOTENT)
    with pytest.raises(UsageError, match="give a reset= that puts the world back"):
        await check_effect(put, {"text": "a"}, observe=lambda: names)
    await check_effect(put, {"text": "a"}, observe=lambda: names, reset=names.clear)


async def test_a_call_that_fails_by_itself_is_not_graded() -> None:
    async def work(call: ToolCall) -> ToolResult:
        raise ZeroDivisionError("by zero")

    with pytest.raises(UsageError, match="internal: it failed with ZeroDivisionError: by zero"):
        await check_effect(made(work, Effect.READ), {}, observe=lambda: [])


async def test_wrong_arguments_are_told_with_the_nearest_key() -> None:
    with pytest.raises(UsageError, match="did you mean 'text'"):
        await check_effect(keyed(Server()), {"texts": "a"}, observe=lambda: [])


async def test_a_lock_that_a_killed_call_holds_ends_at_the_deadline_and_a_factory_helps() -> None:
    server = Server()

    def with_a_lock() -> FunctionTool:
        lock = anyio.Lock()

        async def work(call: ToolCall) -> None:
            async with lock:
                await server.post_once(call.idempotency_key, "hello")

        return made(work, Effect.IDEMPOTENT)

    with pytest.raises(UsageError, match=r"killed at await 1 of its own, .* makes the tool"):
        await check_effect(with_a_lock(), {}, observe=server.observe, seconds=0.3)
    await check_effect(with_a_lock, {}, observe=server.observe)


@pytest.mark.parametrize(
    ("seen", "bag"),
    [
        (3, {"the count": 3}),
        ("a\nb\nb\n", {"a": 1, "b": 2}),
        (["a", "a"], {"'a'": 2}),
        ({"x": 2, "y": 0}, {"'x'": 2, "'y'": 0}),
        ({"x": "v"}, {"'x': 'v'": 1}),
        (None, {"None": 1}),
        (1.5, {"1.5": 1}),
    ],
)
async def test_whatever_is_observed_becomes_a_bag_of_things(
    seen: Json, bag: dict[str, int]
) -> None:
    assert dict(trials.count(seen)) == bag


async def test_observe_and_reset_may_wait() -> None:
    server = Server()

    async def observe() -> int:
        await anyio.lowlevel.checkpoint()
        return len(server.taken)

    async def reset() -> None:
        await anyio.lowlevel.checkpoint()
        server.taken.clear()

    grade = await grade_effect(poster(server, Effect.IDEMPOTENT), {}, observe=observe, reset=reset)
    assert "+ the count, + the count" in str(grade)
