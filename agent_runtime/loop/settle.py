"""What follows from the state alone, once what came back is recorded: one decision at a time.

`decide` asks again and again until nothing follows. What a step's attempt came to is decided in
`evaluate`, whether a turn can be had in `turns`, what is done about a failure in `recovery`, and
whether the task has succeeded in `judge`.
"""

from __future__ import annotations

from itertools import count

from agent_runtime.loop import budget, planning, publishing
from agent_runtime.loop import events as e
from agent_runtime.loop.actions import must_find_brain
from agent_runtime.loop.evaluate import evaluate
from agent_runtime.loop.front import front_steps, runnable, standing
from agent_runtime.loop.judge import judge
from agent_runtime.loop.recovery import recover_step, recover_task
from agent_runtime.loop.state import State, StepState, final_reason, lacks_brain, needs_brain
from agent_runtime.loop.turns import ask, take_turn
from agent_runtime.types import Phase, Status, StepSpec, StepStatus


def settle(state: State, at_us: int) -> e.Events:
    """The next decision that needs no outcome, or nothing."""
    if state.ended or not state.alive:
        return ()
    if state.conclusion is not None:
        return _finish(state)
    if state.worker_gone:
        return (e.WorkerRestarted(reason=state.worker_gone),)
    if lost := _unanswered(state):
        return lost
    if state.expired and (late := sorted(state.expired & state.approvals.keys())):
        return (e.ApprovalExpired(approval_id=late[0]),)
    if state.stopping:
        return _stop(state)
    if state.stage not in (Phase.IDLE, Phase.COMPLETION_VERIFICATION):
        if exhausted := budget.time_is_up(state):
            return (exhausted,)
    if state.paused:
        return ()
    if state.trouble is not None:
        return recover_task(state)
    match state.stage:
        case Phase.PLANNING:
            return _plan(state)
        case Phase.EXECUTION:
            return _settle_steps(state, at_us)
        case Phase.COMPLETION_VERIFICATION:
            return judge(state)
        case _:
            return ()


def _finish(state: State) -> e.Events:
    assert state.conclusion is not None
    if more := publishing.settle(state):
        return more
    if state.cleaned is None or publishing.goes_on(state):
        return ()
    return (e.TaskEnded(status=state.conclusion.status, reason=final_reason(state)),)


def _unanswered(state: State) -> e.Events:
    """A model call that nobody waits for any more: charged at its reservation."""
    asked = state.asking
    if asked is None:
        return ()
    # A client may take days, and what it answers is as good for the next owner.
    gone = state.asked_in_epoch != state.epoch and not state.asked_client
    if not (state.stopping or gone):
        return ()
    return (
        e.ModelCallSettled(
            step_id=asked.step_id,
            turn=asked.turn,
            tokens=asked.reserved_tokens,
            usd=asked.reserved_usd,
        ),
    )


def _stop(state: State) -> e.Events:
    if state.calls:
        return ()  # first the effect ledger closes every open call
    if state.cancel is not None:
        by = state.cancel.by + (f": {state.cancel.reason}" if state.cancel.reason else "")
        return (e.TaskConcluded(status=Status.CANCELLED, reason=f"cancelled by {by}"),)
    assert state.exhausted is not None
    over = state.exhausted
    reason = (
        f"budget_exhausted: limits.{over.limit} is {_amount(over.allowed)}, "
        f"used {_amount(over.used)}"
    )
    if over.limit in ("tokens", "usd") and over.used < over.allowed:
        prompt_tokens = state.conversation.prompt_tokens()
        reason += f"; the next turn does not fit: its prompt alone has some {prompt_tokens} tokens"
    if over.limit == "crashes":
        reason = f"crash_loop: {over.used:g} owners died at the same point"
    return (e.TaskConcluded(status=Status.FAILED, reason=reason),)


def _amount(value: float) -> str:
    """In full: 2000000, and not 2e+06."""
    return f"{value:.0f}" if value == int(value) else f"{value:.6g}"


def _plan(state: State) -> e.Events:
    """A given plan is adopted; a model's is asked for, unless the task is small: one step does.

    A continuation goes on with what had not ended, and at least it looks at its checks again.
    Without a brain, where one is needed, the task waits.
    """
    if state.discovery is not None and state.discovery.problems:
        reason = "plan_rejected: " + "; ".join(state.discovery.problems)
        return (e.TaskConcluded(status=Status.FAILED, reason=reason),)
    if must_find_brain(state) or lacks_brain(state) or state.asking is not None:
        return ()
    attempt = state.plan_attempts + 1
    if state.task.plan is not None:
        return (e.PlanAdopted(steps=list(state.task.plan.steps), source="given", attempt=attempt),)
    if state.unfinished:
        steps = [step.spec for step in state.unfinished]
        return (e.PlanAdopted(steps=steps, source="unfinished", attempt=attempt),)
    if not needs_brain(state):
        return (e.PlanAdopted(steps=[], source="checks", attempt=attempt),)
    if state.proposal is not None:
        return _adopt_proposal(state, state.proposal, attempt)
    first = state.run == 1 and not state.replan_reason
    if first and state.plan_wanted and not planning.is_small(state.task):
        return ask(state, step_id="", turn=state.plan_turns + 1)
    goal = state.replan_reason or state.task.goal
    work = StepSpec(id=_free_id(state), goal=goal)
    return (e.PlanAdopted(steps=[work], source="single", attempt=attempt),)


def _adopt_proposal(state: State, said: e.ModelReplied, attempt: int) -> e.Events:
    plan = planning.proposal(said.text, state.task, state.steps)
    assert isinstance(plan, planning.Proposal), "the fold keeps no other"
    return (
        e.PlanAdopted(
            steps=list(plan.steps),
            source="model",
            attempt=attempt,
            objectives=list(plan.objectives),
            requirements=list(plan.requirements),
        ),
    )


def _free_id(state: State) -> str:
    """Of the model's one step: a given plan may have used the name already."""
    numbers = count(state.plan_attempts + 1)
    names = ("work" if number == 1 else f"work_{number}" for number in numbers)
    return next(name for name in names if name not in state.steps)


def _settle_steps(state: State, at_us: int) -> e.Events:
    for step in front_steps(state):
        if decided := _settle_step(state, step, at_us):
            return decided
    live = state.unfinished if not state.front else front_steps(state)
    if state.abort is not None:
        if live:
            return ()
        reason = f"step {state.abort.step_id!r} failed ({state.abort.kind}): {state.abort.reason}"
        return (e.TaskConcluded(status=Status.FAILED, reason=reason),)
    if not live:
        if state.is_open:
            return ()  # it waits for more, until somebody cancels it
        return (e.VerificationStarted(attempt=state.verifications + 1),)
    if not state.front:
        waiting = ", ".join(s.spec.id for s in live)
        reason = f"plan_stuck: these steps wait for each other: {waiting}"
        return (e.TaskConcluded(status=Status.FAILED, reason=reason),)
    return ()


def _settle_step(state: State, step: StepState, at_us: int) -> e.Events:
    step_id = step.spec.id
    if step.withdrawn and step.status in (StepStatus.READY, StepStatus.RECOVERING):
        return (e.StepSkipped(step_id=step_id, reason="it was withdrawn"),)
    match step.status:
        case StepStatus.EVALUATING if step.result is not None and not step.wants_toolbelt:
            return evaluate(state, step, at_us)
        case StepStatus.RECOVERING if state.abort is not None:
            return (e.StepSkipped(step_id=step_id, reason="the task is aborted"),)
        case StepStatus.EVALUATING if state.abort is not None:
            return (e.StepSkipped(step_id=step_id, reason="the task is aborted"),)
        case StepStatus.RECOVERING if not step.timer:
            return recover_step(state, step)
        case StepStatus.READY:
            return _settle_ready(state, step)
        case _:
            return ()


def _settle_ready(state: State, step: StepState) -> e.Events:
    step_id = step.spec.id
    if state.abort is not None:
        return (e.StepSkipped(step_id=step_id, reason="the task is aborted"),)
    if step.condition_false:
        return (e.StepSkipped(step_id=step_id, reason="its condition was false", satisfied=True),)
    if not step.awake:
        return _settle_fallback(state, step)
    for need in step.spec.needs:
        if standing(state, need) == "bad":
            return (e.StepSkipped(step_id=step_id, reason=f"step {need!r} did not succeed"),)
    if not runnable(state, step):
        return ()
    tool = step.tool
    if tool is None:
        return take_turn(state, step)
    known = state.tools.get(tool)
    if known is not None and known.toolbelt not in state.toolbelts:
        return (
            e.StepEvaluated(
                step_id=step_id,
                verdict="toolbelt",
                toolbelt=known.toolbelt,
                reason=f"{tool!r} belongs to the toolbelt {known.toolbelt!r}",
            ),
        )
    return ()


def _settle_fallback(state: State, step: StepState) -> e.Events:
    """A sleeping fallback: once its owner has ended well, or not at all, it is not needed."""
    owner = next(s for s in state.steps.values() if s.spec.fallback == step.spec.id)
    if not owner.ended:
        return ()
    satisfied = standing(state, owner.spec.id) == "good"
    return (
        e.StepSkipped(step_id=step.spec.id, reason="fallback was not needed", satisfied=satisfied),
    )
