"""Tasks as HTTP shows them."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

import msgspec

from agent_runtime.types import TaskSummary

StatusName = Literal[
    "pending", "running", "waiting", "paused", "succeeded", "unverified", "failed", "cancelled"
]


class TaskView(msgspec.Struct, frozen=True, kw_only=True):
    """A task in a line. `seq` is the number of its newest event, and its ETag."""

    id: str
    status: StatusName
    phase: str
    reason: str
    goal: str
    seq: int
    created_at: str
    updated_at: str
    labels: dict[str, str]
    priority: int
    repo: str


class TaskPage(msgspec.Struct, frozen=True):
    """Tasks, the newest first. `next_cursor` is the `cursor` of the next page; null: the last."""

    tasks: list[TaskView]
    next_cursor: str | None


def view_of(summary: TaskSummary) -> TaskView:
    """A task's projection as JSON has it."""
    return TaskView(
        id=summary.task_id,
        status=summary.status,  # type: ignore[arg-type]  # the store holds no other
        phase=summary.phase,
        reason=summary.reason,
        goal=summary.goal,
        seq=summary.seq,
        created_at=moment(summary.created_at_us),
        updated_at=moment(summary.updated_at_us),
        labels=summary.labels,
        priority=summary.priority,
        repo=summary.repo,
    )


def moment(at_us: int) -> str:
    """RFC 3339, in UTC, to the millisecond."""
    seconds, rest_us = divmod(at_us, 1_000_000)
    return f"{_second(seconds)}.{rest_us // 1000:03}Z"


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def etag(seq: int) -> bytes:
    """Of a task whose newest event is `seq`."""
    return b'"%d"' % seq
