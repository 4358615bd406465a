"""Two tasks side by side: where their stories part, plans, calls, files, cost, verification.

Pure: what lies in the workspaces is handed in. Everything is told modulo ids, times and hashes (see
`loop.stories`), so that a fork that changed nothing is the same as its parent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from agent_runtime.loop import events as e
from agent_runtime.loop.state import State, Usage, status_of
from agent_runtime.loop.stories import Told, partings, text_of
from agent_runtime.types import Json, StepSpec

OUTPUT_CHARS = 300


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two tasks."""

    task_id: str
    status: str
    reason: str
    events: int
    parent: str | None = None
    at: int | None = None
    """Of a fork: the last event that it has in common with `parent`."""
    replaced: list[str] = []
    cost: dict[str, float]
    """steps, tokens, usd, seconds, of all its runs."""
    grade: str | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One event, without what differs in any two tasks."""

    seq: int
    type: str
    data: dict[str, Json]


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """Where a step, or the task as a whole (empty), goes another way; None: it has ended."""

    step: str
    one: Event | None
    other: Event | None


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """What differs in something that has a name: a step of the plan, a call, a check, a file.

    A side is None where there is no such thing; `fields` are those that are not the same.
    """

    name: str
    one: dict[str, Json] | None
    other: dict[str, Json] | None
    fields: list[str]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """How many things of one kind are the same, and those that are not."""

    same: int = 0
    differ: list[Pair] = []
    note: str = ""
    """Why they could not be compared; empty if they could."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What `diff TASK TASK` tells. `same`: nothing differs but ids, times, hashes and cost."""

    same: bool
    one: Side
    other: Side
    parts: list[Parts]
    """The earliest first."""
    plan: Part
    calls: Part
    files: Part
    checks: Part


Files = Mapping[str, str]
"""Path -> a hash of its content, or a word, of each file that a task changed."""


def compare(
    one: tuple[State, Sequence[e.AnyEvent]],
    other: tuple[State, Sequence[e.AnyEvent]],
    files: tuple[Files, Files] | str,
) -> Comparison:
    """Compare two folded logs, and the files that each has changed (or why that is not known)."""
    (left, left_events), (right, right_events) = one, other
    parts = [
        Parts(step=p.thread, one=_event(p.one), other=_event(p.other))
        for p in partings(left_events, right_events)
    ]
    plan = _part(_plan(left_events), _plan(right_events))
    calls = _part(_calls(left_events), _calls(right_events))
    checks = _part(_checks(left), _checks(right))
    if isinstance(files, str):
        changed = Part(note=files)
    else:
        changed = _part(*map(_files, files))
    found = (plan, calls, checks, changed)
    return Comparison(
        same=not parts and not any(part.differ or part.note for part in found),
        one=_side(left),
        other=_side(right),
        parts=parts,
        plan=plan,
        calls=calls,
        files=changed,
        checks=checks,
    )


def _side(state: State) -> Side:
    status, reason = status_of(state)
    fork, found = state.forked, state.verification
    return Side(
        task_id=state.task_id,
        status=status,
        reason=reason,
        events=state.seq,
        parent=fork.parent if fork else None,
        at=fork.at if fork else None,
        replaced=list(fork.replaced) if fork else [],
        cost=_cost(state.total),
        grade=(found.grade or None) if found else None,
    )


def _cost(usage: Usage) -> dict[str, float]:
    return {
        "steps": usage.steps,
        "tokens": usage.tokens,
        "usd": round(usage.usd, 6),
        "seconds": round(usage.running_us / 1e6, 3),
    }


def _event(told: Told | None) -> Event | None:
    return None if told is None else Event(seq=told.seq, type=told.type, data=dict(told.fields))


Named = Mapping[str, dict[str, Json]]


def _part(one: Named, other: Named) -> Part:
    differ = []
    for name in dict.fromkeys((*one, *other)):
        mine, theirs = one.get(name), other.get(name)
        if mine == theirs:
            continue
        fields = []
        if mine is not None and theirs is not None:
            fields = [key for key in mine if mine[key] != theirs.get(key)]
        differ.append(Pair(name=name, one=mine, other=theirs, fields=fields))
    return Part(same=len(one.keys() | other.keys()) - len(differ), differ=differ)


def _plan(events: Sequence[e.AnyEvent]) -> dict[str, dict[str, Json]]:
    """Every step that was ever planned, as it was planned last."""
    steps: dict[str, StepSpec] = {}
    for event in events:
        if isinstance(event, e.PlanAdopted):
            steps |= {step.id: step for step in event.steps}
    return {step_id: msgspec.to_builtins(step) for step_id, step in steps.items()}


def _calls(events: Sequence[e.AnyEvent]) -> dict[str, dict[str, Json]]:
    """Every call by its id, with what it was to do and how it ended."""
    calls: dict[str, dict[str, Json]] = {}
    for event in events:
        match event:
            case e.CallIntended():
                calls[event.call_id] = {
                    "tool": event.tool,
                    "arguments": event.arguments,
                    "result": "none",
                    "exit": None,
                    "output": "",
                    "changed": [],
                }
            case e.CallReturned() if event.call_id in calls:
                calls[event.call_id] |= {
                    "result": "ok" if event.ok else event.kind or "failed",
                    "exit": event.exit,
                    "output": text_of(event.output)[:OUTPUT_CHARS],
                    "changed": event.changed,
                }
            case e.CallResolved() if event.call_id in calls and event.resolution != "rerun":
                calls[event.call_id] |= {
                    "result": event.resolution,
                    "output": text_of(event.message)[:OUTPUT_CHARS],
                }
            case _:
                pass
    return calls


def _checks(state: State) -> dict[str, dict[str, Json]]:
    if state.verification is None:
        return {}
    return {
        check.id: {
            "command": check.command,
            "ok": check.ok,
            "exit": check.exit,
            "passed": check.passed,
            "reason": text_of(check.reason),
        }
        for check in state.verification.checks
    }


def _files(changed: Files) -> dict[str, dict[str, Json]]:
    return {path: {"content": content} for path, content in changed.items()}
