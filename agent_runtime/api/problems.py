"""What went wrong, as RFC 9457 has it: `application/problem+json`, faults by JSON pointer."""

from __future__ import annotations

from typing import Final

import msgspec

from agent_runtime.api.answers import Answer
from agent_runtime.errors import (
    AgentRuntimeError,
    AllowanceSpent,
    ConfigError,
    Conflict,
    CorruptLog,
    DeadlineExceeded,
    DiskFull,
    Forbidden,
    IdempotencyMismatch,
    MalformedJson,
    MovedOn,
    NotFound,
    Overloaded,
    SandboxUnavailable,
    StoreBroken,
    StoreUnavailable,
    UsageError,
    WorkspaceError,
)


class ProblemFault(msgspec.Struct, frozen=True):
    """One thing that is wrong with a request's body or parameters."""

    pointer: str
    """JSON pointer (RFC 6901) into the body; empty: the body as a whole."""
    detail: str


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error. `type` is stable and for programs, `detail` is for people."""

    type: str
    title: str
    status: int
    detail: str = ""
    errors: list[ProblemFault] = []


RETRY_SECONDS: Final = 1
"""After which a request that met a busy or full store may be repeated."""

_KINDS: Final[tuple[tuple[type[AgentRuntimeError], int, str, str], ...]] = (
    (MalformedJson, 400, "malformed-json", "The body is no JSON"),
    (IdempotencyMismatch, 422, "idempotency-mismatch", "The key was used for another request"),
    (UsageError, 422, "invalid-input", "The input is not valid"),
    (Forbidden, 403, "forbidden", "This is not allowed"),
    (NotFound, 404, "not-found", "There is no such thing"),
    (MovedOn, 412, "moved-on", "The task has moved on"),
    (Conflict, 409, "conflict", "The state does not allow this"),
    (Overloaded, 503, "overloaded", "There is too much to do just now"),
    (AllowanceSpent, 429, "allowance-spent", "The day's allowance is used up"),
    (DiskFull, 503, "disk-full", "There is no room left"),
    (StoreUnavailable, 503, "store-unavailable", "The store does not answer"),
    (StoreBroken, 503, "store-broken", "The store is damaged"),
    (SandboxUnavailable, 503, "sandbox-unavailable", "No sandbox works here"),
    (DeadlineExceeded, 504, "time-out", "It took too long"),
    (ConfigError, 422, "not-configured", "The installation cannot do this"),
    (WorkspaceError, 409, "workspace", "The workspace cannot be used"),
    (CorruptLog, 500, "corrupt-log", "The log is not what was written"),
)
"""The first that fits decides; subclasses stand before their bases."""


def problem(
    status: int,
    slug: str,
    title: str,
    detail: str = "",
    *,
    errors: list[ProblemFault] | None = None,
    headers: tuple[tuple[bytes, bytes], ...] = (),
) -> Answer:
    """A problem as an answer."""
    body = Problem(
        type=f"/problems/{slug}", title=title, status=status, detail=detail, errors=errors or []
    )
    return Answer(status, msgspec.json.encode(body), headers, b"application/problem+json")


def problem_of(error: AgentRuntimeError) -> Answer:
    """What an operating error is to an HTTP caller."""
    faults = [ProblemFault(f.pointer, f.text) for f in getattr(error, "faults", ())]
    kinds = (
        (status, slug, title) for kind, status, slug, title in _KINDS if isinstance(error, kind)
    )
    status, slug, title = next(kinds, (500, "internal", "The runtime failed"))
    seconds = getattr(error, "retry_after_seconds", RETRY_SECONDS if status == 503 else None)
    headers = () if seconds is None else ((b"retry-after", str(max(1, round(seconds))).encode()),)
    return problem(status, slug, title, str(error), errors=faults, headers=headers)
