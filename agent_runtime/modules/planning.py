"""The brain's own plan, and how far a task's steps are. Pure; nothing is kept between calls.

`update_plan` takes the whole plan each time and returns it rendered; the log keeps it as the
result of that call, and so a resumed task still has it. The plan that the runtime executes is
another one: that is `StepSpec`, of which `progress` tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from agent_runtime import schema
from agent_runtime.errors import UsageError
from agent_runtime.ports.tools import Tool
from agent_runtime.toolkit import tool
from agent_runtime.types import Effect, Json, StepStatus, ToolCall, ToolResult

STEPS_MAX: Final = 100
"""A longer plan is not one that anybody follows."""


class ItemState(StrEnum):
    """Where one item of a plan stands."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    DONE = "done"
    SKIPPED = "skipped"


MOVES: Final[Mapping[ItemState, frozenset[ItemState]]] = {
    ItemState.PENDING: frozenset({ItemState.IN_PROGRESS, ItemState.SKIPPED}),
    ItemState.IN_PROGRESS: frozenset({ItemState.DONE, ItemState.PENDING, ItemState.SKIPPED}),
    # Work that turned out wrong is taken up again, a skipped item is wanted after all.
    ItemState.DONE: frozenset({ItemState.IN_PROGRESS}),
    ItemState.SKIPPED: frozenset({ItemState.PENDING}),
}
"""What an item may become next; `Plan.move` holds to it."""

ENDED: Final = frozenset({ItemState.DONE, ItemState.SKIPPED})
_MARKS: Final = {
    ItemState.PENDING: "[ ]",
    ItemState.IN_PROGRESS: "[>]",
    ItemState.DONE: "[x]",
    ItemState.SKIPPED: "[-]",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing to do. `needs` are items that must be done or skipped before it begins."""

    id: str
    title: str
    state: ItemState = ItemState.PENDING
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Items in the order in which a person reads them."""

    items: tuple[Item, ...]
    note: str = ""

    def problems(self) -> list[str]:
        """What is wrong with the plan as it stands, one sentence each; empty if nothing is."""
        states = {item.id: item.state for item in self.items}
        found = [
            f"step id {each!r} is used more than once"
            for each in states
            if sum(item.id == each for item in self.items) > 1
        ]
        for item in self.items:
            for need in item.needs:
                if need not in states:
                    guess = schema.nearest(need, states)
                    hint = f"; did you mean {guess!r}?" if guess else ""
                    found.append(f"step {item.id!r} needs {need!r}, which is no step{hint}")
                elif item.state in (ItemState.IN_PROGRESS, ItemState.DONE) and (
                    states[need] not in ENDED
                ):
                    found.append(
                        f"step {item.id!r} is {item.state}, and {need!r}, which it needs, is "
                        f"{states[need]}: it must be done or skipped before"
                    )
        if circle := self._circle():
            found.append(f"steps need each other in a circle: {' -> '.join(circle)}")
        return found

    def move(self, item_id: str, state: ItemState) -> Plan:
        """The plan with one item in another state.

        Raises:
            UsageError: there is no such item, it cannot become that now, or what it needs is open.
        """
        item = next((each for each in self.items if each.id == item_id), None)
        if item is None:
            known = ", ".join(each.id for each in self.items) or "none"
            raise UsageError(f"no step is called {item_id!r} (known: {known})")
        if state not in MOVES[item.state]:
            options = " or ".join(sorted(MOVES[item.state]))
            raise UsageError(
                f"step {item_id!r} is {item.state} and cannot become {state}, only {options}"
            )
        moved = replace(item, state=state)
        plan = replace(self, items=tuple(moved if each is item else each for each in self.items))
        for problem in plan.problems():
            raise UsageError(problem)
        return plan

    def count(self, state: ItemState) -> int:
        """How many items are in a state."""
        return sum(item.state is state for item in self.items)

    def progress(self) -> str:
        """As "3 of 7 steps done, 1 in progress"."""
        return _counted(
            self.count(ItemState.DONE),
            len(self.items),
            {
                "in progress": self.count(ItemState.IN_PROGRESS),
                "skipped": self.count(ItemState.SKIPPED),
            },
        )

    def render(self) -> str:
        """The plan as text, a line an item, the progress first."""
        lines = [self.progress()]
        for item in self.items:
            needs = f" (needs {', '.join(item.needs)})" if item.needs else ""
            lines.append(f"{_MARKS[item.state]} {item.id}: {_line(item.title)}{needs}")
        if self.note:
            lines.append(f"Note: {_line(self.note)}")
        return "\n".join(lines)

    def _circle(self) -> list[str]:
        """The ids of one circle, the first repeated at the end; empty if there is none."""
        needs = {item.id: item.needs for item in self.items}
        cleared: set[str] = set()
        for start in needs:
            # Depth first, without recursion: `path` is where we are, `todo` what is left there.
            path, todo = [start], [list(needs[start])]
            while path:
                if not todo[-1]:
                    cleared.add(path.pop())
                    todo.pop()
                    continue
                each = todo[-1].pop()
                if each in path:
                    return [*path[path.index(each) :], each]
                if each in needs and each not in cleared:
                    path.append(each)
                    todo.append(list(needs[each]))
        return []


def progress(steps: Mapping[str, StepStatus]) -> str:
    """How far a task's own plan is: "3 of 7 steps done, 1 running, 2 failed"."""
    states = list(steps.values())
    busy = (StepStatus.RUNNING, StepStatus.EVALUATING, StepStatus.RECOVERING)
    return _counted(
        states.count(StepStatus.DONE),
        len(states),
        {
            "running": sum(state in busy for state in states),
            "failed": states.count(StepStatus.FAILED),
            "skipped": states.count(StepStatus.SKIPPED),
        },
    )


def _counted(done: int, total: int, others: Mapping[str, int]) -> str:
    if not total:
        return "no steps"
    text = f"{done} of {total} step{'' if total == 1 else 's'} done"
    return ", ".join([text, *(f"{count} {word}" for word, count in others.items() if count)])


def _line(text: str) -> str:
    return " ".join(text.split())


# ---- the tool ------------------------------------------------------------------------------


@tool(
    # It looks at its own arguments and nothing else, so it may run again at any time.
    effect=Effect.READ,
    parameters={
        "steps": {
            "type": "array",
            "minItems": 1,
            "maxItems": STEPS_MAX,
            "description": "All of them, each time.",
            "items": {
                "type": "object",
                "properties": {
                    "id": {"type": "string", "minLength": 1, "maxLength": 64},
                    "title": {"type": "string", "minLength": 1, "maxLength": 500},
                    "state": {"type": "string", "enum": [state.value for state in ItemState]},
                    "needs": {
                        "type": "array",
                        "items": {"type": "string"},
                        "description": "Ids of steps to end before.",
                    },
                },
                "required": ["id", "title", "state"],
                "additionalProperties": False,
            },
        },
        "note": {"type": "string", "description": "Why it changed."},
    },
    required=("steps",),
)
async def update_plan(call: ToolCall) -> ToolResult:
    """Write down your plan, at the start and whenever a step begins or ends."""
    plan = plan_of(call.arguments)
    if problems := plan.problems():
        return ToolResult(ok=False, kind="bad_input", output="update_plan: " + "; ".join(problems))
    counts = {state.value: plan.count(state) for state in ItemState}
    return ToolResult(ok=True, output=plan.render(), data={"total": len(plan.items), **counts})


def plan_of(arguments: Mapping[str, Json]) -> Plan:
    """The plan in the arguments of `update_plan`, which fit its schema."""
    items = tuple(
        Item(
            id=step["id"],
            title=step["title"],
            state=ItemState(step["state"]),
            needs=tuple(step.get("needs", ())),
        )
        for step in arguments["steps"]
    )
    return Plan(items=items, note=arguments.get("note", ""))


def tools() -> Sequence[Tool]:
    """The entry point."""
    return [update_plan]
