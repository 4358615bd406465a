"""Fills a hook's task from a request: `python -m agent_runtime.notices.filling`.

A process of its own for each request, with little memory and CPU time: what the sender put into the
request decides how much an expression makes of it (`{{ 'x' * payload.n }}`). Reads one JSON object
from its standard input, and writes one.
"""

from __future__ import annotations

import sys
from typing import Final

import msgspec

from agent_runtime.plan_templates import read_names, read_template
from agent_runtime.sandboxes.rendering import Expressions, Fault, fill_string, limit
from agent_runtime.types import Json

VARIABLES: Final = ("payload", "headers", "hook")
"""What a hook's expressions can read."""
OUTPUT_BYTES_MAX: Final = 1 << 20
DEPTH_MAX: Final = 50


class Order(msgspec.Struct, frozen=True):
    """What is to be filled, with what."""

    task: dict[str, Json]
    filters: list[str]
    variables: dict[str, Json]


class Filled(msgspec.Struct, frozen=True):
    """The task; None with `fault`, or if a filter was not true: then `refused_by` is that one."""

    task: dict[str, Json] | None = None
    refused_by: str = ""
    fault: str = ""


def faults_of(task: dict[str, Json], filters: list[str]) -> list[tuple[str, str]]:
    """What is wrong with the expressions of a hook, each with its place."""
    faults: list[tuple[str, str]] = []

    def look(value: Json, place: str, depth: int) -> None:
        if depth > DEPTH_MAX:
            faults.append((place, "is nested too deeply"))
            return
        match value:
            case str():
                names = read_names(value)
                # What reads nothing of the request is a template of the task's plan, or none.
                if names.isdisjoint(VARIABLES):
                    return
                if mixed := names - set(VARIABLES):
                    told = f"reads the request and, later, {', '.join(sorted(mixed))}: not both"
                    faults.append((place, told))
                    return
                faults.extend((place, each) for each in read_template(value, VARIABLES)[1])
            case list():
                for at, item in enumerate(value):
                    look(item, f"{place}/{at}", depth + 1)
            case dict():
                for key, item in value.items():
                    look(item, f"{place}/{key}", depth + 1)

    look(task, "/task", 0)
    for at, text in enumerate(filters):
        if "{{" in text or "{%" in text:
            faults.append((f"/filters/{at}", "is an expression by itself, without braces"))
            continue
        faults += [
            (f"/filters/{at}", each) for each in read_template(f"{{{{ {text} }}}}", VARIABLES)[1]
        ]
    return faults


def fill(order: Order) -> Filled:
    """The task of a request."""
    environment = Expressions()
    try:
        for text in order.filters:
            if not fill_string(environment, f"{{{{ {text} }}}}", order.variables):
                return Filled(refused_by=text)
        return Filled(task=_filled(environment, order.task, order.variables, in_plan=False))
    except Fault as fault:
        return Filled(fault=str(fault))


def _filled(
    environment: Expressions, value: Json, variables: dict[str, Json], *, in_plan: bool
) -> Json:
    match value:
        case str() if not read_names(value).isdisjoint(VARIABLES):
            text = fill_string(environment, value, variables)
            return _taken_as_it_is(text) if in_plan else text
        case list():
            return [_filled(environment, item, variables, in_plan=in_plan) for item in value]
        case dict():
            return {
                key: _filled(environment, item, variables, in_plan=in_plan or key == "plan")
                for key, item in value.items()
            }
    return value


def _taken_as_it_is(value: Json) -> Json:
    """A plan's texts are templates: what a sender wrote must not be read as one."""
    match value:
        case str() if any(mark in value for mark in ("{{", "{%", "{#")):
            if "endraw" in value:
                raise Fault("a text of the request holds 'endraw' beside braces")
            return f"{{% raw %}}{value}{{% endraw %}}"
        case list():
            return [_taken_as_it_is(item) for item in value]
        case dict():
            return {key: _taken_as_it_is(item) for key, item in value.items()}
    return value


def main() -> None:
    """One order, one answer."""
    limit()
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    answer = msgspec.json.encode(fill(order))
    if len(answer) > OUTPUT_BYTES_MAX:
        answer = msgspec.json.encode(
            Filled(fault=f"the task has more than {OUTPUT_BYTES_MAX} bytes")
        )
    sys.stdout.buffer.write(answer)


if __name__ == "__main__":
    main()
