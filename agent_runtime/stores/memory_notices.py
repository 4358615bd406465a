"""Webhooks, hooks and deliveries without a disk: the reference for the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence

import anyio.lowlevel

from agent_runtime.errors import Conflict, NotFound
from agent_runtime.notices.records import HOOKS_MAX, WEBHOOKS_MAX, Delivery, Hook, Webhook
from agent_runtime.notices.retries import HORIZON_SECONDS


class SharedNotices:
    """What several `MemoryNotices` have in common: the "file"."""

    def __init__(self) -> None:
        self.webhooks: dict[str, Webhook] = {}
        self.hooks: dict[str, Hook] = {}
        self.targets: dict[str, int] = {}
        self.deliveries: dict[tuple[str, str], tuple[int, Delivery]] = {}
        self.numbered = 0
        self.revision = 0
        self.position = 0


class MemoryNotices:
    """Implements `notices.ports.NoticeStore` for one "process"."""

    def __init__(self, shared: SharedNotices | None = None) -> None:
        self._shared = shared if shared is not None else SharedNotices()

    async def add_webhook(self, webhook: Webhook) -> None:
        await anyio.lowlevel.checkpoint()
        if len(self._shared.webhooks) >= WEBHOOKS_MAX:
            raise too_many_webhooks()
        self._shared.webhooks[webhook.webhook_id] = webhook
        self._shared.revision += 1

    async def webhook(self, webhook_id: str) -> Webhook:
        await anyio.lowlevel.checkpoint()
        return self._webhook(webhook_id)

    async def webhooks(self) -> tuple[int, list[Webhook]]:
        await anyio.lowlevel.checkpoint()
        found = [webhook for _, webhook in sorted(self._shared.webhooks.items())]
        return self._shared.revision, found

    async def change_webhook(
        self, webhook_id: str, change: Callable[[Webhook], Webhook]
    ) -> Webhook:
        await anyio.lowlevel.checkpoint()
        before = self._webhook(webhook_id)
        webhook = change(before)
        if webhook != before:
            self._shared.webhooks[webhook_id] = webhook
            self._shared.revision += 1
        return webhook

    async def delete_webhook(self, webhook_id: str) -> None:
        await anyio.lowlevel.checkpoint()
        self._webhook(webhook_id)
        del self._shared.webhooks[webhook_id]
        self._shared.revision += 1
        self._forget(webhook_id)

    async def add_hook(self, hook: Hook) -> None:
        await anyio.lowlevel.checkpoint()
        if len(self._shared.hooks) >= HOOKS_MAX:
            raise too_many_hooks()
        self._require_free(hook)
        self._shared.hooks[hook.hook_id] = hook

    async def hook(self, hook_id: str) -> Hook:
        await anyio.lowlevel.checkpoint()
        return self._hook(hook_id)

    async def hooks(self) -> list[Hook]:
        await anyio.lowlevel.checkpoint()
        return sorted(self._shared.hooks.values(), key=lambda hook: hook.name)

    async def change_hook(self, hook_id: str, change: Callable[[Hook], Hook]) -> Hook:
        await anyio.lowlevel.checkpoint()
        hook = change(self._hook(hook_id))
        self._require_free(hook)
        self._shared.hooks[hook_id] = hook
        return hook

    async def delete_hook(self, hook_id: str) -> None:
        await anyio.lowlevel.checkpoint()
        self._hook(hook_id)
        del self._shared.hooks[hook_id]

    async def join(self, targets: Collection[str], position: int) -> dict[str, int]:
        await anyio.lowlevel.checkpoint()
        for gone in self._shared.targets.keys() - set(targets):
            del self._shared.targets[gone]
            self._forget(gone)
        for target in targets:
            self._shared.targets.setdefault(target, position)
        return dict(self._shared.targets)

    async def cursor(self) -> int:
        await anyio.lowlevel.checkpoint()
        return self._shared.position

    async def feed(
        self, *, expected: int, position: int, revision: int, deliveries: Sequence[Delivery]
    ) -> None:
        await anyio.lowlevel.checkpoint()
        shared = self._shared
        if (shared.position, shared.revision) != (expected, revision):
            raise fed_meanwhile()
        for delivery in deliveries:
            self._add(delivery)
        shared.position = position

    async def add_delivery(self, delivery: Delivery) -> None:
        await anyio.lowlevel.checkpoint()
        self._add(delivery)

    async def due(self, target: str, *, now_us: int, limit: int) -> list[Delivery]:
        await anyio.lowlevel.checkpoint()
        horizon_us = now_us + HORIZON_SECONDS * 1_000_000
        found = [
            delivery
            for delivery in self._pending(target)
            if delivery.next_at_us <= now_us or delivery.next_at_us > horizon_us
        ]
        return sorted(found, key=lambda delivery: delivery.next_at_us)[:limit]

    async def next_due_us(self, target: str, *, now_us: int) -> int | None:
        await anyio.lowlevel.checkpoint()
        times = (delivery.next_at_us for delivery in self._pending(target))
        return min((at_us for at_us in times if at_us > now_us), default=None)

    async def settle(self, delivery: Delivery) -> None:
        await anyio.lowlevel.checkpoint()
        key = (delivery.target, delivery.message_id)
        if key in self._shared.deliveries:
            number = self._shared.deliveries[key][0]
            self._shared.deliveries[key] = (number, delivery)

    async def delivery(self, target: str, message_id: str) -> Delivery:
        await anyio.lowlevel.checkpoint()
        try:
            return self._shared.deliveries[target, message_id][1]
        except KeyError:
            raise no_delivery(target, message_id) from None

    async def deliveries(
        self, target: str, *, state: str = "", before: int | None = None, limit: int = 100
    ) -> list[tuple[int, Delivery]]:
        await anyio.lowlevel.checkpoint()
        found = [
            (number, delivery)
            for number, delivery in self._shared.deliveries.values()
            if delivery.target == target
            and (not state or delivery.state == state)
            and (before is None or number < before)
        ]
        return sorted(found, key=lambda item: -item[0])[:limit]

    async def pending(self) -> dict[str, int]:
        await anyio.lowlevel.checkpoint()
        every = (delivery for _, delivery in self._shared.deliveries.values())
        return dict(Counter(each.target for each in every if each.state == "pending"))

    async def prune(self, ended_before_us: int) -> int:
        await anyio.lowlevel.checkpoint()
        old = [
            key
            for key, (_, delivery) in self._shared.deliveries.items()
            if delivery.state != "pending" and delivery.ended_at_us < ended_before_us
        ]
        for key in old:
            del self._shared.deliveries[key]
        return len(old)

    def _webhook(self, webhook_id: str) -> Webhook:
        try:
            return self._shared.webhooks[webhook_id]
        except KeyError:
            raise no_webhook(webhook_id) from None

    def _hook(self, hook_id: str) -> Hook:
        try:
            return self._shared.hooks[hook_id]
        except KeyError:
            raise no_hook(hook_id) from None

    def _require_free(self, hook: Hook) -> None:
        for other in self._shared.hooks.values():
            if other.name == hook.name and other.hook_id != hook.hook_id:
                raise name_taken(hook.name)

    def _add(self, delivery: Delivery) -> None:
        key = (delivery.target, delivery.message_id)
        if key not in self._shared.deliveries:
            self._shared.numbered += 1
            self._shared.deliveries[key] = (self._shared.numbered, delivery)

    def _pending(self, target: str) -> list[Delivery]:
        every = (delivery for _, delivery in self._shared.deliveries.values())
        return [each for each in every if each.target == target and each.state == "pending"]

    def _forget(self, target: str) -> None:
        for key in [key for key in self._shared.deliveries if key[0] == target]:
            del self._shared.deliveries[key]


def no_webhook(webhook_id: str) -> NotFound:
    return NotFound(f"there is no webhook {webhook_id!r} in this store")


def no_hook(hook_id: str) -> NotFound:
    return NotFound(f"there is no hook {hook_id!r} in this store")


def no_delivery(target: str, message_id: str) -> NotFound:
    return NotFound(f"there is no delivery {message_id!r} for {target!r}; ended ones are forgotten")


def name_taken(name: str) -> Conflict:
    return Conflict(f"a hook called {name!r} exists: delete it first, or use another name")


def too_many_webhooks() -> Conflict:
    return Conflict(f"there are {WEBHOOKS_MAX} webhooks, which is the most: delete one first")


def too_many_hooks() -> Conflict:
    return Conflict(f"there are {HOOKS_MAX} hooks, which is the most: delete one first")


def fed_meanwhile() -> Conflict:
    return Conflict("another process has told events, or webhooks were changed: look again")
