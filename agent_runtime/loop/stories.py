"""What a log tells apart from ids, times and hashes, so that two tasks can be compared.

A story has one thread for each step and one for the task, because steps that run side by side end
in another order every time. What is told of owners (who took the task, when one stopped or died) is
no part of it, nor what such a change of owners leaves behind: a call that is made again, a question
or a request that is repeated. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from agent_runtime.loop import events as e
from agent_runtime.types import Json

TASK = ""
"""The thread of what is about no step."""

_OWNERS = (
    e.LeaseTaken,
    e.Interrupted,
    e.PauseRequested,
    e.ResumeRequested,
    e.TaskChanged,
    e.Forked,
    e.WorkerRestarted,
    e.EgressObserved,
    e.BrainFound,
    # Derived from the steps, and told in another order where they run side by side.
    e.PhaseEntered,
)
_REPEATED = (
    e.ModelCallStarted,
    e.ApprovalRequested,
    e.VerificationStarted,
)
"""Announced again by another owner, word for word."""
_LEFT_OUT = frozenset(
    {
        "approval_id", "digest", "prompt", "output_blob", "patch_blob", "tree", "tree_before",
        "tree_after", "base_tree", "base_commit", "expires_at_us", "seconds", "by",
        "submitted_by", "loop_version", "branch", "cached", "usage", "reserved_tokens",
        "reserved_usd", "commit", "output_tokens_max", "patch_bytes", "output_bytes", "blocks",
    }
)  # fmt: skip
"""Fields of an event that are an id, a time, a hash, or follow from one."""
_LEFT_OUT_WITHIN = frozenset({"output_blob", "blob", "ids_sha256", "sha256"})
"""The same, deeper in it."""
_OF_THE_MACHINE = {"WorkspaceOpened": frozenset({"path", "limits", "sandbox"})}
_SAID = frozenset({"output", "message", "reason", "question", "notes", "problems", "left_out"})
"""Texts that tools and the runtime print: they tell times and hashes, too."""


@dataclass(frozen=True, slots=True)
class Told:
    """One event of a story, and its number in the log."""

    seq: int
    type: str
    fields: Mapping[str, Json]

    def same(self, other: Told) -> bool:
        return (self.type, self.fields) == (other.type, other.fields)


@dataclass(frozen=True, slots=True)
class Parting:
    """Where two threads part: what each tells that the other does not; None: it has ended."""

    thread: str
    one: Told | None
    other: Told | None

    @property
    def at(self) -> int:
        """A number to sort by: the earliest of both."""
        return min(told.seq for told in (self.one, self.other) if told is not None)


def story(events: Sequence[e.AnyEvent]) -> dict[str, list[Told]]:
    """The threads of a log, each in its order."""
    threads: dict[str, list[Told]] = {}
    steps: dict[str, str] = {}
    for seq, event in enumerate(events, 1):
        if isinstance(event, e.CallIntended):
            steps[event.call_id] = event.step_id
        if isinstance(event, _OWNERS):
            continue
        if isinstance(event, e.CallResolved) and event.resolution == "rerun":
            continue
        told = Told(seq, type(event).__name__, _fields(event))
        thread = threads.setdefault(_thread(event, steps), [])
        if isinstance(event, _REPEATED) and thread and told.same(thread[-1]):
            continue
        thread.append(told)
    return threads


def partings(one: Sequence[e.AnyEvent], other: Sequence[e.AnyEvent]) -> list[Parting]:
    """Where each thread parts, the earliest first; empty: they tell the same."""
    left, right = story(one), story(other)
    found = []
    for thread in dict.fromkeys((*left, *right)):
        mine, theirs = left.get(thread, []), right.get(thread, [])
        for index in range(max(len(mine), len(theirs))):
            a = mine[index] if index < len(mine) else None
            b = theirs[index] if index < len(theirs) else None
            if a is None or b is None or not a.same(b):
                found.append(Parting(thread, a, b))
                break
    return sorted(found, key=lambda parting: parting.at)


def _thread(event: e.AnyEvent, steps: Mapping[str, str]) -> str:
    call_id = getattr(event, "call_id", "")
    return str(getattr(event, "step_id", "")) or steps.get(call_id, TASK)


def _fields(event: e.AnyEvent) -> dict[str, Json]:
    out = _LEFT_OUT | _OF_THE_MACHINE.get(type(event).__name__, frozenset())
    fields = msgspec.to_builtins(event)
    kept = {name: _plain(value, name) for name, value in fields.items() if name not in out}
    if isinstance(event, e.TimerFired):
        kept["timer"] = _NUMBER.sub("", event.timer)
    if isinstance(event, e.BudgetExhausted) and event.limit == "seconds":
        del kept["used"]
    return kept


def _plain(value: Json, name: str) -> Json:
    match value:
        case str():
            return text_of(value) if name in _SAID else _TASK_ID.sub("<task>", value)
        case dict():
            return {k: _plain(v, k) for k, v in value.items() if k not in _LEFT_OUT_WITHIN}
        case list() | tuple():
            return [_plain(item, name) for item in value]
        case _:
            return value


def text_of(text: str) -> str:
    """A text without ids, times and hashes."""
    for pattern, instead in _MODULO:
        text = pattern.sub(instead, text)
    return text


_NUMBER = re.compile(r":a?\d+$")
"""Of the event that began to wait, or of the approval."""
_TASK_ID = re.compile(r"\btask_[0-9a-z]+\b")
_MODULO = (
    (_TASK_ID, "<task>"),
    (re.compile(r"\b\d+(?:\.\d+)?\s?(?:ms|s|seconds?|minutes?)\b"), "<time>"),
    (re.compile(r"(limits\.seconds is [^,]*, used) [\d.]+"), r"\1 <time>"),
    (re.compile(r"\b0x[0-9a-f]+\b"), "<address>"),
    (re.compile(r"\b[0-9a-f]{12,64}\b"), "<hash>"),
)
