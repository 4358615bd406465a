"""Does a brain go in circles? Four patterns, told once, and the end the second time.

The patterns are those of OpenHands' stuck detector (`controller/stuck.py`). Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent_runtime.loop.conversation import Trace

SAME_MAX = 4
ERRORS_MAX = 3
TURNS_MAX = 6
FORMAT_ERRORS_MAX = 3
"""Answers in a row that cannot be used."""

NUDGE = (
    "You are going in circles: {why}. Stop and think: what do you expect to be different next "
    "time? Read what you have not read, try another way, or look for a better tool with find_tools."
)


def circle(trail: Sequence[Trace]) -> str:
    """What repeats, in words; empty if nothing does."""
    if len(trail) >= SAME_MAX and len(set(trail[-SAME_MAX:])) == 1:
        return f"the same call had the same result {SAME_MAX} times"
    errors = trail[-ERRORS_MAX:]
    if len(errors) == ERRORS_MAX and all(t.failed for t in errors):
        if len({t.came for t in errors}) == 1:
            return f"the same error came {ERRORS_MAX} times in a row"
    pairs = trail[-TURNS_MAX:]
    if len(pairs) == TURNS_MAX and pairs[0] != pairs[1]:
        if all(t == pairs[n % 2] for n, t in enumerate(pairs)):
            return f"the same two calls took turns {TURNS_MAX // 2} times, with the same results"
    return ""
