"""What is said about a task: fields for programs, and a text that a model understands by itself.

The text of an ended task has all that counts: status, grade, branch, checks, what was not checked,
cost, and how to go on. It is made of the report that reviewers get, so both say the same, and
everything that a task or a tool wrote stays a quotation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import msgspec

from agent_runtime.api.control import approval_view
from agent_runtime.api.views import ApprovalView, TaskView, view_of
from agent_runtime.certificate import Result, result_of
from agent_runtime.loop import events as e
from agent_runtime.loop.state import State
from agent_runtime.report import Item, Quote, Section, quote, visible
from agent_runtime.report_page import markdown_of
from agent_runtime.runtime import Runtime
from agent_runtime.types import TERMINAL_STATUSES, Json, Status, TaskId, TaskSummary

TEXT_CHARS_MAX: Final = 20_000
PREVIEW_CHARS_MAX: Final = 6_000
TOLD_SECTIONS: Final = (
    "Result", "What changed", "Checks", "Not checked", "Unknown effects", "Artifacts", "Cost",
)  # fmt: skip
"""Of the report, in this order; the rest is in `read_task`."""
_NONE: Final[tuple[Item, ...]] = (("none",),)


class CheckTold(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one objective's check ended, and how it had ended before the work."""

    id: str
    ok: bool
    exit: int
    command: str | list[str]
    passed: int | None = None
    exit_before: int | None = None
    passed_before: int | None = None
    reason: str = ""


class CostTold(msgspec.Struct, frozen=True):
    """What was spent, over all runs. `seconds` are running time."""

    steps: int
    tokens: int
    usd: float
    seconds: float


class TaskTold(TaskView, frozen=True, kw_only=True, omit_defaults=True):
    """A task in a line, and what there is to say where it stands still."""

    grade: str = ""
    branch: str = ""
    """Where it was pushed to; empty if it was not."""
    checks: Sequence[CheckTold] = ()
    changed: Sequence[str] = ()
    not_checked: Sequence[str] = ()
    protected_files: Sequence[str] = ()
    unknown_effects: Sequence[Json] = ()
    artifacts: Sequence[Json] = ()
    cost: CostTold | None = None
    approvals: Sequence[ApprovalView] = ()
    """That wait for somebody."""
    decides: bool = False
    """It waits for a connected client to decide its next turn: `next_decision`."""
    how: Sequence[str] = ()
    """What can be done now, a sentence each."""


async def told(runtime: Runtime, summary: TaskSummary) -> tuple[TaskTold, str]:
    """A task where it stands. Only of one that stands still the log is read."""
    if summary.status in (Status.WAITING, Status.PAUSED):
        return _waiting(await runtime.state(TaskId(summary.task_id)), summary)
    if summary.status in TERMINAL_STATUSES:
        return await _ended(runtime, summary)
    task_id = summary.task_id
    how = [f'get_task {{"task_id": "{task_id}", "wait_seconds": 50}} waits for it']
    text = (
        f"Task {task_id} is {summary.status}{_phase(summary)}, at event {summary.seq}: "
        f"{_line(summary.goal)}\n{how[0]}."
    )
    return _view(summary, how=how), text


def _phase(summary: TaskSummary) -> str:
    words = ", ".join(word for word in (summary.phase, summary.reason) if word and word != "idle")
    return f" ({words})" if words else ""


def _view(summary: TaskSummary, **more: Json) -> TaskTold:
    return TaskTold(**msgspec.structs.asdict(view_of(summary)), **more)


# ---- ended -------------------------------------------------------------------------------


async def _ended(runtime: Runtime, summary: TaskSummary) -> tuple[TaskTold, str]:
    task_id = TaskId(summary.task_id)
    state = await runtime.state(task_id)
    report = await runtime.report(task_id)
    result = result_of(state)
    how = _after_the_end(state, result)
    found, used = state.verification, state.total
    by_title = {section.title: section for section in report.sections}
    sections = [by_title[title] for title in TOLD_SECTIONS if by_title[title].items != _NONE]
    steps = Section("How to go on", tuple((line,) for line in how))
    page = markdown_of(replace(report, sections=(*sections, steps)))
    view = _view(
        summary,
        grade=found.grade if found else "",
        branch=result.branch or "",
        checks=[_check(check) for check in found.checks] if found else [],
        changed=list(found.changed) if found else [],
        not_checked=[_plain(item) for item in by_title["Not checked"].items],
        protected_files=result.protected_files,
        unknown_effects=result.unknown_effects,
        artifacts=result.artifacts,
        cost=CostTold(used.steps, used.tokens, used.usd, used.running_us / 1e6),
        how=how,
    )
    head = f"Task {task_id}: {summary.status}"
    if found is not None and found.grade:
        head += f", grade {found.grade}"
    head += f", branch {_line(result.branch)}" if result.branch else ", no branch was pushed"
    text = f"{head}.\n\n{page}"
    if len(text) > TEXT_CHARS_MAX:
        rest = f'read_task {{"task_id": "{task_id}", "what": "report"}} has all of it'
        text = f"{text[:TEXT_CHARS_MAX]}\n[cut here: {rest}]\n\n" + "\n".join(how)
    return view, text


def _check(check: e.CheckResult) -> CheckTold:
    before = check.before
    return CheckTold(
        id=check.id, ok=check.ok, exit=check.exit, command=check.command, passed=check.passed,
        exit_before=before.exit if before else None,
        passed_before=before.passed if before else None, reason=check.reason,
    )  # fmt: skip


def _plain(item: Item) -> str:
    return "".join(part.text if isinstance(part, Quote) else part for part in item)


def _after_the_end(state: State, result: Result) -> list[str]:
    task_id = state.task_id
    how = []
    if state.verification is not None and state.verification.patch_bytes:
        flag = "" if result.status == Status.SUCCEEDED else " --unverified"
        how += [
            f'read_task {{"task_id": "{task_id}", "what": "diff"}} shows the patch',
            f"on the machine of the daemon, agent-runtime apply {task_id}{flag} puts it into the "
            f"checkout, and agent-runtime pull {task_id} makes a branch of it",
        ]
    elif result.status != Status.CANCELLED:
        how.append(f'read_task {{"task_id": "{task_id}", "what": "events"}} shows what happened')
    how.append(
        f'continue_task {{"task_id": "{task_id}", "message": "…"}} goes on with the same files: '
        "say what is still wanted"
    )
    return how


# ---- waiting -----------------------------------------------------------------------------


def _waiting(state: State, summary: TaskSummary) -> tuple[TaskTold, str]:
    asked = list(state.approvals.values())
    how = _while_waiting(state, summary)
    view = _view(
        summary,
        approvals=[approval_view(summary.task_id, each) for each in asked],
        decides=state.asked_client,
        how=how,
    )
    why = f" for {summary.reason}" if summary.reason else ""
    lines = [f"Task {summary.task_id} is {summary.status}{why}: {_line(summary.goal)}"]
    for each in asked:
        lines += ["", f"It asks, as {summary.task_id}.{each.approval_id}:", approval_text(each)]
    lines += ["", *(f"- {line}" for line in how)]
    return view, "\n".join(lines)


def _while_waiting(state: State, summary: TaskSummary) -> list[str]:
    task_id, how = summary.task_id, list[str]()
    for each in state.approvals.values():
        yes, no = decisions_of(each)
        how.append(
            f'approve {{"approval": "{task_id}.{each.approval_id}", "decision": "approve"}} '
            f'{yes}; "deny" {no}. That is for the person you work for to decide'
        )
    if state.asked_client:
        how.append(f'next_decision {{"task_id": "{task_id}"}} gives the turn that you can decide')
    elif summary.status == Status.WAITING and summary.reason == "brain":
        how += [
            f'resume_task {{"task_id": "{task_id}", "model": "PROVIDER/NAME"}} lets a model think '
            'for it; "model": "client" lets you do that, by next_decision',
            *(_line(offer) for offer in (state.brain.offers if state.brain is not None else ())),
        ]
    if summary.status == Status.PAUSED:
        how.append(f'resume_task {{"task_id": "{task_id}"}} lets it go on')
    how.append(f'cancel_task {{"task_id": "{task_id}"}} ends it')
    return how


def decisions_of(asked: e.ApprovalRequested) -> tuple[str, str]:
    """What a yes and what a no does."""
    if asked.subject == "unknown_effect":
        return "goes on as if it had been done", "goes on as if it had failed"
    return "lets it run", "refuses it"


def approval_text(asked: e.ApprovalRequested) -> str:
    """What a person is asked, with every argument: nobody can approve what is cut off."""
    lines = [visible(asked.question, keep="\n")]
    if asked.subject == "call":
        given = msgspec.json.format(msgspec.json.encode(asked.arguments), indent=2).decode()
        lines += [f"tool: {visible(asked.tool)}", f"arguments: {visible(given, keep=chr(10))}"]
    if asked.preview:
        shown = asked.preview[:PREVIEW_CHARS_MAX]
        lines += ["what it would change:", visible(shown, keep="\n\t")]
        if len(shown) < len(asked.preview):
            lines.append(f"[the preview has {len(asked.preview)} characters and is cut here]")
    return "\n".join(lines)


def _line(text: str) -> str:
    return quote(" ".join(text.split())).text


def list_text(views: Sequence[TaskView], more: bool) -> str:
    """Tasks, a line each."""
    if not views:
        return "There are no such tasks."
    lines = [line_of(view) for view in views]
    return "\n".join([*lines, *(["There are more: give `cursor`."] if more else [])])


def line_of(view: TaskView) -> str:
    """A task in a line."""
    reason = f" ({_line(view.reason)})" if view.reason else ""
    return (
        f"{view.id} {view.status}{reason}, event {view.seq} at {view.updated_at}: "
        f"{_line(view.goal)}"
    )
