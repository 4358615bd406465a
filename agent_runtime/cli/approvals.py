"""`approve` and `deny`: a person's answer to what a task asks, from any process."""

from __future__ import annotations

from typing import Literal

import click
import msgspec
from msgspec import structs

from agent_runtime.cli.asked import say_details
from agent_runtime.cli.console import (
    emit,
    json_option,
    note,
    say,
    short,
    task_argument,
    who,
)
from agent_runtime.cli.control import say_if_idle
from agent_runtime.cli.reach import Tasks, with_tasks
from agent_runtime.cli.views import decision_lines
from agent_runtime.cli.words import asked_words
from agent_runtime.errors import UsageError
from agent_runtime.loop import events as e
from agent_runtime.types import Json, Status, TaskId

_MAY_ASK = (Status.RUNNING, Status.WAITING, Status.PAUSED)
"""Of a task in one of these a call may wait for a yes, also while others of it run."""

_approval_argument = click.argument("approval", metavar="[APPROVAL]", required=False)
_message_option = click.option(
    "-m", "--message", default="", metavar="TEXT", help="Why; the task's brain reads it too."
)


@click.command(
    short_help="Allow what a task asks for.",
    epilog="""\b
Examples:
  agent-runtime approve
  agent-runtime approve 4f2a
  agent-runtime approve 4f2a a1 -m "only this once"
  agent-runtime approve 4f2a --for-task
  agent-runtime approve 4f2a a1 --arguments '{"command": "git push origin fix"}'
""",
)
@click.argument("task", metavar="[TASK]", required=False)
@_approval_argument
@_message_option
@click.option(
    "--for-task", is_flag=True,
    help="Also allow what the same rule asks about the same tool, for the rest of the task.",
)  # fmt: skip
@click.option(
    "--arguments", "arguments_text", metavar="JSON",
    help="Make the call with these arguments instead: an object, or @FILE with one.",
)  # fmt: skip
@json_option
@click.pass_context
def approve(
    ctx: click.Context,
    task: str | None,
    approval: str | None,
    message: str,
    for_task: bool,
    arguments_text: str | None,
    as_json: bool,
) -> int:
    """Allow what a task asks for; without TASK, list all that waits for a decision.

    APPROVAL is the id that `show` and the live view name; without it, the only pending one is
    meant. For a call whose effect is unknown, yes means: go on as if it had been done.
    """
    if task is None:
        if for_task or arguments_text is not None:
            raise UsageError("--for-task and --arguments are about one approval: name its task")
        return _list(ctx, as_json=as_json)
    arguments = None if arguments_text is None else _arguments(arguments_text)
    scope: Literal["once", "task"] = "task" if for_task else "once"
    return _decide(
        ctx, task, approval, "approve", message, as_json=as_json, scope=scope, arguments=arguments
    )


@click.command(
    short_help="Refuse what a task asks for.",
    epilog="""\b
Examples:
  agent-runtime deny 4f2a
  agent-runtime deny 4f2a a1 -m "use the local mirror instead"
""",
)
@task_argument
@_approval_argument
@_message_option
@json_option
@click.pass_context
def deny(ctx: click.Context, task: str, approval: str | None, message: str, as_json: bool) -> int:
    """Refuse what a task asks for.

    The step that asked fails with your message, and its recovery decides what follows. For a call
    whose effect is unknown, no means: go on as if it had failed.
    """
    return _decide(ctx, task, approval, "deny", message, as_json=as_json)


def _arguments(text: str) -> dict[str, Json]:
    """The object in an option's value, or in the file that it names with @."""
    if text.startswith("@"):
        try:
            with open(text[1:], encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--arguments: {text[1:]!r} cannot be read: {error}") from None
    try:
        return msgspec.json.decode(text, type=dict[str, Json])
    except msgspec.MsgspecError as error:
        raise UsageError(f"--arguments must be a JSON object, got {text[:60]!r}: {error}") from None


def _list(ctx: click.Context, *, as_json: bool) -> int:
    async def do(tasks: Tasks) -> None:
        found: list[tuple[str, e.ApprovalRequested]] = []
        for asking in await _may_ask(tasks):
            state = await tasks.state(asking)
            found += [(asking, asked) for asked in state.approvals.values()]
        if as_json:
            emit([{"task_id": task_id, **structs.asdict(asked)} for task_id, asked in found])
            return
        for task_id, asked in found:
            _say_asked(task_id, asked)
        if not found:
            note("nothing waits for a decision")

    return with_tasks(ctx, do)


async def _may_ask(tasks: Tasks) -> list[TaskId]:
    """The tasks that may wait for a decision, the newest first."""
    from agent_runtime.cli.remote import Remote

    if isinstance(tasks, Remote):
        return await tasks.asking()
    found: list[TaskId] = []
    while page := await tasks.tasks(
        statuses=_MAY_ASK, before=found[-1] if found else None, limit=500
    ):
        found += [TaskId(summary.task_id) for summary in page]
    return found


def _say_asked(task_id: str, asked: e.ApprovalRequested) -> None:
    say(f"{short(task_id)} {asked.approval_id}: {asked_words(asked)}")
    say_details(asked, "  ")
    for line in decision_lines(task_id, asked):
        say(f"  {line}")


def _decide(
    ctx: click.Context,
    task: str,
    approval: str | None,
    decision: str,
    message: str,
    *,
    as_json: bool,
    scope: Literal["once", "task"] = "once",
    arguments: dict[str, Json] | None = None,
) -> int:
    async def do(tasks: Tasks) -> None:
        task_id = await tasks.find(task)
        waiting = (await tasks.state(task_id)).approvals
        if approval is None and len(waiting) > 1 and not as_json:
            for asked in waiting.values():
                _say_asked(task_id, asked)
        answered = await tasks.decide_approval(
            task_id, approval, decision, by=who(), message=message, scope=scope,
            arguments=arguments,
        )  # fmt: skip
        done = "approved" if decision == "approve" else "denied"
        if as_json:
            emit({"task_id": task_id, "approval_id": answered, "decision": decision})
        else:
            say(f"{done}: {answered} of {short(task_id)}")
        await say_if_idle(tasks, task_id)

    return with_tasks(ctx, do)
