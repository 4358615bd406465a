"""`inbox`: everything that waits for a person."""

from __future__ import annotations

import click
import msgspec

from agent_runtime.api.views import moment
from agent_runtime.cli.console import emit, json_option, note, one_line, say, short
from agent_runtime.cli.reach import Tasks, with_tasks
from agent_runtime.client.views import InboxAnswer, InboxView
from agent_runtime.inbox import InboxItem, waiting


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

    async def do(tasks: Tasks) -> None:
        found, is_all = await _waiting(tasks, limit)
        if as_json:
            emit(msgspec.to_builtins(found[:limit]))
        else:
            for item in found[:limit]:
                _say(item)
            if not found:
                note("nothing waits for a person")
        if not is_all:
            note(f"there may be more: -n {limit * 2}")

    return with_tasks(ctx, do)


async def _waiting(tasks: Tasks, limit: int) -> tuple[list[InboxView], bool]:
    """At least `limit` things, if there are as many. Also: is that all?"""
    from agent_runtime.cli.remote import Remote

    if isinstance(tasks, Remote):
        # It looks at its logs itself; here every log would have to be fetched.
        return await tasks.inbox(limit)
    items, more = await waiting(tasks, limit=limit)
    return [_view(item) for item in items], more is None


def _view(item: InboxItem) -> InboxView:
    """As `GET /v1/inbox` has it."""
    return InboxView(
        kind=item.kind, task_id=item.task_id, goal=item.goal, since=moment(item.since_us),
        what=item.what, approval_id=item.approval_id,
        answers=[
            InboxAnswer(does=each.does, path=each.path, body=each.body, words=each.words)
            for each in item.answers
        ],
    )  # fmt: skip


def _say(item: InboxView) -> None:
    say(f"{short(item.task_id)} {item.kind}: {one_line(item.what)}")
    say(f"  {one_line(item.goal, 100)}")
    for answer in item.answers:
        say(f"  agent-runtime {' '.join(answer.words)}   # {answer.does}")
