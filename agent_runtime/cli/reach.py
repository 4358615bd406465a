"""Whose tasks a verb is about: a daemon's, if there is one, else those of the local store.

`Tasks` is what verbs ask for; `runtime.Runtime` has it by itself, and `remote.Remote` asks a daemon
for it. The daemon is the one that `--url` names, or `AGENT_RUNTIME_URL`, or that serves the store's
own directory. Nothing here is heavy: a verb that asks a daemon starts in a fifth of a second.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeVar

import click
from click.shell_completion import CompletionItem

from agent_runtime.errors import AgentRuntimeError, UsageError
from agent_runtime.locations import state_dir_of, store_url
from agent_runtime.loop import events as e
from agent_runtime.loop.state import State
from agent_runtime.types import (
    ChangeSpec,
    ContinuationSpec,
    ForkSpec,
    Json,
    Row,
    TaskId,
    TaskSpec,
    TaskSummary,
)

if TYPE_CHECKING:
    from agent_runtime.certificate import VerifyReport
    from agent_runtime.cli.remote import Remote
    from agent_runtime.comparison import Comparison
    from agent_runtime.loop.replay import Replayed
    from agent_runtime.loop.why import Link
    from agent_runtime.report import Report

T = TypeVar("T")

_TASKS_OFFERED: Final = 50


class Tasks(Protocol):
    """What verbs ask of tasks; what each does and raises stands at `runtime.Runtime`."""

    async def submit(
        self, spec: TaskSpec, *, submitted_by: str, idempotency_key: str | None = None
    ) -> TaskId: ...
    async def find(self, name: str) -> TaskId: ...
    async def summary(self, task_id: TaskId) -> TaskSummary: ...
    async def owner(self, task_id: TaskId) -> str | None: ...
    async def tasks(
        self,
        *,
        statuses: Sequence[str] = (),
        labels: Mapping[str, str] = {},
        before: TaskId | None = None,
        limit: int = 100,
    ) -> list[TaskSummary]: ...
    async def state(self, task_id: TaskId) -> State: ...
    async def rows(self, task_id: TaskId, after: int = 0) -> list[Row]: ...
    def follow(self, task_id: TaskId, after: int = 0) -> AsyncIterator[Row]: ...

    async def cancel(self, task_id: TaskId, *, by: str, reason: str = "") -> object: ...
    async def pause(self, task_id: TaskId, *, by: str) -> object: ...
    async def resume(self, task_id: TaskId, *, by: str, model: str = "") -> object: ...
    async def change(self, task_id: TaskId, wish: ChangeSpec, *, by: str) -> object: ...
    async def steer(self, task_id: TaskId, message: str, *, by: str) -> object: ...
    async def decide_approval(
        self,
        task_id: TaskId,
        approval_id: str | None,
        decision: str,
        *,
        by: str,
        message: str = "",
        scope: Literal["once", "task"] = "once",
        arguments: Mapping[str, Json] | None = None,
    ) -> str: ...
    async def continue_task(
        self, task_id: TaskId, wish: ContinuationSpec, *, by: str
    ) -> object: ...
    async def fork(self, task_id: TaskId, wish: ForkSpec, *, by: str) -> TaskId: ...

    async def certificate(self, task_id: TaskId, *, seq: int | None = None) -> dict[str, Json]: ...
    async def report(self, task_id: TaskId) -> Report: ...
    async def replay(self, task_id: TaskId) -> Replayed: ...
    async def why(
        self, task_id: TaskId, seq: int | None, depth: int
    ) -> tuple[list[Row], list[Link]]: ...
    async def compare(self, one: TaskId, other: TaskId) -> Comparison: ...
    async def patch(self, task_id: TaskId) -> bytes: ...
    async def branch_bundle(self, task_id: TaskId) -> bytes: ...
    async def verify(self, task_id: TaskId) -> VerifyReport: ...
    async def check_again(self, task_id: TaskId) -> VerifyReport: ...
    async def artifacts(self, task_id: TaskId) -> e.WorkKept | None: ...
    async def take_artifacts(self, task_id: TaskId, directory: str) -> list[str]: ...


def remote_of(ctx: click.Context) -> Remote | None:
    """The daemon that this call is about; None: the local store.

    Raises:
        UsageError: the options exclude each other, or the address is none.
        ConfigError: the daemon's token may be read by others.
    """
    given = ctx.find_root().params
    url, is_local, store = given.get("url"), given.get("local"), given.get("store")
    if url and (is_local or store):
        other = "--local" if is_local else "--store"
        raise UsageError(f"--url and {other} exclude each other: a daemon has a store of its own")
    if is_local:
        return None
    # `http.client` is not for those who have no daemon.
    from agent_runtime.client.places import look_for_place

    # A store that is named is meant, whatever the environment says.
    state_dir = state_dir_of(store_url(store)) if store else None
    place = look_for_place(url, state_dir=state_dir)
    if place is None:
        return None
    from agent_runtime.cli.remote import Remote

    if place.state_dir is not None and not ctx.resilient_parsing:
        _tell_of_several(place.url, place.state_dir)
    return Remote(place)


def _tell_of_several(asked: str, state_dir: str) -> None:
    from agent_runtime.api.presence import find_daemons

    others = [each for each in find_daemons(state_dir) if each.address != asked]
    if others:
        told = ", ".join(f"{each.address} (pid {each.pid})" for each in others)
        click.echo(
            f"note: this asks the daemon at {asked}; {told} serves the same store: end one of them",
            err=True,
        )


def complete_task(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """A daemon's newest tasks, for a shell; without a daemon none: a store is slow to open."""
    try:
        remote = remote_of(ctx)
        if remote is None:
            return []
        with remote:
            found = remote.client.page(limit=_TASKS_OFFERED).tasks
    except AgentRuntimeError:
        return []  # nobody wants to read of it while typing
    return [
        CompletionItem(name, help=f"{task.status}: {task.goal.splitlines()[0][:60]}")
        for task in found
        for name in (task.id[-8:],)
        if name.startswith(incomplete)
    ]


def with_tasks(
    ctx: click.Context,
    do: Callable[[Tasks], Awaitable[int | None]],
    *,
    unsafe_no_sandbox: bool = False,
    needs_loop: bool = False,
) -> int:
    """Run `do` on the daemon's tasks, or on the local store's; its result is the exit code.

    `needs_loop`: it does more than asking.
    """
    remote = remote_of(ctx)
    if remote is None:
        from agent_runtime.cli.console import with_runtime

        return with_runtime(ctx, do, unsafe_no_sandbox=unsafe_no_sandbox)
    return with_remote(remote, do, needs_loop=needs_loop)


def with_remote(
    remote: Remote, do: Callable[[Remote], Awaitable[int | None]], *, needs_loop: bool = False
) -> int:
    """As `with_tasks`, where it is known that there is a daemon."""
    with remote:
        if needs_loop:
            from agent_runtime.cli.console import run_loop

            return run_loop(lambda: do(remote))
        return at_once(do(remote)) or 0


def at_once(waiting: Awaitable[T]) -> T:
    """Run what never waits for an event loop: a daemon is asked by blocking calls.

    Ctrl-C then ends a call where it is, and no event loop need be imported.
    """
    assert inspect.iscoroutine(waiting)
    try:
        waiting.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    waiting.close()
    raise AssertionError("a verb that asks a daemon waited for an event loop")
