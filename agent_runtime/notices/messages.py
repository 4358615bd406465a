"""What is told of an event: whether, under which word, and the message. Pure.

A message is small and keeps its form: receivers fetch what they need more of. Secrets of the task
were taken out of its events before those were stored; what looks like a credential of another kind
is covered here once more.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from agent_runtime.types import Json, Row, TaskSummary

OCCASIONS: Final[Mapping[str, str]] = {
    "submitted": "a task was taken in",
    "waiting": "a task waits for a person or a model",
    "paused": "a task was paused",
    "ended": "a task has ended, however",
    "succeeded": "a task has ended, proven",
    "unverified": "a task has ended, and is not proven",
    "failed": "a task has ended, failed",
    "cancelled": "a task has ended, cancelled",
    "publishing_failed": "the branch of an ended task could not be published",
}
"""Words beside the names of events that can be asked for."""

PING: Final = "ping"
BODY_BYTES_MAX: Final = 16 << 10
TEXT_CHARS_MAX: Final = 500
ITEMS_MAX: Final = 20
DEPTH_MAX: Final = 5

_ENDS: Final = ("succeeded", "unverified", "failed", "cancelled")
_TYPES: Final[Mapping[str, tuple[str, ...]]] = {
    "submitted": ("TaskSubmitted",),
    "waiting": ("ApprovalRequested", "Interrupted"),
    "paused": ("Interrupted",),
    "publishing_failed": ("PublicationEnded",),
    **dict.fromkeys(("ended", *_ENDS), ("TaskEnded",)),
}
_NOT_TOLD: Final = frozenset({"spec", "blocks", "facts", "env", "environment"})
"""Fields that are large, or hold what only the runtime needs."""
_CREDENTIALS: Final = re.compile(
    r"ark_[A-Za-z0-9]+_[A-Za-z0-9_-]{8,}|whsec_[A-Za-z0-9+/=]{8,}"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)|(?i:(?<=bearer )[A-Za-z0-9._~+/=-]{8,})"
)


@dataclass(frozen=True, slots=True)
class Subscription:
    """Who is told, and of what. `types` and `labels` empty: of everything."""

    target: str
    since: int
    types: frozenset[str] = frozenset()
    labels: tuple[tuple[str, str], ...] = ()

    def wants(self, names: Collection[str], labels: Mapping[str, str]) -> bool:
        """Of an event with these names, of a task with these labels?"""
        if self.types and self.types.isdisjoint(names):
            return False
        return all(labels.get(key) == value for key, value in self.labels)


def event_types(subscriptions: Iterable[Subscription]) -> frozenset[str] | None:
    """Types of events that somebody may want; None: every one."""
    found: set[str] = set()
    for each in subscriptions:
        if not each.types:
            return None
        for name in each.types:
            found.update(_TYPES.get(name, (name,)))
    return frozenset(found)


def message_id(task_id: str, seq: int) -> str:
    """The same for an event, whenever and however often it is told."""
    return f"msg_{task_id.removeprefix('task_')}_{seq}"


def names_of(row: Row, data: Mapping[str, Json], summary: TaskSummary) -> list[str]:
    """The event's type, and the occasions that it is; `summary` may be newer than the event."""
    found = [row.type]
    match row.type:
        case "TaskSubmitted":
            found.append("submitted")
        case "ApprovalRequested":
            found.append("waiting")
        case "Interrupted" if data.get("reason") == "nothing_to_do":
            # What it waits for a person for was told when that was asked; this is all the rest.
            if summary.status == "paused":
                found.append("paused")
            elif summary.status == "waiting" and summary.reason in ("brain", "input"):
                found.append("waiting")
        case "TaskEnded":
            found.append("ended")
            if data.get("status") in _ENDS:
                found.append(str(data["status"]))
        case "PublicationEnded" if data.get("ok") is False:
            found.append("publishing_failed")
    return found


def body_of(
    row: Row, names: list[str], data: Mapping[str, Json], summary: TaskSummary, *, at: str,
    link: str,
) -> bytes:  # fmt: skip
    """The message, as JSON. `at` is when the event was stored, `link` where the task is."""
    told: dict[str, Json] = {
        "type": row.type,
        "timestamp": at,
        "occasion": names[-1] if len(names) > 1 else None,
        "task_id": row.task_id,
        "seq": row.seq,
        "status": summary.status,
        "reason": _text(summary.reason),
        "goal": _text(summary.goal),
        "labels": slim(summary.labels),
        "link": link,
        "data": slim({key: value for key, value in data.items() if key not in _NOT_TOLD}),
    }
    body = msgspec.json.encode(told)
    return body if len(body) <= BODY_BYTES_MAX else msgspec.json.encode({**told, "data": None})


def ping_body(webhook_id: str, at: str) -> bytes:
    """What a test sends."""
    told = {"type": PING, "timestamp": at, "data": {"webhook_id": webhook_id}}
    return msgspec.json.encode(told)


def slim(value: Any, depth: int = 0) -> Json:
    """A value with long texts and lists cut, and what is nested deeply left out."""
    match value:
        case str():
            return _text(value)
        case dict() if depth < DEPTH_MAX:
            items = list(value.items())[: 2 * ITEMS_MAX]
            return {_text(key): slim(item, depth + 1) for key, item in items}
        case list() if depth < DEPTH_MAX:
            return [slim(item, depth + 1) for item in value[:ITEMS_MAX]]
        case dict() | list():
            return None
        case _:
            return value


def covered(text: str) -> str:
    """`text`, with what looks like a credential left out."""
    return _CREDENTIALS.sub("[secret]", text)


def _text(text: str) -> str:
    shown = covered(text)
    return shown if len(shown) <= TEXT_CHARS_MAX else f"{shown[: TEXT_CHARS_MAX - 1]}…"
