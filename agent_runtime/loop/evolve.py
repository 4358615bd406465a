"""How one event changes the state of a task, checked against the tables in `phases`.

The only writer of `state.State`, and pure: the same log gives the same state on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, assert_never

import msgspec

from agent_runtime.errors import IllegalEvent
from agent_runtime.loop import approvals, native, phases, publishing, thinking
from agent_runtime.loop import events as e
from agent_runtime.loop.continuing import reopened
from agent_runtime.loop.conversation import begun, index_of
from agent_runtime.loop.folding import clocked, moved, replace
from agent_runtime.loop.forking import forked
from agent_runtime.loop.front import front_after, front_of, front_steps
from agent_runtime.loop.reached import observe
from agent_runtime.loop.state import CLIENT_TIMER, CallState, Result, State, StepState, Trouble
from agent_runtime.types import FailureKind, Json, Phase, StepSpec, StepStatus, TaskSpec


def evolve(state: State, event: e.AnyEvent, at_us: int) -> State:
    """Fold one event that is stored at `at_us`. Raises `IllegalEvent` when the tables forbid it."""
    kind = type(event)
    if state.ended and kind not in _AFTER_THE_END:
        raise IllegalEvent(f"{kind.__name__} after the task's end")
    if not phases.possible(state.phase, kind):
        raise IllegalEvent(f"{kind.__name__} cannot happen in {state.phase}")
    if kind in _AFTER_THE_END and not state.ended:
        raise IllegalEvent(f"{kind.__name__} before the task's end")
    try:
        changes = _changes(state, event, at_us)
    except KeyError as error:
        raise IllegalEvent(f"{event!r} is about {error}, which is not there") from error
    changes["seq"] = state.seq + 1
    changes["at_us"] = at_us
    if "usage" not in changes and state.alive and at_us > state.at_us:
        changes["usage"] = clocked(state, at_us)
    after = replace(state, **changes)
    if kind in _FRONT_MOVES:
        after = _with_front(after, event)
    phase = after.phase
    if not changes.keys().isdisjoint(_DERIVE_PHASE):
        phase = _derived_phase(after)
        if phase is not after.phase:
            after = replace(after, phase=phase)
    if not phases.legal(state.phase, kind, phase):
        raise IllegalEvent(f"{kind.__name__} cannot lead from {state.phase} to {phase}")
    return after


def _with_front(after: State, event: e.AnyEvent) -> State:
    """`after` an event that moves the front, with the new one."""
    match event:
        case e.StepSucceeded(step_id=step_id):
            after = replace(after, front=front_after(after, step_id))
        case e.StepSkipped(step_id=step_id) | e.StepFailed(step_id=step_id) if after.is_open:
            after = replace(after, front=front_after(after, step_id))
        case _:
            return replace(after, front=front_of(after))
    return _forgotten(after, step_id) if after.is_open else after


def _asked_once(state: State, fact: e.Steered | e.Continued) -> dict[str, Any]:
    if fact.once is None:
        return {}
    name = f"{fact.by} {fact.once.key}"
    return {"asked_once": {**state.asked_once, name: fact.once.sha256}}


def _with(task: TaskSpec, change: e.TaskChanged) -> TaskSpec:
    """The task with what of it was changed."""
    named = {"labels": change.labels, "priority": change.priority}
    return msgspec.structs.replace(task, **{k: v for k, v in named.items() if v is not None})


_AFTER_THE_END = frozenset({e.Continued, e.PublicationRequested})
"""What may follow a task's end, and nothing else."""
_FRONT_MOVES = frozenset({e.StepSucceeded, e.StepSkipped, e.StepFailed, e.PlanAdopted, e.Continued})
_DERIVE_PHASE = frozenset({"steps", "stage", "trouble", "conclusion"})
"""Fields that the derived phase hangs on."""


def fold(records: Iterable[tuple[e.AnyEvent, int]], state: State | None = None) -> State:
    """Fold (event, at_us) pairs in order."""
    folded = state or State()
    for event, at_us in records:
        folded = evolve(folded, event, at_us)
    return folded


def _derived_phase(state: State) -> Phase:
    if state.trouble is not None and state.conclusion is None:
        return Phase.ERROR_HANDLING
    if state.stage is not Phase.EXECUTION:
        return state.stage
    evaluating = toolbelt = False
    for step in front_steps(state):
        if step.status is StepStatus.RECOVERING:
            return Phase.ERROR_HANDLING
        if step.status is StepStatus.EVALUATING:
            evaluating = True
            toolbelt = toolbelt or bool(step.wants_toolbelt)
    if toolbelt:
        return Phase.TOOLBELT_ACTIVATION
    return Phase.TOOL_TRANSITION_EVALUATION if evaluating else Phase.EXECUTION


def _without(calls: Mapping[str, CallState], call_id: str) -> dict[str, CallState]:
    return {k: v for k, v in calls.items() if k != call_id}


def _changes(state: State, event: e.AnyEvent, at_us: int) -> dict[str, Any]:
    """What one event changes. Long, because it is the one place that says it."""
    match event:
        # What every step writes comes first: each case above costs the ones below.
        case e.CallReturned():
            return _returned(state, event)
        case e.StepSucceeded():
            return moved(state, event.step_id, event, StepStatus.DONE, satisfied=True)
        case e.CallIntended():
            step = state.steps[event.step_id]
            usage = replace(state.usage, steps=state.usage.steps + 1)
            calls = step.turn_calls
            if step.spec.tool is None:
                calls = begun(calls, index_of(event.call_id))
            return {
                **moved(
                    state, event.step_id, event, StepStatus.RUNNING, turn_calls=calls,
                    attempt=event.attempt, granted=None, edited=None, result=None,
                    last_effect=event.effect,
                ),
                "calls": {**state.calls, event.call_id: CallState(event, state.epoch)},
                "tree": event.tree_before or state.tree,
                "usage": clocked(state, at_us, usage),
                "worker_used": state.worker_used or _in_worker(state, step.tool),
            }  # fmt: skip
        case e.PhaseEntered():
            if event.phase is not state.phase:
                raise IllegalEvent(f"PhaseEntered tells {event.phase}, the fold {state.phase}")
            return {"shown": event.phase}
        case e.TaskSubmitted():
            return {
                "spec": event.spec,
                "created_at_us": at_us,
            }
        case e.LeaseTaken():
            # Nothing of the task's went on in one that merely waited for calls.
            died = state.alive and not state.awaits_calls
            return {
                "epoch": event.epoch,
                "owner": event.owner,
                "alive": True,
                "crashes": state.crashes + 1 if died else state.crashes,
                "stage": Phase.TASK_INITIATION if state.stage is Phase.IDLE else state.stage,
                "client_gone": False,
                # A fork's first owner asks what was announced before, and nobody else did.
                "asked_in_epoch": state.asked_in_epoch or event.epoch,
                "worker_used": False,
                "worker_gone": _worker_gone(state),
                # The time between the last event and now belongs to nobody.
                "usage": state.usage,
            }
        case e.Interrupted():
            return _interrupted(state, at_us)
        case e.WorkspaceOpened():
            return {
                "workspace": event,
                "opened": bool(event.path),
                "tree": state.tree or event.base_tree,
                "stage": Phase.TASK_INITIATION if event.path else Phase.ANALYZE_REQUIREMENTS,
                "crashes": 0,
                "trouble_attempts": 0,
            }
        case e.EnvironmentPrepared():
            return {"prepared": event, "stage": Phase.ANALYZE_REQUIREMENTS,
                    "crashes": 0, "trouble_attempts": 0}  # fmt: skip
        case e.RequirementsAnalyzed():
            return {"analysis": event, "stage": Phase.TOOL_DISCOVERY, "crashes": 0,
                    "trouble_attempts": 0}  # fmt: skip
        case e.ToolsDiscovered():
            return {
                "discovery": event,
                "tools": {t.name: t for t in event.tools},
                "conversation": replace(
                    thinking.shown(state.conversation, event.visible),
                    shown_first=len(event.visible),
                ),
                "stage": Phase.PLANNING,
                "crashes": 0,
            }
        case e.InitiationFailed():
            attempts = state.trouble_attempts + 1
            return {
                "trouble": Trouble(attempts, failure=event),
                "trouble_attempts": attempts,
                "crashes": 0,
            }
        case e.PlanAdopted():
            return _adopted(state, event)
        case e.CallLost():
            call = state.calls[event.call_id]
            given_up = replace(call, lost=event.reason, message=event.message)
            return {
                "calls": {**state.calls, event.call_id: given_up},
                "crashes": 0,
                "worker_gone": event.message if state.worker_used else "",
            }
        case e.CallResolved():
            return _resolved(state, event)
        case e.EgressObserved():
            return {"reached": observe(state.reached, event)}
        case e.EffectUnknown():
            return {
                "unknown": (*state.unknown, event),
                # Without what is quoted in its message: the observation has that.
                "conversation": thinking.told(
                    state,
                    f"It is unknown whether {event.tool!r} ({event.call_id}) took effect. It is "
                    "not run again; look before you act.",
                ),
            }
        case e.WorkerRestarted():
            # Not the reason: it quotes what ran in the sandbox, which has no voice of a person's.
            said = "The worker was restarted: its interpreter and background processes are gone."
            return {"worker_gone": "", "conversation": thinking.told(state, said)}
        case e.PreparationFailed():
            step = state.steps[event.step_id]
            if step.spec.tool is None:
                changes = thinking.answer(state, event, event.step_id, event.message, failed=True)
                return {**changes, "crashes": 0}
            result = Result(False, event.message, None, event.kind, event.message,
                            tuple(event.paths))  # fmt: skip
            changes = moved(
                state, event.step_id, event, StepStatus.EVALUATING,
                result=result, attempt=step.attempt + 1,
            )  # fmt: skip
            return {**changes, "crashes": 0}
        case e.ConditionFalse():
            return moved(state, event.step_id, event, StepStatus.READY, condition_false=True)
        case e.StepEvaluated():
            return _evaluated(state, event)
        case e.RecoveryChosen():
            return _recovery(state, event)
        case e.TimerFired() if event.timer.startswith(publishing.TIMER):
            return publishing.woken(state)
        case e.TimerFired():
            return _timer(state, event)
        case e.StepSkipped():
            return {
                **moved(
                    state, event.step_id, event, StepStatus.SKIPPED, satisfied=event.satisfied,
                    timer="", delay_ms=0, wants_toolbelt="",
                ),
                "approvals": {
                    k: a for k, a in state.approvals.items() if a.step_id != event.step_id
                },
            }  # fmt: skip
        case e.StepFailed():
            failed = moved(state, event.step_id, event, StepStatus.FAILED)
            if event.fallback:
                stand_in = replace(failed["steps"][event.fallback], awake=True)
                failed["steps"][event.fallback] = stand_in
                return failed
            # What one call of an open plan came to is no matter of the others.
            return failed if state.is_open else {**failed, "abort": state.abort or event}
        case e.ToolbeltActivated():
            return _activated(state, event)
        case e.ToolbeltFailed():
            return _not_activated(state, event)
        case e.ApprovalRequested():
            step = state.steps[event.step_id]
            return {
                **moved(state, event.step_id, event, step.status, approval_id=event.approval_id),
                "approvals": {**state.approvals, event.approval_id: event},
                "approvals_made": state.approvals_made + 1,
            }
        case e.ApprovalDecided():
            asked = state.approvals.get(event.approval_id)
            if asked is not None and at_us >= asked.expires_at_us:
                return _approval(
                    state, event, event.approval_id, "deny", "the answer came too late"
                )
            changes = _approval(
                state, event, event.approval_id, event.decision, event.message, event.arguments
            )
            if asked is not None and asked.rule and event.scope == "task":
                given = approvals.trust(asked.tool, asked.rule)
                changes["trusted"] = {**state.trusted, given: event.approval_id}
            return changes
        case e.ApprovalExpired():
            return _approval(state, event, event.approval_id, "deny", "nobody decided in time")
        case e.BrainFound():
            return {**thinking.brain_found(state, event), "crashes": 0}
        case e.ModelCallStarted():
            return thinking.asked(state, event, at_us)
        case e.ModelReplied():
            return thinking.replied(state, event, at_us)
        case e.ModelFailed():
            return thinking.failed(state, event, at_us)
        case e.ModelCallSettled():
            return thinking.settled(state, event)
        case e.HistoryCompacted():
            return {"conversation": thinking.compacted(state, event)}
        case e.BudgetExhausted():
            return {"exhausted": state.exhausted or event}
        case e.VerificationStarted():
            return {
                "stage": Phase.COMPLETION_VERIFICATION,
                "verifications": event.attempt,
                "verification": None,
            }
        case e.VerificationEnded():
            return {"verification": event, "crashes": 0}
        case e.ReplanRequested():
            return {
                "stage": Phase.PLANNING,
                "replan_reason": event.reason,
                "kept": None,
                "conversation": thinking.told(state, event.reason),
            }
        case e.CancelRequested():
            return {"cancel": state.cancel or event}
        case e.PauseRequested():
            return {"paused": True}
        case e.ResumeRequested():
            return {"paused": False, **_given_a_model(state, event)}
        case e.Steered():
            said = f"{event.by} says: {event.message}"
            return {"conversation": state.conversation.told(said), **_asked_once(state, event)}
        case e.CallRequested():
            return _requested(state, event)
        case e.CallWithdrawn():
            step_or_none = state.steps.get(event.step_id)
            if step_or_none is None or step_or_none.ended:
                return {}
            gone = replace(step_or_none, withdrawn=True)
            return {"steps": {**state.steps, event.step_id: gone}}
        case e.TaskChanged():
            return {"spec": _with(state.task, event)}
        case e.TaskConcluded():
            return {"conclusion": event, "stage": Phase.STATE_CLEANUP, "approvals": {},
                    "publication": publishing.first(state, event)}  # fmt: skip
        case e.WorkKept():
            return {"kept": event, "tree": event.tree or state.tree, "crashes": 0}
        case e.CleanedUp():
            return {"cleaned": event}
        case e.PublicationRequested():
            return publishing.requested(event)
        case e.PublicationPrepared():
            return publishing.prepared(state, event)
        case (
            e.PublicationIntended()
            | e.PublicationDone()
            | e.PublicationFailed()
            | e.PublicationEnded()
        ):
            return publishing.folded(state, event)
        case e.Continued():
            return {**reopened(state, event), "publication": None, **_asked_once(state, event)}
        case e.Forked():
            return forked(state, event, at_us)
        case e.TaskEnded():
            return {"ended": True, "stage": Phase.IDLE, "alive": False,
                    "usage": clocked(state, at_us)}  # fmt: skip
        case _:
            assert_never(event)


def _worker_gone(state: State) -> str:
    if not state.worker_used:
        return ""
    first_of_fork = state.forked is not None and not state.epoch
    return "the task is a fork" if first_of_fork else "the runtime was restarted"


def _adopted(state: State, event: e.PlanAdopted) -> dict[str, Any]:
    """New steps beside those of earlier plans, whose results can still be read."""
    changes: dict[str, Any] = {
        "stage": Phase.EXECUTION,
        "plan_attempts": event.attempt,
        "proposal": None,
    }
    if event.objectives:
        assert state.spec is not None
        changes["spec"] = replace(state.spec, objectives=list(event.objectives))
    if event.source == "unfinished":
        return changes
    before = state
    # What is asked for before an open plan is adopted waits for that.
    for step in () if state.is_open else state.unfinished:
        given_up = moved(
            before, step.spec.id, event, StepStatus.SKIPPED, timer="", delay_ms=0, wants_toolbelt=""
        )
        before = replace(before, **given_up)
    fallbacks = {s.fallback for s in event.steps if s.fallback}
    effects = state.discovery.effects if state.discovery else {}
    added = {
        s.id: StepState(s, awake=s.id not in fallbacks, effect=effects.get(s.id))
        for s in event.steps
    }
    if taken := state.steps.keys() & added:
        raise IllegalEvent(f"{min(taken)!r} is a step of an earlier plan")
    return {**changes, "steps": {**before.steps, **added}}


def _requested(state: State, event: e.CallRequested) -> dict[str, Any]:
    if not state.is_open:
        raise IllegalEvent("CallRequested in a task whose plan is not open")
    if event.step_id in state.steps or event.step_id in state.past:
        raise IllegalEvent(f"{event.step_id!r} was requested before")
    spec = StepSpec(id=event.step_id, tool=event.tool, args=event.arguments)
    step = StepState(spec, effect=event.effect, requested=True)
    return {
        "steps": {**state.steps, event.step_id: step},
        "front": (*state.front, event.step_id),
        "client_gone": False,
    }


def _forgotten(state: State, step_id: str) -> State:
    """Without a step that has ended, but for its name."""
    steps = {k: step for k, step in state.steps.items() if k != step_id}
    return replace(state, steps=steps, past=state.past | {step_id})


def _interrupted(state: State, at_us: int) -> dict[str, Any]:
    """A graceful stop costs nothing: what was started and will start again is given back."""
    open_calls = {k: c for k, c in state.calls.items() if c.epoch == state.epoch and not c.lost}
    asking = state.asking is not None and not state.asked_client
    usage = clocked(state, at_us)
    return {
        "alive": False,
        "usage": replace(usage, steps=usage.steps - len(open_calls) - asking),
        "calls": {
            k: replace(c, runs=c.runs - 1) if k in open_calls else c for k, c in state.calls.items()
        },
    }


def _in_worker(state: State, tool: str | None) -> bool:
    known = state.tools.get(tool or "")
    return known is not None and known.where == "worker"


def _brief(output: str) -> str:
    """Head and tail: an error message says it first, a test runner says it last."""
    text = output.strip()
    return text if len(text) <= 500 else f"{text[:200]} … {text[-297:]}"


def _returned(state: State, event: e.CallReturned) -> dict[str, Any]:
    call = state.calls[event.call_id]
    step_id = call.intent.step_id
    done: dict[str, Any] = {
        "calls": _without(state.calls, event.call_id),
        "tree": event.tree_after or state.tree,
        "crashes": 0,
    }
    if state.steps[step_id].spec.tool is None:
        return {**_observed(state, event, call), **done}
    # What is as it should be needs no reason: the output is kept once.
    told = not event.ok or state.steps[step_id].spec.expect is not None
    result = Result(
        event.ok,
        event.output,
        event.exit,
        event.kind,
        _brief(event.output) if told else "",
        tuple(event.paths),
    )
    return {**moved(state, step_id, event, StepStatus.EVALUATING, result=result), **done}


def _observed(state: State, event: e.CallReturned, call: CallState) -> dict[str, Any]:
    """A call of a brain's turn came back; what `find_tools` found is shown from now on."""
    step_id, wanted = call.intent.step_id, ""
    if call.intent.tool == native.FIND_TOOLS.name and event.ok:
        conversation, wanted = thinking.found(state, event.data)
        state = replace(state, conversation=conversation)
    said = _edited(state.steps[step_id], call) + event.output
    changes = thinking.answer(
        state, event, step_id, said, failed=not event.ok, call_id=event.call_id
    )
    if wanted:
        step: StepState = changes["steps"][step_id]
        changes["steps"] = {
            **changes["steps"],
            step_id: replace(step, wanted_toolbelt=step.wanted_toolbelt or wanted),
        }
    return changes


def _edited(step: StepState, call: CallState) -> str:
    """Tells the brain that its call was made with other arguments; empty if it was not."""
    index = index_of(call.intent.call_id)
    asked = step.turn_calls[index].use.arguments if index is not None else None
    if not call.intent.approval_id or asked is None or asked == call.intent.arguments:
        return ""
    given = msgspec.json.encode(call.intent.arguments).decode()
    return f"[A person allowed this call with other arguments: {given}]\n"


def _resolved(state: State, event: e.CallResolved) -> dict[str, Any]:
    call = state.calls[event.call_id]
    step_id = call.intent.step_id
    if event.resolution == "rerun":
        again = replace(call, epoch=state.epoch, runs=call.runs + 1, lost="", message="")
        step = state.steps[step_id]
        return {
            **moved(
                state, step_id, event, StepStatus.RUNNING,
                deaths=step.deaths + (1 if call.lost == "worker_died" else 0),
            ),
            "calls": {**state.calls, event.call_id: again},
            "usage": replace(state.usage, steps=state.usage.steps + 1),
            "worker_used": state.worker_used or _in_worker(state, call.intent.tool),
        }  # fmt: skip
    message = event.message or call.message
    match event.resolution:
        case "happened":
            result = Result(True, event.message)
        case "unknown":
            result = Result(False, message, None, "unknown_effect", message, unknown=True)
        case "dropped" | "not_happened":
            kind: FailureKind = "timeout" if call.lost == "timeout" else "transient"
            result = Result(False, message, None, kind, message)
        case _:
            assert_never(event.resolution)
    if state.steps[step_id].spec.tool is None:
        changes = thinking.answer(
            state, event, step_id, message, failed=not result.ok, call_id=event.call_id
        )
    else:
        changes = moved(state, step_id, event, StepStatus.EVALUATING, result=result)
    return {**changes, "calls": _without(state.calls, event.call_id)}


def _activated(state: State, event: e.ToolbeltActivated) -> dict[str, Any]:
    steps, called = dict(state.steps), set[str]()
    for step_id, step in state.steps.items():
        if step.wants_toolbelt == event.toolbelt:
            called.add(step.tool or "")
            steps[step_id] = replace(step, status=StepStatus.READY, wants_toolbelt="")
    return {
        "steps": steps,
        "toolbelts": (*state.toolbelts, event.toolbelt),
        "conversation": thinking.activated(state, event.tools, called),
        "crashes": 0,
    }


def _not_activated(state: State, event: e.ToolbeltFailed) -> dict[str, Any]:
    result = Result(False, event.message, None, "not_found", event.message)
    after = state
    for step_id, step in state.steps.items():
        if step.wants_toolbelt != event.toolbelt:
            continue
        without = replace(step, wants_toolbelt="", wanted_toolbelt="")
        if step.spec.tool is not None:
            without = replace(without, result=result)
        after = replace(after, steps={**after.steps, step_id: without})
        if step.spec.tool is not None:
            continue
        if step.answered:
            after = replace(after, conversation=thinking.told(after, event.message))
        else:
            said = thinking.answer(after, event, step_id, event.message, failed=True)
            after = replace(after, **said)
    return {"steps": after.steps, "conversation": after.conversation, "crashes": 0}


def _given_a_model(state: State, event: e.ResumeRequested) -> dict[str, Any]:
    """Somebody gives a waiting task what to think with."""
    if not event.model:
        return {}
    assert state.spec is not None
    return {"spec": replace(state.spec, model=event.model), "brain": None}


def _evaluated(state: State, event: e.StepEvaluated) -> dict[str, Any]:
    match event.verdict:
        case "good":
            return moved(state, event.step_id, event, StepStatus.EVALUATING)
        case "continue":
            changes = moved(state, event.step_id, event, StepStatus.READY, result=None)
            if event.kind == "stuck":
                changes["conversation"] = thinking.nudged(state, event.reason)
            return changes
        case "toolbelt":
            return moved(
                state, event.step_id, event, StepStatus.EVALUATING, wants_toolbelt=event.toolbelt
            )
        case "failed":
            step = state.steps[event.step_id]
            return moved(
                state, event.step_id, event, StepStatus.RECOVERING, failure=event,
                known_failures=step.known_failures + (event.kind == "failed"),
                timeouts=step.timeouts + (event.kind == "timeout"),
                transients=step.transients + (event.kind == "transient"),
            )  # fmt: skip
        case _:
            assert_never(event.verdict)


def _recovery(state: State, event: e.RecoveryChosen) -> dict[str, Any]:
    timer = f"retry:{event.step_id}:{state.seq + 1}" if event.delay_ms else ""
    again = event.strategy in ("retry", "alternative")
    if not event.step_id:
        assert state.trouble is not None
        if not again:
            return {}
        waiting = replace(state.trouble, timer=timer, delay_ms=event.delay_ms)
        return {"trouble": waiting if timer else None, **_other_model(state, event)}
    fresh: dict[str, Any] = {"timer": timer, "delay_ms": event.delay_ms}
    if again and not timer:
        fresh |= {"result": None, "failure": None}
    by_brain = state.steps[event.step_id].spec.tool is None
    if event.strategy == "alternative" and not by_brain:
        fresh |= {"alternative": True, "effect": None, "known_failures": 0}
    to = StepStatus.READY if again and not timer else StepStatus.RECOVERING
    return {
        **moved(state, event.step_id, event, to, **fresh),
        **(_other_model(state, event) if by_brain else {}),
    }


def _other_model(state: State, event: e.RecoveryChosen) -> dict[str, Any]:
    """For a brain, another way is the next model."""
    conversation = state.conversation
    if event.strategy != "alternative":
        return {}
    return {"conversation": conversation.asking(conversation.model + 1)}


def _timer(state: State, event: e.TimerFired) -> dict[str, Any]:
    if event.timer.startswith("approval:"):
        return {"expired": state.expired | {event.timer.removeprefix("approval:")}}
    if event.timer.startswith(CLIENT_TIMER):
        return {"client_gone": True}
    if state.trouble is not None and state.trouble.timer == event.timer:
        return {"trouble": None}
    for step_id, step in state.steps.items():
        if step.timer == event.timer:
            return moved(
                state, step_id, event, StepStatus.READY, timer="", delay_ms=0, result=None,
                failure=None,
            )  # fmt: skip
    return {}


def _approval(
    state: State,
    event: e.Event,
    approval_id: str,
    decision: str,
    message: str,
    arguments: Mapping[str, Json] | None = None,
) -> dict[str, Any]:
    asked = state.approvals.get(approval_id)
    if asked is None:
        return {}  # decided, expired or overtaken by the task's end: the fact stays in the log
    rest = {k: v for k, v in state.approvals.items() if k != approval_id}
    step = state.steps[asked.step_id]
    if asked.subject == "unknown_effect":
        assert step.result is not None
        ok = decision == "approve"
        reason = message or ("taken as done by a person" if ok else "taken as failed by a person")
        result = replace(step.result, ok=ok, reason=reason, judged=True)
        changes = moved(state, asked.step_id, event, step.status, approval_id="", result=result)
    elif decision == "approve":
        digest = asked.digest
        if arguments is not None:
            policy = state.task.policy
            digest = approvals.digest(asked.tool, arguments, asked.tree_before, policy)
        changes = moved(
            state, asked.step_id, event, step.status, approval_id="",
            granted=(approval_id, digest), edited=arguments,
        )  # fmt: skip
    else:
        text = f"{asked.tool!r} was not approved" + (f": {message}" if message else "")
        freed = replace(step, approval_id="", edited=None, attempt=step.attempt + 1)
        state = replace(state, steps={**state.steps, asked.step_id: freed})
        if step.spec.tool is None:
            changes = thinking.answer(state, event, asked.step_id, text, failed=True)
        else:
            denied = Result(False, text, None, "denied", text)
            changes = moved(state, asked.step_id, event, StepStatus.EVALUATING, result=denied)
    return {**changes, "approvals": rest}
