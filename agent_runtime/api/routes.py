"""Every operation that the daemon answers, and the application that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from starlette.routing import Router, WebSocketRoute

from agent_runtime.api import (
    control,
    health,
    hooks,
    inbox,
    installation,
    keys,
    publishing,
    results,
    streams,
    tasks,
    webhooks,
)
from agent_runtime.api.answers import Answer, Receive, Reply, Scope, Send
from agent_runtime.api.attach import Attach
from agent_runtime.api.daemon import Daemon
from agent_runtime.api.dispatch import Dispatch
from agent_runtime.api.openapi import openapi
from agent_runtime.api.operations import Endpoint, Operation, Request, operation
from agent_runtime.api.problems import problem
from agent_runtime.types import Json


@operation("GET", "/openapi.json", answers={200: dict[str, Json]})
async def openapi_document(request: Request[None, None]) -> Reply:
    """This document."""
    return Answer(200, request.daemon.document)


OPERATIONS: Final[Sequence[Operation]] = (
    tasks.submit_task,
    tasks.list_tasks,
    tasks.get_task,
    tasks.change_task,
    tasks.forget_task,
    streams.task_events,
    tasks.submit_tasks,
    streams.all_events,
    control.steer_task,
    control.cancel_task,
    control.pause_task,
    control.resume_task,
    control.continue_task,
    control.fork_task,
    control.replay_task,
    control.list_approvals,
    control.decide_approval,
    inbox.list_inbox,
    results.task_plan,
    results.task_logs,
    results.task_diff,
    results.task_artifacts,
    results.task_cost,
    results.task_certificate,
    results.task_report,
    results.verify_task,
    publishing.publish_task,
    publishing.task_branch,
    publishing.send_workspace,
    installation.list_tools,
    installation.list_modules,
    installation.list_models,
    *keys.OPERATIONS,
    *webhooks.OPERATIONS,
    *hooks.OPERATIONS,
    health.livez,
    health.readyz,
    health.metrics,
    openapi_document,
)


def application(
    daemon: Daemon, more: Sequence[Operation] = (), mounted: Mapping[str, Reply] = {}
) -> Dispatch:
    """The operations as an ASGI application, without what stands before it.

    `mounted`: what answers all methods of a path by itself.
    """
    by_path: dict[str, list[Operation]] = {}
    for each in (*OPERATIONS, *more):
        by_path.setdefault(each.path, []).append(each)
    daemon.document = msgspec.json.encode(openapi([*OPERATIONS, *more], daemon.version))
    endpoints: dict[str, Reply] = {path: Endpoint(each, daemon) for path, each in by_path.items()}
    # A router alone: what Starlette puts around it (errors, middleware) is done by `Endpoint`.
    attach = WebSocketRoute("/v1/tasks/{task_id}/attach", Attach(daemon))
    router = Router(routes=[attach], redirect_slashes=False, default=_not_found)
    return Dispatch({**endpoints, **mounted}, router)


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    if scope["type"] == "lifespan":
        return
    detail = f"there is nothing at {scope['path']}; /openapi.json lists what there is"
    await problem(404, "not-found", "There is no such thing", detail)(scope, receive, send)
