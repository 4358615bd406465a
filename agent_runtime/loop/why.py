"""Why an event is in the log: the earlier events that it rests on, and the rule that made it.

Pure, and a reader's help: nothing is decided here. `replay` proves that a decision follows from the
whole state; this names the few events of it that a person would point at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

from agent_runtime.errors import NotFound
from agent_runtime.loop import events as e
from agent_runtime.loop.past import RESULTS, Past
from agent_runtime.loop.publishing import TIMER
from agent_runtime.loop.recovery import RULES
from agent_runtime.types import Status, Strategy

BECAUSE_MAX = 8
"""Events that one other names as its grounds: the end of a plan rests on every step of it."""

_SPENT = {
    "steps": (e.CallIntended, e.ModelCallStarted),
    "tokens": (e.ModelReplied, e.ModelCallSettled),
    "usd": (e.ModelReplied, e.ModelCallSettled),
    "seconds": (e.LeaseTaken,),
    "crashes": (e.LeaseTaken,),
}


@dataclass(frozen=True, slots=True)
class Grounds:
    """`because`: numbers of earlier events, the weightiest first. `file` is where the rule is."""

    because: tuple[int, ...]
    rule: str
    file: str = ""
    """Empty for an input: nothing was decided."""
    more: int = 0
    """Events that it rests on as well, and that are not named."""


@dataclass(frozen=True, slots=True)
class Link:
    """One line of a chain. `depth` 0 is the event that was asked about; each event comes once."""

    seq: int
    depth: int
    grounds: Grounds


def why(events: Sequence[e.AnyEvent], seq: int) -> Grounds:
    """What event number `seq` rests on. `events` is the whole log, or its part up to `seq`."""
    event, past = events[seq - 1], Past(events[: seq - 1])
    if isinstance(event, e.DecisionEvent):
        grounds = _decision(past, event)
    else:
        grounds = _input(past, event)
    named = tuple(dict.fromkeys(n for n in grounds.because if n))
    left_out = max(0, len(named) - BECAUSE_MAX)
    return Grounds(named[:BECAUSE_MAX], grounds.rule, grounds.file, left_out)


def seq_asked(task_id: str, events: Sequence[e.AnyEvent], seq: int | None) -> int:
    """`seq`; without one, the end of the task, else what was decided last, else the last of all.

    Raises:
        NotFound: there is no such event.
    """
    if seq is None:
        ended = bool(events) and isinstance(events[-1], e.TaskEnded)
        wanted = e.TaskConcluded if ended else e.DecisionEvent
        found = (at for at in range(len(events), 0, -1) if isinstance(events[at - 1], wanted))
        return next(found, len(events))
    if not 1 <= seq <= len(events):
        raise NotFound(f"task {task_id!r} has no event {seq}: its log ends at {len(events)}")
    return seq


def chain(events: Sequence[e.AnyEvent], seq: int, depth_max: int) -> list[Link]:
    """From `seq` down to what it rests on, `depth_max` events deep, each below what it is for."""
    links: list[Link] = []
    seen = {seq}

    def follow(number: int, depth: int) -> None:
        grounds = why(events, number)
        links.append(Link(number, depth, grounds))
        if depth == depth_max:
            return
        # First all of one level are taken, so that each stands as near to the question as it can.
        below = [n for n in grounds.because if n not in seen]
        seen.update(below)
        for n in below:
            follow(n, depth + 1)

    follow(seq, 0)
    return links


def _decision(past: Past, event: e.DecisionEvent) -> Grounds:
    """Long, because it is the one place that says it; a new decision must be given its grounds."""
    match event:
        case e.PhaseEntered():
            return Grounds(
                (len(past.events),),
                "the task's phase is derived from its stage and from the states of its steps",
                "loop/evolve.py",
            )
        case e.PlanAdopted():
            return _plan_adopted(past, event)
        case e.CallIntended():
            return _call_intended(past, event)
        case e.ApprovalRequested(subject="unknown_effect"):
            unknown = past.last(e.EffectUnknown, where=lambda x: x.step_id == event.step_id)
            rule = "policy.unknown_effect is ask: a person says how to go on"
            return Grounds((unknown, past.task_file()), rule, "loop/evaluate.py")
        case e.ApprovalRequested():
            talks = _talks(past, event.step_id)
            rule = f"policy.approvals says that a person decides about {event.tool!r}"
            because = (past.origin(event.step_id, talks), past.task_file())
            return Grounds((*because, *past.needs(event.step_id)), rule, "loop/intend.py")
        case e.ApprovalExpired():
            fired = past.last(e.TimerFired, where=lambda x: x.timer.endswith(event.approval_id))
            rule = "policy.approval_seconds have passed: nobody's answer is a no"
            return Grounds((past.asked(event.approval_id), fired), rule, "loop/settle.py")
        case e.StepEvaluated():
            return _step_evaluated(past, event)
        case e.RecoveryChosen():
            return _recovery_chosen(past, event)
        case e.StepSucceeded():
            return _step_succeeded(past, event)
        case e.StepFailed():
            chosen = past.last(e.RecoveryChosen, where=lambda x: x.step_id == event.step_id)
            rule = "no further try was left, and its fallback stands in" if event.fallback else (
                "no further try was left, and it has no fallback: the plan is aborted"
            )  # fmt: skip
            return Grounds((chosen,), rule, "loop/recovery.py")
        case e.StepSkipped():
            return _step_skipped(past, event)
        case e.EffectUnknown():
            resolved = past.last(e.CallResolved, where=lambda x: x.call_id == event.call_id)
            made = past.last(e.CallIntended, where=lambda x: x.call_id == event.call_id)
            rule = "a call that cannot be looked up and may not run twice is told, not repeated"
            return Grounds((resolved, made), rule, "loop/decide.py")
        case e.WorkerRestarted():
            lost = past.last(e.LeaseTaken, e.CallLost)
            rule = "a worker that had run a call is gone, and what was in its memory with it"
            return Grounds((lost,), rule, "loop/settle.py")
        case e.ModelCallStarted():
            return _model_asked(past, event)
        case e.ModelCallSettled():
            asked = past.last(
                e.ModelCallStarted,
                where=lambda x: (x.step_id, x.turn) == (event.step_id, event.turn),
            )
            ended = past.last(e.LeaseTaken, e.CancelRequested, e.BudgetExhausted)
            rule = "nobody waits for its answer any more: it is charged as it was reserved"
            return Grounds((asked, ended), rule, "loop/settle.py")
        case e.HistoryCompacted():
            said = past.back(e.ModelReplied, e.ModelFailed, e.CallReturned, e.Steered)
            rule = "the next prompt would not fit the model: old outputs go first, old turns next"
            return Grounds(tuple(said)[:3], rule, "loop/compaction.py")
        case e.BudgetExhausted():
            spent = list(past.back(*_SPENT[event.limit]))[:3]
            rule = f"the next attempt would pass limits.{event.limit}"
            if event.limit in ("seconds", "crashes"):
                rule = f"limits.{event.limit} is used up"
            return Grounds((past.task_file(), *spent), rule, "loop/budget.py")
        case e.VerificationStarted():
            adopted = past.last(e.PlanAdopted)
            steps = [step.id for step in past.event(adopted).steps] if adopted else []
            rule = "every step has ended: the runtime looks at the objectives"
            return Grounds((adopted, *past.ends(steps)), rule, "loop/settle.py")
        case e.ReplanRequested():
            rule = "the checks failed, and a model may plan again (twice at most)"
            found = past.last(e.VerificationEnded)
            return Grounds((found, past.task_file()), rule, "loop/judge.py")
        case e.TaskConcluded():
            return _concluded(past, event)
        case e.PublicationIntended():
            done = past.last(e.PublicationDone, e.PublicationPrepared)
            rule = "its intent is stored before anything leaves the daemon"
            return Grounds((done, past.last(e.PublicationPrepared)), rule, "loop/publishing.py")
        case e.PublicationEnded():
            last = past.last(e.PublicationDone, e.PublicationFailed, e.PublicationPrepared)
            rule = "the branch is where it should be" if event.ok else "no further try would help"
            return Grounds((last,), rule, "loop/publishing.py")
        case e.TaskEnded():
            rule = "the end was decided, and everything of the task is cleaned up"
            because = (past.last(e.TaskConcluded), past.last(e.CleanedUp))
            return Grounds(because, rule, "loop/settle.py")
        case _:
            assert_never(event)


def _talks(past: Past, step_id: str) -> int | None:
    """A number if the step is the model's, as `CallIntended.turn` is one."""
    spec = past.spec(step_id)
    return 0 if spec is not None and spec.tool is None else None


def _plan_adopted(past: Past, event: e.PlanAdopted) -> Grounds:
    rule = {
        "given": "the task file has a plan, and its tools are there",
        "model": "a model made this plan",
        "single": "no plan was given: the model gets the task as one step",
        "unfinished": "the task goes on with the steps that had not ended",
        "checks": "there is no step to run: only the objectives are looked at",
    }[event.source]
    again = past.last(e.ReplanRequested, e.Continued)
    said = past.last(e.ModelReplied) if event.source == "model" else 0
    because = (said, past.last(e.ToolsDiscovered), again, past.task_file())
    return Grounds(because, rule, "loop/settle.py")


def _call_intended(past: Past, event: e.CallIntended) -> Grounds:
    allowed = past.last(e.ApprovalDecided, where=lambda x: x.approval_id == event.approval_id != "")
    before = past.last(e.CallIntended, where=lambda x: x.step_id == event.step_id)
    again = next(
        past.back(e.RecoveryChosen, where=lambda x: x.step_id == event.step_id, since=before), 0
    )
    toolbelt = past.last(e.ToolbeltActivated, where=lambda x: event.tool in x.tools)
    asked = past.origin(event.step_id, event.turn)
    rule = "its step was ready, the budget has room, and nobody else writes"
    if allowed:
        rule = "a person allowed exactly this call, and the files are as they were then"
    elif again:
        rule = f"error handling tries the step again (attempt {event.attempt})"
    elif event.turn is not None:
        rule = "the model asked for it, the budget has room, and nobody else writes"
    because = (allowed, again, asked, *past.needs(event.step_id), toolbelt)
    return Grounds(because, rule, "loop/intend.py")


def _step_evaluated(past: Past, event: e.StepEvaluated) -> Grounds:
    if event.verdict == "toolbelt":
        talks = _talks(past, event.step_id)
        asked = past.origin(event.step_id, talks)
        rule = f"its tool is one of the toolbelt {event.toolbelt!r}, which is not on yet"
        where = "loop/settle.py" if talks is None else "loop/evaluate.py"
        return Grounds((past.last(e.ToolsDiscovered), asked), rule, where)
    rule = {
        "good": "nobody knows what it came to: a person or the policy said to go on",
        "failed": "the result is not what the step expects",
        "continue": "the conversation goes on: what a tool says is data for the model",
    }[event.verdict]
    if event.kind == "stuck":
        rule = "the same again and again: it is told so once, and then that is a failure"
    return Grounds(
        (*past.results(event.step_id), past.source(event.step_id)), rule, "loop/evaluate.py"
    )


def _step_succeeded(past: Past, event: e.StepSucceeded) -> Grounds:
    judged = len(past.events)
    if isinstance(past.event(judged), e.StepEvaluated):
        return Grounds((judged,), "a step that is evaluated as good is done", "loop/evaluate.py")
    rule = "the result is what the step expects"
    if _talks(past, event.step_id) is not None:
        rule = "the model asked for no further call"
    return Grounds(
        (*past.results(event.step_id), past.source(event.step_id)), rule, "loop/evaluate.py"
    )


def _recovery_chosen(past: Past, event: e.RecoveryChosen) -> Grounds:
    kind = f"{event.kind}: {RULES[event.kind]}" if event.kind in RULES else event.kind
    rule = f"{kind}; so: {event.strategy}"
    if not event.step_id:
        newest = past.event(past.last(e.InitiationFailed, e.ModelFailed))
        failed = past.back(type(newest), where=lambda x: not getattr(x, "step_id", ""))
        return Grounds(tuple(failed), rule, "loop/recovery.py")
    counted = past.back(
        e.StepEvaluated,
        where=lambda x: (
            x.step_id == event.step_id and x.verdict == "failed" and x.kind == event.kind
        ),
    )
    return Grounds((*counted, past.source(event.step_id)), rule, "loop/recovery.py")


def _step_skipped(past: Past, event: e.StepSkipped) -> Grounds:
    false = past.last(e.ConditionFalse, where=lambda x: x.step_id == event.step_id)
    if false and event.satisfied:
        return Grounds((false,), "a step whose condition is false is skipped", "loop/settle.py")
    if gone := past.last(e.CallWithdrawn, where=lambda x: x.step_id == event.step_id):
        rule = "who asked for the call does not want it any more"
        return Grounds((gone, past.source(event.step_id)), rule, "loop/settle.py")
    adopted = past.plan(event.step_id)
    steps = past.event(adopted).steps if adopted else []
    owners = past.ends([step.id for step in steps if step.fallback == event.step_id])
    aborted = past.last(e.StepFailed, where=lambda x: not x.fallback)
    if aborted and "aborted" in event.reason:
        rule = "a step failed for good: no other one begins any more"
        return Grounds((aborted, past.source(event.step_id)), rule, "loop/settle.py")
    if owners:
        rule = "a fallback is needed only if its owner fails"
        return Grounds((*owners, adopted), rule, "loop/settle.py")
    bad = [n for n in past.needs(event.step_id) if n and not _came_out_well(past.event(n))]
    rule = "what it needs has not come out well"
    return Grounds((*bad, adopted), rule, "loop/settle.py")


def _came_out_well(ended: Any) -> bool:
    return isinstance(ended, e.StepSucceeded) or (
        isinstance(ended, e.StepSkipped) and ended.satisfied
    )


def _model_asked(past: Past, event: e.ModelCallStarted) -> Grounds:
    before = past.last(e.ModelCallStarted, where=lambda x: x.step_id == event.step_id)
    heard = past.back(
        *RESULTS, e.Steered, e.WorkerRestarted, e.StepEvaluated,
        where=lambda x: isinstance(x, e.Steered | e.WorkerRestarted)
        or past.step_of(x) == event.step_id,
        since=before,
    )  # fmt: skip
    rule = "the step is the model's, and its reservation fits the budget"
    if not event.step_id:
        rule = "no plan was given and the task is not small: the model is asked for one"
        return Grounds((past.last(e.BrainFound), *heard, past.task_file()), rule, "loop/settle.py")
    if before:
        rule = "what its calls gave is in the history: the model is asked again"
    because = (*heard, past.plan(event.step_id), *(() if before else past.needs(event.step_id)))
    return Grounds(because, rule, "loop/turns.py")


def _concluded(past: Past, event: e.TaskConcluded) -> Grounds:
    began = past.last(e.TaskSubmitted, e.Continued)

    def newest(*kinds: type[Any], where: Callable[[Any], bool] = lambda _: True) -> int:
        return next(past.back(*kinds, where=where, since=began), 0)

    if event.status is Status.CANCELLED:
        asked = tuple(past.back(e.CancelRequested, since=began))[-1:]
        return Grounds(asked, "a cancelled task ends, whatever it has done", "loop/settle.py")
    if exhausted := newest(e.BudgetExhausted):
        return Grounds((exhausted,), "nothing new may start, so it ends", "loop/settle.py")
    given_up = newest(
        e.RecoveryChosen, where=lambda x: not x.step_id and x.strategy is Strategy.ABORT
    )
    if given_up:
        return Grounds((given_up,), "the task cannot even begin", "loop/recovery.py")
    found, adopted = newest(e.VerificationEnded), newest(e.PlanAdopted)
    if found > adopted:
        rule = "the runtime's own look at the objectives decides"
        if event.status is Status.SUCCEEDED:
            rule = "every check passed on a clean checkout, with a grade that the task accepts"
        return Grounds((found, newest(e.WorkKept), began), rule, "loop/judge.py")
    failed = newest(e.StepFailed, where=lambda x: not x.fallback)
    if failed:
        return Grounds((failed,), "a step failed for good and nothing stands in", "loop/settle.py")
    if not adopted:
        rule = "the plan does not fit the tools that are there"
        return Grounds((newest(e.ToolsDiscovered), began), rule, "loop/settle.py")
    return Grounds((adopted,), "no step of the plan can begin any more", "loop/settle.py")


# ---- inputs ------------------------------------------------------------------------------


def _input(past: Past, event: e.InputEvent) -> Grounds:
    """What was asked for; a fact that nobody asked for rests on nothing."""
    match event:
        case e.CallReturned() | e.CallLost():
            made = past.last(
                e.CallIntended, e.CallResolved, where=lambda x: x.call_id == event.call_id
            )
            return Grounds((made,), "what came of the call")
        case e.CallResolved():
            made = past.last(e.CallIntended, where=lambda x: x.call_id == event.call_id)
            lost = past.last(
                e.CallLost, e.LeaseTaken, e.CancelRequested, e.BudgetExhausted,
                where=lambda x: getattr(x, "call_id", event.call_id) == event.call_id,
            )  # fmt: skip
            return Grounds((lost, made), "what the effect ledger found out about a lost call")
        case e.PreparationFailed() | e.ConditionFalse():
            asked = past.origin(event.step_id, _talks(past, event.step_id))
            because = (asked, *past.needs(event.step_id))
            return Grounds(because, "what came of making the call ready")
        case e.ModelReplied() | e.ModelFailed():
            asked = past.last(e.ModelCallStarted, where=lambda x: x.step_id == event.step_id)
            return Grounds((asked,), "what the model answered")
        case e.ToolbeltActivated() | e.ToolbeltFailed():
            wanted = past.last(e.StepEvaluated, where=lambda x: x.toolbelt == event.toolbelt)
            return Grounds((wanted,), "what came of switching the toolbelt on")
        case e.ApprovalDecided():
            return Grounds((past.asked(event.approval_id),), "a person's answer")
        case e.TimerFired():
            asked = past.asked(event.timer.removeprefix("approval:"))
            delayed = past.last(e.RecoveryChosen, where=lambda x: x.delay_ms > 0)
            if event.timer.startswith(TIMER):
                delayed = past.last(e.PublicationFailed)
            return Grounds((asked or delayed,), "the time that was to be waited has passed")
        case e.VerificationEnded():
            because = (past.last(e.VerificationStarted), past.last(e.WorkKept))
            return Grounds(because, "what the runtime saw when it ran the checks itself")
        case e.WorkKept():
            asked = past.last(e.VerificationStarted, e.TaskConcluded)
            return Grounds((asked,), "what the workspace held when every process was dead")
        case e.PublicationPrepared():
            asked = past.last(e.TaskConcluded, e.PublicationRequested)
            return Grounds((asked, past.task_file()), "the commit that is to leave the daemon")
        case e.PublicationDone() | e.PublicationFailed():
            before = past.last(e.PublicationIntended, e.TaskConcluded, e.PublicationRequested)
            return Grounds((before,), "what came of a step of publishing")
        case e.PublicationRequested():
            return Grounds((past.last(e.TaskEnded),), "somebody wants the branch to be published")
        case e.CleanedUp():
            return Grounds((past.last(e.TaskConcluded),), "what came of cleaning up")
        case e.EgressObserved():
            sources = {name for entry in event.entries for name in entry.source.split(", ")}
            ran = past.back(e.CallIntended, where=lambda x: x.call_id in sources)
            return Grounds(tuple(ran), "what the sandbox reached, or was refused")
        case (
            e.WorkspaceOpened()
            | e.EnvironmentPrepared()
            | e.RequirementsAnalyzed()
            | e.ToolsDiscovered()
            | e.InitiationFailed()
        ):
            before = past.last(
                e.LeaseTaken, e.WorkspaceOpened, e.EnvironmentPrepared, e.RequirementsAnalyzed
            )
            return Grounds((before,), "what was found on the way to a plan")
        case e.BrainFound():
            because = (past.last(e.ToolsDiscovered), past.task_file())
            return Grounds(because, "who can think for the task")
        case e.LeaseTaken():
            because = (past.last(e.Interrupted, e.LeaseTaken), past.task_file())
            return Grounds(because, "a process began to drive the task")
        case e.Interrupted():
            return Grounds((past.last(e.LeaseTaken),), "its owner stopped on purpose")
        case e.Continued():
            return Grounds((past.last(e.TaskEnded),), "somebody opened the ended task again")
        case _:
            return Grounds((), "somebody said so; nothing before it decided it")
