"""What a verification is worth: did a check fail before the work, or did it pass all along?

A check that passed before proves only that the work broke nothing, and so does one that ends now
well and now not on the same tree. Pure; the claim in a certificate
is made and checked by the same function.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent_runtime.loop.events import CheckResult

PROVEN = "proven"
"""A check failed before the work, twice, and all pass after it."""
REGRESSION_ONLY = "regression_only"
"""All pass after the work, and none of them surely failed before it."""


def grade_of(checks: Sequence[CheckResult]) -> str:
    """The grade, or "" where a check fails or nobody looked how it ended before."""
    if not checks or not all(check.ok and check.before for check in checks):
        return ""
    shown = (c.before and not c.before.ok and not c.flaky for c in checks)
    return PROVEN if any(shown) else REGRESSION_ONLY
