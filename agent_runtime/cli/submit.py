"""`submit`: hand off a task, and go."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING

import click
import msgspec

from agent_runtime.cli.console import (
    command,
    emit,
    emit_line,
    note,
    say,
    short,
    who,
    with_runtime,
)
from agent_runtime.cli.reach import remote_of
from agent_runtime.cli.run import model_option, read_spec, told_there, wait_option, watch_there
from agent_runtime.errors import Forbidden, UsageError
from agent_runtime.loop.state import State
from agent_runtime.types import TaskId, TaskSpec, WorkspaceSpec

if TYPE_CHECKING:
    from agent_runtime.cli.remote import Remote
    from agent_runtime.client.views import TaskView
    from agent_runtime.runtime import Runtime


@click.command(
    short_help="Hand off a task, and go.",
    epilog="""\b
Examples:
  agent-runtime submit task.yaml
  agent-runtime submit task.yaml --follow
  agent-runtime submit "Make the failing tests pass" --repo . --model anthropic/claude-sonnet-4-5
  agent-runtime submit task.yaml --wait --json | jq .status
""",
)
@click.argument("task", metavar="TASKFILE|GOAL")
@click.option(
    "--repo",
    metavar="DIR",
    help="The repository to work on: a directory or a git URL. Default: what the task file says; "
    "for a goal, the checkout around the working directory.",
)
@model_option
@click.option(
    "--key",
    metavar="KEY",
    help="An idempotency key: the same task handed off again with it is the one that is there "
    "already. Default: a new one.",
)
@click.option(
    "--wait", "waits", is_flag=True,
    help="Come back when the task has ended or waits for somebody, and end as `run` does.",
)  # fmt: skip
@click.option("--follow", "follows", is_flag=True, help="Show how it goes; Ctrl-C only detaches.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the task as JSON; with --wait its result, with --follow every event before it.",
)
@wait_option
@click.pass_context
def submit(
    ctx: click.Context,
    task: str,
    repo: str | None,
    model: str | None,
    key: str | None,
    waits: bool,
    follows: bool,
    as_json: bool,
    wait_seconds: float | None,
) -> int:
    """Hand off a task to the daemon, print its id, and go.

    When the id is there, the task is stored, and is driven to its end whatever happens to this
    process or to the daemon's. Without a daemon it is stored, for the next one or for `resume`.
    """
    if waits and follows:
        raise UsageError("--wait and --follow exclude each other: following waits too")
    if wait_seconds is not None and not follows:
        raise UsageError("--wait-seconds belongs to --follow: --wait comes back at once")
    remote = remote_of(ctx)
    if remote is None:
        if waits or follows:
            raise UsageError(
                "no daemon would drive it, so there is nothing to wait for: start one with "
                "`agent-runtime serve`, or use `agent-runtime run`"
            )

        async def store(runtime: Runtime) -> None:
            spec = _with_model(read_spec(task, repo), model)
            task_id = await runtime.submit(spec, submitted_by=who(), idempotency_key=key)
            if as_json:
                emit({"id": task_id, **msgspec.structs.asdict(await runtime.summary(task_id))})
            else:
                say(task_id)
            again = command("resume", short(task_id))
            note(f"no daemon drives it; start one with `agent-runtime serve`, or use: {again}")

        return with_runtime(ctx, store)

    async def ask(remote: Remote) -> int:
        spec = _with_model(read_spec(task, repo), model)
        taken = _hand_off(remote, spec, key)
        if follows:
            if not as_json:
                say(taken.id)
            return watch_there(
                ctx, remote, State(task_id=taken.id), taken.seq, as_json=as_json,
                wait_seconds=wait_seconds,
            )  # fmt: skip
        if not waits:
            emit(taken) if as_json else say(taken.id)
            return 0
        if not as_json:
            say(taken.id)
        done = remote.client.wait(taken.id, settled=True)
        if as_json:
            emit_line(await remote.result(TaskId(taken.id)))
        else:
            note(f"{done.status}: {done.reason}" if done.reason else done.status)
        return 0 if done.status == "succeeded" else 9 if done.status in _RESTING else 1

    return told_there(remote, ask, as_json=as_json and (waits or follows))


_RESTING = ("waiting", "paused")


def _with_model(spec: TaskSpec, model: str | None) -> TaskSpec:
    return spec if model is None else msgspec.structs.replace(spec, model=model)


def _hand_off(remote: Remote, spec: TaskSpec, key: str | None) -> TaskView:
    """Submit it; a repository of this machine that the daemon may not read is sent to it first."""
    workspace = spec.workspace
    if workspace is None or not os.path.isdir(workspace.repo):
        return remote.client.submit(spec, idempotency_key=key)
    if remote.place.state_dir is not None:
        try:
            return remote.client.submit(spec, idempotency_key=key)
        except Forbidden:
            if workspace.in_place:
                raise
    elif workspace.in_place:
        raise UsageError(
            f"workspace.in_place: {workspace.repo!r} is a directory of this machine, and the "
            f"daemon at {remote.place.url} works on its own: leave out in_place"
        )
    return remote.client.submit(_sent(remote, spec, workspace), idempotency_key=key)


def _sent(remote: Remote, spec: TaskSpec, workspace: WorkspaceSpec) -> TaskSpec:
    """The task on an upload of its repository, uncommitted edits and all."""
    # Working with repositories takes a while to import.
    from agent_runtime.workspaces.uploads import make_bundle

    with tempfile.TemporaryDirectory(prefix="agent-runtime-submit-") as place:
        path = os.path.join(place, "repository.bundle")
        for said in make_bundle(workspace.repo, path, include_dirty=workspace.include_dirty):
            note(said)
        note(f"{workspace.repo}: {os.path.getsize(path) / 1e6:.1f} MB are sent")
        there = remote.client.upload(path)
    sent = msgspec.structs.replace(workspace, repo=there.repo)
    return msgspec.structs.replace(spec, workspace=sent)
