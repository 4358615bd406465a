"""Replay: the recorded inputs of a log, fed to the real core in recorded order.

Every append of a log is either one fact that somebody else stored alone, or an outcome with all
that followed from it, stored by the owner. So a log falls apart without a mark between appends: at
an input the core is asked what follows, and that must be what is stored, byte for byte; a decision
that stands first in its append can only stem from a call that was made ready, or from waking up.
`why` tells what a decision rests on; here it is only looked at whether it is made again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import zip_longest
from typing import TypeGuard, get_args

import msgspec

from agent_runtime.errors import IllegalEvent
from agent_runtime.loop import codec
from agent_runtime.loop import events as e
from agent_runtime.loop.actions import PrepareCall, next_actions
from agent_runtime.loop.decide import advance
from agent_runtime.loop.evolve import evolve
from agent_runtime.loop.outcomes import CallPrepared, Outcome, Woken
from agent_runtime.loop.phases import LOOP_VERSION
from agent_runtime.loop.state import State
from agent_runtime.types import Effect, Json, Row, TaskId

OUTSIDE: frozenset[type[e.Event]] = frozenset(get_args(e.OutsideFact))


@dataclass(frozen=True, slots=True)
class Told:
    """An event as its row has it: type and fields."""

    type: str
    fields: dict[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first event that would be decided differently now."""

    seq: int
    cause: int
    """Number of the event that begins the append: what the core was asked about."""
    stored: Told | None
    """None: the core decides more than is stored."""
    decided: Told | None
    """None: the core decides less, or nothing."""
    words: str
    """In words, naming the fields that differ."""

    def differing(self) -> list[tuple[str, Json, Json]]:
        """Fields of two events of one type that are not the same: name, stored, decided."""
        if self.stored is None or self.decided is None or self.stored.type != self.decided.type:
            return []
        names = dict.fromkeys((*self.stored.fields, *self.decided.fields))
        pairs = ((n, self.stored.fields.get(n), self.decided.fields.get(n)) for n in names)
        return [pair for pair in pairs if pair[1] != pair[2]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What was compared, up to the end of the log or to the first difference."""

    task_id: str
    events: int
    inputs: int
    decisions: int
    """Decisions that were made again and are the same."""
    appends: tuple[tuple[int, int], ...]
    """First and last number of every append that was gone through."""
    loop_version: int
    """The one that the task was submitted to; `phases.LOOP_VERSION` is ours."""
    difference: Difference | None = None

    @property
    def ok(self) -> bool:
        return self.difference is None


def replay(rows: Sequence[Row]) -> Replayed:
    """Go through a whole log whose chain of hashes is known to hold.

    Raises:
        CorruptLog: a row is no event that this version knows.
    """
    events = [codec.decode(row) for row in rows]
    task_id = TaskId(rows[0].task_id) if rows else TaskId("")
    state, at = State(task_id=task_id), 0
    appends: list[tuple[int, int]] = []
    difference: Difference | None = None
    first = events[0] if events else None
    version = first.loop_version if isinstance(first, e.TaskSubmitted) else LOOP_VERSION
    same_form = version == LOOP_VERSION
    while at < len(rows) and difference is None:
        try:
            state, count, difference = _append(state, events[at], rows, at, same_form=same_form)
        except (IllegalEvent, AssertionError, LookupError, TypeError, ValueError) as error:
            difference = _refused(rows[at], error)
        if difference is None:
            appends.append((at + 1, at + count))
            at += count
    same = appends[-1][1] if appends else 0
    inputs = sum(isinstance(event, e.InputEvent) for event in events[:same])
    return Replayed(
        task_id=task_id,
        events=len(rows),
        inputs=inputs,
        decisions=same - inputs,
        appends=tuple(appends),
        loop_version=version,
        difference=difference,
    )


def _append(
    state: State, first: e.AnyEvent, rows: Sequence[Row], at: int, *, same_form: bool
) -> tuple[State, int, Difference | None]:
    """One append, which begins at `rows[at]`: the state after it, its events, how it differs."""
    at_us = rows[at].at_us
    if is_outside(first):
        return evolve(state, first, at_us), 1, None
    difference: Difference | None = None
    for outcome in outcomes_of(state, first, at_us):
        decided, after = advance(state, outcome, at_us)
        found = _compare(decided, rows, at, same_form=same_form)
        if found is None:
            return after, len(decided), None
        difference = difference or found
    return state, 0, difference or _difference(at + 1, rows[at], None)


def is_outside(event: e.AnyEvent) -> TypeGuard[e.OutsideFact]:
    """Is it appended alone, by somebody who does not drive? What follows from it comes later."""
    if isinstance(event, e.ModelReplied):
        return bool(event.by)  # a connected client's own answer
    return type(event) in OUTSIDE


def outcomes_of(state: State, event: e.AnyEvent, at_us: int) -> Iterator[Outcome]:
    """What can have made `event` the first of its append; the likeliest comes first.

    All but one field of a prepared call can be read from the log: the effect of one that a person
    was asked about, which decides nothing until it is prepared again.
    """
    if isinstance(event, e.InputEvent):
        yield event
        return
    if isinstance(event, e.CallIntended | e.ApprovalRequested) and (
        not isinstance(event, e.ApprovalRequested) or event.subject == "call"
    ):
        yield from _prepared(state, event)
        return
    yield Woken()
    if isinstance(event, e.BudgetExhausted):
        # A call that was ready did not fit any more; whichever it was, the same follows.
        for action in _preparable(state):
            yield CallPrepared(
                step_id=action.step_id,
                call_id=action.call_id,
                tool="",
                arguments={},
                effect=Effect.READ,
            )


def _prepared(state: State, event: e.CallIntended | e.ApprovalRequested) -> Iterator[CallPrepared]:
    told = {f.name: getattr(event, f.name) for f in fields(CallPrepared) if hasattr(event, f.name)}
    if "call_id" in told:
        yield CallPrepared(**told)
        return
    for action in _preparable(state):
        if action.step_id == event.step_id:
            yield CallPrepared(**{"call_id": action.call_id, "effect": Effect.READ, **told})


def _preparable(state: State) -> list[PrepareCall]:
    """Calls that may have been prepared up to now: a slow preparation can outlive its order."""
    asked = [action for action in next_actions(state) if isinstance(action, PrepareCall)]
    known = {action.call_id for action in asked}
    late = [
        PrepareCall(step.spec.id, step.call_id)
        for step in state.steps.values()
        if not step.ended and step.tool is not None and step.call_id not in known
    ]
    return asked + late


def _compare(
    decided: Sequence[e.AnyEvent], rows: Sequence[Row], at: int, *, same_form: bool
) -> Difference | None:
    first = rows[at]
    made = codec.encode(
        TaskId(first.task_id), decided, after=at, head=first.prev_hash, at_us=first.at_us
    )
    stored = rows[at : at + max(len(made), 1)]
    if made == list(stored):
        return None
    for now, then in zip_longest(made, stored):
        if now is None or then is None or not _same(now, then, same_form=same_form):
            return _difference(first.seq, then, now)
    return None  # only the stored form is an older one


def _same(now: Row, then: Row, *, same_form: bool) -> bool:
    """One event, byte for byte; where the stored form is an older one, field for field.

    Another version of the loop may not have known a field that has a default now.
    """
    if (now.type, now.at_us) != (then.type, then.at_us):
        return False
    if now.data == then.data:
        return True
    if same_form and now.schema == then.schema:
        return False
    return codec.decode(now) == codec.decode(then)


def _difference(cause: int, then: Row | None, now: Row | None) -> Difference:
    stored, decided = _told(then), _told(now)
    if stored is None:
        assert decided is not None
        words = f"{decided.type} would follow, and the log ends"
    elif decided is None:
        words = f"{stored.type} would not be decided"
    elif stored.type != decided.type:
        words = f"{decided.type} would be decided, and {stored.type} is stored"
    else:
        assert then is not None and now is not None
        words = _fields_in_words(stored, decided) or (
            "it is stored at another time than what it follows from"
            if then.at_us != now.at_us
            else "the fields are the same, and their bytes are not"
        )
    seq = then.seq if then is not None else now.seq if now is not None else cause
    return Difference(seq=seq, cause=cause, stored=stored, decided=decided, words=words)


def _fields_in_words(stored: Told, decided: Told) -> str:
    pairs = Difference(seq=0, cause=0, stored=stored, decided=decided, words="").differing()
    said = (f"{name} is {_short(then)}, would be {_short(now)}" for name, then, now in pairs)
    return "; ".join(said)


def _short(value: Json, chars_max: int = 120) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= chars_max else f"{text[: chars_max - 1]}…"


def _told(row: Row | None) -> Told | None:
    return None if row is None else Told(row.type, msgspec.json.decode(row.data))


def _refused(row: Row, error: Exception) -> Difference:
    return Difference(
        seq=row.seq,
        cause=row.seq,
        stored=_told(row),
        decided=None,
        words=f"it cannot happen here any more: {error or type(error).__name__}",
    )
