"""Every event in words, for `logs`, `run` and the live view.

`words` is complete: a new event must be given its sentence here. `worth_telling` says which ones a
person who watches a task wants to read; the rest is the machine's own book-keeping.
"""

from __future__ import annotations

import shlex
from typing import assert_never

import msgspec

from agent_runtime.cli.console import counted, lasted, one_line
from agent_runtime.loop import events as e
from agent_runtime.loop.phases import EXECUTING
from agent_runtime.loop.state import State
from agent_runtime.types import Command, Json

ARGUMENT_CHARS = 100
OUTPUT_CHARS = 160
QUESTION_CHARS = 2000

USUAL_SANDBOX = "bubblewrap"
"""Any other kind is told."""

_PHASES = {
    "idle": "idle",
    "task_initiation": "opening the workspace",
    "analyze_requirements": "reading the repository",
    "tool_discovery": "finding tools",
    "planning_phase": "planning",
    "execution_phase": "working",
    "tool_transition_evaluation": "evaluating",
    "toolbelt_activation": "activating tools",
    "completion_verification": "verifying",
    "state_cleanup": "cleaning up",
    "error_handling": "handling an error",
}

_TOLD_PHASES = frozenset(
    {
        "task_initiation",
        "planning_phase",
        "execution_phase",
        "completion_verification",
        "state_cleanup",
    }
)
"""The others come and go within milliseconds, or are told by what happens in them."""


def phase_words(phase: str) -> str:
    """A phase as people call it."""
    return _PHASES.get(phase, phase)


def call_words(tool: str, arguments: dict[str, Json]) -> str:
    """A call on one line: the argument that says most, else all of them."""
    for key in ("command", "path", "pattern", "query", "url", "source", "message", "code"):
        if key in arguments:
            return f"{tool} {one_line(_argument(arguments[key]), ARGUMENT_CHARS)}"
    rest = ", ".join(f"{key}={_argument(value)}" for key, value in arguments.items())
    return f"{tool} {one_line(rest, ARGUMENT_CHARS)}".rstrip()


def asked_words(asked: e.ApprovalRequested) -> str:
    """What a person is asked, with every argument: nobody can approve what is cut off."""
    question = one_line(asked.question, QUESTION_CHARS)
    if asked.subject != "call":
        return question
    return f"{question}  {asked.tool} {msgspec.json.encode(asked.arguments).decode()}"


def command_words(command: Command) -> str:
    """A check's command as one would type it."""
    return command if isinstance(command, str) else shlex.join(command)


def warns(event: e.AnyEvent) -> bool:
    """Must a person see this although all goes on?"""
    match event:
        case (
            e.WorkerRestarted()
            | e.EffectUnknown()
            | e.CallLost()
            | e.ApprovalRequested()
            | e.ApprovalExpired()
            | e.BudgetExhausted()
            | e.InitiationFailed()
            | e.ToolbeltFailed()
            | e.PreparationFailed()
            | e.StepFailed()
            | e.Interrupted()
        ):
            return True
        case e.VerificationEnded(ok=ok):
            return not ok
        case e.WorkKept(missing=missing, left_out=left_out):
            return bool(missing or left_out)
        case e.CleanedUp(problems=problems):
            return bool(problems)
        case e.PublicationEnded(ok=ok):
            return not ok
        case e.EgressObserved(entries=entries):
            return any(entry.kind == "refused" for entry in entries)
        case _:
            return False


def worth_telling(event: e.AnyEvent) -> bool:
    """Does somebody who watches the task want to read it?"""
    match event:
        case e.PhaseEntered(phase=phase, previous=previous):
            # While the plan runs, the derived phase goes to and fro with every step.
            return phase in _TOLD_PHASES and not (phase in EXECUTING and previous in EXECUTING)
        case e.LeaseTaken(epoch=epoch):
            return epoch > 1
        case e.RecoveryChosen(strategy="abort" | "fallback"):
            return False  # the step's failure, or the task's, is told with its reason
        case e.StepEvaluated(kind="stuck"):
            return True
        case e.StepEvaluated(verdict=verdict):
            return verdict == "toolbelt"
        case e.CallResolved():
            return True
        case e.WorkKept():
            return bool(event.artifacts or event.missing or event.left_out)
        case e.CleanedUp(problems=problems):
            return bool(problems)
        case (
            e.RequirementsAnalyzed()
            | e.ToolsDiscovered()
            | e.TimerFired()
            | e.ConditionFalse()
            | e.ModelCallStarted()
            | e.ModelCallSettled()
            | e.VerificationStarted()
            | e.StepSucceeded()
            | e.TaskConcluded()
            | e.PublicationIntended()
            | e.TaskEnded()
        ):
            return False
        case _:
            return True


def told_words(event: e.AnyEvent, state: State) -> str:
    """As `words`, for who watches: what the last lines will say is not said before them. `state` is
    the fold up to the event."""
    match event:
        case e.StepFailed() if event == state.abort:
            return f"{event.step_id}: failed"
        case e.BrainFound(kind="none"):
            return "nobody can think for it" + _because(*event.offers[:1])
        case e.InitiationFailed():
            return "cannot start"
        case e.PublicationFailed() if state.publication and event == state.publication.failure:
            return f"not published ({event.what})"
        case e.PublicationEnded(ok=False):
            return "NOT published"
        case _:
            return words(event)


def words(event: e.AnyEvent) -> str:
    """The essentials of an event on one line. Long, because it is the one place that says it."""
    match event:
        case e.TaskSubmitted():
            return f"submitted by {event.submitted_by}: {one_line(event.spec.goal)}"
        case e.LeaseTaken():
            taken = f"driven by {event.owner}"
            return taken if event.epoch == 1 else f"{taken} (owner number {event.epoch})"
        case e.Interrupted():
            return f"interrupted: {event.reason}"
        case e.WorkspaceOpened():
            return _workspace(event)
        case e.EnvironmentPrepared():
            return _environment(event)
        case e.InitiationFailed():
            return f"cannot start: {one_line(event.message, 1000)}"
        case e.RequirementsAnalyzed():
            languages = ", ".join(map(str, event.facts.get("languages", []))) or "unknown language"
            return f"{event.facts.get('files', 0)} files, {languages}; protected: " + (
                one_line(", ".join(event.protected), OUTPUT_CHARS) or "nothing"
            )
        case e.ToolsDiscovered():
            found = f"{len(event.tools)} tools, {len(event.visible)} visible"
            return f"{found}; problems: {'; '.join(event.problems)}" if event.problems else found
        case e.ToolbeltActivated():
            return f"toolbelt {event.toolbelt} is on: {', '.join(event.tools)}"
        case e.ToolbeltFailed():
            return f"toolbelt {event.toolbelt} cannot be activated: {one_line(event.message)}"
        case e.PreparationFailed():
            return f"{event.step_id}: not started ({event.kind}): {one_line(event.message, 1000)}"
        case e.ConditionFalse():
            return f"{event.step_id}: its condition is false"
        case e.CallReturned():
            return _returned(event)
        case e.CallLost():
            why = "no answer in time" if event.reason == "timeout" else "its worker died"
            return f"{event.call_id}: no result, {why}: {one_line(event.message)}"
        case e.CallResolved():
            return f"{event.call_id}: {_RESOLUTIONS[event.resolution]}" + (
                f" ({one_line(event.message)})" if event.message else ""
            )
        case e.EgressObserved():
            return _egress(event)
        case e.TimerFired():
            return f"timer {event.timer}"
        case e.ModelReplied():
            return _replied(event)
        case e.ModelFailed():
            said = one_line(event.message)
            return f"{event.step_id or 'plan'}: no answer ({event.error}): {said}"
        case e.BrainFound():
            return _brain(event)
        case e.VerificationEnded():
            return _verified(event)
        case e.WorkKept():
            return _kept(event)
        case e.Continued():
            return f"continued by {event.by}" + _because(event.message)
        case e.Forked():
            return _forked(event)
        case e.CleanedUp():
            problems = "; ".join(event.problems)
            return f"cleaned up, but: {one_line(problems, 1000)}" if problems else "cleaned up"
        case e.PublicationRequested():
            return f"publishing asked for by {event.by}"
        case e.PublicationPrepared():
            at = f"{event.base} at {event.base_commit[:12]}" if event.base else "a new repository"
            again = "" if event.verification is None else "; " + _verified(event.verification)
            return f"commit {event.commit[:12]} made on {at} of {event.url}{again}"
        case e.PublicationDone(what="push"):
            return "the branch is pushed" + (" (it was there)" if event.found else "")
        case e.PublicationDone():
            return f"pull request {event.url or event.number}" + (
                " (it was there)" if event.found else ""
            )
        case e.PublicationFailed():
            return f"not published yet ({event.what}): {one_line(event.message, 1000)}"
        case e.PublicationIntended():
            return f"publishing: {event.what}"
        case e.PublicationEnded():
            said = one_line(event.reason, 1000)
            return "published" if event.ok else f"NOT published: {said}"
        case e.CancelRequested():
            return f"cancel asked for by {event.by}" + _because(event.reason)
        case e.PauseRequested():
            return f"pause asked for by {event.by}"
        case e.ResumeRequested():
            model = f", with the model {event.model}" if event.model else ""
            return f"resume asked for by {event.by}{model}"
        case e.CallRequested():
            arguments = one_line(msgspec.json.encode(event.arguments).decode())
            return f"{event.by} asks for {event.tool} ({event.step_id}): {arguments}"
        case e.CallWithdrawn():
            return f"{event.by} withdraws the call {event.step_id}" + _because(event.reason)
        case e.Steered():
            return f"{event.by} says: {one_line(event.message)}"
        case e.TaskChanged():
            return f"{event.by} changes {_changed(event)}"
        case e.ApprovalDecided():
            done = "approved" if event.decision == "approve" else "denied"
            return f"{event.approval_id} {done} by {event.by}" + _because(event.message)
        case e.PhaseEntered():
            return f"-- {phase_words(event.phase)}"
        case e.PlanAdopted():
            steps = ", ".join(step.id for step in event.steps) or "no step, the checks alone"
            return f"plan ({event.source}): {steps}"
        case e.CallIntended():
            again = f" (attempt {event.attempt})" if event.attempt > 1 else ""
            return f"{event.step_id}: {call_words(event.tool, event.arguments)}{again}"
        case e.ApprovalRequested():
            return f"{event.approval_id} waits for a decision: {asked_words(event)}"
        case e.ApprovalExpired():
            return f"{event.approval_id} expired: nobody decided in time, which counts as a no"
        case e.StepEvaluated():
            return f"{event.step_id}: {event.verdict}" + _because(event.toolbelt or event.reason)
        case e.RecoveryChosen():
            what = event.step_id or "task"
            delay = f" in {lasted(event.delay_ms / 1000)}" if event.delay_ms else ""
            return f"{what}: {event.strategy}{delay}" + _because(event.reason)
        case e.StepSucceeded():
            return f"{event.step_id}: done"
        case e.StepFailed():
            instead = f"; {event.fallback} stands in" if event.fallback else ""
            kind = "" if event.kind == "failed" else f" ({event.kind})"
            return f"{event.step_id}: failed{kind}: {one_line(event.reason)}{instead}"
        case e.StepSkipped():
            return f"{event.step_id}: skipped" + _because(event.reason)
        case e.EffectUnknown():
            return f"{event.call_id}: its effect is unknown: {one_line(event.message, 1000)}"
        case e.WorkerRestarted():
            return (
                "the worker was restarted, its interpreter state and background processes are "
                f"gone: {one_line(event.reason)}"
            )
        case e.ModelCallStarted():
            return f"{event.step_id or 'plan'}: asking {event.model}"
        case e.ModelCallSettled():
            what = event.step_id or "plan"
            return f"{what}: a lost model call is charged {event.tokens} tokens"
        case e.HistoryCompacted():
            what = "old outputs" if event.level == "outputs" else "old turns"
            return (
                f"{what} cut out of the conversation: about {event.tokens_before} tokens before, "
                f"{event.tokens_after} now"
            )
        case e.BudgetExhausted():
            return f"the limit {event.limit} is reached: {event.used:g} of {event.allowed:g}"
        case e.VerificationStarted():
            return f"verification {event.attempt} starts"
        case e.ReplanRequested():
            return f"planning again: {one_line(event.reason)}"
        case e.TaskConcluded():
            return f"decided: {event.status}" + _because(event.reason)
        case e.TaskEnded():
            return f"ended: {event.status}" + _because(event.reason)
        case _:
            assert_never(event)


def _replied(event: e.ModelReplied) -> str:
    """`work: "text" -> read_file a.py, grep b | 1,204 tokens, $0.0121`."""
    said = f"{one_line(event.text, 100)!r}" if event.text.strip() else ""
    calls = ", ".join(call_words(use.name, use.arguments or {}) for use in event.calls)
    parts = [part for part in (said, f"-> {calls}" if calls else "") if part]
    cost = f"{event.usage.total:,} tokens" + (f", ${event.usd:.4f}" if event.usd else "")
    return f"{event.step_id or 'plan'}: {' '.join(parts) or 'an empty answer'} | {cost}"


def _brain(event: e.BrainFound) -> str:
    if event.kind == "model":
        names = ", then ".join(model.name for model in event.models)
        return f"thought by {names}" + _because(event.why)
    if event.kind == "client":
        return "thought by a connected client" + _because(event.why)
    return "nobody can think for it; " + one_line("; or ".join(event.offers), 1000)


_RESOLUTIONS = {
    "rerun": "rolled back where needed, it runs again",
    "dropped": "undone, it will not run again",
    "happened": "it did happen",
    "not_happened": "it did not happen",
    "unknown": "nobody can tell whether it happened",
}


def _argument(value: Json) -> str:
    match value:
        case str():
            return value
        case list():
            return shlex.join(map(str, value))
        case _:
            return str(value)


def _changed(event: e.TaskChanged) -> str:
    said = []
    if event.labels is not None:
        pairs = ", ".join(f"{key}={value}" for key, value in event.labels.items())
        said.append(f"the labels: {one_line(pairs) or 'none'}")
    if event.priority is not None:
        said.append(f"the priority: {event.priority}")
    return "; ".join(said)


def _because(reason: str = "") -> str:
    return f": {one_line(reason)}" if reason else ""


def _forked(event: e.Forked) -> str:
    other = f", with another {', another '.join(event.replaced)}" if event.replaced else ""
    notes = "".join(f"; {one_line(text)}" for text in event.notes)
    return f"forked by {event.by} from {event.parent} at event {event.at}{other}{notes}"


def _workspace(event: e.WorkspaceOpened) -> str:
    if not event.path:
        return "no workspace"
    parts = [f"workspace at {event.base_commit[:12] or 'no commit'}"]
    if event.carried:
        parts.append(f"{counted(len(event.carried), 'uncommitted file')} carried over")
    if event.sandbox not in ("", USUAL_SANDBOX):
        parts.append(f"sandbox {event.sandbox}")
    return "; ".join([*parts, *(one_line(text) for text in event.notes)])


def _environment(event: e.EnvironmentPrepared) -> str:
    found = event.environment
    parts = []
    if found.key:
        how = "as kept" if event.cached else f"set up in {event.seconds:.1f} s"
        parts.append(f"environment {how}, by {found.source}")
    if found.python:
        parts.append(f"python of {found.python} ({found.python_source})")
    if found.services:
        parts.append(f"services: {', '.join(service.id for service in found.services)}")
    notes = (one_line(text) for text in event.notes)
    return "; ".join([*parts, *notes]) or "nothing to prepare"


def _egress(event: e.EgressObserved) -> str:
    """`reached a.org:443 (3), refused b.org:80 (2)`, each host once."""
    counts: dict[tuple[str, str], int] = {}
    for entry in event.entries:
        verb = {"opened": "reached", "refused": "refused", "failed": "failed"}.get(entry.kind)
        if verb is not None:
            key = (verb, f"{entry.host}:{entry.port}" if entry.host else "what was no request")
            counts[key] = counts.get(key, 0) + entry.count
    parts = [
        f"{verb} {host}" + (f" ({count} times)" if count > 1 else "")
        for (verb, host), count in counts.items()
    ]
    if not parts:
        ended = sum(entry.count for entry in event.entries)
        parts.append(f"{ended} connection{'s' * (ended != 1)} ended")
    if event.left_out:
        parts.append(f"and {event.left_out} more")
    return f"network: {one_line(', '.join(parts), OUTPUT_CHARS)}"


def _returned(event: e.CallReturned) -> str:
    # A step may expect its call to fail, so an exit code is told without a judgement.
    how: str = "ok" if event.ok else event.kind or "failed"
    if event.exit is not None:
        how = f"exit {event.exit}" if how in ("ok", "failed") else f"{how}, exit {event.exit}"
    if event.changed:
        how += f", changed {one_line(', '.join(event.changed), OUTPUT_CHARS)}"
    lines = [line for line in event.output.splitlines() if line.strip()]
    # The end of an output says most: a summary, or the error.
    shown = one_line(lines[-1], OUTPUT_CHARS) if lines else ""
    return f"{event.call_id}: {how}" + (f" | {shown}" if shown else "")


def _kept(event: e.WorkKept) -> str:
    kept = ", ".join(artifact.path for artifact in event.artifacts)
    said = f"artifacts: {one_line(kept, OUTPUT_CHARS)}" if kept else "no artifacts"
    if event.missing:
        said += f"; nothing matches {one_line(', '.join(event.missing))}"
    return said + (f"; left out: {one_line('; '.join(event.left_out))}" if event.left_out else "")


def _verified(event: e.VerificationEnded) -> str:
    checks = ", ".join(
        f"{check.id} {'ok' if check.ok else 'NOT ok'} (exit {check.exit})" for check in event.checks
    )
    said = f"verification {'passed' if event.ok else 'failed'}: {checks or 'no checks'}"
    if event.protected_changed:
        said += f"; protected files changed: {', '.join(event.protected_changed)}"
    return said + (f"; {one_line(event.message)}" if event.message else "")
