"""Webhooks out over HTTP: who is told of events, and what became of each delivery."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from agent_runtime.access.callers import TASKS_READ
from agent_runtime.api.answers import Answer, Reply, json_answer
from agent_runtime.api.operations import Request, operation
from agent_runtime.api.views import (
    DeliveryPage,
    DeliveryView,
    NewWebhookView,
    TryView,
    WebhookList,
    WebhookView,
    moment,
)
from agent_runtime.errors import Forbidden, StoreUnavailable
from agent_runtime.notices.records import Delivery, Webhook
from agent_runtime.notices.service import Notices

SCOPE = "tools:admin"

Url = Annotated[str, Meta(min_length=1, max_length=2000)]
Types = Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(max_length=64)]
Labels = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=64)]],
    Meta(max_length=16),
]
Description = Annotated[str, Meta(max_length=500)]


class WebhookWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who wants to hear. `types`: events and occasions; empty: all. A task needs all `labels`."""

    url: Url
    types: Types = []
    labels: Labels = {}
    description: Description = ""


class WebhookChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be another; null: as it was."""

    url: Url | None = None
    types: Types | None = None
    labels: Labels | None = None
    description: Description | None = None


class DeliveriesQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which deliveries."""

    limit: Annotated[int, Meta(ge=1, le=500)] = 50
    cursor: Annotated[str, Meta(pattern=r"^[0-9]{0,18}$")] = ""
    """`next_cursor` of the page before."""
    state: Literal["", "pending", "delivered", "failed"] = ""


@operation(
    "POST", "/v1/webhooks", answers={201: NewWebhookView}, scope=SCOPE, errors=(409, 503),
    body=WebhookWish,
)  # fmt: skip
async def create_webhook(request: Request[WebhookWish, None]) -> Reply:
    """Have an address told of events, from now on.

    Deliveries are signed as Standard Webhooks says. Whoever makes one needs `tasks:read`, too: it
    hears what they would read. The secret is told here and never again.
    """
    wish = request.body
    _require_reader(request)
    webhook = await _notices(request).desk.make(
        url=wish.url, types=wish.types, labels=wish.labels, description=wish.description,
        by=request.caller.by,
    )  # fmt: skip
    location = b"/v1/webhooks/" + webhook.webhook_id.encode()
    headers = ((b"location", location), (b"cache-control", b"no-store"))
    return json_answer(NewWebhookView(secret=webhook.secret, webhook=_view(webhook)), 201, headers)


@operation("GET", "/v1/webhooks", answers={200: WebhookList}, scope=SCOPE, errors=(503,))
async def list_webhooks(request: Request[None, None]) -> Reply:
    """List webhooks."""
    _, found = await _notices(request).store.webhooks()
    return json_answer(WebhookList([_view(each) for each in found]))


@operation(
    "GET", "/v1/webhooks/{webhook_id}", answers={200: WebhookView}, scope=SCOPE, errors=(404, 503)
)
async def get_webhook(request: Request[None, None]) -> Reply:
    """Look at a webhook."""
    return json_answer(_view(await _notices(request).store.webhook(_id(request))))


@operation(
    "PATCH", "/v1/webhooks/{webhook_id}", answers={200: WebhookView}, scope=SCOPE,
    errors=(404, 503), body=WebhookChange,
)  # fmt: skip
async def change_webhook(request: Request[WebhookChange, None]) -> Reply:
    """Change where a webhook is told, and of what. What waits goes to the new address."""
    change = request.body
    _require_reader(request)
    webhook = await _notices(request).desk.change(
        _id(request), url=change.url, types=change.types, labels=change.labels,
        description=change.description,
    )  # fmt: skip
    return json_answer(_view(webhook))


@operation(
    "DELETE", "/v1/webhooks/{webhook_id}", answers={204: None}, scope=SCOPE, errors=(404, 503)
)
async def delete_webhook(request: Request[None, None]) -> Reply:
    """Forget a webhook, and what waits for it."""
    await _notices(request).desk.delete(_id(request))
    return Answer(204)


@operation(
    "POST", "/v1/webhooks/{webhook_id}/enable", answers={200: WebhookView}, scope=SCOPE,
    errors=(404, 503),
)  # fmt: skip
async def enable_webhook(request: Request[None, None]) -> Reply:
    """Tell a webhook again. What happened while it was disabled is not told."""
    return json_answer(_view(await _notices(request).desk.enable(_id(request))))


@operation(
    "POST", "/v1/webhooks/{webhook_id}/disable", answers={200: WebhookView}, scope=SCOPE,
    errors=(404, 503),
)  # fmt: skip
async def disable_webhook(request: Request[None, None]) -> Reply:
    """Tell a webhook nothing more. What waits for it waits until it is enabled."""
    why = f"disabled by {request.caller.by}"
    return json_answer(_view(await _notices(request).desk.disable(_id(request), why)))


@operation(
    "POST", "/v1/webhooks/{webhook_id}/rotate", answers={200: NewWebhookView}, scope=SCOPE,
    errors=(404, 503),
)  # fmt: skip
async def rotate_webhook(request: Request[None, None]) -> Reply:
    """Give a webhook a new secret. For a day, deliveries are signed with the old one, too."""
    webhook = await _notices(request).desk.rotate(_id(request))
    return json_answer(
        NewWebhookView(secret=webhook.secret, webhook=_view(webhook)),
        headers=((b"cache-control", b"no-store"),),
    )


@operation(
    "POST", "/v1/webhooks/{webhook_id}/ping", answers={202: DeliveryView}, scope=SCOPE,
    errors=(404, 409, 503),
)  # fmt: skip
async def ping_webhook(request: Request[None, None]) -> Reply:
    """Send a webhook a test message. What became of it stands in its deliveries."""
    return json_answer(_delivery(await _notices(request).desk.ping(_id(request))), 202)


@operation(
    "GET", "/v1/webhooks/{webhook_id}/deliveries", answers={200: DeliveryPage}, scope=SCOPE,
    errors=(404, 503), query=DeliveriesQuery,
)  # fmt: skip
async def list_deliveries(request: Request[None, DeliveriesQuery]) -> Reply:
    """List what a webhook was told, is to be told, and was not told.

    Those that have ended are forgotten after a week.
    """
    query, store = request.query, _notices(request).store
    webhook_id = _id(request)
    await store.webhook(webhook_id)
    before = int(query.cursor) if query.cursor else None
    found = await store.deliveries(
        webhook_id, state=query.state, before=before, limit=query.limit + 1
    )
    page = found[: query.limit]
    cursor = str(page[-1][0]) if len(found) > len(page) else None
    return json_answer(DeliveryPage([_delivery(each) for _, each in page], cursor))


@operation(
    "POST", "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver",
    answers={202: DeliveryView}, scope=SCOPE, errors=(404, 409, 503),
)  # fmt: skip
async def redeliver_message(request: Request[None, None]) -> Reply:
    """Deliver a message again, or at once, with the same id."""
    delivery = await _notices(request).desk.redeliver(_id(request), request.path["delivery_id"])
    return json_answer(_delivery(delivery), 202)


OPERATIONS = (
    create_webhook, list_webhooks, get_webhook, change_webhook, delete_webhook, enable_webhook,
    disable_webhook, rotate_webhook, ping_webhook, list_deliveries, redeliver_message,
)  # fmt: skip


def _id(request: Request[Any, Any]) -> str:
    return request.path["webhook_id"]


def _notices(request: Request[Any, Any]) -> Notices:
    notices = request.daemon.notices
    if notices is None:
        raise StoreUnavailable("this server tells nobody of events")
    return notices


def _view(webhook: Webhook) -> WebhookView:
    return WebhookView(
        id=webhook.webhook_id, url=webhook.url, types=list(webhook.types), labels=webhook.labels,
        description=webhook.description, enabled=webhook.enabled,
        disabled_why=webhook.disabled_why, failing_since=_moment(webhook.failing_since_us),
        created_at=moment(webhook.made_at_us), created_by=webhook.made_by,
    )  # fmt: skip


def _delivery(delivery: Delivery) -> DeliveryView:
    is_pending = delivery.state == "pending"
    return DeliveryView(
        id=delivery.message_id, type=delivery.type, state=delivery.state,
        task_id=delivery.task_id or None, seq=delivery.seq or None, attempts=delivery.attempts,
        created_at=moment(delivery.made_at_us),
        next_at=moment(delivery.next_at_us) if is_pending else None,
        ended_at=_moment(delivery.ended_at_us),
        tries=[
            TryView(
                at=moment(each.at_us), seconds=each.seconds, status=each.status or None,
                error=each.error,
            )
            for each in delivery.tries
        ],
    )  # fmt: skip


def _moment(at_us: int) -> str | None:
    return moment(at_us) if at_us else None


def _require_reader(request: Request[Any, Any]) -> None:
    if TASKS_READ not in request.caller.scopes:
        raise Forbidden(
            f"a webhook is told of tasks: whoever makes or changes one needs {TASKS_READ!r}"
        )
