"""One kept call: what was called by whom, how it stands, and how it goes on. Pure.

A call is `working`, or `asking` somebody something, until it has ended; the first end counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final, Literal

import msgspec
from msgspec.structs import replace

from agent_runtime.types import Json

State = Literal["working", "asking", "completed", "failed", "cancelled"]

RUNS_MAX: Final = 20
"""A call that ends the process each time it runs is not run for ever."""
GRACE_MS: Final = 3_600_000
"""So long a result is there at least, also of a call that took longer than it was to be kept."""

Question = tuple[str, dict[str, Json]]
"""Method and parameters of what is asked."""


class Asker(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who called, in which words, and what their client can be asked."""

    subject: str
    how: str
    scopes: tuple[str, ...] = ()
    key_id: str = ""
    client: str = ""
    can: tuple[str, ...] = ()
    query: dict[str, str] = {}
    meta: dict[str, Json] = {}


class KeptCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A call of `tool` of `server`. It belongs to `caller`; to others it does not exist."""

    call_id: str
    server: str
    caller: str
    tool: str
    asker: Asker
    arguments: dict[str, Json] = {}
    """Empty once it has ended: nobody needs them any more, and they may be private."""
    arguments_hash: str
    """Of the tool and its arguments; see `hash_of`."""
    created_at_us: int
    updated_at_us: int
    ttl_ms: int
    """From its creation; it may be forgotten after that."""
    state: State = "working"
    key: str = ""
    """Idempotency key: unique with server and caller. Empty: the call has none."""
    repeatable: bool = False
    """May it run again after the process was killed?"""
    runs: int = 1
    questions: dict[str, Question] = {}
    """Not answered yet, by name. One that is `working` may ask them again, when it comes there."""
    answers: dict[str, dict[str, Json]] = {}
    message: str = ""
    result: dict[str, Json] | None = None
    error: dict[str, Json] | None = None
    """`code`, `message`, maybe `data`: of a call that failed."""

    @property
    def is_open(self) -> bool:
        return self.state in ("working", "asking")

    @property
    def expires_at_us(self) -> int:
        """When it may be forgotten; 0: not while it is open."""
        return 0 if self.is_open else self.created_at_us + self.ttl_ms * 1000


def hash_of(tool: str, arguments: Mapping[str, Json]) -> str:
    """The same for the same call, however its JSON was written."""
    return hashlib.sha256(msgspec.json.encode([tool, arguments], order="deterministic")).hexdigest()


def ended(
    call: KeptCall,
    state: Literal["completed", "failed", "cancelled"],
    *,
    at_us: int,
    result: dict[str, Json] | None = None,
    error: dict[str, Json] | None = None,
    message: str = "",
) -> KeptCall:
    """The call with its end; as it is if it has one already."""
    if not call.is_open:
        return call
    at_us = max(at_us, call.updated_at_us)
    kept_ms = max(call.ttl_ms, (at_us - call.created_at_us) // 1000 + GRACE_MS)
    return replace(
        call, state=state, updated_at_us=at_us, ttl_ms=kept_ms, result=result, error=error,
        message=message, arguments={}, questions={}, answers={},
    )  # fmt: skip


def asking(call: KeptCall, questions: Mapping[str, Question], *, at_us: int) -> KeptCall:
    """The call waiting for answers; as it is if it has ended.

    If all are known it works: a call that runs again comes by questions of its earlier run. What
    that had asked last may be answered meanwhile.
    """
    if not call.is_open:
        return call
    at_us = max(at_us, call.updated_at_us)
    open_ = {name: each for name, each in questions.items() if name not in call.answers}
    if not open_:
        return (
            call if call.state == "working" else replace(call, state="working", updated_at_us=at_us)
        )
    return replace(call, state="asking", questions=open_, updated_at_us=at_us)


def answered(call: KeptCall, answers: Mapping[str, Mapping[str, Json]], *, at_us: int) -> KeptCall:
    """The call with those answers that it waits for; others change nothing."""
    new = {name: dict(each) for name, each in answers.items() if name in call.questions}
    if not new or not call.is_open:
        return call
    left = {name: each for name, each in call.questions.items() if name not in new}
    return replace(
        call, state=call.state if left else "working", questions=left,
        answers={**call.answers, **new}, updated_at_us=max(at_us, call.updated_at_us),
    )  # fmt: skip


def found_dead(call: KeptCall, *, at_us: int) -> KeptCall:
    """A call whose process has ended: it runs once more where that is safe, else it has failed.

    One that was asking is safe: nothing before a question may have an effect that harms twice.
    """
    if not call.is_open:
        return call
    if call.state == "asking":
        return call
    if not call.repeatable:
        return _lost(call, "the daemon ended while it ran", at_us)
    if call.runs >= RUNS_MAX:
        return _lost(call, f"the daemon has ended {call.runs} times while it ran", at_us)
    return replace(call, runs=call.runs + 1)


def _lost(call: KeptCall, why: str, at_us: int) -> KeptCall:
    message = (
        f"{call.tool}: {why}. Its effect is unknown: it may have happened, in part or as a whole, "
        "or not at all. Look before you call it again."
    )
    error: dict[str, Json] = {"code": -32603, "message": message}
    return ended(call, "failed", at_us=at_us, error=error, message=message)
