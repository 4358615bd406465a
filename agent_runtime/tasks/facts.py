"""What people say to a task: stop, pause, go on, do it differently, yes or no.

Each becomes an event; whoever drives the task reads it there. Nobody reaches into a running task.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from agent_runtime import schema
from agent_runtime.errors import Conflict, Fault, UsageError
from agent_runtime.loop import events as e
from agent_runtime.loop.journal import append_fact
from agent_runtime.loop.state import State, lacks_brain, pending_of
from agent_runtime.ports.tools import Toolbox
from agent_runtime.tasks.conditions import Only, refuse_repetition, refuse_when_over, whatever
from agent_runtime.tasks.reads import Reads
from agent_runtime.types import ChangeSpec, Json, Once, TaskId


class Facts(Reads):
    """Appends what people say. Durable when a method returns."""

    async def cancel(
        self, task_id: TaskId, *, by: str, reason: str = "", only: Only = whatever
    ) -> State:
        """Ask for the end of a task. `Conflict` if its end is decided already."""
        return await self._fact(task_id, e.CancelRequested(by=by, reason=reason), only)

    async def pause(self, task_id: TaskId, *, by: str, only: Only = whatever) -> State:
        """Let a task stop: what runs in its sandbox is frozen, nothing new starts."""
        return await self._fact(task_id, e.PauseRequested(by=by), only)

    async def resume(
        self, task_id: TaskId, *, by: str, model: str = "", only: Only = whatever
    ) -> State:
        """Let a paused task go on, or give one that waits for a brain a model to think with.

        Without a model, nothing happens to a task that is not paused.

        Raises:
            Conflict: it has ended, or a model is given to one that has a brain.
        """
        state = await self.state(task_id)
        if not state.paused and not model:
            only(state.seq)
            return state

        def make(state: State) -> e.OutsideFact:
            only(state.seq)
            refuse_when_over(state)
            if model and state.brain is not None and not lacks_brain(state):
                raise Conflict(
                    f"task {task_id!r} has a brain ({state.task.model or state.brain.kind}); "
                    f"cancel it, then `agent-runtime continue {task_id} --model {model}`"
                )
            return e.ResumeRequested(by=by, model=model)

        return await append_fact(self.ports.store, self.ports.clock, self.ports.bus, task_id, make)

    async def steer(
        self,
        task_id: TaskId,
        message: str,
        *,
        by: str,
        only: Only = whatever,
        once: Once | None = None,
    ) -> State:
        """Tell the brain something.

        Raises:
            Conflict: it has ended.
            Repeated: the same was said with this key before; nothing is stored again.
            IdempotencyMismatch: something else was.
        """
        return await self._fact(task_id, e.Steered(by=by, message=message, once=once), only)

    async def change(
        self, task_id: TaskId, wish: ChangeSpec, *, by: str, only: Only = whatever
    ) -> State:
        """Give a task other labels or another priority. What is so already stores nothing.

        Raises:
            Conflict: it has ended: its result says where its log ends.
            UsageError: a client's calls find it by the labels that it would lose.
        """

        def make(state: State) -> e.TaskChanged:
            only(state.seq)
            if state.ended:
                raise Conflict(
                    f"task {task_id!r} has ended: its log is closed, its labels and priority stay; "
                    f"`agent-runtime continue {task_id}` opens it again"
                )
            labels = wish.labels if wish.labels != state.task.labels else None
            plan = state.task.plan
            if labels is not None and plan is not None and not plan.steps:
                _require_kept(state, labels)
            priority = wish.priority if wish.priority != state.task.priority else None
            return e.TaskChanged(by=by, labels=labels, priority=priority)

        state = await self.state(task_id)
        change = make(state)
        if change.labels is None and change.priority is None:
            return state
        return await append_fact(self.ports.store, self.ports.clock, self.ports.bus, task_id, make)

    async def decide_approval(
        self,
        task_id: TaskId,
        approval_id: str | None,
        decision: str,
        *,
        by: str,
        message: str = "",
        scope: Literal["once", "task"] = "once",
        arguments: Mapping[str, Json] | None = None,
    ) -> str:
        """Answer a pending approval (the only one if no id is given) and return its id.

        A yes with `scope` task also allows what the same rule asks about the same tool from then
        on. `arguments` stand in the place of the call's own; its tool and the policy judge them.

        Raises:
            NotFound: nothing is pending, or not that one.
            UsageError: several are pending and none was named; the arguments do not fit the tool;
                or no call is asked about that they could be of.
            Conflict: it has ended.
        """
        answered = ""

        def make(state: State) -> e.OutsideFact:
            nonlocal answered
            refuse_when_over(state)
            answered = pending_of(state, approval_id)
            if scope == "task" or arguments is not None:
                asked = state.approvals[answered]
                _require_fitting(asked, decision, arguments, self.ports.toolbox)
            return e.ApprovalDecided(
                approval_id=answered,
                decision="approve" if decision == "approve" else "deny",
                by=by,
                message=message,
                scope=scope,
                arguments=None if arguments is None else dict(arguments),
            )

        await append_fact(self.ports.store, self.ports.clock, self.ports.bus, task_id, make)
        return answered

    async def _fact(self, task_id: TaskId, fact: e.OutsideFact, only: Only) -> State:
        def make(state: State) -> e.OutsideFact:
            if isinstance(fact, e.Steered):
                refuse_repetition(state, fact.by, fact.once)
            only(state.seq)
            refuse_when_over(state)
            return fact

        return await append_fact(self.ports.store, self.ports.clock, self.ports.bus, task_id, make)


def _require_kept(state: State, labels: Mapping[str, str]) -> None:
    """Labels of a session are how it is found: by its client's next call, and by what ends it."""
    lost = [name for name, value in state.task.labels.items() if labels.get(name) != value]
    if lost:
        raise UsageError(
            f"labels: {', '.join(lost)} must stay as they are: calls of an MCP client find their "
            f"session {state.task_id!r} by them; give them too, and others beside them"
        )


def _require_fitting(
    asked: e.ApprovalRequested,
    decision: str,
    arguments: Mapping[str, Json] | None,
    toolbox: Toolbox,
) -> None:
    """`UsageError` if an answer says more than can be said about what was asked."""
    if decision != "approve" or asked.subject != "call":
        what = "a call of unknown effect" if asked.subject != "call" else "a refusal"
        raise UsageError(
            f"{what} has no other arguments and is no rule for the task: leave both out"
        )
    info = toolbox.find(asked.tool)
    if arguments is None or info is None:
        return
    if problems := schema.check(dict(arguments), info.parameters):
        raise UsageError(
            f"the arguments do not fit {asked.tool!r}: " + "; ".join(problems),
            faults=[Fault(("arguments",), problem) for problem in problems],
        )
