"""Looking at tasks: `ps`, `show`, `logs`; from any process beside the one that drives them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import click
import msgspec

from agent_runtime import schema
from agent_runtime.certificate import certificate_of
from agent_runtime.cli.asked import detail_lines, say_details
from agent_runtime.cli.console import (
    at,
    clock_time,
    command,
    emit,
    emit_line,
    json_option,
    label_of,
    lasted,
    note,
    one_line,
    row_json,
    say,
    short,
    short_ids,
    table,
    task_argument,
)
from agent_runtime.cli.reach import Tasks, with_tasks
from agent_runtime.cli.summary import (
    artifact_lines,
    check_words,
    egress_lines,
    test_words,
    waiting_lines,
)
from agent_runtime.cli.thoughts import thinking_lines, thinking_of
from agent_runtime.cli.words import USUAL_SANDBOX, call_words, phase_words, warns, words
from agent_runtime.errors import CorruptLog, UsageError
from agent_runtime.loop import codec
from agent_runtime.loop import events as e
from agent_runtime.loop.evolve import fold
from agent_runtime.loop.reached import told
from agent_runtime.loop.state import State, StepState, Usage, status_of
from agent_runtime.types import TERMINAL_STATUSES, Json, Row, Status, TaskId, TaskSummary

_PAGE = 500


# ---- ps ----------------------------------------------------------------------------------


@click.command(
    short_help="List tasks, newest first.",
    epilog="""\b
Examples:
  agent-runtime ps
  agent-runtime ps --status waiting --status paused
  agent-runtime ps --label team=parsers --all --json
""",
)
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice([status.value for status in Status]),
    help="Only tasks of this status; may be given several times.",
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="KEY=VALUE",
    help="Only tasks with this label; may be given several times, all must fit.",
)
@click.option("--all", "show_all", is_flag=True, help="Every task, not only the newest.")
@click.option(
    "-n", "limit", type=click.IntRange(min=1), default=20, show_default=True, metavar="N",
    help="How many tasks to list.",
)  # fmt: skip
@json_option
@click.pass_context
def ps(
    ctx: click.Context,
    statuses: tuple[str, ...],
    labels: tuple[str, ...],
    show_all: bool,
    limit: int,
    as_json: bool,
) -> int:
    """List tasks, newest first.

    A task that should be running and that no living process drives is called interrupted: `resume`
    goes on with it.
    """
    wanted = dict(label_of(text) for text in labels)

    async def do(tasks: Tasks) -> None:
        found = await found_tasks(tasks, statuses, wanted, None if show_all else limit)
        await print_found(tasks, found, as_json=as_json)

    return with_tasks(ctx, do)


async def print_found(tasks: Tasks, found: Sequence[TaskSummary], *, as_json: bool) -> None:
    """A table, or an array."""
    owners = {
        task.task_id: await tasks.owner(TaskId(task.task_id))
        for task in found
        if task.status not in TERMINAL_STATUSES
    }
    if as_json:
        emit([_row(task, owners.get(task.task_id)) for task in found])
    else:
        _print_tasks(found, owners)


def _row(task: TaskSummary, owner: str | None) -> dict[str, Json]:
    row: dict[str, Json] = msgspec.structs.asdict(task)
    created_at, updated_at = at(row.pop("created_at_us")), at(row.pop("updated_at_us"))
    more = {"owner": owner, "interrupted": is_interrupted(task.status, owner)}
    return {"id": task.task_id, **row, "created_at": created_at, "updated_at": updated_at, **more}


async def found_tasks(
    tasks: Tasks, statuses: Sequence[str], labels: Mapping[str, str], limit: int | None
) -> list[TaskSummary]:
    """The newest that fit; None: all of them."""
    found: list[TaskSummary] = []
    before: TaskId | None = None
    while limit is None or len(found) < limit:
        room = _PAGE if limit is None else min(_PAGE, limit - len(found))
        page = await tasks.tasks(statuses=statuses, labels=labels, before=before, limit=room)
        if not page:
            break
        found += page
        before = TaskId(page[-1].task_id)
    return found


def _print_tasks(found: Sequence[TaskSummary], owners: Mapping[str, str | None]) -> None:
    names = short_ids([task.task_id for task in found])
    now_us = time.time_ns() // 1000
    rows = []
    stopped: list[str] = []
    for task in found:
        status = task.status
        if is_interrupted(task.status, owners.get(task.task_id)):
            status = "interrupted"
            stopped.append(names[task.task_id])
        elif task.status == Status.WAITING:
            status = f"waiting ({task.reason})"
        age = lasted((now_us - task.created_at_us) / 1e6)
        rows.append((names[task.task_id], status, phase_words(task.phase), age, task.goal))
    table(rows, heads=("TASK", "STATUS", "PHASE", "AGE", "GOAL"))
    if not found:
        note("no tasks")
    if stopped:
        note(f"interrupted, nobody drives it; go on with: {command('resume', stopped[0])}")


def is_interrupted(status: str, owner: str | None) -> bool:
    """Should it be driven, and is there nobody who does?"""
    return owner is None and status in (Status.PENDING, Status.RUNNING)


# ---- show --------------------------------------------------------------------------------


@click.command(
    short_help="Show where a task stands.",
    epilog="""\b
Examples:
  agent-runtime show 4f2a
  agent-runtime show 4f2a --json | jq .steps
""",
)
@task_argument
@json_option
@click.pass_context
def show(ctx: click.Context, task: str, as_json: bool) -> int:
    """Show where a task stands: phases, plan, approvals, usage, evidence."""

    async def do(tasks: Tasks) -> None:
        task_id = await tasks.find(task)
        rows = await tasks.rows(task_id)
        codec.check_chain(rows, task_id=task_id)
        events = [codec.decode(row) for row in rows]
        times = [row.at_us for row in rows]
        state = fold(zip(events, times, strict=True), State(task_id=task_id))
        owner = await tasks.owner(task_id)
        picture = describe(state, rows, events, owner)
        if as_json:
            emit(picture)
        else:
            _print_task(state, picture)

    return with_tasks(ctx, do)


def describe(
    state: State, rows: Sequence[Row], events: Sequence[e.AnyEvent], owner: str | None
) -> dict[str, Json]:
    """A task as `show --json` has it."""
    status, reason = status_of(state)
    found = state.verification
    pairs = list(zip(rows, events, strict=True))
    return {
        "id": state.task_id,
        "status": status,
        "phase": state.phase,
        "reason": reason,
        "goal": state.task.goal,
        "seq": state.seq,
        "created_at": at(state.created_at_us),
        "updated_at": at(state.at_us),
        "owner": owner,
        "interrupted": is_interrupted(status, owner),
        "phases": [
            {"phase": event.phase, "seq": row.seq, "at": at(row.at_us)}
            for row, event in pairs
            if isinstance(event, e.PhaseEntered)
        ],
        "steps": [_step(step) for step in state.steps.values()],
        "calls": [
            {
                "call_id": call_id,
                "tool": call.intent.tool,
                "arguments": call.intent.arguments,
                "effect": call.intent.effect,
                "runs": call.runs,
                "lost": call.lost,
            }
            for call_id, call in state.calls.items()
        ],
        "toolbelts": sorted(state.toolbelts),
        "sandbox": {
            "tools": (state.workspace.sandbox or None) if state.workspace else None,
            "checks": (found.sandbox or None) if found else None,
        },
        "usage": _usage(state.usage),
        "limits": state.task.limits,
        "run": state.run,
        "forked": None
        if state.forked is None
        else {
            "parent": state.forked.parent,
            "at": state.forked.at,
            "replaced": state.forked.replaced,
        },
        "total_usage": _usage(state.total),
        "earlier_runs": [
            {
                "status": run.conclusion.status,
                "reason": run.conclusion.reason,
                "ended_seq": run.ended_seq,
                "usage": _usage(run.usage),
            }
            for run in state.earlier
        ],
        "thinking": thinking_of(state, events),
        "approvals": list(state.approvals.values()),
        "unknown_effects": list(state.unknown),
        "egress": {"network": state.task.policy.network, **told(state.reached)},
        "workspace": state.workspace,
        "environment": state.prepared,
        "facts": state.analysis.facts if state.analysis else None,
        "protected": list(state.protected),
        "verification": found,
        "certificate": certificate_of(state, rows),
        "artifacts": list(state.kept.artifacts) if state.kept else [],
        "missing_artifacts": list(state.kept.missing) if state.kept else [],
        "cleanup_problems": state.cleaned.problems if state.cleaned else [],
        "spec": state.task,
    }


def _usage(usage: Usage) -> dict[str, Json]:
    return {
        "steps": usage.steps,
        "tokens": usage.tokens,
        "usd": usage.usd,
        "seconds": usage.running_us / 1e6,
    }


def _step(step: StepState) -> dict[str, Json]:
    result, failure = step.result, step.failure
    return {
        "id": step.spec.id,
        "status": step.status,
        "tool": step.spec.tool,
        "needs": step.spec.needs,
        "attempts": step.attempt,
        "exit": result.exit if result else None,
        "ok": result.ok if result else None,
        "kind": (result.kind if result else "") or (failure.kind if failure else ""),
        "reason": (failure.reason if failure else "") or (result.reason if result else ""),
        "effect": step.last_effect,
        "approval": step.approval_id or None,
    }


def _print_task(state: State, picture: Mapping[str, Any]) -> None:
    status = "interrupted" if picture["interrupted"] else picture["status"]
    reason = f": {one_line(picture['reason'])}" if picture["reason"] else ""
    say(picture["id"])
    say(f"goal       {one_line(picture['goal'])}")
    say(f"status     {status}{reason}")
    say(f"phase      {phase_words(picture['phase'])} (event {picture['seq']})")
    say(f"created    {picture['created_at']}")
    say(f"driven by  {picture['owner'] or 'nobody'}")
    if state.forked is not None:
        say(f"from       {words(state.forked).removeprefix('forked ')}")
    for number, run in enumerate(state.earlier, 1):
        told = one_line(f"{run.conclusion.status}: {run.conclusion.reason}")
        say(f"run {number:<6} {told}; superseded")
    say(f"usage      {_spent(picture['usage'])}")
    if state.earlier:
        say(f"all runs   {_spent(picture['total_usage'])}")
    if state.workspace is not None and state.workspace.path:
        say(f"workspace  {words(state.workspace).removeprefix('workspace ')}")
        if state.workspace.sandbox:
            say(f"sandbox    {state.workspace.sandbox}")
            for name, means in state.workspace.limits.items():
                say(f"  {name}: {one_line(means)}")
    if state.prepared is not None:
        say(f"setting    {words(state.prepared)}")
    if state.steps:
        say("steps")
        for step in state.steps.values():
            _print_step(step)
    if picture["thinking"] is not None:
        for line in thinking_lines(state, picture["thinking"]):
            say(line)
    for line in egress_lines(state):
        say(line)
    for unknown in state.unknown:
        say(f"! unknown effect of {unknown.tool} ({unknown.call_id}): {one_line(unknown.message)}")
    if state.verification is not None:
        found = state.verification
        where = found.sandbox if found.sandbox not in ("", USUAL_SANDBOX) else ""
        verdict = "passed" if found.ok else "failed"
        say(f"verification {verdict}" + (f" in the sandbox {where}" if where else ""))
        for check in found.checks:
            say(f"  {check_words(check)}")
            for line in test_words(check):
                say(f"    {line}")
        if found.protected_changed:
            say(f"  ! protected files changed: {', '.join(found.protected_changed)}")
    if state.kept is not None:
        for line in artifact_lines(state.kept):
            say(line.removeprefix("  "))
    if picture["status"] == Status.WAITING:
        for line in waiting_lines(state, driven=picture["owner"] is not None):
            say(line)
        for asked in state.approvals.values():
            if detail_lines(asked):
                say(f"{asked.approval_id} in full:")
                say_details(asked, "  ")
    elif picture["interrupted"] or picture["status"] == Status.PAUSED:
        say(f"go on with: {command('resume', short(state.task_id))}")


def _spent(usage: Mapping[str, Any]) -> str:
    spent = f"{usage['steps']} calls, {lasted(usage['seconds'])} running"
    if usage["tokens"] or usage["usd"]:
        spent += f", {usage['tokens']} tokens, ${usage['usd']:.2f}"
    return spent


def _print_step(step: StepState) -> None:
    about = step.spec.goal or call_words(step.spec.tool or "", dict(step.spec.args))
    more = f", attempt {step.attempt}" if step.attempt > 1 else ""
    if step.result is not None and step.result.exit is not None:
        more += f", exit {step.result.exit}"
    say(f"  {step.spec.id:12} {step.status}{more} | {one_line(about)}")


# ---- logs --------------------------------------------------------------------------------


@click.command(
    short_help="Print a task's events.",
    epilog="""\b
Examples:
  agent-runtime logs 4f2a
  agent-runtime logs -f 4f2a
  agent-runtime logs 4f2a --types CallIntended,CallReturned --after 20 --json
""",
)
@task_argument
@click.option("-f", "--follow", is_flag=True, help="Go on with new events until the task ends.")
@click.option(
    "--after", type=click.IntRange(min=0), default=0, metavar="SEQ",
    help="Only events after this number.",
)  # fmt: skip
@click.option("--types", metavar="A,B", help="Only events of these types, separated by commas.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print each event as one line of JSON, exactly as the log has it.",
)
@click.pass_context
def logs(
    ctx: click.Context, task: str, follow: bool, after: int, types: str | None, as_json: bool
) -> int:
    """Print a task's events, oldest first: number, time, type, and the essentials.

    With -f it follows the task, whichever process drives it, until its end or Ctrl-C.
    """
    wanted = _types(types)

    async def do(tasks: Tasks) -> None:
        task_id = await tasks.find(task)
        if follow:
            owner = await tasks.owner(task_id)
            status = (await tasks.summary(task_id)).status
            if owner is None and status not in TERMINAL_STATUSES:
                note(f"nobody drives this task; go on with: {command('resume', short(task_id))}")
            async for row in tasks.follow(task_id, after):
                _print_row(row, wanted, as_json=as_json)
            return
        for row in await tasks.rows(task_id, after):
            _print_row(row, wanted, as_json=as_json)

    return with_tasks(ctx, do)


def _types(text: str | None) -> frozenset[str]:
    """Names of event types; empty for all of them."""
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    for name in names:
        if name not in codec.EVENT_TYPES:
            near = schema.nearest(name, codec.EVENT_TYPES)
            hint = (
                f"did you mean {near!r}?" if near else f"there are: {', '.join(codec.EVENT_TYPES)}"
            )
            raise UsageError(f"--types: no event type is called {name!r}; {hint}")
    return frozenset(names)


def _print_row(row: Row, wanted: frozenset[str], *, as_json: bool) -> None:
    if wanted and row.type not in wanted:
        return
    if as_json:
        emit_line(row_json(row))
        return
    try:
        event = codec.decode(row)
    except CorruptLog as error:
        said, mark = str(error), "!"
    else:
        said, mark = words(event), "!" if warns(event) else " "
    say(f"{row.seq:>5}  {clock_time(row.at_us)} {mark} {row.type:22} {said}")
