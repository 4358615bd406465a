"""Whether the task has succeeded, by what the runtime itself saw on a clean checkout."""

from __future__ import annotations

from agent_runtime.loop import events as e
from agent_runtime.loop.grades import accepts
from agent_runtime.loop.state import State, missing_artifacts
from agent_runtime.types import Grade, Status

REPLANS_MAX = 2
"""Plans after the first: a third failed verification says that more of the same will not help."""

_WAY_UP: dict[Grade, str] = {
    "proven": "give a check that fails without the work, or write accept: regression_only",
    "regression_only": "give an objective of your own, or write accept: self_chosen",
    "self_chosen": "",
}
"""What a task's author can do about evidence that is not enough."""


def judge(state: State) -> e.Events:
    """The runtime has verified: only this decides that a task succeeded."""
    found = state.verification
    if found is None:
        return ()
    missing = missing_artifacts(state)
    good = (
        found.ok
        and found.checks
        and all(check.ok for check in found.checks)
        and not found.protected_changed
        and not found.suspects
    )
    least = state.task.accept
    enough = good and accepts(least, found.grade)
    if enough and not missing:
        return (e.TaskConcluded(status=Status.SUCCEEDED, reason="every check passed"),)
    if enough:
        reason = f"artifact_missing: every check passed, and no file is {', '.join(missing)}"
    elif found.protected_changed:
        reason = "protected_file_changed: " + ", ".join(found.protected_changed)
    elif found.suspects:
        reason = (
            f"reaches_for_the_test_runner: {', '.join(found.suspects)}; if that is meant, the task "
            "releases the file, as protect: ['!PATH']"
        )
    elif good:
        reason = (
            f"grade_too_low: every check passed, and that is {found.grade or 'not graded'}; the "
            f"task accepts {least}: {_WAY_UP[least]}"
        )
    elif not found.checks:
        reason = found.message or "no_objectives: nothing says when this task is done"
    else:
        failing = [c for c in found.checks if not c.ok]
        reason = "check_failed: " + "; ".join(f"{c.id} ({c.reason})" for c in failing)
    # No plan makes evidence better than the checks can show.
    may_help = not good or enough
    by_brain = state.brain is not None and state.brain.kind in ("model", "client")
    if by_brain and state.task.plan is None and may_help:
        if state.plan_attempts - state.plans_before <= REPLANS_MAX:
            return (e.ReplanRequested(reason=f"Verification failed: {reason}"),)
    return (e.TaskConcluded(status=Status.UNVERIFIED, reason=reason),)
