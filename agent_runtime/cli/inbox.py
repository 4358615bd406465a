"""`inbox`: everything that waits for a person."""

from __future__ import annotations

import click

from agent_runtime.cli.console import (
    emit,
    json_option,
    note,
    one_line,
    say,
    short,
    with_runtime,
)
from agent_runtime.inbox import InboxItem, waiting
from agent_runtime.runtime import Runtime


@click.command(
    short_help="List everything that waits for a person.",
    epilog="""\b
Examples:
  agent-runtime inbox
  agent-runtime inbox --json
""",
)
@click.option(
    "-n", "--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, metavar="N",
    help="How many things at most.",
)  # fmt: skip
@json_option
@click.pass_context
def inbox(ctx: click.Context, limit: int, as_json: bool) -> int:
    """List everything that waits for a person, and what to do about each.

    Approvals, calls whose effect is unknown, tasks that nobody thinks for, paused tasks, and
    branches that could not be published; of the newest task first.
    """

    async def do(runtime: Runtime) -> None:
        found, more = await waiting(runtime, limit=limit)
        if as_json:
            emit([item_json(item) for item in found[:limit]])
        else:
            for item in found[:limit]:
                _say(item)
            if not found:
                note("nothing waits for a person")
        if more is not None:
            note(f"there may be more: -n {limit * 2}")

    return with_runtime(ctx, do)


def item_json(item: InboxItem) -> object:
    """As `GET /v1/inbox` has it."""
    import msgspec  # here: every verb's `--help` would pay for it

    return msgspec.to_builtins(item)


def _say(item: InboxItem) -> None:
    say(f"{short(item.task_id)} {item.kind}: {one_line(item.what)}")
    say(f"  {one_line(item.goal, 100)}")
    for answer in item.answers:
        say(f"  agent-runtime {' '.join(answer.words)}   # {answer.does}")
