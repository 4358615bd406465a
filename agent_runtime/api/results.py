"""What came of a task, as far as it is: plan, events, patch, files, cost, certificate, report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from agent_runtime.api.answers import Answer, Reply, json_answer, text_answer
from agent_runtime.api.hub import stored
from agent_runtime.api.operations import Operation, Request, Run, operation
from agent_runtime.api.views import (
    ArtifactList,
    ArtifactView,
    CostView,
    PlanView,
    Spent,
    StepView,
    VerifyView,
)
from agent_runtime.errors import Conflict, NotFound
from agent_runtime.loop.state import State, StepState, Usage
from agent_runtime.report_page import html_of, markdown_of
from agent_runtime.types import Json, TaskId


class ArtifactsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which file; without `path`, the list."""

    path: Annotated[str, Meta(max_length=4096)] = ""


class ReportQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """In which form."""

    format: Literal["markdown", "html", "json"] = "markdown"


def _of_task(name: str, answer: Any, **more: Any) -> Callable[[Run], Operation]:
    path = f"/v1/tasks/{{task_id}}/{name}"
    more = {"errors": (404,), **more}
    return operation("GET", path, answers={200: answer}, scope="tasks:read", **more)


def _id(request: Request[Any, Any]) -> TaskId:
    return TaskId(request.path["task_id"])


@_of_task("plan", PlanView)
async def task_plan(request: Request[None, None]) -> Reply:
    """The steps of a task's plan."""
    return json_answer(plan_view(await request.daemon.runtime.state(_id(request))))


def plan_view(state: State) -> PlanView:
    """The plan and where its steps stand, as JSON has it."""
    return PlanView([_step(step) for step in state.steps.values()])


def _step(step: StepState) -> StepView:
    result, failure = step.result, step.failure
    return StepView(
        id=step.spec.id, status=step.status, tool=step.spec.tool, goal=step.spec.goal,
        needs=list(step.spec.needs), attempts=step.attempt,
        exit=result.exit if result else None,
        reason=(failure.reason if failure else "") or (result.reason if result else ""),
    )  # fmt: skip


@_of_task("logs", "application/x-ndjson")
async def task_logs(request: Request[None, None]) -> Reply:
    """Every event, one line of JSON each, exactly as the log has it: hashes can be checked."""
    rows = await request.daemon.runtime.rows(_id(request))
    body = b"".join([msgspec.json.encode(stored(row)) + b"\n" for row in rows])
    return Answer(200, body, (), b"application/x-ndjson")


@_of_task("diff", "text/x-diff")
async def task_diff(request: Request[None, None]) -> Reply:
    """The verified patch of an ended task, else the difference up to its last known tree."""
    patch = await request.daemon.runtime.patch(_id(request))
    return Answer(200, patch, (), b"text/x-diff; charset=utf-8")


@_of_task("artifacts", ArtifactList, query=ArtifactsQuery)
async def task_artifacts(request: Request[None, ArtifactsQuery]) -> Reply:
    """The files that a task kept, or one of them (`path`), as bytes."""
    task_id, path = _id(request), request.query.path
    kept = await request.daemon.runtime.artifacts(task_id)
    if path:
        return Answer(
            200, await request.daemon.runtime.artifact(task_id, path),
            ((b"content-disposition", b"attachment"), (b"x-content-type-options", b"nosniff")),
            b"application/octet-stream",
        )  # fmt: skip
    found = [ArtifactView(a.path, a.bytes, a.sha256) for a in kept.artifacts] if kept else []
    return json_answer(ArtifactList(found, list(kept.missing) if kept else []))


@_of_task("cost", CostView)
async def task_cost(request: Request[None, None]) -> Reply:
    """What a task has spent."""
    state = await request.daemon.runtime.state(_id(request))
    limits: dict[str, float] = msgspec.to_builtins(state.task.limits)
    return json_answer(
        CostView(usage=_spent(state.usage), total=_spent(state.total), limits=limits)
    )


def _spent(usage: Usage) -> Spent:
    return Spent(usage.steps, usage.tokens, usage.usd, usage.running_us / 1e6)


@_of_task("certificate", dict[str, Json], errors=(404, 409))
async def task_certificate(request: Request[None, None]) -> Reply:
    """The evidence: which commands gave which results on which tree.

    A conflict if nothing was verified.
    """
    task_id = _id(request)
    await request.daemon.runtime.ports.store.summary(task_id)  # is there such a task?
    try:
        return json_answer(await request.daemon.runtime.certificate(task_id))
    except NotFound as error:
        raise Conflict(str(error)) from None


@_of_task("report", ("text/markdown", "text/html", "application/json"), query=ReportQuery)
async def task_report(request: Request[None, ReportQuery]) -> Reply:
    """One page about a task, for whoever reviews it."""
    report = await request.daemon.runtime.report(_id(request))
    match request.query.format:
        case "json":
            return json_answer(msgspec.to_builtins(report))
        case "html":
            return text_answer(html_of(report), "text/html")
        case _:
            return text_answer(markdown_of(report), "text/markdown")


@_of_task("verify", VerifyView)
async def verify_task(request: Request[None, None]) -> Reply:
    """Check that a task's log and claims are what was written."""
    found = await request.daemon.runtime.verify(_id(request))
    return json_answer(VerifyView(found.ok, found.task_id, found.seq, found.fault))
