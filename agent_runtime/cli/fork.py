"""Another task out of the first events of one: `fork`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agent_runtime.cli.console import (
    command,
    emit_line,
    note,
    say,
    short,
    task_argument,
    unsafe_option,
    who,
)
from agent_runtime.cli.reach import Tasks, remote_of
from agent_runtime.cli.run import (
    drive_here,
    json_lines_option,
    refuse_unsafe,
    told,
    told_there,
    wait_option,
    watch_there,
)
from agent_runtime.errors import UsageError
from agent_runtime.loop.state import State
from agent_runtime.taskfile import read_continuation, read_part
from agent_runtime.types import AnswerSpec, ContinuationSpec, ForkSpec, Policy, ResultSpec, TaskId

if TYPE_CHECKING:
    from agent_runtime.cli.remote import Remote
    from agent_runtime.runtime import Runtime


@click.command(
    short_help="Make another task of the first events of one.",
    epilog="""\b
Examples:
  agent-runtime fork 4f2a --at 31
  agent-runtime fork 4f2a --at 31 --model anthropic/claude-sonnet-4-5
  agent-runtime fork 4f2a --at 24 --result result.yaml     # ok, output, exit, kind, data
  agent-runtime fork 4f2a --at 20 --answer answer.yaml     # text, calls: [{name, arguments}]
""",
)
@task_argument
@click.option(
    "--at", type=click.IntRange(min=1), required=True, metavar="N",
    help="The last event that both have in common, a number as `logs` prints it.",
)  # fmt: skip
@click.option(
    "--answer", metavar="FILE", help="A model's answer in the place of the one that event N is."
)
@click.option(
    "--result", metavar="FILE", help="A call's result in the place of the one that event N is."
)
@click.option("--model", metavar="MODEL", help="Another model thinks from there on.")
@click.option(
    "--policy", metavar="FILE",
    help="Another policy holds from there on: a file with `policy`, as in a task file; what it "
    "does not name stays.",
)  # fmt: skip
@click.option("--message", metavar="TEXT", default="", help="Told to its brain at the next turn.")
@click.option("--no-run", is_flag=True, help="Only make it; `resume` runs it.")
@json_lines_option
@unsafe_option
@wait_option
@click.pass_context
def fork(
    ctx: click.Context,
    task: str,
    at: int,
    answer: str | None,
    result: str | None,
    model: str | None,
    policy: str | None,
    message: str,
    no_run: bool,
    as_json: bool,
    unsafe_no_sandbox: bool,
    wait_seconds: float | None,
) -> int:
    """Make another task of the first N events of one, and go on from there.

    It has a working copy of its own, with the files as they were last known at event N. TASK stays
    as it is. What its calls have done outside of the workspace is done, for the fork too: no call
    that was made is made again, unless its tool declares that to be safe.

    N must be the last event of what was stored together, or with --answer and --result the event
    that they replace; otherwise it says which numbers would do. The new task is driven here as by
    `run`; a daemon's goes on there, and is watched.
    """

    async def make(tasks: Tasks) -> tuple[TaskId, TaskId]:
        task_id = await tasks.find(task)
        state = await tasks.state(task_id)
        wish = ForkSpec(
            at=at,
            answer=None if answer is None else read_part(answer, AnswerSpec),
            result=None if result is None else read_part(result, ResultSpec),
            model=model,
            policy=None if policy is None else _policy(policy, state),
            message=message,
        )
        return task_id, await tasks.fork(task_id, wish, by=who())

    if (remote := remote_of(ctx)) is not None:
        refuse_unsafe(unsafe_no_sandbox)
        if no_run:
            raise UsageError(
                "--no-run is for the local store: a daemon drives every task it has; "
                "`pause` stops one"
            )

        async def ask(remote: Remote) -> int:
            _, fork_id = await make(remote)
            if not as_json:
                say(fork_id)
            known = await remote.state(fork_id)
            return watch_there(
                ctx, remote, known, known.seq, as_json=as_json, wait_seconds=wait_seconds
            )

        return told_there(remote, ask, as_json=as_json)

    async def do(runtime: Runtime) -> int:
        task_id, fork_id = await make(runtime)
        if no_run:
            if as_json:
                emit_line({"task_id": fork_id, "parent": task_id, "at": at})
            else:
                say(fork_id)
                note(f"run it with: {command('resume', short(fork_id))}")
            return 0
        if not as_json:
            say(fork_id)
        known = await runtime.state(fork_id)
        return await drive_here(
            ctx, runtime, fork_id, as_json=as_json, wait_seconds=wait_seconds, known=known
        )

    return told(ctx, do, as_json=as_json, unsafe_no_sandbox=unsafe_no_sandbox)


def _policy(path: str, state: State) -> Policy:
    wish = read_continuation(path, task=state.task, earlier={})
    if wish.policy is None or wish != ContinuationSpec(policy=wish.policy):
        raise UsageError(f"{path}: must hold `policy`, and nothing else")
    return wish.policy
