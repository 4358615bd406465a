"""What a task may spend: attempts when they start, money before a call, running time only."""

import anyio
import pytest

from agent_runtime.loop import budget
from agent_runtime.loop import events as e
from agent_runtime.messages import ModelChoice, ModelUsage
from agent_runtime.ports import ModelAnswer, ModelFault, ModelRequest
from agent_runtime.testing import ScriptedModel, says
from agent_runtime.types import Effect, Limits, Status
from tests.loop.harness import FOREVER, NO, Bench, Script, asks, step, task

pytestmark = pytest.mark.anyio


async def test_no_attempt_starts_beyond_limits_steps() -> None:
    look = Script("look")
    bench = Bench(look)
    state = await bench.run(
        task(step("a", "look"), step("b", "look"), step("c", "look"), limits=Limits(steps=2))
    )
    assert len(look.calls) == 2
    assert state.conclusion == e.TaskConcluded(
        status=Status.FAILED, reason="budget_exhausted: limits.steps is 2, used 2"
    )


async def test_every_attempt_is_counted_when_it_starts() -> None:
    bench = Bench(Script("flaky", answers=[NO, NO]))
    state = await bench.run(task(step("a", "flaky", retry=2)))
    assert state.usage.steps == 3


async def test_tokens_are_reserved_before_a_call_and_settled_after_it() -> None:
    bench = Bench(answers=[says("done", tokens=123, usd=0.5)])
    state = await bench.run(task())
    started = bench.of(e.ModelCallStarted)[0]
    assert started.output_tokens_max == budget.ANSWER_TOKENS
    assert started.reserved_tokens > budget.ANSWER_TOKENS, "and the prompt"
    assert (state.usage.tokens, state.usage.usd) == (123, 0.5)
    assert (state.usage.reserved_tokens, state.usage.reserved_usd) == (0, 0.0)


async def test_no_turn_starts_that_might_not_be_paid() -> None:
    answers = [asks("look", tokens=8_000)] * 5
    bench = Bench(Script("look"), answers=answers)
    state = await bench.run(task(tools=["look"], limits=Limits(tokens=20_000)))
    # The prompt is some 3,500: after 8,000 a shorter answer fits, after 16,000 not even that.
    first, second = (r.output_tokens_max for r in bench.model.requests)
    assert first == budget.ANSWER_TOKENS and first > second > budget.ANSWER_TOKENS_MIN
    assert state.conclusion is not None and "limits.tokens" in state.conclusion.reason


async def test_usage_above_the_reservation_is_recorded_and_stops_new_calls() -> None:
    bench = Bench(Script("look"), answers=[asks("look", tokens=50_000)])
    state = await bench.run(task(tools=["look"], limits=Limits(tokens=20_000)))
    assert state.usage.tokens == 50_000
    assert len(bench.model.requests) == 1


async def test_a_model_call_without_an_answer_settles_at_its_reservation() -> None:
    bench = Bench()

    async def think(_: str) -> None:
        await anyio.sleep(60)

    bench.model.point = think
    await bench.submit(task())
    await bench.drive_and_die(10)
    await bench.say(e.CancelRequested(by="me"))
    state = await bench.drive()
    assert state.usage.tokens == bench.of(e.ModelCallStarted)[0].reserved_tokens
    assert state.usage.reserved_tokens == 0


async def test_an_answer_gets_as_much_room_as_the_money_pays_for() -> None:
    dear = ModelChoice(name="dear", input_usd_per_mtok=10.0, output_usd_per_mtok=100.0)
    bench = Bench()
    bench.model.models = (dear,)
    await bench.run(task(limits=Limits(usd=0.2)))
    started = bench.of(e.ModelCallStarted)[0]
    assert started.reserved_usd <= 0.2
    assert budget.ANSWER_TOKENS_MIN < started.output_tokens_max < 2_000


async def test_a_model_that_costs_nothing_needs_no_money() -> None:
    bench = Bench()
    state = await bench.run(task(limits=Limits(usd=0.0)))
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED


async def test_what_a_failed_turn_cost_is_charged() -> None:
    fault = ModelFault(kind="bad_request", message="no", usage=ModelUsage(input=77), usd=0.3)
    state = await Bench(answers=[fault]).run(task())
    assert (state.usage.tokens, state.usage.usd) == (77, 0.3)
    assert (state.usage.reserved_tokens, state.usage.reserved_usd) == (0, 0.0)


async def test_a_call_ends_with_the_tasks_time() -> None:
    bench = Bench(Script("slow", answers=[FOREVER]))
    state = await bench.run(task(step("a", "slow"), limits=Limits(seconds=30.0)))
    assert state.conclusion is not None and "limits.seconds" in state.conclusion.reason
    assert 30e6 <= state.usage.running_us < 31e6


async def test_a_model_call_ends_with_the_tasks_time() -> None:
    """It used to take its own ten minutes, whatever the task had left."""

    class Slow(ScriptedModel):
        async def complete(self, request: ModelRequest) -> ModelAnswer:
            await anyio.sleep(550)
            return says("done")

    bench = Bench()
    await bench.submit(task(limits=Limits(seconds=30.0)))
    state = await bench.drive(model=Slow())
    assert state.conclusion is not None and "limits.seconds" in state.conclusion.reason
    assert state.usage.running_us < 31e6


async def test_the_time_between_two_owners_is_nobodys() -> None:
    bench = Bench(Script("look", answers=[FOREVER]))
    await bench.submit(task(step("a", "look"), limits=Limits(seconds=100.0)))
    await bench.drive_and_die(10)
    await anyio.sleep(100_000)
    state = await bench.drive()
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED
    assert state.usage.running_us < 20e6


async def test_waiting_for_a_brain_costs_no_time() -> None:
    """Neither plan nor model: somebody must think."""
    bench = Bench()
    state = await bench.run(task(model=None, limits=Limits(seconds=10.0)))
    await anyio.sleep(1000)
    await bench.say(e.Steered(by="me", message="are you there?"))
    state = await bench.drive()
    assert not state.ended and state.usage.running_us < 10e6


async def test_a_clock_that_jumps_back_breaks_nothing() -> None:
    """`at_us = max(now, previous)`: it never decreases."""
    bench = Bench(Script("slow", answers=[5.0, 5.0, 5.0]))
    await bench.submit(
        task(step("a", "slow"), step("b", "slow", needs=["a"]), step("c", "slow", needs=["b"]))
    )
    async with anyio.create_task_group() as tg:
        tg.start_soon(bench.drive)
        await anyio.sleep(7)
        bench.clock.offset_us -= int(86_400e6)
    times = [row.at_us for row in bench.rows()]
    assert times == sorted(times)
    state = bench.state()
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED
    assert state.usage.running_us >= 0


async def test_a_stop_for_its_budget_still_says_what_is_unknown() -> None:
    bench = Bench(Script("pay", Effect.ONCE, [FOREVER]))
    state = await bench.run(task(step("a", "pay"), limits=Limits(seconds=30.0)))
    assert [x.call_id for x in bench.of(e.EffectUnknown)] == ["a.1"]
    assert state.conclusion is not None and state.conclusion.status is Status.FAILED
