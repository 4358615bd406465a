"""Property: the store on disk answers every sequence of operations as the one in memory does."""

import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_runtime.errors import AgentRuntimeError
from agent_runtime.ports import Store
from agent_runtime.stores.limits import digest
from agent_runtime.stores.memory import MemoryStore, SharedMemory
from agent_runtime.stores.sqlite import SqliteStore
from agent_runtime.types import Epoch, Lease, Seq, Snapshot, Status, TaskId
from tests.contracts.logs import log, summary_of

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
TASKS = st.sampled_from([TaskId("task_a"), TaskId("task_b"), TaskId("task_c")])
BLOBS = st.lists(st.binary(max_size=3), max_size=2)
EPOCHS = st.integers(1, 3)
LABELS = st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from(["1", "2"]))
STATUSES = st.sampled_from(list(Status))


@dataclass(frozen=True)
class Operation:
    """One call; `process` says which of the two stores on the same data gets it."""

    process: int
    name: str
    run: Callable[[Store], Awaitable[object]]

    def __repr__(self) -> str:
        return f"{self.process}: {self.name}"


@st.composite
def operations(draw: st.DrawFn) -> Operation:
    kind = draw(st.sampled_from(KINDS))
    arguments = {name: draw(strategy) for name, strategy in KINDS_ARGUMENTS[kind].items()}
    return Operation(
        draw(st.integers(0, 1)),
        f"{kind.__name__} {arguments}",
        lambda store: kind(store, **arguments),
    )


async def _create(
    store: Store,
    task_id: TaskId,
    text: str,
    key: str | None,
    blobs: list[bytes],
    labels: dict[str, str],
    status: str,
    priority: int,
    submitted_by: str,
    wake_at_us: int,
) -> object:
    rows = log(task_id, 1, 1, text=text)
    summary = summary_of(
        rows,
        labels=labels,
        status=status,
        priority=priority,
        submitted_by=submitted_by,
        wake_at_us=wake_at_us,
    )
    return await store.create(
        summary,
        rows,
        blobs={digest(data): data for data in blobs},
        idempotency_key=key,
    )


async def _append(
    store: Store,
    task_id: TaskId,
    expected: int,
    count: int,
    text: str,
    epoch: int | None,
    blobs: list[bytes],
    status: str,
    snapshot: Snapshot | None,
    tokens: int,
) -> object:
    rows = log(task_id, expected + 1, expected + count, text=text)
    return await store.append(
        task_id,
        Seq(expected),
        rows,
        epoch=None if epoch is None else Epoch(epoch),
        summary=summary_of(rows, status=status, tokens=tokens),
        blobs={digest(data): data for data in blobs},
        snapshot=snapshot,
    )


async def _claim(store: Store, task_id: TaskId) -> object:
    return (await store.claim(task_id)).epoch


async def _claim_all(store: Store, task_ids: list[TaskId]) -> object:
    return [(lease.task_id, lease.epoch) for lease in await store.claim_all(task_ids)]


async def _release(store: Store, task_id: TaskId, epoch: int) -> None:
    await store.release(Lease(task_id, Epoch(epoch), "somebody"))


async def _delete(store: Store, task_id: TaskId) -> None:
    await store.delete(task_id)


async def _put_blob(store: Store, data: bytes) -> object:
    return await store.put_blob(data)


async def _read(
    store: Store,
    task_id: TaskId,
    after: int,
    statuses: list[str],
    labels: dict[str, str],
    before: TaskId | None,
    limit: int,
    now_us: int,
    data: bytes,
) -> object:
    return (
        await store.tasks(statuses=statuses, labels=labels, before=before, limit=limit),
        await store.tasks(submitted_by="me", statuses=statuses),
        await store.ready(now_us=now_us, of_each=limit, without=[before] if before else []),
        await store.waiting([task_id]),
        await store.ended(now_us, limit=limit),
        await store.spent("me", 20_254),
        await store.counts(),
        await store.heads([task_id]),
        await answer(store.load(task_id, after)),
        await answer(store.summary(task_id)),
        await answer(store.load_snapshot(task_id, 1)),
        await answer(store.get_blob(digest(data))),
        (await answer(store.owner(task_id))) is None,
    )


KINDS_ARGUMENTS: dict[Callable[..., Awaitable[object]], dict[str, st.SearchStrategy[object]]] = {
    _create: {
        "task_id": TASKS,
        "text": st.sampled_from(["", "a"]) | TEXTS,
        "key": st.none() | st.sampled_from(["k", "l"]),
        "blobs": BLOBS,
        "labels": LABELS,
        "status": STATUSES,
        "priority": st.integers(0, 9),
        "submitted_by": st.sampled_from(["me", "you"]),
        "wake_at_us": st.sampled_from([0, 0, 2]),
    },
    _append: {
        "task_id": TASKS,
        "expected": st.integers(1, 4),
        "count": st.integers(1, 2),
        "text": st.sampled_from(["", "a"]) | TEXTS,
        "epoch": st.none() | EPOCHS,
        "blobs": BLOBS,
        "status": STATUSES,
        "snapshot": st.none() | st.builds(Snapshot, st.integers(1, 2), st.binary(max_size=3)),
        "tokens": st.sampled_from([0, 10]),
    },
    _claim: {"task_id": TASKS},
    _claim_all: {"task_ids": st.lists(TASKS, unique=True)},
    _release: {"task_id": TASKS, "epoch": EPOCHS},
    _delete: {"task_id": TASKS},
    _put_blob: {"data": st.binary(max_size=3)},
    _read: {
        "task_id": TASKS,
        "after": st.integers(0, 5),
        "statuses": st.lists(STATUSES, max_size=2),
        "labels": LABELS,
        "before": st.none() | TASKS,
        "limit": st.integers(1, 3),
        "now_us": st.sampled_from([1, 2, 1 << 52]),
        "data": st.binary(max_size=3),
    },
}
KINDS = list(KINDS_ARGUMENTS)


async def answer(call: Awaitable[object]) -> object:
    try:
        return await call
    except AgentRuntimeError as error:
        return type(error)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(operations(), min_size=1, max_size=25))
@pytest.mark.long
def test_sqlite_answers_as_memory_does(life: list[Operation]) -> None:
    """Our contract: the simulation proves things about the memory store that must hold on disk."""

    async def live() -> None:
        shared = SharedMemory()
        memory = [MemoryStore(shared), MemoryStore(shared)]
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "store.db"
            sqlite = [await SqliteStore.open(path), await SqliteStore.open(path)]
            try:
                for operation in life:
                    expected = await answer(operation.run(memory[operation.process]))
                    assert await answer(operation.run(sqlite[operation.process])) == expected
            finally:
                for store in sqlite:
                    await store.close()

    anyio.run(live)
