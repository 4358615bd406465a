"""New tasks are refused in time: before memory grows, and when a day's allowance is used up."""

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from agent_runtime.access.callers import DayBudget
from agent_runtime.admission import Admission, Bounds
from agent_runtime.allowances import Allowances
from agent_runtime.errors import AllowanceSpent, Overloaded
from agent_runtime.stores.memory import MemoryStore
from agent_runtime.stores.sqlite import SqliteStore
from agent_runtime.testing import VirtualClock
from agent_runtime.types import Spent, TaskId
from tests.contracts.logs import append, create

pytestmark = pytest.mark.anyio

DAY_US = 86_400_000_000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def looked(admission: Admission) -> None:
    """Let it sample once."""
    async with anyio.create_task_group() as tg:
        tg.start_soon(admission.run)
        with anyio.fail_after(5):
            while not admission.memory_bytes or not admission.pending:
                await anyio.lowlevel.checkpoint()
        tg.cancel_scope.cancel()


async def test_too_many_waiting_tasks_are_refused_with_a_time_to_come_back() -> None:
    store = MemoryStore()
    for number in range(3):
        await create(store, f"task_{number}", status="pending")
    admission = Admission(store, Bounds(pending=5))
    await looked(admission)
    admission.require(2)
    with pytest.raises(Overloaded, match=r"5 tasks wait .* at most 5") as refused:
        admission.require()
    assert refused.value.retry_after_seconds == 10


async def test_no_task_is_taken_in_above_the_bound_of_memory() -> None:
    store = MemoryStore()
    await create(store, status="pending")
    admission = Admission(store, Bounds(memory_bytes=1))
    await looked(admission)
    with pytest.raises(Overloaded, match="memory_bytes_max"):
        admission.require()
    roomy = Admission(store, Bounds())
    await looked(roomy)
    roomy.require()


async def test_writes_that_wait_for_the_disk_keep_new_tasks_out_until_they_are_done(
    tmp_path: Path,
) -> None:
    store = await SqliteStore.open(tmp_path / "store.db")
    admission = Admission(store, Bounds(writes=5))
    admission.require()
    async with anyio.create_task_group() as tg:
        for number in range(20):
            tg.start_soon(create, store, f"task_{number}")
        with anyio.fail_after(5):
            while not store.backlog().writes:
                await anyio.lowlevel.checkpoint()
        assert store.backlog().bytes > 0
        with pytest.raises(Overloaded, match="wait for the disk"):
            admission.require()
    admission.require()
    assert (store.backlog().writes, store.backlog().bytes) == (0, 0)
    await store.close()


# ---- allowances --------------------------------------------------------------------------


class Days:
    """A store, a clock and a stopwatch."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.clock = VirtualClock()
        self.now = 0.0
        self.numbers: Iterator[int] = iter(range(1000))

    def allowances(self) -> Allowances:
        return Allowances(self.store, self, lambda: self.now)

    def now_us(self) -> int:
        return 20_000 * DAY_US + int(self.now * 1e6)

    async def submit(self, allowances: Allowances, budget: DayBudget) -> TaskId:
        async with allowances.taking("key:ci", budget):
            return await self.stored()

    async def stored(self) -> TaskId:
        task_id = f"task_{self.now_us() // 1000:012x}{next(self.numbers):04}"
        return await create(self.store, task_id, submitted_by="key:ci")


async def test_tasks_of_a_day_are_bounded_also_across_a_restart_and_begin_anew_at_midnight() -> (
    None
):
    days, budget = Days(), DayBudget(tasks=3)
    allowances = days.allowances()
    await days.submit(allowances, budget)
    await days.submit(allowances, budget)
    again = days.allowances()
    await days.submit(again, budget)
    with pytest.raises(AllowanceSpent, match=r"'key:ci' has used 3 of the 3 tasks .*Z") as refused:
        await days.submit(again, budget)
    assert refused.value.retry_after_seconds == 86_400
    assert (refused.value.limit, refused.value.resets_at_us) == ("tasks", 20_001 * DAY_US)
    days.now = 86_400
    await days.submit(again, budget)


async def test_many_at_once_do_not_pass_the_bound_together() -> None:
    days, refused = Days(), list[AllowanceSpent]()
    allowances = days.allowances()

    async def submit() -> None:
        try:
            await days.submit(allowances, DayBudget(tasks=4))
        except AllowanceSpent as error:
            refused.append(error)

    async with anyio.create_task_group() as tg:
        for _ in range(10):
            tg.start_soon(submit)
    assert len(refused) == 6
    assert (await allowances.used("key:ci")).tasks == 4


async def test_what_is_stored_while_the_store_is_asked_is_counted() -> None:
    """The answer is older than what was stored before it came."""
    days, budget = Days(), DayBudget(tasks=2)
    allowances = days.allowances()
    await days.submit(allowances, budget)
    days.now += 2  # what the store said is too old now
    asked, told = anyio.Event(), anyio.Event()
    ask = days.store.spent

    async def spent(submitted_by: str, day: int) -> Spent:
        answer = await ask(submitted_by, day)
        asked.set()
        await told.wait()
        return answer

    refused = list[AllowanceSpent]()

    async def one_more() -> None:
        try:
            await days.submit(allowances, budget)
        except AllowanceSpent as error:
            refused.append(error)

    async with anyio.create_task_group() as tg:
        async with allowances.taking("key:ci", budget):
            days.now += 2
            days.store.spent = spent  # type: ignore[method-assign]
            tg.start_soon(one_more)
            await asked.wait()
            await days.stored()
        told.set()
    assert len(refused) == 1


async def test_what_was_not_stored_is_not_counted() -> None:
    allowances = Days().allowances()
    for _ in range(3):
        with pytest.raises(ValueError, match="no task"):
            async with allowances.taking("key:ci", DayBudget(tasks=1)):
                raise ValueError("no task")


async def test_tokens_and_money_count_as_they_are_spent() -> None:
    days = Days()
    allowances, now_us = days.allowances(), 1_750_000_000_000_000  # as the times in these logs
    days.now = (now_us - 20_000 * DAY_US) / 1e6
    task_id = await days.submit(allowances, DayBudget(tokens=100))
    await append(days.store, 1, task_id=task_id, tokens=100)
    days.now += 2
    with pytest.raises(AllowanceSpent, match="used 100 of the 100 tokens"):
        await days.submit(allowances, DayBudget(tokens=100))
    with pytest.raises(AllowanceSpent, match=r"used 0\.0003 of the 0\.0003 usd"):
        await allowances.require("key:ci", DayBudget(usd=0.0003))
    await allowances.require("key:ci", DayBudget(usd=1, tasks=1))
    await days.submit(allowances, DayBudget(tokens=101))
