"""Tools for telling a task something: each is a fact in its log, under the caller's name."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256

import msgspec

from agent_runtime.access.callers import APPROVALS_DECIDE, TASKS_WRITE
from agent_runtime.api import intake
from agent_runtime.api.control import Replacement
from agent_runtime.api.daemon import Daemon
from agent_runtime.api.intake import owned_key
from agent_runtime.api.recording import record_decision
from agent_runtime.api.views import TaskView, view_of
from agent_runtime.errors import Conflict, MovedOn, NotFound, Repeated, UsageError
from agent_runtime.loop import codec
from agent_runtime.loop import events as e
from agent_runtime.tasks.conditions import Only
from agent_runtime.types import ForkSpec, Json, Once, TaskId
from agent_runtime_mcp.definitions import Asked, ToolAnswer, ToolDefinition
from agent_runtime_mcp.runtime import wishes
from agent_runtime_mcp.runtime.schemas import answer, make_tool
from agent_runtime_mcp.runtime.telling import TaskTold, line_of, told
from agent_runtime_mcp.runtime.waiting import at_rest


class ControlTools:
    """steer, continue, cancel, pause, resume, approve, fork."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def definitions(self) -> Sequence[ToolDefinition]:
        """In the order in which they are listed."""
        return (
            make_tool(
                self._steer, wishes.Steer, answers=TaskView, scope=TASKS_WRITE,
                name="steer_task", title="Tell an agent something",
                description="Tell the agent of a task something; its next turn hears it.",
            ),
            make_tool(
                self._continue, wishes.Continue, answers=TaskTold, scope=TASKS_WRITE,
                name="continue_task", title="Go on with an ended task",
                description="Open an ended task again: the same files and history, new limits. Its "
                "certificate is superseded.",
            ),
            make_tool(
                self._pause, wishes.OfTask, answers=TaskView, scope=TASKS_WRITE, repeats=True,
                name="pause_task", title="Pause a task",
                description="Let a task stop; what runs in its sandbox is frozen.",
            ),
            make_tool(
                self._resume, wishes.Resume, answers=TaskView, scope=TASKS_WRITE, repeats=True,
                name="resume_task", title="Resume a task",
                description="Let a paused task go on, or give one that waits for a brain a model "
                "to think with; model `client` means that you decide, by next_decision.",
            ),
            make_tool(
                self._cancel, wishes.Cancel, answers=TaskView, scope=TASKS_WRITE, destroys=True,
                repeats=True, name="cancel_task", title="Cancel a task",
                description="End a task for good; everything of it that runs is stopped.",
            ),
            make_tool(
                self._fork, wishes.Fork, answers=TaskView, scope=TASKS_WRITE,
                name="fork_task", title="Fork a task",
                description="Make another task that begins with the first events of this one, with "
                "a changed answer, result, model, policy or message. This one does not change.",
            ),
            make_tool(
                self._approve, wishes.Approve, answers=TaskView, scope=APPROVALS_DECIDE,
                destroys=True, repeats=True,
                name="approve", title="Answer what a task asks",
                description="Allow or refuse what a task asks for, as the person you work for has "
                "decided: never by yourself. It is good for that call alone, once.",
            ),
        )  # fmt: skip

    async def _steer(self, wish: wishes.Steer, asked: Asked) -> ToolAnswer:
        task_id, only = await self._meant(wish)
        once = _once("steer", task_id, wish.message, wish.idempotency_key, asked)
        try:
            await self._daemon.runtime.steer(
                task_id, wish.message, by=asked.caller.by, only=only, once=once
            )
        except Repeated:
            return await self._told(task_id)
        return await self._done("task.steer", task_id, asked)

    async def _pause(self, wish: wishes.OfTask, asked: Asked) -> ToolAnswer:
        task_id, only = await self._meant(wish)
        await self._daemon.runtime.pause(task_id, by=asked.caller.by, only=only)
        return await self._done("task.pause", task_id, asked)

    async def _resume(self, wish: wishes.Resume, asked: Asked) -> ToolAnswer:
        task_id, only = await self._meant(wish)
        await self._daemon.runtime.resume(task_id, by=asked.caller.by, model=wish.model, only=only)
        return await self._done("task.resume", task_id, asked)

    async def _cancel(self, wish: wishes.Cancel, asked: Asked) -> ToolAnswer:
        task_id, only = await self._meant(wish)
        await self._daemon.runtime.cancel(
            task_id, by=asked.caller.by, reason=wish.reason, only=only
        )
        return await self._done("task.cancel", task_id, asked)

    async def _continue(self, wish: wishes.Continue, asked: Asked) -> ToolAnswer:
        task_id, only = await self._meant(wish)
        document = dict(wish.more)
        if wish.message:
            document["message"] = wish.message
        if wish.model:
            document["model"] = wish.model
        once = _once("continue", task_id, document, wish.idempotency_key, asked)
        with suppress(Repeated):
            await intake.continue_task(
                self._daemon, asked.caller, task_id, document, only, once=once
            )
            await self._recorded("task.continue", task_id, asked)
        summary = await at_rest(self._daemon, None, task_id, wish.wait_seconds, asked)
        return answer(*await told(self._daemon.runtime, summary))

    async def _fork(self, wish: wishes.Fork, asked: Asked) -> ToolAnswer:
        parent = await self._daemon.runtime.find(wish.task_id)
        try:
            new = msgspec.convert(wish.replace, Replacement)
        except msgspec.ValidationError as error:
            raise UsageError(f"replace: {error}") from None
        spec = ForkSpec(
            at=wish.at, answer=new.answer, result=new.result, model=new.model, policy=new.policy,
            message=new.message,
        )  # fmt: skip
        once = _once("fork", parent, (wish.at, wish.replace), wish.idempotency_key, asked)
        if once is not None:
            known = await self._daemon.runtime.forked_before(asked.caller.by, once)
            if known is not None:
                return await self._told(known)
        forked = await intake.fork_task(self._daemon, asked.caller, parent, spec, once=once)
        await self._recorded("task.fork", parent, asked)
        return await self._told(forked)

    async def _approve(self, wish: wishes.Approve, asked: Asked) -> ToolAnswer:
        name, _, approval_id = wish.approval.partition(".")
        task_id = await self._daemon.runtime.find(name)
        if not approval_id:
            # Clients repeat calls whose answer they lost: it may ask for something else by then.
            pending = (await self._daemon.runtime.state(task_id)).approvals
            raise UsageError(
                f"approval: say which one, TASK.APPROVAL, got {wish.approval!r}; pending: "
                f"{', '.join(f'{task_id}.{each}' for each in pending) or 'none'}"
            )
        try:
            await self._daemon.runtime.decide_approval(
                task_id, approval_id, wish.decision, by=asked.caller.by,
                message=wish.message, scope=wish.scope, arguments=wish.arguments,
            )  # fmt: skip
        except (NotFound, Conflict):
            if not await self._decided_before(task_id, approval_id, wish, asked):
                raise
            return await self._told(task_id)
        target = f"{task_id}.{approval_id}"
        await record_decision(
            self._daemon, asked.caller, "approval.decide", target, detail=wish.decision
        )
        return await self._told(task_id)

    async def _decided_before(
        self, task_id: TaskId, approval_id: str, wish: wishes.Approve, asked: Asked
    ) -> bool:
        """Has the same caller said exactly this? Clients repeat calls whose answer they lost."""
        said = e.ApprovalDecided(
            approval_id=approval_id, decision=wish.decision, by=asked.caller.by,
            message=wish.message, scope=wish.scope, arguments=wish.arguments,
        )  # fmt: skip
        rows = await self._daemon.runtime.rows(task_id)
        return any(
            codec.decode(row) == said for row in rows if row.type == e.ApprovalDecided.__name__
        )

    async def _meant(self, wish: wishes.OfTask) -> tuple[TaskId, Only]:
        """The task, and what makes sure that it is where the caller saw it."""
        task_id = await self._daemon.runtime.find(wish.task_id)

        def only(seq: int) -> None:
            if wish.only_at_seq is not None and seq != wish.only_at_seq:
                raise MovedOn(
                    f"task {task_id!r} is at event {seq}, and only_at_seq wants "
                    f"{wish.only_at_seq}: look at it with get_task, and decide again"
                )

        return task_id, only

    async def _done(self, action: str, task_id: TaskId, asked: Asked) -> ToolAnswer:
        await self._recorded(action, task_id, asked)
        return await self._told(task_id)

    async def _recorded(self, action: str, task_id: TaskId, asked: Asked) -> None:
        await record_decision(self._daemon, asked.caller, action, task_id)

    async def _told(self, task_id: TaskId) -> ToolAnswer:
        """Where it is now, briefly: what it comes to, `get_task` tells."""
        view = view_of(await self._daemon.runtime.summary(task_id))
        return answer(view, line_of(view))


def _once(verb: str, task_id: TaskId, wish: Json, key: str, asked: Asked) -> Once | None:
    """The key, of the arguments or of `_meta`, and what is asked for with it.

    Raises:
        UsageError: it cannot be one.
    """
    given = wishes.key_given(key, asked)
    if given is None:
        return None
    owned_key(asked.caller, given)
    digest = sha256(msgspec.json.encode(("mcp", verb, task_id, wish), order="sorted"))
    return Once(given, digest.hexdigest())
