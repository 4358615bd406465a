"""Carrying an ended task from one store to another: `export`, `import`."""

from __future__ import annotations

import click

from agent_runtime import bundles
from agent_runtime.cli.console import (
    command,
    emit_line,
    json_option,
    note,
    say,
    short,
    task_argument,
    with_runtime,
    write_output,
)
from agent_runtime.errors import UsageError
from agent_runtime.runtime import Runtime


@click.command(
    short_help="Write an ended task into one file, for another store.",
    epilog="""\b
Examples:
  agent-runtime export 4f2a task.tar
""",
)
@task_argument
@click.argument("file", metavar="FILE")
@click.pass_context
def export(ctx: click.Context, task: str, file: str) -> int:
    """Write an ended task into one file, for another store.

    It holds the log, every text of it, the certificate, and all files of the repository as they
    were before and after the work. FILE may exist.
    """

    async def do(runtime: Runtime) -> None:
        task_id = await runtime.find(task)
        data = await runtime.export_task(task_id)
        write_output(file, data)
        note(f"wrote {file}: {task_id}, {len(data):,} bytes; it holds the whole repository")

    return with_runtime(ctx, do)


@click.command(
    "import",
    short_help="Take in a task that was exported elsewhere.",
    epilog="""\b
Examples:
  agent-runtime import task.tar
  agent-runtime --store sqlite:////tmp/look.db import task.tar
""",
)
@click.argument("file", metavar="FILE")
@json_option
@click.pass_context
def import_(ctx: click.Context, file: str, as_json: bool) -> int:
    """Take in a task that was exported elsewhere, all of it or nothing.

    Everything in it is checked as `verify` does, and nothing is run. A task that is here with the
    very same log is left as it is; one with another log is a conflict.
    """
    data = _read(file)

    async def do(runtime: Runtime) -> None:
        taken = await runtime.import_task(data)
        if as_json:
            emit_line({"task_id": taken.task_id, "new": taken.new})
            return
        say(taken.task_id)
        if not taken.new:
            note("it was here already, with the very same log")
        else:
            note(f"look at it with: {command('show', short(taken.task_id))}")

    return with_runtime(ctx, do)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as opened:
            data = opened.read(bundles.BYTES_MAX + 1)
    except OSError as error:
        raise UsageError(f"{path!r} cannot be read: {error.strerror}") from error
    return data
