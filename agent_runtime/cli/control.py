"""Talking to a task: `cancel`, `pause`, `steer`, `change`; from any process beside its driver."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agent_runtime.cli.console import (
    command,
    label_of,
    note,
    one_line,
    say,
    short,
    task_argument,
    who,
)
from agent_runtime.cli.reach import Tasks, with_tasks
from agent_runtime.errors import Conflict, DeadlineExceeded, UsageError
from agent_runtime.loop.state import State, status_of
from agent_runtime.types import TERMINAL_STATUSES, TaskId

if TYPE_CHECKING:
    from agent_runtime.runtime import Runtime

CANCEL_SECONDS_MAX = 120.0
"""How long `cancel` waits for the process that drives the task to end it."""
POLL_SECONDS = 0.5


@click.command(
    short_help="End a task for good.",
    epilog="""\b
Examples:
  agent-runtime cancel 4f2a --reason "wrong branch"
  agent-runtime cancel 4f2a --no-wait
""",
)
@task_argument
@click.option("--reason", default="", metavar="TEXT", help="Why, for the log.")
@click.option(
    "--no-wait",
    is_flag=True,
    help="Only ask for the end: the process that drives the task, or the next one, carries it out.",
)
@click.pass_context
def cancel(ctx: click.Context, task: str, reason: str, no_wait: bool) -> int:
    """End a task for good: its calls are stopped, its working copy is removed.

    If nobody drives the task, it is brought to its end here. What it did so far can still be looked
    at: the log and the versions of the workspace stay.
    """

    async def do(tasks: Tasks) -> None:
        task_id = await tasks.find(task)
        await tasks.cancel(task_id, by=who(), reason=reason)
        if no_wait:
            await _say_who_hears(tasks, task_id, "cancel asked for")
            return
        state = await _carried_out(tasks, task_id)
        status, why = status_of(state)
        say(f"{short(task_id)} is {status}" + (f": {one_line(why)}" if why else ""))

    return with_tasks(ctx, do)


async def _carried_out(tasks: Tasks, task_id: TaskId) -> State:
    """Wait until the task has ended; drive it if it is ours and its owner is gone."""
    from agent_runtime.cli.remote import Remote

    if isinstance(tasks, Remote):
        return await tasks.wait_ended(task_id, CANCEL_SECONDS_MAX)
    from agent_runtime.runtime import Runtime

    assert isinstance(tasks, Runtime)
    return await _ended_here(tasks, task_id)


async def _ended_here(runtime: Runtime, task_id: TaskId) -> State:
    import anyio

    store = runtime.ports.store
    give_up_at = anyio.current_time() + CANCEL_SECONDS_MAX
    while (await store.summary(task_id)).status not in TERMINAL_STATUSES:
        owner = await store.owner(task_id)
        if owner is None:
            try:
                return await runtime.drive(task_id)
            except Conflict:
                continue  # somebody else was faster: he carries it out, or has done so
        if anyio.current_time() > give_up_at:
            raise DeadlineExceeded(
                f"{owner} has not ended {task_id!r} within {CANCEL_SECONDS_MAX:.0f} s; the request "
                "is stored: end that process, and the next one carries it out"
            )
        await store.wait_changed(POLL_SECONDS)
    return await runtime.state(task_id)


@click.command(
    short_help="Freeze a task where it stands.",
    epilog="""\b
Examples:
  agent-runtime pause 4f2a
  agent-runtime resume 4f2a
""",
)
@task_argument
@click.pass_context
def pause(ctx: click.Context, task: str) -> int:
    """Freeze a task where it stands; `resume` goes on with it.

    What its present call runs in the sandbox stands still, and no deadline runs. Its `run` stays
    while there is such a call, else it ends with 9.
    """

    async def do(tasks: Tasks) -> None:
        task_id = await tasks.find(task)
        await tasks.pause(task_id, by=who())
        say(f"{short(task_id)} pauses; go on with: {command('resume', short(task_id))}")

    return with_tasks(ctx, do)


@click.command(
    short_help="Tell a task's brain something.",
    epilog="""\b
Examples:
  agent-runtime steer 4f2a "Leave the public API as it is."
""",
)
@task_argument
@click.argument("message", metavar="MESSAGE")
@click.pass_context
def steer(ctx: click.Context, task: str, message: str) -> int:
    """Tell a task's brain something; it reads it before its next turn."""

    async def do(tasks: Tasks) -> None:
        if not message.strip():
            raise UsageError("the message is empty; say something")
        task_id = await tasks.find(task)
        await tasks.steer(task_id, message, by=who())
        await _say_who_hears(tasks, task_id, "told")

    return with_tasks(ctx, do)


@click.command(
    short_help="Give a task other labels, or another priority.",
    epilog="""\b
Examples:
  agent-runtime change 4f2a --priority 9
  agent-runtime change 4f2a --label team=parsers --remove urgent
""",
)
@task_argument
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Add or replace one.")
@click.option("--remove", "gone", multiple=True, metavar="KEY", help="Take a label away.")
@click.option("--priority", type=click.IntRange(0, 9), help="9 is the most urgent.")
@click.pass_context
def change(
    ctx: click.Context,
    task: str,
    labels: tuple[str, ...],
    gone: tuple[str, ...],
    priority: int | None,
) -> int:
    """Give a task that has not ended other labels, or another priority."""

    async def do(tasks: Tasks) -> None:
        from agent_runtime.taskfile import parse_change

        if not labels and not gone and priority is None:
            raise UsageError("say what is to be another: --label, --remove or --priority")
        task_id = await tasks.find(task)
        wish: dict[str, object] = {} if priority is None else {"priority": priority}
        if labels or gone:
            now = (await tasks.summary(task_id)).labels
            kept = {key: value for key, value in now.items() if key not in gone}
            wish["labels"] = kept | dict(label_of(text) for text in labels)
        await tasks.change(task_id, parse_change(wish), by=who())
        after = await tasks.summary(task_id)
        pairs = ", ".join(f"{key}={value}" for key, value in after.labels.items())
        say(f"{short(task_id)}: priority {after.priority}, labels {one_line(pairs) or 'none'}")

    return with_tasks(ctx, do)


async def _say_who_hears(tasks: Tasks, task_id: TaskId, done: str) -> None:
    say(f"{done}: {short(task_id)}")
    await say_if_idle(tasks, task_id)


async def say_if_idle(tasks: Tasks, task_id: TaskId) -> None:
    """After a fact was stored: tell if no process will act on it by itself."""
    if await tasks.owner(task_id) is None:
        note(f"nobody drives this task now; go on with: {command('resume', short(task_id))}")
