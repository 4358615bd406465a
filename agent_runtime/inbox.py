"""Everything that waits for a person, and what to do about each: approvals, unknown effects, tasks
without a brain, paused ones, and branches that could not be published.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, Protocol

import msgspec

from agent_runtime.loop.state import State, status_of
from agent_runtime.types import Json, Status, TaskId, TaskSummary

Kind = Literal["approval", "unknown_effect", "brain", "input", "publishing", "paused", "budget"]

LIVING: Final = (Status.RUNNING, Status.WAITING, Status.PAUSED)
ENDED: Final = (Status.SUCCEEDED, Status.UNVERIFIED, Status.FAILED)
NOT_PUBLISHED: Final = "not published: "
"""In the reason of a task whose branch did not get out."""
PAGE: Final = 200
ENDED_LOOKED_AT_MAX: Final = 2000
"""Of the newest ended tasks: whether their branches got out."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to do: as a request to the daemon, and as words after `agent-runtime`."""

    does: str
    path: str
    body: dict[str, Json]
    words: list[str]


class InboxItem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that waits. `since_us`: when its task last moved."""

    kind: Kind
    task_id: str
    goal: str
    since_us: int
    what: str
    approval_id: str = ""
    answers: list[Answer]


class Tasks(Protocol):
    """What is looked through; `runtime.Runtime` has it."""

    async def tasks(
        self, *, statuses: Sequence[str] = (), before: TaskId | None = None, limit: int = 100
    ) -> list[TaskSummary]: ...
    async def state(self, task_id: TaskId) -> State: ...


async def waiting(
    tasks: Tasks, *, before: TaskId | None = None, limit: int = 100
) -> tuple[list[InboxItem], TaskId | None]:
    """At least `limit` things, if there are as many, of the newest task first.

    `before`: of tasks that were made before that one. Also, where to go on; None: that is all.
    """
    found: list[InboxItem] = []
    ended = 0
    while page := await tasks.tasks(statuses=(*LIVING, *ENDED), before=before, limit=PAGE):
        for summary in page:
            before = TaskId(summary.task_id)
            if summary.status in LIVING:
                found += waits_of(await tasks.state(before), summary)
            else:
                ended += 1
                found += unpublished(summary)
            if len(found) >= limit:
                return found, before
        if ended >= ENDED_LOOKED_AT_MAX and not any(each.status in LIVING for each in page):
            break
    return found, None


def waits_of(state: State, summary: TaskSummary) -> list[InboxItem]:
    """What of a task that has not ended waits for somebody."""
    status, reason = status_of(state)
    task_id, short = summary.task_id, summary.task_id[-8:]
    found = [
        InboxItem(
            kind="unknown_effect" if asked.subject == "unknown_effect" else "approval",
            task_id=task_id, goal=summary.goal, since_us=summary.updated_at_us,
            what=asked.question, approval_id=asked.approval_id,
            answers=_decisions(task_id, asked.approval_id, asked.subject == "unknown_effect"),
        )
        for asked in state.approvals.values()
    ]  # fmt: skip
    cancel = _answer("end it", task_id, "cancel", {}, ["cancel", short])
    if status is Status.WAITING and reason in ("brain", "input"):
        if state.asked_client:
            what = "a connected client is to decide its next turn"
            return [*found, _item("brain", summary, what, [cancel])]
        why = state.brain.why if state.brain is not None and reason == "brain" else ""
        answers = [
            _answer(
                "let a model think", task_id, "resume", {"model": "PROVIDER/NAME"},
                ["resume", short, "--model", "PROVIDER/NAME"],
            ),
            cancel,
        ]  # fmt: skip
        if reason == "input":
            words = ["steer", short, "MESSAGE"]
            answers[0] = _answer("tell it", task_id, "steer", {"message": "MESSAGE"}, words)
        lacks = "nobody thinks for it" if reason == "brain" else "it waits for an answer"
        found.append(_item(reason, summary, f"{lacks}{f': {why}' if why else ''}", answers))
    if status is Status.PAUSED:
        kind: Kind = "budget" if "budget" in reason else "paused"
        answers = [_answer("let it go on", task_id, "resume", {}, ["resume", short]), cancel]
        found.append(_item(kind, summary, reason or "it is paused", answers))
    return found


def unpublished(summary: TaskSummary) -> Sequence[InboxItem]:
    """The branch of a proven task that did not get out, if that is so."""
    _, mark, why = summary.reason.partition(NOT_PUBLISHED)
    if not mark:
        return ()
    short = summary.task_id[-8:]
    again = _answer("try again", summary.task_id, "publish", {}, ["publish", short])
    return [_item("publishing", summary, f"its branch is not published: {why}", [again])]


def _item(kind: Kind | str, summary: TaskSummary, what: str, answers: list[Answer]) -> InboxItem:
    return InboxItem(
        kind=kind, task_id=summary.task_id, goal=summary.goal, since_us=summary.updated_at_us,  # type: ignore[arg-type]  # a reason that is a kind
        what=what, answers=answers,
    )  # fmt: skip


def _answer(does: str, task_id: str, verb: str, body: dict[str, Json], words: list[str]) -> Answer:
    return Answer(does=does, path=f"/v1/tasks/{task_id}/{verb}", body=body, words=words)


def _decisions(task_id: str, approval_id: str, is_unknown: bool) -> list[Answer]:
    yes, no = "let it run", "refuse it"
    if is_unknown:
        yes, no = "go on as if it had been done", "go on as if it had failed"
    return [
        Answer(
            does=does, path=f"/v1/approvals/{task_id}.{approval_id}/decide",
            body={"decision": decision}, words=[decision, task_id[-8:], approval_id],
        )
        for does, decision in ((yes, "approve"), (no, "deny"))
    ]  # fmt: skip
