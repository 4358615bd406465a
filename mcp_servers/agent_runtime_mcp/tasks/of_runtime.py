"""The runtime's own tasks as MCP tasks: the same ids, read from the same log, nothing kept twice.

An MCP task stands where its task stands. Whoever submitted it owns it here, also where others may
see it over HTTP. A task that waits for a person asks only a client that can show the question and
whose caller may decide it; to others it goes on working, and says what for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final

import anyio

from agent_runtime.access.callers import TASKS_WRITE
from agent_runtime.api.daemon import Daemon
from agent_runtime.api.recording import record_decision
from agent_runtime.errors import Conflict, NotFound
from agent_runtime.types import TERMINAL_STATUSES, Json, Status, TaskId, TaskSummary
from agent_runtime_mcp.definitions import (
    Asked,
    McpFault,
    Page,
    TaskStatus,
    TaskView,
    ToolAnswer,
)

POLL_MS: Final = 2_000
PAGE: Final = 50
LOOK_SECONDS: Final = 15.0
DAY_MS: Final = 86_400_000
PREFIX: Final = "task_"

Questions = Mapping[str, tuple[str, Mapping[str, Json]]]
Tell = Callable[[TaskSummary], Awaitable[ToolAnswer]]
Ask = Callable[[TaskSummary, Asked], Awaitable[Questions]]
Decide = Callable[[TaskSummary, str, Mapping[str, Json], Asked], Awaitable[bool]]


class RuntimeTasks:
    """Implements `definitions.BackedTasks` on a daemon's runtime."""

    def __init__(
        self,
        daemon: Daemon,
        *,
        tell: Tell,
        ask: Ask | None = None,
        decide: Decide | None = None,
        kept_days: float | None = None,
    ) -> None:
        """`tell` says all there is to say of an ended task. `ask` gives what a waiting one asks
        this caller, by names that are never used again, and `decide` takes the answer to one of
        them. `kept_days`: so long ended tasks are kept; None: for ever."""
        self._daemon = daemon
        self._tell = tell
        self._ask = ask
        self._decide = decide
        self._kept_ms = None if kept_days is None else int(kept_days * DAY_MS)

    async def view(self, task_id: str, asked: Asked) -> TaskView | None:
        """As `BackedTasks.view`."""
        summary = await self._summary(task_id, asked)
        return await self._view(summary, asked) if summary is not None else None

    async def page(self, asked: Asked, cursor: str) -> Page[TaskView]:
        """As `BackedTasks.page`. Views in lists have no answers: making each would cost."""
        if cursor and not cursor.startswith(PREFIX):
            raise McpFault(McpFault.INVALID_PARAMS, f"{cursor!r} is no cursor of this list")
        found = await self._daemon.runtime.tasks(
            submitted_by=asked.caller.by,
            before=TaskId(cursor) if cursor else None,
            limit=PAGE + 1,
        )
        views = [await self._seen(each) for each in found[:PAGE]]
        return Page(views, views[-1].task_id if len(found) > PAGE else "")

    async def answer(
        self, task_id: str, answers: Mapping[str, Mapping[str, Json]], asked: Asked
    ) -> None:
        """As `BackedTasks.answer`."""
        for name, answer in answers.items():
            summary = await self._summary(task_id, asked)
            if summary is None or self._ask is None or self._decide is None:
                return
            if name in await self._ask(summary, asked):
                await self._decide(summary, name, answer, asked)

    async def cancel(self, task_id: str, asked: Asked) -> None:
        """As `BackedTasks.cancel`."""
        summary = await self._summary(task_id, asked)
        if summary is None or summary.status in TERMINAL_STATUSES:
            return
        if not asked.caller.may(TASKS_WRITE):
            raise McpFault(
                McpFault.INVALID_PARAMS,
                f"to cancel a task needs the scope {TASKS_WRITE!r}, which {asked.caller.by!r} does "
                "not have",
            )
        try:
            if (await self._daemon.runtime.state(TaskId(task_id))).cancel is not None:
                return  # a client that asks again has decided nothing more
            await self._daemon.runtime.cancel(
                TaskId(task_id), by=asked.caller.by, reason="cancelled over MCP"
            )
        except (NotFound, Conflict):
            return  # it has ended meanwhile
        await record_decision(self._daemon, asked.caller, "task.cancel", task_id)

    async def changed(self, view: TaskView, seconds_max: float) -> None:
        """As `BackedTasks.changed`."""
        task_id = TaskId(view.task_id)
        with (
            anyio.move_on_after(min(seconds_max, LOOK_SECONDS)),
            self._daemon.hub.follow(task_id) as topic,
        ):
            grown = topic.grown
            try:
                summary = await self._daemon.runtime.summary(task_id)
            except NotFound:
                return
            if summary.updated_at_us == view.updated_at_us and not self._daemon.hub.is_closed:
                await grown.wait()

    # ---- looking -------------------------------------------------------------------------

    async def _summary(self, task_id: str, asked: Asked) -> TaskSummary | None:
        if not task_id.startswith(PREFIX):
            return None
        try:
            summary = await self._daemon.runtime.summary(TaskId(task_id))
        except NotFound:
            return None
        return summary if summary.submitted_by == asked.caller.by else None

    async def _view(self, summary: TaskSummary, asked: Asked) -> TaskView:
        view = await self._seen(summary)
        if summary.status in TERMINAL_STATUSES:
            answer = await self._tell(summary)
            if summary.status == Status.FAILED:
                answer = replace(answer, is_error=True)
            return replace(view, answer=answer)
        if (
            view.status == "working"
            and summary.status == Status.WAITING
            and self._ask is not None
            and asked.can("elicitation")
            and (questions := await self._ask(summary, asked))
        ):
            return replace(view, status="input_required", questions=questions)
        return view

    async def _seen(self, summary: TaskSummary) -> TaskView:
        status: TaskStatus = "working"
        ended = summary.status in TERMINAL_STATUSES
        if summary.status == Status.CANCELLED or (not ended and await self._is_cancelled(summary)):
            status = "cancelled"
        elif ended:
            status = "completed"
        ttl_ms = None
        if ended and self._kept_ms is not None:
            lived_us = summary.updated_at_us - summary.created_at_us
            ttl_ms = lived_us // 1000 + self._kept_ms
        words = [summary.status, *(each for each in (summary.reason, summary.phase) if each)]
        return TaskView(
            task_id=summary.task_id,
            status=status,
            created_at_us=summary.created_at_us,
            updated_at_us=summary.updated_at_us,
            message=f"{', '.join(words)}: event {summary.seq}",
            ttl_ms=ttl_ms,
            poll_ms=POLL_MS,
        )

    async def _is_cancelled(self, summary: TaskSummary) -> bool:
        """Is that its end, although it is still being stopped? From the log: it stays so."""
        try:
            state = await self._daemon.runtime.state(TaskId(summary.task_id))
        except NotFound:
            return False
        return state.cancel is not None
