"""Forks: the first events of a task as the beginning of another, and what goes on from there."""

from collections.abc import Sequence
from typing import Any

import anyio
import msgspec
import pytest

from agent_runtime.errors import ConfigError, Conflict, NotFound, UsageError
from agent_runtime.forks import fork_task
from agent_runtime.loop import codec
from agent_runtime.loop import events as e
from agent_runtime.loop.driver import drive
from agent_runtime.loop.evolve import evolve, fold
from agent_runtime.loop.replay import replay
from agent_runtime.loop.state import State, status_of
from agent_runtime.loop.stopping import Stop
from agent_runtime.loop.stories import partings
from agent_runtime.messages import Brain, ModelChoice
from agent_runtime.testing import ScriptedModel
from agent_runtime.types import (
    AnsweredCall,
    AnswerSpec,
    Effect,
    ForkSpec,
    Policy,
    ResultSpec,
    Status,
    TaskId,
    TaskSpec,
    ToolResult,
    WorkspaceSpec,
)
from tests.loop import recorded
from tests.loop.harness import FOREVER, NO, TASK, Bench, Script, asks, step, task
from tests.simulation.forks import Fork, check_fork, fork_life
from tests.simulation.world import Life

SCENES = (
    "writes", "once", "idempotent and probe", "fallback", "approvals", "denied", "model pays",
    "model plans again", "mixed", "continued",
)  # fmt: skip


def fault_of(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


def forked(life: Life, wish: ForkSpec) -> Fork | None:
    """The fork at its end; None if the event is within an append, or the task ends with it."""
    try:
        return fork_life(life, wish)
    except BaseException as group:
        error = fault_of(group)
        if not isinstance(error, Conflict):
            raise
        assert "was decided together with events" in str(error) or "the task ends" in str(error)
        return None


def parts_rightly(life: Life, at: int) -> bool:
    """May what follows a fork at `at` differ from what followed there in the parent?

    What a call did outside is done and its result is not the fork's; an approval is for one task;
    a brain whose worker is lost hears so, and its last word waits for that; a run that was
    continued is continued by people.
    """
    state = State(task_id=life.state.task_id)
    for row, event in zip(life.rows[:at], life.events, strict=False):
        state = evolve(state, event, row.at_us)
    outside = {Effect.ONCE, Effect.PROBE}
    open_outside = any(call.intent.effect in outside for call in state.calls.values())
    granted = any(s.granted for s in state.steps.values())
    told = state.asking is not None and state.worker_used
    # Settling one lost call ends the worker of another one that only reads.
    beside = any(call.intent.effect is Effect.READ for call in state.calls.values())
    goes_on = any(isinstance(event, e.Continued) for event in life.events[at:])
    return open_outside or granted or told or beside or goes_on


@pytest.mark.parametrize("name", SCENES)
def test_every_event_of_a_task_is_a_place_for_a_fork_or_is_refused_with_the_reason(
    name: str,
) -> None:
    """Our contract: no change, no other story; the same spending; the parent stays as it was."""
    life = recorded.scene(name)
    before, summary = list(life.rows), life.world.shared.tasks[TaskId("task_0")].summary
    made = same = 0
    for at in range(1, len(before) + 1):
        fork = forked(life, ForkSpec(at=at))
        if fork is None:
            continue
        made += 1
        assert fork.rows[at].type == "Forked"
        copied = [(r.type, r.schema, r.at_us, r.data) for r in fork.rows[:at]]
        assert copied == [(r.type, r.schema, r.at_us, r.data) for r in before[:at]]
        codec.check_chain(fork.rows, task_id=fork.task_id)
        found = replay(fork.rows)
        assert found.ok, found.difference
        assert fork.state.usage.reserved_tokens == 0
        if parts_rightly(life, at):
            continue
        assert not partings(life.events, fork.events), f"forked at {at}"
        spent, usage = life.state.usage, fork.state.usage
        assert (usage.steps, usage.tokens) == (spent.steps, spent.tokens), f"forked at {at}"
        same += 1
    assert made >= 12 and same >= 6
    assert life.world.shared.tasks[TaskId("task_0")].rows == before
    assert life.world.shared.tasks[TaskId("task_0")].summary == summary
    assert not life.world.account.violations


def test_forks_of_lives_with_crashes_and_faults_keep_every_promise() -> None:
    """Varied tasks, forked somewhere, also with another model; owners of the fork die as well."""
    made = 0
    for number, life in enumerate(recorded.lives()[-12:]):
        at = len(life.rows) * (number % 5 + 1) // 6
        while check_fork(life, at, crashes=2, model=number % 3 == 0) is None:
            at -= 1
        made += 1
    assert made == 12


# ---- effects -----------------------------------------------------------------------------

pytest_anyio = pytest.mark.anyio


async def cut_at(bench: Bench, kind: type[e.Event], **fields: Any) -> int:
    """The number of the last such event of the parent."""
    return max(
        seq
        for seq, event in enumerate(bench.events(), 1)
        if isinstance(event, kind) and all(getattr(event, k) == v for k, v in fields.items())
    )


async def first_of(bench: Bench, kind: type[e.Event]) -> int:
    return next(seq for seq, event in enumerate(bench.events(), 1) if isinstance(event, kind))


async def fork(bench: Bench, wish: ForkSpec, of: TaskId = TASK, **ports: Any) -> TaskId:
    async def fine(spec: TaskSpec) -> None: ...

    store = bench.store()
    return await fork_task(of, wish, bench.ports(store, **ports), by="me", check=fine)


async def go_on(bench: Bench, task_id: TaskId, **ports: Any) -> State:
    store = bench.store()
    lease = await store.claim(task_id)
    state = await drive(lease, bench.ports(store, **ports))
    await store.release(lease)
    return state


def events_of(bench: Bench, task_id: TaskId) -> list[e.AnyEvent]:
    return [codec.decode(row) for row in bench.shared.tasks[task_id].rows]


def kinds_after_fork(bench: Bench, task_id: TaskId) -> list[str]:
    names = [type(event).__name__ for event in events_of(bench, task_id)]
    return names[names.index("Forked") :]


@pytest_anyio
async def test_a_call_that_can_happen_once_is_never_made_again_by_a_fork() -> None:
    """It ran in the parent, whatever came of it: the world outside is not forked."""
    bench = Bench(pay := Script("pay", Effect.ONCE))
    await bench.run(task(step("a", "pay"), policy={"unknown_effect": "continue"}))
    fork_id = await fork(bench, ForkSpec(at=await cut_at(bench, e.CallIntended)))
    state = await go_on(bench, fork_id)
    assert len(pay.calls) == 1
    [unknown] = [x for x in events_of(bench, fork_id) if isinstance(x, e.EffectUnknown)]
    assert f"it was running when the task was forked from {TASK}" in unknown.message
    assert state.unknown == (unknown,) and status_of(state)[0] is Status.SUCCEEDED


@pytest_anyio
async def test_an_idempotent_call_is_made_again_under_the_key_of_the_parent() -> None:
    """Its receiver recognises it: one effect. Later calls have keys of the fork's own."""
    bench = Bench(
        put := Script("put", Effect.IDEMPOTENT), post := Script("post", Effect.IDEMPOTENT)
    )
    await bench.run(task(step("a", "put"), step("b", "post", needs=["a"])))
    fork_id = await fork(bench, ForkSpec(at=await cut_at(bench, e.CallIntended, step_id="a")))
    await go_on(bench, fork_id)
    assert [call.idempotency_key for call in put.calls] == [f"{TASK}/a/first/0"] * 2
    assert [call.idempotency_key for call in post.calls] == [
        f"{TASK}/b/first/0", f"{fork_id}/b/first/0"
    ]  # fmt: skip


LATER = ToolResult(ok=False, output="busy", kind="transient")


@pytest_anyio
@pytest.mark.parametrize("answer", [FOREVER, LATER])
async def test_what_is_repeated_after_no_answer_has_the_key_of_the_first_try(
    answer: float | ToolResult,
) -> None:
    """The parent's try may have had its effect, wherever the fork begins after it."""
    bench = Bench(put := Script("put", Effect.IDEMPOTENT, answers=[answer]))
    await bench.run(task(step("a", "put", timeout_seconds=1.0)))
    assert len(put.calls) == 2
    first, again = await first_of(bench, e.CallIntended), await cut_at(bench, e.CallReturned)
    forks = 0
    for at in range(first, again):
        try:
            fork_id = await fork(bench, ForkSpec(at=at))
        except Conflict:
            continue
        await go_on(bench, fork_id)
        forks += 1
    assert forks > 1 and len(put.calls) > 3
    assert {call.idempotency_key for call in put.calls} == {f"{TASK}/a/first/0"}


@pytest_anyio
async def test_what_is_repeated_after_a_known_failure_has_a_key_of_the_fork() -> None:
    """A server may have remembered the failure under the old one."""
    bench = Bench(put := Script("put", Effect.IDEMPOTENT, answers=[NO]))
    await bench.run(task(step("a", "put", retry=1)))
    fork_id = await fork(bench, ForkSpec(at=await cut_at(bench, e.TimerFired) + 1))
    await go_on(bench, fork_id)
    assert put.calls[-1].idempotency_key == f"{fork_id}/a/first/1"


@pytest_anyio
async def test_a_probe_looks_for_what_the_parent_did() -> None:
    bench = Bench(post := Script("post", Effect.PROBE, probes=[True]))
    await bench.run(task(step("a", "post")))
    fork_id = await fork(bench, ForkSpec(at=await cut_at(bench, e.CallIntended)))
    assert status_of(await go_on(bench, fork_id))[0] is Status.SUCCEEDED
    assert len(post.calls) == 1 and not post.probes


@pytest_anyio
async def test_files_are_those_that_were_last_known_and_the_parent_keeps_its_own() -> None:
    bench = Bench(write := Script("write", Effect.WORKSPACE, where="worker"))
    names = iter("abcd")
    write.work = lambda call: bench.workspaces.files[call.task_id].update({next(names): "yes"})
    await bench.run(task(step("first", "write"), step("second", "write", needs=["first"])))
    at = await cut_at(bench, e.CallIntended, step_id="second")
    fork_id = await fork(bench, ForkSpec(at=at))
    assert bench.workspaces.files[fork_id] == {"README": "hello", "a": "yes"}
    await go_on(bench, fork_id)
    assert bench.workspaces.files[fork_id] == {"README": "hello", "a": "yes", "c": "yes"}
    assert bench.workspaces.files[TASK] == {"README": "hello", "a": "yes", "b": "yes"}


@pytest_anyio
async def test_a_task_in_place_is_forked_into_a_clone() -> None:
    """Two tasks never share a directory."""
    bench = Bench(Script("look"))
    spec = msgspec.structs.replace(
        task(step("a", "look")), workspace=WorkspaceSpec(repo="/repo", in_place=True)
    )
    await bench.run(spec)
    fork_id = await fork(bench, ForkSpec(at=await cut_at(bench, e.CallIntended)))
    state = await go_on(bench, fork_id)
    assert state.task.workspace == WorkspaceSpec(repo="/repo", in_place=False)
    assert state.workspace is not None and state.workspace.path == f"/fake/{fork_id}"


# ---- what a fork may have of its own -----------------------------------------------------


@pytest_anyio
async def test_another_result_leads_to_another_end_and_keeps_the_files() -> None:
    bench = Bench(write := Script("write", Effect.WORKSPACE, where="worker"))
    write.work = lambda call: bench.workspaces.files[call.task_id].update(made="yes")
    await bench.run(task(step("a", "write")))
    at = await cut_at(bench, e.CallReturned)
    said = ResultSpec(ok=False, output="no such file", exit=2)
    fork_id = await fork(bench, ForkSpec(at=at, result=said))
    state = await go_on(bench, fork_id)
    assert status_of(state) == (Status.FAILED, "step 'a' failed (failed): exit 2: no such file")
    events = events_of(bench, fork_id)
    told, was = events[at - 1], bench.events()[at - 1]
    assert isinstance(told, e.CallReturned) and isinstance(was, e.CallReturned)
    assert (told.ok, told.output, told.exit, told.kind) == (False, "no such file", 2, "failed")
    assert told.tree_after == was.tree_after and told.changed == was.changed
    assert bench.workspaces.files[fork_id]["made"] == "yes" and len(write.calls) == 1
    assert replay(bench.shared.tasks[fork_id].rows).ok


@pytest_anyio
async def test_another_answer_is_worked_on_in_place_of_the_model_s() -> None:
    bench = Bench(look := Script("look"), put := Script("put", Effect.IDEMPOTENT),
                  answers=[asks("look")])  # fmt: skip
    await bench.run(task(tools=["look", "put"]))
    at = await cut_at(bench, e.ModelReplied, turn=1)
    wish = ForkSpec(at=at, answer=AnswerSpec(text="rather so", calls=[AnsweredCall(name="put")]))
    fork_id = await fork(bench, wish)
    state = await go_on(bench, fork_id)
    assert status_of(state)[0] is Status.SUCCEEDED
    assert (len(look.calls), len(put.calls)) == (1, 1)
    said = bench.model.requests[-1].messages
    assert [m.text for m in said if m.role == "assistant"] == ["rather so"]
    assert replay(bench.shared.tasks[fork_id].rows).ok


@pytest_anyio
async def test_an_answer_that_ends_the_step_needs_no_call() -> None:
    bench = Bench(look := Script("look"), answers=[asks("look")])
    await bench.run(task(tools=["look"]))
    at = await cut_at(bench, e.ModelReplied, turn=1)
    state = await go_on(bench, await fork(bench, ForkSpec(at=at, answer=AnswerSpec(text="done"))))
    assert status_of(state)[0] is Status.SUCCEEDED and len(look.calls) == 1


class Named(ScriptedModel):
    """Reaches the model that the task names."""

    async def find(self, task: TaskSpec) -> Brain:
        if task.model == "nobody/here":
            return Brain(kind="none", offers=("name another one",))
        return Brain(kind="model", models=(ModelChoice(name=task.model or ""),))


@pytest_anyio
@pytest.mark.parametrize("kind", ["ModelCallStarted", "CallReturned", "WorkspaceOpened"])
async def test_another_model_thinks_from_there_on(kind: str) -> None:
    """Also where the old one was asked and has not answered: that reservation is given back."""
    bench = Bench(Script("look"), answers=[asks("look")])
    model = Named(bench.model.answers)
    await bench.submit(task(tools=["look"], model="one/model"))
    await bench.drive(model=model)
    rows = bench.rows()
    first = next(row.seq for row in rows if row.type == kind)
    at = next(last for begin, last in replay(rows).appends if begin <= first <= last)
    fork_id = await fork(bench, ForkSpec(at=at, model="other/model"), model=model)
    state = await go_on(bench, fork_id, model=model)
    assert status_of(state)[0] is Status.SUCCEEDED
    asked = [x.model for x in events_of(bench, fork_id)[at:] if isinstance(x, e.ModelCallStarted)]
    assert asked and set(asked) == {"other/model"}
    assert state.usage.reserved_tokens == 0 and state.task.model == "other/model"
    assert replay(bench.shared.tasks[fork_id].rows).ok


@pytest_anyio
async def test_a_model_that_nobody_can_reach_is_refused_and_nothing_is_stored() -> None:
    bench = Bench(Script("look"), answers=[asks("look")])
    model = Named(bench.model.answers)
    await bench.submit(task(tools=["look"], model="one/model"))
    await bench.drive(model=model)
    wish = ForkSpec(at=await cut_at(bench, e.CallIntended), model="nobody/here")
    with pytest.raises(ConfigError, match="'nobody/here' cannot be reached: name another one"):
        await fork(bench, wish, model=model)
    with pytest.raises(ConfigError, match="no installed adapter"):
        await fork(bench, wish, model=None)
    assert list(bench.shared.tasks) == [TASK]


@pytest_anyio
async def test_another_policy_holds_from_there_on() -> None:
    bench = Bench(look := Script("look"), put := Script("put", Effect.IDEMPOTENT))
    await bench.run(task(step("a", "look"), step("b", "put", needs=["a"])))
    policy = Policy(tools=["look", "put"], approvals={"put": "deny"})
    at = await cut_at(bench, e.CallIntended, step_id="a")
    state = await go_on(bench, await fork(bench, ForkSpec(at=at, policy=policy)))
    assert status_of(state)[0] is Status.FAILED and state.task.policy == policy
    assert (len(look.calls), len(put.calls)) == (2, 1)


@pytest_anyio
async def test_a_message_reaches_the_brain_of_the_fork() -> None:
    bench = Bench(Script("look"), answers=[asks("look")])
    await bench.run(task(tools=["look"]))
    wish = ForkSpec(at=await cut_at(bench, e.CallIntended), message="mind the tests")
    fork_id = await fork(bench, wish)
    await go_on(bench, fork_id)
    assert any("mind the tests" in m.text for m in bench.model.requests[-1].messages)
    [event] = [x for x in events_of(bench, fork_id) if isinstance(x, e.Forked)]
    assert event.replaced == ["message"]


# ---- what was going on -------------------------------------------------------------------


@pytest_anyio
async def test_a_pending_approval_is_asked_for_again_and_a_granted_one_is_not_the_fork_s() -> None:
    """An approval is for one call of one task."""
    bench = Bench(pay := Script("pay", Effect.ONCE))
    await bench.submit(task(step("a", "pay"), policy={"approvals": {"pay": "ask"}}))
    stop = Stop()

    async def look(rows: Sequence[Any]) -> None:
        if any(row.type == "ApprovalRequested" for row in rows):
            stop.set()

    bench.hook = look
    await bench.drive(stop=stop)
    bench.hook = None
    asked = await cut_at(bench, e.ApprovalRequested)
    await bench.say(e.ApprovalDecided(approval_id="a1", decision="approve", by="me"))
    decided = await cut_at(bench, e.ApprovalDecided)
    await bench.drive()
    assert len(pay.calls) == 1
    for at in (asked, decided):
        fork_id = await fork(bench, ForkSpec(at=at))
        state = fold_of(bench, fork_id)
        assert not state.approvals and not state.steps["a"].granted
        await go_on(bench, fork_id)  # nobody answers, and in the end it expires
        assert kinds_after_fork(bench, fork_id).count("ApprovalRequested") == 1
    assert len(pay.calls) == 1


def fold_of(bench: Bench, task_id: TaskId) -> State:
    rows = bench.shared.tasks[task_id].rows
    return fold(((codec.decode(r), r.at_us) for r in rows), State(task_id=task_id))


@pytest_anyio
async def test_a_task_that_is_still_driven_can_be_forked() -> None:
    """Its rows are only read."""
    bench = Bench(look := Script("look", answers=[5.0, 0.1]))
    await bench.submit(task(step("a", "look")))
    async with anyio.create_task_group() as tg:
        tg.start_soon(bench.drive)
        await anyio.sleep(1)
        at = await cut_at(bench, e.CallIntended)
        fork_id = await fork(bench, ForkSpec(at=at))
        assert status_of(await go_on(bench, fork_id))[0] is Status.SUCCEEDED
        assert not bench.state().ended
    assert status_of(bench.state())[0] is Status.SUCCEEDED and len(look.calls) == 2


@pytest_anyio
async def test_a_paused_parent_has_a_fork_that_goes_on() -> None:
    bench = Bench(Script("look"))
    await bench.submit(task(step("a", "look")))
    await bench.say(e.PauseRequested(by="me"))
    fork_id = await fork(bench, ForkSpec(at=2))
    assert status_of(await go_on(bench, fork_id))[0] is Status.SUCCEEDED
    assert bench.state().paused


@pytest_anyio
async def test_a_fork_can_be_forked_and_continued() -> None:
    bench = Bench(put := Script("put", Effect.IDEMPOTENT))
    await bench.run(task(step("a", "put"), step("b", "put", needs=["a"])))
    at = await cut_at(bench, e.CallIntended, step_id="a")
    child = await fork(bench, ForkSpec(at=at))
    # Right behind the event that made it a fork: the open call is still the grandparent's.
    grandchild = await fork(bench, ForkSpec(at=at + 1), of=child)
    state = await go_on(bench, grandchild)
    assert status_of(state)[0] is Status.SUCCEEDED
    assert state.forked is not None and (state.forked.parent, state.forked.at) == (child, at + 1)
    assert put.calls[-2].idempotency_key == f"{TASK}/a/first/0"
    assert put.calls[-1].idempotency_key == f"{grandchild}/b/first/0"
    assert replay(bench.shared.tasks[grandchild].rows).ok


# ---- refusals ----------------------------------------------------------------------------


@pytest_anyio
async def test_what_is_no_place_for_a_fork_is_refused_with_the_way_out() -> None:
    bench = Bench(Script("look", answers=[NO]), answers=[])
    await bench.run(task(step("a", "look")))
    last = len(bench.rows())
    with pytest.raises(NotFound, match=f"there is no event 99: the log ends at {last}"):
        await fork(bench, ForkSpec(at=99))
    with pytest.raises(Conflict, match=f"the task ends with event {last}"):
        await fork(bench, ForkSpec(at=last))
    with pytest.raises(Conflict, match="event 2 was decided together with events 2 to 3"):
        await fork(bench, ForkSpec(at=2))
    returned = await cut_at(bench, e.CallReturned)
    with pytest.raises(UsageError, match=f"not the result of a call; those are {returned}$"):
        await fork(bench, ForkSpec(at=1, result=ResultSpec()))
    with pytest.raises(UsageError, match="not a model's answer; this log has none"):
        await fork(bench, ForkSpec(at=1, answer=AnswerSpec()))
    with pytest.raises(UsageError, match="give one"):
        await fork(bench, ForkSpec(at=returned, answer=AnswerSpec(), result=ResultSpec()))
    assert list(bench.shared.tasks) == [TASK]


@pytest_anyio
async def test_a_log_that_is_decided_differently_is_forked_before_the_difference_only() -> None:
    """Nobody could tell what belongs together there."""
    bench = Bench(Script("look", answers=[NO]))
    await bench.run(task(step("a", "look", retry=1)))
    rows = bench.shared.tasks[TASK].rows
    seq = await cut_at(bench, e.StepEvaluated)
    bad = rows[seq - 1].data.replace(b'"verdict":"failed"', b'"verdict":"continue"')
    forged = [msgspec.structs.replace(r, data=bad) if r.seq == seq else r for r in rows]
    bench.shared.tasks[TASK].rows[:] = codec.copied(forged, TASK)
    begins = await cut_at(bench, e.CallReturned, call_id="a.1")
    with pytest.raises(Conflict, match=f"decides the log differently after event {begins - 1}"):
        await fork(bench, ForkSpec(at=seq))
    await go_on(bench, await fork(bench, ForkSpec(at=begins - 1)))


@pytest_anyio
async def test_a_parent_whose_files_are_gone_is_refused() -> None:
    bench = Bench(Script("look"))
    await bench.run(task(step("a", "look")))
    bench.workspaces.trees.clear()
    with pytest.raises(Conflict, match=r"cannot be forked: the versions .* are gone"):
        await fork(bench, ForkSpec(at=await cut_at(bench, e.CallIntended)))
    assert list(bench.shared.tasks) == [TASK]
