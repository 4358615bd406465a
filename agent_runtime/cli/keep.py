"""Beginning and tidying up: `init` writes a first task file, `gc` removes what nobody needs."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Awaitable, Iterator
from dataclasses import replace

import anyio.to_thread
import click

from agent_runtime.app import open_access, retention_policy
from agent_runtime.cli.console import (
    command,
    emit,
    json_option,
    lasted,
    note,
    say,
    settings_of,
    short,
    with_runtime,
)
from agent_runtime.errors import AgentRuntimeError, Conflict, NotFound, UsageError
from agent_runtime.loop.analyze import TEST_COMMANDS
from agent_runtime.retention import Swept
from agent_runtime.runtime import Runtime
from agent_runtime.settings import state_dir, store_path
from agent_runtime.types import TERMINAL_STATUSES, Json, Status, TaskId
from agent_runtime.workspaces.environment.entries import Entries

DAY_SECONDS = 86_400
TASK_FILE = "task.yaml"
_PAGE = 500
_MAKING_MS_MAX = 3_600_000

_EXAMPLE = """\
# A task for agent-runtime. Run it with: agent-runtime run {name}
# Unknown keys are errors; every key is explained in docs/task-file.md.

# What shall be true in the end.
goal: The tests pass

# The task works on a copy of this repository, uncommitted edits included.
# A relative path starts at this file.
workspace: {{repo: .}}

# The virtual environment that holds what the commands need, such as pytest. Left out: .venv of the
# repository, else $VIRTUAL_ENV, else the one that agent-runtime is installed in.
# environment: {{python: ./venv}}

# A playbook: steps that run with no model. Each one names a tool (see: agent-runtime tools).
plan:
  steps:
    - id: look
      tool: shell
      args: {{command: {test}}}
      effect: read          # it changes nothing, so it may run again after a crash
      expect: {{exit: 0}}     # write 1 where it must fail before the fix
    # - id: fix
    #   tool: edit_file
    #   args:
    #     path: src/example.py
    #     edits: [{{oldText: "a - b", newText: "a + b"}}]
    #   needs: [look]
    #   retry: 1

# What decides "done". The runtime itself runs these on a clean checkout of the result.
objectives:
  - id: tests
    check: {{command: {test}}}

# Files that must stay as they are; what decides an objective is protected anyway.
# protect: [tests/**]

# limits: {{seconds: 3600}}
# policy: {{approvals: {{shell: ask}}}}    # ask a person before every command
"""


@click.command(
    short_help="Write an example task file fitted to a repository.",
    epilog="""\b
Examples:
  agent-runtime init
  agent-runtime init ~/src/sqlparse
""",
)
@click.argument("directory", metavar="[DIR]", default=".")
@click.pass_context
def init(ctx: click.Context, directory: str) -> int:
    """Write a commented task.yaml into DIR (default: the working directory).

    The test command is the one that the repository's files suggest. A file that is there is never
    overwritten.
    """
    if not os.path.isdir(directory):
        raise UsageError(f"{directory!r} is not a directory; name the top of a repository")
    path = os.path.join(directory, TASK_FILE)
    text = _EXAMPLE.format(name=path, test=test_command(directory))
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise Conflict(f"{path!r} exists, and is not overwritten; move it away first") from error
    except OSError as error:
        raise UsageError(f"cannot write {path!r}: {error.strerror}") from error
    say(f"wrote {path}; edit it, then: {command('run', path)}")
    if not os.path.exists(os.path.join(directory, ".git")):
        note(f"{directory!r} is not the top of a git repository: correct `workspace` in the file")
    return 0


def test_command(directory: str) -> str:
    """What the files at the top of a repository suggest; pytest if nothing does."""
    names = set(os.listdir(directory))
    tests = " tests" if os.path.isdir(os.path.join(directory, "tests")) else ""
    for name, suggested in TEST_COMMANDS:
        if name in names:
            return f"{suggested} -q{tests}" if suggested.endswith("pytest") else suggested
    return f"python -m pytest -q{tests}"


# ---- gc ----------------------------------------------------------------------------------


@click.command(
    short_help="Remove old tasks and leftovers.",
    epilog="""\b
Examples:
  agent-runtime gc --dry-run
  agent-runtime gc --older-than 7
""",
)
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    metavar="DAYS",
    help="Forget tasks that ended at least this long ago. Default: the setting retention_days.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@json_option
@click.pass_context
def gc(ctx: click.Context, older_than: float | None, dry_run: bool, as_json: bool) -> int:
    """Remove old tasks and leftovers.

    An ended task is forgotten with its log, its versions of the workspace, its patch and its
    certificate: when it is old enough, and, beyond the setting retention_bytes, those that ended
    first. Environments that nobody has used for as long go too, and entries of the audit record
    that are older than the setting retention_audit_days. Leftovers are files of tasks that the
    store does not know. A task that has not ended is never touched.
    """
    settings = settings_of(ctx)
    days = settings.retention_days if older_than is None else older_than
    directory = state_dir(settings)

    async def do(runtime: Runtime) -> int:
        before_us = time.time_ns() // 1000 - int(days * DAY_SECONDS * 1e6)
        policy = replace(retention_policy(settings), days=days)
        audit = open_access(runtime.ports.store)
        retention = runtime.retention(policy, audit=audit, pause_seconds=0)
        leftovers, problems = await _leftovers(runtime, directory, store_path(settings) or "")
        entries = Entries(os.path.join(directory, "environments"))
        unused = await _unused(runtime, entries, before_us / 1e6)
        swept = Swept()
        try:
            await retention.sweep(dry_run=dry_run, into=swept)
        except AgentRuntimeError:
            if swept.forgotten or swept.uploads or swept.audit_entries:  # what is gone is told
                problems += swept.problems
                _tell(swept, [], [], problems, dry_run=dry_run, as_json=as_json)
            raise
        problems += swept.problems
        if not dry_run:
            for key in unused:
                await _try(anyio.to_thread.run_sync(entries.remove, key), key, problems)
            for name in leftovers:
                await _try(_remove(runtime, directory, name), name, problems)
        _tell(swept, leftovers, unused, problems, dry_run=dry_run, as_json=as_json)
        return 1 if problems else 0

    return with_runtime(ctx, do)


def _tell(
    swept: Swept,
    leftovers: list[str],
    unused: list[str],
    problems: list[str],
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    if as_json:
        value: Json = {
            "dry_run": dry_run,
            "forgotten": [task.task_id for task in swept.forgotten],
            "given_back_bytes": swept.given_back_bytes,
            "leftovers": leftovers,
            "environments": unused,
            "uploads": swept.uploads,
            "audit_entries": swept.audit_entries,
            "problems": problems,
        }
        emit(value)
        return
    now_us = time.time_ns() // 1000
    verb = "would forget" if dry_run else "forgot"
    for task in swept.forgotten:
        age = lasted((now_us - task.updated_at_us) / 1e6)
        say(f"{verb} {short(task.task_id)}  {task.status}, ended {age} ago: {task.goal}")
    for name in leftovers:
        say(f"{'would remove' if dry_run else 'removed'} what is left of {name}")
    if unused:
        what = "would remove" if dry_run else "removed"
        say(f"{what} {len(unused)} environments that nobody has used")
    if swept.uploads:
        what = "would remove" if dry_run else "removed"
        say(f"{what} {len(swept.uploads)} uploads that no task works on")
    if swept.audit_entries:
        say(f"{verb} {swept.audit_entries:,} entries of the audit record")
    for problem in problems:
        note(f"! {problem}")
    if swept.given_back_bytes:
        say(f"gave {swept.given_back_bytes:,} bytes of the store back to the disk")
    if not (swept.forgotten or leftovers or unused or swept.uploads or swept.audit_entries):
        say("nothing to remove")


async def _unused(runtime: Runtime, entries: Entries, before: float) -> list[str]:
    """Environments that no task has begun with since then, and no task that goes on stands on."""
    found = await anyio.to_thread.run_sync(lambda: list(entries.unused(before)))
    if not found:
        return []
    going_on = sorted(set(Status) - TERMINAL_STATUSES)
    needed: set[str] = set()
    page: TaskId | None = None
    while tasks := await runtime.tasks(statuses=going_on, before=page, limit=_PAGE):
        for task in tasks:
            state = await runtime.state(TaskId(task.task_id))
            if state.environment is not None:
                needed.add(state.environment.key)
        page = TaskId(tasks[-1].task_id)
    return [key for key in found if key not in needed]


async def _leftovers(runtime: Runtime, directory: str, own: str) -> tuple[list[str], list[str]]:
    """Ids of tasks that have files below the state directory and are not in the store; problems."""
    if others := _other_stores(directory, own):
        return [], [f"leftovers were not looked for: {others[0]!r} may be another store here"]
    names = await anyio.to_thread.run_sync(lambda: sorted(set(_with_files(directory))))
    unknown = []
    now_us = runtime.ports.clock.now_us()
    for name in names:
        if _is_being_made(name, now_us):
            continue
        try:
            await runtime.ports.store.summary(TaskId(name))
        except NotFound:
            unknown.append(name)
    return unknown, []


def _is_being_made(name: str, now_us: int) -> bool:
    """A fork has its files before its rows are stored; its id begins with the time in ms."""
    try:
        age_ms = now_us // 1000 - int(name.removeprefix("task_")[:12], 16)
    except ValueError:
        return False
    return 0 <= age_ms < _MAKING_MS_MAX


def _other_stores(directory: str, own: str) -> list[str]:
    """Files beside the store that look like stores; opening them could end their locks."""
    names = os.listdir(directory) if os.path.isdir(directory) else []
    bases = {name.removesuffix("-wal") for name in names if name.endswith((".db", "-wal"))}
    return sorted(bases - {os.path.basename(own)})


def _with_files(directory: str) -> Iterator[str]:
    for family in ("workspaces", "results", "sandboxes", "publishing"):
        place = os.path.join(directory, family)
        if os.path.isdir(place):
            yield from (name for name in os.listdir(place) if name.startswith("task_"))


async def _remove(runtime: Runtime, directory: str, name: str) -> None:
    # First what may still run there; a record means that its daemon died.
    if os.path.isdir(os.path.join(directory, "sandboxes")):
        # Imported here, where there were sandboxes: it imports what only Linux has.
        from agent_runtime.sandboxes import records

        await records.reap(directory, name)
    await runtime.ports.workspaces.forget(TaskId(name))
    if runtime.ports.publisher is not None:
        await runtime.ports.publisher.forget(TaskId(name))
    results = os.path.join(directory, "results", name)
    if os.path.isdir(results):
        await anyio.to_thread.run_sync(shutil.rmtree, results)


async def _try(doing: Awaitable[None], name: str, problems: list[str]) -> None:
    try:
        await doing
    except (AgentRuntimeError, OSError) as error:
        problems.append(f"{name}: {error}")
