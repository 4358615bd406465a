"""Re-opening an ended task: what goes on, what is new, what is refused; kills lose nothing."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from agent_runtime.errors import Conflict, UsageError
from agent_runtime.loop import events as e
from agent_runtime.loop.continuing import continuation, earlier_steps
from agent_runtime.loop.journal import append_fact
from agent_runtime.loop.state import State, status_of
from agent_runtime.loop.stopping import Stop
from agent_runtime.stores.memory import MemoryStore
from agent_runtime.testing import says
from agent_runtime.types import (
    ArtifactSpec,
    Check,
    ContinuationSpec,
    Effect,
    Limits,
    LimitsChange,
    Objective,
    PlanSpec,
    Row,
    Status,
    StepSpec,
    StepStatus,
)
from tests.loop.harness import FOREVER, NO, TASK, Bench, Script, asks, step, task

pytestmark = pytest.mark.anyio
DONE = says("done", tokens=10)


def more(*steps: StepSpec, **others: Any) -> ContinuationSpec:
    """A continuation with a plan, if there are steps."""
    return ContinuationSpec(plan=PlanSpec(steps=list(steps)) if steps else None, **others)


async def reopen(bench: Bench, wish: ContinuationSpec) -> State:
    """The task is pending again."""
    return await append_fact(
        MemoryStore(bench.shared),
        bench.clock,
        bench.bus,
        TASK,
        lambda state: e.Continued(by="me", message=wish.message, spec=continuation(state, wish)),
    )


async def go_on(bench: Bench, wish: ContinuationSpec) -> State:
    """Continue and drive as far as it goes."""
    await reopen(bench, wish)
    return await bench.drive()


async def drive_until_asked(bench: Bench) -> State:
    """Stop the driver when somebody is asked: nobody answers on virtual time."""
    stop = Stop()

    async def look(rows: Sequence[Row]) -> None:
        if any(row.type == "ApprovalRequested" for row in rows):
            stop.set()

    bench.hook = look
    state = await bench.drive(stop=stop)
    bench.hook = None
    return state


def conclusions(bench: Bench) -> list[Status]:
    return [event.status for event in bench.of(e.TaskConcluded)]


def writing(bench: Bench, name: str = "made") -> Callable[[object], None]:
    """What a tool does that writes a file."""
    return lambda _: bench.workspaces.files["task_1"].update({name: "yes"})


# ---- what goes on ------------------------------------------------------------------------


async def test_new_steps_run_on_the_last_tree_and_read_earlier_results() -> None:
    bench = Bench(write := Script("write", Effect.WORKSPACE), look := Script("look"))
    write.work = writing(bench)
    first = await bench.run(task(step("a", "write"), tools=["look"]))
    bench.workspaces.files.clear()  # nothing of the working copy is left
    await reopen(bench, more(step("b", "look", args={"text": "{{ steps.a.output }}"}, needs=["a"])))
    state = await bench.drive()
    assert (state.run, conclusions(bench)) == (2, [Status.SUCCEEDED] * 2)
    assert look.calls[0].arguments == {"text": "ok"}
    assert bench.workspaces.files["task_1"] == {"README": "hello", "made": "yes"}
    opened = bench.of(e.WorkspaceOpened)
    assert opened[0] == opened[1], "the base is the one that the task began with"
    assert state.verification is not None and first.verification is not None
    assert state.verification.base_tree == first.verification.base_tree


async def test_a_new_allotment_begins_and_the_totals_stay_known() -> None:
    bench = Bench(Script("look", answers=[1.0, 1.0, 1.0]))
    spec = task(step("a", "look"), step("b", "look"), limits=Limits(steps=2))
    await bench.run(spec)
    state = await go_on(bench, more(step("c", "look"), limits=LimitsChange(seconds=60)))
    assert (state.usage.steps, state.total.steps) == (1, 3)
    assert state.total.running_us > state.usage.running_us >= 1_000_000
    assert (state.task.limits.steps, state.task.limits.seconds) == (2, 60)


async def test_what_a_limit_cut_off_goes_on_without_a_plan() -> None:
    bench = Bench(look := Script("look"))
    spec = task(step("a", "look"), step("b", "look", needs=["a"]), limits=Limits(steps=1))
    assert status_of(await bench.run(spec))[0] is Status.FAILED
    state = await go_on(bench, more(limits=LimitsChange(steps=5)))
    assert conclusions(bench) == [Status.FAILED, Status.SUCCEEDED]
    assert [call.call_id for call in look.calls] == ["a.1", "b.1"], "no finished step is repeated"
    assert [plan.source for plan in bench.of(e.PlanAdopted)] == ["given", "unfinished"]
    assert state.steps["b"].status is StepStatus.DONE


async def test_a_plan_of_its_own_gives_up_what_had_not_ended() -> None:
    bench = Bench(look := Script("look"))
    spec = task(step("a", "look"), step("b", "look", needs=["a"]), limits=Limits(steps=1))
    await bench.run(spec)
    state = await go_on(bench, more(step("c", "look")))
    assert [call.call_id for call in look.calls] == ["a.1", "c.1"]
    assert state.steps["b"].status is StepStatus.SKIPPED
    assert conclusions(bench)[-1] is Status.SUCCEEDED


async def test_a_plan_that_was_never_begun_is_begun() -> None:
    bench = Bench(look := Script("look"))
    await bench.submit(task(step("a", "look")))
    await bench.say(e.CancelRequested(by="me"))
    await bench.drive()
    await go_on(bench, more())
    assert conclusions(bench) == [Status.CANCELLED, Status.SUCCEEDED]
    assert [call.call_id for call in look.calls] == ["a.1"]


async def test_an_effect_that_is_unknown_is_never_repeated_by_going_on() -> None:
    """A once-only call without a result stays one: a person decides, as before."""
    bench = Bench(pay := Script("pay", Effect.ONCE, [FOREVER]))
    await bench.submit(task(step("a", "pay")))
    await bench.drive_and_die(1)
    await bench.say(e.CancelRequested(by="me"))
    await bench.drive()
    await reopen(bench, more())
    assert status_of(await drive_until_asked(bench)) == (Status.WAITING, "unknown_effect")
    asked = bench.of(e.ApprovalRequested)[-1]
    await bench.say(e.ApprovalDecided(approval_id=asked.approval_id, decision="approve", by="me"))
    await bench.drive()
    assert conclusions(bench) == [Status.CANCELLED, Status.SUCCEEDED]
    assert len(pay.calls) == 1


async def test_what_a_person_allowed_is_asked_again_in_the_next_run() -> None:
    bench = Bench(Script("look"))
    await bench.submit(task(step("a", "look"), policy={"approvals": {"look": "ask"}}))
    await drive_until_asked(bench)
    await bench.say(e.CancelRequested(by="me"))
    await bench.drive()
    await reopen(bench, more())
    state = await drive_until_asked(bench)
    assert status_of(state) == (Status.WAITING, "approval")
    assert [asked.approval_id for asked in bench.of(e.ApprovalRequested)] == ["a1", "a2"]


async def test_a_model_is_told_in_the_same_conversation_and_gets_a_step_of_its_own() -> None:
    bench = Bench(Script("look"), answers=[asks("look"), DONE, DONE])
    await bench.run(task(tools=["look"]))
    state = await go_on(bench, ContinuationSpec(message="and the docs"))
    assert list(state.steps) == ["work", "work_2"]
    before, after = bench.model.requests[1].messages, bench.model.requests[2].messages
    assert after[: len(before)] == before
    assert "and the docs" in after[-2].text
    assert conclusions(bench) == [Status.SUCCEEDED] * 2


async def test_a_model_may_plan_again_as_often_in_every_run() -> None:
    verdicts = iter([False] * 6 + [True] * 2)
    bench = Bench(judge=lambda files: next(verdicts), answers=[DONE] * 9)
    await bench.run(task())
    assert conclusions(bench) == [Status.UNVERIFIED]
    await go_on(bench, ContinuationSpec(message="once more"))
    assert conclusions(bench) == [Status.UNVERIFIED, Status.SUCCEEDED]


async def test_objectives_alone_have_the_result_checked_anew() -> None:
    bench = Bench(look := Script("look"))
    await bench.run(task(step("a", "look"), objectives=[]))
    check = Objective(id="ok", check=Check(command="true"))
    state = await go_on(bench, more(objectives=[check]))
    assert conclusions(bench) == [Status.UNVERIFIED, Status.SUCCEEDED]
    assert state.task.objectives == [check] and len(look.calls) == 1


async def test_an_objective_takes_the_place_of_the_one_with_its_id() -> None:
    bench = Bench(Script("look"))
    await bench.run(task(step("a", "look")))
    other = [
        Objective(id="ok", check=Check(command="false")),
        Objective(id="new", check=Check(command="true")),
    ]
    spec = continuation(bench.state(), more(objectives=other, protect=["x"]))
    assert (spec.objectives, spec.protect) == (other, ["x"])


# ---- what is refused ---------------------------------------------------------------------


async def test_without_anything_to_do_the_way_out_is_told() -> None:
    bench = Bench(Script("look"), answers=[DONE])
    await bench.run(task(step("a", "look")))
    with pytest.raises(UsageError, match=r"nothing to do: every step .* --file FILE"):
        continuation(bench.state(), ContinuationSpec(message="do it"))
    with_model = msgspec.structs.replace(
        bench.state(), spec=msgspec.structs.replace(bench.state().task, model="m")
    )
    with pytest.raises(UsageError, match="tell the model what is left"):
        continuation(with_model, ContinuationSpec())


async def test_a_task_that_has_not_ended_is_told_to_be_steered() -> None:
    bench = Bench(Script("look"))
    await bench.submit(task(step("a", "look")))
    with pytest.raises(Conflict, match=r"is pending.*agent-runtime steer"):
        continuation(bench.state(), more(step("b", "look")))


async def test_ids_of_earlier_steps_are_taken_and_failed_ones_cannot_be_needed() -> None:
    bench = Bench(Script("look"), Script("fail", answers=[NO]))
    await bench.run(task(step("a", "look"), step("b", "fail", needs=["a"])))
    assert earlier_steps(bench.state()) == {"a": True, "b": False}
    with pytest.raises(UsageError, match="'a' stood in an earlier plan"):
        continuation(bench.state(), more(step("a", "look")))
    with pytest.raises(UsageError, match="'b'"):
        continuation(bench.state(), more(step("c", "look", needs=["b"])))


@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.UNVERIFIED, Status.FAILED,
                                    Status.CANCELLED])  # fmt: skip
async def test_every_kind_of_end_can_be_continued_again_and_again(status: Status) -> None:
    bench = Bench(
        Script("look", answers=[NO] if status is Status.FAILED else []),
        judge=lambda files: status is not Status.UNVERIFIED,
    )
    await bench.submit(task(step("a", "look")))
    if status is Status.CANCELLED:
        await bench.say(e.CancelRequested(by="me"))
    await bench.drive()
    assert conclusions(bench) == [status]
    for run in range(2, 5):
        state = await go_on(bench, more(step(f"r{run}", "look")))
        assert state.ended and state.run == run
    assert state.earlier[0].conclusion.status is status


async def test_of_two_who_continue_at_once_one_wins() -> None:
    bench = Bench(Script("look"))
    await bench.run(task(step("a", "look")))
    await reopen(bench, more(step("b", "look")))
    with pytest.raises(Conflict, match="is pending"):
        await reopen(bench, more(step("c", "look")))


# ---- kills, artifacts --------------------------------------------------------------------


async def test_a_continued_task_survives_kills_like_any_other() -> None:
    bench = Bench(write := Script("write", Effect.WORKSPACE, [], where="worker"))
    write.work = writing(bench)
    await bench.run(task(step("a", "write")))
    write.answers, write.work = [FOREVER], writing(bench, "half")
    await reopen(bench, more(step("b", "write")))
    await bench.drive_and_die(1)
    write.work = writing(bench, "whole")
    state = await bench.drive()
    assert conclusions(bench) == [Status.SUCCEEDED] * 2
    assert set(bench.workspaces.files["task_1"]) == {"README", "made", "whole"}
    assert state.tree == bench.workspaces.tree_of("task_1")


async def test_a_required_artifact_that_is_missing_ends_unverified() -> None:
    bench = Bench(write := Script("write", Effect.WORKSPACE))
    wanted = [ArtifactSpec(path="made", required=True), ArtifactSpec(path="*.log")]
    state = await bench.run(task(step("a", "write"), artifacts=wanted))
    assert status_of(state) == (
        Status.UNVERIFIED,
        "artifact_missing: every check passed, and no file is made",
    )
    write.work = writing(bench)
    state = await go_on(bench, more(step("b", "write")))
    assert conclusions(bench)[-1] is Status.SUCCEEDED
    assert state.kept is not None
    assert [artifact.path for artifact in state.kept.artifacts] == ["made"]
    assert state.kept.missing == ["*.log"], "named, and not fatal"


async def test_artifacts_of_a_task_that_failed_are_kept_too() -> None:
    bench = Bench(write := Script("write", Effect.WORKSPACE, [NO]))
    write.work = writing(bench)
    state = await bench.run(task(step("a", "write"), artifacts=[ArtifactSpec(path="made")]))
    assert conclusions(bench) == [Status.FAILED]
    assert state.kept is not None and [a.path for a in state.kept.artifacts] == ["made"]
    assert bench.events().index(state.kept) < len(bench.events()) - 2, "before the cleanup"
