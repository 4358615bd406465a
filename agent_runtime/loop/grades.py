"""What a verification is worth: did a check fail before the work, or did it pass all along?

A check that passed before proves only that the work broke nothing, and so does one that ends now
well and now not on the same tree. One that was chosen by whoever does the work proves less than any
that was given. Pure; the claim in a certificate is made and checked by the same function.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, get_args

from agent_runtime.loop.events import CheckResult
from agent_runtime.types import Grade

PROVEN: Final = "proven"
"""A given check failed before the work, twice, and all pass after it."""
REGRESSION_ONLY: Final = "regression_only"
"""All pass after the work, and none of the given ones surely failed before it."""
SELF_CHOSEN: Final = "self_chosen"
"""All pass after the work, and none of them was given."""
GRADES: Final[tuple[Grade, ...]] = get_args(Grade)


def grade_of(checks: Sequence[CheckResult]) -> str:
    """The grade, or "" where a check fails or nobody looked how it ended before.

    All checks must pass; the best of them counts. So a given check that failed before is worth no
    less because the whole suite, which passed before, is checked as well, and a self-chosen one
    neither adds to what given ones show nor takes from it.
    """
    grades = [grade_of_check(check) for check in checks]
    return "" if "" in grades else min(grades, key=lambda grade: GRADES.index(grade), default="")


def grade_of_check(check: CheckResult) -> Grade | Literal[""]:
    """What one check shows."""
    if not check.ok or check.before is None:
        return ""
    if check.origin != "given":
        return SELF_CHOSEN
    return PROVEN if not check.before.ok and not check.flaky else REGRESSION_ONLY


def accepts(least: Grade, grade: str) -> bool:
    """Is evidence of this grade enough for a task that accepts `least`?

    An old log knows no grade; its checks passed, and nobody looked at the base.
    """
    if grade not in GRADES:
        return least != PROVEN
    return GRADES.index(grade) <= GRADES.index(least)
