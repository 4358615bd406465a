"""What the files of the fold share: moving a step, running the clock. Pure; see `evolve`."""

from __future__ import annotations

from typing import Any

import msgspec

from agent_runtime.errors import IllegalEvent
from agent_runtime.loop import events as e
from agent_runtime.loop import phases
from agent_runtime.loop.state import State, Usage
from agent_runtime.types import StepStatus

replace = msgspec.structs.replace
Changes = dict[str, Any]
"""Fields of `State` and their new values."""


def moved(state: State, step_id: str, event: e.Event, to: StepStatus, **changes: Any) -> Changes:
    """Changes of `state` in which one step goes to `to`, checked against the step table."""
    step = state.steps[step_id]
    if to not in phases.STEP_TRANSITIONS[step.status].get(type(event), ()):
        raise IllegalEvent(
            f"{type(event).__name__} cannot lead step {step_id!r} from {step.status} to {to}"
        )
    return {"steps": {**state.steps, step_id: replace(step, status=to, **changes)}}


def clocked(state: State, at_us: int, usage: Usage | None = None) -> Usage:
    """`usage` with the time up to now, where it counts."""
    # Waiting for a person or a client is not running; the gap after a crash is nobody's.
    used = usage or state.usage
    waits = state.approvals or state.asked_client or state.awaits_calls
    if not state.alive or state.paused or (waits and not state.calls):
        return used
    return replace(used, running_us=used.running_us + at_us - state.at_us)
