"""`run`, `resume`, `continue`: a task is driven in this process; whoever started it watches."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
import msgspec

from agent_runtime.cli.console import (
    command,
    emit_line,
    is_terminal,
    note,
    say,
    settings_of,
    short,
    task_argument,
    unsafe_option,
    who,
    with_runtime,
)
from agent_runtime.cli.follow import Ending, drive
from agent_runtime.cli.reach import at_once, remote_of
from agent_runtime.cli.summary import result_lines, waiting_lines
from agent_runtime.cli.views import JsonView, PlainView, View
from agent_runtime.errors import AgentRuntimeError, Conflict, CorruptLog, NotFound, UsageError
from agent_runtime.loop.continuing import earlier_steps, refuse_unless_ended
from agent_runtime.loop.state import State, status_of
from agent_runtime.taskfile import goal_task, read_continuation, read_task_file
from agent_runtime.types import Status, TaskId, TaskSpec

if TYPE_CHECKING:
    from agent_runtime.cli.remote import Remote
    from agent_runtime.runtime import Runtime

HAND_OVER_SECONDS_MAX = 5.0
"""How long a process may take to go that has just ended the task."""

_TASK_FILES = (".yaml", ".yml", ".json")

json_lines_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print every stored event as one line of JSON, exactly as the log has it, and a last line "
    'of type "result" (or "error").',
)
model_option = click.option(
    "--model",
    metavar="M",
    help="What thinks for the task, such as anthropic/NAME, openai/NAME or http://HOST/v1#NAME; "
    "`agent-runtime models` lists what can be reached. Default: what the task file says, else the "
    "settings.",
)
wait_option = click.option(
    "--wait-seconds",
    type=click.FloatRange(min=0),
    metavar="N",
    help="How long to wait for somebody's approval before stopping with exit code 9. Default: for "
    "ever on a terminal, else the setting approval_wait_seconds.",
)


@click.command(
    short_help="Run a task here and show how it goes.",
    epilog="""\b
Examples:
  agent-runtime run task.yaml
  agent-runtime run task.yaml --repo ~/src/sqlparse --json | jq .type
  agent-runtime run "Make the failing tests pass" --repo . --model anthropic/claude-sonnet-4-5
  generate-task | agent-runtime run -
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
@json_lines_option
@unsafe_option
@wait_option
@click.pass_context
def run(
    ctx: click.Context,
    task: str,
    repo: str | None,
    model: str | None,
    as_json: bool,
    unsafe_no_sandbox: bool,
    wait_seconds: float | None,
) -> int:
    """Run a task here, with no daemon, and show how it goes.

    TASKFILE is a YAML or JSON file, or - for standard input. Any other word is a GOAL, given to a
    model that works on the repository.

    The task is stored before anything happens, and its id is printed first. Ctrl-C stops it
    gracefully; `agent-runtime resume TASK` goes on where it stood.
    """

    async def do(runtime: Runtime) -> int:
        spec = read_spec(task, repo)
        if model is not None:
            spec = msgspec.structs.replace(spec, model=model)
        task_id = await runtime.submit(spec, submitted_by=who(), held=True)
        if not as_json:
            say(task_id)
        return await drive_here(ctx, runtime, task_id, as_json=as_json, wait_seconds=wait_seconds)

    return told(ctx, do, as_json=as_json, unsafe_no_sandbox=unsafe_no_sandbox)


@click.command(
    short_help="Go on with a task that was interrupted, paused, or waits.",
    epilog="""\b
Examples:
  agent-runtime resume 01942c7e4f2a
  agent-runtime resume 4f2a --json
""",
)
@task_argument
@model_option
@json_lines_option
@unsafe_option
@wait_option
@click.pass_context
def resume(
    ctx: click.Context,
    task: str,
    model: str | None,
    as_json: bool,
    unsafe_no_sandbox: bool,
    wait_seconds: float | None,
) -> int:
    """Go on with a task that was interrupted, paused, or waits.

    It is driven here as by `run`, and only what is new is printed; `logs` has the rest. A finished
    step is never repeated. With --model, a task that waits for a brain gets one. Ends with 6 if the
    task is over, or if another process drives it. A daemon's task goes on there, and is watched.
    """
    if (remote := remote_of(ctx)) is not None:
        refuse_unsafe(unsafe_no_sandbox)

        async def ask(remote: Remote) -> int:
            task_id = await remote.find(task)
            stood = await remote.state(task_id)
            refuse_ended(stood)
            told = await remote.resume(task_id, by=who(), model=model or "")
            return watch_there(
                ctx, remote, stood, told.seq, as_json=as_json, wait_seconds=wait_seconds
            )

        return told_there(remote, ask, as_json=as_json)

    async def do(runtime: Runtime) -> int:
        task_id = await runtime.find(task)
        stood = await runtime.state(task_id)
        if stood.paused or model:
            await runtime.resume(task_id, by=who(), model=model or "")
            # A driver that has calls to wait for is still there, and has heard it.
            if owner := await runtime.ports.store.owner(task_id):
                note(f"{short(task_id)} goes on in {owner}")
                return 0
        return await drive_here(
            ctx, runtime, task_id, as_json=as_json, wait_seconds=wait_seconds, known=stood
        )

    return told(ctx, do, as_json=as_json, unsafe_no_sandbox=unsafe_no_sandbox)


@click.command(
    "continue",
    short_help="Open an ended task again, with more to do.",
    epilog="""\b
Examples:
  agent-runtime continue 4f2a --file more.yaml
  agent-runtime continue 4f2a --limit seconds=7200      # what it had not got to
  agent-runtime continue 4f2a "Also mend the docs."     # a task with a model
""",
)
@task_argument
@click.argument("message", metavar="[MESSAGE]", default="")
@click.option(
    "--file",
    "path",
    metavar="FILE",
    help="More to do, YAML or JSON: `plan` with new steps, `objectives`, `protect`, `artifacts`, "
    "`limits`, `policy`, `model`, `message`; - is standard input.",
)
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="KEY=N",
    help="A limit of the new allotment (steps, seconds, tokens, usd); may be given several times. "
    "Default: as before.",
)
@json_lines_option
@unsafe_option
@wait_option
@click.pass_context
def continue_(
    ctx: click.Context,
    task: str,
    message: str,
    path: str | None,
    limits: tuple[str, ...],
    as_json: bool,
    unsafe_no_sandbox: bool,
    wait_seconds: float | None,
) -> int:
    """Open an ended task again: the same branch, history and files, and a new allotment.

    It does the plan that FILE brings; without one, the steps that had not ended; without those,
    what MESSAGE tells its model, or the checks alone if FILE brings objectives. Then everything is
    checked anew, against the base that the task began with. Its earlier result is superseded.

    It is driven here as by `run`; a daemon's task goes on there, and is watched. Ends with 6 if the
    task has not ended; `steer` talks to such one.
    """
    changed = dict(_limit(text) for text in limits)
    if (remote := remote_of(ctx)) is not None:
        refuse_unsafe(unsafe_no_sandbox)

        async def ask(remote: Remote) -> int:
            task_id = await remote.find(task)
            stood = await remote.state(task_id)
            refuse_unless_ended(stood)
            wish = read_continuation(
                path, task=stood.task, earlier=earlier_steps(stood), message=message, limits=changed
            )
            opened = await remote.continue_task(task_id, wish, by=who())
            if not as_json:
                say(task_id)
            return watch_there(
                ctx, remote, stood, opened.seq, as_json=as_json, wait_seconds=wait_seconds
            )

        return told_there(remote, ask, as_json=as_json)

    async def do(runtime: Runtime) -> int:
        try:
            task_id = await runtime.find(task)
        except NotFound as error:
            error.add_note("An ended task can be continued until `agent-runtime gc` forgets it.")
            raise
        stood = await runtime.state(task_id)
        refuse_unless_ended(stood)
        wish = read_continuation(
            path, task=stood.task, earlier=earlier_steps(stood), message=message, limits=changed
        )
        await runtime.continue_task(task_id, wish, by=who())
        if not as_json:
            say(task_id)
        import anyio

        # Its last driver may not quite be gone.
        with anyio.move_on_after(HAND_OVER_SECONDS_MAX):
            while await runtime.ports.store.owner(task_id) is not None:
                await runtime.ports.store.wait_changed(HAND_OVER_SECONDS_MAX)
        if owner := await runtime.ports.store.owner(task_id):
            note(f"{short(task_id)} goes on in {owner}")
            return 0
        return await drive_here(
            ctx, runtime, task_id, as_json=as_json, wait_seconds=wait_seconds, known=stood
        )

    return told(ctx, do, as_json=as_json, unsafe_no_sandbox=unsafe_no_sandbox)


def _limit(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"--limit {text!r} must look like KEY=N, such as seconds=7200")
    try:
        return key, int(value)
    except ValueError:
        try:
            return key, float(value)
        except ValueError:
            raise UsageError(f"--limit {text!r}: {value!r} is no number") from None


def read_spec(task: str, repo: str | None) -> TaskSpec:
    """The task that the arguments mean.

    Raises:
        UsageError: not a task file, a directory, or a goal and no repository for it.
    """
    if os.path.isdir(task):
        raise UsageError(
            f"{task!r} is a directory: name a task file in it, or say in words what is to be done "
            f"and give the directory as --repo {shlex.quote(task)}"
        )
    # Whatever can be read: `run <(make-task)` names a pipe.
    is_file = task == "-" or os.path.exists(task) or task.endswith(_TASK_FILES)
    if not is_file:
        return goal_task(task, _checkout(repo or "."))
    return read_task_file(task, repo=None if repo is None else _checkout(repo))


def _checkout(repo: str) -> str:
    """The top of the checkout around a directory; anything else as it was given."""
    if not os.path.isdir(repo):
        return repo
    path = os.path.realpath(repo)
    while not os.path.exists(os.path.join(path, ".git")):
        if path == os.path.dirname(path):
            if repo != ".":
                return os.path.realpath(repo)  # a bare repository, or an error that names it
            raise UsageError(
                "a goal needs a repository, and the working directory is in none: give --repo DIR, "
                "or the name of a task file"
            )
        path = os.path.dirname(path)
    return path


async def drive_here(
    ctx: click.Context,
    runtime: Runtime,
    task_id: TaskId,
    *,
    as_json: bool,
    wait_seconds: float | None,
    known: State | None = None,
) -> int:
    """Drive a task here, show how it goes, and say what came of it; the exit code."""
    person = is_terminal() and not as_json
    if wait_seconds is None and not person:
        wait_seconds = settings_of(ctx).approval_wait_seconds
    try:
        state, ending = await drive(
            runtime,
            task_id,
            view_for(as_json),
            wait_seconds=wait_seconds,
            answer=person and sys.stdin.isatty(),
            known=known,
        )
    except (Conflict, CorruptLog):
        raise  # going on would not help
    except AgentRuntimeError as error:
        # Not by `run` again, which would make a second task.
        again = command("resume", short(task_id))
        error.add_note(f"The task is stored, nothing of it is lost; go on with: {again}")
        raise
    if as_json:
        emit_line(await runtime.result(task_id))
    elif ending is Ending.ENDED:
        for line in result_lines(state, await runtime.result(task_id)):
            say(line)
    for line in _leaving_lines(state, ending):
        note(line)
    return exit_code(state, ending)


def watch_there(
    ctx: click.Context,
    remote: Remote,
    known: State,
    caught_up: int,
    *,
    as_json: bool,
    wait_seconds: float | None = None,
    stay: bool = False,
    talks: bool = False,
) -> int:
    """Show how a daemon's task goes on behind `known`, and say what came of it; the exit code."""
    from agent_runtime.cli.watch import DaemonLine, watch

    person = is_terminal() and not as_json
    if wait_seconds is None and not person and not stay:
        wait_seconds = settings_of(ctx).approval_wait_seconds
    state, ending = watch(
        DaemonLine(remote.client), view_for(as_json), known, caught_up=caught_up,
        stay=stay, wait_seconds=wait_seconds, talks=talks, answers=person and sys.stdin.isatty(),
    )  # fmt: skip
    if ending is Ending.DETACHED:
        again = command("attach", short(known.task_id))
        note(f"detached, the task goes on; look again with: {again}")
        return exit_code(state, ending)
    result = at_once(remote.result(TaskId(known.task_id)))
    if as_json:
        emit_line(result)
    elif ending is Ending.ENDED:
        for line in result_lines(state, result):
            say(line)
    for line in _leaving_lines(state, ending, driven=True):
        note(line)
    return exit_code(state, ending)


def refuse_unsafe(given: bool) -> None:
    """`UsageError` if a daemon shall do without a sandbox for one call."""
    if given:
        raise UsageError(
            "--unsafe-no-sandbox is for tasks that are driven here: how a daemon runs tools was "
            "decided when it was started"
        )


def told_there(remote: Remote, do: Callable[[Remote], Awaitable[int]], *, as_json: bool) -> int:
    """As `told`, for a daemon's task."""
    with remote, _errors_told(as_json):
        return at_once(do(remote))


def refuse_ended(state: State) -> None:
    """`Conflict` if it has: there is nothing to go on with."""
    if state.ended:
        status, _ = status_of(state)
        raise Conflict(
            f"task {state.task_id!r} has ended: it is {status}; "
            f"`agent-runtime continue {state.task_id}` opens it again"
        )


def exit_code(state: State, ending: Ending) -> int:
    """What the process ends with: 0, 1, 9 or 130."""
    match ending:
        case Ending.ENDED:
            assert state.conclusion is not None
            publication = state.publication
            out = publication is None or publication.ended is None or publication.ended.ok
            return 0 if state.conclusion.status is Status.SUCCEEDED and out else 1
        case Ending.WAITING | Ending.PAUSED:
            return 9
        case Ending.DETACHED:
            return 130


def _leaving_lines(state: State, ending: Ending, *, driven: bool = False) -> list[str]:
    again = f"resume with: {command('resume', short(state.task_id))}"
    match ending:
        case Ending.ENDED:
            return []
        case Ending.WAITING:
            return waiting_lines(state, driven=driven)
        case Ending.PAUSED:
            return [f"paused; {again}"]
        case Ending.DETACHED:
            return [f"stopped, nothing is lost; {again}"]


def view_for(as_json: bool) -> View:
    """How a task looks to whoever watches: a picture, lines, or the log's rows."""
    if as_json:
        return JsonView()
    if is_terminal() and os.environ.get("TERM") not in (None, "", "dumb"):
        # rich costs a tenth of a second, which only a terminal needs.
        from agent_runtime.cli.live import LiveView

        return LiveView()
    return PlainView()


def told(
    ctx: click.Context,
    do: Callable[[Runtime], Awaitable[int]],
    *,
    as_json: bool,
    unsafe_no_sandbox: bool,
) -> int:
    """As `with_runtime`; with JSON, an error is also the last line."""
    with _errors_told(as_json):
        return with_runtime(ctx, do, unsafe_no_sandbox=unsafe_no_sandbox)


@contextmanager
def _errors_told(as_json: bool) -> Iterator[None]:
    try:
        yield
    except AgentRuntimeError as error:
        if as_json:
            emit_line(
                {
                    "type": "error",
                    "error": type(error).__name__,
                    "message": str(error),
                    "exit": error.exit_code,
                }
            )
        raise
