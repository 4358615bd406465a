"""Work that is taken in, and waiting for it, whatever the wire: what HTTP and MCP do alike.

Both find the same room, the same rule for repositories, the same allowances and the same keys here.
How a request is read and an answer is written is theirs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import unquote

import anyio

from agent_runtime.access.callers import Caller
from agent_runtime.api.daemon import Daemon
from agent_runtime.errors import AgentRuntimeError, Fault, Forbidden, UsageError
from agent_runtime.loop import events as e
from agent_runtime.loop.continuing import earlier_steps, refuse_unless_ended
from agent_runtime.loop.submission import Submitted
from agent_runtime.taskfile import parse_continuation, parse_task_json
from agent_runtime.tasks.conditions import Only, refuse_repetition
from agent_runtime.types import (
    TERMINAL_STATUSES,
    ForkSpec,
    Json,
    Once,
    Status,
    TaskId,
    TaskSpec,
    TaskSummary,
)

KEY_CHARS_MAX: Final = 255
AT_REST: Final = frozenset({*TERMINAL_STATUSES, Status.WAITING, Status.PAUSED})
"""Nothing happens in these until somebody does something."""

_KEY = re.compile(r"[\x21-\x7e]{1,255}\Z")
_MAY_ASK = (Status.RUNNING, Status.WAITING, Status.PAUSED)


async def take_in(daemon: Daemon, caller: Caller, body: bytes, key: str | None) -> Submitted:
    """Store the task in `body`, a task file as JSON; `key` as `owned_key` gives it.

    Raises:
        UsageError, Forbidden: as `read_task`.
        Draining, Faulty, Overloaded: there is no room.
        AgentRuntimeError: as `Runtime.take_in`.
    """
    with daemon.room() as room:
        spec = read_task(body, daemon, caller)
        taken = await daemon.runtime.take_in(
            spec, submitted_by=caller.by, idempotency_key=key, budget=caller.budget
        )
        room.taken = int(taken.is_new)
    return taken


async def continue_task(
    daemon: Daemon, caller: Caller, task_id: TaskId, document: Json, only: Only,
    *, once: Once | None = None,
) -> None:  # fmt: skip
    """Open an ended task again; `document` is a continuation as JSON.

    Errors as `take_in`, and as `Runtime.continue_task`.
    """
    with daemon.room() as room:
        state = await daemon.runtime.state(task_id)
        refuse_repetition(state, caller.by, once)
        only(state.seq)
        refuse_unless_ended(state)
        wish = parse_continuation(document, task=state.task, earlier=earlier_steps(state))
        await daemon.runtime.continue_task(
            task_id, wish, by=caller.by, budget=caller.budget, only=only, once=once
        )
        room.taken = 1


async def fork_task(
    daemon: Daemon, caller: Caller, parent: TaskId, spec: ForkSpec, *, once: Once | None = None
) -> TaskId:
    """Make another task of the first events of this one. Errors as `take_in`."""
    with daemon.room() as room:
        newest = (await daemon.runtime.ports.store.summary(parent)).seq
        if spec.at > newest:
            said = f"must be the number of an event, at most {newest}, got {spec.at}"
            raise UsageError(f"at: {said}", faults=[Fault(("at",), said)])
        forked = await daemon.runtime.fork(
            parent, spec, by=caller.by, budget=caller.budget, once=once
        )
        room.taken = 1
    return forked


async def pending_approvals(daemon: Daemon) -> list[tuple[str, e.ApprovalRequested]]:
    """What waits for a person's decision, with its task, of the newest task first."""
    runtime = daemon.runtime
    found: list[tuple[str, e.ApprovalRequested]] = []
    before: TaskId | None = None
    while page := await runtime.tasks(statuses=_MAY_ASK, before=before, limit=500):
        for summary in page:
            if summary.status == Status.WAITING and summary.reason in ("brain", "input"):
                continue  # it asks for something else: a hundred thousand of them are a glance
            state = await runtime.state(TaskId(summary.task_id))
            found += [(summary.task_id, each) for each in state.approvals.values()]
        before = TaskId(page[-1].task_id)
    return found


async def _nobody(summary: TaskSummary) -> None:
    pass


async def settled(
    daemon: Daemon,
    summary: TaskSummary,
    seconds: float,
    *,
    seen: Callable[[TaskSummary], Awaitable[None]] = _nobody,
) -> TaskSummary:
    """The task when it is at rest, or after `seconds`, or when the daemon ends.

    `seen` hears where it stands with each change, and every `hub.BEAT_SECONDS` without one.
    """
    task_id = TaskId(summary.task_id)
    with anyio.move_on_after(seconds), daemon.hub.follow(task_id) as topic:
        while not daemon.hub.is_closed:
            grown = topic.grown
            try:
                summary = await daemon.runtime.ports.store.summary(task_id)
            except AgentRuntimeError:
                break  # it was known all the same, and the caller can ask again
            if summary.status in AT_REST:
                break
            await seen(summary)
            await grown.wait()
    return summary


# ---- what came ---------------------------------------------------------------------------


def read_task(body: bytes, daemon: Daemon, caller: Caller) -> TaskSpec:
    """The task in a body, with a repository that its caller may name.

    Raises:
        UsageError: it is no JSON, or everything that is wrong with it.
        Forbidden: the repository lies outside of `workspace_roots`.
    """
    spec = parse_task_json(body, base_dir="/")
    if spec.workspace is not None:
        require_below(spec.workspace.repo, daemon.roots_of(caller))
    return spec


def require_below(repo: str, roots: tuple[str, ...]) -> None:
    """`Forbidden` if a repository on this machine lies outside of the daemon's directories."""
    if repo.startswith("file://"):
        repo = unquote(repo.removeprefix("file://"))  # a path all the same
    elif not repo.startswith("/"):
        return  # a URL: who may fetch it is decided where its credentials are
    real = os.path.realpath(repo)
    if any(real == root or real.startswith(root.rstrip("/") + "/") for root in roots):
        return
    allowed = ", ".join(roots) or "none"
    raise Forbidden(
        f"workspace.repo: {repo!r} does not lie below a directory that this daemon may use "
        f"(workspace_roots: {allowed}); upload the repository, or extend that setting"
    )


def owned_key(caller: Caller, given: str) -> str:
    """An idempotency key, apart from everybody else's.

    Raises:
        UsageError: it cannot be one.
    """
    if not _KEY.match(given):
        raise UsageError(
            f"an idempotency key must have 1 to {KEY_CHARS_MAX} visible ASCII characters, "
            f"got {given[:60]!r}"
        )
    return f"{caller.by} {given}"
