"""What waits for a person, over HTTP."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from agent_runtime import inbox
from agent_runtime.api.answers import Reply, json_answer
from agent_runtime.api.operations import Request, operation
from agent_runtime.api.views import InboxAnswer, InboxPage, InboxView, moment
from agent_runtime.types import TaskId


class InboxQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which page."""

    limit: Annotated[int, Meta(ge=1, le=500)] = 100
    """About so many: all that waits of one task comes together."""
    cursor: Annotated[str, Meta(pattern=r"^(task_[0-9a-f]{32})?$")] = ""
    """`next_cursor` of the page before."""


@operation(
    "GET", "/v1/inbox", answers={200: InboxPage}, scope="tasks:read", query=InboxQuery,
)  # fmt: skip
async def list_inbox(request: Request[None, InboxQuery]) -> Reply:
    """List everything that waits for a person, and what to do about each."""
    query = request.query
    before = TaskId(query.cursor) if query.cursor else None
    found, more = await inbox.waiting(request.daemon.runtime, before=before, limit=query.limit)
    return json_answer(InboxPage([inbox_view(item) for item in found], more))


def inbox_view(item: inbox.InboxItem) -> InboxView:
    """One item, as JSON has it."""
    return InboxView(
        kind=item.kind, task_id=item.task_id, goal=item.goal, since=moment(item.since_us),
        what=item.what, approval_id=item.approval_id,
        answers=[
            InboxAnswer(does=each.does, path=each.path, body=each.body, words=each.words)
            for each in item.answers
        ],
    )  # fmt: skip
