"""Making and changing webhooks and their deliveries, for whoever serves people."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from agent_runtime.errors import Conflict, Fault, UsageError
from agent_runtime.notices.feeder import moment
from agent_runtime.notices.messages import PING, ping_body
from agent_runtime.notices.ports import NoticeStore
from agent_runtime.notices.posting import Poster
from agent_runtime.notices.records import Delivery, Webhook
from agent_runtime.notices.retries import OLD_SECRET_SECONDS
from agent_runtime.notices.signing import SECRET_BYTES, secret_of
from agent_runtime.notices.targets import unknown_names
from agent_runtime.ports.store import Store


class WebhookDesk:
    """What the operations on `/v1/webhooks` do. `changed` is told after each change."""

    def __init__(
        self, log: Store, store: NoticeStore, poster: Poster, *, now_us: Callable[[], int],
        changed: Callable[[], None],
    ) -> None:  # fmt: skip
        self._log = log
        self.store = store
        self._poster = poster
        self._now_us = now_us
        self._changed = changed

    async def make(
        self, *, url: str, types: Sequence[str], labels: Mapping[str, str], description: str,
        by: str,
    ) -> Webhook:  # fmt: skip
        """Keep a new one; its `secret` is to be shown now, and never again.

        Raises:
            UsageError: the address or a type is wrong.
            Conflict: there are too many.
        """
        self._check(url, types)
        webhook = Webhook(
            webhook_id=f"wh_{secrets.token_hex(12)}", url=url, types=tuple(types),
            secret=secret_of(secrets.token_bytes(SECRET_BYTES)), made_at_us=self._now_us(),
            made_by=by, since=await self._log.position(), labels=dict(labels),
            description=description,
        )  # fmt: skip
        await self.store.add_webhook(webhook)
        self._changed()
        return webhook

    async def change(
        self, webhook_id: str, *, url: str | None, types: Sequence[str] | None,
        labels: Mapping[str, str] | None, description: str | None,
    ) -> Webhook:  # fmt: skip
        """Change what is not None. Raises as `make`, and `NotFound`."""
        self._check(url, types or ())
        given = {
            "url": url, "types": None if types is None else tuple(types),
            "labels": None if labels is None else dict(labels), "description": description,
        }  # fmt: skip
        named = {name: value for name, value in given.items() if value is not None}
        return await self._changed_to(webhook_id, lambda webhook: replace(webhook, **named))

    async def enable(self, webhook_id: str) -> Webhook:
        """Tell it again; what waits is tried at its time."""
        return await self._changed_to(
            webhook_id,
            lambda each: replace(each, enabled=True, disabled_why="", failing_since_us=0),
        )

    async def disable(self, webhook_id: str, why: str) -> Webhook:
        """Tell it nothing more; what waits goes on waiting, and nothing is added."""
        return await self._changed_to(
            webhook_id, lambda each: replace(each, enabled=False, disabled_why=why)
        )

    async def rotate(self, webhook_id: str) -> Webhook:
        """Give it a new secret; the old one signs too for a day."""
        secret = secret_of(secrets.token_bytes(SECRET_BYTES))
        until_us = self._now_us() + OLD_SECRET_SECONDS * 1_000_000
        return await self._changed_to(
            webhook_id,
            lambda each: replace(
                each, secret=secret, old_secret=each.secret, old_until_us=until_us
            ),
        )

    async def delete(self, webhook_id: str) -> None:
        """Forget it and what waits for it."""
        await self.store.delete_webhook(webhook_id)
        self._changed()

    async def ping(self, webhook_id: str) -> Delivery:
        """Send a message that no event made. Raises `Conflict` if it is disabled."""
        await self._enabled(webhook_id)
        now_us = self._now_us()
        delivery = Delivery(
            target=webhook_id, message_id=f"msg_ping_{secrets.token_hex(12)}", type=PING,
            body=ping_body(webhook_id, moment(now_us)), made_at_us=now_us, next_at_us=now_us,
        )  # fmt: skip
        await self.store.add_delivery(delivery)
        self._changed()
        return delivery

    async def redeliver(self, webhook_id: str, message_id: str) -> Delivery:
        """Deliver it (again) now, under the same id, with all its tries before it."""
        await self._enabled(webhook_id)
        found = await self.store.delivery(webhook_id, message_id)
        again = replace(
            found, state="pending", attempts=0, ended_at_us=0, next_at_us=self._now_us()
        )
        await self.store.settle(again)
        self._changed()
        return again

    async def _enabled(self, webhook_id: str) -> None:
        if not (await self.store.webhook(webhook_id)).enabled:
            raise Conflict(f"the webhook {webhook_id!r} is disabled: enable it first")

    async def _changed_to(self, webhook_id: str, change: Callable[[Webhook], Webhook]) -> Webhook:
        webhook = await self.store.change_webhook(webhook_id, change)
        self._changed()
        return webhook

    def _check(self, url: str | None, types: Sequence[str]) -> None:
        faults = []
        if url is not None and (why := self._poster.fault_of(url)):
            faults.append(Fault(("url",), f"the address {why}"))
        if why := unknown_names(types):
            faults.append(Fault(("types",), why))
        if faults:
            raise UsageError("; ".join(fault.text for fault in faults), faults=faults)
