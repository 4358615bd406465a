"""What is to be done next: orders to the shell, derived from the state and from nothing else.

Starting, resuming and replaying are therefore the same code. `next_actions` is asked after every
change; an action that is not in its answer any more is stopped, and one that is there and does not
run is started. `key` tells two actions apart: at most one with the same key runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent_runtime.loop import budget, publishing, recovery
from agent_runtime.loop.conversation import next_call
from agent_runtime.loop.front import front_steps, runnable
from agent_runtime.loop.publishing import PreparePublication, Publish
from agent_runtime.loop.state import (
    CLIENT_TIMER,
    NO_BRAIN,
    State,
    StepState,
    needs_brain,
)
from agent_runtime.types import Effect, Phase, StepStatus


@dataclass(frozen=True, slots=True)
class OpenWorkspace:
    """Make or find the working copy."""

    key: str = "workspace"


@dataclass(frozen=True, slots=True)
class PrepareEnvironment:
    """Run the environment's setup, or find what an earlier one left."""

    key: str = "environment"


@dataclass(frozen=True, slots=True)
class Analyze:
    """Read the facts of the repository."""

    key: str = "analyze"


@dataclass(frozen=True, slots=True)
class DiscoverTools:
    """Look at every registered tool, and check the given plan against them."""

    key: str = "discover"


@dataclass(frozen=True, slots=True)
class ActivateToolbelt:
    """Initialise what is behind a toolbelt."""

    toolbelt: str

    @property
    def key(self) -> str:
        return f"toolbelt:{self.toolbelt}"


@dataclass(frozen=True, slots=True)
class PrepareCall:
    """Make a step's next call ready (condition, templates, schema, tree). Changes nothing."""

    step_id: str
    call_id: str

    @property
    def key(self) -> str:
        return f"prepare:{self.call_id}"


@dataclass(frozen=True, slots=True)
class RunCall:
    """Run an intended call; it has `seconds` until it is lost."""

    call_id: str
    run: int
    seconds: float

    @property
    def key(self) -> str:
        return f"call:{self.call_id}"


@dataclass(frozen=True, slots=True)
class ResolveCall:
    """Find out about a call without a result, once its sandbox is dead.

    `again`: if repeating is safe, it may run again under the same id.
    """

    call_id: str
    again: bool

    @property
    def key(self) -> str:
        return f"resolve:{self.call_id}"


@dataclass(frozen=True, slots=True)
class WaitTimer:
    """Wait `delay_ms`, or until `until_us`."""

    timer: str
    delay_ms: int = 0
    until_us: int = 0

    @property
    def key(self) -> str:
        return f"timer:{self.timer}"


@dataclass(frozen=True, slots=True)
class FindBrain:
    """Find out who can think for the task, which names `model` or none."""

    epoch: int
    model: str | None

    @property
    def key(self) -> str:
        return f"brain:{self.epoch}:{self.model or ''}"


@dataclass(frozen=True, slots=True)
class AskModel:
    """Ask for one turn, or for a plan (no `step_id`); its reservation is stored."""

    step_id: str
    turn: int

    @property
    def key(self) -> str:
        return f"model:{self.step_id}.{self.turn}"


@dataclass(frozen=True, slots=True)
class Verify:
    """Run the objectives' checks on a clean checkout."""

    attempt: int

    @property
    def key(self) -> str:
        return f"verify:{self.attempt}"


@dataclass(frozen=True, slots=True)
class KeepWork:
    """Look at what the workspace holds in the end; every process of the task is dead first."""

    key: str = "keep"


@dataclass(frozen=True, slots=True)
class CleanUp:
    """End every process of the task and remove its working copy."""

    key: str = "cleanup"


Action = (
    OpenWorkspace
    | PrepareEnvironment
    | Analyze
    | DiscoverTools
    | ActivateToolbelt
    | PrepareCall
    | RunCall
    | ResolveCall
    | WaitTimer
    | FindBrain
    | AskModel
    | Verify
    | KeepWork
    | PreparePublication
    | Publish
    | CleanUp
)


CLIENT_WAIT_MS = 3_600_000
"""How long a task's worker is kept for a client that thinks; its answer is welcome later, too."""


def next_actions(state: State) -> tuple[Action, ...]:
    """Everything that should be going on now, in a fixed order. Empty: ended, waiting or paused."""
    if state.ended or not state.alive:
        return ()
    if state.conclusion is not None:
        if state.publication is not None and not state.publication.ended:
            return _for_publication(state)
        if state.cleaned:
            return ()
        return (KeepWork(),) if _is_to_be_kept(state) else (CleanUp(),)
    actions: list[Action] = [_for_call(state, call_id) for call_id in state.calls]
    if state.stopping:
        return tuple(actions)
    asked = state.asking
    if asked is not None and state.asked_in_epoch == state.epoch and not state.asked_client:
        actions.append(AskModel(asked.step_id, asked.turn))
    if asked is not None and state.asked_client and not (state.client_gone or state.paused):
        name = f"{CLIENT_TIMER}{asked.step_id}.{asked.turn}"
        actions.append(WaitTimer(name, delay_ms=CLIENT_WAIT_MS))
    if state.paused:
        return tuple(actions)
    if state.trouble is not None:
        if state.trouble.timer:
            actions.append(WaitTimer(state.trouble.timer, delay_ms=state.trouble.delay_ms))
        return tuple(actions)
    match state.stage:
        case Phase.TASK_INITIATION:
            actions.append(PrepareEnvironment() if state.opened else OpenWorkspace())
        case Phase.ANALYZE_REQUIREMENTS:
            actions.append(Analyze())
        case Phase.TOOL_DISCOVERY:
            actions.append(DiscoverTools())
        case Phase.PLANNING if must_find_brain(state):
            actions.append(FindBrain(state.epoch, state.task.model))
        case Phase.EXECUTION:
            actions += _for_steps(state)
        case Phase.COMPLETION_VERIFICATION if state.verification is None:
            kept = not _is_to_be_kept(state)
            actions.append(Verify(state.verifications) if kept else KeepWork())
        case _:
            pass
    return tuple(actions)


def _for_publication(state: State) -> tuple[Action, ...]:
    publication = state.publication
    if publication is not None and publication.timer:
        return (WaitTimer(publication.timer, delay_ms=publication.delay_ms),)
    return publishing.next_actions(state)


def _is_to_be_kept(state: State) -> bool:
    """Before its checks, which may demand it, and at the latest before the working copy goes."""
    return state.opened and state.kept is None


def _for_call(state: State, call_id: str) -> Action:
    call = state.calls[call_id]
    step = state.steps[call.intent.step_id]
    if call.epoch == state.epoch and not (call.lost or state.stopping or step.withdrawn):
        asked = step.spec.timeout_seconds or budget.CALL_SECONDS
        return RunCall(call_id, call.runs, min(asked, budget.seconds_left(state)))
    # What timed out goes through error handling; only a call that must keep its id (its idempotency
    # key, its remote task) is made again right here.
    keeps_id = call.intent.effect in (Effect.IDEMPOTENT, Effect.TASK)
    after_timeout = keeps_id and call.runs < recovery.TIMEOUT_TRIES
    again = (
        not (state.stopping or step.withdrawn)
        and (call.lost != "timeout" or after_timeout)
        and call.runs <= recovery.RERUNS_MAX
        and step.deaths < recovery.DEATHS_MAX
        and budget.attempt_fits(state) is None
    )
    return ResolveCall(call_id, again)


def _for_steps(state: State) -> list[Action]:
    front = front_steps(state)
    actions: list[Action] = [
        WaitTimer(step.timer, delay_ms=step.delay_ms) for step in front if step.timer
    ]
    actions += [
        WaitTimer(f"approval:{a.approval_id}", until_us=a.expires_at_us)
        for a in state.approvals.values()
    ]
    if state.awaits_calls and not state.client_gone:
        actions.append(WaitTimer(f"{CLIENT_TIMER}calls", delay_ms=CLIENT_WAIT_MS))
    if state.abort is not None:
        return [] if state.calls else actions
    wanted = {s.wants_toolbelt for s in front if s.wants_toolbelt}
    actions += [ActivateToolbelt(name) for name in sorted(wanted)]
    actions += [PrepareCall(step.spec.id, step.call_id) for step in _preparable(state, front)]
    return actions


def _preparable(state: State, front: list[StepState]) -> list[StepState]:
    """Ready steps whose next call may be made ready now.

    Writing calls of one workspace never overlap: a step that may write waits for the lane. A step
    that needs the model has the task to itself.
    """
    lane_free = not lane_is_taken(state)
    talking = in_conversation(state)
    if talking is not None:
        step = state.steps[talking]
        calling = step.status in (StepStatus.READY, StepStatus.RUNNING) and step.tool is not None
        free = lane_free or (next_reads(step) and not state.approvals)
        return [step] if calling and free and not step.approval_id else []
    # What a person allowed is bound to the tree: nobody may write before it has run.
    allowed = [s for s in front if s.status is StepStatus.READY and s.granted]
    if allowed and (lane_free or not may_write(allowed[0])):
        return allowed[:1]
    chosen: list[StepState] = []
    for step in front:
        if step.spec.tool is None and runnable(state, step):
            break  # it begins when those before it have ended; later ones wait for its end
        if step.status is not StepStatus.READY or step.approval_id or not runnable(state, step):
            continue
        if step.spec.tool is None or step.condition_false:
            continue
        if may_write(step):
            if not lane_free or allowed:
                continue
            lane_free = False
        chosen.append(step)
    return chosen


def next_reads(step: StepState) -> bool:
    """Is the next call of a brain's turn known to change nothing?"""
    index = next_call(step.turn_calls)
    return index is not None and step.turn_calls[index].reads


def may_write(step: StepState) -> bool:
    """Unknown until its templates are filled counts as writing."""
    stated = None if step.alternative else step.spec.effect
    return (stated or step.effect) is not Effect.READ


def lane_is_taken(state: State) -> bool:
    """Does a call run that may write, or is one to be decided by a person?"""
    return bool(state.approvals) or any(
        call.intent.effect is not Effect.READ for call in state.calls.values()
    )


def in_conversation(state: State) -> str | None:
    """The step whose conversation with the model has begun and has not ended."""
    for step_id in state.front:
        if state.steps[step_id].turn:
            return step_id
    return None


def may_converse(state: State, step: StepState) -> bool:
    """Does the model's step have the task to itself?"""
    if in_conversation(state) not in (None, step.spec.id):
        return False
    return not any(
        other is not step
        and (other.status is not StepStatus.READY or other.approval_id or other.granted)
        for other in front_steps(state)
    )


def must_find_brain(state: State) -> bool:
    """Somebody must think, and nobody was looked for; a new owner looks again where none was."""
    if not needs_brain(state) or (state.discovery is not None and state.discovery.problems):
        return False
    if state.brain is None:
        return True
    return state.brain.kind in NO_BRAIN and state.brain_epoch != state.epoch
