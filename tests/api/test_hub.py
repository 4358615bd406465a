"""What a stream's reader gets in one go, and what a topic keeps: bounded, and nothing left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from agent_runtime.api.answers import Message
from agent_runtime.api.hub import (
    EVERYTHING,
    PAGE_BYTES,
    PAGE_EVENTS,
    RING_BYTES,
    RING_EVENTS,
    Encoded,
    Hub,
    Topic,
)
from agent_runtime.api.streams import EventStream
from agent_runtime.errors import StoreUnavailable
from agent_runtime.stores.memory import MemoryStore
from agent_runtime.types import Row, TaskId
from tests.contracts.logs import TASK, append, create

pytestmark = pytest.mark.anyio


def filled(events: int, frame_bytes: int) -> Topic:
    topic = Topic(TASK)
    for at in range(1, events + 1):
        topic.add(Encoded(at, "Steered", b"x" * frame_bytes), floor=at - 1)
    return topic


def test_a_reader_who_is_far_behind_gets_page_after_page_and_misses_nothing() -> None:
    """A thousand slow readers would each hold a copy of everything that they have not taken."""
    topic, seen = filled(RING_EVENTS, 2_000), list[int]()
    while page := topic.since(seen[-1] if seen else 0):
        assert sum(len(event.frame) for event in page) <= PAGE_BYTES
        seen += [event.cursor for event in page]
    assert seen == list(range(1, RING_EVENTS + 1))


def test_a_topic_keeps_no_more_than_so_many_bytes() -> None:
    topic = filled(100, 1 << 20)
    kept = [event.cursor for cursor in range(100) for event in topic.since(cursor) or ()]
    assert min(kept) > 100 - (RING_BYTES >> 20)
    assert topic.since(50) is None, "only the store knows"
    assert [event.cursor for event in topic.since(99) or ()] == [100]


async def test_a_long_log_is_read_in_pages() -> None:
    """To read all that is left for each page takes the square of the time."""
    read = list[int]()

    class Counting(MemoryStore):
        async def load(
            self, task_id: TaskId, after: int = 0, limit: int | None = None
        ) -> list[Row]:
            rows = await super().load(task_id, after, limit)
            read.append(len(rows))
            return rows

    store = Counting()
    await create(store)
    await append(store, 1, count=3 * PAGE_EVENTS)
    hub, cursor = Hub(store), 0
    with hub.follow(TASK) as topic:
        while news := await hub.news(topic, cursor):
            cursor = news[-1].cursor
    assert cursor == 3 * PAGE_EVENTS + 1
    assert sum(read) == cursor


class Failing(MemoryStore):
    """Cannot be read now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.failing = ""
        """The name of what fails."""
        self.failed = anyio.Event()

    def _look(self, name: str) -> None:
        if self.failing == name:
            self.failed.set()
            raise StoreUnavailable("busy")

    async def tail(self, after: int, limit: int = 1000) -> list[tuple[int, Row]]:
        self._look("tail")
        return await super().tail(after, limit)

    async def load(self, task_id: TaskId, after: int = 0, limit: int | None = None) -> list[Row]:
        self._look("load")
        return await super().load(task_id, after, limit)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_runtime.api.hub.AGAIN_SECONDS", 0.01)


async def until(holds: Callable[[], object]) -> None:
    with anyio.fail_after(10):
        while not holds():
            await anyio.sleep(0.005)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("name", [TASK, EVERYTHING])
async def test_what_was_stored_while_the_pump_could_not_read_is_not_left_out(name: TaskId) -> None:
    """It began anew at the newest position, and what lay between was missing in the ring."""
    store = Failing()
    await create(store)
    hub, seen = Hub(store), list[int]()
    async with anyio.create_task_group() as tg:
        tg.start_soon(hub.run)

        async def read(topic: Topic, newest: int) -> None:
            with anyio.fail_after(10):
                while (seen[-1] if seen else 0) < newest:
                    grown = topic.grown
                    news = await hub.news(topic, seen[-1] if seen else 0)
                    seen.extend(event.cursor for event in news)
                    if not news:
                        await grown.wait()

        with hub.follow(name) as topic:
            await read(topic, 1)
            await append(store, 1)
            await read(topic, 2)
            await until(lambda: topic.since(1))  # the ring has it
            store.failing = "tail"
            await append(store, 2)
            await store.failed.wait()
            grown, store.failing = topic.grown, ""
            await grown.wait()  # the pump is back
            await append(store, 3)
            await read(topic, 4)
        tg.cancel_scope.cancel()
    assert seen == [1, 2, 3, 4]


@pytest.mark.usefixtures("at_once")
async def test_a_reader_who_could_not_look_does_not_pass_for_one_who_has_seen_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was told of the next event, and never got those before it."""
    monkeypatch.setattr("agent_runtime.api.streams.AGAIN_SECONDS", 0.01)
    store, said = Failing(), list[bytes]()
    await create(store)
    await append(store, 1, count=3)
    hub = Hub(store)
    ports = SimpleNamespace(store=store)
    daemon = SimpleNamespace(hub=hub, runtime=SimpleNamespace(ports=ports))
    request: Any = SimpleNamespace(daemon=daemon, query=None)

    class Kept:
        def write(self, chunk: bytes) -> bool:
            said.append(chunk)
            return True

    async def receive() -> Message:
        await anyio.sleep_forever()
        raise AssertionError

    async def send(message: Message) -> None:
        said.append(message.get("body", b""))

    def newest() -> int:
        return int(ids()[-1])

    def ids() -> list[bytes]:
        return re.findall(rb"id: (\d+)\nevent", b"".join(said)) or [b"0"]

    store.failing = "load"
    async with anyio.create_task_group() as tg:
        tg.start_soon(hub.run)
        scope = {"type": "http", "method": "GET", "line": Kept()}
        stream = EventStream(request, TASK, 0, frozenset())
        tg.start_soon(partial(stream, scope, receive, send))
        await store.failed.wait()
        await until(lambda: hub.followers)
        store.failing = ""
        await append(store, 4)
        await until(lambda: newest() == 5)
        tg.cancel_scope.cancel()
    assert ids() == [b"1", b"2", b"3", b"4", b"5"]


def test_a_reader_who_cannot_be_written_to_concerns_nobody_else() -> None:
    """The pump writes for all of them."""
    topic, woken = Topic(TASK), list[str]()

    class Reader:
        def __init__(self, name: str, error: Exception | None = None) -> None:
            self.name, self.error, self.took = name, error, False

        def take(self, events: Sequence[Encoded], chunk: bytes) -> bool:
            if self.error is not None:
                raise self.error
            self.took = True
            return True

        def wake(self) -> None:
            woken.append(self.name)

    well = [Reader("before"), Reader("behind")]
    topic.live |= {well[0], Reader("broken", RuntimeError("closed")), well[1]}
    topic.tell([Encoded(1, "Steered", b"x")])
    assert [reader.took for reader in well] == [True, True]
    assert woken == ["broken"]
    assert topic.live == set(well)
