"""Taking a task in: its first event, durable before anybody hears its id."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agent_runtime.loop import codec
from agent_runtime.loop import events as e
from agent_runtime.loop.phases import LOOP_VERSION
from agent_runtime.ports.clock import Clock
from agent_runtime.ports.store import Store
from agent_runtime.types import Phase, Row, Status, TaskId, TaskSpec, TaskSummary


@dataclass(frozen=True, slots=True)
class Submitted:
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
    value = millis << 80 | 0x7 << 76 | 0b10 << 62
    bits = int.from_bytes(_random(10), "big")  # 74 of them are used
    value |= (bits >> 62 & 0xFFF) << 64 | bits & ((1 << 62) - 1)
    return TaskId(f"task_{value:032x}")


_RANDOM_BYTES: Final = 2560
_pool = bytearray()
os.register_at_fork(after_in_child=_pool.clear)  # a fork must not hand out the same again


def _random(count: int) -> bytes:
    """Random bytes from a pool.

    Asking the kernel each time gives up the interpreter lock each time, and getting it back took
    most of a submission under load (200 us).
    """
    if len(_pool) < count:
        _pool[:] = os.urandom(_RANDOM_BYTES)
    taken = bytes(_pool[-count:])
    del _pool[-count:]
    return taken
