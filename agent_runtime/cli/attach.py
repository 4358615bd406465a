"""`attach`: look over a task's shoulder, and talk to it."""

from __future__ import annotations

import sys

import click

from agent_runtime.cli.console import (
    command,
    emit_line,
    first_cause,
    is_terminal,
    note,
    say,
    settings_of,
    short,
    task_argument,
)
from agent_runtime.cli.follow import Ending
from agent_runtime.cli.reach import remote_of, with_remote
from agent_runtime.cli.remote import Remote
from agent_runtime.cli.run import exit_code, json_lines_option, view_for, watch_there
from agent_runtime.cli.summary import result_lines
from agent_runtime.loop.state import State


@click.command(
    short_help="Watch a task live, and talk to it.",
    epilog="""\b
Examples:
  agent-runtime attach 4f2a
  agent-runtime attach 4f2a --json | jq .type
  echo "Leave the public API as it is." | agent-runtime attach 4f2a
""",
)
@task_argument
@json_lines_option
@click.pass_context
def attach(ctx: click.Context, task: str, as_json: bool) -> int:
    """Watch a task live, whoever drives it, and talk to it, until its end or Ctrl-C.

    A line that is typed is told to its brain; y or n decides what it asks; /approve [ID],
    /deny [ID] [WHY], /pause, /resume [MODEL], /cancel [WHY], /detach and /help are commands.
    Ctrl-C only detaches: the task goes on. Ends as `run` does.
    """
    remote = remote_of(ctx)
    if remote is None:
        try:
            return _attach_here(ctx, task, as_json=as_json)
        except BaseExceptionGroup as group:  # the open runtime's tasks wrap what goes through them
            raise first_cause(group) from group

    async def look(remote: Remote) -> int:
        task_id = await remote.find(task)
        state = await remote.state(task_id)
        known = State(task_id=task_id) if as_json or state.ended else state
        return watch_there(ctx, remote, known, 0, as_json=as_json, stay=True, talks=not as_json)

    return with_remote(remote, look)


def _attach_here(ctx: click.Context, task: str, *, as_json: bool) -> int:
    """To a task of the local store."""
    from anyio.from_thread import start_blocking_portal

    from agent_runtime.app import open_runtime
    from agent_runtime.cli.watch import StoreLine, watch

    settings = settings_of(ctx)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(open_runtime(settings)) as runtime,
    ):
        task_id = portal.call(runtime.find, task)
        state = portal.call(runtime.state, task_id)
        if not state.ended and portal.call(runtime.owner, task_id) is None:
            note(f"nobody drives this task; go on with: {command('resume', short(task_id))}")
        known = State(task_id=task_id) if as_json or state.ended else state
        person = is_terminal() and not as_json and sys.stdin.isatty()
        state, ending = watch(
            StoreLine(runtime, portal), view_for(as_json), known, stay=True, talks=not as_json,
            answers=person,
        )  # fmt: skip
        if ending is Ending.DETACHED:
            note(f"detached; look again with: {command('attach', short(task_id))}")
            return exit_code(state, ending)
        result = portal.call(runtime.result, task_id)
    if as_json:
        emit_line(result)
    else:
        for line in result_lines(state, result):
            say(line)
    return exit_code(state, ending)
