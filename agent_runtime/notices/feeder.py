"""Events become deliveries: in the order of commits, each once, also those of a time without us.

The cursor moves in the transaction that keeps the deliveries. Where nobody wants to hear of what
came, it moves in memory only, and is written now and then: what is looked at twice makes the same
deliveries, and those are kept once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, Protocol

import msgspec

from agent_runtime.errors import Conflict, NotFound
from agent_runtime.notices.messages import (
    Subscription,
    body_of,
    event_types,
    message_id,
    names_of,
)
from agent_runtime.notices.ports import NoticeStore
from agent_runtime.notices.records import Delivery
from agent_runtime.ports.store import Store
from agent_runtime.types import Row, TaskId, TaskSummary

PAGE_EVENTS: Final = 500
UNWRITTEN_EVENTS_MAX: Final = 5000
"""How far the cursor runs ahead in memory: what is looked at again after a crash."""


class Room(Protocol):
    """Says who has room for one more delivery; called for each that would be made."""

    def __call__(self, target: str) -> bool: ...


class Feeder:
    """Reads the log for everybody who is told."""

    def __init__(
        self, log: Store, store: NoticeStore, *, now_us: Callable[[], int], link: str, room: Room
    ) -> None:
        """`link`: what stands before a task's id in a message's link."""
        self._log = log
        self._store = store
        self._now_us = now_us
        self._link = link
        self._room = room
        self._seen = -1
        """Up to which position events were looked at; -1: not known yet."""
        self._written = 0

    async def step(self, revision: int, subscriptions: Sequence[Subscription]) -> set[str] | None:
        """Look at a page of events. The targets that got something; None: nothing is new.

        Raises:
            Conflict: another process tells events too, or `subscriptions` are old.
        """
        if self._seen < 0:
            self._seen = self._written = await self._store.cursor()
        start = max(self._seen, min(each.since for each in subscriptions))
        page = await self._log.tail(start, PAGE_EVENTS)
        if not page:
            return None
        types = event_types(subscriptions)
        deliveries: list[Delivery] = []
        for position, row in page:
            if types is None or row.type in types:
                told = [each for each in subscriptions if each.since < position]
                deliveries += await self._deliveries(row, told)
        await self._moved(page[-1][0], revision, deliveries)
        return {each.target for each in deliveries}

    async def flush(self, revision: int) -> None:
        """Write down how far events were looked at."""
        if self._seen > self._written:
            await self._feed(self._seen, revision, [])

    async def _moved(self, position: int, revision: int, deliveries: list[Delivery]) -> None:
        if deliveries or position - self._written > UNWRITTEN_EVENTS_MAX:
            await self._feed(position, revision, deliveries)
        self._seen = position

    async def _feed(self, position: int, revision: int, deliveries: list[Delivery]) -> None:
        try:
            await self._store.feed(
                expected=self._written, position=position, revision=revision, deliveries=deliveries
            )
        except Conflict:
            self._seen = -1
            raise
        self._written = position

    async def _deliveries(self, row: Row, told: Sequence[Subscription]) -> list[Delivery]:
        try:
            summary = await self._log.summary(TaskId(row.task_id))
        except NotFound:
            return []  # it was forgotten meanwhile
        data = _data(row)
        names = names_of(row, data, summary)
        wanting = [each.target for each in told if each.wants(names, summary.labels)]
        if not wanting:
            return []
        body = self._body(row, names, data, summary)
        now_us = self._now_us()
        return [
            Delivery(
                target=target, message_id=message_id(row.task_id, row.seq), type=row.type,
                body=body, made_at_us=now_us, next_at_us=now_us, task_id=row.task_id, seq=row.seq,
            )
            for target in wanting
            if self._room(target)
        ]  # fmt: skip

    def _body(
        self, row: Row, names: list[str], data: Mapping[str, object], summary: TaskSummary
    ) -> bytes:
        link = f"{self._link}{row.task_id}"
        return body_of(row, names, data, summary, at=moment(row.at_us), link=link)


def moment(at_us: int) -> str:
    """RFC 3339, in UTC, to the millisecond."""
    at = datetime.fromtimestamp(at_us / 1e6, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _data(row: Row) -> dict[str, object]:
    try:
        found = msgspec.json.decode(row.data)
    except msgspec.DecodeError:
        return {}  # `verify` says what is wrong with it
    return found if isinstance(found, dict) else {}
