"""The state of a task: what the fold of its log knows, and the status that a user sees.

Everything here is frozen; mappings are replaced, never changed. How an event changes the state is
in `evolve`; what follows from it is in `decide` and `actions`.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from agent_runtime.errors import NotFound, UsageError
from agent_runtime.loop import events as e
from agent_runtime.loop.conversation import Conversation, TurnCall, next_call
from agent_runtime.loop.reached import Reached
from agent_runtime.messages import ModelChoice
from agent_runtime.types import (
    ENDED_STEPS,
    Effect,
    FailureKind,
    Json,
    Phase,
    PreparedEnvironment,
    PublishSpec,
    Status,
    StepSpec,
    StepStatus,
    TaskSpec,
)

# Structs, not dataclasses: an event costs one `replace` of the state and one of a step; msgspec's
# is some twenty times faster than the one of `dataclasses`, and a snapshot is one call.

FOLD_VERSION = 8
"""Of the folded state's shape: a snapshot with another number is dropped."""


class Result(msgspec.Struct, frozen=True, gc=False):
    """What a step's last attempt came to, before it is evaluated."""

    ok: bool
    output: str = ""
    exit: int | None = None
    kind: FailureKind = ""
    reason: str = ""
    paths: tuple[str, ...] = ()
    unknown: bool = False
    """The call's effect is unknown (see `EffectUnknown`)."""
    judged: bool = False
    """A person or the policy said how to go on after an unknown effect."""


class StepState(msgspec.Struct, frozen=True, gc=False):
    """One step of the plan. `known_failures`, `timeouts` and `deaths` are counted apart."""

    spec: StepSpec
    status: StepStatus = StepStatus.READY
    attempt: int = 0
    known_failures: int = 0
    timeouts: int = 0
    deaths: int = 0
    transients: int = 0
    awake: bool = True
    """A fallback sleeps until its owner fails."""
    alternative: bool = False
    effect: Effect | None = None
    """Known before the call is prepared only if its arguments hold no template."""
    last_effect: Effect | None = None
    """Of the attempt that ran last."""
    condition_false: bool = False
    result: Result | None = None
    failure: e.StepEvaluated | None = None
    wants_toolbelt: str = ""
    timer: str = ""
    delay_ms: int = 0
    approval_id: str = ""
    granted: tuple[str, str] | None = None
    """(approval id, digest) of an approval that is not used yet."""
    edited: Mapping[str, Json] | None = None
    """Arguments that a person has put in the place of the next call's."""
    satisfied: bool = False
    turn: int = 0
    """Of a step that a brain works on: its turns so far."""
    turn_calls: tuple[TurnCall, ...] = ()
    fault: e.ModelFailed | None = None
    """Why its last turn has no answer."""
    wanted_toolbelt: str = ""
    """A toolbelt that `find_tools` found a tool of, in this turn."""
    finished: bool = False
    """The model's last turn asked for no call."""
    requested: bool = False
    """It came with `CallRequested`: its arguments are data, and no template is filled in them."""
    withdrawn: bool = False

    @property
    def ended(self) -> bool:
        return self.status in ENDED_STEPS

    @property
    def tool(self) -> str | None:
        """The tool of the next call; None when it is the brain's turn, or a call must end first."""
        if self.spec.tool is None:
            index = next_call(self.turn_calls)
            return None if index is None else self.turn_calls[index].use.name
        if self.alternative and self.spec.alternative is not None:
            return self.spec.alternative.tool
        return self.spec.tool

    @property
    def args(self) -> Mapping[str, Json]:
        """The next call's arguments, templates not yet filled."""
        if self.edited is not None:
            return self.edited
        if self.spec.tool is None:
            index = next_call(self.turn_calls)
            assert index is not None, "it is not the tools' turn"
            return self.turn_calls[index].use.arguments or {}
        if self.alternative and self.spec.alternative is not None:
            return self.spec.alternative.args
        return self.spec.args

    @property
    def call_id(self) -> str:
        """Id of the next call."""
        if self.spec.tool is None:
            return f"{self.spec.id}.t{self.turn}.{next_call(self.turn_calls)}"
        return f"{self.spec.id}.{self.attempt + 1}"

    @property
    def answered(self) -> bool:
        """Every call of the turn has its answer."""
        return all(call.answer is not None for call in self.turn_calls)


class CallState(msgspec.Struct, frozen=True, gc=False):
    """An open call: intended, not yet returned or given up."""

    intent: e.CallIntended
    epoch: int
    runs: int = 1
    lost: str = ""
    """Reason of a `CallLost`; empty while it runs."""
    message: str = ""


class Usage(msgspec.Struct, frozen=True, gc=False):
    """What was spent. `steps` counts attempts when they start; `running_us` running time only."""

    steps: int = 0
    tokens: int = 0
    usd: float = 0.0
    reserved_tokens: int = 0
    reserved_usd: float = 0.0
    running_us: int = 0


class Trouble(msgspec.Struct, frozen=True, gc=False):
    """A task-wide failure that error handling has yet to deal with."""

    attempts: int
    failure: e.InitiationFailed | None = None
    fault: e.ModelFailed | None = None
    """A question for a plan has no answer; either this or `failure`."""
    timer: str = ""
    delay_ms: int = 0


class Run(msgspec.Struct, frozen=True, gc=False):
    """How a run ended that was continued since: its result is superseded."""

    ended_seq: int
    conclusion: e.TaskConcluded
    usage: Usage
    verification: e.VerificationEnded | None


class Publication(msgspec.Struct, frozen=True, gc=False):
    """How far the proven branch has come on its way out; see `loop.publishing`."""

    spec: PublishSpec
    prepared: e.PublicationPrepared | None = None
    intended: str = ""
    """The step that may have been done, and has no result yet."""
    pushed: e.PublicationDone | None = None
    opened: e.PublicationDone | None = None
    failure: e.PublicationFailed | None = None
    """After it nothing more is tried."""
    attempts: int = 0
    """Of the present step that came to nothing."""
    moves: int = 0
    timer: str = ""
    delay_ms: int = 0
    ended: e.PublicationEnded | None = None


class State(msgspec.Struct, frozen=True, gc=False):
    """Where a task stands. Two equal logs give equal states."""

    task_id: str = ""
    spec: TaskSpec | None = None
    seq: int = 0
    at_us: int = 0
    created_at_us: int = 0
    stage: Phase = Phase.IDLE
    """The phase without what is derived: never a step's sub-phase nor error_handling."""
    phase: Phase = Phase.IDLE
    shown: Phase = Phase.IDLE
    """The phase that the log's last `PhaseEntered` told."""
    epoch: int = 0
    owner: str = ""
    alive: bool = False
    """A lease was taken and no `Interrupted` followed."""
    crashes: int = 0
    """Owners that died since something last came back."""
    forked: e.Forked | None = None
    """Where it comes from, if it is a fork."""
    keys: Mapping[str, str] = {}
    """Of a fork: under whose name a call may have had an effect already, see `forking`."""
    earlier: tuple[Run, ...] = ()
    """Runs that ended before the last `Continued`."""
    workspace: e.WorkspaceOpened | None = None
    prepared: e.EnvironmentPrepared | None = None
    """None: not prepared yet, or there is no workspace."""
    opened: bool = False
    """The workspace is open in this run; `workspace` may be the one of an earlier run."""
    tree: str = ""
    """The last known tree of the workspace."""
    kept: e.WorkKept | None = None
    analysis: e.RequirementsAnalyzed | None = None
    tools: Mapping[str, e.DiscoveredTool] = {}
    discovery: e.ToolsDiscovered | None = None
    toolbelts: tuple[str, ...] = ("standard",)
    """Those that are on, in the order in which they were activated."""
    brain: e.BrainFound | None = None
    brain_epoch: int = 0
    """The owner that looked for it."""
    conversation: Conversation = Conversation()
    asking: e.ModelCallStarted | None = None
    """The turn that waits for its answer; one conversation at a time."""
    asked_in_epoch: int = 0
    client_gone: bool = False
    """The client that is asked has not answered for so long that nobody holds a worker for it."""
    plan_turns: int = 0
    """How often a plan was asked for."""
    proposal: e.ModelReplied | None = None
    """The answer to that, until it is adopted or refused."""
    plan_wanted: bool = True
    """False: a plan was asked for in vain, and one step must do."""
    plan_attempts: int = 0
    plans_before: int = 0
    """Plans of earlier runs."""
    replan_reason: str = ""
    steps: Mapping[str, StepState] = {}
    past: frozenset[str] = frozenset()
    """Of an open plan: names of the steps that have ended. Nothing else of them is kept here, for
    such a task may make thousands of calls; the log has it all."""
    front: tuple[str, ...] = ()
    """Those of them that can move now; see `loop.front`."""
    calls: Mapping[str, CallState] = {}
    approvals: Mapping[str, e.ApprovalRequested] = {}
    approvals_made: int = 0
    trusted: Mapping[str, str] = {}
    """What a person has allowed for the whole task, see `approvals.trust`, and the approval."""
    expired: frozenset[str] = frozenset()
    unknown: tuple[e.EffectUnknown, ...] = ()
    worker_used: bool = False
    """A worker of this epoch has run a call: its loss must be told."""
    worker_gone: str = ""
    """Why the worker is a new one, until `WorkerRestarted` says so."""
    verifications: int = 0
    verification: e.VerificationEnded | None = None
    reached: Reached = Reached()
    usage: Usage = Usage()
    exhausted: e.BudgetExhausted | None = None
    trouble: Trouble | None = None
    trouble_attempts: int = 0
    cancel: e.CancelRequested | None = None
    paused: bool = False
    asked_once: Mapping[str, str] = {}
    """What was asked for with idempotency keys, see `types.Once`; each key behind its caller."""
    abort: e.StepFailed | None = None
    conclusion: e.TaskConcluded | None = None
    cleaned: e.CleanedUp | None = None
    publication: Publication | None = None
    """The newest one; None: there is nothing to publish."""
    published: tuple[str, ...] = ()
    """Every commit that was ever prepared: what the remote may hold of ours."""
    ended: bool = False

    @property
    def environment(self) -> PreparedEnvironment | None:
        """What commands find around the repository, once that is known."""
        return self.prepared.environment if self.prepared is not None else None

    @property
    def task(self) -> TaskSpec:
        """The task file. Only after the first event."""
        assert self.spec is not None
        return self.spec

    @property
    def run(self) -> int:
        """Number of the run; the first is 1, each `Continued` begins the next."""
        return len(self.earlier) + 1

    @property
    def total(self) -> Usage:
        """What all runs together have spent; `usage` is about the newest one."""
        used = [self.usage, *(run.usage for run in self.earlier)]
        return Usage(
            steps=sum(usage.steps for usage in used),
            tokens=sum(usage.tokens for usage in used),
            usd=sum(usage.usd for usage in used),
            running_us=sum(usage.running_us for usage in used),
        )

    @property
    def unfinished(self) -> tuple[StepState, ...]:
        """Steps that have not ended."""
        return tuple(step for step in self.steps.values() if not step.ended)

    @property
    def stopping(self) -> bool:
        """Nothing new may start, and calls without a result are not run again."""
        return self.cancel is not None or self.exhausted is not None

    @property
    def asked_client(self) -> bool:
        """A connected program is asked for the next turn."""
        by_client = self.brain is not None and self.brain.kind == "client"
        return by_client and self.asking is not None

    @property
    def is_open(self) -> bool:
        """Its plan has no steps of its own: they come with `CallRequested`, until it is cancelled.

        No task file holds such a plan.
        """
        plan = self.spec.plan if self.spec is not None else None
        return plan is not None and not plan.steps

    @property
    def awaits_calls(self) -> bool:
        """Its plan is open, and everything that was asked for has ended."""
        return self.stage is Phase.EXECUTION and not self.front and self.is_open

    @property
    def protected(self) -> tuple[str, ...]:
        return tuple(self.analysis.protected) if self.analysis else ()


def status_of(state: State) -> tuple[Status, str]:
    """The status a user sees, and its reason."""
    if state.ended:
        assert state.conclusion is not None
        return state.conclusion.status, final_reason(state)
    if state.stage is Phase.IDLE:
        return Status.PENDING, ""
    if state.conclusion is not None:
        publishing = state.publication is not None and state.publication.ended is None
        return Status.RUNNING, "publishing" if publishing else "cleaning up"
    if state.cancel is not None:
        return Status.RUNNING, "cancelling"
    busy = bool(state.calls) or state.asking is not None
    if state.paused:
        return Status.PAUSED, ""
    if state.asked_client:
        return Status.WAITING, "brain"
    if state.awaits_calls and not busy:
        return Status.WAITING, "calls"
    if state.approvals and not busy and not _goes_on(state):
        subjects = {a.subject for a in state.approvals.values()}
        return Status.WAITING, "unknown_effect" if "unknown_effect" in subjects else "approval"
    if state.stage is Phase.PLANNING and lacks_brain(state):
        return Status.WAITING, "brain"
    return Status.RUNNING, ""


def _goes_on(state: State) -> bool:
    """Of an open plan: is there something to do although a person is asked about a call?

    Reads run meanwhile, and what was withdrawn is to be ended.
    """
    steps = (state.steps[step_id] for step_id in state.front) if state.is_open else ()
    return any(s.withdrawn or (s.effect is Effect.READ and not s.approval_id) for s in steps)


def final_reason(state: State) -> str:
    """Why the task ended as it did, and what became of its branch if it is not where it should."""
    assert state.conclusion is not None
    reason, publication = state.conclusion.reason, state.publication
    if publication is None or publication.ended is None or publication.ended.ok:
        return reason
    return f"{reason}; not published: {publication.ended.reason}"


def missing_artifacts(state: State) -> list[str]:
    """Required artifacts of which no file was kept."""
    missing = state.kept.missing if state.kept is not None else ()
    return [a.path for a in state.task.artifacts if a.required and a.path in missing]


def may_think(task: TaskSpec) -> bool:
    """Can a brain come to work on it, now or when it is continued with a model?"""
    if task.plan is None:
        return True
    return task.model is not None or any(step.tool is None for step in task.plan.steps)


def needs_brain(state: State) -> bool:
    """Must somebody think, for this run to go on from its plan's beginning?

    A continuation without a model is accepted only if there is something to do without a brain.
    """
    task = state.task
    if task.plan is not None:
        return any(step.tool is None for step in task.plan.steps)
    if any(step.spec.tool is None for step in state.unfinished):
        return True
    return task.model is not None or state.run == 1


def lacks_brain(state: State) -> bool:
    """It must think, and was told that nobody can."""
    return needs_brain(state) and state.brain is not None and state.brain.kind in NO_BRAIN


CLIENT_TIMER = "client:"
"""Begins the name of the timer that keeps a worker for a client that thinks."""

NO_BRAIN = ("none", "harness")
"""Kinds that nobody can ask: there is none, or it is not there yet."""


def model_asked(state: State) -> ModelChoice | None:
    """The model whose turn it is; None for a client."""
    models = state.brain.models if state.brain is not None else []
    index = state.conversation.model
    return models[index] if index < len(models) else None


def pending_of(state: State, approval_id: str | None) -> str:
    """The approval that is meant: the named one, or the only one.

    Raises:
        NotFound: nothing is pending, or not that one.
        UsageError: several are pending and none was named.
    """
    pending = sorted(state.approvals)
    if not pending:
        raise NotFound(f"task {state.task_id!r} waits for no approval")
    if approval_id is None:
        if len(pending) > 1:
            raise UsageError(f"several approvals are pending ({', '.join(pending)}): name one")
        return pending[0]
    if approval_id not in pending:
        raise NotFound(
            f"approval {approval_id!r} is not pending in {state.task_id!r}; pending: "
            f"{', '.join(pending)}"
        )
    return approval_id
