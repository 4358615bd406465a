"""The brain's part of the fold: its turns, their calls and answers, what they cost.

`evolve` hands these events over; what follows from them is in `decide`. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from agent_runtime.loop import compaction, planning, prompts, stuck
from agent_runtime.loop import events as e
from agent_runtime.loop.conversation import (
    Conversation,
    Trace,
    TurnCall,
    answered,
    index_of,
    next_call,
    short_hash,
    turn_name,
)
from agent_runtime.loop.folding import Changes, clocked, moved, replace
from agent_runtime.loop.state import (
    NO_BRAIN,
    Result,
    State,
    StepState,
    Trouble,
    Usage,
    model_asked,
)
from agent_runtime.messages import Message, ToolUse
from agent_runtime.types import FailureKind, Json, StepStatus

BELT_TOOLS_MAX = 12
"""Of a toolbelt with more tools, only those are shown that were found or called."""
FOUND_LOOKED_AT = 3
"""Of what `find_tools` found, the best may bring their toolbelt."""
NEEDED_CHARS_MAX = 2_000
"""Of the output of a step that a brain's step needs."""


def brain_found(state: State, event: e.BrainFound) -> Changes:
    """Who thinks is known; the conversation opens with the task."""
    conversation = state.conversation
    if event.kind not in NO_BRAIN and not conversation.messages:
        facts = state.analysis.facts if state.analysis is not None else {}
        text = prompts.opening(state.task, facts, state.protected)
        conversation = conversation.with_messages(Message(role="user", text=text))
    return {
        "brain": event,
        "brain_epoch": state.epoch,
        "conversation": conversation.asking(0),
    }


def asked(state: State, event: e.ModelCallStarted, at_us: int) -> Changes:
    """A turn begins: what waited is said, and its reservation counts."""
    usage = replace(
        state.usage,
        steps=state.usage.steps + 1,
        reserved_tokens=state.usage.reserved_tokens + event.reserved_tokens,
        reserved_usd=state.usage.reserved_usd + event.reserved_usd,
    )
    conversation, changes = state.conversation, Changes()
    if event.step_id:
        step = state.steps[event.step_id]
        if not step.turn and (note := _step_note(state, step)):
            conversation = conversation.told(note)
        changes = moved(
            state, event.step_id, event, StepStatus.RUNNING, turn=event.turn, turn_calls=(),
            wanted_toolbelt="", fault=None,
        )  # fmt: skip
    elif event.turn == 1:
        conversation = conversation.told(prompts.plan_request(state.task))
    phase = "planning" if not event.step_id else f"step {event.step_id}, turn {event.turn}"
    limits = state.task.limits
    model = model_asked(state)
    status = prompts.status(
        phase=phase,
        steps=limits.steps - usage.steps,
        tokens=max(0, limits.tokens - usage.tokens),
        usd=max(0.0, limits.usd - usage.usd) if model is not None and model.priced else None,
        seconds=max(0.0, limits.seconds - usage.running_us / 1e6),
    )
    return {
        **changes,
        "asking": event,
        "asked_in_epoch": state.epoch,
        "client_gone": False,
        "plan_turns": state.plan_turns + (not event.step_id),
        "conversation": conversation.turn_begun(status),
        "usage": clocked(state, at_us, usage),
    }


def _step_note(state: State, step: StepState) -> str:
    """What a brain is told when a step begins; nothing where it knows already."""
    only = len(state.steps) == 1 or bool(state.replan_reason)
    if only and not step.spec.needs:
        return ""
    outputs = {
        name: done.result.output[:NEEDED_CHARS_MAX]
        for name in step.spec.needs
        if (done := state.steps[name]).spec.tool is not None and done.result is not None
    }
    return prompts.step_note(step.spec, outputs)


def replied(state: State, event: e.ModelReplied, at_us: int) -> Changes:
    """An answer: charged, kept, and its calls are open."""
    conversation = state.conversation
    message = Message(
        role="assistant",
        text=event.text,
        calls=tuple(replace(use, effect=None) for use in event.calls),
        blocks=event.blocks,
        provider=event.provider,
        ref=turn_name(event.step_id, event.turn),
    )
    conversation = conversation.counted(event.usage.input)
    conversation = replace(conversation.with_messages(message), faults=0)
    changes: Changes = {
        "asking": None,
        "usage": clocked(state, at_us, _settled(state, event.usage.total, event.usd)),
        "crashes": 0,
        "trouble_attempts": 0,
    }
    if not event.step_id:
        return {**changes, **_proposed(state, event, conversation)}
    calls = tuple(_opened(use) for use in event.calls)
    problem = _unusable(event, calls)
    errors = conversation.format_errors + 1 if problem else 0
    conversation = replace(conversation, format_errors=errors)
    if problem and not calls:
        conversation = _monologue(conversation.told(problem), event.text)
    status = StepStatus.EVALUATING
    if all(call.answer is not None for call in calls):
        conversation = conversation.turn_ended(message.ref, calls) if calls else conversation
    else:
        status = StepStatus.READY
    finished = not event.calls and not problem
    result = Result(True, event.text, reason=problem)
    return {
        **changes,
        **moved(
            state, event.step_id, event, status, turn_calls=calls, finished=finished,
            result=result, transients=0,
        ),
        "conversation": conversation,
    }  # fmt: skip


def _opened(use: ToolUse) -> TurnCall:
    if use.arguments is not None:
        return TurnCall(use)
    said = f"The arguments of {use.name!r} are no JSON object: {use.raw[:500]!r}. Call it again."
    return TurnCall(use, answer=said, failed=True)


def _unusable(event: e.ModelReplied, calls: Sequence[TurnCall]) -> str:
    """What is wrong with the form of an answer, for the brain to mend; empty if nothing is."""
    if bad := [call.use.name for call in calls if call.answer is not None]:
        return f"the arguments of {', '.join(bad)} were no JSON object"
    if calls:
        return ""
    if event.stop == "length":
        return (
            "Your answer was cut because it was too long. Go on in smaller parts; call a tool, or "
            "say in a few sentences that you are done."
        )
    if not event.text.strip():
        return "Your answer was empty. Call a tool, or say that you are done."
    return ""


def _monologue(conversation: Conversation, text: str) -> Conversation:
    trace = Trace("", short_hash(text), failed=True)
    return replace(conversation, trail=(*conversation.trail, trace))


def _proposed(state: State, event: e.ModelReplied, conversation: Conversation) -> Changes:
    """The answer to the question for a plan: kept if it can be used."""
    found = planning.proposal(event.text, state.task, state.steps)
    if isinstance(found, planning.Proposal):
        return {"proposal": event, "conversation": replace(conversation, format_errors=0)}
    errors = conversation.format_errors + 1
    conversation = replace(conversation, format_errors=errors)
    if errors >= stuck.FORMAT_ERRORS_MAX:
        # One step without a plan is better than no work.
        said = "That is no plan either. Go on without one."
        fresh = replace(conversation.told(said), format_errors=0)
        return {"plan_wanted": False, "conversation": fresh}
    problems = "; ".join(found)
    said = f"That plan cannot be used: {problems}. Answer with the whole JSON object again."
    return {"conversation": conversation.told(said)}


def failed(state: State, event: e.ModelFailed, at_us: int) -> Changes:
    """No answer: what it cost all the same is charged, the rest of the reservation given back."""
    conversation = state.conversation
    changes: Changes = {
        "asking": None,
        "usage": clocked(state, at_us, _settled(state, event.usage.total, event.usd)),
        "conversation": replace(conversation, faults=conversation.faults + 1),
        "crashes": 0,
    }
    if not event.step_id:
        from_trouble = state.trouble_attempts + 1
        return {
            **changes,
            "trouble": Trouble(from_trouble, fault=event),
            "trouble_attempts": from_trouble,
        }
    kind: FailureKind = "transient" if event.error in e.TRANSIENT_FAULTS else "refused"
    said = f"the model gave no answer ({event.error}): {event.message}"
    result = Result(False, "", None, kind, said)
    return {
        **changes,
        **moved(
            state, event.step_id, event, StepStatus.EVALUATING, fault=event, result=result
        ),
    }  # fmt: skip


def settled(state: State, event: e.ModelCallSettled) -> Changes:
    """Its owner stopped or died, which is no failure of the model: the turn is asked again."""
    changes: Changes = {"asking": None, "usage": _settled(state, event.tokens, event.usd)}
    if event.step_id:
        lost = Result(True)
        changes |= moved(state, event.step_id, event, StepStatus.EVALUATING, result=lost)
    return changes


def _settled(state: State, tokens: int, usd: float) -> Usage:
    usage, asking = state.usage, state.asking
    assert asking is not None
    return replace(
        usage,
        reserved_tokens=usage.reserved_tokens - asking.reserved_tokens,
        reserved_usd=usage.reserved_usd - asking.reserved_usd,
        tokens=usage.tokens + tokens,
        usd=usage.usd + usd,
    )


# ---- calls of a turn ---------------------------------------------------------------------


def answer(
    state: State, event: e.Event, step_id: str, text: str, *, failed: bool, call_id: str = ""
) -> Changes:
    """A call of a turn has its answer: the next one, or the turn is over.

    Without `call_id` it is the call that would have been next.
    """
    step = state.steps[step_id]
    index = index_of(call_id) if call_id else next_call(step.turn_calls)
    assert index is not None, "no call of the turn waits"
    calls = answered(step.turn_calls, index, text, failed=failed)
    conversation = state.conversation
    if all(call.answer is not None for call in calls):
        to = StepStatus.EVALUATING
        conversation = conversation.turn_ended(f"{step_id}.t{step.turn}", calls)
    elif any(call.open for call in calls):
        to = StepStatus.RUNNING
    else:
        to = StepStatus.READY
    return {
        **moved(state, step_id, event, to, turn_calls=calls, result=Result(True)),
        "conversation": conversation,
    }


def told(state: State, note: str) -> Conversation:
    """With something for the brain to know, where there is one."""
    conversation = state.conversation
    return conversation.told(note) if conversation.messages else conversation


def nudged(state: State, why: str) -> Conversation:
    """It goes in circles, and hears so once."""
    conversation = state.conversation.told(stuck.NUDGE.format(why=why))
    return replace(conversation, nudged=True, trail=())


def compacted(state: State, event: e.HistoryCompacted) -> Conversation:
    """The shorter history, made by the same rule as when it was decided."""
    return compaction.compacted(state.conversation, event.level)


# ---- tools -------------------------------------------------------------------------------


def found(state: State, data: Json) -> tuple[Conversation, str]:
    """What `find_tools` found is shown, and the toolbelt that it takes, if one is not on yet."""
    hits = data.get("tools", []) if isinstance(data, Mapping) else []
    names = [str(hit["name"]) for hit in hits if isinstance(hit, Mapping) and "name" in hit]
    known = [name for name in names if name in state.tools]
    on = [name for name in known if state.tools[name].toolbelt in state.toolbelts]
    belts = [state.tools[name].toolbelt for name in known[:FOUND_LOOKED_AT]]
    wanted = next((belt for belt in belts if belt not in state.toolbelts), "")
    kept = replace(state.conversation, found=(*state.conversation.found, *known))
    return shown(kept, on), wanted


def activated(state: State, tools: Sequence[str], called: Collection[str]) -> Conversation:
    """The tools of a toolbelt that is on now come behind those that were shown before."""
    conversation = state.conversation
    if len(tools) > BELT_TOOLS_MAX:
        tools = [name for name in tools if name in conversation.found or name in called]
    return shown(conversation, sorted(tools))


def shown(conversation: Conversation, names: Sequence[str]) -> Conversation:
    """Never reordered: a provider's cache holds what stands before."""
    new = [name for name in dict.fromkeys(names) if name not in conversation.shown]
    return replace(conversation, shown=(*conversation.shown, *new)) if new else conversation
