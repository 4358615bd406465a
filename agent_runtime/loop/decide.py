"""What follows from what came back: `decide(state, outcome, at_us) -> events`.

An outcome is recorded first; then `settle` is asked, again and again, what follows from the state
alone, until nothing does. All of it is one append: after a crash the log holds all of a decision or
nothing of it. When the derived phase has changed, `PhaseEntered` says so.
"""

from __future__ import annotations

import msgspec

from agent_runtime.loop import budget, publishing
from agent_runtime.loop import events as e
from agent_runtime.loop.actions import next_actions
from agent_runtime.loop.evolve import evolve
from agent_runtime.loop.intend import intend, may_call, may_start
from agent_runtime.loop.outcomes import BrainLooked, CallPrepared, Outcome, Woken
from agent_runtime.loop.settle import settle
from agent_runtime.loop.state import CLIENT_TIMER, State
from agent_runtime.types import Effect, Phase

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


def decide(state: State, outcome: Outcome, at_us: int) -> e.Events:
    """Everything to append because of `outcome`, in order; all of it is stored at `at_us`."""
    return advance(state, outcome, at_us)[0]


def advance(state: State, outcome: Outcome, at_us: int) -> tuple[e.Events, State]:
    """As `decide`, and the state that the events lead to."""
    decided: list[e.AnyEvent] = []

    def tell_phase(state: State) -> State:
        if not decided or state.shown is state.phase or state.ended:
            return state
        entered = e.PhaseEntered(phase=state.phase, previous=state.shown)
        decided.append(entered)
        return evolve(state, entered, at_us)

    def add(events: e.Events, state: State) -> State:
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


def _record(state: State, outcome: Outcome, at_us: int) -> e.Events:
    """The events that an outcome itself is."""
    match outcome:
        case Woken():
            return ()
        case CallPrepared():
            return intend(state, outcome, at_us)
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
            return (outcome,) if may_start(state) and may_call(step) else ()
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
