"""Which steps of a plan can move now. Pure.

Every event asks for it, so it is kept in the state and made anew only when a step has ended or
the plan has changed: a plan of 200 steps is not gone through five times an event.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent_runtime.loop.state import State, StepState
from agent_runtime.types import StepStatus


def front_of(state: State) -> tuple[str, ...]:
    """Ids of steps that have not ended and do not merely wait for another to end, in plan order.

    Also those that are to be skipped: what they need has come out badly, or the task is aborted.
    """
    return tuple(
        step_id
        for step_id, step in state.steps.items()
        if not step.ended and (state.abort is not None or not _only_waits(state.steps, step))
    )


def front_after(state: State, step_id: str) -> tuple[str, ...]:
    """The front of a state in which `step_id` has just succeeded, knowing the one before.

    It leaves, and only what needs it may join.
    """
    if state.is_open:
        return tuple(other for other in state.front if other != step_id)  # no step needs another
    # All of the plan is looked at once a step: as little as may be for each of its steps.
    front = set(state.front)
    for other_id, step in state.steps.items():
        spec = step.spec
        if spec.fallback:
            return front_of(state)  # what needs an owner waits for its fallback
        if step_id in spec.needs and not step.ended and not _only_waits(state.steps, step):
            front.add(other_id)
    front.discard(step_id)
    if len(front) < 2:
        return tuple(front)
    return tuple(other_id for other_id in state.steps if other_id in front)


def _only_waits(steps: Mapping[str, StepState], step: StepState) -> bool:
    if step.status is not StepStatus.READY or not step.awake:
        return False
    needs = [_standing(steps, need) for need in step.spec.needs]
    return "open" in needs and "bad" not in needs


def front_steps(state: State) -> list[StepState]:
    """The steps of the front."""
    return [state.steps[step_id] for step_id in state.front]


def runnable(state: State, step: StepState) -> bool:
    """Is it awake, and has everything that it needs come out well?"""
    return step.awake and all(_standing(state.steps, need) == "good" for need in step.spec.needs)


def standing(state: State, step_id: str) -> str:
    """How a step stands for those that need it: good, bad or open. A fallback stands in."""
    return _standing(state.steps, step_id)


def _standing(steps: Mapping[str, StepState], step_id: str) -> str:
    step = steps[step_id]
    match step.status:
        case StepStatus.DONE:
            return "good"
        case StepStatus.SKIPPED:
            return "good" if step.satisfied else "bad"
        case StepStatus.FAILED:
            return _standing(steps, step.spec.fallback) if step.spec.fallback else "bad"
        case _:
            return "open"
