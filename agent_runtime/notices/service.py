"""Everything that tells others, beside one daemon: who is told, the feeder, and the couriers.

Of several processes on one state directory one tells; another takes over when it has ended, however
that was. All of it is read from the store: what is in memory here may be lost at any moment.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final

import anyio
import anyio.abc
from msgspec.structs import replace

from agent_runtime.egress_rules import Rules
from agent_runtime.errors import AgentRuntimeError, Conflict, NotFound, StoreBroken
from agent_runtime.notices import sending
from agent_runtime.notices.couriers import Courier
from agent_runtime.notices.desk import WebhookDesk
from agent_runtime.notices.feeder import Feeder
from agent_runtime.notices.messages import Subscription
from agent_runtime.notices.ports import NoticeStore
from agent_runtime.notices.posting import Poster
from agent_runtime.notices.records import Delivery, Webhook
from agent_runtime.notices.retries import DISABLE_SECONDS
from agent_runtime.notices.sending import Notifier, Outcome
from agent_runtime.notices.targets import PREFIX, NotifyTarget
from agent_runtime.ports.store import Store

log = logging.getLogger(__name__)

LOCK_NAME: Final = "notices.lock"
LOCK_SECONDS: Final = 2.0
LOOK_SECONDS: Final = 15.0
"""Between two looks whether another process has changed webhooks, while nobody is told."""
IDLE_SECONDS: Final = 1.0
AGAIN_SECONDS: Final = 1.0
CHORE_SECONDS: Final = 60.0
KEPT_SECONDS: Final = 7 * 86_400
"""How long deliveries that have ended can be looked at and repeated."""
PENDING_MAX: Final = 50_000
"""Deliveries that wait for one webhook; then it is disabled."""
NOTIFY_PENDING_MAX: Final = 1000
"""Messages that wait for one target of the settings; the others are left out, and counted."""


class Notices:
    """One for a process."""

    def __init__(
        self, log_store: Store, store: NoticeStore, *, state_dir: str, allow: Rules,
        notify: Mapping[str, NotifyTarget], link: str, environ: Mapping[str, str],
        now_us: Callable[[], int], monotonic: Callable[[], float],
        count: Callable[[str, str], None] = lambda kind, outcome: None,
    ) -> None:  # fmt: skip
        """`count` hears of each try: webhook or notify, and delivered, retried or failed."""
        self.store = store
        self._log = log_store
        self._lock_path = os.path.join(state_dir, LOCK_NAME)
        self._now_us = now_us
        self._monotonic = monotonic
        self._count = count
        self._poster = Poster(allow, environ)
        self._own_poster = Poster(None, environ)
        self.desk = WebhookDesk(
            log_store, store, self._poster, now_us=now_us, changed=self._look_again
        )
        self._notify = {
            f"{PREFIX}{name}": (
                target,
                Notifier(name, target, poster=self._own_poster, environ=environ, now_us=now_us),
            )
            for name, target in notify.items()
        }
        self._feeder = Feeder(log_store, store, now_us=now_us, link=link, room=self._has_room)
        self._since: dict[str, int] = {}
        self._revision = 0
        self._webhooks: dict[str, Webhook] = {}
        self._couriers: dict[str, tuple[Courier, anyio.CancelScope]] = {}
        self._pending: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()
        self._news = anyio.Event()

    async def run(self) -> None:
        """Tell, for as long as the process lives. The store must be open for longer."""
        async with _alone(self._lock_path), self._closing():
            while True:
                try:
                    await self._run()
                except* StoreBroken:
                    raise
                except* AgentRuntimeError as group:
                    log.warning("nobody is told of events just now: %s", _first(group))
                except* Exception:
                    # The border: a defect here must not end the daemon.
                    log.exception("telling others failed by a defect")
                self._couriers.clear()
                await anyio.sleep(AGAIN_SECONDS)

    async def pending(self) -> Mapping[str, int]:
        """How many deliveries wait, by kind."""
        found = Counter({"webhook": 0, "notify": 0})
        for target, number in (await self.store.pending()).items():
            found[_kind(target)] += number
        return found

    # ---- running -------------------------------------------------------------------------

    async def _run(self) -> None:
        self._since = await self.store.join(list(self._notify), await self._log.position())
        async with anyio.create_task_group() as tg:
            tg.start_soon(self._do_chores)
            await self._look(tg)
            flush_at = self._monotonic() + CHORE_SECONDS
            while True:
                news = self._news
                told = self._subscriptions()
                try:
                    fed = await self._feeder.step(self._revision, told) if told else None
                except Conflict:
                    fed = set()
                    await self._look(tg)
                if news.is_set():
                    self._news = anyio.Event()
                    await self._look(tg)
                for target in fed or ():
                    if target in self._couriers:
                        self._couriers[target][0].wake()
                if fed is None:
                    if told and self._monotonic() > flush_at:
                        flush_at = self._monotonic() + CHORE_SECONDS
                        with suppress(Conflict):
                            await self._feeder.flush(self._revision)
                    await self._wait(news, is_telling=bool(told))
                    if not told:
                        await self._look(tg)

    async def _wait(self, news: anyio.Event, *, is_telling: bool) -> None:
        """Until there may be something to do."""
        if not is_telling:
            with anyio.move_on_after(LOOK_SECONDS):
                await news.wait()
            return
        async with anyio.create_task_group() as tg:

            async def wake() -> None:
                await news.wait()
                tg.cancel_scope.cancel()

            tg.start_soon(wake)
            await self._log.wait_changed(IDLE_SECONDS)
            tg.cancel_scope.cancel()

    def _look_again(self) -> None:
        """Something was changed here."""
        self._news.set()

    async def _look(self, tg: anyio.abc.TaskGroup) -> None:
        """Who is told now? Start and stop couriers."""
        self._revision, found = await self.store.webhooks()
        self._webhooks = {each.webhook_id: each for each in found}
        wanted = {each.webhook_id for each in found if each.enabled} | self._notify.keys()
        for target in self._couriers.keys() - wanted:
            self._couriers.pop(target)[1].cancel()
        for target in wanted - self._couriers.keys():
            self._start(tg, target)
        for courier, _ in self._couriers.values():
            courier.wake()

    def _start(self, tg: anyio.abc.TaskGroup, target: str) -> None:
        send, per_minute = self._send, None
        if target in self._notify:
            settings, notifier = self._notify[target]
            send, per_minute = notifier.__call__, settings.per_minute
        courier = Courier(
            target, send, store=self.store, heard=self._heard, now_us=self._now_us,
            monotonic=self._monotonic, per_minute=per_minute,
        )  # fmt: skip
        scope = anyio.CancelScope()
        self._couriers[target] = (courier, scope)

        async def run() -> None:
            with scope:
                await courier.run()

        tg.start_soon(run)

    def _subscriptions(self) -> list[Subscription]:
        told = [
            Subscription(
                each.webhook_id, each.since, frozenset(each.types), tuple(each.labels.items())
            )
            for each in self._webhooks.values()
            if each.enabled
        ]
        for name, (target, _) in self._notify.items():
            labels = tuple(target.labels.items())
            told.append(Subscription(name, self._since[name], frozenset(target.on), labels))
        return told

    # ---- one try -------------------------------------------------------------------------

    async def _send(self, delivery: Delivery) -> Outcome:
        webhook = self._webhooks.get(delivery.target)
        if webhook is None:
            return Outcome("the webhook is gone")
        return await sending.to_webhook(self._poster, webhook, delivery, self._now_us())

    async def _heard(self, delivery: Delivery, outcome: Outcome) -> None:
        kind = _kind(delivery.target)
        retried = "retried" if delivery.state == "pending" else delivery.state
        self._count(kind, retried)
        if outcome.error:
            log.warning(
                "%s was not told of %s (%s, try %d): %s",
                delivery.target, delivery.message_id, delivery.type, delivery.attempts,
                outcome.error,
                extra={"task_id": delivery.task_id, "target": delivery.target},
            )  # fmt: skip
        if kind == "webhook":
            await self._note_health(delivery.target, outcome)

    async def _note_health(self, webhook_id: str, outcome: Outcome) -> None:
        """How long it has been failing; too long, or gone: it is told nothing more."""
        known = self._webhooks.get(webhook_id)
        if known is None or (not outcome.error and not known.failing_since_us):
            return
        now_us = self._now_us()

        def change(webhook: Webhook) -> Webhook:
            return judged(webhook, outcome, now_us)

        if change(known) == known:
            return
        try:
            changed = await self.store.change_webhook(webhook_id, change)
        except NotFound:
            return
        if not changed.enabled:
            log.error("the webhook %s is disabled: %s", webhook_id, changed.disabled_why)
        self._webhooks[webhook_id] = changed
        self._look_again()

    # ---- room ----------------------------------------------------------------------------

    def _has_room(self, target: str) -> bool:
        if target not in self._notify:
            return True
        if self._pending[target] >= NOTIFY_PENDING_MAX:
            self._left_out[target] += 1
            return False
        self._pending[target] += 1
        return True

    async def _do_chores(self) -> None:
        while True:
            self._pending = Counter(await self.store.pending())
            for target, number in self._pending.items():
                if target in self._webhooks and number > PENDING_MAX:
                    await self.desk.disable(target, f"{number} deliveries wait for it")
                    log.error("the webhook %s is disabled: %d deliveries wait", target, number)
            for target, number in self._left_out.items():
                log.error("%d messages to %s were left out: too many wait", number, target)
            self._left_out.clear()
            await self.store.prune(self._now_us() - KEPT_SECONDS * 1_000_000)
            await anyio.sleep(CHORE_SECONDS)

    @asynccontextmanager
    async def _closing(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(2):
                await self._poster.close()
                await self._own_poster.close()


def judged(webhook: Webhook, outcome: Outcome, now_us: int) -> Webhook:
    """The webhook after a try with this outcome."""
    if not outcome.error:
        return replace(webhook, failing_since_us=0)
    if outcome.is_gone:
        return replace(webhook, enabled=False, disabled_why="it answered 410 (gone)")
    since_us = webhook.failing_since_us or now_us
    if now_us - since_us > DISABLE_SECONDS * 1_000_000:
        days = DISABLE_SECONDS // 86_400
        why = f"it has taken nothing for {days} days; the last answer: {outcome.error}"
        return replace(webhook, enabled=False, disabled_why=why)
    return replace(webhook, failing_since_us=since_us)


@asynccontextmanager
async def _alone(path: str) -> AsyncIterator[None]:
    """Hold the lock that one process on a state directory has; the kernel frees it with us."""
    import fcntl  # here: only a daemon needs it, and the command line imports this file too

    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await anyio.sleep(LOCK_SECONDS)
        yield
    finally:
        os.close(fd)


def _kind(target: str) -> str:
    return "notify" if target.startswith(PREFIX) else "webhook"


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group
