"""Tasks of a server's own, in both forms: a long call that is asked for again by its id.

In the extension of 2026-07-28 the server decides, and `tasks/get` has the result in it. In the form
of 2025-11-25 the client asks for a task, and `tasks/result` gives the result. Whoever makes a call
is told the id before the first question, so that another process can go on asking.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Final, Literal, cast

import anyio
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.client.session import ClientSession
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    Request,
    RequestParams,
    RequestParamsMeta,
    Result,
    TaskMetadata,
)
from pydantic import ConfigDict

from agent_runtime.types import Json

IDENTIFIER: Final = "io.modelcontextprotocol/tasks"
ID_CHARS_MAX: Final = 500
POLL_SECONDS: Final = 1.0
"""Where the server names no interval."""
POLL_SECONDS_MIN: Final = 0.1
POLL_SECONDS_MAX: Final = 30.0

told: ContextVar[Callable[[str], None] | None] = ContextVar("told", default=None)
"""Gets the id of the task that a call has become; durable when it returns."""


class TaskStarted(Result):
    """What a server answers in place of a result, in the form of 2026."""

    result_type: Literal["task"] = "task"
    task_id: str
    status: str = "working"
    poll_interval_ms: int | None = None


class Tasks(ClientExtension):
    """The extension: says that we know tasks, and waits for those that a call becomes."""

    identifier = IDENTIFIER

    def claims(self) -> Sequence[ResultClaim[Any]]:
        """The one shape."""
        return [ResultClaim(result_type="task", model=TaskStarted, resolve=self._resolve)]

    async def _resolve(self, started: TaskStarted, context: ClaimContext) -> CallToolResult:
        begun(started.task_id)
        return await finished(context.session, started.task_id, modern=True)


class _TaskParams(RequestParams):
    task_id: str


class _TaskRequest(Request[_TaskParams, Literal["tasks/get", "tasks/result", "tasks/cancel"]]):
    name_param = "taskId"


class _Anything(Result):
    """An answer that the SDK has no shape for."""

    model_config = ConfigDict(extra="allow")


def begun(task_id: str) -> None:
    """Tell the id to whoever makes the call."""
    if not task_id or len(task_id) > ID_CHARS_MAX:
        raise MCPError(INTERNAL_ERROR, "the server named no usable task id")
    if (tell := told.get()) is not None:
        tell(task_id)


async def called_as_task(
    session: ClientSession, name: str, arguments: Mapping[str, Json], meta: Mapping[str, Json],
    *, ttl_ms: int,
) -> CallToolResult:  # fmt: skip
    """Call a tool as a task in the form of 2025-11-25, and wait for its result."""
    params = CallToolRequestParams(
        name=name,
        arguments=dict(arguments),
        task=TaskMetadata(ttl=ttl_ms),
        _meta=cast(RequestParamsMeta, dict(meta)) if meta else None,
    )
    data = CallToolRequest(params=params).model_dump(by_alias=True, mode="json", exclude_none=True)
    options: CallOptions = {}
    # Past `send_request`, which takes the shape of a started task for a broken result.
    session._stamp(data, options)
    raw = await session._dispatcher.send_raw_request("tools/call", data["params"], options)
    task = raw.get("task")
    if not isinstance(task, Mapping):
        return CallToolResult.model_validate(raw, by_name=False)
    begun(str(task.get("taskId", "")))
    return await finished(session, str(task["taskId"]), modern=False)


async def finished(session: ClientSession, task_id: str, *, modern: bool) -> CallToolResult:
    """Wait for a task's end.

    Raises:
        MCPError: it failed, was cancelled, is not known, or asks for what nobody can give.
    """
    while True:
        task = await _ask(session, "tasks/get", task_id)
        match task.get("status"):
            case "completed":
                raw = task.get("result") if modern else await _ask(session, "tasks/result", task_id)
                return CallToolResult.model_validate(raw, by_name=False)
            case "failed" | "cancelled" as status:
                error = task.get("error")
                said = error.get("message") if isinstance(error, Mapping) else None
                detail = said or task.get("statusMessage") or "it says no more"
                raise MCPError(INTERNAL_ERROR, f"the server's task has {status}: {detail}")
            case "input_required":
                await cancelled(session, task_id)
                raise MCPError(
                    INTERNAL_ERROR, "the server's task asks for input, which nobody can give here"
                )
        await anyio.sleep(_interval(task.get("pollIntervalMs", task.get("pollInterval"))))


async def cancelled(session: ClientSession, task_id: str) -> None:
    """Ask the server to stop it."""
    await _ask(session, "tasks/cancel", task_id)


async def _ask(
    session: ClientSession,
    method: Literal["tasks/get", "tasks/result", "tasks/cancel"],
    task_id: str,
) -> dict[str, Any]:
    request = _TaskRequest(method=method, params=_TaskParams(task_id=task_id))
    return _plain(await session.send_request(request, _Anything))


def _plain(answer: _Anything) -> dict[str, Any]:
    return answer.model_dump(by_alias=True, mode="json")


def _interval(stated: object) -> float:
    if not isinstance(stated, int | float) or isinstance(stated, bool):
        return POLL_SECONDS
    return min(max(stated / 1000, POLL_SECONDS_MIN), POLL_SECONDS_MAX)
