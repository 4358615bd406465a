"""What a daemon refuses, as the error that the runtime itself would raise. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from agent_runtime.client.views import Problem
from agent_runtime.errors import (
    AgentRuntimeError,
    ConfigError,
    Conflict,
    CorruptLog,
    DeadlineExceeded,
    DiskFull,
    Fault,
    Forbidden,
    IdempotencyMismatch,
    MalformedJson,
    MovedOn,
    NotFound,
    Overloaded,
    SandboxUnavailable,
    StoreBroken,
    StoreUnavailable,
    TooManyRequests,
    Unauthenticated,
    Unreachable,
    UsageError,
    WorkspaceError,
)

_NOT_OURS: Final = "not-ours"
_UNKNOWN_PATH: Final = frozenset({404, 405, 501})
"""What another program says to requests that it has never heard of."""

_BY_NAME: Final[Mapping[str, type[AgentRuntimeError]]] = {
    "idempotency-mismatch": IdempotencyMismatch,
    "malformed-json": MalformedJson,
    "forbidden": Forbidden,
    "not-found": NotFound,
    "conflict": Conflict,
    "moved-on": MovedOn,
    "disk-full": DiskFull,
    "store-unavailable": StoreUnavailable,
    "store-broken": StoreBroken,
    "sandbox-unavailable": SandboxUnavailable,
    "time-out": DeadlineExceeded,
    "not-configured": ConfigError,
    "workspace": WorkspaceError,
    _NOT_OURS: Unreachable,
}
"""The last part of a problem's type, where it says more than the status."""

_BY_STATUS: Final[Mapping[int, type[AgentRuntimeError]]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    412: MovedOn,
    429: TooManyRequests,
    502: StoreUnavailable,
    503: StoreUnavailable,
    504: DeadlineExceeded,
}

HOW_TO_SIGN_IN: Final = (
    "give a key: token=, the variable AGENT_RUNTIME_TOKEN, or for a daemon of this machine the "
    "file `token` in its state directory"
)


def problem_in(status: int, body: bytes) -> Problem:
    """The problem in an answer; one is made up where a proxy, or another program that listens at
    the daemon's address, answers in words of its own."""
    try:
        found = msgspec.json.decode(body, type=Problem)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        said = " ".join(body[:200].decode("utf-8", "replace").split())
        who = "what answers at the daemon's address is no agent-runtime, or a proxy before it"
        type_ = _NOT_OURS if status in _UNKNOWN_PATH else "about:blank"
        return Problem(
            type=type_, status=status, title=f"HTTP {status}",
            detail=f"{who} (HTTP {status}): {said}" if said else f"{who} (HTTP {status})",
        )  # fmt: skip
    return msgspec.structs.replace(found, status=status)


def error_of(problem: Problem, retry_after: str | None = None) -> AgentRuntimeError:
    """The runtime's error that a problem stands for; `retry_after` is the header of that name."""
    detail, status = problem.detail or problem.title or f"HTTP {problem.status}", problem.status
    name = problem.type.rpartition("/")[2]
    if name == "corrupt-log":
        return CorruptLog(detail, task_id="")
    if name == "overloaded":
        seconds = float(retry_after) if retry_after and retry_after.isdigit() else 1.0
        return Overloaded(detail, retry_after_seconds=seconds)
    other = UsageError if 400 <= status < 500 else AgentRuntimeError
    kind = _BY_NAME.get(name) or _BY_STATUS.get(status) or other
    if kind is Unauthenticated:
        return Unauthenticated(f"{detail}; {HOW_TO_SIGN_IN}")
    if issubclass(kind, UsageError):
        return kind(detail, faults=[Fault(_path(e.pointer), e.detail) for e in problem.errors])
    return kind(detail)


def _path(pointer: str) -> tuple[str | int, ...]:
    """RFC 6901 backwards. A number may be a key too; nobody here looks."""
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    return tuple(int(part) if part.isascii() and part.isdigit() else part for part in parts)
