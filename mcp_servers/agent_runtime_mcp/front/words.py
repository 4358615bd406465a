"""Words of the protocol that a message on its way is looked at for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

Message = dict[str, Any]

META_VERSION: Final = "io.modelcontextprotocol/protocolVersion"
META_SUBSCRIPTION: Final = "io.modelcontextprotocol/subscriptionId"
META_KEY: Final = "io.agent-runtime/idempotencyKey"
FRONT_KEYS: Final = "front-"

ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"
CANCELLED: Final = "notifications/cancelled"
INITIALIZED: Final = "notifications/initialized"
LISTEN: Final = "subscriptions/listen"

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
INTERNAL: Final = -32603
HEADER_MISMATCH: Final = -32020
AWAY: Final = -32000
"""There is no daemon, or it went and did not come back."""

HOW_TO_SIGN_IN: Final = (
    "give a key (`agent-runtime keys create`) in the variable AGENT_RUNTIME_TOKEN of the client's "
    "configuration; for a daemon of this machine the file `token` in its state directory counts, "
    "which `agent-runtime serve` makes"
)

READS: Final = frozenset(
    {
        *("initialize", "ping", "server/discover", "completion/complete", LISTEN),
        *("tools/list", "prompts/list", "prompts/get", "logging/setLevel"),
        *("resources/list", "resources/templates/list", "resources/read"),
        *("resources/subscribe", "resources/unsubscribe"),
        *("tasks/get", "tasks/list", "tasks/result", "tasks/cancel"),
    }
)
"""Methods that may be asked twice and change nothing by that; any other gets a key."""


def dumped(message: Message) -> bytes:
    """As one line."""
    return json.dumps(message, separators=(",", ":")).encode()


def error(request_id: Any, code: int, text: str) -> Message:
    """A response that says what went wrong, and the way out."""
    return {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": text}}


def notification(method: str, params: Message | None = None) -> Message:
    """One without an answer."""
    message: Message = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        message["params"] = params
    return message


def section(message: Mapping[str, Any], *names: str) -> Message:
    """An object inside of others; empty where there is none."""
    found: Any = message
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}
