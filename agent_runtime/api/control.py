"""What people and programs tell a task while it lives, and after: each is a fact in its log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from agent_runtime.api import intake
from agent_runtime.api.answers import Headers, Reply, json_answer
from agent_runtime.api.operations import Operation, Request, Run, operation
from agent_runtime.api.tasks import matcher, once_of, require_match
from agent_runtime.api.views import (
    Approvals,
    ApprovalView,
    Decided,
    ReplayView,
    TaskView,
    etag,
    moment,
    view_of,
)
from agent_runtime.errors import Repeated
from agent_runtime.loop import events as e
from agent_runtime.taskfile import read_json
from agent_runtime.tasks.conditions import Only
from agent_runtime.types import (
    AnswerSpec,
    ContinuationSpec,
    ForkSpec,
    Json,
    Policy,
    ResultSpec,
    TaskId,
)

_IF_MATCH = {"If-Match": "only if the task is still at this ETag"}
_ONCE = {
    "Idempotency-Key": "a repetition with the same key and body does nothing more and gets the "
    "task as it is; with another body it is refused (422)",
}
_REPLAYED = ((b"idempotency-replayed", b"true"),)
_ERRORS = (404, 409, 412, 503)
Text = Annotated[str, Meta(max_length=100_000)]


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing needs to be said: the body may be left out."""


class Cancellation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why, for the log."""

    reason: Annotated[str, Meta(max_length=10_000)] = ""


class Resumption(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model for a task that waits for a brain; empty: as it was."""

    model: Annotated[str, Meta(max_length=300)] = ""


class Steering(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the brain is told with its next turn."""

    message: Annotated[str, Meta(min_length=1, max_length=100_000)]


class Replacement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is another in a fork: `answer` or `result` stands for the event, the rest is in force
    after it."""

    answer: AnswerSpec | None = None
    result: ResultSpec | None = None
    model: str | None = None
    policy: Policy | None = None
    message: Text = ""


class ForkWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a task is forked: with its first `at` events."""

    at: Annotated[int, Meta(ge=1)]
    replace: Replacement = Replacement()


def _state_change(name: str, body: Any, **more: Any) -> Callable[[Run], Operation]:
    return operation(
        "POST", f"/v1/tasks/{{task_id}}/{name}", answers={202: TaskView}, scope="tasks:write",
        errors=_ERRORS, body=body, body_optional=True, headers=_IF_MATCH, **more,
    )  # fmt: skip


async def _after(request: Request[Any, Any], task_id: TaskId, more: Headers = ()) -> Reply:
    summary = await request.daemon.runtime.ports.store.summary(task_id)
    return json_answer(view_of(summary), 202, ((b"etag", etag(summary.seq)), *more))


@_state_change("pause", Nothing)
async def pause_task(request: Request[Nothing, None]) -> Reply:
    """Let a task stop: what runs in its sandbox is frozen, nothing new starts."""
    task_id, only = await _matched(request)
    await request.daemon.runtime.pause(task_id, by=request.caller.by, only=only)
    return await _after(request, task_id)


@_state_change("resume", Resumption)
async def resume_task(request: Request[Resumption, None]) -> Reply:
    """Let a paused task go on, or give one that waits for a brain a model to think with."""
    task_id, only = await _matched(request)
    await request.daemon.runtime.resume(
        task_id, by=request.caller.by, model=request.body.model, only=only
    )
    return await _after(request, task_id)


@_state_change("cancel", Cancellation)
async def cancel_task(request: Request[Cancellation, None]) -> Reply:
    """End a task for good.

    202: it is stored that it ends; everything that the task started is stopped, and its event
    TaskEnded says when. A task that has ended already is a conflict.
    """
    task_id, only = await _matched(request)
    await request.daemon.runtime.cancel(
        task_id, by=request.caller.by, reason=request.body.reason, only=only
    )
    return await _after(request, task_id)


@operation(
    "POST", "/v1/tasks/{task_id}/steer", answers={202: TaskView}, scope="tasks:write",
    errors=_ERRORS, body=Steering, headers={**_IF_MATCH, **_ONCE},
)  # fmt: skip
async def steer_task(request: Request[Steering, None]) -> Reply:
    """Tell a task's brain something; its next turn hears it."""
    task_id, message = TaskId(request.path["task_id"]), request.body.message
    once, (only, _) = once_of(request, message), matcher(request)
    try:
        await request.daemon.runtime.steer(
            task_id, message, by=request.caller.by, only=only, once=once
        )
    except Repeated:
        return await _after(request, task_id, _REPLAYED)
    return await _after(request, task_id)


@operation(
    "POST", "/v1/tasks/{task_id}/continue", answers={202: TaskView}, scope="tasks:write",
    errors=_ERRORS, body=ContinuationSpec, raw=True, headers={**_IF_MATCH, **_ONCE},
)  # fmt: skip
async def continue_task(request: Request[bytes, None]) -> Reply:
    """Open an ended task again: the same branch, history and files, and a new allotment."""
    document, task_id = read_json(request.body), TaskId(request.path["task_id"])
    once, (only, _) = once_of(request, document), matcher(request)
    try:
        await intake.continue_task(
            request.daemon, request.caller, task_id, document, only, once=once
        )
    except Repeated:
        return await _after(request, task_id, _REPLAYED)
    return await _after(request, task_id)


@operation(
    "POST", "/v1/tasks/{task_id}/fork", answers={201: TaskView}, scope="tasks:write",
    errors=_ERRORS, body=ForkWish, headers=_ONCE,
)  # fmt: skip
async def fork_task(request: Request[ForkWish, None]) -> Reply:
    """Make another task that begins with the first events of this one; nothing of this one changes.

    With a changed answer of a model, tool result, model, policy or message.
    """
    daemon, wish = request.daemon, request.body
    changed = wish.replace
    spec = ForkSpec(
        at=wish.at, answer=changed.answer, result=changed.result, model=changed.model,
        policy=changed.policy, message=changed.message,
    )  # fmt: skip
    caller, parent = request.caller, TaskId(request.path["task_id"])
    once = once_of(request, wish)
    if once is not None and (known := await daemon.runtime.forked_before(caller.by, once)):
        return await _forked(request, known, _REPLAYED)
    return await _forked(request, await intake.fork_task(daemon, caller, parent, spec, once=once))


async def _forked(request: Request[Any, Any], forked: TaskId, more: Headers = ()) -> Reply:
    summary = await request.daemon.runtime.ports.store.summary(forked)
    location = b"/v1/tasks/" + forked.encode()
    headers = ((b"location", location), (b"etag", etag(summary.seq)), *more)
    return json_answer(view_of(summary), 201, headers)


@operation(
    "POST", "/v1/tasks/{task_id}/replay", answers={200: ReplayView}, scope="tasks:read",
    errors=(404,), body=Nothing, body_optional=True,
)  # fmt: skip
async def replay_task(request: Request[Nothing, None]) -> Reply:
    """Decide a task again from its recorded inputs, and compare; nothing is run."""
    found = await request.daemon.runtime.replay(TaskId(request.path["task_id"]))
    first = found.difference
    return json_answer(
        ReplayView(
            ok=found.ok, task_id=found.task_id, events=found.events, inputs=found.inputs,
            decisions=found.decisions,
            difference=None if first is None else {
                "seq": first.seq, "words": first.words,
                "stored": first.stored and first.stored.fields,
                "decided": first.decided and first.decided.fields,
            },
        )
    )  # fmt: skip


async def _matched(request: Request[Any, Any]) -> tuple[TaskId, Only]:
    task_id = TaskId(request.path["task_id"])
    return task_id, await require_match(request, task_id)


# ---- approvals ---------------------------------------------------------------------------


class ApprovalDecision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A person's answer."""

    decision: Literal["approve", "deny"]
    message: Text = ""
    """Why; the task's brain reads it too."""
    scope: Literal["once", "task"] = "once"
    """task: what the same rule asks about the same tool is allowed from now on."""
    arguments: dict[str, Json] | None = None
    """What the call is made with, in place of its own arguments."""


@operation("GET", "/v1/approvals", answers={200: Approvals}, scope="tasks:read")
async def list_approvals(request: Request[None, None]) -> Reply:
    """List what waits for a person's decision."""
    found = await intake.pending_approvals(request.daemon)
    return json_answer(Approvals([approval_view(task_id, asked) for task_id, asked in found]))


def approval_view(task_id: str, asked: e.ApprovalRequested) -> ApprovalView:
    """What is asked, as JSON has it."""
    return ApprovalView(
        id=f"{task_id}.{asked.approval_id}", task_id=task_id, approval_id=asked.approval_id,
        subject=asked.subject, step_id=asked.step_id, tool=asked.tool, arguments=asked.arguments,
        question=asked.question, preview=asked.preview, expires_at=moment(asked.expires_at_us),
    )  # fmt: skip


@operation(
    "POST", "/v1/approvals/{approval}/decide", answers={200: Decided}, scope="approvals:decide",
    errors=_ERRORS, body=ApprovalDecision,
)  # fmt: skip
async def decide_approval(request: Request[ApprovalDecision, None]) -> Reply:
    """Allow or refuse what a task asks for; `approval` is the `id` of the list.

    It is good for exactly that call with those arguments on that tree, and once; with `scope`
    task, what the same rule asks about the same tool is allowed for the rest of the task.
    `arguments` stand in the place of the call's own.
    """
    task_id, _, approval_id = request.path["approval"].rpartition(".")
    wish = request.body
    answered = await request.daemon.runtime.decide_approval(
        TaskId(task_id),
        approval_id,
        wish.decision,
        by=request.caller.by,
        message=wish.message,
        scope=wish.scope,
        arguments=wish.arguments,
    )
    return json_answer(Decided(task_id, answered, wish.decision))
