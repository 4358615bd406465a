"""Calls as MCP Tasks: what the protocol asks of them, read from the log that they live in.

Nothing is kept a second time: a task's id names the session, the step, and the row that asked for
it. So it is there after a kill, a cancel ends the call, and an approval is the task's question.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import anyio

from agent_runtime.access.callers import APPROVALS_DECIDE
from agent_runtime.errors import NotFound
from agent_runtime.loop import codec
from agent_runtime.loop.events import CallRequested
from agent_runtime.runtime import Runtime
from agent_runtime.types import Json, TaskId
from agent_runtime_mcp.definitions import Asked, McpFault, Page, TaskStatus, TaskView
from agent_runtime_mcp.tools import asking
from agent_runtime_mcp.tools.calls import Calls, where
from agent_runtime_mcp.tools.course import Course
from agent_runtime_mcp.tools.sessions import LABELS, Sessions

POLL_MS: Final = 1_000
LISTED_MAX: Final = 100
"""Calls of one session: the newest."""
CANCEL_SECONDS_MAX: Final = 30.0
_ID: Final = re.compile(r"(task_[0-9a-f]{32})\.([ck][0-9a-f]{24})\.([1-9][0-9]{0,15})")


def id_of(course: Course) -> str:
    """Of the call as a task."""
    return f"{course.task_id}.{course.step_id}.{course.start}"


class CallTasks:
    """The port `BackedTasks` of the server *tools*."""

    def __init__(self, runtime: Runtime, calls: Calls, sessions: Sessions) -> None:
        self._runtime = runtime
        self._calls = calls
        self._sessions = sessions

    async def view(self, task_id: str, asked: Asked) -> TaskView | None:
        """As `BackedTasks.view`."""
        course = await self._course(task_id, asked)
        return None if course is None else _view(course, asked)

    async def page(self, asked: Asked, cursor: str) -> Page[TaskView]:
        """As `BackedTasks.page`: a session a page, of each the newest calls."""
        if cursor and not re.fullmatch("task_[0-9a-f]{32}", cursor):
            raise McpFault(McpFault.INVALID_PARAMS, f"{cursor!r} is no cursor of this list")
        found = await self._runtime.tasks(
            labels=LABELS, submitted_by=asked.caller.by, limit=1,
            before=TaskId(cursor) if cursor else None,
        )  # fmt: skip
        if not found:
            return Page(())
        session = TaskId(found[0].task_id)
        rows = await self._runtime.rows(session)
        requested = [row for row in rows if row.type == CallRequested.__name__]
        views = []
        for row in reversed(requested[-LISTED_MAX:]):
            event = codec.decode(row)
            assert isinstance(event, CallRequested)
            course = Course(session, event.step_id)
            course.see(rows[row.seq - 1 :])
            views.append(_view(course, asked))
        return Page(views, session)

    async def answer(
        self, task_id: str, answers: Mapping[str, Mapping[str, Json]], asked: Asked
    ) -> None:
        """As `BackedTasks.answer`."""
        course = await self._course(task_id, asked)
        request = course.pending if course is not None else None
        if course is None or request is None or not asked.caller.may(APPROVALS_DECIDE):
            return
        decided = asking.read(answers.get(asking.name_of(request), {}))
        if decided is not None:
            await self._calls.decide(course, request, decided, asked)

    async def cancel(self, task_id: str, asked: Asked) -> None:
        """As `BackedTasks.cancel`."""
        course = await self._course(task_id, asked)
        if course is None or course.ended:
            return
        await self._calls.withdraw(course, asked)
        with anyio.move_on_after(CANCEL_SECONDS_MAX):
            await self._calls.until(course, lambda: False)

    async def changed(self, view: TaskView, seconds_max: float) -> None:
        """As `BackedTasks.changed`."""
        course = _named(view.task_id)
        if course is None:
            return
        course.see(await self._runtime.rows(course.task_id, course.seen))
        before = (course.pending, course.intended)
        if _status(course, view.status) == view.status:
            with anyio.move_on_after(seconds_max):
                await self._calls.until(course, lambda: (course.pending, course.intended) != before)

    async def _course(self, task_id: str, asked: Asked) -> Course | None:
        course = _named(task_id)
        if course is None:
            return None
        try:
            summary = await self._runtime.summary(course.task_id)
        except NotFound:
            return None
        if summary.submitted_by != asked.caller.by:
            return None
        course.see(await self._runtime.rows(course.task_id, course.seen))
        return course if course.asked is not None else None


def _named(task_id: str) -> Course | None:
    found = _ID.fullmatch(task_id)
    if found is None:
        return None
    course = Course(TaskId(found[1]), found[2])
    course.seen = int(found[3]) - 1
    return course


def _status(course: Course, waiting: TaskStatus) -> TaskStatus:
    if course.ended:
        return "cancelled" if course.withdrawn else "completed"
    return waiting if course.pending is not None else "working"


def _view(course: Course, asked: Asked) -> TaskView:
    request = course.pending
    may_decide = asked.caller.may(APPROVALS_DECIDE)
    status = _status(course, "input_required" if may_decide else "working")
    questions: Mapping[str, tuple[str, Mapping[str, Json]]] = {}
    if status == "input_required" and request is not None:
        questions = {asking.name_of(request): ("elicitation/create", asking.question(request))}
    message = "" if course.ended else where(course)
    if request is not None and not may_decide:
        message += f": `agent-runtime approve {course.task_id} {request.approval_id}`"
    return TaskView(
        task_id=id_of(course), status=status, created_at_us=course.began_at_us,
        updated_at_us=max(course.seen_at_us, course.began_at_us), message=message,
        poll_ms=POLL_MS, questions=questions, answer=course.answer() if course.ended else None,
    )  # fmt: skip
