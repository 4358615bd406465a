"""What is kept of notices: webhooks, hooks, and each delivery with its tries. Pure."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from agent_runtime.types import Json

WEBHOOKS_MAX: Final = 100
HOOKS_MAX: Final = 200
TRIES_KEPT: Final = 10
"""Of one delivery; the schedule has as many."""

State = Literal["pending", "delivered", "failed"]
Scheme = Literal["hmac", "github", "gitlab", "standard"]


class Webhook(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An address that wants to hear of events. `types` and `labels` empty: of all of them."""

    webhook_id: str
    url: str
    secret: str
    """`whsec_…`: kept as it is, for every delivery is signed with it."""
    made_at_us: int
    made_by: str
    since: int
    """The store's position when it was made: what came before is not told."""
    types: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    description: str = ""
    enabled: bool = True
    disabled_why: str = ""
    failing_since_us: int = 0
    """Of the first try that failed since the last one that did not; 0: none did."""
    old_secret: str = ""
    """Signs too, until `old_until_us`."""
    old_until_us: int = 0


class Hook(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An address of ours at which a signed request makes a task."""

    hook_id: str
    name: str
    scheme: Scheme
    secret: str
    task: dict[str, Json]
    """A task file with expressions over the request."""
    made_at_us: int
    made_by: str
    filters: tuple[str, ...] = ()
    """Expressions; the request makes a task if all are true."""
    header: str = ""
    """With `hmac`: which one has the signature."""
    delivery_header: str = ""
    """Which one tells deliveries apart, if it is not the scheme's own."""
    description: str = ""
    enabled: bool = True
    old_secret: str = ""
    """Counts too, until `old_until_us`."""
    old_until_us: int = 0


class Try(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One attempt. `status` 0: there was no answer; `error` empty: it was taken."""

    at_us: int
    seconds: float
    status: int = 0
    error: str = ""


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A message for one target, from when it is due until it is taken or given up."""

    target: str
    """A webhook's id, or `notify:NAME`."""
    message_id: str
    """The same for every try, and after every restart: what receivers deduplicate by."""
    type: str
    body: bytes
    made_at_us: int
    next_at_us: int
    task_id: str = ""
    seq: int = 0
    state: State = "pending"
    attempts: int = 0
    ended_at_us: int = 0
    tries: tuple[Try, ...] = ()
    """The newest ones."""
