"""Taking and checking what a task made: `verify`, `diff`, `apply`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import click
import msgspec

from agent_runtime.certificate import VerifyReport
from agent_runtime.cli.compare import comparison_lines
from agent_runtime.cli.console import (
    command,
    counted,
    emit,
    emit_line,
    json_option,
    note,
    one_line,
    say,
    settings_of,
    short,
    task_argument,
    unsafe_option,
)
from agent_runtime.cli.reach import Tasks, with_tasks
from agent_runtime.errors import ConfigError, Conflict, NotFound, UsageError
from agent_runtime.loop.events import Continued
from agent_runtime.loop.publishing import commit_message
from agent_runtime.loop.state import State, status_of
from agent_runtime.types import Status, TaskId

CERTIFICATE_BYTES_MAX = 64 << 20
_STAT_SECONDS_MAX = 60.0


# ---- verify ------------------------------------------------------------------------------


@click.command(
    short_help="Check that a task's log and claims are what was written.",
    epilog="""\b
Examples:
  agent-runtime verify 4f2a
  agent-runtime verify 4f2a --rerun
  agent-runtime verify 4f2a --certificate saved.json --json

\b
Exit codes:
  0 all is as it was written, 1 a fault was found, 5 there is no such task
""",
)
@task_argument
@click.option(
    "--certificate",
    "certificate_path",
    metavar="FILE",
    help="Also compare the log with a certificate that was saved elsewhere: it notices a log that "
    "was cut or replaced together with its own head.",
)
@click.option(
    "--rerun",
    is_flag=True,
    help="Also run every check again, in new sandboxes on clean checkouts of the stored versions.",
)
@unsafe_option
@json_option
@click.pass_context
def verify(
    ctx: click.Context,
    task: str,
    certificate_path: str | None,
    rerun: bool,
    unsafe_no_sandbox: bool,
    as_json: bool,
) -> int:
    """Check that a task's log and claims are what was written.

    The chain of hashes, every stored text, the versions of the workspace, and whether the status
    follows from the evidence. Without --rerun nothing is run.
    """
    saved = None if certificate_path is None else _read_certificate(certificate_path)

    async def do(tasks: Tasks) -> int:
        try:
            task_id = await tasks.find(task)
            report = await (tasks.check_again if rerun else tasks.verify)(task_id)
            if report.ok and saved is not None:
                report = await _compare(tasks, task_id, saved)
        except NotFound as error:
            if as_json:
                emit_line(VerifyReport(ok=False, task_id=task, fault=str(error)))
            raise
        if as_json:
            emit_line({"ok": report.ok, "task_id": report.task_id, "seq": report.seq,
                       "fault": report.fault,
                       **({"notes": report.notes} if rerun else {})})  # fmt: skip
        else:
            again = "; every check ended as before" if rerun else ""
            at = f" at event {report.seq}" if report.seq is not None else ""
            fine = f"the log and its claims are what was written{again}"
            say(f"{report.task_id}: " + (fine if report.ok else f"FAULT{at}: {report.fault}"))
            for text in report.notes:
                say(f"  {one_line(text, 1000)}")
        return 0 if report.ok else 1

    return with_tasks(ctx, do, unsafe_no_sandbox=unsafe_no_sandbox)


def _read_certificate(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            saved = json.loads(file.read(CERTIFICATE_BYTES_MAX))
        seq, head = saved["log"]["seq"], saved["log"]["head"]
        if not isinstance(saved["task_id"], str) or not isinstance(seq, int) or seq < 1:
            raise TypeError(f"task_id {saved['task_id']!r}, log.seq {seq!r}, log.head {head!r}")
    except OSError as error:
        raise UsageError(f"--certificate {path!r} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--certificate {path!r} is no certificate: {error!r}") from error
    return dict(saved)


async def _compare(tasks: Tasks, task_id: TaskId, saved: dict[str, Any]) -> VerifyReport:
    """Does the log still hold what a saved certificate says, event for event?"""

    def fault(message: str, seq: int | None = None) -> VerifyReport:
        return VerifyReport(ok=False, task_id=task_id, seq=seq, fault=message)

    if saved["task_id"] != task_id:
        return fault(f"the certificate is one of task {saved['task_id']!r}")
    seq, head = saved["log"]["seq"], saved["log"]["head"]
    rows = await tasks.rows(task_id)
    if len(rows) < seq:
        return fault(
            f"the certificate names event {seq}, and the log ends at {len(rows)}: it was cut",
            len(rows) + 1,
        )
    if rows[seq - 1].hash != head:
        return fault(f"event {seq} is not the one that the certificate names: another history", seq)
    made = await tasks.certificate(task_id, seq=seq)
    # Another version of the runtime may look at it than the one that wrote it.
    if made | {"runtime": ""} != saved | {"runtime": ""}:
        return fault(
            "the certificate's log is this one, but its claims are not what the log says: the "
            "certificate was changed"
        )
    if any(row.type == Continued.__name__ for row in rows[seq:]):
        note(f"the certificate is superseded: the task was continued after event {seq}")
    return VerifyReport(ok=True, task_id=task_id)


# ---- diff --------------------------------------------------------------------------------


@click.command(
    short_help="Print the patch that a task made, or compare two tasks.",
    epilog="""\b
Examples:
  agent-runtime diff 4f2a
  agent-runtime diff 4f2a --stat
  agent-runtime diff 4f2a > fix.patch
  agent-runtime diff 4f2a 9c01            # a task and its fork, say
""",
)
@task_argument
@click.argument("other", metavar="[OTHER]", required=False)
@click.option("--stat", is_flag=True, help="Only how much changed in which file.")
@json_option
@click.pass_context
def diff(ctx: click.Context, task: str, other: str | None, stat: bool, as_json: bool) -> int:
    """Print the patch that a task made, byte for byte, as `git apply` takes it.

    For an ended task it is the verified one; before that, what has been changed up to now.

    With OTHER, compare two tasks: where they go another way, their plans, calls, changed files,
    checks and cost, apart from ids, times and hashes. `<` is TASK and `>` is OTHER.
    """
    if other is None and as_json:
        raise UsageError("a patch is no JSON: leave out --json, or name a second task")
    if other is not None and stat:
        raise UsageError("--stat is about the patch of one task: leave it out, or OTHER")

    async def do(tasks: Tasks) -> None:
        if other is not None:
            found = await tasks.compare(await tasks.find(task), await tasks.find(other))
            if as_json:
                emit(msgspec.to_builtins(found))
                return
            for line in comparison_lines(found):
                say(line)
            return
        patch = await tasks.patch(await tasks.find(task))
        if stat:
            patch = _stat(patch)
        sys.stdout.buffer.write(patch)
        sys.stdout.buffer.flush()

    return with_tasks(ctx, do)


def _stat(patch: bytes) -> bytes:
    if not patch:
        return b""
    # In no repository and with no configuration: only the text is counted.
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CEILING_DIRECTORIES": "/",
    }
    try:
        done = subprocess.run(
            ["git", "apply", "--stat"],
            input=patch,
            capture_output=True,
            cwd="/",
            env=env,
            timeout=_STAT_SECONDS_MAX,
            check=True,
        )
    except FileNotFoundError as error:
        raise ConfigError("git is not on the PATH; install git 2.32 or newer") from error
    except subprocess.CalledProcessError as error:
        raise ConfigError(f"git apply --stat: {error.stderr.decode(errors='replace')}") from error
    return done.stdout


# ---- apply -------------------------------------------------------------------------------


@click.command(
    short_help="Apply a task's patch to a checkout, or commit it on a branch.",
    epilog="""\b
Examples:
  agent-runtime apply 4f2a
  agent-runtime apply 4f2a --to ~/src/other-checkout --check
  agent-runtime apply 4f2a --branch fix/parser
""",
)
@task_argument
@click.option(
    "--to", "directory", metavar="DIR", help="Another checkout. Default: the task's repository."
)
@click.option("--check", is_flag=True, help="Only say what would happen; change nothing.")
@click.option(
    "--branch",
    metavar="NAME",
    help="Commit the result on a new branch of that repository instead; working tree and index "
    "stay as they are.",
)
@click.option(
    "-m", "--message", metavar="TEXT", help="The commit's message. Default: the task's goal."
)
@click.option(
    "--author", metavar="'NAME <EMAIL>'", help="The commit's author. Default: agent-runtime."
)
@click.option(
    "--unverified", is_flag=True, help="Apply it although the task did not end as succeeded."
)
@click.pass_context
def apply(
    ctx: click.Context,
    task: str,
    directory: str | None,
    check: bool,
    branch: str | None,
    message: str | None,
    author: str | None,
    unverified: bool,
) -> int:
    """Apply a task's patch to a checkout, or commit it on a new branch.

    A checkout that has moved on is merged three-way. If that leaves a conflict, nothing is changed
    and the exit code is 6. Applying twice changes nothing the second time.
    """
    if branch is None and (message is not None or author is not None):
        raise UsageError("--message and --author belong to a commit: give --branch NAME too")
    if branch is not None and check:
        raise UsageError("--check and --branch exclude each other: a new branch harms nothing")
    name, email = _author(author)

    async def do(tasks: Tasks) -> None:
        task_id = await tasks.find(task)
        state = await tasks.state(task_id)
        _refuse_unverified(state, allowed=unverified)
        target = _target(state, directory)
        patch = await tasks.patch(task_id)
        base_commit = state.workspace.base_commit if state.workspace else ""
        objects = _objects(ctx, tasks, task_id)
        if branch is not None:
            # Working with repositories takes a while to import.
            from agent_runtime.workspaces.branch import CommitText, commit_branch

            text = CommitText(message=message or commit_message(state), name=name, email=email)
            commit = await commit_branch(
                patch, target, branch=branch, base_commit=base_commit, text=text, objects=objects
            )
            say(f"{target}: branch {branch} is {commit[:12]}")
            return
        from agent_runtime.workspaces.apply import apply as apply_to

        changed = await apply_to(
            patch, target, base_commit=base_commit, check_only=check, objects=objects
        )
        for path in changed:
            say(path)
        done = "would change" if check else "changed"
        note(
            f"{target}: {done} {counted(len(changed), 'file')}"
            if changed
            else f"{target}: nothing to do"
        )

    return with_tasks(ctx, do, needs_loop=True)


def _author(text: str | None) -> tuple[str, str]:
    if text is None:
        return "agent-runtime", "agent-runtime@localhost"
    name, opening, rest = text.partition("<")
    email, closing, tail = rest.partition(">")
    if not (name.strip() and opening and email.strip() and closing) or tail.strip():
        raise UsageError(f"--author {text!r} must look like 'NAME <EMAIL>'")
    return name.strip(), email.strip()


def _refuse_unverified(state: State, *, allowed: bool) -> None:
    status, reason = status_of(state)
    if status is Status.SUCCEEDED or allowed:
        return
    why = f" ({one_line(reason)})" if reason else ""
    raise Conflict(
        f"task {state.task_id!r} is {status}{why}: nothing proves its result. Look at it with "
        f"`{command('diff', short(state.task_id))}`; to apply it all the same, add --unverified"
    )


def _target(state: State, directory: str | None) -> str:
    if directory is not None:
        return os.path.realpath(directory)
    workspace = state.task.workspace
    if workspace is None:
        raise Conflict(f"task {state.task_id!r} has no workspace, so it has no result to apply")
    if not os.path.isdir(workspace.repo):
        raise UsageError(f"the task's repository {workspace.repo!r} is not here: give --to DIR")
    return workspace.repo


def _objects(ctx: click.Context, tasks: Tasks, task_id: TaskId) -> str:
    """The private store's objects, for a merge; they are gone after `gc`, and not on this machine
    if the daemon is not."""
    from agent_runtime.cli.remote import Remote

    if isinstance(tasks, Remote):
        directory = tasks.place.state_dir
    else:
        from agent_runtime.settings import state_dir

        directory = state_dir(settings_of(ctx))
    if directory is None:
        return ""
    path = os.path.join(directory, "workspaces", task_id, "trees", "store", "objects")
    return path if os.path.isdir(path) else ""
