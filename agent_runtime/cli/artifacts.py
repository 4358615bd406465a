"""What a task kept beside its patch: `artifacts`."""

from __future__ import annotations

import click

from agent_runtime.cli.console import (
    command,
    emit,
    json_option,
    note,
    say,
    short,
    table,
    task_argument,
)
from agent_runtime.cli.reach import Tasks, with_tasks
from agent_runtime.loop.events import WorkKept
from agent_runtime.types import Json


@click.command(
    short_help="List the files that a task kept, or write them out.",
    epilog="""\b
Examples:
  agent-runtime artifacts 4f2a
  agent-runtime artifacts 4f2a --output ./from-task
  agent-runtime artifacts 4f2a --json | jq '.artifacts[].sha256'
""",
)
@task_argument
@click.option(
    "--output",
    "directory",
    metavar="DIR",
    help="Write them below DIR, which is made if need be. A file with another content that is in "
    "the way ends it with 6, and nothing is written.",
)
@json_option
@click.pass_context
def artifacts(ctx: click.Context, task: str, directory: str | None, as_json: bool) -> int:
    """List the files that a task kept, or write them out.

    They are what `artifacts` in the task file names, as they lay in the workspace at the end of the
    newest run. No check has looked at them; what was checked is in the patch.
    """

    async def do(tasks: Tasks) -> None:
        task_id = await tasks.find(task)
        kept = await tasks.artifacts(task_id)
        written = await tasks.take_artifacts(task_id, directory) if directory else []
        if as_json:
            emit(_json(task_id, kept, directory))
            return
        if directory:
            for path in written:
                say(path)
            note(f"wrote {len(written)} files below {directory}")
        else:
            _print(kept, short(task_id))
        for pattern in kept.missing if kept else ():
            note(f"! nothing matches {pattern!r}")
        for said in kept.left_out if kept else ():
            note(f"! left out: {said}")

    return with_tasks(ctx, do)


def _json(task_id: str, kept: WorkKept | None, directory: str | None) -> dict[str, Json]:
    return {
        "task_id": task_id,
        "artifacts": list(kept.artifacts) if kept else [],
        "missing": list(kept.missing) if kept else [],
        "left_out": list(kept.left_out) if kept else [],
        "output": directory,
    }


def _print(kept: WorkKept | None, name: str) -> None:
    if kept is None or not kept.artifacts:
        note("no artifacts")
        return
    rows = [(f"{a.bytes:,}", a.sha256[:16], a.path) for a in kept.artifacts]
    table(rows, heads=("BYTES", "SHA-256", "PATH"))
    note(f"write them out with: {command('artifacts', name, '--output', 'DIR')}")
