"""One more turn of the conversation: its budget is reserved, or the conversation shrinks first."""

from __future__ import annotations

from agent_runtime.loop import budget, compaction
from agent_runtime.loop import events as e
from agent_runtime.loop.actions import may_converse
from agent_runtime.loop.state import State, StepState, model_asked


def take_turn(state: State, step: StepState) -> e.Events:
    """The next turn of a step that the model works on, if it is its turn."""
    if state.asking is not None or not step.answered or not may_converse(state, step):
        return ()
    return ask(state, step_id=step.spec.id, turn=step.turn + 1)


def ask(state: State, *, step_id: str, turn: int) -> e.Events:
    """One more turn, if its budget can be reserved; a conversation that is too long shrinks."""
    conversation = state.conversation
    if state.brain is not None and state.brain.kind == "client":
        # Its tokens are not ours to count.
        if exhausted := budget.attempt_fits(state):
            return (exhausted,)
        return (_turn(state, step_id, turn, "client", budget.Reservation(0, 0.0, 0)),)
    model = model_asked(state)
    assert model is not None, "a task without a brain waits"
    prompt_tokens = conversation.prompt_tokens()
    if prompt_tokens > model.context_tokens * compaction.FULL_PART:
        if (shorter := compaction.choose(conversation)) is not None:
            return (compaction.event_of(state.conversation, *shorter),)
    room = budget.reserve(state, model, prompt_tokens)
    if isinstance(room, e.BudgetExhausted):
        return (room,)
    return (_turn(state, step_id, turn, model.name, room),)


def _turn(
    state: State, step_id: str, turn: int, model: str, room: budget.Reservation
) -> e.ModelCallStarted:
    return e.ModelCallStarted(
        step_id=step_id,
        turn=turn,
        model=model,
        reserved_tokens=room.tokens,
        reserved_usd=room.usd,
        output_tokens_max=room.output_tokens_max,
        prompt=state.conversation.digest[:16],
    )
