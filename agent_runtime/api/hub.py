"""Who follows which log, and what they have not seen yet.

A follower is a cursor into a topic (one task, or all of them) and nothing else: no queue. A topic
keeps the newest events, encoded once for all its followers; whoever is further behind reads the
store, so nobody loses anything and nobody slow costs memory. One pump reads the store for all of
them, and only while somebody follows. It tells those who have seen everything itself (`Live`): to
wake a task for each of a thousand readers costs more than all the rest.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple, Protocol

import anyio
import msgspec

from agent_runtime.api.lines import chunked
from agent_runtime.errors import AgentRuntimeError
from agent_runtime.ports.store import Store
from agent_runtime.types import Row, TaskId

log = logging.getLogger(__name__)

EVERYTHING: Final = TaskId("")
"""The topic of all tasks; its cursors are positions in the store."""
RING_EVENTS: Final = 1024
"""That a topic keeps encoded. Whoever is further behind reads the store."""
RING_BYTES: Final = 4 << 20
PAGE_BYTES: Final = 256 << 10
"""Handed to a reader in one go: what a slow one has not taken yet is its own memory."""
PAGE_EVENTS: Final = 500
"""Read from the store in one go."""
IDLE_SECONDS: Final = 1.0
BEAT_SECONDS: Final = 15.0
AGAIN_SECONDS: Final = 0.5
"""After the store could not be read."""


class StoredEvent(msgspec.Struct, frozen=True):
    """An event as the log has it; `data` keeps its bytes, so that hashes can be checked."""

    task_id: str
    seq: int
    type: str
    schema: int
    at_us: int
    data: msgspec.Raw
    prev_hash: str
    hash: str


_encode = msgspec.json.Encoder().encode


def stored(row: Row) -> StoredEvent:
    """A row for JSON. Data that is damaged comes as a text."""
    data = msgspec.Raw(row.data)
    try:
        msgspec.json.decode(row.data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        data = msgspec.Raw(_encode(row.data.decode("utf-8", "backslashreplace")))
    return StoredEvent(
        row.task_id, row.seq, row.type, row.schema, row.at_us, data, row.prev_hash, row.hash
    )


class Encoded(NamedTuple):
    """An event as a stream sends it: `id:`, `event:`, `data:`, as HTML has it (9.2, SSE)."""

    cursor: int
    type: str
    frame: bytes
    task_id: str = ""


def encoded(cursor: int, row: Row) -> Encoded:
    """JSON has no line ends, so one `data:` line holds it."""
    head = f"id: {cursor}\nevent: {row.type}\ndata: "
    frame = b"%b%b\n\n" % (head.encode(), _encode(stored(row)))
    return Encoded(cursor, row.type, frame, row.task_id)


class Live(Protocol):
    """A follower who has seen all that there is, and is told what comes without being woken."""

    def take(self, events: Sequence[Encoded], chunk: bytes) -> bool:
        """The next events, and all of them as a chunk; False: let it look for itself."""
        ...

    def wake(self) -> None:
        """Look for yourself."""
        ...


def _takes(reader: Live, events: Sequence[Encoded], chunk: bytes) -> bool:
    try:
        return reader.take(events, chunk)
    except Exception:
        # The border of one reader: the pump writes for all of them, and must not end with one.
        log.exception("a stream could not be written to")
        return False


class Topic:
    """The newest events of one task, or of all."""

    def __init__(self, name: TaskId) -> None:
        self.name = name
        self.followers = 0
        self.grown = anyio.Event()
        """Set when there is something new, and then replaced. Take it before you look."""
        self.beats = 0
        """Counts heartbeats: proxies end connections on which nothing is said."""
        self.live: set[Live] = set()
        """Who joins has taken everything up to now, and leaves when it is woken."""
        self._ring: deque[Encoded] = deque()
        self._ring_bytes = 0
        self._floor = 0
        """Everything behind this cursor, up to the newest, is in the ring."""

    def add(self, event: Encoded, floor: int) -> None:
        """The next event; between `floor` and it there is none."""
        ring = self._ring
        if not ring:
            self._floor = floor
        ring.append(event)
        self._ring_bytes += len(event.frame)
        while len(ring) > RING_EVENTS or (self._ring_bytes > RING_BYTES and len(ring) > 1):
            oldest = ring.popleft()
            self._ring_bytes -= len(oldest.frame)
            self._floor = oldest.cursor

    def forget(self) -> None:
        """What comes next may not follow upon what is kept: only the store knows."""
        self._ring.clear()
        self._ring_bytes = 0

    def tell(self, events: Sequence[Encoded]) -> None:
        """These were added just now."""
        frames = b"".join([event.frame for event in events])
        if len(frames) <= PAGE_BYTES:
            chunk = chunked(frames)
            for reader in [each for each in self.live if not _takes(each, events, chunk)]:
                self._wake(reader)
        else:
            self._wake_all()
        self._wake_others()

    def wake(self) -> None:
        """Everybody who waits looks again."""
        self._wake_all()
        self._wake_others()

    def _wake(self, reader: Live) -> None:
        self.live.discard(reader)
        reader.wake()

    def _wake_all(self) -> None:
        for reader in tuple(self.live):
            self._wake(reader)

    def _wake_others(self) -> None:
        grown, self.grown = self.grown, anyio.Event()
        grown.set()

    def since(self, cursor: int) -> list[Encoded] | None:
        """What came behind `cursor`, a page of it; None: only the store knows."""
        if not self._ring or cursor < self._floor:
            return None
        newer: list[Encoded] = []
        for event in reversed(self._ring):
            if event.cursor <= cursor:
                break
            newer.append(event)
        newer.reverse()
        page_bytes = 0
        for at, event in enumerate(newer):
            page_bytes += len(event.frame)
            if page_bytes > PAGE_BYTES and at:
                return newer[:at]
        return newer


class Hub:
    """All topics of one process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._topics: dict[TaskId, Topic] = {}
        self._followed = anyio.Event()
        self._position = 0
        self.is_closed = False

    @property
    def followers(self) -> int:
        """Streams that are open now."""
        return sum(topic.followers for topic in self._topics.values())

    @contextmanager
    def follow(self, name: TaskId) -> Iterator[Topic]:
        """Be a follower of a task, or of `EVERYTHING`."""
        topic = self._topics.get(name)
        if topic is None:
            topic = self._topics[name] = Topic(name)
        topic.followers += 1
        self._followed.set()
        try:
            yield topic
        finally:
            topic.followers -= 1
            if not topic.followers:
                del self._topics[name]

    async def news(self, topic: Topic, cursor: int) -> list[Encoded]:
        """What came behind `cursor`, a page of it; empty: nothing as yet.

        Raises:
            NotFound: the task is gone.
        """
        if (newer := topic.since(cursor)) is not None:
            return newer
        if topic.name == EVERYTHING:
            rows = await self._store.tail(cursor, PAGE_EVENTS)
        else:
            found = await self._store.load(topic.name, cursor, PAGE_EVENTS)
            rows = [(row.seq, row) for row in found]
        return [encoded(at, row) for at, row in rows]

    def close(self) -> None:
        """Every stream ends; their readers come back to whoever serves them next."""
        self.is_closed = True
        for topic in self._topics.values():
            topic.wake()

    async def run(self) -> None:
        """Hand new events to the topics, for as long as the process lives."""
        async with anyio.create_task_group() as tg:
            tg.start_soon(self._beat)
            while True:
                try:
                    await self._pump()
                except AgentRuntimeError as error:
                    log.warning("streams cannot read the store: %s", error)
                    await anyio.sleep(AGAIN_SECONDS)

    async def _pump(self) -> None:
        """Until nobody follows any more."""
        if not self._topics:
            self._followed = anyio.Event()
            await self._followed.wait()
        self._position = await self._store.position()
        # What was stored between a follower's first look, or the last time that the store could be
        # read, and this moment is in no ring.
        for topic in self._topics.values():
            topic.forget()
            topic.wake()
        while self._topics:
            found = await self._store.tail(self._position, PAGE_EVENTS)
            if found:
                self._hand_out(found)
            else:
                await self._store.wait_changed(IDLE_SECONDS)

    def _hand_out(self, found: Sequence[tuple[int, Row]]) -> None:
        everything = self._topics.get(EVERYTHING)
        grown: dict[Topic, list[Encoded]] = {}
        for position, row in found:
            if everything is not None:
                event = encoded(position, row)
                everything.add(event, floor=self._position)
                grown.setdefault(everything, []).append(event)
            if (topic := self._topics.get(TaskId(row.task_id))) is not None:
                event = encoded(row.seq, row)
                topic.add(event, floor=row.seq - 1)
                grown.setdefault(topic, []).append(event)
            self._position = position
        for topic, events in grown.items():
            topic.tell(events)

    async def _beat(self) -> None:
        """One clock for all streams: a timer for each would cost as much as an event."""
        while True:
            await anyio.sleep(BEAT_SECONDS)
            for topic in tuple(self._topics.values()):
                topic.beats += 1
                topic.wake()
