"""What must hold for somebody's wish to become a fact of a task's log.

Asked about the very state that the fact is added to, inside of `append_fact`: of two wishes that
come at once, the second is judged with the first in the log.
"""

from __future__ import annotations

from collections.abc import Callable

from agent_runtime.errors import Conflict, IdempotencyMismatch, Repeated
from agent_runtime.forks import key_of
from agent_runtime.loop.state import State
from agent_runtime.types import Once

Only = Callable[[int], None]
"""Raises `MovedOn` for the number of a task's newest event, unless it is one that is meant. Asked
about the very state that a fact is added to: of two with one number, only the first is stored."""


def whatever(seq: int) -> None:
    """Every number is meant."""


def refuse_when_over(state: State) -> None:
    if state.conclusion is not None:
        raise Conflict(
            f"task {state.task_id!r} is over: {state.conclusion.status} ({state.conclusion.reason})"
        )


def refuse_repetition(state: State, by: str, once: Once | None) -> None:
    """Was this asked of the task before?

    Raises:
        Repeated: it was.
        IdempotencyMismatch: something else was, with the same key.
    """
    before = None if once is None else state.asked_once.get(key_of(by, once))
    if once is None or before is None:
        return
    if before != once.sha256:
        raise IdempotencyMismatch(key_used(once, f"of task {state.task_id!r} for something else"))
    raise Repeated(f"this was asked of task {state.task_id!r} before")


def key_used(once: Once, what: str) -> str:
    return (
        f"the idempotency key {once.key!r} was used {what}: use a new key for a new wish, and send "
        "the same body for a repetition"
    )
