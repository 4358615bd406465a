"""Signatures of webhooks, ours and those of others. Pure.

Ours are those of Standard Webhooks: HMAC-SHA256 over `{id}.{timestamp}.{body}`, symmetric (`v1`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from typing import Final

from agent_runtime.notices.records import Hook

PREFIX: Final = "whsec_"
SECRET_BYTES: Final = 32
TOLERANCE_SECONDS: Final = 300
"""Between the sender's clock and ours."""

_DELIVERY_HEADERS: Final[Mapping[str, tuple[str, ...]]] = {
    "standard": ("webhook-id",),
    "github": ("x-github-delivery",),
    # An event that GitLab sends again has the same Idempotency-Key, and another UUID.
    "gitlab": ("idempotency-key", "x-gitlab-event-uuid"),
    "hmac": ("idempotency-key", "x-delivery-id", "x-request-id"),
}
DEFAULT_HEADER: Final = "x-signature-256"
"""Of the scheme `hmac`."""
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}")


def secret_of(random: bytes) -> str:
    """A secret as it is shown."""
    return PREFIX + base64.b64encode(random).decode()


def key_of(secret: str) -> bytes:
    """The bytes that sign. Raises `ValueError` if it is no `whsec_` secret."""
    try:
        return base64.b64decode(secret.removeprefix(PREFIX) + "==", validate=False)
    except binascii.Error as error:
        raise ValueError("is no base64") from error


def signature(secrets: Sequence[str], message_id: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature`: one part for each secret."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return " ".join(
        "v1," + base64.b64encode(hmac.digest(key_of(secret), signed, "sha256")).decode()
        for secret in secrets
    )


def fault_of_request(
    hook: Hook, headers: Mapping[str, str], body: bytes, now_seconds: float
) -> str:
    """Why a request is not from who knows the hook's secret; empty: it is. Names no secret."""
    fault = _fault(hook, hook.secret, headers, body, now_seconds)
    if fault and hook.old_secret and now_seconds < hook.old_until_us / 1_000_000:
        # A sender is told of a new secret a while after us.
        return _fault(hook, hook.old_secret, headers, body, now_seconds)
    return fault


def _fault(
    hook: Hook, secret: str, headers: Mapping[str, str], body: bytes, now_seconds: float
) -> str:
    match hook.scheme:
        case "standard":
            return _standard_fault(secret, headers, body, now_seconds)
        case "github":
            return _hmac_fault(secret, headers, body, "x-hub-signature-256")
        case "gitlab":
            given = headers.get("x-gitlab-token", "")
            same = hmac.compare_digest(given.encode(), secret.encode())
            return "" if same else "the header X-Gitlab-Token does not hold the hook's secret"
        case "hmac":
            return _hmac_fault(secret, headers, body, hook.header or DEFAULT_HEADER)


def delivery_of(hook: Hook, headers: Mapping[str, str], body: bytes) -> str:
    """What a repetition of the same delivery has in common with it."""
    names = (hook.delivery_header,) if hook.delivery_header else _DELIVERY_HEADERS[hook.scheme]
    told = next((headers[name] for name in names if headers.get(name)), "")
    if told and len(told) <= 200:
        return told
    return "sha256:" + hashlib.sha256(told.encode() or body).hexdigest()


def _hmac_fault(secret: str, headers: Mapping[str, str], body: bytes, name: str) -> str:
    given = headers.get(name, "").strip()
    if not given:
        return f"the header {name} is missing"
    digest = hmac.digest(secret.encode(), body, "sha256")
    wanted = given.removeprefix("sha256=")
    forms = (digest.hex(), base64.b64encode(digest).decode())
    fits = [hmac.compare_digest(wanted.encode(), form.encode()) for form in forms]
    lowered = hmac.compare_digest(wanted.lower().encode(), forms[0].encode())
    return "" if any(fits) or lowered else f"the header {name} is no signature of this body"


def _standard_fault(
    secret: str, headers: Mapping[str, str], body: bytes, now_seconds: float
) -> str:
    message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    given = headers.get("webhook-signature", "")
    if not message_id or not given or not _TIMESTAMP.fullmatch(timestamp):
        return "the headers webhook-id, webhook-timestamp and webhook-signature are needed"
    if abs(now_seconds - int(timestamp)) > TOLERANCE_SECONDS:
        return f"webhook-timestamp is more than {TOLERANCE_SECONDS} s from this machine's clock"
    wanted = signature([secret], message_id, int(timestamp), body).encode()
    fits = [hmac.compare_digest(part.encode(), wanted) for part in given.split(" ")]
    return "" if any(fits) else "webhook-signature is no signature of this request"
