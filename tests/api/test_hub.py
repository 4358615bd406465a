"""What a stream's reader gets in one go, and what a topic keeps: bounded, and nothing left out."""

from __future__ import annotations

import pytest

from agent_runtime.api.hub import (
    PAGE_BYTES,
    PAGE_EVENTS,
    RING_BYTES,
    RING_EVENTS,
    Encoded,
    Hub,
    Topic,
)
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
