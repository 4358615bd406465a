"""Code in, a branch out: repositories that are sent, branches that are fetched or published."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import anyio
import msgspec
from msgspec import Meta

from agent_runtime.api.answers import Answer, Receive, Reply, json_answer
from agent_runtime.api.daemon import Daemon
from agent_runtime.api.operations import (
    BODY_SECONDS_MAX,
    ClientGone,
    Refused,
    Request,
    operation,
)
from agent_runtime.api.problems import problem
from agent_runtime.api.tasks import require_match
from agent_runtime.api.views import TaskView, WorkspaceView, etag, view_of
from agent_runtime.taskfile import parse_publish
from agent_runtime.types import PublishSpec, TaskId

BUNDLE = "application/x-git-bundle"
BYTES = "application/octet-stream"
"""Of a body: what every client can send."""
LOOK_SECONDS = 1.0
"""Between two looks whether the daemon still takes what is being sent."""
Name = Annotated[str, Meta(max_length=250)]


class PublishWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is another than the task's file says, or said the last time; null: the same."""

    push: Annotated[str, Meta(max_length=2000)] | None = None
    branch: Name | None = None
    pr: Literal["draft", "ready", "none"] | None = None
    base: Name | None = None
    title: Annotated[str, Meta(max_length=256)] | None = None


@operation(
    "POST", "/v1/workspaces", answers={201: WorkspaceView}, scope="tasks:write",
    errors=(408, 422, 503), takes=BYTES, streamed=True,
)  # fmt: skip
async def send_workspace(request: Request[None, None]) -> Reply:
    """Send a repository as a git bundle.

    Uncommitted edits are a commit of their own in it, under refs/agent-runtime/uncommitted. The
    same bundle is kept once; one that no task works on is removed after a while.
    """
    daemon = request.daemon
    daemon.refuse_unless_ready()
    repo = await daemon.runtime.upload(_chunks(request.receive, daemon))
    return json_answer(WorkspaceView(id=repo.replace(":", "_"), repo=repo), 201)


async def _chunks(receive: Receive, daemon: Daemon) -> AsyncIterator[bytes]:
    while True:
        message, silent_seconds = None, 0.0
        while message is None:
            # Also between two pieces: a daemon that ends waits for nobody who sends slowly.
            daemon.refuse_unless_ready()
            if silent_seconds >= BODY_SECONDS_MAX:
                detail = f"nothing of the body came for {BODY_SECONDS_MAX:.0f} s"
                raise Refused(problem(408, "slow-body", "The body did not come", detail))
            with anyio.move_on_after(LOOK_SECONDS):
                message = await receive()
            silent_seconds += LOOK_SECONDS
        if message["type"] == "http.disconnect":
            raise ClientGone
        yield message.get("body", b"")
        if not message.get("more_body"):
            return


@operation(
    "GET", "/v1/tasks/{task_id}/branch", answers={200: BUNDLE}, scope="tasks:read",
    errors=(404, 409),
)  # fmt: skip
async def task_branch(request: Request[None, None]) -> Reply:
    """The branch of an ended task as a git bundle: one commit on the commit that it began from."""
    bundle = await request.daemon.runtime.branch_bundle(TaskId(request.path["task_id"]))
    return Answer(200, bundle, (), BUNDLE.encode())


@operation(
    "POST", "/v1/tasks/{task_id}/publish", answers={202: TaskView}, scope="tasks:write",
    errors=(404, 409, 412, 422, 503), body=PublishWish, body_optional=True,
    headers={"If-Match": "only if the task is still at this ETag"},
)  # fmt: skip
async def publish_task(request: Request[PublishWish, Any]) -> Reply:
    """Publish the branch of a task that has succeeded, once more or for the first time.

    202: it is stored that it shall be; the task's events tell how it went.
    """
    runtime, task_id = request.daemon.runtime, TaskId(request.path["task_id"])
    only = await require_match(request, task_id)
    state = await runtime.state(task_id)
    before = state.publication.spec if state.publication is not None else state.task.publish
    told = msgspec.structs.asdict(request.body)
    given = {name: value for name, value in told.items() if value is not None}
    spec = msgspec.structs.replace(before or PublishSpec(), **given)
    parse_publish(msgspec.to_builtins(spec))
    await runtime.publish(task_id, spec, by=request.caller.by, only=only)
    summary = await runtime.ports.store.summary(task_id)
    return json_answer(view_of(summary), 202, ((b"etag", etag(summary.seq)),))
