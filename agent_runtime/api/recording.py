"""Has every decision that an operation or a connection carried out written into the audit record.

What a task was told is also in its log, with the same `by`: the record is for who asks about a
person, a key or a day. An operation is named by its function: `cancel_task` is `task.cancel`.
"""

from __future__ import annotations

import logging
from typing import Any

from agent_runtime.access.callers import Caller
from agent_runtime.api.answers import Answer, Reply, Scope
from agent_runtime.api.daemon import Daemon
from agent_runtime.api.guard import peer_of
from agent_runtime.errors import StoreUnavailable

log = logging.getLogger(__name__)


def action_of(operation_name: str) -> str:
    """`cancel_task` -> `task.cancel`."""
    verb, _, noun = operation_name.partition("_")
    return f"{noun}.{verb}"


def note_submission(daemon: Daemon, scope: Scope, task_id: str) -> None:
    """A task was taken in. Its log has it already, so nobody waits for this."""
    note_taken(daemon, scope["caller"], task_id, peer=peer_of(scope))


def note_taken(daemon: Daemon, caller: Caller, task_id: str, *, peer: str = "") -> None:
    """As `note_submission`, for who knows the caller and no request of HTTP."""
    if daemon.access is not None:
        daemon.access.auditor.note(caller, "task.submit", task_id, peer=peer)


async def record_reply(
    daemon: Daemon, scope: Scope, action: str, reply: Reply, detail: Any = ""
) -> None:
    """An operation was carried out; that is durable when this returns. Submissions are noted."""
    if daemon.access is None or not isinstance(reply, Answer) or reply.status >= 400:
        return
    if (b"idempotency-replayed", b"true") in reply.headers:
        return
    target = "/".join(scope.get("path_params", {}).values()) or _made(reply)
    await record(daemon, scope, action, target, detail=detail if isinstance(detail, str) else "")


async def record(
    daemon: Daemon, scope: Scope, action: str, target: str, *, detail: str = ""
) -> None:
    """A decision was carried out; it is in the record when this returns.

    If the store does not answer just now, it is written as soon as it does: the decision stands.
    """
    await record_decision(
        daemon, scope["caller"], action, target, detail=detail, peer=peer_of(scope)
    )


async def record_decision(
    daemon: Daemon, caller: Caller, action: str, target: str, *, detail: str = "", peer: str = ""
) -> None:
    """As `record`, for who knows the caller and no request of HTTP."""
    if daemon.access is None:
        return
    auditor = daemon.access.auditor
    try:
        await auditor.record(caller, action, target, detail=detail, peer=peer)
    except StoreUnavailable as error:
        log.warning("%s of %s is recorded later: %s", action, target, error)
        auditor.note(caller, action, target, detail=detail, peer=peer)


def refused(daemon: Daemon, scope: Scope, wanted: str) -> None:
    """A caller asked for what its scopes do not hold."""
    if daemon.access is not None:
        caller: Caller = scope["caller"]
        daemon.access.auditor.refused(
            f"scope {wanted}", peer=peer_of(scope), key_id=caller.key_id, by=caller.by
        )


def _made(reply: Answer) -> str:
    """The id of the task, webhook or hook that a 201 names."""
    for name, value in reply.headers:
        if name == b"location":
            return value.rpartition(b"/")[2].decode()
    return ""
