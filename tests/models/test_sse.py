"""Server-sent events, cut anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime.models.sse import Event, Events

STREAM = (
    "\N{BYTE ORDER MARK}: a comment\r\n"
    "event: one\r\ndata: grün 🎉\r\n\r\n"
    "id: 7\nretry: 10\ndata:{\"a\":1}\ndata: second line\n\n"
    "event: nothing\n\n"
    "data\n\n"
    "event: three\rdata: x\r\r"
    "data: last"
).encode()  # fmt: skip
EVENTS = [
    Event("one", "grün 🎉"),
    Event("", '{"a":1}\nsecond line'),
    Event("", ""),
    Event("three", "x"),
    Event("", "last"),
]


@given(st.lists(st.integers(1, 40), max_size=60))
def test_events_are_the_same_however_they_are_cut(sizes: list[int]) -> None:
    parser, found, at = Events(), list[Event](), 0
    for size in sizes:
        found += parser.feed(STREAM[at : at + size])
        at += size
    found += parser.feed(STREAM[at:])
    assert found + parser.close() == EVENTS


def test_event_comes_as_soon_as_it_is_whole() -> None:
    parser = Events()
    assert parser.feed(b"data: a\n") == []
    assert parser.feed(b"\n") == [Event("", "a")]
    assert parser.close() == []


@pytest.mark.parametrize("data", [b"", b"\n\n", b": only a comment\n\n", b"\xff\xfe\n\n"])
def test_what_holds_no_data_is_no_event(data: bytes) -> None:
    parser = Events()
    assert parser.feed(data) + parser.close() == []
