"""Calls that are ready at once: their intent shares the append of what came before."""

from collections.abc import Sequence

import pytest

from agent_runtime.loop import events as e
from agent_runtime.types import Effect, Limits, Row, Status
from tests.loop.harness import FOREVER, Bench, Script, step, task

pytestmark = pytest.mark.anyio


def appends_of(bench: Bench) -> list[list[str]]:
    """Types of the rows of every append from here on."""
    appends: list[list[str]] = []

    async def hook(rows: Sequence[Row]) -> None:
        appends.append([row.type for row in rows])

    bench.hook = hook
    return appends


async def test_a_steps_result_and_the_next_intent_are_one_durable_write() -> None:
    """DESIGN: intent (durable), call, result (durable); nothing asks for two writes between."""
    look = Script("look")
    bench = Bench(look)
    appends = appends_of(bench)
    await bench.run(task(step("a", "look"), step("b", "look", needs=["a"])))
    assert len(look.calls) == 2
    shared = [types for types in appends if "CallReturned" in types and "CallIntended" in types]
    assert len(shared) == 1
    assert shared[0].index("CallReturned") < shared[0].index("CallIntended")


async def test_no_call_runs_before_its_intent_is_stored() -> None:
    """The shared write must be there when the call begins, not only on its way."""
    look = Script("look")
    bench = Bench(look)
    stored: list[list[str]] = []
    look.work = lambda call: stored.append([x.call_id for x in bench.of(e.CallIntended)])
    await bench.run(task(step("a", "look"), step("b", "look", needs=["a"])))
    assert stored == [["a.1"], ["a.1", "b.1"]]


async def test_a_call_whose_template_must_be_filled_is_intended_by_itself() -> None:
    """That is done in the sandbox and takes its time: the result before it does not wait."""
    bench = Bench(Script("look"))
    appends = appends_of(bench)
    templated = step("b", "look", args={"text": "{{ steps.a.output }}"}, needs=["a"])
    await bench.run(task(step("a", "look"), templated))
    assert len(bench.of(e.CallReturned)) == 2
    assert not [types for types in appends if {"CallReturned", "CallIntended"} <= set(types)]


async def test_a_limit_that_is_reached_takes_back_no_intent() -> None:
    """Two of three calls fit: they are intended together, and both run."""
    look = Script("look")
    bench = Bench(look)
    state = await bench.run(
        task(step("a", "look"), step("b", "look"), step("c", "look"), limits=Limits(steps=2))
    )
    assert sorted(call.call_id for call in look.calls) == ["a.1", "b.1"]
    assert state.conclusion is not None and state.conclusion.status is Status.FAILED
    assert state.usage.steps == 2


async def test_a_writing_call_of_the_worker_waits_for_its_tree() -> None:
    """`tree_before` is part of the intent: there is no intent before there is a tree."""
    bench = Bench(Script("write", Effect.WORKSPACE, where="worker"))
    await bench.run(task(step("a", "write"), step("b", "write", needs=["a"])))
    assert all(intent.tree_before for intent in bench.of(e.CallIntended))


async def killed(*scripts: Script) -> tuple[Bench, list[list[str]]]:
    """Every tool's call runs when the owner is killed; the appends of the next owner."""
    bench = Bench(*scripts)
    await bench.submit(task(*(step(script.name, script.name) for script in scripts)))
    await bench.drive_and_die(20)
    appends = appends_of(bench)
    state = await bench.drive()
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED
    return bench, appends


async def test_the_reads_of_a_dead_owner_are_settled_with_the_lease() -> None:
    """One durable write less for each of a thousand tasks that a kill leaves behind."""
    one, other = (Script(name, answers=[FOREVER]) for name in ("one", "other"))
    bench, appends = await killed(one, other)
    assert appends[0] == ["LeaseTaken", "CallResolved", "CallResolved"]
    assert [found.resolution for found in bench.of(e.CallResolved)] == ["rerun", "rerun"]
    assert (len(one.calls), len(other.calls)) == (2, 2)


@pytest.mark.parametrize(
    "script",
    [
        Script("pure", Effect.READ, where="worker", answers=[FOREVER]),
        Script("put", Effect.IDEMPOTENT, answers=[FOREVER]),
    ],
    ids=["in the sandbox", "with an effect"],
)
async def test_other_calls_are_settled_when_their_sandbox_is_dead(script: Script) -> None:
    """The lease is stored before anything is done to the sandbox: a crash there is counted."""
    _, appends = await killed(script)
    assert "LeaseTaken" in appends[0] and "CallResolved" not in appends[0]
