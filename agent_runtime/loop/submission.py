"""Taking a task in: its first event, durable before anybody hears its id."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from agent_runtime.loop import codec
from agent_runtime.loop import events as e
from agent_runtime.loop.phases import LOOP_VERSION
from agent_runtime.ports.clock import Clock
from agent_runtime.ports.store import Store
from agent_runtime.types import Phase, Row, Status, TaskId, TaskSpec, TaskSummary


class Submitted(msgspec.Struct, frozen=True):
    """A task as it was taken in; `is_new` is false if an idempotency key named an earlier one."""

    summary: TaskSummary
    rows: Sequence[Row]
    idempotency_key: str | None
    is_new: bool = True

    @property
    def task_id(self) -> TaskId:
        return TaskId(self.summary.task_id)


async def submit(
    spec: TaskSpec,
    store: Store,
    clock: Clock,
    *,
    submitted_by: str,
    task_id: TaskId | None = None,
    idempotency_key: str | None = None,
) -> TaskId:
    """Store a new task and return its id; a known `idempotency_key` returns the earlier one's."""
    made = first_event(
        spec, clock.now_us(), submitted_by=submitted_by, task_id=task_id,
        idempotency_key=idempotency_key,
    )  # fmt: skip
    return await store.create(made.summary, made.rows, idempotency_key=idempotency_key)


def first_event(
    spec: TaskSpec,
    at_us: int,
    *,
    submitted_by: str,
    task_id: TaskId | None = None,
    idempotency_key: str | None = None,
) -> Submitted:
    """A task before it is stored: the first row of its log and its projection."""
    new_id = task_id or new_task_id(at_us)
    event = e.TaskSubmitted(spec=spec, submitted_by=submitted_by, loop_version=LOOP_VERSION)
    rows = codec.encode(new_id, [event], after=0, head=codec.GENESIS, at_us=at_us)
    # What `summarize` makes of the folded event, without folding it: every submission pays for it.
    summary = TaskSummary(
        task_id=new_id,
        status=Status.PENDING,
        phase=Phase.IDLE,
        reason="",
        goal=spec.goal,
        seq=1,
        head_hash=rows[0].hash,
        created_at_us=at_us,
        updated_at_us=at_us,
        labels=spec.labels,
        priority=spec.priority,
        repo=spec.workspace.repo if spec.workspace else "",
        submitted_by=submitted_by,
    )
    return Submitted(summary, rows, idempotency_key)


def new_task_id(at_us: int) -> TaskId:
    """`task_` and a UUIDv7 (RFC 9562, section 5.7) in hex: sorts by creation."""
    millis = (at_us // 1000) & ((1 << 48) - 1)
    if not _pool:
        _pool.extend(_random_ends(_ENDS))
    return TaskId(f"task_{millis:012x}7{_pool.pop()}")


_ENDS: Final = 256
_pool: list[str] = []
"""What follows a UUIDv7's version.

Asking the kernel each time gives up the interpreter lock each time, and getting it back took most
of a submission under load (200 us).
"""
os.register_at_fork(after_in_child=_pool.clear)  # a fork must not hand out the same again


_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 0b11] for digit in "0123456789abcdef"}


def _random_ends(count: int) -> Iterator[str]:
    """12 random bits, the variant 0b10, 62 random bits: 19 hex digits each."""
    digits = os.urandom(10 * count).hex()
    for at in range(0, len(digits), 20):
        yield f"{digits[at : at + 3]}{_VARIANT[digits[at + 3]]}{digits[at + 4 : at + 19]}"
