"""The phase machine as a Mermaid diagram and tables, made from `phases` and from nothing else.

`python -m agent_runtime.loop.diagram > docs/phases.md` writes it; a test says when it is stale.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TypeVar

from agent_runtime.loop import events as e
from agent_runtime.loop.phases import EXECUTING, FACTS, STEP_TRANSITIONS, TASK_TRANSITIONS
from agent_runtime.loop.recovery import RULES
from agent_runtime.types import Phase, StepStatus

COMMAND = "python -m agent_runtime.loop.diagram > docs/phases.md"

Word = TypeVar("Word", bound=StrEnum)
Table = Mapping[Phase, Mapping[type[e.Event], frozenset[Phase]]]
StepTable = Mapping[StepStatus, Mapping[type[e.Event], frozenset[StepStatus]]]


def page() -> str:
    """The whole of `docs/phases.md`."""
    return "\n".join(
        [
            "# The phase machine",
            "",
            f"Generated from `agent_runtime/loop/phases.py` by `{COMMAND}`; do not edit.",
            "",
            "A task is `idle` before its first claim and after its terminal event. While its plan",
            "runs, its phase is derived from its steps: the first of " + _listed(_in_order()) + ",",
            "that any live step is in.",
            "",
            "```mermaid",
            *_task_diagram(),
            "```",
            "",
            "## The task: phase, event, phases it may lead to",
            "",
            *_rows(_TASK_HEAD, _task_rows(TASK_TRANSITIONS)),
            "",
            "These are facts, and legal in every phase but `idle`. A fact may move a step, hence",
            "the task between the phases of the running plan; elsewhere it leaves the phase alone:",
            f"{_listed(sorted(kind.__name__ for kind in FACTS))}.",
            "",
            "## A step: state, event, states it may lead to",
            "",
            "```mermaid",
            *_step_diagram(),
            "```",
            "",
            *_rows(_STEP_HEAD, _step_rows(STEP_TRANSITIONS)),
            "",
            "## What error handling does",
            "",
            "In this order: the same way again (below), the step's `alternative`, its `fallback`,",
            "else the task is aborted.",
            "",
            *_rows(("failure", "the same way again"), RULES.items()),
            "",
        ]
    )


_TASK_HEAD = ("phase", "event", "leads to")
_STEP_HEAD = ("state", "event", "leads to")


def _in_order() -> list[str]:
    """The phases of a running plan, the one that wins first."""
    order = (
        Phase.ERROR_HANDLING,
        Phase.TOOLBELT_ACTIVATION,
        Phase.TOOL_TRANSITION_EVALUATION,
        Phase.EXECUTION,
    )
    assert set(order) == EXECUTING
    return [phase.value for phase in order]


def _task_diagram() -> list[str]:
    """The phases of a running plan reach each other on many events: they are drawn as one."""
    edges: dict[tuple[str, str], None] = {}
    for before, row in TASK_TRANSITIONS.items():
        for event, afters in row.items():
            for after in _sorted(afters, Phase):
                inside = before in EXECUTING and after in EXECUTING
                if before is not after and not inside:
                    edges[_from(before, event, after), _to(afters, after)] = None
    lines = ["stateDiagram-v2", "    [*] --> idle", "    state running_plan {"]
    lines += [f"        {phase}" for phase in reversed(_in_order())]
    lines += ["    }"]
    return lines + [f"    {before} --> {after}" for before, after in edges]


def _from(before: Phase, event: type[e.Event], after: Phase) -> str:
    everywhere = all(after in TASK_TRANSITIONS[p].get(event, ()) for p in EXECUTING)
    return "running_plan" if before in EXECUTING and everywhere else before.value


def _to(afters: frozenset[Phase], after: Phase) -> str:
    return "running_plan" if after in EXECUTING and afters >= EXECUTING else after.value


def _step_diagram() -> list[str]:
    lines = ["stateDiagram-v2", "    [*] --> ready"]
    for before, row in STEP_TRANSITIONS.items():
        names: dict[str, list[str]] = {}
        for event, afters in row.items():
            for after in _sorted(afters, StepStatus):
                names.setdefault(after, []).append(event.__name__)
        lines += [
            f"    {before} --> {after}: {', '.join(events)}"
            for after, events in names.items()
            if after != before
        ]
        if not row:
            lines.append(f"    {before} --> [*]")
    return lines


def _task_rows(table: Table) -> Iterable[tuple[str, str, str]]:
    for before, row in table.items():
        for event, afters in row.items():
            yield f"`{before}`", f"`{event.__name__}`", _after(afters)


def _step_rows(table: StepTable) -> Iterable[tuple[str, str, str]]:
    for before, row in table.items():
        for event, afters in row.items():
            yield f"`{before}`", f"`{event.__name__}`", _listed(_sorted(afters, StepStatus))


def _after(afters: frozenset[Phase]) -> str:
    if afters >= EXECUTING:
        rest = _listed(_sorted(afters - EXECUTING, Phase))
        return "any phase of the running plan" + (f", {rest}" if rest else "")
    return _listed(_sorted(afters, Phase))


def _rows(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def _sorted(words: Iterable[Word], kind: type[Word]) -> list[Word]:
    """In the order in which the enumeration has them: a set has none."""
    return [word for word in kind if word in set(words)]


def _listed(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


if __name__ == "__main__":
    sys.stdout.write(page())
