"""Asking a brain: the shell's side of one turn, from the state's conversation to an outcome.

What goes out is without the task's secrets, and what comes back too. Retries and other models are
the core's decisions; an adapter is asked exactly once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import anyio
import anyio.lowlevel
import msgspec

from agent_runtime import schema
from agent_runtime.loop import events as e
from agent_runtime.loop import intake, native, planning, prompts
from agent_runtime.loop.actions import AskModel
from agent_runtime.loop.approvals import decision_for
from agent_runtime.loop.budget import seconds_left
from agent_runtime.loop.discover import offered, refusal
from agent_runtime.loop.hands import Hands
from agent_runtime.loop.outcomes import Outcome
from agent_runtime.loop.state import State, model_asked
from agent_runtime.messages import Message, ToolUse
from agent_runtime.ports.model import ModelAnswer, ModelFault, ModelRequest
from agent_runtime.ports.tools import Toolbox
from agent_runtime.redaction import Redactor
from agent_runtime.types import Effect, EffectPolicy, Json, TaskSpec, ToolInfo

log = logging.getLogger(__name__)

MODEL_SECONDS = 600.0
"""Deadline of one turn; thinking takes its time."""
FIND_SECONDS = 60.0
"""Deadline of finding out who thinks: at most some servers on this machine are asked."""


async def find_brain(hands: Hands) -> e.BrainFound:
    """Who can think for this task; never fails."""
    model = hands.ports.model
    if model is None:
        return e.BrainFound(
            kind="none", offers=["give the task a plan: no model can be reached from here"]
        )
    try:
        with anyio.fail_after(FIND_SECONDS):
            found = await model.find(hands.state.task)
    except anyio.get_cancelled_exc_class():
        # Ours goes on up. Another is the adapter's own.
        await anyio.lowlevel.checkpoint_if_cancelled()
        return e.BrainFound(kind="none", offers=["looking for a model gave itself up"])
    except (Exception, SystemExit) as error:  # the border to an adapter: it becomes data
        log.exception("looking for a model failed")
        said = f"looking for a model failed with {type(error).__name__}: {error}"
        return e.BrainFound(kind="none", offers=[said])
    brain = intake.brain_of(found)
    return e.BrainFound(
        kind=brain.kind, models=list(brain.models), why=brain.why, offers=list(brain.offers)
    )


async def ask(action: AskModel, hands: Hands) -> Outcome:
    """One turn of the conversation, or the question for a plan."""
    state = hands.state
    choice = model_asked(state)
    assert choice is not None and state.asking is not None, "a client is not asked by us"
    redactor = await hands.redactor()
    request = ModelRequest(
        model=choice,
        system=prompts.SYSTEM,
        messages=without_secrets(state.conversation.messages, redactor),
        tools=tuple(visible(state, hands.ports.toolbox)),
        answer_schema=None if action.step_id else planning.SCHEMA,
        output_tokens_max=state.asking.output_tokens_max,
        conversation=state.task_id,
        heard=hands.heard,
    )
    began = anyio.current_time()
    asked = state.asking
    answer = intake.answered(
        await _answered(request, hands),
        turn=action.turn,
        reserved=(
            intake.reserved_usage(asked.reserved_tokens, asked.output_tokens_max),
            asked.reserved_usd,
        ),
    )
    seconds = round(anyio.current_time() - began, 3)
    if isinstance(answer, ModelFault):
        return e.ModelFailed(
            step_id=action.step_id,
            turn=action.turn,
            error=answer.kind,
            message=redactor.text(answer.message),
            retry_after_seconds=answer.retry_after_seconds,
            usage=answer.usage,
            usd=answer.usd,
        )
    message, blocks = answer.message, redactor.json(answer.message.blocks)
    return e.ModelReplied(
        step_id=action.step_id,
        turn=action.turn,
        text=redactor.text(message.text),
        calls=judged(without_secrets_in(message.calls, redactor), state, hands.ports.toolbox),
        stop=answer.stop,
        usage=answer.usage,
        usd=answer.usd,
        model=answer.model,
        cached=answer.cached,
        blocks=blocks,
        provider=choice.provider if blocks is not None else "",
        seconds=seconds,
    )


async def _answered(request: ModelRequest, hands: Hands) -> ModelAnswer | ModelFault:
    model = hands.ports.model
    if model is None:
        said = f"no adapter can reach the model {request.model.name!r}"
        return ModelFault(kind="not_found", message=said)
    seconds = min(MODEL_SECONDS, seconds_left(hands.state))
    try:
        with anyio.fail_after(seconds):
            return await model.complete(request)
    except TimeoutError:
        return ModelFault(kind="transport", message=f"no answer within {seconds:g} s")
    except anyio.get_cancelled_exc_class():
        await anyio.lowlevel.checkpoint_if_cancelled()
        return ModelFault(kind="internal", message="the adapter gave itself up")
    except (Exception, SystemExit) as error:  # the border to an adapter: it becomes data
        log.exception("the model adapter failed")
        said = f"the adapter failed with {type(error).__name__}: {error}"
        return ModelFault(kind="internal", message=said)


def visible(state: State, toolbox: Toolbox) -> list[ToolInfo]:
    """Tools in the order in which they appeared: activating a toolbelt appends, never reorders."""
    infos = [info_of(name, toolbox) for name in state.conversation.shown]
    return [offered(info) for info in infos if info is not None]


def info_of(name: str, toolbox: Toolbox) -> ToolInfo | None:
    """A tool's face, whether a plug-in or the loop itself does it."""
    return native.find(name) or toolbox.find(name)


def effect_of(
    info: ToolInfo, arguments: Mapping[str, Json], policy: EffectPolicy, toolbox: Toolbox
) -> Effect:
    """What a call will change. Raises whatever its tool raises."""
    if info.name in native.NAMES:
        return native.EFFECT
    return Effect(toolbox.get(info.name).effect(arguments, policy))


def judged(uses: Sequence[ToolUse], state: State, toolbox: Toolbox) -> list[ToolUse]:
    """The calls of an answer, each with its effect where that is sure before it is prepared."""
    return [msgspec.structs.replace(use, effect=_effect(use, state, toolbox)) for use in uses]


def _effect(use: ToolUse, state: State, toolbox: Toolbox) -> Effect | None:
    """Only what surely runs as it stands may run beside others; all else takes its turn."""
    task, info = state.task, info_of(use.name, toolbox)
    if info is None or use.arguments is None or refusal(task, info) is not None:
        return None
    if info.toolbelt not in state.toolbelts or schema.check(use.arguments, info.parameters):
        return None
    if use.name in native.NAMES:
        return native.EFFECT
    if decision_for(task.policy, info, use.arguments)[0] != "allow":
        return None
    try:
        policy = EffectPolicy(network=task.policy.network)
        return effect_of(info, use.arguments, policy, toolbox)
    except (Exception, SystemExit):  # noqa: BLE001 - a plug-in: heard of when it is prepared
        return None


def effect_if_known(
    task: TaskSpec, tool: str, arguments: Mapping[str, Json], toolbox: Toolbox
) -> Effect | None:
    """What a call would change, as far as its tool can say so before it is prepared."""
    info = toolbox.find(tool)
    if info is None or schema.check(arguments, info.parameters):
        return None
    try:
        return effect_of(info, arguments, EffectPolicy(network=task.policy.network), toolbox)
    except (Exception, SystemExit):  # noqa: BLE001 - a plug-in: heard of when it is prepared
        return None


def without_secrets(messages: Sequence[Message], redactor: Redactor) -> tuple[Message, ...]:
    """A person may have typed one; what tools said has none."""
    if not redactor:
        return tuple(messages)
    return tuple(msgspec.structs.replace(m, text=redactor.text(m.text)) for m in messages)


def without_secrets_in(uses: Sequence[ToolUse], redactor: Redactor) -> list[ToolUse]:
    """The calls that a brain asks for, as they are stored and made."""
    if not redactor:
        return list(uses)
    return [
        msgspec.structs.replace(
            use,
            arguments=redactor.json(use.arguments),
            raw=redactor.text(use.raw),
        )
        for use in uses
    ]
