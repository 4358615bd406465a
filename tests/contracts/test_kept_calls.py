"""What every `KeptCallStore` promises. A new one adds a line to `World.open`."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from agent_runtime.errors import NotFound, Overloaded
from agent_runtime.kept_calls.ports import KeptCallStore
from agent_runtime.kept_calls.records import Asker, KeptCall, ended, hash_of
from agent_runtime.stores.memory_kept_calls import MemoryKeptCalls, SharedKeptCalls
from agent_runtime.stores.sqlite import SqliteStore
from agent_runtime.stores.sqlite_kept_calls import SqliteKeptCalls

pytestmark = pytest.mark.anyio

ROOM = {"open_max": 9, "kept_max": 9}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class World:
    """Opens stores on one set of data: each is one process, which `end` lets die."""

    kind: str
    directory: Path
    stack: AsyncExitStack
    shared: SharedKeptCalls

    async def open(self) -> KeptCallStore:
        if self.kind == "memory":
            return MemoryKeptCalls(self.shared)
        store = await SqliteStore.open(self.directory / "store.db")
        self.stack.push_async_callback(store.close)
        return SqliteKeptCalls(store)

    async def end(self, process: KeptCallStore) -> None:
        if isinstance(process, SqliteKeptCalls):
            await process.store.close()
        else:
            assert isinstance(process, MemoryKeptCalls)
            process.close()


@pytest.fixture(params=["memory", "sqlite"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield World(request.param, tmp_path, stack, SharedKeptCalls())


def call(call_id: str = "call_1", **more: Any) -> KeptCall:
    values: dict[str, Any] = {
        "call_id": call_id, "server": "tools", "caller": "key:ci", "tool": "shell",
        "asker": Asker(subject="ci", how="key", scopes=("tasks:read",), can=("elicitation",)),
        "arguments": {"command": "true"}, "arguments_hash": hash_of("shell", {"command": "true"}),
        "created_at_us": 5, "updated_at_us": 5, "ttl_ms": 1000,
    }  # fmt: skip
    return KeptCall(**values | more)


async def test_a_call_is_found_as_it_was_kept_and_as_it_was_changed(world: World) -> None:
    one, other = await world.open(), await world.open()
    kept = call(questions={"q": ("elicitation/create", {"message": "?"})}, state="asking")
    assert await one.add(kept, **ROOM) == kept == await other.call("call_1")
    done = await other.change("call_1", lambda each: ended(each, "completed", at_us=9, result={}))
    assert done.state == "completed" and await one.call("call_1") == done
    with pytest.raises(NotFound, match="call_2"):
        await one.change("call_2", lambda each: each)


async def test_a_key_is_that_of_one_call_of_a_caller_at_a_server(world: World) -> None:
    store = await world.open()
    first = await store.add(call(key="k"), **ROOM)
    assert await store.add(call("call_2", key="k", tool="grep"), **ROOM) == first
    for n, more in enumerate(({"caller": "key:bob"}, {"server": "fs"}, {"key": "k2"}, {"key": ""})):
        other = call(f"call_{n + 3}", **{"key": "k", **more})
        assert (await store.add(other, **ROOM)).call_id == other.call_id
    assert (await store.add(call("call_9", key=""), **ROOM)).call_id == "call_9", "none is no key"


async def test_there_is_room_for_so_many_of_a_caller(world: World) -> None:
    store = await world.open()
    await store.add(call("call_1"), open_max=1, kept_max=2)
    with pytest.raises(Overloaded, match="1 tasks open"):
        await store.add(call("call_2"), open_max=1, kept_max=2)
    await store.add(call("call_2", caller="key:bob"), open_max=1, kept_max=2)
    await store.change("call_1", lambda each: ended(each, "cancelled", at_us=9))
    await store.add(call("call_3"), open_max=1, kept_max=2)
    with pytest.raises(Overloaded, match="2 tasks kept"):
        await store.add(call("call_4"), open_max=9, kept_max=2)


async def test_a_caller_lists_their_own_calls_newest_first(world: World) -> None:
    store = await world.open()
    for call_id, caller in (("call_1", "a"), ("call_2", "b"), ("call_3", "a"), ("call_4", "a")):
        await store.add(call(call_id, caller=caller), **ROOM)
    await store.add(call("call_5", caller="a", server="fs"), **ROOM)

    async def listed(**more: Any) -> list[str]:
        return [each.call_id for each in await store.of("tools", "a", **more)]

    assert await listed() == ["call_4", "call_3", "call_1"]
    assert await listed(limit=1) == ["call_4"] and await listed(before="call_3") == ["call_1"]


async def test_open_calls_of_the_dead_are_adopted_once(world: World) -> None:
    one, other, third = await world.open(), await world.open(), await world.open()
    for number in (1, 2, 3):
        await one.add(call(f"call_{number}"), **ROOM)
    await one.add(call("call_4", server="fs"), **ROOM)
    await one.change("call_2", lambda each: ended(each, "cancelled", at_us=9))
    assert await other.adopt("tools") == [], "its process lives"
    await world.end(one)
    assert [each.call_id for each in await other.adopt("tools")] == ["call_1", "call_3"]
    assert await third.adopt("tools") == await other.adopt("tools") == []


async def test_ended_calls_are_forgotten_when_their_time_has_come(world: World) -> None:
    store = await world.open()
    for number in (1, 2, 3):
        await store.add(call(f"call_{number}"), **ROOM)
    for number in (1, 2):
        await store.change(
            f"call_{number}",
            lambda each: replace(ended(each, "completed", at_us=9, result={}), ttl_ms=1),
        )
    assert await store.prune(1004) == 0, "kept for a millisecond from 5 us on"
    assert [await store.prune(1005, limit=1) for _ in range(3)] == [1, 1, 0]
    assert [each.call_id for each in await store.of("tools", "key:ci")] == ["call_3"]
