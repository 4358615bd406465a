"""Making a fork: the first events of a task under another id, and the files that belong to them.

Where a task may be forked, and what a fork is, is decided in `loop.forking`. The parent is only
read; nothing of the fork shows before all of it is there, because its rows are stored last.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import anyio
import msgspec

from agent_runtime.certificate import blobs_named
from agent_runtime.errors import (
    ConfigError,
    Conflict,
    DiskFull,
    NotFound,
    WorkspaceError,
)
from agent_runtime.loop import codec, forking
from agent_runtime.loop import events as e
from agent_runtime.loop.asking import judged
from agent_runtime.loop.decide import advance
from agent_runtime.loop.evolve import evolve, fold
from agent_runtime.loop.hands import limits_of
from agent_runtime.loop.journal import summarize
from agent_runtime.loop.replay import replay
from agent_runtime.loop.state import NO_BRAIN, State
from agent_runtime.loop.submission import new_task_id
from agent_runtime.ports.everything import Ports
from agent_runtime.ports.workspaces import LeftWork
from agent_runtime.resources import disk_quota
from agent_runtime.types import BlobId, ForkSpec, Once, Phase, Row, TaskId, TaskSpec, TreeId

FORGET_SECONDS_MAX = 30.0

Check = Callable[[TaskSpec], Awaitable[None]]


async def fork_task(
    task_id: TaskId, wish: ForkSpec, ports: Ports, *, by: str, check: Check,
    once: Once | None = None,
) -> TaskId:  # fmt: skip
    """Store a fork of a task, with a working copy of its own; durable on return.

    `check` refuses a task that cannot run here; only what is wished for is looked at. If `once` was
    known to the store, nothing is stored and its task is returned.

    Raises:
        NotFound: no such task or event.
        Conflict: event `wish.at` is no place for a fork, or the parent's files are gone.
        UsageError: what shall be replaced is not there.
        CorruptLog: the parent's log is not what was written.
        ConfigError: nobody can reach the wished model.
        WorkspaceError: the working copy cannot be made.
    """
    rows = await ports.store.load(task_id)
    codec.check_chain(rows, task_id=task_id)
    prefix, state = _prefix(rows, wish, new_task_id(ports.clock.now_us()), ports)
    fork_id = TaskId(prefix[0].task_id)
    spec = forking.changed_task(state.task, wish)
    if wish.model is not None or wish.policy is not None:
        await check(spec)
    brain = await _brain(state, spec, wish, ports)
    blobs = await _blobs(prefix, ports)
    try:
        path, notes = await _working_copy(task_id, fork_id, state, spec, ports)
        at_us = max(ports.clock.now_us(), state.at_us)
        facts: list[e.AnyEvent] = [
            e.Forked(
                parent=task_id,
                at=wish.at,
                by=by,
                replaced=forking.replaced(wish),
                spec=spec,
                brain=brain,
                path=path,
                notes=list(notes),
                once=once,
            )
        ]
        if wish.message:
            facts.append(e.Steered(by=by, message=wish.message))
        for fact in facts:
            state = evolve(state, fact, at_us)
        made = codec.encode(fork_id, facts, after=len(prefix), head=prefix[-1].hash, at_us=at_us)
        summary = summarize(state, made[-1].hash, submitted_by=by)
        key = None if once is None else key_of(by, once)
        stored = await ports.store.create(
            summary, [*prefix, *made], blobs=blobs, idempotency_key=key
        )
    except BaseException:
        await _forget_unless_stored(fork_id, ports)
        raise
    if stored != fork_id:
        await _forget_unless_stored(fork_id, ports)  # somebody made it at the same time
    return stored


def key_of(by: str, once: Once) -> str:
    """An idempotency key as the store has it: apart from everybody else's."""
    return f"{by} {once.key}"


def _prefix(
    rows: Sequence[Row], wish: ForkSpec, fork_id: TaskId, ports: Ports
) -> tuple[list[Row], State]:
    """The rows of the fork up to the parent's event `wish.at`, and the state they lead to."""
    events = [codec.decode(row) for row in rows]
    kept = forking.cut(events, replay(rows).appends, wish)
    prefix = codec.copied(rows[:kept], fork_id)
    times = [row.at_us for row in prefix]
    state = fold(zip(events[:kept], times, strict=True), State(task_id=fork_id))
    if kept == wish.at:
        return prefix, state
    instead = forking.with_input(events[kept], wish)
    if isinstance(instead, e.ModelReplied):
        calls = judged(instead.calls, state, ports.toolbox)
        instead = msgspec.structs.replace(instead, calls=calls)
    assert instead is not None, "only an answer or a result stands in an event's place"
    at_us = rows[kept].at_us
    decided, state = advance(state, instead, at_us)
    prefix += codec.encode(fork_id, decided, after=kept, head=prefix[-1].hash, at_us=at_us)
    return prefix, state


async def _brain(state: State, spec: TaskSpec, wish: ForkSpec, ports: Ports) -> e.BrainFound | None:
    """Who thinks from here on, where another model is wished for in the middle of the work.

    Before that the fork looks for it by itself.
    """
    if wish.model is None:
        return None
    if ports.model is None:
        raise ConfigError(
            f"no installed adapter can reach the model {wish.model!r}: fork without --model, or "
            "install a plug-in of the group 'agent_runtime.models'"
        )
    if state.brain is None or state.stage is not Phase.EXECUTION:
        return None
    brain = await ports.model.find(spec)
    if brain.kind in NO_BRAIN:
        offers = "; ".join(brain.offers)
        raise ConfigError(f"the model {wish.model!r} cannot be reached: {offers or brain.why}")
    return e.BrainFound(
        kind=brain.kind, models=list(brain.models), why=brain.why, offers=list(brain.offers)
    )


async def _blobs(prefix: Sequence[Row], ports: Ports) -> Mapping[BlobId, bytes]:
    """Every text that the fork's events name is the fork's, too: the parent may be forgotten."""
    named = blobs_named([codec.decode(row) for row in prefix])
    return {blob_id: await ports.store.get_blob(blob_id) for _, blob_id in named}


async def _working_copy(
    task_id: TaskId, fork_id: TaskId, state: State, spec: TaskSpec, ports: Ports
) -> tuple[str, Sequence[str]]:
    """Path and notes of the fork's own, with the last known tree; empty if none was open.

    A parent that was worked on in place is forked into a clone: nobody shares a directory.
    """
    workspace = state.workspace
    if workspace is None or not workspace.path or spec.workspace is None:
        return "", ()
    base, tree = TreeId(workspace.base_tree), TreeId(state.tree)
    try:
        await ports.workspaces.require(task_id, sorted({base, tree}))
        await ports.workspaces.fork(task_id, fork_id)
        if not state.opened or state.cleaned is not None:
            return "", ()  # the next run opens it
        opened = await ports.workspaces.open(
            fork_id,
            spec.workspace,
            disk=disk_quota(limits_of(state, ports)),
            left=LeftWork(base_commit=workspace.base_commit, base_tree=base, tree=tree),
        )
        if state.environment is not None:
            await ports.environment.adopt(fork_id, state.environment)
    except DiskFull:
        raise
    except WorkspaceError as error:
        raise Conflict(f"task {task_id!r} cannot be forked: {error}") from error
    return opened.path, opened.notes


async def _forget_unless_stored(fork_id: TaskId, ports: Ports) -> None:
    """Remove what was made. Of a killed process `gc` finds it, as no task's leftovers."""
    with anyio.move_on_after(FORGET_SECONDS_MAX, shield=True):
        try:
            await ports.store.summary(fork_id)
        except NotFound:
            await ports.workspaces.forget(fork_id)
