"""Taking a task in: its first event, durable before anybody hears its id."""

from __future__ import annotations

import secrets

from agent_runtime.loop import codec
from agent_runtime.loop import events as e
from agent_runtime.loop.evolve import evolve
from agent_runtime.loop.journal import summarize
from agent_runtime.loop.phases import LOOP_VERSION
from agent_runtime.loop.state import State
from agent_runtime.ports import Clock, Store
from agent_runtime.types import TaskId, TaskSpec


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
    at_us = clock.now_us()
    new_id = task_id or new_task_id(at_us)
    event = e.TaskSubmitted(spec=spec, submitted_by=submitted_by, loop_version=LOOP_VERSION)
    state = evolve(State(task_id=new_id), event, at_us)
    rows = codec.encode(new_id, [event], after=0, head=codec.GENESIS, at_us=at_us)
    return await store.create(
        summarize(state, rows[-1].hash), rows, idempotency_key=idempotency_key
    )


def new_task_id(at_us: int) -> TaskId:
    """`task_` and a UUIDv7 (RFC 9562, section 5.7) in hex: sorts by creation."""
    millis = (at_us // 1000) & ((1 << 48) - 1)
    value = millis << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62
    return TaskId(f"task_{value | secrets.randbits(62):032x}")
