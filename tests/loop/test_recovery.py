"""What error handling does about a failure: each strategy for its reason, with its counts."""

from typing import get_args

import pytest

from agent_runtime.errors import PluginError, WorkerLost
from agent_runtime.loop import events as e
from agent_runtime.loop.recovery import PERMANENT, RULES, Choice, choose
from agent_runtime.loop.state import StepState
from agent_runtime.ports import ModelAnswer, ModelFaultKind
from agent_runtime.testing import ScriptedModel
from agent_runtime.types import (
    Alternative,
    Effect,
    FailureKind,
    Phase,
    Status,
    StepSpec,
    Strategy,
    ToolResult,
)
from tests.loop.harness import FOREVER, NO, TASK, Answer, Bench, Script, asks, gives_up, step, task


def failed(kind: FailureKind, spec: StepSpec | None = None, **more: object) -> StepState:
    """A step in `recovering` after one failure of this kind."""
    failure = e.StepEvaluated(step_id="a", verdict="failed", kind=kind, reason="no")
    counts = {
        "known_failures": int(kind == "failed"),
        "timeouts": int(kind == "timeout"),
        "transients": int(kind == "transient"),
    }
    return StepState(spec or StepSpec(id="a", tool="t"), failure=failure, **{**counts, **more})  # type: ignore[arg-type]


RETRY = Strategy.RETRY
BOTH = StepSpec(id="a", tool="t", alternative=Alternative(tool="u"), fallback="b")
FALLBACK = StepSpec(id="a", tool="t", fallback="b")


@pytest.mark.parametrize(
    ("state", "effect", "choice"),
    [
        (failed("failed"), None, Choice(Strategy.ABORT)),
        (failed("failed", StepSpec(id="a", tool="t", retry=1)), None, Choice(RETRY, 100)),
        (
            failed("failed", StepSpec(id="a", tool="t", retry=9), known_failures=4),
            None,
            Choice(RETRY, 800),
        ),
        (
            failed("failed", StepSpec(id="a", tool="t", retry=1), known_failures=2),
            None,
            Choice(Strategy.ABORT),
        ),
        (failed("failed", BOTH), None, Choice(Strategy.ALTERNATIVE)),
        (failed("failed", BOTH, alternative=True), None, Choice(Strategy.FALLBACK)),
        (failed("failed", FALLBACK), None, Choice(Strategy.FALLBACK)),
        (failed("timeout"), Effect.READ, Choice(RETRY, 500)),
        (failed("timeout"), Effect.WORKSPACE, Choice(RETRY, 500)),
        (failed("timeout"), Effect.IDEMPOTENT, Choice(RETRY, 500)),
        (failed("timeout"), Effect.ONCE, Choice(Strategy.ABORT)),
        (failed("timeout"), Effect.PROBE, Choice(Strategy.ABORT)),
        (failed("timeout", timeouts=2), Effect.READ, Choice(Strategy.ABORT)),
        (failed("transient"), None, Choice(RETRY, 1000)),
        (failed("transient", transients=2), None, Choice(RETRY, 2000)),
        (failed("transient", transients=3), None, Choice(RETRY, 4000)),
        (failed("transient", transients=4), None, Choice(Strategy.ABORT)),
        *(
            (failed(kind, StepSpec(id="a", tool="t", retry=5)), Effect.READ, Choice(Strategy.ABORT))
            for kind in sorted(PERMANENT)
        ),
    ],
)
def test_the_recovery_table(state: StepState, effect: Effect | None, choice: Choice) -> None:
    """DESIGN, recovery policy: retry, alternative approach, fallback, abort, in this order."""
    assert choose(state, effect=effect) == choice


def test_every_kind_of_failure_has_a_rule() -> None:
    assert set(RULES) == set(get_args(FailureKind)) - {""}


@pytest.mark.anyio
async def test_retry_two_is_three_attempts() -> None:
    """DESIGN, plan semantics."""
    flaky = Script("flaky", answers=[NO, NO])
    bench = Bench(flaky)
    state = await bench.run(task(step("a", "flaky", retry=2)))
    assert state.conclusion == e.TaskConcluded(status=Status.SUCCEEDED, reason="every check passed")
    assert [c.attempt for c in bench.of(e.CallIntended)] == [1, 2, 3]
    assert [c.delay_ms for c in bench.of(e.RecoveryChosen)] == [100, 200]


@pytest.mark.anyio
async def test_a_failure_beyond_its_retries_aborts_the_task() -> None:
    bench = Bench(Script("flaky", answers=[NO, NO]))
    state = await bench.run(task(step("a", "flaky", retry=1), step("b", "flaky", needs=["a"])))
    assert state.conclusion is not None
    assert state.conclusion.status is Status.FAILED
    assert state.conclusion.reason.startswith("step 'a' failed (failed): ")
    assert [s.step_id for s in bench.of(e.StepSkipped)] == ["b"]


@pytest.mark.anyio
async def test_the_alternative_is_the_same_step_another_way() -> None:
    other = Script("other", Effect.IDEMPOTENT)
    bench = Bench(Script("put", Effect.IDEMPOTENT, [NO]), other)
    state = await bench.run(task(step("a", "put", alternative={"tool": "other"})))
    assert [c.tool for c in bench.of(e.CallIntended)] == ["put", "other"]
    assert state.steps["a"].status == "done"
    # A server that remembers the first way's failure must not answer with it.
    assert other.calls[0].idempotency_key != bench.scripts["put"].calls[0].idempotency_key


@pytest.mark.anyio
async def test_a_fallbacks_result_stands_for_its_owners() -> None:
    """DESIGN, plan semantics: in `needs` and in expressions."""
    write = Script("write", Effect.WORKSPACE, where="worker")
    bench = Bench(Script("bad", answers=[NO]), Script("good"), write)
    bench.scripts["good"].answers = [ToolResult(ok=True, output="instead", exit=0)]
    state = await bench.run(
        task(
            step("a", "bad", fallback="b"),
            step("b", "good"),
            step("c", "write", needs=["a"], args={"text": "{{ steps.a.output }}"}),
        )
    )
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED
    assert write.calls[0].arguments == {"text": "instead"}


@pytest.mark.anyio
async def test_a_fallback_that_is_not_needed_is_skipped_and_holds_nobody_up() -> None:
    """A step that needs the sleeping fallback itself used to wait for ever."""
    bench = Bench(Script("good"))
    state = await bench.run(
        task(step("a", "good", fallback="b"), step("b", "good"), step("c", "good", needs=["b"]))
    )
    assert {k: s.status.value for k, s in state.steps.items()} == {
        "a": "done",
        "b": "skipped",
        "c": "done",
    }
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED


@pytest.mark.anyio
async def test_steps_that_wait_for_each_other_end_the_task() -> None:
    """Nothing can go on, so it says so instead of running for ever."""
    bench = Bench(Script("good"))
    state = await bench.run(
        task(step("a", "good", needs=["b"]), step("b", "good", needs=["a"]), step("c", "good"))
    )
    assert state.conclusion == e.TaskConcluded(
        status=Status.FAILED, reason="plan_stuck: these steps wait for each other: a, b"
    )


@pytest.mark.anyio
async def test_a_dependent_of_a_failed_step_is_skipped_although_a_fallback_saves_the_task() -> None:
    bench = Bench(Script("bad", answers=[NO, NO]), Script("good"))
    state = await bench.run(
        task(
            step("a", "bad", fallback="b"),
            step("b", "bad", fallback="c"),
            step("c", "good"),
            step("d", "good", needs=["a"]),
        )
    )
    assert {k: s.status.value for k, s in state.steps.items()} == {
        "a": "failed",
        "b": "failed",
        "c": "done",
        "d": "done",
    }


@pytest.mark.anyio
@pytest.mark.parametrize(("exit_code", "runs"), [(0, False), (1, True)])
async def test_a_step_runs_when_its_condition_holds(exit_code: int, runs: bool) -> None:
    look = Script("look", answers=[ToolResult(ok=True, output="x", exit=exit_code)])
    other = Script("other")
    bench = Bench(look, other)
    state = await bench.run(
        task(
            step("a", "look"),
            step("b", "other", needs=["a"], when="steps.a.exit"),
            step("c", "look", needs=["b"]),
        )
    )
    assert bool(other.calls) is runs
    assert state.steps["b"].status == ("done" if runs else "skipped")
    assert state.steps["c"].status == "done", "a condition that is false does not skip dependents"


@pytest.mark.anyio
@pytest.mark.parametrize("effect", [Effect.READ, Effect.WORKSPACE])
async def test_a_time_out_is_tried_twice_500_ms_apart_where_that_is_safe(effect: Effect) -> None:
    slow = Script("slow", effect, [FOREVER], where="worker")
    bench = Bench(slow)
    state = await bench.run(task(step("a", "slow", timeout_seconds=10)))
    assert [c.delay_ms for c in bench.of(e.RecoveryChosen)] == [500]
    assert state.steps["a"].status == "done" and len(slow.calls) == 2


@pytest.mark.anyio
async def test_a_second_time_out_aborts() -> None:
    slow = Script("slow", Effect.READ, [FOREVER, FOREVER, FOREVER])
    bench = Bench(slow)
    state = await bench.run(task(step("a", "slow", timeout_seconds=10)))
    assert len(slow.calls) == 2
    assert state.conclusion is not None and "(timeout)" in state.conclusion.reason


@pytest.mark.anyio
async def test_an_idempotent_call_is_repeated_after_a_time_out_under_its_key() -> None:
    slow = Script("slow", Effect.IDEMPOTENT, [FOREVER])
    bench = Bench(slow)
    state = await bench.run(task(step("a", "slow", timeout_seconds=10)))
    assert state.steps["a"].status == "done"
    assert len({c.idempotency_key for c in slow.calls}) == 1 and len(slow.calls) == 2


@pytest.mark.anyio
async def test_a_once_call_that_times_out_is_not_tried_again() -> None:
    slow = Script("slow", Effect.ONCE, [FOREVER])
    bench = Bench(slow)
    state = await bench.run(
        task(step("a", "slow", timeout_seconds=10), policy={"unknown_effect": "fail"})
    )
    assert len(slow.calls) == 1
    assert state.conclusion is not None and "(unknown_effect)" in state.conclusion.reason


@pytest.mark.anyio
async def test_one_step_recovers_while_its_neighbour_finishes() -> None:
    """DESIGN: the phase is the first that any live step is in; the others keep running."""
    bench = Bench(Script("flaky", answers=[NO]), Script("slow", answers=[0.05]))
    await bench.run(task(step("a", "flaky", retry=1), step("b", "slow")))
    events = bench.events()
    chosen = next(i for i, x in enumerate(events) if isinstance(x, e.RecoveryChosen))
    fired = next(i for i, x in enumerate(events) if isinstance(x, e.TimerFired))
    neighbour = next(
        i for i, x in enumerate(events) if isinstance(x, e.CallReturned) and x.call_id == "b.1"
    )
    assert chosen < neighbour < fired
    phases = [x.phase for x in events[:fired] if isinstance(x, e.PhaseEntered)]
    assert phases[-1] is Phase.ERROR_HANDLING, "it stays while the step recovers"


@pytest.mark.anyio
async def test_an_abort_lets_what_runs_finish_and_starts_nothing() -> None:
    bench = Bench(Script("bad", answers=[NO]), Script("slow", answers=[60.0]))
    state = await bench.run(
        task(step("a", "bad"), step("b", "slow"), step("c", "bad", needs=["b"]))
    )
    assert {k: s.status.value for k, s in state.steps.items()} == {
        "a": "failed",
        "b": "done",
        "c": "skipped",
    }
    assert state.conclusion is not None and state.conclusion.status is Status.FAILED


@pytest.mark.anyio
async def test_a_tool_that_raises_is_data() -> None:
    bench = Bench(Script("bad", answers=[RuntimeError("a defect")]), Script("good"))
    await bench.run(task(step("a", "bad", fallback="b"), step("b", "good")))
    assert bench.of(e.CallReturned)[0].kind == "internal"


@pytest.mark.anyio
async def test_a_tool_that_cannot_say_its_effect_fails_its_step_and_nothing_else() -> None:
    """A plug-in's exception used to end the driver, and the task hung."""

    def effect(*_: object) -> Effect:
        raise RuntimeError("a defect")

    script = Script("bad")
    bench = Bench(script, Script("good"))
    bad = bench.tools[0]
    object.__setattr__(bad, "decide_effect", effect)
    state = await bench.run(task(step("a", "bad", fallback="b"), step("b", "good")))
    assert state.steps["a"].status == "failed" and state.steps["b"].status == "done"
    assert bench.of(e.PreparationFailed)[0].kind == "internal"


@pytest.mark.anyio
async def test_a_worker_that_dies_is_replaced_and_told_of() -> None:
    """A read runs again; `WorkerRestarted` says what is lost with the worker."""
    look = Script("look", answers=[WorkerLost("killed")], where="worker")
    bench = Bench(look)
    state = await bench.run(task(step("a", "look")))
    assert state.steps["a"].status == "done" and len(look.calls) == 2
    assert [x.resolution for x in bench.of(e.CallResolved)] == ["rerun"]
    assert [x.reason for x in bench.of(e.WorkerRestarted)] == ["killed"]


@pytest.mark.anyio
async def test_a_call_that_kills_every_worker_ends() -> None:
    deaths: list[Answer] = [WorkerLost("killed") for _ in range(99)]
    bench = Bench(Script("look", answers=deaths, where="worker"))
    state = await bench.run(task(step("a", "look")))
    assert state.conclusion is not None and state.conclusion.status is Status.FAILED
    assert len(bench.scripts["look"].calls) <= 10


@pytest.mark.anyio
@pytest.mark.parametrize("error", ["rate", "overload", "transport", "truncated"])
async def test_a_model_error_is_tried_again_after_1_2_and_4_seconds(
    error: ModelFaultKind,
) -> None:
    bench = Bench(answers=[gives_up(error)] * 3)
    state = await bench.run(task())
    assert [c.delay_ms for c in bench.of(e.RecoveryChosen)] == [1000, 2000, 4000]
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED


@pytest.mark.anyio
@pytest.mark.parametrize("error", ["auth", "bad_request", "context", "filter"])
async def test_a_permanent_model_error_fails_fast(error: ModelFaultKind) -> None:
    bench = Bench(answers=[gives_up(error)] * 3)
    state = await bench.run(task())
    assert len(bench.model.requests) == 1
    assert state.conclusion is not None and state.conclusion.status is Status.FAILED


@pytest.mark.anyio
async def test_a_model_adapter_that_raises_fails_its_step_only() -> None:
    """The border to an adapter: its exception used to end the driver."""

    class Broken(ScriptedModel):
        async def complete(self, request: object) -> ModelAnswer:
            raise RuntimeError("a defect")

    bench = Bench()
    await bench.submit(task())
    state = await bench.drive(model=Broken())
    assert state.conclusion is not None and state.conclusion.status is Status.FAILED
    assert bench.of(e.ModelFailed)[0].error == "internal"


@pytest.mark.anyio
async def test_a_workspace_that_opens_at_the_fourth_try_delays_the_task_only() -> None:
    bench = Bench(Script("look"))
    tries = iter([OSError("slow"), OSError("slow"), OSError("slow")])
    opened = bench.workspaces.open

    async def slow(*args: object, **options: object) -> object:
        for error in tries:
            raise error
        return await opened(*args, **options)  # type: ignore[arg-type]

    bench.workspaces.open = slow  # type: ignore[method-assign,assignment]
    state = await bench.run(task(step("a", "look")))
    assert [c.delay_ms for c in bench.of(e.RecoveryChosen)] == [1000, 2000, 4000]
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED


@pytest.mark.anyio
async def test_a_roll_back_that_fails_is_said_and_not_hidden() -> None:
    """`restore` failing used to end every owner in turn, for ever."""
    bench = Bench(Script("write", Effect.WORKSPACE, [FOREVER], where="worker"))

    async def restore(*_: object) -> None:
        raise OSError("the disk is full")

    bench.workspaces.restore = restore  # type: ignore[method-assign,assignment]
    state = await bench.run(
        task(step("a", "write", timeout_seconds=5), policy={"unknown_effect": "fail"})
    )
    assert "could not be rolled back" in bench.of(e.EffectUnknown)[0].message
    assert state.conclusion is not None and state.conclusion.status is Status.FAILED


@pytest.mark.anyio
async def test_a_result_is_kept_although_the_tree_cannot_be_read() -> None:
    bench = Bench(Script("write", Effect.WORKSPACE, where="worker"))
    snapshot, fail = bench.workspaces.snapshot, iter([False, True])

    async def moody(task_id: str) -> object:
        if next(fail, False):
            raise OSError("no")
        return await snapshot(TASK)

    bench.workspaces.snapshot = moody  # type: ignore[method-assign,assignment]
    state = await bench.run(task(step("a", "write")))
    assert state.steps["a"].status == "done"
    assert bench.of(e.CallReturned)[0].tree_after == ""


@pytest.mark.anyio
async def test_a_toolbelt_is_activated_because_a_step_needs_it() -> None:
    bench = Bench(Script("special", toolbelt="extra"), Script("other", toolbelt="unused"))
    state = await bench.run(task(step("a", "special")))
    assert bench.toolbox.activated == ["extra"]
    assert state.toolbelts == ("standard", "extra")
    assert bench.of(e.StepEvaluated)[0].verdict == "toolbelt"


@pytest.mark.anyio
async def test_a_model_hears_that_a_toolbelt_failed_and_goes_on() -> None:
    """It used to be activated again and again, without end and without cost."""
    bench = Bench(
        Script("special", toolbelt="extra"), Script("look"), answers=[asks("special"), asks("look")]
    )

    async def activate(toolbelt: str) -> list[str]:
        raise PluginError("it does not start")

    bench.toolbox.activate = activate  # type: ignore[method-assign]
    state = await bench.run(task(tools=["special", "look"]))
    assert [x.message for x in bench.of(e.ToolbeltFailed)] == ["it does not start"]
    assert "it does not start" in [m.text for m in state.conversation.messages if m.failed]
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED


@pytest.mark.anyio
async def test_every_call_of_a_models_turn_has_its_own_idempotency_key() -> None:
    """Two calls of one turn shared a key: a server would have dropped the second."""
    put = Script("put", Effect.IDEMPOTENT)
    bench = Bench(put, answers=[asks(("put", {"text": "a"}), ("put", {"text": "b"}))])
    await bench.run(task(tools=["put"]))
    assert [c.arguments["text"] for c in put.calls] == ["a", "b"]
    assert len({c.idempotency_key for c in put.calls}) == 2


@pytest.mark.anyio
async def test_a_long_reason_keeps_what_was_said_first_and_last() -> None:
    """A refusal says first what is wrong; a test runner counts at the end."""
    output = "no such thing" + "." * 1000 + "11 failed"
    bench = Bench(Script("look", answers=[ToolResult(ok=False, output=output, kind="refused")]))
    state = await bench.run(task(step("a", "look")))
    assert state.conclusion is not None
    reason = state.conclusion.reason
    assert "no such thing" in reason and "11 failed" in reason and len(reason) < 600
