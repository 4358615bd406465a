"""A call without a result: what the effect ledger does for each class, and what people decide."""

import anyio
import msgspec
import pytest

from agent_runtime.loop import events as e
from agent_runtime.types import Effect, Status, WorkspaceSpec
from tests.loop.harness import FOREVER, Bench, Script, asks, step, task

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("effect", "where", "resolution", "runs"),
    [
        (Effect.READ, "worker", "rerun", 2),
        (Effect.READ, "daemon", "rerun", 2),
        (Effect.WORKSPACE, "worker", "rerun", 2),
        (Effect.IDEMPOTENT, "daemon", "rerun", 2),
        (Effect.TASK, "daemon", "rerun", 2),
        (Effect.ONCE, "daemon", "unknown", 1),
        (Effect.ONCE, "worker", "unknown", 1),
        # Nothing was snapshot before a call outside the sandbox: there is nothing to go back to.
        (Effect.WORKSPACE, "daemon", "unknown", 1),
    ],
)
async def test_what_follows_a_crash_in_the_middle_of_a_call(
    effect: Effect, where: str, resolution: str, runs: int
) -> None:
    """DESIGN, the effect ledger's table."""
    script = Script("act", effect, [FOREVER], where=where)  # type: ignore[arg-type]
    bench = Bench(script)
    await bench.submit(task(step("a", "act"), policy={"unknown_effect": "continue"}))
    await bench.drive_and_die(10)
    state = await bench.drive()
    assert [x.resolution for x in bench.of(e.CallResolved)] == [resolution]
    assert len(script.calls) == runs
    assert len({c.idempotency_key for c in script.calls}) == 1
    assert len({c.call_id for c in script.calls}) == 1
    assert [x.call_id for x in bench.of(e.EffectUnknown)] == ["a.1"] * (resolution == "unknown")
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED


@pytest.mark.parametrize(
    ("found", "resolution", "runs"),
    [(True, "happened", 1), (False, "rerun", 2), (None, "unknown", 1)],
)
async def test_a_probe_says_whether_a_call_happened(
    found: bool | None, resolution: str, runs: int
) -> None:
    script = Script("post", Effect.PROBE, [FOREVER], probes=[found])
    bench = Bench(script)
    await bench.submit(task(step("a", "post"), policy={"unknown_effect": "continue"}))
    await bench.drive_and_die(10)
    state = await bench.drive()
    assert [x.resolution for x in bench.of(e.CallResolved)] == [resolution]
    assert len(script.calls) == runs
    assert state.steps["a"].status == "done"


async def test_a_probe_that_fails_could_not_tell() -> None:
    script = Script("post", Effect.PROBE, [FOREVER])  # its probe has no answer and raises
    bench = Bench(script)
    await bench.submit(task(step("a", "post"), policy={"unknown_effect": "fail"}))
    await bench.drive_and_die(10)
    await bench.drive()
    assert [x.resolution for x in bench.of(e.CallResolved)] == ["unknown"]


async def test_a_workspace_call_runs_again_on_the_tree_it_first_met() -> None:
    script = Script("write", Effect.WORKSPACE, [FOREVER], where="worker")
    bench = Bench(script)
    seen: list[str] = []

    def work(_: object) -> None:
        files = bench.workspaces.files["task_1"]
        seen.append(files["README"])
        files["README"] += "!"

    script.work = work
    await bench.submit(task(step("a", "write")))
    await bench.drive_and_die(10)
    await bench.drive()
    assert seen == ["hello", "hello"]
    assert bench.workspaces.files["task_1"]["README"] == "hello!"


async def test_a_directory_of_the_user_is_never_rolled_back() -> None:
    """DESIGN: `in_place`; so what a killed call left behind is said to be unknown."""
    bench = Bench(Script("write", Effect.WORKSPACE, [FOREVER], where="worker"))
    spec = task(step("a", "write"), policy={"unknown_effect": "fail"})
    in_place = WorkspaceSpec(repo="/repo", in_place=True)
    await bench.submit(msgspec.structs.replace(spec, workspace=in_place))
    await bench.drive_and_die(10)
    await bench.drive()
    assert "never rolled back" in bench.of(e.EffectUnknown)[0].message


async def _unknown(policy: str, **more: object) -> Bench:
    bench = Bench(Script("pay", Effect.ONCE, [FOREVER]), Script("look"))
    await bench.submit(
        task(
            step("a", "pay", fallback="b"),
            step("b", "look"),
            policy={"unknown_effect": policy, **more},
        )
    )
    await bench.drive_and_die(10)
    return bench


async def test_the_policy_fail_treats_an_unknown_effect_as_a_failure() -> None:
    bench = await _unknown("fail")
    state = await bench.drive()
    assert state.steps["a"].status == "failed" and state.steps["b"].status == "done"


async def test_the_policy_continue_goes_on_and_says_so() -> None:
    bench = await _unknown("continue")
    state = await bench.drive()
    assert state.steps["a"].status == "done"
    evaluated = next(x for x in bench.of(e.StepEvaluated) if x.step_id == "a")
    assert evaluated.reason == "unknown effect; the policy goes on"


@pytest.mark.parametrize(("decision", "status"), [("approve", "done"), ("deny", "failed")])
async def test_the_policy_ask_waits_for_a_person(decision: str, status: str) -> None:
    bench = await _unknown("ask")
    with anyio.move_on_after(100):
        await bench.drive()
    asked = bench.of(e.ApprovalRequested)
    assert [(x.subject, x.step_id) for x in asked] == [("unknown_effect", "a")]
    await bench.say(e.ApprovalDecided(approval_id="a1", decision=decision, by="me"))  # type: ignore[arg-type]
    bench.shared.tasks["task_1"].owner = None  # type: ignore[index]
    state = await bench.drive()
    assert state.steps["a"].status == status
    assert len(bench.of(e.ApprovalRequested)) == 1
    assert len(bench.scripts["pay"].calls) == 1


async def test_nobody_says_how_to_go_on_so_it_failed() -> None:
    bench = await _unknown("ask", approval_seconds=60.0)
    state = await bench.drive()
    assert [x.approval_id for x in bench.of(e.ApprovalExpired)] == ["a1"]
    assert state.steps["a"].status == "failed"


async def test_a_model_is_told_exactly_what_is_unknown() -> None:
    pay = Script("pay", Effect.ONCE, [FOREVER])
    bench = Bench(pay, answers=[asks("pay")])
    await bench.submit(task(tools=["pay"]))
    await bench.drive_and_die(10)
    await bench.drive()
    assert bench.of(e.EffectUnknown)
    told = {m.role: m.text for m in bench.model.requests[-1].messages if m.ref != "status"}
    assert told["tool"] == "its owner died before the result was stored"
    assert told["user"].startswith("It is unknown whether 'pay' (work.t1.0) took effect.")
    assert len(pay.calls) == 1


async def test_a_cancel_does_not_run_an_idempotent_call_again() -> None:
    """Stop means stop: whether it happened cannot be known then, and that is said."""
    put = Script("put", Effect.IDEMPOTENT, [FOREVER])
    bench = Bench(put)
    await bench.submit(task(step("a", "put")))
    await bench.drive_and_die(10)
    await bench.say(e.CancelRequested(by="me"))
    state = await bench.drive()
    assert len(put.calls) == 1
    assert [x.call_id for x in bench.of(e.EffectUnknown)] == ["a.1"]
    assert state.conclusion == e.TaskConcluded(status=Status.CANCELLED, reason="cancelled by me")
