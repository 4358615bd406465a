"""A person is asked once, the answer counts once, for exactly what was asked, and for a while."""

import anyio
import pytest

from agent_runtime.loop import events as e
from agent_runtime.loop.state import status_of
from agent_runtime.types import Effect, Status
from tests.loop.harness import NO, Bench, Script, asks, step, task

pytestmark = pytest.mark.anyio
ASK = {"approvals": {"pay": "ask"}}


async def _asked(*scripts: Script, **policy: object) -> Bench:
    """A task whose only step waits for a person; its driver is dead."""
    bench = Bench(*scripts or (Script("pay", Effect.ONCE),))
    await bench.submit(task(step("a", "pay", retry=1), policy={**ASK, **policy}))
    await bench.drive_and_die(10)
    assert status_of(bench.state()) == (Status.WAITING, "approval")
    return bench


def answer(decision: str, approval_id: str = "a1") -> e.ApprovalDecided:
    return e.ApprovalDecided(approval_id=approval_id, decision=decision, by="me")  # type: ignore[arg-type]


async def test_what_is_approved_runs_once() -> None:
    bench = await _asked()
    assert not bench.scripts["pay"].calls
    await bench.say(answer("approve"))
    state = await bench.drive()
    assert [c.approval_id for c in bench.of(e.CallIntended)] == ["a1"]
    assert len(bench.scripts["pay"].calls) == 1
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED


async def test_what_is_denied_does_not_run() -> None:
    bench = await _asked()
    await bench.say(answer("deny"))
    state = await bench.drive()
    assert not bench.scripts["pay"].calls
    assert state.conclusion == e.TaskConcluded(
        status=Status.FAILED, reason="step 'a' failed (denied): 'pay' was not approved"
    )


async def test_nobody_answers_in_time() -> None:
    """It used to wait on, writing an event for every turn of a busy loop."""
    bench = Bench(Script("pay"))
    state = await bench.run(task(step("a", "pay"), policy={**ASK, "approval_seconds": 3600.0}))
    assert [x.approval_id for x in bench.of(e.ApprovalExpired)] == ["a1"]
    assert state.conclusion is not None and "nobody decided in time" in state.conclusion.reason
    assert state.usage.running_us < 1_000_000, "waiting for a person is not running"
    assert len(bench.rows()) < 40


async def test_an_answer_after_the_expiry_counts_as_none() -> None:
    """Nobody drove the task when its approval expired; a late yes must not start anything."""
    bench = await _asked(approval_seconds=100.0)
    await anyio.sleep(1000)
    await bench.say(answer("approve"))
    state = await bench.drive()
    assert not bench.scripts["pay"].calls
    assert state.conclusion is not None and "came too late" in state.conclusion.reason


async def test_a_restart_asks_neither_again_nor_twice() -> None:
    bench = await _asked(Script("pay", Effect.IDEMPOTENT, [50.0]))
    for _ in range(3):
        await bench.drive_and_die(10)
    assert len(bench.of(e.ApprovalRequested)) == 1
    await bench.say(answer("approve"))
    await bench.drive_and_die(10)  # in the middle of the approved call
    state = await bench.drive()
    assert len(bench.of(e.ApprovalRequested)) == 1
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED


async def test_an_approval_is_single_use() -> None:
    """A second attempt is a second call: the person is asked again."""
    bench = await _asked(Script("pay", Effect.ONCE, [NO]))
    await bench.say(answer("approve"))
    await bench.drive_and_die(10)
    assert [x.approval_id for x in bench.of(e.ApprovalRequested)] == ["a1", "a2"]
    await bench.say(answer("approve"))  # the old one again: it moves nothing
    assert status_of(bench.state()) == (Status.WAITING, "approval")
    await bench.say(answer("approve", "a2"))
    state = await bench.drive()
    assert [c.approval_id for c in bench.of(e.CallIntended)] == ["a1", "a2"]
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED


async def test_an_approval_is_bound_to_the_tree_it_was_asked_for() -> None:
    """DESIGN: hash(tool, arguments, tree, policy)."""
    bench = Bench(Script("pay", Effect.WORKSPACE, where="worker"))
    await bench.submit(task(step("a", "pay"), policy=ASK))
    await bench.drive_and_die(10)
    bench.workspaces.files["task_1"]["README"] = "somebody was here"
    await bench.say(answer("approve"))
    await bench.drive_and_die(10)
    asked = bench.of(e.ApprovalRequested)
    assert len(asked) == 2 and asked[0].digest != asked[1].digest
    assert asked[0].tree_before != asked[1].tree_before
    assert not bench.scripts["pay"].calls


async def test_nobody_writes_between_an_approval_and_its_call() -> None:
    """An earlier step took the lane first, the tree changed, and the person was asked again."""
    write = Script("write", Effect.WORKSPACE, where="worker")
    pay = Script("pay", Effect.WORKSPACE, where="worker")
    look = Script("look", answers=[5.0])
    bench = Bench(write, pay, look)
    write.work = lambda _: bench.workspaces.files["task_1"].update(a="changed")

    async def approve(rows: object) -> None:
        if bench.of(e.ApprovalRequested) and not bench.of(e.ApprovalDecided):
            bench.hook = None
            await bench.say(answer("approve"))

    bench.hook = approve
    state = await bench.run(
        task(
            # `first` may write as soon as `look` is done, and comes before `a` in the plan.
            step("look", "look"),
            step("first", "write", needs=["look"]),
            step("a", "pay"),
            policy=ASK,
        )
    )
    assert len(bench.of(e.ApprovalRequested)) == 1
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED


async def test_a_pending_approval_holds_the_write_lane() -> None:
    write, look = Script("write", Effect.WORKSPACE, where="worker"), Script("look")
    bench = Bench(Script("pay", Effect.WORKSPACE, where="worker"), write, look)
    await bench.submit(task(step("a", "pay"), step("b", "write"), step("c", "look"), policy=ASK))
    await bench.drive_and_die(100)
    assert not write.calls
    assert len(look.calls) == 1, "reading goes on"


async def test_a_policy_of_deny_never_asks() -> None:
    bench = Bench(Script("pay"))
    state = await bench.run(task(step("a", "pay"), policy={"approvals": {"pay": "deny"}}))
    assert not bench.of(e.ApprovalRequested)
    assert state.conclusion is not None and "(denied)" in state.conclusion.reason


async def test_a_model_hears_that_a_person_said_no() -> None:
    bench = Bench(Script("pay"), answers=[asks("pay")])
    await bench.submit(task(tools=["pay"], policy=ASK))
    await bench.drive_and_die(10)
    await bench.say(answer("deny"))
    state = await bench.drive()
    denied = [m.text for m in state.conversation.messages if m.role == "tool"]
    assert denied == ["'pay' was not approved"]
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED


async def test_an_answer_for_a_step_that_was_aborted_moves_nothing() -> None:
    """It used to raise IllegalEvent at the person who answered."""
    bench = Bench(Script("pay"), Script("bad", answers=[NO]), Script("slow", answers=[50.0]))
    await bench.submit(task(step("a", "pay"), step("b", "bad"), step("c", "slow"), policy=ASK))
    await bench.drive_and_die(10)
    assert bench.state().steps["a"].status == "skipped"
    after = await bench.say(answer("approve"))
    assert after.steps["a"].status == "skipped"
    state = await bench.drive()
    assert state.conclusion is not None and state.conclusion.status is Status.FAILED


async def test_a_yes_for_the_task_holds_for_that_tool_where_that_rule_asks() -> None:
    bench = Bench(Script("pay", Effect.ONCE), Script("post", Effect.ONCE))
    steps = (step("a", "pay"), step("b", "pay", needs=["a"]), step("c", "post", needs=["b"]))
    await bench.submit(task(*steps, policy={"approvals": {"*": "ask"}}))
    await bench.drive_and_die(10)
    await bench.say(e.ApprovalDecided(approval_id="a1", decision="approve", by="me", scope="task"))
    await bench.drive_and_die(10)
    assert [c.approval_id for c in bench.of(e.CallIntended)] == ["a1", "a1"]
    # The rule asks about every tool: a yes for one is none for another.
    assert [x.tool for x in bench.of(e.ApprovalRequested)] == ["pay", "post"]


async def test_a_call_is_made_with_the_arguments_that_a_person_put_in_place() -> None:
    bench = Bench(Script("pay", Effect.ONCE, [NO]))
    await bench.submit(task(step("a", "pay", args={"text": "900"}, retry=1), policy=ASK))
    await bench.drive_and_die(10)
    await bench.say(
        e.ApprovalDecided(approval_id="a1", decision="approve", by="me", arguments={"text": "9"})
    )
    await bench.drive_and_die(10)
    assert [dict(c.arguments) for c in bench.scripts["pay"].calls] == [{"text": "9"}]
    assert bench.of(e.CallIntended)[0].arguments == {"text": "9"}
    # It failed and is tried again: the next yes is about the plan's own arguments.
    assert [x.arguments for x in bench.of(e.ApprovalRequested)] == [{"text": "900"}] * 2


async def test_a_model_hears_that_its_call_was_made_with_other_arguments() -> None:
    bench = Bench(Script("pay"), answers=[asks(("pay", {"text": "900"}))])
    await bench.submit(task(tools=["pay"], policy=ASK))
    await bench.drive_and_die(10)
    await bench.say(
        e.ApprovalDecided(approval_id="a1", decision="approve", by="me", arguments={"text": "9"})
    )
    state = await bench.drive()
    (heard,) = [m.text for m in state.conversation.messages if m.role == "tool"]
    assert heard.startswith('[A person allowed this call with other arguments: {"text":"9"}]')
    assert dict(bench.scripts["pay"].calls[0].arguments) == {"text": "9"}


async def test_edited_arguments_meet_the_policy_too() -> None:
    bench = Bench(Script("pay", Effect.ONCE))
    approvals = {"pay": "ask", "pay(text=mallory)": "deny"}
    await bench.submit(
        task(step("a", "pay", args={"text": "bob"}), policy={"approvals": approvals})
    )
    await bench.drive_and_die(10)
    await bench.say(
        e.ApprovalDecided(
            approval_id="a1", decision="approve", by="me", arguments={"text": "mallory"}
        )
    )
    state = await bench.drive()
    assert not bench.scripts["pay"].calls
    assert state.conclusion is not None and "(denied)" in state.conclusion.reason
