"""One target's deliveries: made when they are due, several at a time, until taken or given up.

A try is written down when it has ended. Who is killed in between tries again, with the same id:
at least once. Deliveries of one target may overtake each other; within a task `seq` orders them.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
from msgspec.structs import replace

from agent_runtime.access.buckets import Bucket
from agent_runtime.errors import AgentRuntimeError
from agent_runtime.notices.ports import NoticeStore
from agent_runtime.notices.records import TRIES_KEPT, Delivery, Try
from agent_runtime.notices.retries import delay_seconds
from agent_runtime.notices.sending import Outcome

log = logging.getLogger(__name__)

AT_ONCE_MAX: Final = 4
"""Deliveries that are under way to one target."""
LOOK_SECONDS: Final = 60.0
"""Between two looks, whatever is due: a clock may have been set."""
AGAIN_SECONDS: Final = 2.0
"""After a store that did not answer."""
THROTTLE_SECONDS: Final = 30.0
THROTTLE_SECONDS_MAX: Final = 3600.0
ERROR_CHARS_MAX: Final = 500

Send = Callable[[Delivery], Awaitable[Outcome]]
Heard = Callable[[Delivery, Outcome], Awaitable[None]]
"""Told of each try when it is written down."""


class Courier:
    """Runs until it is cancelled."""

    def __init__(
        self, target: str, send: Send, *, store: NoticeStore, heard: Heard,
        now_us: Callable[[], int], monotonic: Callable[[], float], per_minute: float | None = None,
    ) -> None:  # fmt: skip
        self.target = target
        self._send = send
        self._store = store
        self._heard = heard
        self._now_us = now_us
        self._monotonic = monotonic
        self._bucket: Bucket | None = None
        if per_minute is not None:
            self._bucket = Bucket(per_minute / 60, max(1, round(per_minute)), monotonic())
        self._sending: set[str] = set()
        self._not_before = 0.0
        self._news = anyio.Event()

    def wake(self) -> None:
        """Something may be due."""
        self._news.set()

    async def run(self) -> None:
        """Make what is due, and wait for what will be."""
        async with anyio.create_task_group() as tg:
            while True:
                self._news = anyio.Event()
                try:
                    wait = await self._start_due(tg)
                except AgentRuntimeError as error:
                    log.warning("deliveries to %s wait for the store: %s", self.target, error)
                    wait = AGAIN_SECONDS
                with anyio.move_on_after(wait):
                    await self._news.wait()

    async def _start_due(self, tg: anyio.abc.TaskGroup) -> float:
        """Start what is due and has room; how long to wait unless something happens."""
        free = AT_ONCE_MAX - len(self._sending)
        if free <= 0:
            return LOOK_SECONDS
        if (pause := self._not_before - self._monotonic()) > 0:
            return pause
        now_us = self._now_us()
        due = await self._store.due(self.target, now_us=now_us, limit=AT_ONCE_MAX)
        new = [each for each in due if each.message_id not in self._sending][:free]
        for delivery in new:
            if self._bucket is not None and (pause := self._bucket.take(self._monotonic())):
                return pause
            self._sending.add(delivery.message_id)
            tg.start_soon(self._try, delivery)
        if len(due) == AT_ONCE_MAX:
            return LOOK_SECONDS  # the first that ends wakes us
        next_us = await self._store.next_due_us(self.target, now_us=now_us)
        if next_us is None:
            return LOOK_SECONDS
        return min(LOOK_SECONDS, max(0.0, (next_us - now_us) / 1e6) + 0.001)

    async def _try(self, delivery: Delivery) -> None:
        try:
            begun_us, begun = self._now_us(), self._monotonic()
            outcome = await self._attempt(delivery)
            seconds = round(self._monotonic() - begun, 3)
            settled = after(delivery, outcome, begun_us, seconds, self._now_us())
            if outcome.is_throttled:
                wanted = outcome.retry_after_seconds or THROTTLE_SECONDS
                self._not_before = self._monotonic() + min(wanted, THROTTLE_SECONDS_MAX)
            with anyio.CancelScope(shield=True), anyio.move_on_after(AGAIN_SECONDS):
                await self._store.settle(settled)
            await self._heard(settled, outcome)
        except AgentRuntimeError as error:
            # Nothing is written down: it is tried again, after a while.
            log.warning("a try to tell %s could not be written down: %s", self.target, error)
            await anyio.sleep(AGAIN_SECONDS)
        finally:
            self._sending.discard(delivery.message_id)
            self._news.set()

    async def _attempt(self, delivery: Delivery) -> Outcome:
        try:
            return await self._send(delivery)
        except Exception as error:
            # The border: a defect in one try must not end all of them.
            log.exception("telling %s failed by a defect", self.target)
            return Outcome(f"a defect: {type(error).__name__}; the daemon's log has more")


def after(
    delivery: Delivery, outcome: Outcome, begun_us: int, seconds: float, now_us: int
) -> Delivery:
    """The delivery after a try with this outcome."""
    error = outcome.error[:ERROR_CHARS_MAX]
    made = Try(at_us=begun_us, seconds=seconds, status=outcome.status, error=error)
    attempts = delivery.attempts + 1
    tried = replace(delivery, attempts=attempts, tries=(*delivery.tries, made)[-TRIES_KEPT:])
    if not error:
        return replace(tried, state="delivered", ended_at_us=now_us)
    delay = delay_seconds(
        delivery.message_id, attempts, retry_after_seconds=outcome.retry_after_seconds
    )
    if delay is None or outcome.is_gone:
        return replace(tried, state="failed", ended_at_us=now_us)
    return replace(tried, next_at_us=now_us + round(delay * 1e6))
