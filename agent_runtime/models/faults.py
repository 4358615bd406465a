"""Why a model did not answer: from HTTP statuses and providers' error bodies to our kinds. Pure.

Each provider says it in its own words; what is looked at is the status, the documented codes and
types, and last the text, because compatible servers give nothing else. A fault's message is for
people: it names the provider and what would help, and holds no key (`redacted`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from agent_runtime.messages import ModelUsage
from agent_runtime.ports.model import ModelFault, ModelFaultKind
from agent_runtime.redaction import Redactor
from agent_runtime.types import Json

TOLD_CHARS_MAX: Final = 500
"""Of a provider's own words."""
_KEY_BEGINNING_CHARS: Final = 10
"""Of a key: what providers repeat of a wrong one may be cut."""


class Failed(Exception):
    """There is no answer; inside of this package only. `message` may still hold a key."""

    def __init__(
        self,
        kind: ModelFaultKind,
        message: str,
        *,
        retry_after_seconds: float | None = None,
        usage: ModelUsage | None = None,
    ) -> None:
        super().__init__(message)
        self.kind: ModelFaultKind = kind
        self.message = message
        self.retry_after_seconds = retry_after_seconds
        self.usage = usage or ModelUsage()

    def fault(self, key: str) -> ModelFault:
        """The same for everybody else, without `key`."""
        return ModelFault(
            kind=self.kind,
            message=redacted(self.message, key),
            retry_after_seconds=self.retry_after_seconds,
            usage=self.usage,
        )


def redacted(text: str, key: str) -> str:
    """`text` without `key`, nor a beginning of it that tells it."""
    if not key:
        return text
    text = Redactor({"key": key}).text(text)
    if len(key) >= 2 * _KEY_BEGINNING_CHARS:
        text = re.sub(re.escape(key[:_KEY_BEGINNING_CHARS]) + r"[\w.+/=*…-]*", "[secret key]", text)
    return text


def refused(place: str, status: int, headers: Mapping[str, str], body: bytes) -> Failed:
    """What an answer with another status than 200 means. `place` names provider and model."""
    after = retry_after_seconds(headers)
    if 300 <= status < 400:
        target = headers.get("location", "")
        return Failed(
            "not_found",
            f"{place} answers with a redirection (status {status}) to {target!r}, which is not "
            "followed, because a key would go along: name the right address",
        )
    return from_error(place, _json(body), status=status, after=after, raw=body)


def from_error(
    place: str, body: Json, *, status: int = 0, after: float | None = None, raw: bytes = b""
) -> Failed:
    """What a provider's error object means; `status` 0: it came inside an answer."""
    told, words = _told(body)
    said = told or raw.decode("utf-8", "replace")
    kind = _kind(status or _status_in(words), words, said)
    shown = " ".join(said.split())[:TOLD_CHARS_MAX] or "without a word"
    number = f" ({status})" if status else ""
    return Failed(
        kind,
        f"{place}: {_OPENINGS[kind]}{number}: {shown}{_way_out(kind)}",
        retry_after_seconds=after,
    )


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """How long to wait, if the server says: RFC 9110's seconds or date, or milliseconds."""
    if (seconds := _number(headers.get("retry-after-ms", ""))) is not None:
        return seconds / 1000
    said = headers.get("retry-after", "").strip()
    if not said or (seconds := _number(said)) is not None:
        return seconds
    try:
        then = parsedate_to_datetime(said)
        # The server's own clock, if it shows it: ours may be wrong.
        now = parsedate_to_datetime(headers["date"]) if headers.get("date") else datetime.now(UTC)
        return max((then - now).total_seconds(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None


_OPENINGS: Final[Mapping[ModelFaultKind, str]] = {
    "rate": "too many requests",
    "overload": "cannot answer just now",
    "transport": "the connection failed",
    "truncated": "the answer is none",
    "auth": "refuses the key",
    "not_found": "knows no such model or address",
    "bad_request": "refuses the request",
    "context": "the prompt is too long",
    "filter": "refuses to answer this",
    "too_large": "the answer is too large",
    "internal": "failed",
}

_BY_WORD: Final[Mapping[str, ModelFaultKind]] = {
    # Anthropic's error types
    "authentication_error": "auth",
    "permission_error": "auth",
    "billing_error": "auth",
    "not_found_error": "not_found",
    "request_too_large": "context",
    "rate_limit_error": "rate",
    "timeout_error": "overload",
    "api_error": "overload",
    "overloaded_error": "overload",
    # OpenAI's codes and types, and those of servers that speak like it
    "invalid_api_key": "auth",
    "insufficient_quota": "auth",
    "billing_hard_limit_reached": "auth",
    "account_deactivated": "auth",
    "model_not_found": "not_found",
    "context_length_exceeded": "context",
    "string_above_max_length": "context",
    "exceed_context_size_error": "context",
    "rate_limit_exceeded": "rate",
    "tokens": "rate",
    "requests": "rate",
    "server_error": "overload",
    "engine_overloaded": "overload",
    "overloaded": "overload",
    "content_filter": "filter",
    "content_policy_violation": "filter",
    "responsibleaipolicyviolation": "filter",
    "invalid_prompt": "filter",
    # Google's status words
    "unauthenticated": "auth",
    "permission_denied": "auth",
    "resource_exhausted": "rate",
    "unavailable": "overload",
    "deadline_exceeded": "overload",
    "internal": "overload",
}
_BY_STATUS: Final[Mapping[int, ModelFaultKind]] = {
    401: "auth", 402: "auth", 403: "auth", 404: "not_found", 405: "not_found", 408: "overload",
    409: "overload", 410: "not_found", 413: "context", 425: "overload", 429: "rate",
}  # fmt: skip
_CONTEXT = re.compile(
    r"prompt is too long|maximum context length|context[ _](?:length|window|size)|"
    r"exceed\w* (?:the )?(?:model's )?(?:max\w* )?context|exceed context limit|"
    r"input token count|too many (?:input )?tokens|prompt.{0,40}(?:too long|exceeds)",
    re.IGNORECASE,
)
_NO_KEY = re.compile(r"api[ _-]?key (?:not valid|is (?:invalid|missing|required))", re.IGNORECASE)
_NO_MODEL = re.compile(r"model\b.{0,120}\b(?:not found|does not exist|not exist)", re.IGNORECASE)
_NO_MONEY = re.compile(r"credit balance|insufficient (?:funds|balance|credits)", re.IGNORECASE)


def _kind(status: int, words: list[str], said: str) -> ModelFaultKind:
    for word in words:
        if kind := _BY_WORD.get(word):
            return kind
        if word.endswith(("_policy", "policy_violation")):
            return "filter"
        if "spend_limit" in word or word == "organization_on_hold":
            return "auth"
    # A mere "invalid request" says too little: the rest is in the text only.
    if status in (0, 400, 404, 422, 500):
        if _CONTEXT.search(said):
            return "context"
        if status != 500 and (_NO_KEY.search(said) or _NO_MONEY.search(said)):
            return "auth"
        if status != 500 and _NO_MODEL.search(said):
            return "not_found"
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return "bad_request" if 400 <= status < 500 else "overload"


def _way_out(kind: ModelFaultKind) -> str:
    if kind == "auth":
        return "; see `agent-runtime models --check` for the key that is used"
    if kind == "not_found":
        return "; `agent-runtime models --check` asks which models it has"
    return ""


def _told(body: Json) -> tuple[str, list[str]]:
    """A provider's own words, and the codes that it gives, the most telling first."""
    if isinstance(body, list) and body:  # Google's
        body = body[0]
    if not isinstance(body, dict):
        return "", []
    error = body.get("error", body)
    if isinstance(error, str):  # Ollama's
        return error, []
    if not isinstance(error, dict):
        return "", []
    details = error.get("details")
    codes = [
        *([details.get("error_code")] if isinstance(details, dict) else []),
        *(error.get(name) for name in ("code", "type", "status")),
    ]
    told = error.get("message", error.get("detail", ""))
    if not isinstance(told, str):
        told = json.dumps(told)
    return told, [str(code).lower() for code in codes if isinstance(code, str | int) and code]


def _status_in(words: list[str]) -> int:
    return next((int(word) for word in words if re.fullmatch(r"[1-5]\d\d", word)), 0)


def _json(body: bytes) -> Json:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
