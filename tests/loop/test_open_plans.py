"""A plan without steps is open: calls come from outside, until the task is cancelled."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from agent_runtime.errors import Conflict, UsageError
from agent_runtime.loop import events as e
from agent_runtime.loop.replay import replay
from agent_runtime.loop.state import State, status_of
from agent_runtime.runtime import Runtime
from agent_runtime.types import (
    Effect,
    PlanSpec,
    Policy,
    Status,
    TaskSpec,
    ToolResult,
    WorkspaceSpec,
)
from tests.loop.harness import FOREVER, NO, TASK, Bench, Script, task

pytestmark = pytest.mark.anyio

DAEMON = Policy(tools=["look", "put", "send"])


def session(policy: Policy = DAEMON) -> TaskSpec:
    repo = WorkspaceSpec(repo="/repo")
    return TaskSpec(goal="calls", workspace=repo, plan=PlanSpec(steps=[]), policy=policy)


@asynccontextmanager
async def driven(bench: Bench) -> AsyncIterator[Runtime]:
    """Some process drives whatever can be driven; in the end it is killed."""
    store = bench.store()
    runtime = Runtime(bench.ports(store), state_dir="/nowhere")
    async with anyio.create_task_group() as tg:
        tg.start_soon(runtime.supervisor.run_until_stopped)
        yield runtime
        store.crash()
        tg.cancel_scope.cancel()
    assert (different := replay(bench.rows()).difference) is None, different


async def until(runtime: Runtime, wanted: Callable[[State], bool]) -> State:
    with anyio.fail_after(3600):
        while not wanted(state := await runtime.state(TASK)):
            await anyio.sleep(0.5)
    return state


async def ended(runtime: Runtime, *names: str) -> State:
    return await until(runtime, lambda state: state.past.issuperset(names))


async def test_calls_are_made_as_they_come_and_the_task_waits_for_more() -> None:
    bench = Bench(look := Script("look"), put := Script("put", Effect.IDEMPOTENT))
    await bench.submit(session())
    async with driven(bench) as runtime:
        await runtime.request_call(TASK, "c1", "look", {"text": "{{ goal }}"}, by="me")
        await runtime.request_call(TASK, "c2", "put", {"text": "b"}, by="me")
        state = await ended(runtime, "c1", "c2")
        assert status_of(state) == (Status.WAITING, "calls")
        assert not state.steps and not state.front
    assert [call.arguments for call in look.calls] == [{"text": "{{ goal }}"}], "it is data"
    assert [call.arguments for call in put.calls] == [{"text": "b"}]


async def test_a_call_of_the_same_name_is_made_once() -> None:
    bench = Bench(look := Script("look"))
    await bench.submit(session())
    async with driven(bench) as runtime:
        assert await runtime.request_call(TASK, "c1", "look", {}, by="me")
        assert await runtime.request_call(TASK, "c1", "look", {}, by="me") is None
        await ended(runtime, "c1")
        assert await runtime.request_call(TASK, "c1", "look", {}, by="me") is None
    assert len(look.calls) == 1


async def test_a_failed_call_ends_no_other() -> None:
    bench = Bench(look := Script("look", answers=[NO]))
    await bench.submit(session())
    async with driven(bench) as runtime:
        await runtime.request_call(TASK, "c1", "look", {}, by="me")
        await ended(runtime, "c1")
        await runtime.request_call(TASK, "c2", "nothing_such", {}, by="me")
        await runtime.request_call(TASK, "c3", "look", {}, by="me")
        await ended(runtime, "c1", "c2", "c3")
    assert len(look.calls) == 2
    failed = bench.of(e.StepFailed)
    assert {f.step_id: f.kind for f in failed} == {"c1": "failed", "c2": "not_found"}


async def test_what_is_withdrawn_is_not_begun_or_ended() -> None:
    """A running call ends like one of a cancelled task; others go on."""
    bench = Bench(look := Script("look", answers=[FOREVER]), put := Script("put", Effect.ONCE))
    await bench.submit(session(Policy(tools=["look", "put"], approvals={"put": "ask"})))
    async with driven(bench) as runtime:
        await runtime.request_call(TASK, "c1", "look", {}, by="me")
        await runtime.request_call(TASK, "c2", "put", {}, by="me")
        await until(runtime, lambda state: bool(state.calls) and bool(state.approvals))
        await runtime.withdraw_call(TASK, "c1", by="me")
        await runtime.withdraw_call(TASK, "c2", by="me", reason="no")
        await runtime.withdraw_call(TASK, "c9", by="me", reason="nobody knows it")
        await ended(runtime, "c1", "c2")
        await runtime.request_call(TASK, "c3", "look", {}, by="me")
        state = await ended(runtime, "c3")
    assert not state.approvals
    assert (len(look.calls), put.calls) == (2, [])
    assert {skipped.step_id for skipped in bench.of(e.StepSkipped)} == {"c1", "c2"}


async def test_reads_run_beside_a_call_that_a_person_is_asked_about() -> None:
    bench = Bench(look := Script("look"), put := Script("put", Effect.ONCE))
    await bench.submit(session(Policy(tools=["look", "put"], approvals={"put": "ask"})))
    async with driven(bench) as runtime:
        await runtime.request_call(TASK, "c1", "put", {}, by="me")
        waiting = await until(runtime, lambda state: status_of(state)[1] == "approval")
        # Long enough for the task to be let go: it comes back for what can be done.
        await anyio.sleep(1000)
        await runtime.request_call(TASK, "c2", "look", {}, by="me")
        await ended(runtime, "c2")
        await runtime.decide_approval(TASK, None, "approve", by="me")
        await ended(runtime, "c1")
    assert waiting.approvals and len(look.calls) == len(put.calls) == 1


async def test_what_died_in_between_is_known_or_said_to_be_unknown() -> None:
    """Our contract: of effect once there is never a second call."""
    bench = Bench(
        look := Script("look", answers=[FOREVER]), send := Script("send", Effect.ONCE, [FOREVER])
    )
    await bench.submit(session(Policy(tools=["look", "send"], unknown_effect="fail")))
    async with driven(bench) as runtime:
        await runtime.request_call(TASK, "c1", "look", {}, by="me")
        await runtime.request_call(TASK, "c2", "send", {}, by="me")
        await until(runtime, lambda state: len(state.calls) == 2)
    async with driven(bench) as runtime:
        await ended(runtime, "c1", "c2")
    assert (len(look.calls), len(send.calls)) == (2, 1)
    assert [unknown.step_id for unknown in bench.of(e.EffectUnknown)] == ["c2"]
    assert [f.kind for f in bench.of(e.StepFailed)] == ["unknown_effect"]


async def test_it_ends_when_nobody_has_asked_for_long_and_takes_nothing_after_that() -> None:
    bench = Bench(Script("look", answers=[50.0]))
    await bench.submit(session())
    async with driven(bench) as runtime:
        assert not await runtime.end_if_idle(TASK, by="me", reason="idle"), "it is not begun"
        await runtime.request_call(TASK, "c1", "look", {}, by="me")
        await until(runtime, lambda state: bool(state.calls))
        assert not await runtime.end_if_idle(TASK, by="me", reason="idle"), "a call runs"
        await ended(runtime, "c1")
        assert not await runtime.end_if_idle(TASK, by="me", reason="idle", idle_seconds=60)
        await anyio.sleep(61)
        assert await runtime.end_if_idle(TASK, by="me", reason="idle", idle_seconds=60)
        with pytest.raises(Conflict):
            await runtime.request_call(TASK, "c2", "look", {}, by="me")
        state = await until(runtime, lambda state: state.ended)
    assert status_of(state) == (Status.CANCELLED, "cancelled by me: idle")


async def test_waiting_for_calls_costs_no_time_and_owners_that_die_meanwhile_are_no_loop() -> None:
    bench = Bench(Script("look"))
    await bench.submit(session())
    for number in range(22):
        async with driven(bench) as runtime:
            await until(runtime, lambda state: state.awaits_calls and state.alive)
            await anyio.sleep(100)
            if number == 21:
                await runtime.request_call(TASK, "c1", "look", {}, by="me")
                state = await ended(runtime, "c1")
    assert state.usage.running_us < 5e6 and state.crashes == 0


async def test_what_an_open_plan_has_ended_is_not_carried_along() -> None:
    """The state holds their names and nothing else."""
    bench = Bench(Script("look", answers=[ToolResult(ok=True, output="x" * 500)] * 60))
    await bench.submit(session())
    async with driven(bench) as runtime:
        for number in range(60):
            await runtime.request_call(TASK, f"c{number}", "look", {}, by="me")
        state = await ended(runtime, *(f"c{number}" for number in range(60)))
    assert not state.steps and len(state.past) == 60 and not state.conversation.messages


async def test_no_other_task_takes_calls() -> None:
    bench = Bench(Script("look"))
    await bench.submit(task())
    runtime = Runtime(bench.ports(bench.store()), state_dir="/nowhere")
    with pytest.raises(UsageError, match="a plan or a brain of its own"):
        await runtime.request_call(TASK, "c1", "look", {}, by="me")
