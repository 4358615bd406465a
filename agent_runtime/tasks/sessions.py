"""What a connected client does for a task: it thinks in the place of a model, or asks for calls.

A task whose brain is a client gets its decisions here; one whose plan is open gets its calls here,
and ends when none have come for long enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import anyio.to_thread

from agent_runtime.decisions import NO_SECRETS, OpenDecision, answer, open_decision
from agent_runtime.errors import Conflict, UsageError
from agent_runtime.loop import events as e
from agent_runtime.loop.asking import effect_if_known
from agent_runtime.loop.intake import NotStorable, json_of
from agent_runtime.loop.journal import Newest, append_fact
from agent_runtime.loop.state import State
from agent_runtime.messages import ToolUse
from agent_runtime.ports.everything import Ports
from agent_runtime.redaction import Redactor
from agent_runtime.tasks.conditions import refuse_when_over, whatever
from agent_runtime.tasks.facts import Facts
from agent_runtime.types import Json, Seq, TaskId

SEEN_MAX = 64


class _Known(Exception):
    """There is nothing to add: a call of this name is in the log, or the task is busy."""


class _SecretsWanted(Exception):
    """The task's secrets must be known before its facts are stored."""

    def __init__(self, state: State) -> None:
        self.state = state


class Sessions(Facts):
    """Tasks that somebody is connected to."""

    def __init__(self, ports: Ports, *, state_dir: str) -> None:
        super().__init__(ports, state_dir=state_dir)
        self._seen: Newest = {}
        """Of tasks that take calls: a long session must not be read anew for each."""

    async def next_decision(self, task_id: TaskId) -> OpenDecision | None:
        """What a connected client is to decide for a task whose brain it is; None: nothing now."""
        state = await self.state(task_id)
        return open_decision(state, self.ports.toolbox, await self._redactor(state))

    async def submit_decision(
        self,
        task_id: TaskId,
        decision_id: str,
        *,
        text: str = "",
        calls: Sequence[ToolUse] = (),
        by: str,
    ) -> State:
        """A client's answer; durable when it returns.

        Raises:
            Conflict: that decision is not open any more; ask for the next one.
            UsageError: the calls cannot be told apart.
        """

        redactor = await self._redactor(await self.state(task_id))

        def make(state: State) -> e.OutsideFact:
            refuse_when_over(state)
            return answer(
                state, self.ports.toolbox, decision_id, text=text, calls=calls, by=by or "client",
                redactor=redactor,
            )  # fmt: skip

        return await append_fact(self.ports.store, self.ports.clock, self.ports.bus, task_id, make)

    async def request_call(
        self,
        task_id: TaskId,
        step_id: str,
        tool: str,
        arguments: Mapping[str, Json],
        *,
        by: str,
    ) -> Seq | None:
        """Ask for a call in a task whose plan is open; durable when it returns the event's number.

        None: a call of this name was asked for before. What became of it is in the log.

        Raises:
            Conflict: the task has ended, or its end is decided.
            UsageError: the arguments are no JSON that a log can hold, or its plan is not open.
        """
        try:
            taken = json_of(dict(arguments))
        except NotStorable as error:
            raise UsageError(f"the arguments of {tool!r} cannot be stored: {error}") from error
        redactor: Redactor | None = None

        def make(state: State) -> e.OutsideFact:
            nonlocal redactor
            refuse_when_over(state)
            if state.cancel is not None:
                raise Conflict(f"task {task_id!r} is being cancelled")
            if not state.is_open:
                raise UsageError(f"task {task_id!r} has a plan or a brain of its own")
            if step_id in state.steps or step_id in state.past:
                raise _Known
            if redactor is None:
                if state.task.policy.secrets or state.task.environment.secrets:
                    raise _SecretsWanted(state)
                redactor = NO_SECRETS
            return e.CallRequested(
                step_id=step_id,
                tool=tool,
                arguments=redactor.json(taken),
                effect=effect_if_known(state.task, tool, taken, self.ports.toolbox),
                by=by,
            )

        while True:
            try:
                after = await append_fact(
                    self.ports.store, self.ports.clock, self.ports.bus, task_id, make, self._seen
                )
                while len(self._seen) > SEEN_MAX:
                    del self._seen[next(iter(self._seen))]
                return Seq(after.seq)
            except _Known:
                return None
            except _SecretsWanted as wanted:
                redactor = await self._redactor(wanted.state)

    async def withdraw_call(
        self, task_id: TaskId, step_id: str, *, by: str, reason: str = ""
    ) -> State:
        """Ask for the end of one call; nothing happens if it has ended.

        Raises:
            Conflict: the task has ended.
        """
        fact = e.CallWithdrawn(step_id=step_id, by=by, reason=reason)
        return await self._fact(task_id, fact, whatever)

    async def end_if_idle(
        self, task_id: TaskId, *, by: str, reason: str, idle_seconds: float = 0.0
    ) -> bool:
        """Cancel a task whose plan is open, if nothing was asked of it for so long; was it done?

        A call that comes at the same time is first, or is refused: never lost in between.
        """

        def make(state: State) -> e.OutsideFact:
            idle_us = self.ports.clock.now_us() - state.at_us
            if state.stopping or not state.awaits_calls or idle_us < idle_seconds * 1e6:
                raise _Known
            return e.CancelRequested(by=by, reason=reason)

        try:
            await append_fact(self.ports.store, self.ports.clock, self.ports.bus, task_id, make)
        except _Known:
            return False
        return True

    async def _redactor(self, state: State) -> Redactor:
        """Knows the task's secrets. `WorkspaceError` if one cannot be read just now."""
        task = state.task
        if not (task.policy.secrets or task.environment.secrets):
            return NO_SECRETS
        return Redactor(await anyio.to_thread.run_sync(self.ports.environment.secrets, task))
