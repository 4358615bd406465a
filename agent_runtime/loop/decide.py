"""What follows from what came back: `decide(state, outcome, at_us) -> events`.

An outcome is recorded first; then `settle` is asked, again and again, what follows from the state
alone, until nothing does. All of it is one append: after a crash the log holds all of a decision or
nothing of it. When the derived phase has changed, `PhaseEntered` says so.
"""

from __future__ import annotations

from itertools import count

import msgspec

from agent_runtime.loop import (
    approvals,
    budget,
    compaction,
    native,
    planning,
    publishing,
    recovery,
    stuck,
)
from agent_runtime.loop import events as e
from agent_runtime.loop.actions import (
    in_conversation,
    lane_is_taken,
    may_converse,
    must_find_brain,
    next_actions,
)
from agent_runtime.loop.conversation import Conversation
from agent_runtime.loop.evolve import evolve
from agent_runtime.loop.front import front_steps, runnable, standing
from agent_runtime.loop.grades import accepts
from agent_runtime.loop.outcomes import BrainLooked, CallPrepared, Outcome, Woken
from agent_runtime.loop.state import (
    CLIENT_TIMER,
    State,
    StepState,
    final_reason,
    lacks_brain,
    missing_artifacts,
    model_asked,
    needs_brain,
)
from agent_runtime.types import (
    Effect,
    FailureKind,
    Grade,
    Phase,
    Policy,
    Status,
    StepSpec,
    StepStatus,
    Strategy,
)

REPLANS_MAX = 2
"""Plans after the first: a third failed verification says that more of the same will not help."""

STAGE_OF = {
    e.WorkspaceOpened: Phase.TASK_INITIATION,
    e.EnvironmentPrepared: Phase.TASK_INITIATION,
    e.RequirementsAnalyzed: Phase.ANALYZE_REQUIREMENTS,
    e.ToolsDiscovered: Phase.TOOL_DISCOVERY,
    e.BrainFound: Phase.PLANNING,
    e.ToolbeltActivated: Phase.EXECUTION,
    e.ToolbeltFailed: Phase.EXECUTION,
    e.VerificationEnded: Phase.COMPLETION_VERIFICATION,
}
"""Outcomes that belong to one stage only."""

WITHOUT_RERUN = {
    Effect.IDEMPOTENT: "unknown",
    Effect.TASK: "unknown",
    Effect.PROBE: "not_happened",
}
"""How a call ends that may not run again; the others were never done, or undone."""

Events = tuple[e.AnyEvent, ...]

_WAY_UP: dict[Grade, str] = {
    "proven": "give a check that fails without the work, or write accept: regression_only",
    "regression_only": "give an objective of your own, or write accept: self_chosen",
    "self_chosen": "",
}
"""What a task's author can do about evidence that is not enough."""


def decide(state: State, outcome: Outcome, at_us: int) -> Events:
    """Everything to append because of `outcome`, in order; all of it is stored at `at_us`."""
    return advance(state, outcome, at_us)[0]


def advance(state: State, outcome: Outcome, at_us: int) -> tuple[Events, State]:
    """As `decide`, and the state that the events lead to."""
    decided: list[e.AnyEvent] = []

    def tell_phase(state: State) -> State:
        if not decided or state.shown is state.phase or state.ended:
            return state
        entered = e.PhaseEntered(phase=state.phase, previous=state.shown)
        decided.append(entered)
        return evolve(state, entered, at_us)

    def add(events: Events, state: State) -> State:
        for event in events:
            # That a good step was evaluated first is told by its success: half the rows of a plan.
            if type(event) is not e.StepSucceeded:
                state = tell_phase(state)
            decided.append(event)
            state = evolve(state, event, at_us)
        return state

    state = add(_record(state, outcome, at_us), state)
    while more := settle(state, at_us):
        state = add(more, state)
    state = tell_phase(state)
    return tuple(decided), state


def _record(state: State, outcome: Outcome, at_us: int) -> Events:
    """The events that an outcome itself is."""
    match outcome:
        case Woken():
            return ()
        case CallPrepared():
            return _intend(state, outcome, at_us)
        case BrainLooked(found, model):
            return _record(state, found, at_us) if model == state.task.model else ()
        case e.CallResolved(resolution="rerun") if budget.attempt_fits(state) is not None:
            # A neighbour has spent the last attempt since the ledger looked.
            effect = state.calls[outcome.call_id].intent.effect
            instead = WITHOUT_RERUN.get(effect, "dropped")
            return _record(state, msgspec.structs.replace(outcome, resolution=instead), at_us)
        case e.CallResolved(resolution="unknown"):
            intent = state.calls[outcome.call_id].intent
            unknown = e.EffectUnknown(
                call_id=outcome.call_id,
                step_id=intent.step_id,
                tool=intent.tool,
                message=(
                    f"It is unknown whether {intent.tool!r} ({outcome.call_id}) took effect: "
                    f"{outcome.message}. It is not run again; look before you act."
                ),
            )
            return (outcome, unknown)
        case e.Interrupted(reason=e.NOTHING_TO_DO):
            # Somebody may have answered meanwhile.
            busy = settle(state, at_us) or next_actions(state)
            return () if busy else (outcome,)
        case e.PreparationFailed() | e.ConditionFalse():
            # Preparing changes nothing: if the step has gone on meanwhile, nothing is lost.
            step = state.steps[outcome.step_id]
            return (outcome,) if _may_start(state) and _may_call(step) else ()
        case e.ModelReplied() | e.ModelFailed():
            asked = state.asking
            awaited = asked is not None and (
                (asked.step_id, asked.turn) == (outcome.step_id, outcome.turn)
            )
            return (outcome,) if awaited else ()
        case e.InitiationFailed():
            return (outcome,) if state.conclusion is None else ()
        case e.EgressObserved():
            known = 0 < outcome.mark <= state.reached.mark
            return () if state.ended or known else (outcome,)
        case e.WorkKept():
            ending = state.stage in (Phase.COMPLETION_VERIFICATION, Phase.STATE_CLEANUP)
            return (outcome,) if ending and state.kept is None else ()
        case e.PublicationPrepared() | e.PublicationDone() | e.PublicationFailed():
            return (outcome,) if publishing.is_awaited(state, outcome) else ()
        case e.TimerFired():
            return (outcome,) if _is_awaited(state, outcome.timer) else ()
        case _:
            # Only facts about calls and people are kept whatever happens; what a stage was to find
            # out is of no use when a cancel has already ended that stage.
            stage = STAGE_OF.get(type(outcome), state.stage)
            return (outcome,) if stage is state.stage else ()


def _is_awaited(state: State, timer: str) -> bool:
    """A timer can fire in the very moment in which what waited for it was skipped or ended."""
    if timer.startswith(publishing.TIMER):
        return state.publication is not None and state.publication.timer == timer
    if state.conclusion is not None:
        return False
    if timer.startswith("approval:"):
        return timer.removeprefix("approval:") in state.approvals
    if timer.startswith(CLIENT_TIMER):
        return state.asked_client or state.awaits_calls
    return (state.trouble is not None and state.trouble.timer == timer) or any(
        step.timer == timer for step in state.steps.values()
    )


def _may_start(state: State) -> bool:
    return not (state.stopping or state.paused or state.abort or state.conclusion)


def _may_call(step: StepState) -> bool:
    """Calls of one turn that only read begin while others run."""
    if step.withdrawn:
        return False
    return step.status is StepStatus.READY or (
        step.spec.tool is None and step.status is StepStatus.RUNNING and step.tool is not None
    )


def _intend(state: State, prepared: CallPrepared, at_us: int) -> Events:
    step = state.steps[prepared.step_id]
    stale = not _may_call(step) or step.tool is None or step.call_id != prepared.call_id
    if stale or step.approval_id or not _may_start(state):
        return ()
    if in_conversation(state) not in (None, prepared.step_id):
        return ()
    if prepared.effect is not Effect.READ and lane_is_taken(state):
        return ()  # another was intended while this one was made ready: its tree will be another
    if exhausted := budget.attempt_fits(state):
        return (exhausted,)
    if step.status is StepStatus.RUNNING and prepared.effect is not Effect.READ:
        # Its tool said so when it was asked for, and says something else now.
        return (
            e.PreparationFailed(
                step_id=prepared.step_id,
                kind="internal",
                message=f"{prepared.tool!r} was to run beside others because it only reads, and "
                f"now says that its effect is {prepared.effect}; call it alone",
            ),
        )
    approval_id = ""
    tool = state.tools.get(prepared.tool) or e.DiscoveredTool(
        name=prepared.tool, toolbelt="", where=""
    )
    decision, rule = approvals.decision_for(state.task.policy, tool, prepared.arguments)
    if prepared.tool in native.NAMES:
        decision = "allow"  # it shows what the task has already: `"*": ask` is not about that
    match decision:
        case "deny":
            return (
                e.PreparationFailed(
                    step_id=prepared.step_id,
                    kind="denied",
                    message=f"policy.approvals denies {prepared.tool!r}{approvals.by(rule, tool)}",
                ),
            )
        case "ask" if given := state.trusted.get(approvals.trust(prepared.tool, rule)):
            approval_id = given
        case "ask":
            digest = call_digest(prepared, state.task.policy)
            if step.granted is None or step.granted[1] != digest:
                by = approvals.by(rule, tool)
                return (_ask_person(state, step, prepared, digest, at_us, by=by, rule=rule),)
            approval_id = step.granted[0]
        case "allow":
            pass
    return (
        e.CallIntended(
            step_id=prepared.step_id,
            call_id=prepared.call_id,
            attempt=step.attempt + 1,
            tool=prepared.tool,
            arguments=dict(prepared.arguments),
            effect=prepared.effect,
            tree_before=prepared.tree_before,
            approval_id=approval_id,
            turn=step.turn if step.spec.tool is None else None,
        ),
    )


def call_digest(prepared: CallPrepared, policy: Policy) -> str:
    """What an approval is bound to: tool, arguments, the tree they would meet, and the policy."""
    return approvals.digest(prepared.tool, prepared.arguments, prepared.tree_before, policy)


def _ask_person(
    state: State,
    step: StepState,
    prepared: CallPrepared,
    digest: str,
    at_us: int,
    *,
    by: str,
    rule: str,
) -> e.ApprovalRequested:
    return e.ApprovalRequested(
        approval_id=f"a{state.approvals_made + 1}",
        step_id=step.spec.id,
        subject="call",
        tool=prepared.tool,
        arguments=dict(prepared.arguments),
        digest=digest,
        tree_before=prepared.tree_before,
        expires_at_us=at_us + int(state.task.policy.approval_seconds * 1e6),
        question=f"May step {step.spec.id!r} call {prepared.tool!r}?"
        + (f" (asked{by})" if by else ""),
        rule=rule,
        preview=prepared.preview,
    )


# ---- what follows from the state alone ---------------------------------------------------


def settle(state: State, at_us: int) -> Events:
    """The next decision that needs no outcome, or nothing."""
    if state.ended or not state.alive:
        return ()
    if state.conclusion is not None:
        return _finish(state)
    if state.worker_gone:
        return (e.WorkerRestarted(reason=state.worker_gone),)
    if lost := _unanswered(state):
        return lost
    if late := sorted(state.expired & state.approvals.keys()):
        return (e.ApprovalExpired(approval_id=late[0]),)
    if state.stopping:
        return _stop(state)
    if state.stage not in (Phase.IDLE, Phase.COMPLETION_VERIFICATION):
        if exhausted := budget.time_is_up(state):
            return (exhausted,)
    if state.paused:
        return ()
    if state.trouble is not None:
        return _settle_trouble(state)
    match state.stage:
        case Phase.PLANNING:
            return _plan(state)
        case Phase.EXECUTION:
            return _settle_steps(state, at_us)
        case Phase.COMPLETION_VERIFICATION:
            return _judge(state)
        case _:
            return ()


def _finish(state: State) -> Events:
    assert state.conclusion is not None
    if more := publishing.settle(state):
        return more
    if state.cleaned is None or publishing.goes_on(state):
        return ()
    return (e.TaskEnded(status=state.conclusion.status, reason=final_reason(state)),)


def _unanswered(state: State) -> Events:
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


def _stop(state: State) -> Events:
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


def _settle_trouble(state: State) -> Events:
    assert state.trouble is not None
    if state.trouble.timer:
        return ()
    fault, failure = state.trouble.fault, state.trouble.failure
    if fault is not None:
        choice, compacting = _model_recovery(state, fault)
        kind: FailureKind = "transient" if fault.error in e.TRANSIENT_FAULTS else "refused"
        reason = f"the model gave no answer ({fault.error}): {fault.message}"
    else:
        assert failure is not None
        choice, compacting = recovery.choose_for_task(state.trouble), ()
        kind, reason = failure.kind, failure.message
    chosen = e.RecoveryChosen(
        step_id="",
        strategy=choice.strategy,
        kind=kind,
        reason=reason,
        delay_ms=choice.delay_ms,
    )
    if choice.strategy is Strategy.ABORT:
        return (chosen, e.TaskConcluded(status=Status.FAILED, reason=reason))
    return (*compacting, chosen)


def _model_recovery(state: State, fault: e.ModelFailed) -> tuple[recovery.Choice, Events]:
    """What follows from a turn without an answer, and the compaction that it may need."""
    conversation = state.conversation
    shorter = compaction.choose(conversation) if fault.error == "context" else None
    models = state.brain.models if state.brain is not None else []
    choice = recovery.choose_for_model(
        fault,
        faults=conversation.faults,
        another=conversation.model + 1 < len(models),
        # Each time it is a fifth shorter at least, so that this has an end.
        shrinks=shorter is not None,
    )
    if shorter is None or choice.strategy is not Strategy.RETRY:
        return choice, ()
    return choice, (_compacted(state, *shorter),)


def _compacted(state: State, level: compaction.Level, shorter: Conversation) -> e.HistoryCompacted:
    return e.HistoryCompacted(
        level=level,
        tokens_before=state.conversation.prompt_tokens(),
        tokens_after=shorter.prompt_tokens(),
    )


def _plan(state: State) -> Events:
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
        return _ask(state, step_id="", turn=state.plan_turns + 1)
    goal = state.replan_reason or state.task.goal
    work = StepSpec(id=_free_id(state), goal=goal)
    return (e.PlanAdopted(steps=[work], source="single", attempt=attempt),)


def _adopt_proposal(state: State, said: e.ModelReplied, attempt: int) -> Events:
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


def _settle_steps(state: State, at_us: int) -> Events:
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


def _settle_step(state: State, step: StepState, at_us: int) -> Events:
    step_id = step.spec.id
    if step.withdrawn and step.status in (StepStatus.READY, StepStatus.RECOVERING):
        return (e.StepSkipped(step_id=step_id, reason="it was withdrawn"),)
    match step.status:
        case StepStatus.EVALUATING if step.result is not None and not step.wants_toolbelt:
            return _evaluate(state, step, at_us)
        case StepStatus.RECOVERING if state.abort is not None:
            return (e.StepSkipped(step_id=step_id, reason="the task is aborted"),)
        case StepStatus.EVALUATING if state.abort is not None:
            return (e.StepSkipped(step_id=step_id, reason="the task is aborted"),)
        case StepStatus.RECOVERING if not step.timer:
            return _recover(state, step)
        case StepStatus.READY:
            return _settle_ready(state, step)
        case _:
            return ()


def _settle_ready(state: State, step: StepState) -> Events:
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
        return _take_turn(state, step)
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


def _settle_fallback(state: State, step: StepState) -> Events:
    """A sleeping fallback: once its owner has ended well, or not at all, it is not needed."""
    owner = next(s for s in state.steps.values() if s.spec.fallback == step.spec.id)
    if not owner.ended:
        return ()
    satisfied = standing(state, owner.spec.id) == "good"
    return (
        e.StepSkipped(step_id=step.spec.id, reason="fallback was not needed", satisfied=satisfied),
    )


def _take_turn(state: State, step: StepState) -> Events:
    if state.asking is not None or not step.answered or not may_converse(state, step):
        return ()
    return _ask(state, step_id=step.spec.id, turn=step.turn + 1)


def _ask(state: State, *, step_id: str, turn: int) -> Events:
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
            return (_compacted(state, *shorter),)
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


def _evaluate(state: State, step: StepState, at_us: int) -> Events:
    """The transition rule after an attempt: good, failed, or go on with the conversation."""
    assert step.result is not None
    if step.spec.tool is None:
        return _evaluate_turn(state, step)
    if step.result.unknown and not step.result.judged:
        return _judge_unknown(state, step, at_us)
    step_id = step.spec.id
    reason = _shortfall(step)
    if not reason:
        if step.result.judged:
            judged = e.StepEvaluated(step_id=step_id, verdict="good", reason=step.result.reason)
            return (judged, e.StepSucceeded(step_id=step_id))
        return (e.StepSucceeded(step_id=step_id),)
    return (
        e.StepEvaluated(
            step_id=step_id, verdict="failed", kind=step.result.kind or "failed", reason=reason
        ),
    )


def _evaluate_turn(state: State, step: StepState) -> Events:
    """A turn has ended: done, in circles, in need of a toolbelt, or on with the next."""
    step_id, result, conversation = step.spec.id, step.result, state.conversation
    assert result is not None

    def found(verdict: e.Verdict, kind: FailureKind = "", reason: str = "") -> e.StepEvaluated:
        return e.StepEvaluated(step_id=step_id, verdict=verdict, kind=kind, reason=reason)

    if not result.ok:
        return (found("failed", result.kind, result.reason),)
    if conversation.format_errors >= stuck.FORMAT_ERRORS_MAX:
        why = f"{conversation.format_errors} answers in a row could not be used"
        return (found("failed", "stuck", f"{why}: {result.reason}"),)
    if why := stuck.circle(conversation.trail):
        if conversation.nudged:
            return (found("failed", "stuck", f"it goes in circles: {why}, also after a warning"),)
        # What goes wrong in a tool is data for the model; that it goes in circles, too.
        return (found("continue", "stuck", why),)
    if step.finished and not conversation.notes:
        return (e.StepSucceeded(step_id=step_id),)
    belt = step.wanted_toolbelt
    if belt and belt not in state.toolbelts:
        return (
            e.StepEvaluated(
                step_id=step_id,
                verdict="toolbelt",
                toolbelt=belt,
                reason=f"find_tools found tools of the toolbelt {belt!r}",
            ),
        )
    return (found("continue"),)


def _judge_unknown(state: State, step: StepState, at_us: int) -> Events:
    step_id = step.spec.id
    assert step.result is not None
    match state.task.policy.unknown_effect:
        case "fail":
            return (
                e.StepEvaluated(
                    step_id=step_id,
                    verdict="failed",
                    kind="unknown_effect",
                    reason=step.result.reason,
                ),
            )
        case "continue":
            return (
                e.StepEvaluated(
                    step_id=step_id, verdict="good", reason="unknown effect; the policy goes on"
                ),
                e.StepSucceeded(step_id=step_id),
            )
        case "ask":
            if step.approval_id:
                return ()
            if state.abort is not None:
                return (e.StepSkipped(step_id=step_id, reason="the task is aborted"),)
            approval_id = f"a{state.approvals_made + 1}"
            return (
                e.ApprovalRequested(
                    approval_id=approval_id,
                    step_id=step_id,
                    subject="unknown_effect",
                    tool=step.tool or "",
                    arguments={},
                    digest="",
                    expires_at_us=at_us + int(state.task.policy.approval_seconds * 1e6),
                    question=(
                        f"{step.result.reason} Approve to go on as if step {step_id!r} had "
                        "succeeded, deny to treat it as failed."
                    ),
                ),
            )


def _shortfall(step: StepState) -> str:
    """Why the result is not what the step expects; empty if it is."""
    result, expect = step.result, step.spec.expect
    assert result is not None
    told = result.reason.strip()
    if result.exit is not None:
        told = f"exit {result.exit}" + (f": {told}" if told else "")
    if expect is None or result.judged:
        return "" if result.ok else told or "it failed"
    if not result.ok and (result.exit is None or expect.exit is None):
        return told or "it failed"
    if expect.exit is not None and result.exit != expect.exit:
        return f"expected exit {expect.exit}, got {told}"
    if expect.contains is not None and expect.contains not in result.output:
        return f"its output does not contain {expect.contains!r}"
    return ""


def _recover(state: State, step: StepState) -> Events:
    assert step.failure is not None
    failure = step.failure
    compacting: Events = ()
    if step.spec.tool is None and step.fault is not None:
        choice, compacting = _model_recovery(state, step.fault)
    else:
        effect = step.spec.effect or step.effect or step.last_effect
        choice = recovery.choose(step, effect=effect)
    chosen = e.RecoveryChosen(
        step_id=step.spec.id,
        strategy=choice.strategy,
        kind=failure.kind,
        reason=failure.reason,
        delay_ms=choice.delay_ms,
    )
    if choice.strategy in (Strategy.RETRY, Strategy.ALTERNATIVE):
        return (*compacting, chosen)
    fallback = step.spec.fallback if choice.strategy is Strategy.FALLBACK else None
    failed = e.StepFailed(
        step_id=step.spec.id, kind=failure.kind, reason=failure.reason, fallback=fallback or ""
    )
    return (chosen, failed)


def _judge(state: State) -> Events:
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
