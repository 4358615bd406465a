"""What every `AccessStore` promises. A new one adds a line to `WORLDS`."""

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

from agent_runtime.access.audit import FORGET, ZERO, Entry, link
from agent_runtime.access.audit import encode as encoded
from agent_runtime.access.keys import Key, NewKey, make
from agent_runtime.access.ports import AccessStore
from agent_runtime.errors import Conflict, NotFound
from agent_runtime.stores.memory_access import MemoryAccess, SharedAccess
from agent_runtime.stores.sqlite import SqliteStore
from agent_runtime.stores.sqlite_access import SqliteAccess

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class World:
    """Opens stores on one set of data: each is one process."""

    def __init__(self, kind: str, directory: Path, stack: AsyncExitStack) -> None:
        self._kind, self._directory, self._stack = kind, directory, stack
        self._shared = SharedAccess()

    async def open(self) -> AccessStore:
        if self._kind == "memory":
            return MemoryAccess(self._shared)
        store = await SqliteStore.open(self._directory / "store.db")
        self._stack.push_async_callback(store.close)
        return SqliteAccess(store)


@pytest.fixture(params=["memory", "sqlite"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield World(request.param, tmp_path, stack)


def a_key(name: str, seed: int = 1) -> Key:
    choose = random.Random(f"{name}{seed}").choice
    return make(NewKey(name=name, role="operator"), by="token:local", now_us=5, choose=choose)[0]


def entry(action: str, *, by: str = "token:local", target: str = "") -> Entry:
    return Entry(at_us=7, by=by, action=action, target=target)


async def test_a_key_is_found_as_it_was_kept(world: World) -> None:
    one, other = await world.open(), await world.open()
    key = a_key("ci")
    await one.add_key(key, entry("key.create"))
    assert await other.key(key.key_id) == key
    with pytest.raises(NotFound):
        await one.key("missing")


async def test_a_name_stands_for_one_key_until_that_is_revoked(world: World) -> None:
    store = await world.open()
    first, second = a_key("ci", 1), a_key("ci", 2)
    await store.add_key(first, entry("key.create"))
    with pytest.raises(Conflict, match="'ci'"):
        await store.add_key(second, entry("key.create"))
    await store.revoke_key(first.key_id, at_us=9, by="key:boss", entry=entry("key.revoke"))
    await store.add_key(second, entry("key.create"))
    assert {key.key_id for key in await store.keys()} == {first.key_id, second.key_id}
    assert await store.keys(with_revoked=False) == [second]
    # What was refused is not in the record either.
    assert [record.entry.action for record in await store.audit()] == [
        "key.create",
        "key.revoke",
        "key.create",
    ]


async def test_a_revoked_key_stays_revoked_as_it_was(world: World) -> None:
    store = await world.open()
    key = a_key("ci")
    await store.add_key(key, entry("key.create"))
    revoked = await store.revoke_key(key.key_id, at_us=9, by="key:boss", entry=entry("key.revoke"))
    again = await store.revoke_key(key.key_id, at_us=99, by="key:late", entry=entry("key.revoke"))
    assert (revoked.revoked_at_us, revoked.revoked_by) == (9, "key:boss")
    assert again == revoked == await store.key(key.key_id)
    assert len(await store.audit()) == 2
    with pytest.raises(NotFound):
        await store.revoke_key("missing", at_us=9, by="", entry=entry("key.revoke"))


async def test_another_process_sees_that_keys_have_changed_and_only_then(world: World) -> None:
    """What is kept of keys in memory is forgotten by it."""
    one, other = await world.open(), await world.open()
    key = a_key("ci")
    before = other.revision()
    await one.record([entry("task.submit")])
    assert other.revision() == before
    await one.add_key(key, entry("key.create"))
    made = other.revision()
    assert made != before
    await one.mark_used({key.key_id: 50})
    assert other.revision() == made
    await one.revoke_key(key.key_id, at_us=9, by="", entry=entry("key.revoke"))
    assert other.revision() != made


async def test_keys_are_listed_in_pages(world: World) -> None:
    store = await world.open()
    made = [a_key(f"key{number}") for number in range(5)]
    for key in made:
        await store.add_key(key, entry("key.create"))
    ids = sorted(key.key_id for key in made)
    assert [key.key_id for key in await store.keys(limit=3)] == ids[:3]
    assert [key.key_id for key in await store.keys(after=ids[2], limit=3)] == ids[3:]


async def test_the_last_use_only_moves_on(world: World) -> None:
    store = await world.open()
    key = a_key("ci")
    await store.add_key(key, entry("key.create"))
    await store.mark_used({key.key_id: 50, "missing": 3})
    await store.mark_used({key.key_id: 40})
    assert (await store.key(key.key_id)).used_at_us == 50
    await store.revoke_key(key.key_id, at_us=9, by="", entry=entry("key.revoke"))
    assert (await store.keys())[0].used_at_us == 50


async def test_the_record_is_numbered_and_chained_whoever_writes(world: World) -> None:
    stores = [await world.open(), await world.open()]
    async with anyio.create_task_group() as tg:
        for number in range(20):
            tg.start_soon(stores[number % 2].record, [entry("task.submit", target=str(number))] * 3)
    records = list(reversed(await stores[0].audit(limit=100)))
    assert [record.seq for record in records] == list(range(1, 61))
    before = ZERO
    for record in records:
        assert record.prev_hash == before
        assert record.hash == link(before, record.seq, encoded(record.entry))
        before = record.hash
    assert await stores[1].audit_fault() is None


async def test_the_record_is_read_in_pages_and_by_filter(world: World) -> None:
    store = await world.open()
    await store.record([entry("task.submit", by=f"key:{number % 2}") for number in range(6)])
    await store.record([entry("task.cancel", by="key:1")])
    page = await store.audit(limit=3)
    assert [record.seq for record in page] == [7, 6, 5]
    assert [record.seq for record in await store.audit(before=5, limit=3)] == [4, 3, 2]
    assert [record.seq for record in await store.audit(by="key:1")] == [7, 6, 4, 2]
    assert [record.seq for record in await store.audit(by="key:1", action="task.cancel")] == [7]


async def test_the_beginning_is_forgotten_in_bites_once_the_record_says_so(world: World) -> None:
    store, other = await world.open(), await world.open()
    times = [10, 20, 30, 25, 50, 60]
    await store.record([Entry(at_us=at, by="key:ci", action="task.submit") for at in times])
    assert await store.audit_before(10) == range(1, 1)
    assert await store.audit_before(29) == range(1, 3), "only what stands before all others"
    assert await store.audit_before(99) == range(1, 6), "the newest stays"
    await store.record([entry(FORGET, target="4")])
    assert [await other.forget_audit(4, limit=3) for _ in range(3)] == [3, 1, 0]
    assert [record.seq for record in await store.audit()] == [7, 6, 5]
    assert await store.audit_fault() is None
    assert await store.audit_before(60) == range(5, 6)
    # More than was announced is no retention.
    await store.forget_audit(5, limit=1)
    assert await store.audit_fault() == 6


async def test_a_record_is_never_forgotten_to_its_end(world: World) -> None:
    """Its head would have nothing to stand on."""
    store = await world.open()
    assert await store.audit_before(99) == range(0)
    assert await store.forget_audit(9, limit=9) == 0
    await store.record([entry("task.submit"), entry(FORGET, target="2")])
    assert await store.forget_audit(2, limit=9) == 1
    assert await store.audit_fault() is None
    await store.record([entry("task.submit")])
    assert [record.seq for record in await store.audit()] == [3, 2]
