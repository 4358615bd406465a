"""Tools for handing tasks off and looking at them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from agent_runtime import inbox
from agent_runtime.access.callers import TASKS_READ, TASKS_WRITE
from agent_runtime.api.daemon import Daemon
from agent_runtime.api.inbox import inbox_view
from agent_runtime.api.intake import owned_key, take_in
from agent_runtime.api.recording import note_taken
from agent_runtime.api.views import InboxPage, TaskPage, view_of
from agent_runtime.errors import UsageError
from agent_runtime.model_names import CLIENT
from agent_runtime.types import Json, TaskId, TaskSummary
from agent_runtime_mcp.definitions import Asked, ToolAnswer, ToolDefinition, text
from agent_runtime_mcp.runtime import wishes
from agent_runtime_mcp.runtime.approvals import Asking
from agent_runtime_mcp.runtime.documents import PAGE_CHARS, read_part
from agent_runtime_mcp.runtime.schemas import answer, make_tool
from agent_runtime_mcp.runtime.telling import TaskTold, list_text, told
from agent_runtime_mcp.runtime.waiting import at_rest


class TaskTools:
    """submit_task, get_task, list_tasks, read_task, inbox."""

    def __init__(self, daemon: Daemon, asking: Asking) -> None:
        self._daemon = daemon
        self._asking = asking

    def definitions(self) -> Sequence[ToolDefinition]:
        """In the order in which they are listed."""
        return (
            make_tool(
                self._submit, wishes.Submit, answers=TaskTold, scope=TASKS_WRITE,
                begin=self._begin, name="submit_task", title="Submit a task",
                description="Hand a coding task off to an agent that works by itself in a sandboxed"
                " copy of a repository, and proves its result by running checks. Give `goal` and "
                "`repo` (and best a `check`), or a whole `task`. It is kept when this answers; "
                "get_task waits for its end.",
            ),
            make_tool(
                self._get, wishes.Get, answers=TaskTold, scope=TASKS_READ, reads=True,
                name="get_task", title="Look at a task, or wait for it",
                description="Where a task stands; of one that has ended: its grade, checks, what "
                "was not checked, cost, and how to go on. Waits until it ends or needs somebody.",
            ),
            make_tool(
                self._list, wishes.ListTasks, answers=TaskPage, scope=TASKS_READ, reads=True,
                name="list_tasks", title="List tasks",
                description="Tasks, the newest first.",
            ),
            make_tool(
                self._read, wishes.Read, scope=TASKS_READ, reads=True,
                name="read_task", title="Read a part of a task",
                description="The report, patch, plan, events, certificate or task file of a task, "
                "page by page.",
            ),
            make_tool(
                self._inbox, wishes.Inbox, answers=InboxPage, scope=TASKS_READ, reads=True,
                name="inbox", title="What waits for a person",
                description="Everything that waits for a person: approvals, effects that nobody "
                "knows, tasks without a brain, paused ones, branches that were not published.",
            ),
        )  # fmt: skip

    async def _begin(self, wish: wishes.Submit, asked: Asked) -> str | None:
        """As an MCP task: the task itself. Not if its caller has more to do with it before its end:
        it decides for it, or wants to hear of it in so many seconds."""
        if wish.wait_seconds or _task_of(wish).get("model") == CLIENT:
            return None
        return (await self._take_in(wish, asked)).task_id

    async def _submit(self, wish: wishes.Submit, asked: Asked) -> ToolAnswer:
        summary = await self._take_in(wish, asked)
        if wish.wait_seconds:
            task_id = TaskId(summary.task_id)
            summary = await at_rest(self._daemon, None, task_id, wish.wait_seconds, asked)
        return await self.tell(summary)

    async def _take_in(self, wish: wishes.Submit, asked: Asked) -> TaskSummary:
        given = wishes.key_given(wish.idempotency_key, asked)
        key = owned_key(asked.caller, given) if given is not None else None
        body = msgspec.json.encode(_task_of(wish))
        taken = await take_in(self._daemon, asked.caller, body, key)
        if taken.is_new:
            note_taken(self._daemon, asked.caller, taken.summary.task_id)
        return taken.summary

    async def tell(self, summary: TaskSummary) -> ToolAnswer:
        """All there is to say of a task where it stands."""
        return answer(*await told(self._daemon.runtime, summary))

    async def _get(self, wish: wishes.Get, asked: Asked) -> ToolAnswer:
        task_id = await self._daemon.runtime.find(wish.task_id)
        summary = await at_rest(self._daemon, self._asking, task_id, wish.wait_seconds, asked)
        return await self.tell(summary)

    async def _list(self, wish: wishes.ListTasks, asked: Asked) -> ToolAnswer:
        found = await self._daemon.runtime.tasks(
            statuses=wish.status,
            labels=wish.labels,
            submitted_by=asked.caller.by if wish.mine else None,
            before=TaskId(wish.cursor) if wish.cursor else None,
            limit=wish.limit + 1,  # one more tells whether there is another page
        )
        page = [view_of(summary) for summary in found[: wish.limit]]
        more = len(found) > len(page)
        value = TaskPage(page, page[-1].id if more else None)
        return answer(value, list_text(page, more))

    async def _read(self, wish: wishes.Read, asked: Asked) -> ToolAnswer:
        task_id = await self._daemon.runtime.find(wish.task_id)
        document = await read_part(
            self._daemon, task_id, wish.what, wish.after, bytes_max=PAGE_CHARS
        )
        whole = document.data.decode("utf-8", "backslashreplace")
        if wish.what == "events":
            shown, more = whole, document.next
        else:
            shown = whole[wish.after : wish.after + PAGE_CHARS]
            end = wish.after + len(shown)
            more = end if end < len(whole) else None
        if more is not None:
            shown += f'\n[there is more: read_task with "after": {more}]'
        return text(shown or f"There is nothing in the {wish.what} of {task_id}.")

    async def _inbox(self, wish: wishes.Inbox, asked: Asked) -> ToolAnswer:
        before = TaskId(wish.cursor) if wish.cursor else None
        found, more = await inbox.waiting(self._daemon.runtime, before=before, limit=wish.limit)
        lines = [f"{item.task_id}: {item.kind}: {' '.join(item.what.split())}" for item in found]
        if not lines:
            lines.append("Nothing waits for anybody.")
        if more:
            lines.append(f'There is more: inbox {{"cursor": "{more}"}}')
        lines.append("get_task tells of each what can be done.")
        return answer(InboxPage([inbox_view(item) for item in found], more), "\n".join(lines))


def _task_of(wish: wishes.Submit) -> dict[str, Json]:
    """The task file that is meant.

    Raises:
        UsageError: none is, or two.
    """
    short = {"goal": wish.goal, "repo": wish.repo, "check": wish.check, "model": wish.model}
    if wish.task is not None:
        if others := [name for name, value in short.items() if value]:
            raise UsageError(
                f"{', '.join(others)}: give either a whole `task` or its short form, not both"
            )
        return wish.task
    if not wish.goal:
        raise UsageError("goal: say what is wanted, by `goal`, or give a whole `task`")
    task: dict[str, Json] = {"goal": wish.goal}
    if wish.repo:
        task["workspace"] = {"repo": wish.repo}
    if wish.check:
        task["objectives"] = [{"id": "check", "check": {"command": wish.check}}]
    if wish.model:
        task["model"] = wish.model
    return task
