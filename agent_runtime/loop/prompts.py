"""The model's conversation as messages: append-only, the prefix never changes (prompt caches).

Wire formats belong to the model adapters; here a message is role and text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent_runtime.types import Json, TaskSpec

Message = Mapping[str, Json]


def opening(spec: TaskSpec) -> Message:
    """The first message: what is wanted, and what decides that it is done."""
    return {"role": "user", "text": f"Goal: {spec.goal}{_checks(spec)}"}


def _checks(spec: TaskSpec) -> str:
    checks = "\n".join(f"- {o.id}: {o.check.command}" for o in spec.objectives)
    return f"\nDone when these pass:\n{checks}" if checks else ""


def reopening(message: str, spec: TaskSpec) -> Message:
    """The ended task goes on: what is wanted now, and what decides from here on."""
    text = "The task goes on, in the same working copy, with every process of it gone."
    if message:
        text += f" Wanted now: {message}"
    return {"role": "user", "text": text + _checks(spec)}


def note(text: str) -> Message:
    """Something the brain must know: a person's message, an unknown effect, a lost worker."""
    return {"role": "user", "text": text}


def reply(text: str, calls: Sequence[tuple[str, Mapping[str, Json]]]) -> Message:
    """What the model said and asked for."""
    return {
        "role": "assistant",
        "text": text,
        "calls": [{"name": name, "arguments": dict(arguments)} for name, arguments in calls],
    }


def tool_result(text: str) -> Message:
    """The observation of one call."""
    return {"role": "tool", "text": text}
