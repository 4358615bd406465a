"""Where a task's branch goes: `pull` to a checkout here, `publish` to a git remote."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import click
import msgspec

from agent_runtime.cli.console import (
    emit,
    json_option,
    note,
    one_line,
    say,
    short,
    task_argument,
    unsafe_option,
    who,
)
from agent_runtime.cli.reach import Tasks, remote_of, with_tasks
from agent_runtime.cli.run import (
    HAND_OVER_SECONDS_MAX,
    drive_here,
    json_lines_option,
    refuse_unsafe,
    told,
    told_there,
    watch_there,
)
from agent_runtime.errors import UsageError
from agent_runtime.loop.state import status_of
from agent_runtime.taskfile import parse_publish
from agent_runtime.types import PublishSpec, Status
from agent_runtime.workspaces.pull import pull_branch

if TYPE_CHECKING:
    from agent_runtime.cli.remote import Remote
    from agent_runtime.runtime import Runtime


@click.command(
    short_help="Bring a task's branch back into a checkout.",
    epilog="""\b
Examples:
  agent-runtime pull 4f2a
  agent-runtime pull 4f2a --repo ~/src/app --branch fix/parser
""",
)
@task_argument
@click.option(
    "--repo", "directory", metavar="DIR", help="The checkout. Default: the working directory."
)
@click.option(
    "--branch", metavar="NAME", help="What the branch is called there. Default: the task's own."
)
@json_option
@click.pass_context
def pull(
    ctx: click.Context, task: str, directory: str | None, branch: str | None, as_json: bool
) -> int:
    """Bring a task's branch back into a checkout: its result as one commit on the base.

    Working tree, index and HEAD of the checkout stay as they are; `git merge` or `git switch` do
    the rest. The same once more changes nothing. Ends with 6 if another branch has that name.
    """
    checkout = _top(directory or ".")

    async def do(tasks: Tasks) -> None:
        task_id = await tasks.find(task)
        bundle = await tasks.branch_bundle(task_id)
        name, commit, made = await anyio.to_thread.run_sync(
            lambda: pull_branch(bundle, checkout, branch=branch or "")
        )
        status, reason = status_of(await tasks.state(task_id))
        if as_json:
            emit({"task_id": task_id, "repo": checkout, "branch": name, "commit": commit,
                  "made": made, "status": status})  # fmt: skip
            return
        say(f"{checkout}: branch {name} is {commit[:12]}" + ("" if made else " already"))
        if status is not Status.SUCCEEDED:
            note(f"nothing proves it: the task is {status} ({one_line(reason)})")

    return with_tasks(ctx, do, needs_loop=True)


def _top(directory: str) -> str:
    path = os.path.realpath(directory)
    if not os.path.isdir(path):
        raise UsageError(f"{directory!r} is not a directory; name the top of a checkout")
    while not os.path.exists(os.path.join(path, ".git")):
        if path == os.path.dirname(path):
            return os.path.realpath(directory)  # a bare repository, or an error that names it
        path = os.path.dirname(path)
    return path


@click.command(
    short_help="Push a proven branch to a git remote and open its pull request.",
    epilog="""\b
Examples:
  agent-runtime publish 4f2a                          # as its task file says; else to its origin
  agent-runtime publish 4f2a --to https://github.com/acme/app.git --base develop
  agent-runtime publish 4f2a --pr none --branch fix/parser
""",
)
@task_argument
@click.option("--to", "push", metavar="URL", help="The remote. Default: the task's, else origin.")
@click.option("--branch", metavar="NAME", help="Default: agent-runtime/TASK.")
@click.option("--base", metavar="NAME", help="The branch to be changed. Default: the remote's.")
@click.option(
    "--pr",
    type=click.Choice(("draft", "ready", "none")),
    help="The pull request. Default: the task's, else draft.",
)
@click.option("--title", metavar="TEXT", help="Of the pull request. Default: the task's goal.")
@json_lines_option
@unsafe_option
@click.pass_context
def publish(
    ctx: click.Context,
    task: str,
    push: str | None,
    branch: str | None,
    base: str | None,
    pr: str | None,
    title: str | None,
    as_json: bool,
    unsafe_no_sandbox: bool,
) -> int:
    """Push the proven branch of an ended task, and open its pull request, once more or at first.

    What is there already is found and not made again. If the base has moved, the checks run again
    on it before anything leaves. Credentials are the setting git_credentials; no task sees them.
    Ends with 6 if the task has not succeeded, with 1 if it could not be published.
    """
    given = {"push": push, "branch": branch, "base": base, "pr": pr, "title": title}
    wanted = {name: text for name, text in given.items() if text is not None}

    if (remote := remote_of(ctx)) is not None:
        refuse_unsafe(unsafe_no_sandbox)

        async def ask(remote: Remote) -> int:
            task_id = await remote.find(task)
            stood = await remote.state(task_id)
            asked = remote.client.publish(task_id, seq=None, **wanted)
            return watch_there(ctx, remote, stood, asked.seq, as_json=as_json)

        return told_there(remote, ask, as_json=as_json)

    async def do(runtime: Runtime) -> int:
        task_id = await runtime.find(task)
        stood = await runtime.state(task_id)
        before = stood.publication.spec if stood.publication is not None else stood.task.publish
        spec = msgspec.structs.replace(before or PublishSpec(), **wanted)
        parse_publish(msgspec.to_builtins(spec))
        await runtime.publish(task_id, spec, by=who())
        with anyio.move_on_after(HAND_OVER_SECONDS_MAX):
            while await runtime.ports.store.owner(task_id) is not None:
                await runtime.ports.store.wait_changed(HAND_OVER_SECONDS_MAX)
        if owner := await runtime.ports.store.owner(task_id):
            note(f"{short(task_id)} is published by {owner}")
            return 0
        return await drive_here(
            ctx, runtime, task_id, as_json=as_json, wait_seconds=None, known=stood
        )

    return told(ctx, do, as_json=as_json, unsafe_no_sandbox=unsafe_no_sandbox)
