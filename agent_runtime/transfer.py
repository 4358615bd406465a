"""Taking an ended task out of one store and into another one.

What comes in is believed only as far as it proves itself: chain of hashes, fold, end, every blob,
certificate, claims, and the patch as the difference of its trees. Nothing of it shows before all of
that holds, because the task's rows are stored last, in one transaction with its blobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import anyio

from agent_runtime import __version__, bundles
from agent_runtime.bundles import Bundle
from agent_runtime.certificate import (
    blobs_named,
    certificate_of,
    claims_hold,
    earlier_ends,
    trees_named,
)
from agent_runtime.errors import Conflict, CorruptLog, NotFound
from agent_runtime.loop import codec
from agent_runtime.loop import events as e
from agent_runtime.loop.evolve import fold
from agent_runtime.loop.journal import summarize
from agent_runtime.loop.state import State, status_of
from agent_runtime.ports.store import Store
from agent_runtime.ports.workspaces import Workspaces
from agent_runtime.types import BlobId, Row, TaskId, TreeId

FORGET_SECONDS_MAX = 30.0


@dataclass(frozen=True, slots=True)
class Imported:
    """What `import_task` did. `new` is false for a task that was here with the very same log."""

    task_id: TaskId
    new: bool


async def export_task(task_id: TaskId, store: Store, workspaces: Workspaces) -> bytes:
    """An ended task as one file.

    Raises:
        Conflict: it has not ended.
        CorruptLog, NotFound: the log or a text of it is not what was written.
        WorkspaceError: the versions that its result is about cannot be read.
        UsageError: it is too large for one file.
    """
    rows = await store.load(task_id)
    state, events = _folded(task_id, rows)
    if not state.ended:
        raise Conflict(
            f"task {task_id!r} is {status_of(state)[0]}; only an ended one can be exported: "
            f"`agent-runtime cancel {task_id}` ends it"
        )
    wanted = dict.fromkeys(blob_id for _, blob_id in blobs_named(events))
    trees = trees_named(events)
    made = Bundle(
        task_id=task_id,
        rows=rows,
        blobs={blob_id: await store.get_blob(blob_id) for blob_id in wanted},
        certificate=certificate_of(state, rows),
        trees=trees,
        pack=await workspaces.pack(task_id, trees) if trees else b"",
    )
    return bundles.encode(made, runtime=__version__)


async def import_task(data: bytes, store: Store, workspaces: Workspaces) -> Imported:
    """Store the task of a file that `export_task` made, durable when it returns.

    Raises:
        UsageError: it is no such file, or one of an unknown version.
        CorruptLog: a part of it is not what was written, or its claims do not follow from it.
        Conflict: a task of this id is here, with another log.
        WorkspaceError: its versions of the workspace are not whole.
    """
    bundle = bundles.decode(data)
    task_id, rows = bundle.task_id, bundle.rows
    state, events = _folded(task_id, rows)
    _check(bundle, state, events)
    if await _is_here(task_id, rows, store):
        return Imported(task_id, new=False)
    try:
        if bundle.trees:
            await workspaces.unpack(task_id, bundle.trees, bundle.pack)
            await _check_patch(bundle, state, workspaces)
        await store.create(summarize(state, rows[-1].hash), rows, blobs=bundle.blobs)
    except BaseException:
        await _forget_unless_stored(task_id, store, workspaces)
        raise
    return Imported(task_id, new=True)


def _folded(task_id: TaskId, rows: Sequence[Row]) -> tuple[State, list[e.AnyEvent]]:
    codec.check_chain(rows, task_id=task_id)
    events = [codec.decode(row) for row in rows]
    times = (row.at_us for row in rows)
    try:
        return fold(zip(events, times, strict=True), State(task_id=task_id)), events
    except AssertionError as error:
        raise CorruptLog(
            f"the log of {task_id!r} does not fold: {error}", task_id=task_id
        ) from None


def _check(bundle: Bundle, state: State, events: Sequence[e.AnyEvent]) -> None:
    def fault(message: str, seq: int | None = None) -> CorruptLog:
        return CorruptLog(
            f"the export of {bundle.task_id!r} is not what was written: {message}",
            task_id=bundle.task_id,
            seq=seq,
        )

    if not state.ended:
        raise fault("its log does not reach the end of the task")
    for seq, blob_id in blobs_named(events):
        if blob_id not in bundle.blobs:
            raise fault(f"event {seq} names the blob {blob_id!r}, which is missing", seq)
    if more := bundle.blobs.keys() - {blob_id for _, blob_id in blobs_named(events)}:
        raise fault(f"no event names its blob {min(more)!r}")
    if list(bundle.trees) != trees_named(events):
        raise fault("its trees are not those that the log names")
    made, given = certificate_of(state, bundle.rows), bundle.certificate
    if (made is None) != (given is None):
        raise fault("its certificate does not belong to the log")
    if made is not None and given is not None:
        # Another version says more or less in a certificate; the log itself is what counts.
        keys = made if given.get("runtime") == __version__ else ("task_id", "status", "tree", "log")
        if any(given.get(key) != made[key] for key in keys):
            raise fault("its certificate does not say what the log says")
    ends = [at_end for at_end, _ in earlier_ends(state, bundle.rows, events)]
    for at_end in (*ends, state):
        if broken := claims_hold(at_end):
            raise fault(broken, at_end.seq)


async def _is_here(task_id: TaskId, rows: Sequence[Row], store: Store) -> bool:
    try:
        present = await store.load(task_id)
    except NotFound:
        return False
    if present != list(rows):
        raise Conflict(
            f"a task {task_id!r} is in this store already, with another log; import it into a "
            "store of its own: agent-runtime --store sqlite:///PATH import FILE"
        )
    return True


async def _check_patch(bundle: Bundle, state: State, workspaces: Workspaces) -> None:
    found = state.verification
    if found is None or not found.tree:
        return
    made = await workspaces.patch(bundle.task_id, TreeId(found.base_tree), TreeId(found.tree))
    if made != bundle.blobs[BlobId(found.patch_blob)]:
        raise CorruptLog(
            f"the patch of {bundle.task_id!r} is not the difference of its trees",
            task_id=bundle.task_id,
        )


async def _forget_unless_stored(task_id: TaskId, store: Store, workspaces: Workspaces) -> None:
    """Remove what was unpacked. A killed import leaves it to `gc`, as no task's leftovers."""
    with anyio.move_on_after(FORGET_SECONDS_MAX, shield=True):
        try:
            await store.summary(task_id)
        except NotFound:
            await workspaces.forget(task_id)
