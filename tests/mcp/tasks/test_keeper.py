"""Calls that became tasks, without a wire and without a disk; processes come and go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from agent_runtime.access.callers import SCOPES, Caller
from agent_runtime.errors import UsageError
from agent_runtime.stores.memory_kept_calls import MemoryKeptCalls, SharedKeptCalls
from agent_runtime_mcp.definitions import (
    Asked,
    McpFault,
    McpServer,
    TaskView,
    ToolAnswer,
    ToolDefinition,
    text,
)
from agent_runtime_mcp.tasks.book import Book, NoTask
from agent_runtime_mcp.tasks.keeper import OPEN_MAX, RESULT_BYTES_MAX, Keeper
from agent_runtime_mcp.wire import META_KEY

pytestmark = pytest.mark.anyio

OWNER = Caller("ci", frozenset(SCOPES), "key", "k1")
STRANGER = Caller("bob", frozenset(SCOPES), "key", "k2")
FORM = ("elicitation/create", {"message": "Sure?"})
YES = {"action": "accept", "content": {}}


class Call:
    """`Asked` of a request, as far as it matters here."""

    state, client, query = "", "tests 0", dict[str, str]()

    def __init__(self, caller: Caller = OWNER, key: str = "") -> None:
        self.caller = caller
        self.meta: Mapping[str, Any] = {META_KEY: key} if key else {}

    def can(self, capability: str) -> bool:
        return capability == "elicitation"

    async def progress(self, *_: Any) -> None: ...
    async def log(self, *_: Any) -> None: ...
    async def ask(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("whoever called has gone")


class Works(McpServer):
    """Tools that take their time; `begun` and `ended` tell what they have done."""

    name = "works"
    has_tasks = True

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.stopped: list[str] = []

    def fixed_tools(self) -> Sequence[ToolDefinition]:
        async def work(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
            self.begun.append(str(asked.meta[META_KEY]))
            await asked.progress(1, 2, "half")
            try:
                await anyio.sleep(arguments.get("seconds", 0))
            except BaseException:
                self.stopped.append(str(arguments))
                raise
            self.ended.append(asked.caller.by)
            return text("done" * arguments.get("times", 1))

        async def sure(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
            one = await asked.ask({"one": FORM, "two": FORM})
            three = await asked.ask({"three": FORM})
            return text(f"{one['one']['action']} {one['two']['action']} {three['three']['action']}")

        async def fails(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
            if arguments:
                raise UsageError("that is no good")
            raise McpFault(-32602, "no such thing", {"thing": 1})

        def tool(name: str, run: Any, **more: Any) -> ToolDefinition:
            return ToolDefinition(
                name=name, description="", input_schema={"type": "object"}, run=run,
                task_support="optional", **more,
            )  # fmt: skip

        return [
            tool("work", work),
            tool("safe", work, repeatable=lambda arguments: True),
            tool("sure", sure),
            tool("fails", fails),
            tool("owners", work, scope="keys:admin"),
        ]


class Process:
    """A daemon's part in it. Ends as one that is killed: nothing is written any more."""

    def __init__(self, shared: SharedKeptCalls) -> None:
        self.server = Works()
        self.store = MemoryKeptCalls(shared)
        self.keeper = Keeper(self.server, self.store, now_us=self.now_us)
        self.days = 0
        """That have gone by, beyond what the tests' clock says."""
        self.book = Book(self.server, self.keeper)

    def now_us(self) -> int:
        return int((anyio.current_time() + 86_400 * self.days) * 1e6)

    async def begin(self, name: str, asked: Call | None = None, **arguments: Any) -> TaskView:
        asked = asked or Call()
        tool = await self.server.tool(name, asked)
        assert tool is not None
        begun = await self.book.begin(tool, arguments, asked)
        assert isinstance(begun, TaskView), begun
        return begun

    async def until(self, task_id: str, *statuses: str) -> TaskView:
        with anyio.fail_after(1e5):
            while (view := await self.book.view(task_id, Call())).status not in statuses:
                await self.book.changed(view, 60)
        return view


@asynccontextmanager
async def running(shared: SharedKeptCalls) -> AsyncIterator[Process]:
    process = Process(shared)
    async with anyio.create_task_group() as tasks:
        await tasks.start(process.keeper.run)
        yield process
        process.store.close()
        tasks.cancel_scope.cancel()


def said(view: TaskView) -> str:
    assert view.answer is not None, view
    return str(view.answer.content[0]["text"])


async def test_a_call_becomes_a_task_that_ends_with_its_answer() -> None:
    async with running(SharedKeptCalls()) as one:
        view = await one.begin("work", seconds=5)
        assert view.status == "working" and view.answer is None
        await anyio.sleep(1)
        assert (await one.book.view(view.task_id, Call())).message == "1 of 2: half"
        assert said(await one.until(view.task_id, "completed")) == "done"
        assert one.server.ended == ["key:ci"], "it had the rights of its caller"


async def test_what_goes_wrong_is_an_answer_or_a_fault_as_it_would_have_been() -> None:
    async with running(SharedKeptCalls()) as one:
        told = await one.until((await one.begin("fails", x=1)).task_id, "completed")
        assert said(told) == "that is no good" and told.answer and told.answer.is_error
        fault = (await one.until((await one.begin("fails")).task_id, "failed")).fault
        assert fault and (fault.code, fault.message, fault.data) == (
            -32602,
            "no such thing",
            {"thing": 1},
        )
        big = await one.until(
            (await one.begin("work", times=RESULT_BYTES_MAX)).task_id, "completed"
        )
        assert "What it did is done" in said(big)


async def test_what_may_not_be_called_becomes_no_task() -> None:
    async with running(SharedKeptCalls()) as one:
        viewer = Call(Caller("v", frozenset({"tasks:read"}), "key", "k3"))
        tool = await one.server.tool("owners", viewer)
        assert tool is not None
        begun = await one.book.begin(tool, {}, viewer)
        assert isinstance(begun, NoTask) and begun.answer and begun.answer.is_error
        assert not one.server.begun


async def test_a_call_that_comes_again_is_the_same_task() -> None:
    """Clients lose answers: the key is what tells that it was asked before."""
    async with running(SharedKeptCalls()) as one:
        first = await one.begin("work", Call(key="k"), seconds=5)
        assert (await one.begin("work", Call(key="k"), seconds=5)).task_id == first.task_id
        await one.until(first.task_id, "completed")
        assert (await one.begin("work", Call(key="k"), seconds=5)).status == "completed"
        assert one.server.begun == ["k"]
        with pytest.raises(McpFault, match="another call of work"):
            await one.begin("work", Call(key="k"), seconds=6)
        other = await one.begin("work", Call(STRANGER, "k"), seconds=6)
        assert other.task_id != first.task_id, "keys are each caller's own"


async def test_a_task_is_its_callers_alone() -> None:
    async with running(SharedKeptCalls()) as one:
        mine = await one.begin("sure")
        theirs = await one.begin("work", Call(STRANGER), seconds=1)
        stranger = Call(STRANGER)
        for asking in (
            one.book.view(mine.task_id, stranger),
            one.book.cancel(mine.task_id, stranger),
            one.book.answer(mine.task_id, {"one": YES}, stranger),
        ):
            with pytest.raises(McpFault, match="there is no task"):
                await asking
        page = await one.book.page(stranger, "")
        assert [each.task_id for each in page.items] == [theirs.task_id]
        assert (await one.until(mine.task_id, "input_required")).questions.keys() == {"one", "two"}


async def test_cancelling_stops_the_call_and_stays() -> None:
    async with running(SharedKeptCalls()) as one:
        view = await one.begin("work", seconds=1000)
        await anyio.sleep(1)
        assert (await one.book.cancel(view.task_id, Call())).status == "cancelled"
        await anyio.sleep(1)
        assert len(one.server.stopped) == 1 and not one.server.ended
        await anyio.sleep(2000)
        assert (await one.book.cancel(view.task_id, Call())).status == "cancelled", (
            "again: the same"
        )


async def test_what_a_task_asks_is_answered_in_any_order_and_once() -> None:
    async with running(SharedKeptCalls()) as one:
        task_id = (await one.begin("sure")).task_id
        await one.until(task_id, "input_required")
        no = {"action": "decline"}
        await one.book.answer(task_id, {"two": no, "never": YES}, Call())
        assert (await one.book.view(task_id, Call())).questions.keys() == {"one"}
        await one.book.answer(task_id, {"one": YES, "two": YES}, Call())
        with anyio.fail_after(100):
            while "three" not in (view := await one.book.view(task_id, Call())).questions:
                await one.book.changed(view, 5)
        await one.book.answer(task_id, {"three": no}, Call())
        assert said(await one.until(task_id, "completed")) == "accept decline decline"


async def test_a_killed_daemon_goes_on_where_that_is_safe() -> None:
    """What may be repeated runs again with the same key; what asks, asks on; the rest says so."""
    shared = SharedKeptCalls()
    async with running(shared) as one:
        once = await one.begin("work", seconds=100)
        safe = await one.begin("safe", seconds=100)
        sure = await one.begin("sure")
        await one.until(sure.task_id, "input_required")
        await one.book.answer(sure.task_id, {"one": YES}, Call())
    async with running(shared) as two:
        lost = await two.until(once.task_id, "failed")
        assert lost.fault and "effect is unknown" in lost.fault.message
        assert (await two.book.view(sure.task_id, Call())).questions.keys() == {"two"}
        await two.book.answer(sure.task_id, {"two": YES}, Call())
        with anyio.fail_after(100):
            while "three" not in (view := await two.book.view(sure.task_id, Call())).questions:
                await two.book.changed(view, 5)
        assert said(await two.until(safe.task_id, "completed")) == "done"
        assert two.server.begun == [safe.task_id]
    async with running(shared) as three:
        await three.book.answer(sure.task_id, {"three": YES}, Call())
        assert said(await three.until(sure.task_id, "completed")) == "accept accept accept"


async def test_another_process_answers_and_cancels_what_this_one_runs() -> None:
    shared = SharedKeptCalls()
    async with running(shared) as one, running(shared) as other:
        work = await one.begin("work", seconds=1000)
        sure = await one.begin("sure")
        await other.until(sure.task_id, "input_required")
        await other.book.cancel(work.task_id, Call())
        await other.book.answer(sure.task_id, {"one": YES, "two": YES}, Call())
        await anyio.sleep(5)
        assert len(one.server.stopped) == 1
        assert (await other.book.view(sure.task_id, Call())).questions.keys() == {"three"}


async def test_nothing_is_kept_for_ever() -> None:
    """Neither what nobody answers nor what nobody fetches; and there is room for so many."""
    async with running(SharedKeptCalls()) as one:
        sure = await one.begin("sure")
        done = await one.begin("work")
        await one.until(done.task_id, "completed")
        one.days += 2
        assert (await one.until(sure.task_id, "failed")).fault, "nobody has answered in a day"
        with pytest.raises(McpFault, match="has expired"):
            await one.book.view(done.task_id, Call())
        await anyio.sleep(20)
        assert [each.call_id for each in await one.store.of("works", "key:ci")] == [sure.task_id]
        for _ in range(OPEN_MAX):
            await one.begin("sure")
        with pytest.raises(McpFault, match=f"has {OPEN_MAX} tasks open"):
            await one.begin("sure")
