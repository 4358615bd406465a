"""Plans: states, dependencies, progress and the tool `update_plan`."""

from __future__ import annotations

from itertools import product

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime.errors import UsageError
from agent_runtime.modules.planning import MOVES, Item, ItemState, Plan, progress, update_plan
from agent_runtime.types import Effect, EffectPolicy, Json, StepStatus, ToolCall, ToolResult

P, I, D, S = ItemState  # noqa: E741


def plan(*items: tuple[str, ItemState, tuple[str, ...]]) -> Plan:
    return Plan(
        items=tuple(Item(id=i, title=f"Do {i}", state=s, needs=n) for i, s, n in items)
    )  # fmt: skip


def updated(**arguments: Json) -> ToolResult:
    call = ToolCall(call_id="c", tool="update_plan", arguments=arguments, workspace="")
    return anyio.run(update_plan.execute, call)


@pytest.mark.parametrize(("before", "after"), list(product(ItemState, ItemState)))
def test_an_item_moves_only_as_the_table_allows(before: ItemState, after: ItemState) -> None:
    start = plan(("a", before, ()))
    if after in MOVES[before]:
        assert start.move("a", after) == plan(("a", after, ()))
    else:
        with pytest.raises(UsageError, match=f"'a' is {before} and cannot become {after}"):
            start.move("a", after)


def test_an_item_begins_only_when_what_it_needs_has_ended() -> None:
    start = plan(("a", I, ()), ("b", P, ("a",)))
    with pytest.raises(UsageError, match="'b' is in_progress, and 'a', which it needs, is in_prog"):
        start.move("b", I)
    assert start.move("a", D).move("b", I) == plan(("a", D, ()), ("b", I, ("a",)))
    assert start.move("a", S).move("b", I).items[1].state is I


def test_an_item_that_does_not_exist_cannot_move() -> None:
    with pytest.raises(UsageError, match=r"'x' \(known: a\)"):
        plan(("a", P, ())).move("x", I)


@pytest.mark.parametrize(
    ("items", "problems"),
    [
        ([], []),
        ([("a", P, ()), ("a", D, ())], ["step id 'a' is used more than once"]),
        ([("lint", P, ()), ("b", P, ("lnt",))],
         ["step 'b' needs 'lnt', which is no step; did you mean 'lint'?"]),
        ([("a", P, ("a",))], ["steps need each other in a circle: a -> a"]),
        ([("x", P, ("a",)), ("a", P, ("b",)), ("b", P, ("c", "a"))],
         ["step 'b' needs 'c', which is no step",
          "steps need each other in a circle: a -> b -> a"]),
        ([("a", P, ()), ("b", P, ("a",)), ("c", P, ("a", "b"))], []),
    ],
)  # fmt: skip
def test_problems_name_the_step_and_the_rule(
    items: list[tuple[str, ItemState, tuple[str, ...]]], problems: list[str]
) -> None:
    assert plan(*items).problems() == problems


def test_a_long_chain_is_checked_without_recursion() -> None:
    chain = [(str(n), P, (str(n + 1),)) for n in range(5000)] + [("5000", P, ())]
    assert plan(*chain)._circle() == []


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=20))
def test_a_circle_is_found_exactly_when_no_order_exists(edges: list[tuple[int, int]]) -> None:
    needs = {n: {b for a, b in edges if a == n} for n in range(8)}
    left = set(needs)
    while free := {n for n in left if not needs[n] & left}:
        left -= free
    made = plan(*((str(n), P, tuple(map(str, needs[n]))) for n in needs))
    assert bool(made._circle()) == bool(left)


def test_a_plan_renders_with_its_progress_first() -> None:
    made = Plan(
        items=(
            Item(id="a", title="Reproduce\nit", state=D),
            Item(id="b", title="Fix it", state=I, needs=("a",)),
            Item(id="c", title="Tidy", state=S),
            Item(id="d", title="Check"),
        ),
        note="the bug is\nin the lexer",
    )
    assert made.render() == (
        "1 of 4 steps done, 1 in progress, 1 skipped\n"
        "[x] a: Reproduce it\n"
        "[>] b: Fix it (needs a)\n"
        "[-] c: Tidy\n"
        "[ ] d: Check\n"
        "Note: the bug is in the lexer"
    )


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ([], "no steps"),
        (["done"], "1 of 1 step done"),
        (["done", "done", "done", "ready", "ready", "ready", "ready"], "3 of 7 steps done"),
        (["running", "recovering", "evaluating", "failed", "skipped"],
         "0 of 5 steps done, 3 running, 1 failed, 1 skipped"),
    ],
)  # fmt: skip
def test_progress_of_a_tasks_steps(steps: list[str], text: str) -> None:
    assert progress({str(n): StepStatus(state) for n, state in enumerate(steps)}) == text


def test_update_plan_returns_the_plan_and_its_counts() -> None:
    result = updated(
        steps=[
            {"id": "a", "title": "Look", "state": "done"},
            {"id": "b", "title": "Fix", "state": "in_progress", "needs": ["a"]},
        ],
        note="easier than thought",
    )
    assert result == ToolResult(
        ok=True,
        output="1 of 2 steps done, 1 in progress\n[x] a: Look\n[>] b: Fix (needs a)\n"
        "Note: easier than thought",
        data={"total": 2, "pending": 0, "in_progress": 1, "done": 1, "skipped": 0},
    )


def test_update_plan_answers_a_wrong_plan_with_what_is_wrong() -> None:
    result = updated(
        steps=[
            {"id": "a", "title": "Look", "state": "pending"},
            {"id": "b", "title": "Fix", "state": "done", "needs": ["a"]},
        ]
    )
    assert (result.ok, result.kind) == (False, "bad_input")
    assert "step 'b' is done, and 'a', which it needs, is pending" in result.output
    wrong = updated(steps=[{"id": "a", "title": "Look", "state": "finished"}])
    assert (wrong.ok, wrong.kind) == (False, "bad_input")
    assert "must be one of 'pending'" in wrong.output


def test_update_plan_changes_nothing_in_the_world() -> None:
    assert update_plan.effect({}, EffectPolicy(network="open")) is Effect.READ
