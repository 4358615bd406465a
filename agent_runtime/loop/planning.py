"""A model's plan: when one is asked for, what it must look like, and what is made of the answer.

The rest of planning (a given plan, one step, what a continuation goes on with) is in `decide`.
Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

import msgspec

from agent_runtime import schema
from agent_runtime.types import Check, Json, Objective, StepSpec, TaskSpec

SMALL_GOAL_CHARS = 800
"""A goal of that length, with its objectives given, needs no plan: one step does."""
STEPS_MAX = 20
OBJECTIVES_MAX = 10
DEPTH_MAX = 100
"""Of brackets in brackets: how deep JSON can be read hangs on the stack, and a fold must not."""

_ID: Final = {"type": "string", "minLength": 1, "maxLength": 40}
SCHEMA: Final[Mapping[str, Json]] = {
    "type": "object",
    "properties": {
        "requirements": {"type": "array", "items": {"type": "string"}},
        "steps": {
            "type": "array",
            "minItems": 1,
            "maxItems": STEPS_MAX,
            "items": {
                "type": "object",
                "properties": {
                    "id": _ID,
                    "goal": {"type": "string", "minLength": 1},
                    "needs": {"type": "array", "items": {"type": "string"}},
                },
                "required": ["id", "goal", "needs"],
                "additionalProperties": False,
            },
        },
        "objectives": {
            "type": "array",
            "maxItems": OBJECTIVES_MAX,
            "items": {
                "type": "object",
                "properties": {"id": _ID, "command": {"type": "string", "minLength": 1}},
                "required": ["id", "command"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["requirements", "steps", "objectives"],
    "additionalProperties": False,
}
"""Of the answer; every key is required, as strict structured outputs want it."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A usable plan."""

    steps: tuple[StepSpec, ...]
    objectives: tuple[Objective, ...] = ()
    requirements: tuple[str, ...] = ()


def is_small(task: TaskSpec) -> bool:
    """Does one step do? The checks are given, and the goal is short."""
    return bool(task.objectives) and len(task.goal) <= SMALL_GOAL_CHARS


def proposal(text: str, task: TaskSpec, taken: Collection[str]) -> Proposal | list[str]:
    """The plan in a model's answer, or what is wrong with it, for the model to mend.

    `taken` are ids of earlier steps. Given objectives are never replaced by a model's.
    """
    found = _object_in(text)
    if _depth(found) > DEPTH_MAX:
        return ["the answer is nested too deeply: a plan is an object with three lists"]
    try:
        said = msgspec.json.decode(found)
    except msgspec.DecodeError as error:
        return [f"the answer is no JSON object: {error}"]
    if problems := schema.check(said, SCHEMA):
        return problems
    steps = [
        StepSpec(id=step["id"], goal=step["goal"], needs=list(step["needs"]))
        for step in said["steps"]
    ]
    if problems := _step_problems(steps, taken):
        return problems
    objectives = [] if task.objectives else said["objectives"]
    names = [objective["id"] for objective in objectives]
    if len(set(names)) != len(names):
        return ["two objectives have the same id"]
    return Proposal(
        tuple(steps),
        tuple(
            Objective(id=o["id"], check=Check(command=o["command"]), origin="self_chosen")
            for o in objectives
        ),
        tuple(said["requirements"]),
    )


def _object_in(text: str) -> str:
    """Models like to put JSON into a fenced block, with a sentence before it."""
    fence = re.search(r"```(?:json)?\s*\{", text)
    start = fence.end() - 1 if fence else text.find("{")
    close = text.rfind("```") if fence else -1
    end = text.rfind("}", 0, close) if close > start else text.rfind("}")
    return text[start : end + 1] if 0 <= start < end else text


def _depth(text: str) -> int:
    """Brackets that are open at once at most, those in texts included."""
    signs = (1 if sign[0] in "[{" else -1 for sign in re.finditer(r"[\[\]{}]", text))
    return max(accumulate(signs), default=0)


def _step_problems(steps: Sequence[StepSpec], taken: Collection[str]) -> list[str]:
    problems = []
    known: set[str] = set()
    for step in steps:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", step.id):
            problems.append(
                f"step id {step.id!r}: ids are letters, digits, `_` and `-`, a letter first"
            )
        if step.id in known:
            problems.append(f"step id {step.id!r} is used twice")
        if step.id in taken:
            problems.append(f"step id {step.id!r} stood in an earlier plan; take another")
        # In order, hence without circles.
        problems.extend(
            f"step {step.id!r} needs {need!r}, which is no step before it"
            for need in step.needs
            if need not in known
        )
        known.add(step.id)
    return problems
