"""The page about a task: `report`."""

from __future__ import annotations

import click
import msgspec

from agent_runtime.cli.console import (
    emit,
    json_option,
    note,
    say,
    task_argument,
    write_output,
)
from agent_runtime.cli.reach import Tasks, with_tasks
from agent_runtime.errors import UsageError


@click.command(
    short_help="Write one page about a task, for whoever reviews it.",
    epilog="""\b
Examples:
  agent-runtime report 4f2a
  agent-runtime report 4f2a --html --output report.html
""",
)
@task_argument
@click.option("--html", is_flag=True, help="HTML instead of Markdown: one file, no scripts.")
@click.option(
    "--output", metavar="FILE", help="Write it to FILE, which may exist, instead of printing it."
)
@json_option
@click.pass_context
def report(ctx: click.Context, task: str, html: bool, output: str | None, as_json: bool) -> int:
    """Write one page about a task, for whoever reviews it.

    What changed and why, the checks, what was not checked, approvals, cost, and how to verify and
    take it; all of it from the log. Nothing is run.
    """
    if as_json and (html or output is not None):
        raise UsageError("--json prints the report's parts: leave out --html and --output")

    async def do(tasks: Tasks) -> None:
        made = await tasks.report(await tasks.find(task))
        if as_json:
            emit(msgspec.to_builtins(made))
            return
        # Pages are made with jinja2, which the JSON does without.
        from agent_runtime.report_page import html_of, markdown_of

        page = html_of(made) if html else markdown_of(made)
        if output is None:
            say(page.removesuffix("\n"))
            return
        write_output(output, page.encode())
        note(f"wrote {output}")

    return with_tasks(ctx, do)
