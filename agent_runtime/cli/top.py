"""`top`: the tasks that live, as they are now."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from agent_runtime.cli.console import clean, is_terminal, json_option, lasted, one_line, short_ids
from agent_runtime.cli.reach import Tasks, remote_of, with_tasks
from agent_runtime.cli.tasks import found_tasks, print_found
from agent_runtime.cli.words import phase_words
from agent_runtime.types import Status, TaskSummary

if TYPE_CHECKING:
    from rich.table import Table

LIVE = (Status.RUNNING, Status.WAITING, Status.PAUSED, Status.PENDING)
_STYLES = {Status.RUNNING: "cyan", Status.WAITING: "yellow", Status.PAUSED: "dim"}
_ROWS_BESIDES_TASKS = 5


@click.command(
    short_help="Show the tasks that live, as they change.",
    epilog="""\b
Examples:
  agent-runtime top
  agent-runtime top --every 5
  agent-runtime top | cat               one listing, without a terminal
""",
)
@click.option(
    "-n", "limit", type=click.IntRange(min=1), default=50, show_default=True, metavar="N",
    help="How many tasks to show.",
)  # fmt: skip
@click.option(
    "--every", "seconds", type=click.FloatRange(min=0.2), default=1.0, show_default=True,
    metavar="SECONDS", help="How often to look.",
)  # fmt: skip
@json_option
@click.pass_context
def top(ctx: click.Context, limit: int, seconds: float, as_json: bool) -> int:
    """Show the tasks that live, as they change, until Ctrl-C.

    Where no terminal is, it lists them once, as `ps` does.
    """
    if as_json or not is_terminal():

        async def once(tasks: Tasks) -> None:
            await print_found(tasks, await found_tasks(tasks, LIVE, {}, limit), as_json=as_json)

        return with_tasks(ctx, once)
    remote = remote_of(ctx)

    async def look(tasks: Tasks) -> None:
        # rich costs a tenth of a second, which only a terminal needs.
        from rich.console import Console
        from rich.live import Live

        console = Console(highlight=False)
        where = remote.place.url if remote is not None else "the local store"
        with Live(console=console, auto_refresh=False, screen=True) as live:
            while True:
                found = await found_tasks(tasks, LIVE, {}, limit)
                rows = max(console.height - _ROWS_BESIDES_TASKS, 1)
                live.update(_picture(found, where, rows), refresh=True)
                if remote is not None:
                    time.sleep(seconds)
                else:
                    import anyio

                    await anyio.sleep(seconds)

    return with_tasks(ctx, look)


def _picture(found: Sequence[TaskSummary], where: str, rows_max: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    counts = ", ".join(
        f"{count} {status}"
        for status in LIVE
        if (count := sum(task.status == status for task in found))
    )
    table = Table(
        title=Text(f"{where}: {counts or 'no task lives'}"), box=None, expand=True,
        title_justify="left",
    )  # fmt: skip
    for head in ("TASK", "STATUS", "PHASE", "EVENTS", "AGE", "GOAL"):
        table.add_column(head, no_wrap=True, ratio=1 if head == "GOAL" else None)
    names = short_ids([task.task_id for task in found])
    now_us = time.time_ns() // 1000
    for task in found[:rows_max]:
        reason = f" ({one_line(task.reason, 40)})" if task.status == Status.WAITING else ""
        cells = (
            names[task.task_id], f"{task.status}{reason}", phase_words(task.phase), str(task.seq),
            lasted((now_us - task.created_at_us) / 1e6), one_line(task.goal),
        )  # fmt: skip
        style = _STYLES.get(Status(task.status), "")
        table.add_row(*(Text(clean(cell)) for cell in cells), style=style)
    return table
