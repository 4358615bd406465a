"""Arguments of the tools, one Struct each: their schemas are made of these."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from agent_runtime.api.views import StatusName
from agent_runtime.types import Json
from agent_runtime_mcp.definitions import Asked
from agent_runtime_mcp.runtime.waiting import WAIT_SECONDS_MAX
from agent_runtime_mcp.wire import META_KEY

GET_SECONDS = 25.0
DECIDE_SECONDS = 20.0

TaskName = Annotated[
    str, Meta(min_length=4, max_length=64, description="Id of a task, or its last 4+ digits")
]
Wait = Annotated[
    float,
    Meta(
        ge=0,
        le=WAIT_SECONDS_MAX,
        description="Wait so long for the task to end or to need somebody; call again to go on",
    ),
]
OnlyAt = Annotated[
    int | None,
    Meta(description="Only if `seq` of the task is still this number: nothing has happened to it"),
]
Key = Annotated[
    str, Meta(max_length=255, description="A repetition with the same key does nothing more")
]
Cursor = Annotated[
    str, Meta(pattern="^(task_[0-9a-f]{32})?$", description="next_cursor of the page before")
]
Text = Annotated[str, Meta(max_length=100_000)]


def key_given(key: str, asked: Asked) -> str | None:
    """The idempotency key of a call, of its arguments or of `_meta`; None: it has none."""
    given = key or asked.meta.get(META_KEY)
    return given if isinstance(given, str) and given else None


class Wish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of a tool."""


class Submit(Wish, frozen=True, kw_only=True):
    """A task file, or its short form."""

    task: Annotated[
        dict[str, Json] | None,
        Meta(
            description="A whole task file as JSON: goal, workspace {repo, ref}, model, plan "
            "{steps}, objectives [{id, check: {command}}], protect, limits {steps, usd, tokens, "
            "seconds}, policy {network, approvals, tools}, environment, publish, labels, priority. "
            "The resource agent-runtime://schema/task-file has its JSON schema"
        ),
    ] = None
    goal: Annotated[str, Meta(description="Short form: what is wanted", max_length=100_000)] = ""
    repo: Annotated[
        str,
        Meta(description="Short form: a git URL, or an absolute path on the daemon's machine"),
    ] = ""
    check: Annotated[
        str,
        Meta(description="Short form: a shell command that succeeds when the goal is reached"),
    ] = ""
    model: Annotated[
        str,
        Meta(description="Short form: PROVIDER/NAME, or client: you decide, by next_decision"),
    ] = ""
    idempotency_key: Annotated[
        str,
        Meta(
            max_length=255,
            description="A repetition with the same key and task makes no second task",
        ),
    ] = ""
    wait_seconds: Wait = 0


class Get(Wish, frozen=True, kw_only=True):
    """Which task, and how long to wait for it."""

    task_id: TaskName
    wait_seconds: Wait = GET_SECONDS


class ListTasks(Wish, frozen=True, kw_only=True):
    """Which tasks. All filters must fit; several statuses mean any of them."""

    status: list[StatusName] = []
    labels: dict[str, str] = {}
    mine: Annotated[bool, Meta(description="Only tasks that you have submitted")] = False
    limit: Annotated[int, Meta(ge=1, le=200)] = 20
    cursor: Cursor = ""


Part = Literal["report", "diff", "plan", "events", "certificate", "task"]


class Read(Wish, frozen=True, kw_only=True):
    """Which part of a task, from where."""

    task_id: TaskName
    what: Annotated[
        Part,
        Meta(
            description="report: all for a reviewer; diff: the patch; plan: its steps; events: its "
            "log; certificate: the evidence; task: the task file"
        ),
    ] = "report"
    after: Annotated[
        int, Meta(ge=0, description="`next` of the page before: an event's number, or characters")
    ] = 0


class OfTask(Wish, frozen=True, kw_only=True):
    """Which task."""

    task_id: TaskName
    only_at_seq: OnlyAt = None


class Cancel(OfTask, frozen=True, kw_only=True):
    """Which task, and why."""

    reason: Annotated[str, Meta(max_length=10_000)] = ""


class Resume(OfTask, frozen=True, kw_only=True):
    """Which task, and who thinks for it."""

    model: Annotated[
        str,
        Meta(
            max_length=300,
            description="For a task that waits for a brain: PROVIDER/NAME, or client",
        ),
    ] = ""


class Steer(OfTask, frozen=True, kw_only=True):
    """What the agent is told."""

    message: Annotated[str, Meta(min_length=1, max_length=100_000)]
    idempotency_key: Key = ""


class Continue(OfTask, frozen=True, kw_only=True):
    """What an ended task goes on with."""

    message: Annotated[
        str, Meta(max_length=100_000, description="What is wanted now; the agent reads it")
    ] = ""
    model: Annotated[str, Meta(max_length=300)] = ""
    more: Annotated[
        dict[str, Json],
        Meta(description="Also: plan, objectives, protect, limits, policy, as in a task file"),
    ] = {}
    idempotency_key: Key = ""
    wait_seconds: Wait = 0


class Fork(Wish, frozen=True, kw_only=True):
    """Where a task is forked, and what is another in the fork."""

    task_id: TaskName
    at: Annotated[int, Meta(ge=1, description="The fork begins with so many events of the task")]
    replace: Annotated[
        dict[str, Json],
        Meta(
            description="answer {text, calls} or result {ok, output, exit} stands for event `at`; "
            "model, policy and message hold from there on"
        ),
    ] = {}
    idempotency_key: Key = ""


class Approve(Wish, frozen=True, kw_only=True):
    """A person's answer to what a task asks."""

    approval: Annotated[
        str,
        Meta(
            min_length=4,
            max_length=300,
            description="TASK.APPROVAL as get_task and inbox tell it",
        ),
    ]
    decision: Literal["approve", "deny"]
    message: Annotated[Text, Meta(description="Why; the agent reads it too")] = ""
    scope: Annotated[
        Literal["once", "task"],
        Meta(description="task: what the same rule asks about this tool is allowed from now on"),
    ] = "once"
    arguments: Annotated[
        dict[str, Json] | None,
        Meta(description="What the call is made with, in place of its own arguments"),
    ] = None


class Inbox(Wish, frozen=True, kw_only=True):
    """How much of it."""

    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    cursor: Cursor = ""


Known = Annotated[int, Meta(ge=0, description="So many of them you have seen: they are left out")]


class NextDecision(Wish, frozen=True, kw_only=True):
    """For which task."""

    task_id: Annotated[
        str,
        Meta(max_length=64, description="Empty: the oldest of your tasks that waits for a client"),
    ] = ""
    wait_seconds: Wait = DECIDE_SECONDS
    known_messages: Known = 0
    known_tools: Known = 0


class DecidedCall(Wish, frozen=True, kw_only=True):
    """One call of a tool."""

    name: str
    arguments: dict[str, Json] = {}
    id: Annotated[str, Meta(max_length=128, description="Of your choice, or left out")] = ""


class SubmitDecision(Wish, frozen=True, kw_only=True):
    """A turn of the agent."""

    decision_id: Annotated[str, Meta(min_length=4, max_length=300)]
    text: Annotated[str, Meta(description="What you say; without calls, you say you are done")] = ""
    calls: Annotated[list[DecidedCall], Meta(description="Tools to call, as they were listed")] = []
    wait_seconds: Annotated[
        float,
        Meta(ge=0, le=WAIT_SECONDS_MAX, description="Wait so long for the next decision"),
    ] = DECIDE_SECONDS
    known_messages: Known = 0
    known_tools: Known = 0
