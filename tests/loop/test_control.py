"""Cancel, pause, resume, steer and a graceful stop, in every phase."""

from collections.abc import Sequence

import anyio
import pytest

from agent_runtime.loop import budget, codec
from agent_runtime.loop import events as e
from agent_runtime.loop.state import status_of
from agent_runtime.loop.stopping import Stop
from agent_runtime.types import Effect, Phase, Row, Status, TaskId
from tests.loop.harness import FOREVER, NO, Answer, Bench, Script, step, task

pytestmark = pytest.mark.anyio

TOUR = task(
    step("belt", "special"),
    step("flaky", "flaky", retry=1, needs=["belt"]),
    step("write", "write", needs=["flaky"]),
    limits={"seconds": 3600.0},
)
"""A plan that takes a task through every phase."""


def tour() -> Bench:
    return Bench(
        Script("special", toolbelt="extra"),
        Script("flaky", answers=[NO]),
        Script("write", Effect.WORKSPACE, where="worker"),
    )


def when(bench: Bench, phase: Phase, *facts: e.OutsideFact) -> None:
    """Append `facts` from outside as soon as the log says that the task is in `phase`."""

    async def look(rows: Sequence[Row]) -> None:
        entered = [x for x in map(codec.decode, rows) if isinstance(x, e.PhaseEntered)]
        if any(x.phase is phase for x in entered):
            bench.hook = None
            for fact in facts:
                await bench.say(fact)

    async def once(rows: Sequence[Row]) -> None:
        if bench.hook is not None:
            await look(rows)

    bench.hook = once


PHASES = [phase for phase in Phase if phase is not Phase.IDLE]


async def test_one_task_goes_through_all_eleven_phases() -> None:
    bench = tour()
    state = await bench.run(TOUR)
    assert {x.phase for x in bench.of(e.PhaseEntered)} == set(PHASES)
    assert state.phase is Phase.IDLE
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED


@pytest.mark.parametrize("phase", PHASES)
async def test_a_cancel_ends_the_task_in_every_phase(phase: Phase) -> None:
    """Before its terminal decision; that one wins over a later cancel."""
    bench = tour()
    when(bench, phase, e.CancelRequested(by="me"))
    state = await bench.run(TOUR)
    assert state.ended and state.conclusion is not None
    late = phase is Phase.STATE_CLEANUP
    assert state.conclusion.status is (Status.SUCCEEDED if late else Status.CANCELLED)
    assert bench.workspaces.closed == ["task_1"]
    concluded = [type(x).__name__ for x in bench.events()].index("TaskConcluded")
    assert not any(isinstance(x, e.CallIntended) for x in bench.events()[concluded:])


@pytest.mark.parametrize("phase", PHASES)
async def test_a_pause_stops_in_every_phase_and_a_resume_goes_on(phase: Phase) -> None:
    bench = tour()
    when(bench, phase, e.PauseRequested(by="me"))
    state = await bench.run(TOUR)
    if phase is not Phase.STATE_CLEANUP:
        assert status_of(state) == (Status.PAUSED, "") and not state.alive
        await anyio.sleep(100_000)  # more than limits.seconds
        await bench.say(e.ResumeRequested(by="me"))
        state = await bench.drive()
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED
    assert state.usage.running_us < 60e6, "a pause is not running time"
    assert state.crashes == 0, "a pause is no crash"


@pytest.mark.parametrize("phase", PHASES)
async def test_a_message_is_heard_in_every_phase(phase: Phase) -> None:
    bench = tour()
    when(bench, phase, e.Steered(by="me", message="hurry"))
    state = await bench.run(TOUR)
    assert state.conversation.notes == ("me says: hurry",), "a brain would hear it next"
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED


@pytest.mark.parametrize("phase", PHASES)
async def test_labels_and_priority_are_changed_in_every_phase(phase: Phase) -> None:
    bench = tour()
    when(bench, phase, e.TaskChanged(by="me", labels={"a": "b"}), e.TaskChanged(by="x", priority=9))
    state = await bench.run(TOUR)
    assert (state.task.labels, state.task.priority) == ({"a": "b"}, 9)
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED
    summary = await bench.store().summary(TaskId(state.task_id))
    assert (summary.labels, summary.priority) == ({"a": "b"}, 9)


@pytest.mark.parametrize("phase", PHASES)
async def test_a_pause_and_its_resume_at_once_lose_nothing(phase: Phase) -> None:
    bench = tour()
    when(bench, phase, e.PauseRequested(by="me"), e.ResumeRequested(by="me"))
    state = await bench.run(TOUR)
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED


async def test_a_task_is_cancelled_before_anybody_claimed_it() -> None:
    """People may speak first: it used to be an IllegalEvent."""
    bench = tour()
    await bench.submit(TOUR)
    await bench.say(e.Steered(by="me", message="wait"))
    await bench.say(e.CancelRequested(by="me", reason="changed my mind"))
    state = await bench.drive()
    assert state.conclusion == e.TaskConcluded(
        status=Status.CANCELLED, reason="cancelled by me: changed my mind"
    )
    assert not bench.of(e.WorkspaceOpened)


async def test_a_task_is_paused_before_anybody_claimed_it() -> None:
    bench = tour()
    await bench.submit(TOUR)
    await bench.say(e.PauseRequested(by="me"))
    assert status_of(await bench.drive()) == (Status.PAUSED, "")
    await bench.say(e.ResumeRequested(by="me"))
    state = await bench.drive()
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED


async def test_a_cancel_stops_a_running_call_and_rolls_it_back() -> None:
    write = Script("write", Effect.WORKSPACE, [FOREVER], where="worker")
    bench = Bench(write)
    write.work = lambda _: bench.workspaces.files["task_1"].update(half="done")
    await bench.submit(task(step("a", "write")))
    async with anyio.create_task_group() as tg:
        tg.start_soon(bench.drive)
        await anyio.sleep(10)
        await bench.say(e.CancelRequested(by="me"))
    assert [x.resolution for x in bench.of(e.CallResolved)] == ["dropped"]
    assert "half" not in bench.workspaces.files["task_1"]
    assert not bench.sandbox.live
    assert bench.state().conclusion == e.TaskConcluded(
        status=Status.CANCELLED, reason="cancelled by me"
    )


async def test_a_pause_lets_the_running_call_finish() -> None:
    bench = Bench(Script("look", answers=[60.0]))
    await bench.submit(task(step("a", "look"), step("b", "look", needs=["a"])))
    async with anyio.create_task_group() as tg:
        tg.start_soon(bench.drive)
        await anyio.sleep(10)
        await bench.say(e.PauseRequested(by="me"))
    assert [x.call_id for x in bench.of(e.CallReturned)] == ["a.1"]
    assert status_of(bench.state()) == (Status.PAUSED, "")


async def test_a_pause_freezes_the_sandbox_and_a_resume_thaws_it() -> None:
    """DESIGN: `seconds` counts running time only."""
    bench = Bench(Script("look", answers=[60.0], where="worker"))
    await bench.submit(task(step("a", "look")))
    seen: list[bool] = []
    async with anyio.create_task_group() as tg:
        tg.start_soon(bench.drive)
        for said in (None, e.PauseRequested(by="me"), e.ResumeRequested(by="me")):
            if said is not None:
                await bench.say(said)
            await anyio.sleep(10)
            (session,) = bench.sandbox.live
            seen.append(session.frozen)
    assert seen == [False, True, False]
    state = bench.state()
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED
    assert 49e6 < state.usage.running_us < 55e6, "without the ten seconds of the pause"


async def test_a_task_that_is_paused_in_a_call_can_be_cancelled() -> None:
    bench = Bench(Script("look", answers=[FOREVER], where="worker"))
    await bench.submit(task(step("a", "look")))
    async with anyio.create_task_group() as tg:
        tg.start_soon(bench.drive)
        await anyio.sleep(10)
        await bench.say(e.PauseRequested(by="me"))
        await anyio.sleep(10)
        assert status_of(bench.state()) == (Status.PAUSED, "")
        await bench.say(e.CancelRequested(by="me"))
    assert not bench.sandbox.live
    state = bench.state()
    assert state.conclusion is not None and state.conclusion.status is Status.CANCELLED


async def _stopped(bench: Bench, times: int, seconds: float = 10) -> None:
    """Owners that stop gracefully, one after the other."""
    for _ in range(times):
        stop = Stop()
        async with anyio.create_task_group() as tg:
            tg.start_soon(_set_after, stop, seconds)
            await bench.drive(stop=stop)
        assert not bench.sandbox.live, "nothing is alive after a graceful stop"


async def _set_after(stop: Stop, seconds: float) -> None:
    await anyio.sleep(seconds)
    stop.set()


async def test_a_graceful_stop_costs_nothing() -> None:
    """DESIGN: `Interrupted` costs nothing. Ten restarts of one daemon used to abort a call."""
    answers: list[Answer] = [FOREVER] * 10
    look = Script("look", answers=answers)
    bench = Bench(look)
    await bench.submit(task(step("a", "look"), limits={"steps": 1}))
    await _stopped(bench, 10)
    assert [x.reason for x in bench.of(e.Interrupted)] == ["stopped by its owner"] * 10
    state = await bench.drive()
    assert state.usage.steps == 1 and state.crashes == 0
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED
    assert len(look.calls) == 11


async def test_a_graceful_stop_is_no_failure_of_the_model() -> None:
    """Four stops while the model was thinking used to abort the task."""
    bench = Bench()
    bench.model.point = _think
    await bench.submit(task(limits={"steps": 1}))
    await _stopped(bench, 6)
    assert bench.state().usage.steps == 0
    state = await bench.drive()
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED
    assert not bench.of(e.RecoveryChosen)
    # What was sent may have been charged: tokens settle at the reservation.
    asked = bench.of(e.ModelCallStarted)
    assert state.usage.tokens == sum(x.reserved_tokens for x in asked[:6]) + 10


async def test_a_crash_is_no_failure_of_the_model() -> None:
    """Four crashes while the model was thinking used to abort the task."""
    bench = Bench()
    bench.model.point = _think
    await bench.submit(task())
    for _ in range(6):
        await bench.drive_and_die(10)
    state = await bench.drive()
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED
    assert len(bench.of(e.ModelCallSettled)) == 6


async def _think(place: str) -> None:
    await anyio.sleep(100)


async def test_a_crash_costs_the_attempt_it_interrupts() -> None:
    bench = Bench(Script("look", answers=[FOREVER]))
    await bench.submit(task(step("a", "look")))
    await bench.drive_and_die(10)
    assert (await bench.drive()).usage.steps == 2


async def test_a_task_that_kills_its_owners_ends() -> None:
    """After `CRASHES_MAX` owners that died with nothing coming back."""
    answers: list[Answer] = [FOREVER] * 100
    bench = Bench(Script("look", answers=answers))
    await bench.submit(task(step("a", "look")))
    for _ in range(budget.CRASHES_MAX + 1):
        await bench.drive_and_die(10)
    state = await bench.drive()
    assert state.conclusion == e.TaskConcluded(
        status=Status.FAILED, reason="crash_loop: 21 owners died at the same point"
    )
