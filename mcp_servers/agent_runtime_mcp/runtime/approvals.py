"""Asking the person at the client whether a task may do what it asks for.

A question names the approval by its id and by the hash that binds it to tool, arguments and tree,
so that no answer counts for another call. It is put to one client at a time and not again to
somebody who would not answer; `approve` decides it all the same. Nothing is remembered that a
restart must not forget: what was decided is in the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import anyio

from agent_runtime.access.callers import APPROVALS_DECIDE
from agent_runtime.api.daemon import Daemon
from agent_runtime.api.recording import record_decision
from agent_runtime.errors import Conflict, NotFound
from agent_runtime.loop import events as e
from agent_runtime.types import Json, Status, TaskId, TaskSummary
from agent_runtime_mcp.definitions import Asked, Unsupported
from agent_runtime_mcp.runtime.telling import approval_text, decisions_of

ASKED_SECONDS: Final = 300.0
"""For an answer that comes with another request; after that, somebody else may be asked."""
ASKED_MAX: Final = 10_000
QUESTION_CHARS_MAX: Final = 30_000
"""Of a form: a person who is to approve more reads it elsewhere."""
WAITS: Final = ("approval", "unknown_effect")

Questions = Mapping[str, tuple[str, Mapping[str, Json]]]


class Asking:
    """Which approvals are being asked about in this process."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._asked: dict[str, float] = {}
        """Name of a question -> until when nobody else is asked."""

    async def decided(self, summary: TaskSummary, asked: Asked) -> bool:
        """Ask about what the task waits for; true: it was decided, by this answer or by another.

        False: there is nothing to ask, or nobody who could or would say. The request may end here
        and come again with the answer: then this finds the same question, and its answer.
        """
        if summary.status != Status.WAITING or summary.reason not in WAITS:
            return False
        if not asked.caller.may(APPROVALS_DECIDE) or not asked.can("elicitation"):
            return False
        task_id = TaskId(summary.task_id)
        state = await self._daemon.runtime.state(task_id)
        for approval in state.approvals.values():
            name = _name(task_id, approval)
            text = approval_text(approval)
            if len(text) <= QUESTION_CHARS_MAX and self._may_ask(name, asked):
                return await self._ask(task_id, approval, name, text, asked)
        return not state.approvals  # somebody else was faster

    async def questions(self, summary: TaskSummary, asked: Asked) -> Questions:
        """Everything that a waiting task asks this caller, by names that are never used again.

        What somebody would not say is not asked them again.
        """
        if summary.reason not in WAITS or not asked.caller.may(APPROVALS_DECIDE):
            return {}
        task_id = TaskId(summary.task_id)
        state = await self._daemon.runtime.state(task_id)
        found: dict[str, tuple[str, Mapping[str, Json]]] = {}
        for approval in state.approvals.values():
            name, text = _name(task_id, approval), approval_text(approval)
            if len(text) <= QUESTION_CHARS_MAX and self._asked.get(name) != float("inf"):
                found[name] = ("elicitation/create", _question(task_id, approval, text))
        return found

    async def answered(
        self, summary: TaskSummary, name: str, said: Mapping[str, Json], asked: Asked
    ) -> None:
        """Take the answer to one of `questions`; one that is not open any more changes nothing."""
        if not asked.caller.may(APPROVALS_DECIDE):
            return
        task_id = TaskId(summary.task_id)
        state = await self._daemon.runtime.state(task_id)
        for approval in state.approvals.values():
            if _name(task_id, approval) == name:
                await self._hear(task_id, approval, name, said, asked)

    async def _ask(
        self, task_id: TaskId, approval: e.ApprovalRequested, name: str, text: str, asked: Asked
    ) -> bool:
        question = _question(task_id, approval, text)
        try:
            answers = await asked.ask({name: ("elicitation/create", question)}, state=name)
        except Unsupported:
            self._asked.pop(name, None)
            return False
        except anyio.get_cancelled_exc_class():
            self._asked.pop(name, None)  # whoever was asked has gone
            raise
        return await self._hear(task_id, approval, name, answers.get(name, {}), asked)

    async def _hear(
        self, task_id: TaskId, approval: e.ApprovalRequested, name: str, said: Mapping[str, Json],
        asked: Asked,
    ) -> bool:  # fmt: skip
        """Does this answer decide it? Then it is decided."""
        content = said.get("content")
        if said.get("action") != "accept" or not isinstance(content, dict):
            self._asked[name] = float("inf")  # they were asked, and would not say
            return False
        decision = content.get("decision")
        if decision not in ("approve", "deny"):
            return False
        await self._decide(task_id, approval, decision, content, asked)
        self._asked.pop(name, None)
        return True

    async def _decide(
        self, task_id: TaskId, approval: e.ApprovalRequested, decision: str, content: Json,
        asked: Asked,
    ) -> None:  # fmt: skip
        whole_task = decision == "approve" and content.get("scope") == "task"
        scope: Literal["once", "task"] = (
            "task" if whole_task and approval.subject == "call" else "once"
        )
        message = content.get("message")
        try:
            await self._daemon.runtime.decide_approval(
                task_id,
                approval.approval_id,
                decision,
                by=asked.caller.by,
                message=message if isinstance(message, str) else "",
                scope=scope,
            )
        except (NotFound, Conflict):
            return  # it was decided meanwhile, or the task has ended: that stands
        await record_decision(
            self._daemon, asked.caller, "approval.decide", f"{task_id}.{approval.approval_id}",
            detail=decision,
        )  # fmt: skip

    def _may_ask(self, name: str, asked: Asked) -> bool:
        now = anyio.current_time()
        if asked.state != name and self._asked.get(name, 0.0) > now:
            return False
        if len(self._asked) >= ASKED_MAX:
            self._asked.pop(next(iter(self._asked)))
        self._asked[name] = now + ASKED_SECONDS
        return True


def _name(task_id: TaskId, approval: e.ApprovalRequested) -> str:
    return f"{task_id}.{approval.approval_id}.{approval.digest[:32]}"


def _question(task_id: TaskId, approval: e.ApprovalRequested, text: str) -> dict[str, Json]:
    return {
        "mode": "form",
        "message": f"Task {task_id} asks: {text}",
        "requestedSchema": _form(approval),
    }


def _form(approval: e.ApprovalRequested) -> dict[str, Json]:
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
