"""What the simulation needs of the memory store beyond the port."""

import anyio
import anyio.lowlevel
import pytest
import trio.testing

from agent_runtime.errors import StoreUnavailable
from agent_runtime.stores.memory import MemoryStore, SharedMemory
from tests.contracts.logs import TASK, append, create, log

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


async def test_a_crashed_process_loses_its_leases_and_does_nothing_more() -> None:
    """kill -9: no clean-up that the process still had in mind happens."""
    shared = SharedMemory()
    crashed, heir = MemoryStore(shared), MemoryStore(shared)
    await create(crashed)
    lease = await crashed.claim(TASK)
    crashed.crash()
    for effect in (append(crashed, 1), crashed.release(lease), crashed.load(TASK)):
        with pytest.raises(StoreUnavailable, match="memory process 1"):
            await effect
    assert await heir.load(TASK) == log(TASK, 1, 1)
    assert (await heir.claim(TASK)).epoch == 2
    await crashed.close()
    assert await heir.owner(TASK) == "memory process 2"


async def append_and_say_so(store: MemoryStore, answered: list[int]) -> None:
    answered.append(await append(store, 1))


async def test_a_cancellation_hits_before_or_after_the_effect() -> None:
    """A crash may come at either side; a test of the loop must be able to meet both."""
    stored: set[int] = set()
    for waits in [0, 1, 2] * 20:  # trio's order is random
        store, answered = MemoryStore(), list[int]()
        await create(store)
        async with anyio.create_task_group() as tg:
            tg.start_soon(append_and_say_so, store, answered)
            for _ in range(waits):
                await anyio.lowlevel.checkpoint()
            tg.cancel_scope.cancel()
        if not answered:
            stored.add(len(await store.load(TASK)))
    assert stored == {1, 2}


async def test_waiting_takes_virtual_time_only() -> None:
    store = MemoryStore()
    begin = anyio.current_time()
    await store.wait_changed(86_400)
    assert anyio.current_time() - begin == pytest.approx(86_400)


async def test_a_write_ends_the_wait_at_its_own_time() -> None:
    store = MemoryStore()
    await create(store)
    begin = anyio.current_time()

    async def write_later() -> None:
        await anyio.sleep(600)  # virtual
        await append(store, 1)

    async with anyio.create_task_group() as tg:
        tg.start_soon(write_later)
        await store.wait_changed(86_400)
        assert anyio.current_time() - begin == pytest.approx(600)
