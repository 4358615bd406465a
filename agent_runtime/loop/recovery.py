"""What error handling does about a failure: one table, and what follows from it.

Transient failures are retried, permanent ones are not; where another way was given it is tried
next. Order: retry, alternative approach, fallback, abort.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent_runtime.loop import compaction
from agent_runtime.loop import events as e
from agent_runtime.loop.events import TRANSIENT_FAULTS, ModelFailed
from agent_runtime.loop.state import State, StepState, Trouble
from agent_runtime.types import Effect, FailureKind, Status, Strategy

REPEAT_SAFE = frozenset({Effect.READ, Effect.WORKSPACE, Effect.IDEMPOTENT})
"""Effects whose call may be made again after a time-out (a workspace is rolled back first)."""

TIMEOUT_TRIES = 2
"""Tries of a call that timed out, in all; a third would only cost the same time again."""
TIMEOUT_DELAY_MS = 500

TRANSIENT_DELAYS_MS = (1000, 2000, 4000)
"""Waits before the tries after the first: model errors, lost calls, a workspace that is locked."""

RETRY_DELAY_MS = 100
RETRY_DELAY_MS_MAX = 10_000
"""A step's own `retry` backs off exponentially between these."""

RERUNS_MAX = 5
"""Runs of one call under the same id after crashes: a call that kills its owner must end."""
OWNER_DIED = "its owner died before the result was stored"
"""Of a call without a result, when nothing more is known."""
DEATHS_MAX = 3
"""Runs of one step that killed their worker."""

PERMANENT: frozenset[FailureKind] = frozenset(
    {"refused", "bad_input", "not_found", "denied", "unknown_effect", "internal", "stuck"}
)
"""Doing the same again cannot help."""

RULES: Mapping[FailureKind, str] = {
    "failed": "retry as often as the step says, backing off",
    "timeout": "two tries 500 ms apart, only where repeating is safe",
    "transient": "three more tries after 1, 2 and 4 s",
    "refused": "permanent",
    "bad_input": "permanent",
    "not_found": "permanent",
    "denied": "permanent",
    "unknown_effect": "permanent: it is never run again",
    "internal": "permanent",
    "stuck": "permanent: the brain was told once that it goes in circles",
}
"""The table of the docs: kind of failure -> when the same way is tried again."""


MODEL_RULES: Mapping[str, str] = {
    "rate": "three more tries, after what the provider asks for or 1, 2 and 4 s; then the next "
    "model; with no other, once a minute as long as the task has time",
    "overload": "three more tries after 1, 2 and 4 s; then the next model",
    "transport": "as overload",
    "truncated": "as overload",
    "context": "the conversation is compacted, if that makes it really shorter; else the next "
    "model",
    "auth": "the next model",
    "not_found": "the next model",
    "bad_request": "the next model",
    "filter": "the next model",
    "too_large": "the next model",
    "internal": "the next model",
}
"""The table of the docs for models: kind of fault -> what follows. With no next model: abort."""

QUEUED_DELAY_MS = 60_000
RETRY_AFTER_MS_MAX = 300_000
"""A provider may ask for more; somebody waits for the task."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A strategy, and how long to wait before it."""

    strategy: Strategy
    delay_ms: int = 0


def recover_step(state: State, step: StepState) -> e.Events:
    """What follows for a step in `recovering`: the same again, another way, or its end."""
    assert step.failure is not None
    failure = step.failure
    compacting: e.Events = ()
    if step.spec.tool is None and step.fault is not None:
        choice, compacting = _model_recovery(state, step.fault)
    else:
        effect = step.spec.effect or step.effect or step.last_effect
        choice = choose(step, effect=effect)
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


def recover_task(state: State) -> e.Events:
    """What follows where the task as a whole cannot go on: it is tried again, or given up."""
    assert state.trouble is not None
    if state.trouble.timer:
        return ()
    fault, failure = state.trouble.fault, state.trouble.failure
    if fault is not None:
        choice, compacting = _model_recovery(state, fault)
        kind: FailureKind = "transient" if fault.error in TRANSIENT_FAULTS else "refused"
        reason = f"the model gave no answer ({fault.error}): {fault.message}"
    else:
        assert failure is not None
        choice, compacting = choose_for_task(state.trouble), ()
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


def choose(step: StepState, *, effect: Effect | None) -> Choice:
    """What to do about a step in `recovering`; its failure is counted already."""
    assert step.failure is not None
    again = _same_way(step, step.failure.kind, effect)
    if again is not None:
        return Choice(Strategy.RETRY, again)
    if step.spec.alternative is not None and not step.alternative:
        return Choice(Strategy.ALTERNATIVE)
    if step.spec.fallback is not None:
        return Choice(Strategy.FALLBACK)
    return Choice(Strategy.ABORT)


def choose_for_task(trouble: Trouble) -> Choice:
    """What to do when opening, analysing or discovering failed."""
    assert trouble.failure is not None, "a model's fault is for choose_for_model"
    if trouble.failure.kind == "transient" and trouble.attempts <= len(TRANSIENT_DELAYS_MS):
        return Choice(Strategy.RETRY, TRANSIENT_DELAYS_MS[trouble.attempts - 1])
    return Choice(Strategy.ABORT)


def choose_for_model(fault: ModelFailed, *, faults: int, another: bool, shrinks: bool) -> Choice:
    """What to do about a turn without an answer; `faults` in a row, this one included.

    `another`: there is a next model. `shrinks`: the conversation can still be compacted.
    """
    if fault.error == "context" and shrinks:
        return Choice(Strategy.RETRY)
    if fault.error in TRANSIENT_FAULTS and faults <= len(TRANSIENT_DELAYS_MS):
        asked_ms = min(int((fault.retry_after_seconds or 0) * 1000), RETRY_AFTER_MS_MAX)
        return Choice(Strategy.RETRY, max(asked_ms, TRANSIENT_DELAYS_MS[faults - 1]))
    if another:
        return Choice(Strategy.ALTERNATIVE)
    if fault.error == "rate":
        return Choice(Strategy.RETRY, QUEUED_DELAY_MS)
    return Choice(Strategy.ABORT)


def _model_recovery(state: State, fault: ModelFailed) -> tuple[Choice, e.Events]:
    """What follows from a turn without an answer, and the compaction that it may need."""
    conversation = state.conversation
    shorter = compaction.choose(conversation) if fault.error == "context" else None
    models = state.brain.models if state.brain is not None else []
    choice = choose_for_model(
        fault,
        faults=conversation.faults,
        another=conversation.model + 1 < len(models),
        # Each time it is a fifth shorter at least, so that this has an end.
        shrinks=shorter is not None,
    )
    if shorter is None or choice.strategy is not Strategy.RETRY:
        return choice, ()
    return choice, (compaction.event_of(state.conversation, *shorter),)


def _same_way(step: StepState, kind: FailureKind, effect: Effect | None) -> int | None:
    """Delay in ms before the same call is made again, or None."""
    match kind:
        case "failed" if step.known_failures <= step.spec.retry:
            return min(RETRY_DELAY_MS << (step.known_failures - 1), RETRY_DELAY_MS_MAX)
        case "timeout" if step.timeouts < TIMEOUT_TRIES and effect in REPEAT_SAFE:
            return TIMEOUT_DELAY_MS
        case "transient" if step.transients <= len(TRANSIENT_DELAYS_MS):
            return TRANSIENT_DELAYS_MS[step.transients - 1]
        case _:
            return None
