"""A task as it goes over the wire: as the extension of 2026-07-28 and as 2025-11-25 have it.

The older form calls a call whose answer is an error `failed`; the newer one keeps that word for
what ended with a JSON-RPC error.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from agent_runtime.types import Json
from agent_runtime_mcp.definitions import McpFault, TaskView
from agent_runtime_mcp.wire import TASKS_EXTENSION, call_result

RELATED: Final = "io.modelcontextprotocol/related-task"
IMMEDIATE: Final = "io.modelcontextprotocol/model-immediate-response"

ENDED: Final = frozenset({"completed", "failed", "cancelled"})

Wire = dict[str, Json]


def extension_task(view: TaskView) -> Wire:
    """What `tools/call` answers with, beside `resultType`: how the task stands, without its end."""
    return _common(view, view.status) | {"ttlMs": view.ttl_ms, "pollIntervalMs": view.poll_ms}


def detailed_task(view: TaskView) -> Wire:
    """What `tasks/get` and `notifications/tasks` have: with the end, or with what is asked."""
    task = extension_task(view)
    if view.status == "completed" and view.answer is not None:
        task["result"] = call_result(view.answer) | {"resultType": "complete"}
    elif view.status == "failed":
        task["error"] = error_of(view)
    elif view.status == "input_required":
        task["inputRequests"] = {
            name: {"method": method, "params": dict(params)}
            for name, (method, params) in view.questions.items()
        }
    return task


def session_task(view: TaskView) -> Wire:
    """The task of 2025-11-25."""
    is_error = view.status == "completed" and view.answer is not None and view.answer.is_error
    times: Wire = {"ttl": view.ttl_ms, "pollInterval": view.poll_ms}
    return _common(view, "failed" if is_error else view.status) | times


def payload(view: TaskView) -> Wire:
    """What `tasks/result` gives of a task that has ended.

    Raises:
        McpFault: the call had no answer.
    """
    if view.answer is None:
        error: Mapping[str, Any] = error_of(view)
        raise McpFault(error["code"], error["message"], error.get("data"))
    result = call_result(view.answer)
    meta = result.get("_meta")
    related: Wire = {RELATED: {"taskId": view.task_id}}
    return {**result, "_meta": {**meta, **related} if isinstance(meta, dict) else related}


def error_of(view: TaskView) -> Wire:
    """Why it has no answer."""
    fault = view.fault
    if fault is None:
        reason = view.message or f"the task {view.task_id} was {view.status}"
        fault = McpFault(McpFault.INTERNAL, reason)
    error: Wire = {"code": fault.code, "message": fault.message}
    if fault.data is not None:
        error["data"] = fault.data
    return error


def missing_capability() -> McpFault:
    """The client has not said that it knows tasks, and it must."""
    needed: Json = {"extensions": {TASKS_EXTENSION: {}}}
    return McpFault(
        -32021,
        f"Missing required client capability: this needs the extension {TASKS_EXTENSION}",
        {"requiredCapabilities": needed},
    )


def _common(view: TaskView, status: str) -> Wire:
    task: Wire = {
        "taskId": view.task_id,
        "status": status,
        "createdAt": _time(view.created_at_us),
        "lastUpdatedAt": _time(view.updated_at_us),
    }
    if view.message:
        task["statusMessage"] = view.message
    return task


def _time(at_us: int) -> str:
    at = datetime.fromtimestamp(at_us / 1e6, UTC).isoformat(timespec="milliseconds")
    return at.replace("+00:00", "Z")
