"""Asking the person at the client what a task waits for: may it do this, and who thinks for it?

A question about a call names the approval by its id and by the hash that binds it to its tool,
arguments and tree, so that no answer counts for another call. It is put to one client at a time and
not again to somebody who would not answer; the tools decide it all the same. Nothing is remembered
that a restart must not forget: what was decided is in the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import anyio

from agent_runtime.access.callers import APPROVALS_DECIDE, TASKS_WRITE, Caller
from agent_runtime.api.daemon import Daemon
from agent_runtime.api.recording import record_decision
from agent_runtime.errors import AgentRuntimeError, Conflict, NotFound
from agent_runtime.loop import events as e
from agent_runtime.loop.state import State, lacks_brain
from agent_runtime.types import Json, Status, TaskId, TaskSummary
from agent_runtime_mcp.definitions import Asked, Unsupported
from agent_runtime_mcp.runtime.telling import approval_text, decisions_of

ASKED_SECONDS: Final = 300.0
"""For an answer that comes with another request; after that, somebody else may be asked."""
ASKED_MAX: Final = 10_000
QUESTION_CHARS_MAX: Final = 30_000
"""Of a form: a person who is to approve more reads it elsewhere."""
NEVER: Final = float("inf")

Answer = Mapping[str, Json]
"""Of a client: `action`, and `content` if that is `accept`."""
Questions = Mapping[str, tuple[str, Mapping[str, Json]]]
"""Name -> method and parameters, as `Asked.ask` takes them."""


class Asking:
    """Which questions are being asked in this process, and what answers do."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._asked: dict[str, float] = {}
        """Name of a question -> until when nobody else is asked."""

    async def questions(self, summary: TaskSummary, asked: Asked) -> Questions:
        """What a task waits for and this caller may answer, by names that are never used again.

        What somebody would not say is not asked again.
        """
        caller = asked.caller
        if summary.status != Status.WAITING:
            return {}
        state = await self._daemon.runtime.state(TaskId(summary.task_id))
        found: dict[str, tuple[str, Mapping[str, Json]]] = {}
        if caller.may(APPROVALS_DECIDE):
            for approval in state.approvals.values():
                text = approval_text(approval)
                if len(text) <= QUESTION_CHARS_MAX:
                    found[_name(state, approval)] = _question(state, text, _form(approval))
        if caller.may(TASKS_WRITE) and _needs_model(state):
            found[_name_of_brain(state)] = _question(state, _offers(state), _MODEL)
        return {name: each for name, each in found.items() if self._asked.get(name) != NEVER}

    async def decided(self, summary: TaskSummary, asked: Asked) -> bool:
        """Ask about what the task waits for; true: an answer came, so that it may go on.

        False: there is nothing to ask, or nobody who could or would say. The request may end here
        and come again with the answer: then this finds the same question, and its answer.
        """
        if not asked.can("elicitation"):
            return False
        for name, question in (await self.questions(summary, asked)).items():
            if self._may_ask(name, asked):
                return await self._ask(summary, name, question, asked)
        return False

    async def _ask(
        self, summary: TaskSummary, name: str, question: tuple[str, Mapping[str, Json]],
        asked: Asked,
    ) -> bool:  # fmt: skip
        try:
            answers = await asked.ask({name: question}, state=name)
        except Unsupported:
            self._asked.pop(name, None)
            return False
        except anyio.get_cancelled_exc_class():
            self._asked.pop(name, None)  # whoever was asked has gone
            raise
        return await self.answered(summary, name, answers.get(name, {}), asked)

    async def answered(self, summary: TaskSummary, name: str, said: Answer, asked: Asked) -> bool:
        """Carry an answer out, if its question is still open; false: nothing was said.

        Raises:
            AgentRuntimeError: what was said cannot be done.
        """
        caller, task_id = asked.caller, TaskId(summary.task_id)
        content = said.get("content")
        if said.get("action") != "accept" or not isinstance(content, dict):
            self._asked[name] = NEVER  # they were asked, and would not say
            return False
        self._asked.pop(name, None)
        state = await self._daemon.runtime.state(task_id)
        for approval in state.approvals.values():
            if _name(state, approval) == name and caller.may(APPROVALS_DECIDE):
                return await self._decide(task_id, approval, content, caller)
        if _needs_model(state) and _name_of_brain(state) == name and caller.may(TASKS_WRITE):
            return await self._resume(state, content, caller)
        return True  # somebody else was faster, and that stands

    async def _decide(
        self, task_id: TaskId, approval: e.ApprovalRequested, content: Answer, caller: Caller
    ) -> bool:
        decision = content.get("decision")
        if decision not in ("approve", "deny"):
            return False
        for_task = (decision, approval.subject, content.get("scope")) == ("approve", "call", "task")
        scope: Literal["once", "task"] = "task" if for_task else "once"
        message = content.get("message")
        try:
            await self._daemon.runtime.decide_approval(
                task_id,
                approval.approval_id,
                decision,
                by=caller.by,
                message=message if isinstance(message, str) else "",
                scope=scope,
            )
        except (NotFound, Conflict):
            return True  # it was decided meanwhile, or the task has ended: that stands
        target = f"{task_id}.{approval.approval_id}"
        await record_decision(self._daemon, caller, "approval.decide", target, detail=decision)
        return True

    async def _resume(self, state: State, content: Answer, caller: Caller) -> bool:
        model, task_id = content.get("model"), TaskId(state.task_id)
        if not isinstance(model, str) or not model.strip():
            return False
        try:
            await self._daemon.runtime.resume(task_id, by=caller.by, model=model.strip())
        except AgentRuntimeError:
            self._asked[_name_of_brain(state)] = NEVER  # the same question would not help
            raise
        await record_decision(self._daemon, caller, "task.resume", task_id)
        return True

    def _may_ask(self, name: str, asked: Asked) -> bool:
        now = anyio.current_time()
        if asked.state != name and self._asked.get(name, 0.0) > now:
            return False
        if len(self._asked) >= ASKED_MAX:
            self._asked.pop(next(iter(self._asked)))
        self._asked[name] = now + ASKED_SECONDS
        return True


def _name(state: State, approval: e.ApprovalRequested) -> str:
    return f"{state.task_id}.{approval.approval_id}.{approval.digest[:32]}"


def _needs_model(state: State) -> bool:
    return not state.asked_client and not state.approvals and lacks_brain(state)


def _name_of_brain(state: State) -> str:
    """Another one each time that a model was looked for in vain."""
    return f"{state.task_id}.brain.{state.seq}"


def _question(state: State, text: str, form: Mapping[str, Json]) -> tuple[str, Mapping[str, Json]]:
    message = f"Task {state.task_id} asks: {text}"
    return "elicitation/create", {"mode": "form", "message": message, "requestedSchema": form}


def _form(approval: e.ApprovalRequested) -> Mapping[str, Json]:
    yes, no = decisions_of(approval)
    fields: dict[str, Json] = {
        "decision": {
            "type": "string", "enum": ["approve", "deny"], "title": "Decision",
            "description": f"approve {yes}, deny {no}",
        },
    }  # fmt: skip
    if approval.subject == "call":
        fields["scope"] = {
            "type": "string", "enum": ["once", "task"], "title": "For", "default": "once",
            "description": "task: also what the same rule asks about this tool from now on",
        }  # fmt: skip
    fields["message"] = {
        "type": "string", "title": "Why", "description": "The agent reads it", "maxLength": 10_000,
    }  # fmt: skip
    return {"type": "object", "properties": fields, "required": ["decision"]}


_MODEL: Final[Mapping[str, Json]] = {
    "type": "object",
    "properties": {
        "model": {
            "type": "string", "title": "Model", "minLength": 1, "maxLength": 300,
            "description": "PROVIDER/NAME, or client: the model of a connected client decides",
        },
    },
    "required": ["model"],
}  # fmt: skip


def _offers(state: State) -> str:
    offers = state.brain.offers if state.brain is not None else ()
    return "\n- ".join(["Who shall think for it? What would serve:", *offers])
