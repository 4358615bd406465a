"""What a task may still spend. Attempts are counted when they start, money is reserved before.

A call without an answer costs its reservation; usage above it is recorded and stops new calls.
"""

from __future__ import annotations

from agent_runtime.loop.events import BudgetExhausted
from agent_runtime.loop.state import State

TURN_TOKENS = 8_000
"""Reserved for one model turn, prompt and answer."""
TURN_USD = 0.10
"""Reserved for one model turn until prices are known."""
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


def turn_fits(state: State) -> BudgetExhausted | None:
    """May one more model turn be reserved?"""
    limits, usage = state.task.limits, state.usage
    tokens = usage.tokens + usage.reserved_tokens
    if tokens + TURN_TOKENS > limits.tokens:
        return BudgetExhausted(limit="tokens", used=tokens, allowed=limits.tokens)
    usd = usage.usd + usage.reserved_usd
    if usd + TURN_USD > limits.usd:
        return BudgetExhausted(limit="usd", used=usd, allowed=limits.usd)
    return attempt_fits(state)
