"""Which phase may follow which, and on what event.

Everything that allows a transition lives in the two tables below: one for the task, one for a step.
`evolve.evolve` checks every event against them; the diagram in the docs and the tests of legal and
illegal transitions are generated from them. What happens *inside* a phase is in `decide`.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent_runtime.loop import events as e
from agent_runtime.types import Phase, StepStatus

LOOP_VERSION = 3
"""Changes when the same inputs may lead to other decisions: replay then says so."""

P, S = Phase, StepStatus

EXECUTING = frozenset(
    {P.ERROR_HANDLING, P.TOOLBELT_ACTIVATION, P.TOOL_TRANSITION_EVALUATION, P.EXECUTION}
)
"""Phases that are derived from the steps' own states while the plan runs."""

_Row = Mapping[type[e.Event], frozenset[Phase]]

_WISHES = (
    e.CancelRequested,
    e.PauseRequested,
    e.ResumeRequested,
    e.Steered,
    e.CallRequested,
    e.CallWithdrawn,
    e.TaskChanged,
)
_TO_CLEANUP: _Row = {e.TaskConcluded: frozenset({P.STATE_CLEANUP})}
_BEFORE_THE_PLAN = frozenset(
    {P.TASK_INITIATION, P.ANALYZE_REQUIREMENTS, P.TOOL_DISCOVERY, P.PLANNING}
)
_TROUBLE: _Row = {e.InitiationFailed: frozenset({P.ERROR_HANDLING})}

_STEP_EVENTS: _Row = dict.fromkeys(
    (
        e.PreparationFailed,
        e.ConditionFalse,
        e.CallIntended,
        e.ApprovalRequested,
        e.StepEvaluated,
        e.RecoveryChosen,
        e.StepSucceeded,
        e.StepFailed,
        e.StepSkipped,
        e.ModelCallStarted,
        e.HistoryCompacted,
        e.ToolbeltActivated,
        e.ToolbeltFailed,
    ),
    EXECUTING,
)
_EXECUTION: _Row = {
    **_STEP_EVENTS,
    **_TO_CLEANUP,
}

TASK_TRANSITIONS: Mapping[Phase, _Row] = {
    P.IDLE: {
        e.TaskSubmitted: frozenset({P.IDLE}),
        e.LeaseTaken: frozenset({P.TASK_INITIATION}),
        # Before it is claimed, and only then: nothing of these follows a task's end.
        **dict.fromkeys(_WISHES, frozenset({P.IDLE})),
        e.Continued: frozenset({P.IDLE}),
        e.PublicationRequested: frozenset({P.STATE_CLEANUP}),
        e.Forked: frozenset({P.IDLE}),
    },
    P.TASK_INITIATION: {
        # Without a workspace there is nothing to prepare an environment for.
        e.WorkspaceOpened: frozenset({P.TASK_INITIATION, P.ANALYZE_REQUIREMENTS}),
        e.EnvironmentPrepared: frozenset({P.ANALYZE_REQUIREMENTS}),
        **_TROUBLE,
        **_TO_CLEANUP,
    },
    P.ANALYZE_REQUIREMENTS: {
        e.RequirementsAnalyzed: frozenset({P.TOOL_DISCOVERY}),
        **_TROUBLE,
        **_TO_CLEANUP,
    },
    P.TOOL_DISCOVERY: {
        e.ToolsDiscovered: frozenset({P.PLANNING}),
        **_TROUBLE,
        **_TO_CLEANUP,
    },
    P.PLANNING: {
        e.BrainFound: frozenset({P.PLANNING}),
        # The one structured call for a plan.
        e.ModelCallStarted: frozenset({P.PLANNING}),
        e.ModelFailed: frozenset({P.PLANNING, P.ERROR_HANDLING}),
        # Steps of an earlier run go on where they stood.
        e.PlanAdopted: EXECUTING,
        **_TO_CLEANUP,
    },
    P.EXECUTION: {
        **_EXECUTION,
        e.VerificationStarted: frozenset({P.COMPLETION_VERIFICATION}),
    },
    P.TOOL_TRANSITION_EVALUATION: _EXECUTION,
    P.TOOLBELT_ACTIVATION: _EXECUTION,
    P.ERROR_HANDLING: {
        **_EXECUTION,
        # A task-wide failure goes back to where it happened, or gives up.
        e.RecoveryChosen: EXECUTING | _BEFORE_THE_PLAN,
        e.TimerFired: EXECUTING | _BEFORE_THE_PLAN,
    },
    P.COMPLETION_VERIFICATION: {
        e.WorkKept: frozenset({P.COMPLETION_VERIFICATION}),
        e.VerificationEnded: frozenset({P.COMPLETION_VERIFICATION}),
        e.ReplanRequested: frozenset({P.PLANNING}),
        **_TO_CLEANUP,
    },
    P.STATE_CLEANUP: {
        e.WorkKept: frozenset({P.STATE_CLEANUP}),
        **dict.fromkeys(
            (
                e.PublicationPrepared,
                e.PublicationIntended,
                e.PublicationDone,
                e.PublicationFailed,
                e.PublicationEnded,
            ),
            frozenset({P.STATE_CLEANUP}),
        ),
        e.CleanedUp: frozenset({P.STATE_CLEANUP}),
        e.TaskEnded: frozenset({P.IDLE}),
    },
}
"""phase -> event -> phases it may lead to."""

FACTS: frozenset[type[e.Event]] = frozenset(
    {
        e.LeaseTaken,
        e.Interrupted,
        e.CancelRequested,
        e.PauseRequested,
        e.ResumeRequested,
        e.Steered,
        e.CallRequested,
        e.CallWithdrawn,
        e.TaskChanged,
        e.Forked,
        e.ApprovalDecided,
        e.ApprovalExpired,
        e.CallReturned,
        e.CallLost,
        e.CallResolved,
        e.EgressObserved,
        e.TimerFired,
        e.ModelReplied,
        e.ModelFailed,
        e.ModelCallSettled,
        e.EffectUnknown,
        e.WorkerRestarted,
        e.BudgetExhausted,
        e.PhaseEntered,
    }
)
"""Legal in every phase but idle: a fact is never thrown away. While the plan runs they may move
steps, hence the derived phase; elsewhere they leave the phase alone."""

STEP_TRANSITIONS: Mapping[StepStatus, Mapping[type[e.Event], frozenset[StepStatus]]] = {
    S.READY: {
        e.CallIntended: frozenset({S.RUNNING}),
        e.ModelCallStarted: frozenset({S.RUNNING}),
        e.ApprovalRequested: frozenset({S.READY}),
        # A turn of several calls goes on when one of them has its answer.
        e.ApprovalDecided: frozenset({S.READY, S.EVALUATING}),
        e.ApprovalExpired: frozenset({S.READY, S.EVALUATING}),
        e.PreparationFailed: frozenset({S.READY, S.EVALUATING}),
        e.StepEvaluated: frozenset({S.EVALUATING}),
        e.ConditionFalse: frozenset({S.READY}),
        e.StepSkipped: frozenset({S.SKIPPED}),
        e.PlanAdopted: frozenset({S.SKIPPED}),
    },
    S.RUNNING: {
        # Calls of one turn that only read run beside each other.
        e.CallIntended: frozenset({S.RUNNING}),
        e.ApprovalRequested: frozenset({S.RUNNING}),
        e.ApprovalDecided: frozenset({S.RUNNING}),
        e.ApprovalExpired: frozenset({S.RUNNING}),
        e.PreparationFailed: frozenset({S.RUNNING}),
        e.CallReturned: frozenset({S.RUNNING, S.READY, S.EVALUATING}),
        e.CallLost: frozenset({S.RUNNING}),
        e.CallResolved: frozenset({S.RUNNING, S.READY, S.EVALUATING}),
        e.ModelReplied: frozenset({S.EVALUATING, S.READY}),
        e.ModelFailed: frozenset({S.EVALUATING}),
        e.ModelCallSettled: frozenset({S.EVALUATING}),
        # What an old model was asked, another one is asked anew.
        e.Forked: frozenset({S.EVALUATING}),
    },
    S.EVALUATING: {
        e.StepEvaluated: frozenset({S.EVALUATING, S.RECOVERING, S.READY}),
        e.EffectUnknown: frozenset({S.EVALUATING}),
        e.ApprovalRequested: frozenset({S.EVALUATING}),
        e.ApprovalDecided: frozenset({S.EVALUATING}),
        e.ApprovalExpired: frozenset({S.EVALUATING}),
        e.ToolbeltActivated: frozenset({S.READY}),
        e.ToolbeltFailed: frozenset({S.EVALUATING, S.READY}),
        e.StepSucceeded: frozenset({S.DONE}),
        # A task that is being stopped does not recover its steps.
        e.StepSkipped: frozenset({S.SKIPPED}),
        e.PlanAdopted: frozenset({S.SKIPPED}),
    },
    S.RECOVERING: {
        e.RecoveryChosen: frozenset({S.RECOVERING, S.READY}),
        e.TimerFired: frozenset({S.READY}),
        e.StepFailed: frozenset({S.FAILED}),
        e.StepSkipped: frozenset({S.SKIPPED}),
        # A continuation with a plan of its own gives up what had not ended of the old one.
        e.PlanAdopted: frozenset({S.SKIPPED}),
    },
    S.DONE: {},
    S.FAILED: {},
    S.SKIPPED: {},
}
"""step state -> event -> states it may lead to."""


def possible(phase: Phase, event: type[e.Event]) -> bool:
    """May `event` happen in `phase` at all, wherever it leads?"""
    return event in TASK_TRANSITIONS[phase] or (event in FACTS and phase is not Phase.IDLE)


def legal(before: Phase, event: type[e.Event], after: Phase) -> bool:
    """May `event` lead from one phase to the other?"""
    if after in TASK_TRANSITIONS[before].get(event, ()):
        return True
    if event not in FACTS or before is Phase.IDLE:
        return False
    return before is after or (before in EXECUTING and after in EXECUTING)
