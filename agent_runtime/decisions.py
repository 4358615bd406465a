"""A connected client as the brain: what it is asked, and what its answer becomes in the log.

A client pulls: it asks for the open decision of a task and answers it, so that any program that can
call two functions can think for one, an IDE's model among them. Its answer is a fact like any other
from outside; whoever drives the task goes on with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent_runtime.errors import Conflict, UsageError
from agent_runtime.loop import events as e
from agent_runtime.loop import intake, planning, prompts
from agent_runtime.loop.asking import judged, visible, without_secrets, without_secrets_in
from agent_runtime.loop.conversation import turn_name
from agent_runtime.loop.state import State, status_of
from agent_runtime.messages import NO_USAGE, Message, ToolUse
from agent_runtime.ports.model import ModelAnswer, ModelFault
from agent_runtime.ports.tools import Toolbox
from agent_runtime.redaction import Redactor
from agent_runtime.types import Json, ToolInfo

NO_SECRETS = Redactor({})


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenDecision:
    """What a client is asked: the next turn of a conversation, in the order in which it is told.

    `answer_schema` is the JSON schema of the text that is wanted; None: free text and calls.
    """

    task_id: str
    decision_id: str
    system: str
    messages: tuple[Message, ...]
    tools: tuple[ToolInfo, ...]
    answer_schema: Json = None


def open_decision(
    state: State, toolbox: Toolbox, redactor: Redactor = NO_SECRETS
) -> OpenDecision | None:
    """What a client is to decide now; None: nothing, for it is not the client's turn."""
    asked = state.asking
    if asked is None or not state.asked_client:
        return None
    return OpenDecision(
        task_id=state.task_id,
        decision_id=_decision_id(asked),
        system=prompts.SYSTEM,
        messages=without_secrets(state.conversation.messages, redactor),
        tools=tuple(visible(state, toolbox)),
        answer_schema=None if asked.step_id else planning.SCHEMA,
    )


def answer(
    state: State,
    toolbox: Toolbox,
    decision_id: str,
    *,
    text: str,
    calls: Sequence[ToolUse],
    by: str,
    redactor: Redactor = NO_SECRETS,
) -> e.ModelReplied:
    """The fact that a client has decided.

    Raises:
        Conflict: that decision is not open (any more); names the one that is.
        UsageError: two calls have the same id, or no log can hold the answer.
    """
    asked = state.asking
    if asked is None or not state.asked_client or _decision_id(asked) != decision_id:
        raise Conflict(_not_open(state, decision_id))
    ids = [use.id for use in calls]
    if twice := sorted({each for each in ids if ids.count(each) > 1}):
        raise UsageError(f"calls: the id {twice[0]!r} is used twice; each call has one of its own")
    if len(calls) > intake.CALLS_MAX:
        raise UsageError(f"calls: {len(calls)} of them; a turn has {intake.CALLS_MAX} at most")
    said = ModelAnswer(message=Message(role="assistant", text=text, calls=tuple(calls)))
    taken = intake.answered(said, turn=asked.turn, reserved=(NO_USAGE, 0.0))
    if isinstance(taken, ModelFault):
        raise UsageError(f"the answer cannot be taken: {taken.message}")
    return e.ModelReplied(
        step_id=asked.step_id,
        turn=asked.turn,
        text=redactor.text(taken.message.text),
        calls=judged(without_secrets_in(taken.message.calls, redactor), state, toolbox),
        stop="calls" if calls else "end",
        model="client",
        by=by,
    )


def _decision_id(asked: e.ModelCallStarted) -> str:
    return turn_name(asked.step_id, asked.turn)


def _not_open(state: State, decision_id: str) -> str:
    status, _ = status_of(state)
    asked = state.asking
    if asked is None or not state.asked_client:
        return (
            f"decision {decision_id!r} of task {state.task_id!r} is not open: the task is {status} "
            "and asks no client; ask for its next decision"
        )
    return (
        f"decision {decision_id!r} of task {state.task_id!r} is not open: it was answered; the "
        f"open one is {_decision_id(asked)!r}"
    )
