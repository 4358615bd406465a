"""The tasks of one server: which calls become one, and who knows a task by its id.

Knows no wire. `methods` puts it behind the requests of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agent_runtime.errors import AgentRuntimeError
from agent_runtime.types import Json
from agent_runtime_mcp.definitions import (
    Asked,
    BackedTasks,
    McpFault,
    McpServer,
    Page,
    TaskView,
    ToolAnswer,
    ToolDefinition,
    failed,
)
from agent_runtime_mcp.tasks.detached import Answers
from agent_runtime_mcp.tasks.keeper import PREFIX, Keeper
from agent_runtime_mcp.wire import refusal

BACKED: Final = "backed:"
"""Begins cursors of the second part of a list."""


@dataclass(frozen=True, slots=True)
class NoTask:
    """The call does not become a task: it is answered at once."""

    answer: ToolAnswer | None = None
    """How, if that is known already; None: run it."""


class Book:
    """Everything that is a task of a server: its own work, and calls that are kept."""

    def __init__(self, server: McpServer, keeper: Keeper | None) -> None:
        """Without a `keeper` only work with a life of its own can be a task."""
        self._keeper = keeper
        self._backed = server.backed_tasks()

    async def begin(
        self,
        tool: ToolDefinition,
        arguments: Mapping[str, Json],
        asked: Asked,
        *,
        ttl_ms: int | None = None,
    ) -> TaskView | NoTask:
        """Let a call become a task, durable on return.

        Raises:
            McpFault: it cannot, or what `begin` of the tool raises.
        """
        refused = refusal(tool, arguments, asked)
        if refused is not None:
            return NoTask(refused)
        if tool.begin is not None:
            try:
                begun = await tool.begin(arguments, asked)
            except AgentRuntimeError as error:
                return NoTask(failed(str(error)))
            if begun is None:
                return NoTask()
            if isinstance(begun, str):
                return await self.view(begun, asked)
            arguments = begun
        if self._keeper is None:
            return NoTask()
        return await self._keeper.begin(tool, arguments, asked, ttl_ms=ttl_ms)

    def may_begin(self, tool: ToolDefinition) -> bool:
        """Can a call of it become a task here?"""
        if tool.task_support == "forbidden":
            return False
        return self._keeper is not None or (self._backed is not None and tool.begin is not None)

    async def view(self, task_id: str, asked: Asked) -> TaskView:
        """How a task stands. `McpFault`: there is none such, for this caller."""
        tasks = self._of(task_id)
        view = await tasks.view(task_id, asked) if tasks is not None else None
        if view is None:
            raise McpFault(
                McpFault.INVALID_PARAMS,
                f"there is no task {task_id!r}: it is another's, has expired, or never was",
            )
        return view

    async def page(self, asked: Asked, cursor: str) -> Page[TaskView]:
        """A page of the caller's: first kept calls, then the server's own work."""
        if self._keeper is not None and not cursor.startswith(BACKED):
            page = await self._keeper.page(asked, cursor)
            if page.next_cursor or page.items or self._backed is None:
                more = BACKED if self._backed is not None else ""
                return Page(page.items, page.next_cursor or more)
        if self._backed is None:
            return Page(())
        page = await self._backed.page(asked, cursor.removeprefix(BACKED))
        return Page(page.items, BACKED + page.next_cursor if page.next_cursor else "")

    async def answer(self, task_id: str, answers: Answers, asked: Asked) -> None:
        """Give answers to what a task asks; unknown names are left out. `McpFault` as `view`."""
        await self.view(task_id, asked)
        tasks = self._of(task_id)
        if answers and tasks is not None:
            await tasks.answer(task_id, answers, asked)

    async def cancel(self, task_id: str, asked: Asked) -> TaskView:
        """Stop a task that has not ended; how it stands then. `McpFault` as `view`."""
        await self.view(task_id, asked)
        tasks = self._of(task_id)
        assert tasks is not None
        await tasks.cancel(task_id, asked)
        return await self.view(task_id, asked)

    async def changed(self, view: TaskView, seconds_max: float) -> None:
        """Return when a task may stand otherwise than `view` says, or after `seconds_max`."""
        tasks = self._of(view.task_id)
        assert tasks is not None
        await tasks.changed(view, seconds_max)

    def _of(self, task_id: str) -> BackedTasks | None:
        return self._keeper if task_id.startswith(PREFIX) else self._backed
