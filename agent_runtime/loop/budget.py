"""What a task may still spend. Attempts are counted when they start, money is reserved before.

A call without an answer costs its reservation; usage above it is recorded and stops new calls.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent_runtime.loop.events import BudgetExhausted
from agent_runtime.loop.state import State
from agent_runtime.messages import ModelChoice

ANSWER_TOKENS = 8_192
"""Reserved for one answer, thinking included, if the model can say so much and that is left."""
ANSWER_TOKENS_MIN = 256
"""Less is no room for an answer with a call."""
CALL_SECONDS = 600.0
"""Deadline of a call whose step names none: a whole test suite fits."""
CRASHES_MAX = 20
"""Owners that may die at one point: beyond it, the task itself must be what kills them."""


def seconds_left(state: State) -> float:
    """Running time that is left, in seconds; never negative."""
    return max(0.0, state.task.limits.seconds - state.usage.running_us / 1e6)


def attempt_fits(state: State) -> BudgetExhausted | None:
    """May one more attempt start?"""
    limits, usage = state.task.limits, state.usage
    if usage.steps + 1 > limits.steps:
        return BudgetExhausted(limit="steps", used=usage.steps, allowed=limits.steps)
    return time_is_up(state)


def time_is_up(state: State) -> BudgetExhausted | None:
    """Has the running time been used up, or has the task killed too many owners?"""
    allowed = state.task.limits.seconds
    if state.usage.running_us >= allowed * 1e6:
        return BudgetExhausted(
            limit="seconds", used=round(state.usage.running_us / 1e6, 3), allowed=allowed
        )
    if state.crashes > CRASHES_MAX:
        return BudgetExhausted(limit="crashes", used=state.crashes, allowed=CRASHES_MAX)
    return None


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one turn may cost at most, as far as that can be known before."""

    tokens: int
    usd: float
    output_tokens_max: int


def reserve(state: State, model: ModelChoice, prompt_tokens: int) -> Reservation | BudgetExhausted:
    """Room for one more turn: its prompt, and as long an answer as is left."""
    if (over := attempt_fits(state)) is not None:
        return over
    limits, usage = state.task.limits, state.usage
    used = usage.tokens + usage.reserved_tokens
    wanted = min(ANSWER_TOKENS, model.output_tokens_max)
    # Prompt and answer share the context; what is left for it, if the estimate was too high, is
    # for the provider to say.
    wanted = max(min(wanted, model.context_tokens - prompt_tokens), min(wanted, ANSWER_TOKENS_MIN))
    least = min(ANSWER_TOKENS_MIN, wanted)
    answer = min(wanted, limits.tokens - used - prompt_tokens)
    if answer < least:
        return BudgetExhausted(limit="tokens", used=used, allowed=limits.tokens)
    spent = usage.usd + usage.reserved_usd
    prompt_usd = prompt_tokens * model.input_usd_per_mtok / 1e6
    if model.output_usd_per_mtok > 0:
        affordable = (limits.usd - spent - prompt_usd) / model.output_usd_per_mtok * 1e6
        # Rounded down, so that the sum stays below the limit.
        answer = min(answer, int(affordable) - 1 if affordable > 0 else 0)
    if answer < least or (prompt_usd > 0 and spent + prompt_usd > limits.usd):
        return BudgetExhausted(limit="usd", used=round(spent, 6), allowed=limits.usd)
    usd = prompt_usd + answer * model.output_usd_per_mtok / 1e6
    return Reservation(prompt_tokens + answer, usd, answer)
