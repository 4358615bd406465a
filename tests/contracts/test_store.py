"""What every store promises (`ports.Store`). A new store adds one line to `WORLDS`.

A *world* is one shared set of data; each store opened in it is one process on that data.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from agent_runtime.errors import Conflict, LeaseHeld, LeaseLost, NotFound, UsageError
from agent_runtime.ports import Store
from agent_runtime.ports.store import NewTask
from agent_runtime.stores import limits
from agent_runtime.stores.limits import APPEND_BYTES_MAX, digest
from agent_runtime.stores.memory import MemoryStore, SharedMemory
from agent_runtime.stores.sqlite import SqliteStore
from agent_runtime.types import BlobId, Epoch, Lease, Seq, Snapshot, Spent, Status, TaskId
from tests.contracts.logs import OTHER, TASK, ZERO, append, create, log, summary_of

pytestmark = pytest.mark.anyio

MISSING = TaskId("task_missing")


# ---- worlds ------------------------------------------------------------------------------


@dataclass
class World:
    """Opens stores on one set of data and closes what the test left open."""

    make: Callable[[], Awaitable[Store]]
    stores: list[Store]

    async def open(self) -> Store:
        store = await self.make()
        self.stores.append(store)
        return store


def _memory_world(_directory: Path) -> World:
    shared = SharedMemory()

    async def make() -> Store:
        return MemoryStore(shared)

    return World(make, [])


def _sqlite_world(directory: Path) -> World:
    async def make() -> Store:
        return await SqliteStore.open(directory / "store.db")

    return World(make, [])


WORLDS = {
    "memory-asyncio": (_memory_world, "asyncio"),
    "memory-trio": (_memory_world, "trio"),
    "sqlite-asyncio": (_sqlite_world, "asyncio"),
}


@pytest.fixture(params=WORLDS)
def world_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def anyio_backend(world_name: str) -> str:
    return WORLDS[world_name][1]


@pytest.fixture
async def world(world_name: str, anyio_backend: str, tmp_path: Path) -> AsyncIterator[World]:
    world = WORLDS[world_name][0](tmp_path)
    with anyio.fail_after(30):
        yield world
    for store in world.stores:
        await store.close()


@pytest.fixture
async def store(world: World) -> Store:
    return await world.open()


# ---- the log -----------------------------------------------------------------------------


async def test_another_process_reads_a_task_exactly_as_it_was_written(world: World) -> None:
    """Our contract: hashes are over stored bytes, so not a byte may change."""
    store, other = await world.open(), await world.open()
    rows = log(TASK, 1, 3)
    summary = summary_of(rows, labels={"team": 'a "b"', "ö": ""})
    assert await store.create(summary, rows) == TASK
    assert await other.load(TASK) == rows
    assert await other.summary(TASK) == summary


async def test_data_that_is_no_text_and_none_at_all_come_back_as_stored(store: Store) -> None:
    """A store never re-encodes; what is damaged is the codec's to find."""
    rows = [
        msgspec.structs.replace(row, data=data)
        for row, data in zip(log(TASK, 1, 3), (b"\xff\x00'\"", b"", b"{}"), strict=True)
    ]
    await store.create(summary_of(rows), rows)
    assert await store.load(TASK) == rows


async def test_a_known_idempotency_key_names_the_first_task_and_stores_nothing(
    store: Store,
) -> None:
    assert await store.made_by("k") is None
    assert await create(store, TASK, idempotency_key="k") == TASK
    assert await create(store, OTHER, idempotency_key="k") == TASK
    assert (await store.made_by("k"), await store.made_by("j")) == (TASK, None)
    assert [summary.task_id for summary in await store.tasks()] == [TASK]


async def test_of_two_submissions_at_once_with_one_key_one_makes_the_task(store: Store) -> None:
    made: list[TaskId] = []

    async def submit(task_id: TaskId) -> None:
        made.append(await create(store, task_id, idempotency_key="k"))

    async with anyio.create_task_group() as tg:
        tg.start_soon(submit, TASK)
        tg.start_soon(submit, OTHER)
    assert len(set(made)) == 1
    assert [summary.task_id for summary in await store.tasks()] == made[:1]


async def test_creating_the_same_task_again_succeeds_and_another_under_its_id_is_a_conflict(
    store: Store,
) -> None:
    """Our contract: after StoreUnavailable the same call is repeated."""
    await create(store)
    assert await create(store) == TASK
    rows = log(TASK, 1, 1, text="another")
    with pytest.raises(Conflict, match="task_a"):
        await store.create(summary_of(rows), rows)
    assert await store.load(TASK) == log(TASK, 1, 1)


async def test_append_returns_the_last_number_and_load_starts_after_any(store: Store) -> None:
    await create(store)
    assert await append(store, 1, count=3) == 4
    assert await append(store, 4) == 5
    assert await store.load(TASK) == log(TASK, 1, 5)
    assert await store.load(TASK, 3) == log(TASK, 4, 5)
    assert await store.load(TASK, 5) == []
    assert await store.load(TASK, 1, 2) == log(TASK, 2, 3)
    assert await store.load(TASK, 4, 2) == log(TASK, 5, 5)


async def test_a_long_log_comes_back_whole_and_in_order(store: Store) -> None:
    await create(store)
    await append(store, 1, count=4000)
    assert await store.load(TASK) == log(TASK, 1, 4001)


async def test_each_append_renews_the_projection(store: Store) -> None:
    await create(store)
    await append(store, 1, status="succeeded")
    assert await store.summary(TASK) == summary_of(log(TASK, 2, 2), status="succeeded")


@pytest.mark.parametrize("expected", [1, 3, 7])
async def test_an_append_after_another_event_than_the_last_is_a_conflict(
    store: Store, expected: int
) -> None:
    await create(store)
    await append(store, 1)
    with pytest.raises(Conflict, match=r"task_a.*event 2"):
        await append(store, expected, text="other")
    assert await store.load(TASK) == log(TASK, 1, 2)


async def test_a_repeated_append_has_succeeded_even_when_the_log_has_moved_on(
    store: Store,
) -> None:
    """Our contract: StoreUnavailable says nothing about the write, so it is repeated."""
    await create(store)
    await append(store, 1, count=2)
    await append(store, 3)
    assert await append(store, 1, count=2) == 3
    assert await store.load(TASK) == log(TASK, 1, 4)


async def test_a_repeat_that_wants_more_than_is_stored_is_a_conflict(store: Store) -> None:
    await create(store)
    await append(store, 1)
    with pytest.raises(Conflict):
        await append(store, 1, count=2)
    assert await store.load(TASK) == log(TASK, 1, 2)


async def test_of_many_appends_after_the_same_event_exactly_one_wins(world: World) -> None:
    stores = [await world.open(), await world.open()]
    await create(stores[0])
    won: list[str] = []

    async def write(text: str, store: Store) -> None:
        try:
            await append(store, 1, text=text)
        except Conflict:
            return
        won.append(text)

    async with anyio.create_task_group() as tg:
        for number in range(10):
            tg.start_soon(write, str(number), stores[number % 2])
    assert len(won) == 1
    assert await stores[0].load(TASK, 1) == log(TASK, 2, 2, text=won[0])


async def test_neighbours_of_a_refused_write_are_stored(store: Store) -> None:
    """Our contract: writes share a transaction, not their fate."""
    answers: dict[str, object] = {}

    async def note(name: str, write: Awaitable[object]) -> None:
        try:
            answers[name] = await write
        except (Conflict, NotFound) as error:
            answers[name] = type(error)

    await create(store, TASK)
    await create(store, OTHER)
    async with anyio.create_task_group() as tg:
        tg.start_soon(note, "good", append(store, 1))
        tg.start_soon(note, "stale", append(store, 7))
        tg.start_soon(note, "missing", append(store, 1, task_id=MISSING))
        tg.start_soon(note, "old epoch", append(store, 1, task_id=OTHER, epoch=3))
        tg.start_soon(note, "good too", append(store, 1, task_id=OTHER))
        tg.start_soon(note, "next", append(store, 2))
    assert answers.pop("next") in (3, Conflict)  # nobody promised an order
    assert answers == {
        "good": 2,
        "stale": Conflict,
        "missing": NotFound,
        "old epoch": LeaseLost,
        "good too": 2,
    }


async def test_of_creations_at_once_each_gets_its_own_answer_and_a_refused_set_leaves_nothing(
    store: Store,
) -> None:
    answers: dict[str, object] = {}

    async def note(name: str, write: Awaitable[object]) -> None:
        try:
            answers[name] = await write
        except Conflict as error:
            answers[name] = type(error)

    def new(task_id: str, text: str = "", key: str | None = None) -> NewTask:
        rows = log(task_id, 1, 1, text=text)
        return NewTask(summary_of(rows), rows, key)

    await create(store, TASK, idempotency_key="k")
    async with anyio.create_task_group() as tg:
        tg.start_soon(note, "new", create(store, OTHER))
        tg.start_soon(note, "repeated", create(store, "task_r", idempotency_key="k"))
        tg.start_soon(note, "refused", store.create_all([new("task_c"), new(TASK, "other")]))
        tg.start_soon(
            note, "all", store.create_all([new("task_d"), new("task_e", key="k"), new("task_f")])
        )
        tg.start_soon(note, "append", append(store, 1))
    assert answers == {
        "new": OTHER,
        "repeated": TASK,
        "refused": Conflict,
        "all": ["task_d", TASK, "task_f"],
        "append": 2,
    }
    assert {task.task_id: task.seq for task in await store.tasks()} == {
        TASK: 2, OTHER: 1, "task_d": 1, "task_f": 1,
    }  # fmt: skip


@pytest.mark.parametrize("count", [3, 7, 128, 129, 300])
async def test_a_write_of_many_rows_stores_each_once(store: Store, count: int) -> None:
    tasks = [
        NewTask(summary_of(rows, labels={"n": str(number), "of": str(count)}), rows, f"k{number}")
        for number in range(count)
        for rows in [log(f"task_{number:04}", 1, 1)]
    ]
    ids = await store.create_all(tasks)
    found = await store.tasks(labels={"of": str(count)}, limit=count + 1)
    assert [task.task_id for task in found] == sorted(ids, reverse=True)
    assert await append(store, 1, task_id=ids[-1], count=count) == count + 1
    assert await store.load(ids[-1]) == log(ids[-1], 1, count + 1)


async def test_an_append_that_is_too_large_is_refused_and_says_what_to_do(store: Store) -> None:
    await create(store)
    rows = [msgspec.structs.replace(log(TASK, 2, 2)[0], data=bytes(APPEND_BYTES_MAX + 1))]
    with pytest.raises(UsageError, match="blobs"):
        await store.append(TASK, Seq(1), rows, epoch=None, summary=summary_of(rows))
    assert await append(store, 1) == 2


async def test_rows_that_are_misnumbered_or_not_the_tasks_are_a_bug(store: Store) -> None:
    await create(store)
    for rows in (log(TASK, 3, 3), log(OTHER, 2, 2)):
        with pytest.raises(AssertionError):
            await store.append(TASK, Seq(1), rows, epoch=None, summary=summary_of(rows))


async def test_what_is_not_there_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound, match="task_missing"):
        await store.load(MISSING)
    with pytest.raises(NotFound, match="task_missing"):
        await store.summary(MISSING)
    with pytest.raises(NotFound, match="task_missing"):
        await append(store, 1, task_id=MISSING)
    with pytest.raises(NotFound, match="task_missing"):
        await store.claim(MISSING)
    with pytest.raises(NotFound, match="task_missing"):
        await store.owner(MISSING)
    with pytest.raises(NotFound, match="task_missing"):
        await store.delete(MISSING)
    with pytest.raises(NotFound, match=ZERO):
        await store.get_blob(BlobId(ZERO))


# ---- the projection ----------------------------------------------------------------------


async def test_tasks_are_listed_newest_first_and_by_page(store: Store) -> None:
    task_ids = [TaskId(f"task_{number}") for number in range(5)]
    for task_id in task_ids:
        await create(store, task_id)

    async def page(before: TaskId | None) -> list[str]:
        return [summary.task_id for summary in await store.tasks(before=before, limit=2)]

    assert await page(None) == task_ids[:2:-1]
    assert await page(task_ids[3]) == task_ids[2:0:-1]
    assert await page(task_ids[1]) == task_ids[:1]


async def test_pages_neither_skip_nor_repeat_while_tasks_come_and_change(store: Store) -> None:
    """Our contract: the cursor is an id, and no id ever moves."""
    for number in range(10, 30):
        await create(store, TaskId(f"task_{number}"), labels={"k": str(number % 2)})
    wishes: list[dict[str, Any]] = [{}, {"labels": {"k": "0"}}, {"submitted_by": ""}]
    for times, wish in enumerate(wishes):
        before = {summary.task_id for summary in await store.tasks(**wish)}
        seen: list[str] = []
        while page := await store.tasks(**wish, before=TaskId(seen[-1]) if seen else None, limit=3):
            seen += [summary.task_id for summary in page]
            await create(store, TaskId(f"task_9{times}{len(seen):02}"))
            await append(store, page[-1].seq, task_id=seen[-1], status="failed")
        assert seen == sorted(before, reverse=True)


async def test_filters_of_the_list_are_conjunctive(store: Store) -> None:
    async def found(statuses: Sequence[str], labels: dict[str, str]) -> list[str]:
        return [summary.task_id for summary in await store.tasks(statuses=statuses, labels=labels)]

    await create(store, TaskId("task_1"), status="failed", labels={"team": "x", "kind": "y"})
    await create(store, TaskId("task_2"), status="running", labels={"team": "x"})
    await create(store, TaskId("task_3"), status="waiting", labels={"team": "z"})
    assert await found(["failed", "waiting"], {}) == ["task_3", "task_1"]
    assert await found([], {"team": "x"}) == ["task_2", "task_1"]
    assert await found([], {"team": "x", "kind": "y"}) == ["task_1"]
    assert await found(["running"], {"team": "x"}) == ["task_2"]
    assert await found(["running"], {"kind": "y"}) == []


async def test_heads_names_the_last_event_of_each_known_task(store: Store) -> None:
    await create(store, TASK)
    await create(store, OTHER)
    await append(store, 1, count=2)
    assert await store.heads([OTHER, MISSING, TASK]) == {TASK: 3, OTHER: 1}
    assert await store.heads([]) == {}


# ---- leases ------------------------------------------------------------------------------


async def test_a_task_has_one_driver_and_each_lease_a_new_epoch(world: World) -> None:
    store, other = await world.open(), await world.open()
    await create(store)
    assert await store.owner(TASK) is None
    lease = await store.claim(TASK)
    assert (lease.task_id, lease.epoch) == (TASK, 1)
    assert await other.owner(TASK) == lease.owner
    for process in (store, other):
        with pytest.raises(LeaseHeld, match=lease.owner):
            await process.claim(TASK)
    await store.release(lease)
    assert await other.owner(TASK) is None
    assert (await other.claim(TASK)).epoch == 2


async def test_a_held_task_is_claimed_by_its_maker_alone_while_that_one_lives(world: World) -> None:
    """Found as a user: a daemon took the tasks of `run` beside it, which then ended with 6."""
    maker, daemon = await world.open(), await world.open()
    await create(maker, held=True)
    assert await daemon.ready(now_us=0) == []
    with pytest.raises(LeaseHeld):
        await daemon.claim(TASK)
    lease = await maker.claim(TASK)
    with pytest.raises(LeaseHeld):
        await maker.claim(TASK)
    await maker.release(lease)
    assert (await daemon.claim(TASK)).epoch == 2


async def test_a_held_task_is_free_when_its_maker_has_gone(world: World) -> None:
    maker, daemon = await world.open(), await world.open()
    await create(maker, status="pending", held=True)
    await maker.close()
    assert [task.task_id for task in await daemon.ready(now_us=0)] == [TASK]
    assert (await daemon.claim(TASK)).epoch == 1


async def test_a_lease_is_dead_with_its_process(world: World) -> None:
    dying, heir = await world.open(), await world.open()
    await create(dying)
    await dying.claim(TASK)
    await dying.close()
    assert await heir.owner(TASK) is None
    assert [(task.task_id, task.begun) for task in await heir.ready(now_us=0)] == [(TASK, True)]
    assert (await heir.claim(TASK)).epoch == 2


async def test_a_writer_of_an_older_epoch_is_fenced_also_when_it_repeats_itself(
    store: Store,
) -> None:
    """Our contract: who lost the lease stops, whatever it believes to have stored."""
    await create(store)
    old = await store.claim(TASK)
    assert await append(store, 1, epoch=old.epoch) == 2
    await store.release(old)
    new = await store.claim(TASK)
    for expected in (1, 2):
        with pytest.raises(LeaseLost, match="epoch 1"):
            await append(store, expected, epoch=old.epoch)
    assert await append(store, 2, epoch=new.epoch) == 3


async def test_facts_from_outside_need_no_lease(world: World) -> None:
    """DESIGN section 5: cancel, pause, steer and approval come while another drives."""
    driver, outsider = await world.open(), await world.open()
    await create(driver)
    lease = await driver.claim(TASK)
    assert await append(outsider, 1) == 2
    with pytest.raises(Conflict):
        await append(driver, 1, epoch=lease.epoch, text="own")
    assert await append(driver, 2, epoch=lease.epoch) == 3


async def test_releasing_an_old_lease_does_nothing(world: World) -> None:
    store, other = await world.open(), await world.open()
    await create(store)
    old = await store.claim(TASK)
    await store.release(old)
    await other.claim(TASK)
    await store.release(old)
    await store.release(Lease(MISSING, Epoch(1), "nobody"))
    assert await store.owner(TASK) is not None


async def test_of_two_claims_at_once_one_gets_the_lease(world: World) -> None:
    stores = [await world.open(), await world.open()]
    await create(stores[0])
    epochs: list[int] = []

    async def claim(store: Store) -> None:
        try:
            epochs.append((await store.claim(TASK)).epoch)
        except LeaseHeld:
            epochs.append(0)

    async with anyio.create_task_group() as tg:
        for store in stores:
            tg.start_soon(claim, store)
    assert sorted(epochs) == [0, 1]


async def test_of_several_tasks_those_that_are_free_are_claimed(world: World) -> None:
    """The others are somebody's, or nobody's any more, and hold nobody up."""
    store, other = await world.open(), await world.open()
    await create(store)
    await create(store, OTHER)
    held = TaskId("task_held")
    await create(store, held)
    await other.claim(held)
    await store.release(await store.claim(OTHER))
    leases = await store.claim_all([OTHER, MISSING, held, TASK])
    assert [(lease.task_id, lease.epoch) for lease in leases] == [(OTHER, 2), (TASK, 1)]
    assert await other.claim_all([OTHER, TASK]) == []


@pytest.mark.parametrize("several", [False, True])
async def test_a_claim_whose_caller_is_cancelled_holds_nothing(store: Store, several: bool) -> None:
    """Else the task would be held by a living process in which nobody drives it."""
    await create(store)

    async def claim() -> None:
        if several:
            await store.claim_all([TASK])
        else:
            await store.claim(TASK)

    async with anyio.create_task_group() as tg:
        tg.start_soon(claim)
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        tg.cancel_scope.cancel()
    await append(store, 1)  # behind what the cancelled claim has queued
    assert await store.owner(TASK) is None


async def test_ready_are_free_tasks_that_want_to_run_most_urgent_and_oldest_first(
    store: Store,
) -> None:
    for status in Status:
        await create(store, TaskId(f"task_1_{status}"), status=status)
    await create(store, TaskId("task_2"), priority=9)
    await create(store, TaskId("task_3"), priority=1)
    await create(store, TaskId("task_4"))
    await store.claim(TaskId("task_1_running"))

    async def found(**wish: Any) -> list[str]:
        return [task.task_id for task in await store.ready(now_us=0, **wish)]

    assert await found() == ["task_2", "task_1_pending", "task_4", "task_3"]
    assert await found(without=[TaskId("task_2"), TaskId("task_4")]) == ["task_1_pending", "task_3"]


async def test_of_every_submitter_and_priority_the_oldest_are_ready(store: Store) -> None:
    """However many one has queued, the others are found."""
    for number in range(9):
        await create(store, TaskId(f"task_{number}"), submitted_by="many")
    for submitter, priority in (("few", 5), ("few", 0), ("", 5), ("many", 6)):
        task_id = TaskId(f"task_x_{submitter}_{priority}")
        await create(store, task_id, submitted_by=submitter, priority=priority, status="pending")
    assert [task.task_id for task in await store.ready(now_us=0, of_each=2)] == [
        *("task_x_many_6", "task_0", "task_1", "task_x__5", "task_x_few_5", "task_x_few_0")
    ]


async def test_a_task_that_waits_for_a_time_is_ready_when_it_has_come(store: Store) -> None:
    await create(store, TASK, status="waiting", wake_at_us=1000)
    await create(store, OTHER, status="waiting")
    assert await store.ready(now_us=999) == []
    [found] = await store.ready(now_us=1000)
    assert (found.task_id, found.begun) == (TASK, True)
    await store.claim(TASK)
    assert await store.ready(now_us=1000) == []


async def test_of_many_tasks_those_that_wait_are_told_with_the_time_since_when(
    store: Store,
) -> None:
    await create(store, TASK, status="waiting")
    await create(store, OTHER)
    since_us = (await store.summary(TASK)).updated_at_us
    assert await store.waiting([TASK, OTHER, MISSING]) == {TASK: since_us}


async def test_tasks_are_counted_by_status(store: Store) -> None:
    assert await store.counts() == {}
    for number, status in enumerate(["failed", "pending", "failed"]):
        await create(store, TaskId(f"task_{number}"), status=status)
    assert await store.counts() == {"failed": 2, "pending": 1}


async def test_what_a_task_is_made_with_stays(store: Store) -> None:
    """Our contract: later events say where it stands, not what it is."""
    await create(store, TASK, priority=9, labels={"a": "b"}, submitted_by="somebody")
    before = await store.summary(TASK)
    await append(store, 1, status="waiting")
    after = await store.summary(TASK)
    changed = {"status": "waiting", "seq": 2, "head_hash": after.head_hash}
    expected = msgspec.structs.replace(before, updated_at_us=after.updated_at_us, **changed)
    assert after == expected


async def test_labels_and_priority_are_changed_by_an_append_that_says_so(store: Store) -> None:
    """Lists and queues go by the new ones, and deleting leaves nothing of either."""
    await create(store, TASK, priority=1, labels={"a": "b", "c": "d"}, status="pending")
    await create(store, OTHER, priority=5, status="pending")
    await append(store, 1, status="pending", relabel=({"a": "x", "e": "f"}, 9))
    await append(store, 2, status="pending")
    after = await store.summary(TASK)
    assert (after.labels, after.priority) == ({"a": "x", "e": "f"}, 9)
    for labels, found in (({"a": "b"}, []), ({"c": "d"}, []), ({"a": "x", "e": "f"}, [TASK])):
        assert [task.task_id for task in await store.tasks(labels=labels)] == found
    assert [task.task_id for task in await store.ready(now_us=0)] == [TASK, OTHER]
    await append(store, 3, status="pending", relabel=({}, 0))
    assert not await store.tasks(labels={"a": "x"})
    assert [task.task_id for task in await store.ready(now_us=0)] == [OTHER, TASK]
    await store.delete(TASK)
    await create(store, TASK, labels={"a": "x"})
    assert [task.task_id for task in await store.tasks(labels={"a": "x"})] == [TASK]


async def test_ended_tasks_are_found_in_the_order_in_which_they_ended(store: Store) -> None:
    """One that was forgotten since is no obstacle to the next page."""
    ids = [TaskId(f"task_{letter}") for letter in "cabd"]
    for seq, task_id in enumerate(ids, 2):
        await create(store, task_id)
        await append(store, 1, count=seq, task_id=task_id, status="failed")
    await create(store, TaskId("task_e"))
    end_us = (await store.summary(ids[3])).updated_at_us
    first = await store.ended(end_us + 1, limit=2)
    assert [task.task_id for task in first] == ids[:2]
    await store.delete(ids[1])
    assert [task.task_id for task in await store.ended(end_us + 1, after=first[1])] == ids[2:]
    assert [task.task_id for task in await store.ended(end_us, after=first[1])] == ids[2:3]


# ---- what was spent ----------------------------------------------------------------------

DAY = 20_254
"""That of the times in these logs."""


def id_on(day: int, number: int) -> TaskId:
    return TaskId(f"task_{day * 86_400_000 + number:012x}")


async def test_what_a_submitter_has_spent_is_told_by_day(world: World) -> None:
    """Every task of the day counts, whatever became of it; what is reserved and given back, not."""
    store = await world.open()
    for number in range(3):
        await create(store, id_on(DAY, number), submitted_by="me")
    await create(store, id_on(DAY, 3), submitted_by="you")
    await create(store, id_on(DAY - 1, 0), submitted_by="me")
    await append(store, 1, task_id=id_on(DAY - 1, 0), tokens=500)
    await append(store, 2, task_id=id_on(DAY - 1, 0), tokens=70)
    await store.delete(id_on(DAY, 1))
    later = await world.open()
    assert await later.spent("me", DAY) == Spent(tasks=3, tokens=70, microusd=210)
    assert await later.spent("me", DAY - 1) == Spent(tasks=1)
    assert await later.spent("you", DAY) == Spent(tasks=1)
    assert await later.spent("nobody", DAY) == Spent()


async def test_what_a_fork_brings_with_it_was_not_spent_again(store: Store) -> None:
    rows = log(id_on(DAY, 0), 1, 1)
    await store.create(summary_of(rows, submitted_by="me", tokens=1000), rows)
    await append(store, 1, task_id=id_on(DAY, 0), tokens=1007)
    assert await store.spent("me", DAY) == Spent(tasks=1, tokens=7, microusd=21)
    assert (await store.summary(id_on(DAY, 0))).tokens == 1007


# ---- blobs, snapshots, retention ---------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"\x00\xff", bytes(range(256)) * 40_000])
async def test_a_blob_comes_back_by_its_sha256(store: Store, content: bytes) -> None:
    blob_id = await store.put_blob(content)
    assert blob_id == digest(content)
    assert await store.put_blob(content) == blob_id
    assert await store.get_blob(blob_id) == content


async def test_blobs_of_an_append_are_stored_with_it_or_not_at_all(store: Store) -> None:
    await create(store, blobs=[b"first"])
    await append(store, 1, blobs=[b"second", b"first"])
    with pytest.raises(Conflict):
        await append(store, 1, text="late", blobs=[b"late"])
    assert await store.get_blob(digest(b"first")) == b"first"
    assert await store.get_blob(digest(b"second")) == b"second"
    with pytest.raises(NotFound):
        await store.get_blob(digest(b"late"))


async def test_a_blob_under_a_wrong_id_is_a_bug(store: Store) -> None:
    rows = log(TASK, 1, 1)
    with pytest.raises(AssertionError):
        await store.create(summary_of(rows), rows, blobs={BlobId(ZERO): b"x"})


async def test_the_newest_snapshot_of_the_asked_version_is_loaded(store: Store) -> None:
    await create(store)
    assert await store.load_snapshot(TASK, 1) is None
    await append(store, 1, snapshot=Snapshot(1, b"one"))
    await append(store, 2, count=2, snapshot=Snapshot(1, b"\x00two"))
    assert await store.load_snapshot(TASK, 1) == (4, b"\x00two")
    assert await store.load_snapshot(TASK, 2) is None
    await append(store, 4)
    assert await store.load_snapshot(TASK, 1) == (4, b"\x00two")
    await append(store, 5, snapshot=Snapshot(2, b"three"))
    assert await store.load_snapshot(TASK, 1) is None
    assert await store.load_snapshot(MISSING, 1) is None


async def test_what_is_refused_leaves_no_snapshot(store: Store) -> None:
    await create(store)
    await append(store, 1)
    with pytest.raises(Conflict):
        await append(store, 1, text="other", snapshot=Snapshot(1, b"state"))
    assert await store.load_snapshot(TASK, 1) is None


async def test_a_snapshot_that_is_too_large_is_left_out(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SNAPSHOT_BYTES_MAX", 3)
    await create(store)
    assert await append(store, 1, snapshot=Snapshot(1, b"long")) == 2
    assert await store.load_snapshot(TASK, 1) is None


async def test_a_task_that_has_moved_on_is_not_deleted(store: Store) -> None:
    """Whoever forgets it has looked at an end that is none any more."""
    await create(store, TASK)
    await append(store, 1)
    with pytest.raises(Conflict, match="moved on"):
        await store.delete(TASK, expected=Seq(1))
    await store.delete(TASK, expected=Seq(2))
    with pytest.raises(NotFound):
        await store.summary(TASK)


async def test_a_deleted_task_takes_along_what_only_it_names(store: Store) -> None:
    await create(store, TASK, blobs=[b"mine", b"shared"], idempotency_key="k")
    await create(store, OTHER, blobs=[b"shared"])
    await append(store, 1, snapshot=Snapshot(1, b"state"))
    await store.delete(TASK)
    with pytest.raises(NotFound):
        await store.load(TASK)
    with pytest.raises(NotFound):
        await store.get_blob(digest(b"mine"))
    assert await store.get_blob(digest(b"shared")) == b"shared"
    assert await create(store, TASK, idempotency_key="k") == TASK
    assert await store.load(TASK) == log(TASK, 1, 1)
    assert await store.load_snapshot(TASK, 1) is None


async def test_a_blob_that_was_there_before_stays_until_its_last_namer_goes(
    store: Store,
) -> None:
    await store.put_blob(b"x")
    await create(store, TASK, blobs=[b"x"])
    await create(store, OTHER, blobs=[b"x"])
    await store.delete(TASK)
    assert await store.get_blob(digest(b"x")) == b"x"
    await store.delete(OTHER)
    with pytest.raises(NotFound):
        await store.get_blob(digest(b"x"))


async def test_a_driven_task_is_not_deleted(world: World) -> None:
    store, other = await world.open(), await world.open()
    await create(store)
    lease = await store.claim(TASK)
    for process in (store, other):
        with pytest.raises(LeaseHeld):
            await process.delete(TASK)
    await store.release(lease)
    await other.delete(TASK)


# ---- life --------------------------------------------------------------------------------


async def test_a_waiter_wakes_for_its_own_process_and_for_another(world: World) -> None:
    store, other = await world.open(), await world.open()
    await create(store)
    for expected, writer in enumerate((store, other), start=1):
        async with anyio.create_task_group() as tg:
            tg.start_soon(store.wait_changed, 3600)
            await anyio.wait_all_tasks_blocked()
            await append(writer, expected)


async def test_a_waiter_that_loops_misses_no_write_between_two_waits(world: World) -> None:
    """Else a cancel from another process would be seen `seconds_max` late."""
    store, other = await world.open(), await world.open()
    await create(store)
    await store.wait_changed(0)
    await append(other, 1)
    await store.wait_changed(3600)


async def test_a_waiter_gives_up_after_its_time(store: Store) -> None:
    await create(store)
    await store.wait_changed(0.02)
    await store.wait_changed(0.02)


async def test_closing_finishes_what_was_asked_before(world: World) -> None:
    store = await world.open()
    await create(store)
    async with anyio.create_task_group() as tg:
        tg.start_soon(append, store, 1)
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        await store.close()
    await store.close()
    assert await (await world.open()).load(TASK) == log(TASK, 1, 2)
