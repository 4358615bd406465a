"""Re-opening an ended task: what it goes on with, and what of its state goes on.

`continuation` judges a wish and makes the task that follows from it; `reopened` folds it.
What a continuation does, in this order: the plan that it brings (or one that was never begun);
else the steps that had not ended; else what the model is told; else the checks alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from agent_runtime.errors import Conflict, UsageError
from agent_runtime.loop import events as e
from agent_runtime.loop.conversation import Conversation, stopped
from agent_runtime.loop.prompts import reopening
from agent_runtime.loop.state import Run, State, StepState, Usage, status_of
from agent_runtime.types import (
    ContinuationSpec,
    Limits,
    LimitsChange,
    Objective,
    Phase,
    StepStatus,
    TaskSpec,
)

replace = msgspec.structs.replace


def continuation(state: State, wish: ContinuationSpec) -> TaskSpec:
    """The task as it goes on.

    Raises:
        Conflict: it has not ended.
        UsageError: there would be nothing to do, or a step's id is taken.
    """
    refuse_unless_ended(state)
    task = state.task
    begun = state.plan_attempts > state.plans_before
    plan = wish.plan or (None if begun else task.plan)
    model = wish.model or task.model
    told = model is not None and wish.message.strip()
    if not (plan or state.unfinished or told or wish.objectives or wish.protect):
        raise UsageError(_nothing_to_do(state, model))
    if taken := [step.id for step in (plan.steps if plan else ()) if step.id in state.steps]:
        raise UsageError(
            f"plan.steps: {', '.join(map(repr, taken))} stood in an earlier plan of the task, and "
            "results are read by that name: give the new steps ids of their own"
        )
    known = {step.id for step in (plan.steps if plan else ())} | readable(state)
    if strange := sorted({n for s in (plan.steps if plan else ()) for n in s.needs} - known):
        raise UsageError(f"plan.steps: no step that came out well is called {strange[0]!r}")
    return replace(
        task,
        plan=plan,
        model=model,
        objectives=_merged(task.objectives, wish.objectives),
        protect=[*task.protect, *wish.protect],
        artifacts=[*task.artifacts, *(a for a in wish.artifacts if a not in task.artifacts)],
        limits=_limits(task.limits, wish.limits),
        policy=wish.policy or task.policy,
    )


def refuse_unless_ended(state: State) -> None:
    """`Conflict` if it has not ended."""
    if not state.ended:
        status, _ = status_of(state)
        raise Conflict(
            f"task {state.task_id!r} is {status}, and only an ended one can be continued; "
            f"`agent-runtime steer {state.task_id} MESSAGE` tells it something, "
            f"`agent-runtime cancel {state.task_id}` ends it"
        )


def readable(state: State) -> frozenset[str]:
    """Earlier steps that came out well: templates may read them, and new steps may need them."""
    done = {k for k, s in state.steps.items() if s.status is StepStatus.DONE}
    # A fallback's result stands for its owner's.
    return frozenset(done | {k for k, s in state.steps.items() if s.spec.fallback in done})


def earlier_steps(state: State) -> dict[str, bool]:
    """Every step up to now, and whether it is readable."""
    well = readable(state)
    return {step_id: step_id in well for step_id in state.steps}


def _nothing_to_do(state: State, model: str | None) -> str:
    how = f"agent-runtime continue {state.task_id}"
    if model is not None:
        return f"there is nothing to do: tell the model what is left, as `{how} MESSAGE`"
    return (
        f"there is nothing to do: every step of task {state.task_id!r} has ended, and it has no "
        f"model to think of more. Write a file with further steps under `plan` (or `objectives` "
        f"alone, to have the result checked by them), and give it as `{how} --file FILE`"
    )


def _merged(old: Sequence[Objective], new: Sequence[Objective]) -> list[Objective]:
    """A new objective takes the place of the one that has its id."""
    merged = {objective.id: objective for objective in old}
    merged.update({objective.id: objective for objective in new})
    return list(merged.values())


def _limits(old: Limits, change: LimitsChange) -> Limits:
    given = {k: v for k, v in msgspec.structs.asdict(change).items() if v is not None}
    return replace(old, **given)


# ---- the fold ----------------------------------------------------------------------------


def reopened(state: State, event: e.Continued) -> dict[str, Any]:
    """What `Continued` changes: a new run with a new allotment, in the same log.

    Steps keep their standing, so that those that had not ended can go on. Results, effects that
    are unknown, the conversation and all counters that make ids stay.
    """
    assert state.conclusion is not None
    ended = Run(state.seq, state.conclusion, state.usage, state.verification)
    conversation, steps = _turns_closed(state)
    return {
        "spec": event.spec,
        "earlier": (*state.earlier, ended),
        "stage": Phase.IDLE,
        "shown": Phase.IDLE,
        "alive": False,
        "crashes": 0,
        "opened": False,
        "prepared": None,
        "kept": None,
        "toolbelts": ("standard",),
        "plans_before": state.plan_attempts,
        "replan_reason": event.message,
        # What a person allowed was for the run that is over.
        "steps": {
            k: replace(s, approval_id="", granted=None, edited=None) for k, s in steps.items()
        },
        "approvals": {},
        "expired": frozenset(),
        "worker_used": False,
        "worker_gone": "",
        "verification": None,
        "usage": Usage(),
        "exhausted": None,
        "trouble": None,
        "trouble_attempts": 0,
        "cancel": None,
        "paused": False,
        "abort": None,
        "conversation": replace(
            conversation.told(reopening(event.message, event.spec)),
            model=0,
            faults=0,
            format_errors=0,
            trail=(),
            nudged=False,
            shown=(),
            found=(),
        ),
        "brain": None,
        "asking": None,
        "proposal": None,
        "conclusion": None,
        "cleaned": None,
        "ended": False,
    }


def _turns_closed(state: State) -> tuple[Conversation, Mapping[str, StepState]]:
    """What a brain had asked for and was stopped before is not run: it hears first what is new.

    Providers want an observation for every call, and what did run must not be told otherwise.
    """
    conversation, steps = state.conversation, dict(state.steps)
    for step_id, step in steps.items():
        if not (step.answered or step.ended):
            calls = stopped(step.turn_calls)
            conversation = conversation.turn_ended(f"{step_id}.t{step.turn}", calls)
            steps[step_id] = replace(step, turn_calls=calls)
    return conversation, steps
