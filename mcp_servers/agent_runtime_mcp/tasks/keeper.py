"""Runs calls that became tasks, and keeps what becomes of them: `BackedTasks` for any server.

A call is kept before it runs, its end before anybody hears of it. When the daemon ends while it
runs, the next one runs it again if its tool says that this is safe, or if it was waiting for an
answer; else the task has failed, and says that its effect is unknown. A stop counts like a kill.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from weakref import WeakValueDictionary

import anyio
import anyio.abc
import anyio.lowlevel
import msgspec

from agent_runtime.errors import AgentRuntimeError, NotFound, StoreUnavailable
from agent_runtime.kept_calls import records
from agent_runtime.kept_calls.ports import KeptCallStore
from agent_runtime.kept_calls.records import KeptCall, Question
from agent_runtime.loop.submission import new_task_id
from agent_runtime.types import Json
from agent_runtime_mcp.definitions import (
    Asked,
    McpFault,
    McpServer,
    Page,
    TaskStatus,
    TaskView,
    ToolAnswer,
    ToolDefinition,
    failed,
)
from agent_runtime_mcp.tasks.detached import Answers, Detached, Questions, asker_of
from agent_runtime_mcp.wire import META_KEY, call_result, told

log = logging.getLogger(__name__)

PREFIX: Final = "call_"
TTL_MS: Final = 86_400_000
TTL_MS_MIN: Final = 60_000
TTL_MS_MAX: Final = 7 * TTL_MS
POLL_MS: Final = 1_000
OPEN_MAX: Final = 64
"""Of one caller at one server."""
KEPT_MAX: Final = 2_000
"""Of one caller at one server, those that have ended among them."""
RESULT_BYTES_MAX: Final = 4 << 20
LOOK_SECONDS: Final = 1.0
"""Between two looks at what other processes did to our calls."""
SWEEP_LOOKS: Final = 10
"""After so many of them: a look for calls of dead processes, and for what may be forgotten."""
MESSAGE_CHARS_MAX: Final = 500
KEY_CHARS_MAX: Final = 256
PAGE: Final = 50

_STATUS: Final[Mapping[str, TaskStatus]] = {
    "working": "working",
    "asking": "input_required",
    "completed": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
}


@dataclass(slots=True)
class _Running:
    """A call that this process runs."""

    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    message: str = ""
    """How far it says that it is."""


class Keeper:
    """The kept calls of one server."""

    def __init__(
        self,
        server: McpServer,
        store: KeptCallStore,
        *,
        now_us: Callable[[], int],
        admit: Callable[[], None] = lambda: None,
    ) -> None:
        """`admit` raises `AgentRuntimeError` while no new work is taken."""
        self._server = server
        self._store = store
        self._now_us = now_us
        self._admit = admit
        self._tasks: anyio.abc.TaskGroup | None = None
        self._running: dict[str, _Running] = {}
        self._news: WeakValueDictionary[str, anyio.Event] = WeakValueDictionary()
        """Of calls that somebody waits for; who waits holds them."""

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Runs calls until cancelled; what a dead process left is taken over before it begins."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            try:
                await self._guarded(self._sweep)
                task_status.started()
                while True:
                    for _ in range(SWEEP_LOOKS):
                        await anyio.sleep(LOOK_SECONDS)
                        await self._guarded(self._look)
                    await self._guarded(self._sweep)
            finally:
                self._tasks = None
                tasks.cancel_scope.cancel()

    async def _guarded(self, chore: Callable[[], Awaitable[None]]) -> None:
        try:
            await chore()
        except StoreUnavailable as why:
            log.warning("tasks of %s are not looked after just now: %s", self._server.name, why)

    # ---- beginning -----------------------------------------------------------------------

    async def begin(
        self,
        tool: ToolDefinition,
        arguments: Mapping[str, Json],
        asked: Asked,
        *,
        ttl_ms: int | None = None,
    ) -> TaskView:
        """Keep a call and run it; it is durable when this returns.

        A call that comes again with its idempotency key is the same one.

        Raises:
            McpFault: the key belongs to another call, or there is no room.
        """
        if self._tasks is None:
            raise McpFault(McpFault.INTERNAL, "the daemon is starting or ending; try again")
        given = asked.meta.get(META_KEY)
        if isinstance(given, str) and len(given) > KEY_CHARS_MAX:
            raise McpFault(
                McpFault.INVALID_PARAMS,
                f"{META_KEY} has {len(given)} characters, and may have {KEY_CHARS_MAX}",
            )
        now_us = self._now_us()
        call = KeptCall(
            call_id=PREFIX + new_task_id(now_us).removeprefix("task_"),
            server=self._server.name,
            caller=asked.caller.by,
            tool=tool.name,
            asker=asker_of(asked),
            arguments=dict(arguments),
            arguments_hash=records.hash_of(tool.name, arguments),
            created_at_us=now_us,
            updated_at_us=now_us,
            ttl_ms=min(max(ttl_ms or TTL_MS, TTL_MS_MIN), TTL_MS_MAX),
            key=given if isinstance(given, str) else "",
            repeatable=tool.repeatable is not None and tool.repeatable(arguments),
        )
        # Whoever leaves while it is being written must not leave it behind, kept and not run.
        with anyio.CancelScope(shield=True):
            try:
                self._admit()
                kept = await self._store.add(call, open_max=OPEN_MAX, kept_max=KEPT_MAX)
            except AgentRuntimeError as why:
                raise McpFault(McpFault.INTERNAL, str(why)) from None
            if kept.call_id == call.call_id:
                self._start(kept)
        if kept.arguments_hash != call.arguments_hash:
            raise McpFault(
                McpFault.INVALID_PARAMS,
                f"{META_KEY} {call.key!r} is that of another call of {kept.tool}: use a new key",
            )
        return self._view(kept)

    # ---- as `BackedTasks` ----------------------------------------------------------------

    async def view(self, task_id: str, asked: Asked) -> TaskView | None:
        """As `BackedTasks.view`."""
        call = await self._call_of(task_id, asked)
        return self._view(call) if call is not None else None

    async def page(self, asked: Asked, cursor: str) -> Page[TaskView]:
        """As `BackedTasks.page`."""
        if cursor and not cursor.startswith(PREFIX):
            raise McpFault(McpFault.INVALID_PARAMS, f"{cursor!r} is no cursor of this list")
        found = await self._store.of(
            self._server.name, asked.caller.by, before=cursor, limit=PAGE + 1
        )
        views = [self._view(each) for each in found[:PAGE]]
        return Page(views, views[-1].task_id if len(found) > PAGE else "")

    async def answer(self, task_id: str, answers: Answers, asked: Asked) -> None:
        """As `BackedTasks.answer`."""
        if await self._call_of(task_id, asked) is not None:
            now_us = self._now_us()
            await self._change(task_id, lambda call: records.answered(call, answers, at_us=now_us))

    async def cancel(self, task_id: str, asked: Asked) -> None:
        """As `BackedTasks.cancel`."""
        call = await self._call_of(task_id, asked)
        if call is None or not call.is_open:
            return
        message = "cancelled by its caller; what it had done before that stays done"
        await self._end(task_id, "cancelled", message=message)

    async def changed(self, view: TaskView, seconds_max: float) -> None:
        """As `BackedTasks.changed`. What another process does is seen a little later."""
        news = self._news.setdefault(view.task_id, anyio.Event())
        try:
            call = await self._store.call(view.task_id)
        except NotFound:
            return
        if (call.updated_at_us, _STATUS[call.state]) != (view.updated_at_us, view.status):
            return
        mine = view.task_id in self._running
        with anyio.move_on_after(seconds_max if mine else min(seconds_max, LOOK_SECONDS)):
            await news.wait()

    # ---- running -------------------------------------------------------------------------

    def _start(self, call: KeptCall) -> None:
        running = self._running[call.call_id] = _Running()
        assert self._tasks is not None
        self._tasks.start_soon(self._run, call, running)

    async def _run(self, call: KeptCall, running: _Running) -> None:
        try:
            with running.scope:
                answer, fault = await self._outcome(call, running)
                if fault is not None:
                    await self._fail(call.call_id, fault)
                else:
                    await self._end(call.call_id, "completed", result=answer)
        finally:
            self._running.pop(call.call_id, None)

    async def _outcome(
        self, call: KeptCall, running: _Running
    ) -> tuple[dict[str, Json], McpFault | None]:
        def tell(message: str) -> None:
            running.message = message[:MESSAGE_CHARS_MAX]

        async def wait(questions: Questions) -> Answers:
            return await self._answers(call.call_id, questions)

        asked = Detached(call, tell=tell, wait=wait)
        try:
            tool = await self._server.tool(call.tool, asked)
            if tool is None:
                gone = f"there is no tool {call.tool!r} any more"
                return {}, McpFault(McpFault.INVALID_PARAMS, gone)
            return _bounded(call, await tool.run(call.arguments, asked)), None
        except McpFault as fault:
            return {}, fault
        except Exception as error:  # noqa: BLE001 - a call ends with an answer, never a crash
            return call_result(told(call.tool, error)), None

    async def _answers(self, call_id: str, questions: Questions) -> Answers:
        wanted: dict[str, Question] = {
            name: (method, dict(params)) for name, (method, params) in questions.items()
        }
        now_us = self._now_us()
        call = await self._change(call_id, lambda call: records.asking(call, wanted, at_us=now_us))
        while call.is_open and not all(name in call.answers for name in questions):
            await self.changed(self._view(call), LOOK_SECONDS)
            call = await self._store.call(call_id)
        if not call.is_open:
            await anyio.sleep_forever()  # it was cancelled: so will this be, in a moment
        return {name: call.answers[name] for name in questions}

    async def _fail(self, call_id: str, fault: McpFault) -> None:
        error: dict[str, Json] = {"code": fault.code, "message": fault.message}
        if fault.data is not None:
            error["data"] = fault.data
        await self._end(call_id, "failed", error=error, message=fault.message)

    async def _end(
        self,
        call_id: str,
        state: Literal["completed", "failed", "cancelled"],
        *,
        result: dict[str, Json] | None = None,
        error: dict[str, Json] | None = None,
        message: str = "",
    ) -> None:
        now_us = self._now_us()

        def end(call: KeptCall) -> KeptCall:
            return records.ended(
                call, state, at_us=now_us, result=result, error=error, message=message
            )

        while True:
            try:
                await self._change(call_id, end)
            except StoreUnavailable as why:
                # What it did is done: only that must still be kept, and repeating that is safe.
                log.warning("the end of %s waits to be kept: %s", call_id, why)
                await anyio.sleep(LOOK_SECONDS)
            except NotFound:
                return
            else:
                return

    async def _change(self, call_id: str, change: Callable[[KeptCall], KeptCall]) -> KeptCall:
        call = await self._store.change(call_id, change)
        self._notice(call)
        return call

    def _notice(self, call: KeptCall) -> None:
        news = self._news.pop(call.call_id, None)
        if news is not None:
            news.set()
        running = self._running.get(call.call_id)
        if running is not None and call.state in ("cancelled", "failed"):
            running.scope.cancel()

    # ---- what others did -----------------------------------------------------------------

    async def _look(self) -> None:
        """Another process may have answered or cancelled what this one runs; or nobody answers."""
        now_us = self._now_us()
        for call_id in list(self._running):
            try:
                call = await self._store.call(call_id)
            except NotFound:
                self._running[call_id].scope.cancel()
                continue
            if not call.is_open:
                self._notice(call)
            elif call.state == "asking" and now_us > call.created_at_us + call.ttl_ms * 1000:
                unanswered = f"{call.tool}: nobody has answered what it asked, in all the time"
                await self._fail(call_id, McpFault(McpFault.INTERNAL, unanswered))

    async def _sweep(self) -> None:
        now_us = self._now_us()
        for call in await self._store.adopt(self._server.name):
            mine = await self._store.change(
                call.call_id, lambda call: records.found_dead(call, at_us=now_us)
            )
            if mine.is_open:
                log.info("%s of %s is run again: %s", mine.call_id, mine.caller, mine.tool)
                self._start(mine)
            else:
                log.warning("%s of %s has failed: %s", mine.call_id, mine.caller, mine.message)
        while await self._store.prune(now_us):
            await anyio.lowlevel.checkpoint()

    # ---- looking -------------------------------------------------------------------------

    async def _call_of(self, task_id: str, asked: Asked) -> KeptCall | None:
        try:
            call = await self._store.call(task_id)
        except NotFound:
            return None
        if (call.server, call.caller) != (self._server.name, asked.caller.by):
            return None
        if 0 < call.expires_at_us <= self._now_us():
            return None
        return call

    def _view(self, call: KeptCall) -> TaskView:
        running = self._running.get(call.call_id)
        error = call.error
        return TaskView(
            task_id=call.call_id,
            status=_STATUS[call.state],
            created_at_us=call.created_at_us,
            updated_at_us=call.updated_at_us,
            message=call.message or (running.message if running is not None else ""),
            ttl_ms=call.ttl_ms,
            poll_ms=POLL_MS,
            questions=call.questions if call.state == "asking" else {},
            answer=_answer(call.result) if call.result is not None else None,
            fault=_fault(error) if error is not None else None,
        )


def _bounded(call: KeptCall, answer: ToolAnswer) -> dict[str, Json]:
    result = call_result(answer)
    size = len(msgspec.json.encode(result))
    if size <= RESULT_BYTES_MAX:
        return result
    return call_result(
        failed(
            f"{call.tool} was done, but its answer has {size} bytes, and of a task at most "
            f"{RESULT_BYTES_MAX} are kept. What it did is done: do not call it again for that; "
            "read what you need of it in parts."
        )
    )


def _answer(result: Mapping[str, Any]) -> ToolAnswer:
    return ToolAnswer(
        result["content"], result.get("structuredContent"), result["isError"], result.get("_meta")
    )


def _fault(error: Mapping[str, Any]) -> McpFault:
    return McpFault(error["code"], error["message"], error.get("data"))
