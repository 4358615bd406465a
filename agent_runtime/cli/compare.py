"""Two tasks side by side, in words: what `diff TASK OTHER` prints."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from agent_runtime.cli.console import lasted, one_line, short
from agent_runtime.comparison import Comparison, Event, Pair, Part, Parts, Side
from agent_runtime.types import Json

DIFFER_MAX = 20
"""Lines of one kind; `--json` has them all."""
_VALUE_CHARS = 200


def comparison_lines(found: Comparison) -> Iterator[str]:
    """The essentials on some lines; `<` is the first task, `>` the second one."""
    yield f"< {_side(found.one)}"
    yield f"> {_side(found.other)}"
    if found.same:
        yield "the same, but for ids, times and hashes"
    for parts in found.parts[:DIFFER_MAX]:
        where = f"step {parts.step}" if parts.step else "the task"
        yield f"{where} goes another way:"
        yield from _ways(parts)
    yield from _part("plan", "steps", found.plan)
    yield from _part("calls", "calls", found.calls)
    yield from _part("files", "changed files", found.files)
    yield from _part("checks", "checks", found.checks)
    yield f"cost: < {_cost(found.one)}"
    yield f"      > {_cost(found.other)}"


def _side(side: Side) -> str:
    reason = f": {one_line(side.reason)}" if side.reason else ""
    grade = f" ({side.grade})" if side.grade else ""
    fork = ""
    if side.parent is not None:
        other = f", another {', another '.join(side.replaced)}" if side.replaced else ""
        fork = f"; a fork of {short(side.parent)} at event {side.at}{other}"
    return f"{short(side.task_id)} {side.status}{reason}{grade}, {side.events} events{fork}"


def _ways(parts: Parts) -> Iterator[str]:
    one, other = parts.one, parts.other
    fields = None
    if one is not None and other is not None and one.type == other.type:
        names = dict.fromkeys((*one.data, *other.data))
        fields = [n for n in names if one.data.get(n) != other.data.get(n)]
    for sign, event in (("<", one), (">", other)):
        yield f"  {sign} {_event(event, fields)}"


def _event(event: Event | None, fields: list[str] | None) -> str:
    if event is None:
        return "nothing more"
    data = event.data if fields is None else {name: event.data.get(name) for name in fields}
    return f"{event.seq} {event.type} {_value(data)}"


def _part(name: str, things: str, part: Part) -> Iterator[str]:
    if part.note:
        yield f"{name}: {one_line(part.note, _VALUE_CHARS)}"
        return
    if not part.differ:
        if part.same:
            yield f"{name}: the same {part.same} {things}"
        return
    yield f"{name}: {part.same} the same, {len(part.differ)} not"
    for pair in part.differ[:DIFFER_MAX]:
        yield from _pair(pair)
    if len(part.differ) > DIFFER_MAX:
        yield f"  and {len(part.differ) - DIFFER_MAX} more"


def _pair(pair: Pair) -> Iterator[str]:
    name = one_line(pair.name)
    if pair.one is None or pair.other is None:
        sign, there = ("<", pair.one) if pair.other is None else (">", pair.other)
        yield f"  {name}: only {sign} {_value(there)}"
        return
    yield f"  {name}: {', '.join(pair.fields)}"
    for sign, side in (("<", pair.one), (">", pair.other)):
        yield f"    {sign} {_value({field: side.get(field) for field in pair.fields})}"


def _value(value: Json) -> str:
    return one_line(msgspec.json.encode(value).decode(), _VALUE_CHARS)


def _cost(side: Side) -> str:
    cost = side.cost
    thought = f", {cost['tokens']:,.0f} tokens, ${cost['usd']:.4f}" if cost["tokens"] else ""
    return f"{cost['steps']:.0f} calls and turns{thought}, {lasted(cost['seconds'])}"
