"""Every event a log can hold: frozen, tagged by type name, past tense. Names are a public contract.

*Inputs* are facts from outside the core (a lease was taken, a call returned, a person decided);
*decisions* are what the core made of them. Replay feeds the inputs and compares the decisions.
A changed field needs a new `schema` number, an upcaster in `codec` and a golden file.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from agent_runtime.messages import BrainKind, ModelChoice, ModelUsage, ToolUse
from agent_runtime.types import (
    Effect,
    FailureKind,
    Json,
    Objective,
    Once,
    Origin,
    Phase,
    PreparedEnvironment,
    PublishSpec,
    Status,
    StepSpec,
    Strategy,
    TaskSpec,
)
from agent_runtime.verdicts import TestsCompared, TestsSeen


class Event(msgspec.Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """Base of all events. `schema` is the number of the stored form."""

    schema: ClassVar[int] = 1


# ---- inputs ------------------------------------------------------------------------------


class TaskSubmitted(Event, frozen=True, kw_only=True):
    """The first event of every log."""

    spec: TaskSpec
    submitted_by: str
    loop_version: int


class LeaseTaken(Event, frozen=True, kw_only=True):
    """A process began to drive the task. Without an `Interrupted` before it, the last one died."""

    epoch: int
    owner: str


class Interrupted(Event, frozen=True, kw_only=True):
    """The owner stopped gracefully; open calls are resolved by the next one and cost nothing.

    With reason `NOTHING_TO_DO` the task is paused or waits for somebody.
    """

    reason: str


NOTHING_TO_DO = "nothing_to_do"

Replaced = Literal["answer", "result", "model", "policy", "message"]
"""What a fork has that its parent had not."""


class WorkspaceOpened(Event, frozen=True, kw_only=True):
    """The working copy exists. Empty strings: the task has no workspace."""

    path: str = ""
    mount: str = ""
    base_commit: str = ""
    base_tree: str = ""
    branch: str = ""
    carried: list[str] = []
    notes: list[str] = []
    sandbox: str = ""
    """The kind that tools run in, where a call does not say otherwise; empty: not known."""
    limits: dict[str, str] = {}
    """Which limits of its resources hold, and by what means, in words for people."""


class EnvironmentPrepared(Event, frozen=True, kw_only=True):
    """What commands find around the repository is there: set up now, or kept from earlier.

    `output_blob` is what setup's commands printed; empty if none ran.
    """

    environment: PreparedEnvironment
    cached: bool = False
    seconds: float = 0.0
    output_blob: str = ""
    notes: list[str] = []


class InitiationFailed(Event, frozen=True, kw_only=True):
    """A task-wide action (opening, analysing, discovering) failed."""

    kind: FailureKind
    message: str


class RequirementsAnalyzed(Event, frozen=True, kw_only=True):
    """Facts of the repository, and the patterns that are protected from now on."""

    facts: dict[str, Json]
    protected: list[str]


class DiscoveredTool(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A tool as discovery found it: enough to decide about toolbelts."""

    name: str
    toolbelt: str
    where: str


class ToolsDiscovered(Event, frozen=True, kw_only=True):
    """Every registered tool, ranked; `visible` are those the brain sees from the start."""

    tools: list[DiscoveredTool]
    visible: list[str]
    effects: dict[str, Effect]
    """Effect of each planned step whose arguments hold no template, by step id."""
    problems: list[str] = []
    """Why the given plan cannot run with these tools (unknown tool, bad arguments)."""


class ToolbeltActivated(Event, frozen=True, kw_only=True):
    """The modules behind the toolbelt live, its tools can be called."""

    toolbelt: str
    tools: list[str]


class ToolbeltFailed(Event, frozen=True, kw_only=True):
    """The toolbelt could not be activated."""

    toolbelt: str
    message: str


class PreparationFailed(Event, frozen=True, kw_only=True):
    """A step's call could not be made ready (template, schema, denied); nothing was started."""

    step_id: str
    kind: FailureKind
    message: str
    paths: list[str] = []


class ConditionFalse(Event, frozen=True, kw_only=True):
    """A step's `when` was false."""

    step_id: str


class CallReturned(Event, frozen=True, kw_only=True):
    """The result of a call. `output` is what the brain sees; the full text is in `output_blob`."""

    call_id: str
    ok: bool
    output: str
    exit: int | None = None
    kind: FailureKind = ""
    output_blob: str = ""
    output_bytes: int = 0
    tree_after: str = ""
    changed: list[str] = []
    paths: list[str] = []
    data: Json = None
    sandbox: str = ""
    """The kind it ran in, if that is another one than when the workspace was opened."""


class CallLost(Event, frozen=True, kw_only=True):
    """A call of this owner has no result. The effect ledger decides what follows."""

    call_id: str
    reason: Literal["timeout", "worker_died"]
    message: str


Resolution = Literal["rerun", "dropped", "happened", "not_happened", "unknown"]


class CallResolved(Event, frozen=True, kw_only=True):
    """What the effect ledger found out about a call without a result; its sandbox is dead.

    rerun: it runs again under the same id (a workspace call after `tree_before` was restored);
    dropped: it will not run again, and its workspace effect was undone; happened and not_happened:
    its probe looked; unknown: nobody can tell.
    """

    call_id: str
    resolution: Resolution
    message: str = ""


class EgressEntry(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """`count` facts about connections that look the same.

    opened: about to be made (to `address`, or `via` a company's proxy), which closed, failed or
    refused ends; refused by a rule and failed may also come without it, and have no address then.
    `source`: the calls that ran when it was asked for (none: a process that one left behind), or
    `setup` and the like.
    """

    kind: Literal["opened", "closed", "refused", "failed"]
    host: str
    port: int
    source: str = ""
    method: str = ""
    address: str = ""
    via: str = ""
    reason: str = ""
    count: int = 1
    bytes_sent: int = 0
    bytes_received: int = 0


class EgressObserved(Event, frozen=True, kw_only=True):
    """What the task's sandboxes reached, or were refused, since the last one of these.

    Stored at the latest before the result of the call during which it happened. `left_out` facts
    have no entry, for there are too many different ones; `mark` is how far the sandboxes' own
    record (`egress.jsonl`) is in the log.
    """

    entries: list[EgressEntry]
    left_out: int = 0
    bytes_sent_left_out: int = 0
    bytes_received_left_out: int = 0
    mark: int = 0


class TimerFired(Event, frozen=True, kw_only=True):
    """A delay or an expiry has passed."""

    timer: str


class BrainFound(Event, frozen=True, kw_only=True):
    """Who decides the next call, as far as this task needs somebody; see `messages.Brain`."""

    kind: BrainKind
    models: list[ModelChoice] = []
    why: str = ""
    offers: list[str] = []


class ModelReplied(Event, frozen=True, kw_only=True):
    """One turn's answer: only the new message, not the history.

    An empty `step_id` answers the question for a plan. `blocks` is the provider's own form of the
    message, which `provider` gets back verbatim. `seconds` is how long it took.
    """

    step_id: str
    turn: int
    text: str
    calls: list[ToolUse]
    stop: Literal["end", "calls", "length"] = "end"
    usage: ModelUsage = ModelUsage()
    usd: float = 0.0
    model: str = ""
    cached: bool = False
    blocks: Json = None
    provider: str = ""
    by: str = ""
    """Who answered, if it was a connected client and no model."""
    seconds: float = 0.0


class ModelFailed(Event, frozen=True, kw_only=True):
    """A turn without an answer; `error` is one of `ports.ModelFaultKind`."""

    step_id: str
    turn: int
    error: str
    message: str
    retry_after_seconds: float | None = None
    usage: ModelUsage = ModelUsage()
    usd: float = 0.0


TRANSIENT_FAULTS = frozenset({"rate", "overload", "transport", "truncated"})
"""Values of `ModelFailed.error` after which the same question may well be answered."""


class Baseline(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """How a check ended before the work."""

    exit: int
    ok: bool
    passed: int | None = None
    ran: int | None = None
    reason: str = ""
    tests: TestsSeen | None = None


class CheckResult(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One objective's check, as the runtime saw it."""

    id: str
    command: str | list[str]
    expected_exit: int
    exit: int
    ok: bool
    passed: int | None = None
    ran: int | None = None
    min_passed: int | None = None
    output: str = ""
    output_blob: str = ""
    reason: str = ""
    before: Baseline | None = None
    flaky: bool = False
    origin: Origin = "given"
    tests: TestsSeen | None = None
    compared: TestsCompared | None = None
    countered: list[str] = []


class VerificationEnded(Event, frozen=True, kw_only=True):
    """The runtime ran every check on a clean checkout of `tree` = `base_tree` + `patch_blob`.

    `checks` also know how they ended on `base_tree`; `grade` says what that is worth.
    """

    ok: bool
    tree: str
    base_tree: str
    checks: list[CheckResult]
    protected_changed: list[str]
    patch_blob: str
    patch_bytes: int
    changed: list[str]
    message: str = ""
    grade: str = ""
    suspects: list[str] = []
    sandbox: str = ""
    """The kind that the checks ran in; empty: not known."""


class Artifact(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One kept file; its content is the one at `path` in the tree of its `WorkKept`."""

    path: str
    bytes: int
    sha256: str
    executable: bool = False


class WorkKept(Event, frozen=True, kw_only=True):
    """What the workspace holds in the end: its last tree, and the files that the task names.

    Every process of the task is dead. `missing` are patterns that match nothing, `left_out` says in
    words what matched and was not kept, and what else went wrong.
    """

    tree: str
    artifacts: list[Artifact] = []
    missing: list[str] = []
    left_out: list[str] = []


class CleanedUp(Event, frozen=True, kw_only=True):
    """Every process of the task is dead and its working copy is gone, but for `problems`."""

    problems: list[str]


class CancelRequested(Event, frozen=True, kw_only=True):
    """Somebody wants the task to stop for good."""

    by: str
    reason: str = ""


class PauseRequested(Event, frozen=True, kw_only=True):
    """Somebody wants the task to stop where it stands."""

    by: str


class ResumeRequested(Event, frozen=True, kw_only=True):
    """Somebody wants a paused task to go on, or gives a waiting one a `model` to think with."""

    by: str
    model: str = ""


class Steered(Event, frozen=True, kw_only=True):
    """A message from a person to the brain."""

    by: str
    message: str
    once: Once | None = None


class CallRequested(Event, frozen=True, kw_only=True):
    """Somebody wants a tool called, in a task whose plan is open: a step of this name is made.

    The arguments are data and hold no templates. `effect` is what the tool said that it changes;
    null: it could not say yet.
    """

    step_id: str
    tool: str
    arguments: dict[str, Json]
    effect: Effect | None = None
    by: str = ""


class CallWithdrawn(Event, frozen=True, kw_only=True):
    """Who asked for a call does not want it any more: it is not begun, or ended as a cancel does.

    Nothing happens if it has ended.
    """

    step_id: str
    by: str
    reason: str = ""


class TaskChanged(Event, frozen=True, kw_only=True):
    """Somebody gave the task other labels (all of them) or another priority; null: as it was."""

    by: str
    labels: dict[str, str] | None = None
    priority: int | None = None


class Continued(Event, frozen=True, kw_only=True):
    """Somebody re-opened the ended task. `spec` is the task from here on, with a new allotment.

    `spec.plan` holds new steps only; what had been found out about the old result is superseded.
    """

    by: str
    message: str
    spec: TaskSpec
    once: Once | None = None


class PublicationRequested(Event, frozen=True, kw_only=True):
    """Somebody wants the ended task's proven branch to be published, as `publish` says.

    It opens the task again for that alone: nothing else of it goes on.
    """

    by: str
    publish: PublishSpec


PublicationStep = Literal["prepare", "push", "pull_request"]
"""Making the commit; then the two effects, each of which is looked for before it is made."""


class PublicationPrepared(Event, frozen=True, kw_only=True):
    """The commit that is to be pushed exists here; nothing has left the daemon yet.

    `commit` is the result on `base_commit`, where the branch `base` of the remote stood. If that is
    not what the task began from, `verification` are the same checks on the new commit's tree.
    """

    url: str
    branch: str
    base: str
    base_commit: str
    commit: str
    tree: str
    verification: VerificationEnded | None = None


class PublicationDone(Event, frozen=True, kw_only=True):
    """The branch is pushed, or the pull request is open. `found`: it was there when we looked."""

    what: PublicationStep
    found: bool = False
    url: str = ""
    number: int = 0


class PublicationFailed(Event, frozen=True, kw_only=True):
    """A try of one step came to nothing. `moved`: the base is another one than was prepared for."""

    what: PublicationStep
    kind: FailureKind
    message: str
    retry_after_seconds: float | None = None
    moved: bool = False


class Forked(Event, frozen=True, kw_only=True):
    """From here on this is a task of its own; before it stand the first `at` events of `parent`.

    `replaced` says what is not the parent's: the last input of it (answer, result), or what is in
    force from here on (model, policy; `spec` is the task as it is now, and `brain` who thinks).
    `path` is the new working copy, which holds the last known tree; empty if none was open.
    """

    parent: str
    at: int
    by: str
    replaced: list[Replaced]
    spec: TaskSpec
    brain: BrainFound | None = None
    """None: as before."""
    path: str = ""
    notes: list[str] = []
    once: Once | None = None


class ApprovalDecided(Event, frozen=True, kw_only=True):
    """A person's answer to one `ApprovalRequested`; single use."""

    approval_id: str
    decision: Literal["approve", "deny"]
    by: str
    message: str = ""
    scope: Literal["once", "task"] = "once"
    """task: what the same rule asks about the same tool is allowed from now on."""
    arguments: dict[str, Json] | None = None
    """What the call is made with, in place of its own arguments; None: as it was asked for."""


# ---- decisions ---------------------------------------------------------------------------


class PhaseEntered(Event, frozen=True, kw_only=True):
    """The task's derived phase changed; that a good step was evaluated is not told."""

    phase: Phase
    previous: Phase


class PlanAdopted(Event, frozen=True, kw_only=True):
    """The steps to run. `source`: given, model or single.

    In a continuation also unfinished (those of an earlier plan that had not ended) or checks (none:
    only the objectives are looked at again). A model's plan may bring `objectives`, if the task has
    none, and says how it understands the task (`requirements`).
    """

    steps: list[StepSpec]
    source: Literal["given", "model", "single", "unfinished", "checks"]
    attempt: int
    objectives: list[Objective] = []
    requirements: list[str] = []


class CallIntended(Event, frozen=True, kw_only=True):
    """A call is about to run: after a crash, the log shows that it may have."""

    step_id: str
    call_id: str
    attempt: int
    tool: str
    arguments: dict[str, Json]
    effect: Effect
    tree_before: str = ""
    approval_id: str = ""
    turn: int | None = None


class ApprovalRequested(Event, frozen=True, kw_only=True):
    """A person must decide. `digest` binds the answer to tool, arguments and tree."""

    approval_id: str
    step_id: str
    subject: Literal["call", "unknown_effect"]
    tool: str
    arguments: dict[str, Json]
    digest: str
    tree_before: str = ""
    expires_at_us: int
    question: str
    rule: str = ""
    """The key of `policy.approvals` that asks."""
    preview: str = ""
    """What the call would change, best as a unified diff; in brackets, why that is not known."""


class ApprovalExpired(Event, frozen=True, kw_only=True):
    """Nobody decided in time; it counts as denied."""

    approval_id: str


Verdict = Literal["good", "failed", "toolbelt", "continue"]


class StepEvaluated(Event, frozen=True, kw_only=True):
    """The transition rule looked at a step: failed, or is another toolbelt needed?

    good: nobody knows what it came to, and a person or the policy said to go on; any other good
    step has `StepSucceeded` alone. continue: a brain's step takes its next turn; with kind `stuck`,
    it is told that it goes in circles.
    """

    step_id: str
    verdict: Verdict
    toolbelt: str = ""
    kind: FailureKind = ""
    reason: str = ""


class RecoveryChosen(Event, frozen=True, kw_only=True):
    """What error handling does about a failure; `step_id` is empty for a task-wide one."""

    step_id: str
    strategy: Strategy
    kind: FailureKind
    reason: str
    delay_ms: int = 0


class StepSucceeded(Event, frozen=True, kw_only=True):
    """The step is done; its result can be used by later ones."""

    step_id: str


class StepFailed(Event, frozen=True, kw_only=True):
    """The step has failed for good. `fallback` names the step that stands in for it."""

    step_id: str
    kind: FailureKind
    reason: str
    fallback: str = ""


class StepSkipped(Event, frozen=True, kw_only=True):
    """The step will not run."""

    step_id: str
    reason: str
    satisfied: bool = False
    """True when its own condition skipped it: those that need it still run."""


class EffectUnknown(Event, frozen=True, kw_only=True):
    """A call of effect `once` (or an undecided probe) has no result and is never run again."""

    call_id: str
    step_id: str
    tool: str
    message: str


class WorkerRestarted(Event, frozen=True, kw_only=True):
    """The sandbox's worker is a new one: interpreter state and background processes are gone."""

    reason: str


class ModelCallStarted(Event, frozen=True, kw_only=True):
    """A model is about to be asked; its reservation counts until it is settled.

    An empty `step_id` asks for a plan. `prompt` is the hash of the conversation before this turn.
    `output_tokens_max` is the part of the reservation that the answer may use.
    """

    step_id: str
    turn: int
    model: str
    reserved_tokens: int
    reserved_usd: float
    output_tokens_max: int = 0
    prompt: str = ""


class ModelCallSettled(Event, frozen=True, kw_only=True):
    """A model call without an answer (crash, cancel) is charged at its reservation."""

    step_id: str
    turn: int
    tokens: int
    usd: float


class HistoryCompacted(Event, frozen=True, kw_only=True):
    """The conversation had grown too long; see `loop.compaction` for what stays.

    outputs: old outputs of tools were cleared; turns: old turns were folded into a summary of
    their calls. All of it can be recalled by its name. Tokens are estimates.
    """

    level: Literal["outputs", "turns"]
    tokens_before: int
    tokens_after: int


class BudgetExhausted(Event, frozen=True, kw_only=True):
    """A limit is reached: nothing new starts."""

    limit: Literal["steps", "usd", "tokens", "seconds", "crashes"]
    used: float
    allowed: float


class VerificationStarted(Event, frozen=True, kw_only=True):
    """All steps have ended; the runtime is about to run the checks."""

    attempt: int


class ReplanRequested(Event, frozen=True, kw_only=True):
    """Verification failed; the plan is made anew with the reason."""

    reason: str


class TaskConcluded(Event, frozen=True, kw_only=True):
    """The terminal decision; the first one wins. Cleanup follows."""

    status: Status
    reason: str


class PublicationIntended(Event, frozen=True, kw_only=True):
    """The step is about to be done: after a crash, the log shows that it may have been."""

    what: PublicationStep


class PublicationEnded(Event, frozen=True, kw_only=True):
    """The branch is out, or it is given up; the task's own result is what it was."""

    ok: bool
    reason: str = ""


class TaskEnded(Event, frozen=True, kw_only=True):
    """The terminal event; the task is idle again.

    Only `Continued` and `PublicationRequested` may follow it.
    """

    status: Status
    reason: str
    phase: Phase = Phase.IDLE


InputEvent = (
    TaskSubmitted
    | LeaseTaken
    | Interrupted
    | WorkspaceOpened
    | EnvironmentPrepared
    | InitiationFailed
    | RequirementsAnalyzed
    | ToolsDiscovered
    | ToolbeltActivated
    | ToolbeltFailed
    | PreparationFailed
    | ConditionFalse
    | CallReturned
    | CallLost
    | CallResolved
    | EgressObserved
    | TimerFired
    | BrainFound
    | ModelReplied
    | ModelFailed
    | VerificationEnded
    | WorkKept
    | CleanedUp
    | PublicationRequested
    | PublicationPrepared
    | PublicationDone
    | PublicationFailed
    | CancelRequested
    | PauseRequested
    | ResumeRequested
    | Steered
    | CallRequested
    | CallWithdrawn
    | TaskChanged
    | Continued
    | Forked
    | ApprovalDecided
)
OutsideFact = (
    TaskSubmitted
    | CancelRequested
    | PauseRequested
    | ResumeRequested
    | Steered
    | CallRequested
    | CallWithdrawn
    | TaskChanged
    | Continued
    | PublicationRequested
    | Forked
    | ApprovalDecided
    | ModelReplied
)
"""Inputs that are appended alone, by somebody who does not drive the task: what follows from them
is decided later, by its owner. Of the answers of models only those of a connected client (`by`)."""

DecisionEvent = (
    PhaseEntered
    | PlanAdopted
    | CallIntended
    | ApprovalRequested
    | ApprovalExpired
    | StepEvaluated
    | RecoveryChosen
    | StepSucceeded
    | StepFailed
    | StepSkipped
    | EffectUnknown
    | WorkerRestarted
    | ModelCallStarted
    | ModelCallSettled
    | HistoryCompacted
    | BudgetExhausted
    | VerificationStarted
    | ReplanRequested
    | TaskConcluded
    | PublicationIntended
    | PublicationEnded
    | TaskEnded
)
AnyEvent = InputEvent | DecisionEvent
Events = tuple[AnyEvent, ...]
