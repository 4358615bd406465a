"""Every operating error of the runtime, and what its caller does about it.

A bug is an `assert` or `IllegalEvent`; an operating error is expected and part of a signature. Each
message names the thing, the rule and the value, and says what would have worked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

PublishFault = Literal["failed", "refused", "bad_input", "not_found", "denied", "transient"]
"""Why a step of publishing came to nothing; only `transient` may pass."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with an input: where in the document, and what."""

    path: tuple[str | int, ...]
    text: str

    @property
    def pointer(self) -> str:
        """The place as a JSON pointer (RFC 6901); empty: the document as a whole."""
        parts = (str(part).replace("~", "~0").replace("/", "~1") for part in self.path)
        return "".join(f"/{part}" for part in parts)


class AgentRuntimeError(Exception):
    """Base of all operating errors; `exit_code` is what the command line ends with."""

    exit_code = 1


class UsageError(AgentRuntimeError):
    """The input is wrong (task file, arguments). Nothing was stored; correct it and try again.

    `faults` say where in a document, if that is known.
    """

    exit_code = 2

    def __init__(self, message: str, *, faults: Sequence[Fault] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults)


class Forbidden(AgentRuntimeError):
    """The caller may not do this here; the message names what would allow it."""

    exit_code = 4


class Unauthenticated(Forbidden):
    """The daemon does not know who asks. Nothing was done; give a key that is in force."""


class Unreachable(AgentRuntimeError):
    """The daemon does not answer. Whether what was asked for was done, its log says."""

    exit_code = 7


class TooManyRequests(AgentRuntimeError):
    """More was asked than this key may in this time. Nothing was done; come back later."""

    exit_code = 7


class ConfigError(AgentRuntimeError):
    """The installation or a setting is wrong. Nothing was started; the message says the way out."""

    exit_code = 3


class MalformedJson(UsageError):
    """The text is no JSON at all, or nested deeper than anybody means it."""


class IdempotencyMismatch(UsageError):
    """The idempotency key made a task with another body. Nothing was stored; use a new key."""


class Repeated(AgentRuntimeError):
    """The same was asked for with the same idempotency key before. Nothing was stored again."""


class NotFound(AgentRuntimeError):
    """No such task, blob, tree or tool."""

    exit_code = 5


class Conflict(AgentRuntimeError):
    """Another writer appended first, or the state forbids it. Reload, fold, decide again."""

    exit_code = 6


class MovedOn(Conflict):
    """The task is not where the caller saw it last. Nothing was stored; look, and decide again."""


class LeaseHeld(Conflict):
    """Another live process drives this task. Wait for it, or stop that process."""


class LeaseLost(Conflict):
    """A newer epoch owns the task: stop at once, touch nothing of it any more."""


class StoreUnavailable(AgentRuntimeError):
    """Nothing is known about the write: repeat it with the same `expected` (BUSY, FULL)."""

    exit_code = 7


class Overloaded(AgentRuntimeError):
    """No room for one more task just now. Nothing was stored; try again after those seconds."""

    exit_code = 7

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class AllowanceSpent(AgentRuntimeError):
    """A submitter has used up what is allowed for today (UTC). Nothing was stored.

    `limit` is `tasks`, `tokens` or `usd`; it counts from 0 again at `resets_at_us`.
    """

    exit_code = 6

    def __init__(
        self,
        limit: str,
        *,
        submitted_by: str,
        used: float,
        allowed: float,
        resets_at_us: int,
        now_us: int,
    ) -> None:
        at = datetime.fromtimestamp(resets_at_us / 1e6, UTC).isoformat().replace("+00:00", "Z")
        super().__init__(
            f"{submitted_by!r} has used {used:g} of the {allowed:g} {limit} that are allowed for "
            f"a day: that begins again at {at}"
        )
        self.limit, self.used, self.allowed = limit, used, allowed
        self.resets_at_us = resets_at_us
        self.retry_after_seconds = max(1.0, (resets_at_us - now_us) / 1e6)


class StoreBroken(AgentRuntimeError):
    """The store reports damage (IOERR, CORRUPT) or is from a newer version. End the process."""

    exit_code = 3


class CorruptLog(AgentRuntimeError):
    """A stored event or blob is not what was written; `task_id` and `seq` say where."""

    exit_code = 1

    def __init__(self, message: str, *, task_id: str, seq: int | None = None) -> None:
        super().__init__(message)
        self.task_id = task_id
        self.seq = seq


class SandboxUnavailable(AgentRuntimeError):
    """No sandbox can be started here; the message says what is missing and how to mend it."""

    exit_code = 3


class PreviewFailed(AgentRuntimeError):
    """What a call would change cannot be shown. The person who is asked hears why."""


class WorkerLost(AgentRuntimeError):
    """The sandbox died under a call: there is no result. The effect ledger decides what follows."""


class ResultLost(AgentRuntimeError):
    """Whoever ran a call outside of the sandbox is gone: there is no result, and there will be
    none. The effect ledger decides what follows."""


class DeadlineExceeded(AgentRuntimeError):
    """A call had no result in time; its sandbox is dead. The effect ledger decides what follows."""

    exit_code = 8


class WorkspaceError(AgentRuntimeError):
    """The repository cannot be opened or used as asked; the message names it and the way out."""


class SetupFailed(WorkspaceError):
    """A command of the environment's setup failed; the message has the end of what it printed."""


class DiskFull(StoreUnavailable, WorkspaceError):
    """No room for a working copy, its versions or a result. The task stops; it can be resumed."""


class ApplyConflict(Conflict):
    """The checkout moved and the three-way merge left conflicts; the checkout is as it was."""


class PublishFailed(AgentRuntimeError):
    """A step of publishing came to nothing. Only of kind `transient` it may pass.

    `moved`: the base is another one than was prepared for; prepare again.
    """

    exit_code = 7

    def __init__(
        self,
        message: str,
        *,
        kind: PublishFault,
        retry_after_seconds: float | None = None,
        moved: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.retry_after_seconds = retry_after_seconds
        self.moved = moved


class ToolRefused(AgentRuntimeError):
    """The tool will not do this (outside the workspace, protected file, bad argument).

    It is data for the brain, not an exception through the loop. `paths` names protected files.
    """

    def __init__(self, message: str, *, paths: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.paths = paths


class PluginError(AgentRuntimeError):
    """A plug-in failed to load or start; it is quarantined and the rest goes on."""


class IllegalEvent(AssertionError):
    """The event cannot follow the present state: a bug in `decide`, or a log written by hand."""
