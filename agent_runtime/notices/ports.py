"""Where webhooks, hooks and deliveries are kept: the port, beside `agent_runtime.ports`.

Its fake is `stores.memory_notices`; every adapter runs `tests/contracts/test_notice_store.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from agent_runtime.notices.records import Delivery, Hook, Webhook


class NoticeStore(Protocol):
    """Durable when a method returns. All methods raise as those of `ports.Store`."""

    async def add_webhook(self, webhook: Webhook) -> None:
        """Raises `Conflict` if there are `WEBHOOKS_MAX` already."""

    async def webhook(self, webhook_id: str) -> Webhook:
        """Raises `NotFound` if there is none."""

    async def webhooks(self) -> tuple[int, list[Webhook]]:
        """All, by id, and the number of changes that they are the result of."""

    async def change_webhook(
        self, webhook_id: str, change: Callable[[Webhook], Webhook]
    ) -> Webhook:
        """Put what `change` makes of it in its place, in one transaction.

        `change` is pure, and may be called in another thread.

        Raises:
            NotFound: there is none.
        """

    async def delete_webhook(self, webhook_id: str) -> None:
        """Forget it and its deliveries. Raises `NotFound` if there is none."""

    async def add_hook(self, hook: Hook) -> None:
        """Raises `Conflict` if its name is taken, or there are `HOOKS_MAX` already."""

    async def hook(self, hook_id: str) -> Hook:
        """Raises `NotFound` if there is none."""

    async def hooks(self) -> list[Hook]:
        """All, by name."""

    async def change_hook(self, hook_id: str, change: Callable[[Hook], Hook]) -> Hook:
        """As `change_webhook`. Raises `Conflict` if its new name is taken."""

    async def delete_hook(self, hook_id: str) -> None:
        """Raises `NotFound` if there is none."""

    async def join(self, targets: Collection[str], position: int) -> dict[str, int]:
        """From which position on each of these targets of the settings is told.

        A new one gets `position`. Those that are not named any more are forgotten, with their
        deliveries.
        """

    async def cursor(self) -> int:
        """Up to which position events have become deliveries; 0: none have."""

    async def feed(
        self, *, expected: int, position: int, revision: int, deliveries: Sequence[Delivery]
    ) -> None:
        """Keep `deliveries`, and that events up to `position` need no other ones: both or neither.

        A delivery that is known (target and message) stays as it is.

        Raises:
            Conflict: the cursor is not at `expected`, or webhooks have changed since `revision`.
        """

    async def add_delivery(self, delivery: Delivery) -> None:
        """Keep one that no event made. A known one stays as it is."""

    async def due(self, target: str, *, now_us: int, limit: int) -> list[Delivery]:
        """Pending deliveries whose time has come, the longest overdue first."""

    async def next_due_us(self, target: str, *, now_us: int) -> int | None:
        """When the next one after `now_us` is due."""

    async def settle(self, delivery: Delivery) -> None:
        """Put `delivery` in its place; one that is gone (its target was deleted) stays gone."""

    async def delivery(self, target: str, message_id: str) -> Delivery:
        """Raises `NotFound` if there is none."""

    async def deliveries(
        self, target: str, *, state: str = "", before: int | None = None, limit: int = 100
    ) -> list[tuple[int, Delivery]]:
        """With their numbers, the newest first, those numbered below `before`."""

    async def pending(self) -> dict[str, int]:
        """How many wait, by target."""

    async def prune(self, ended_before_us: int) -> int:
        """Forget deliveries that ended before; how many."""
