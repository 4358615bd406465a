"""Many tasks in one process: every one is driven, and none holds up another."""

import itertools
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import pytest

from agent_runtime.errors import CorruptLog, LeaseHeld, SandboxUnavailable, StoreUnavailable
from agent_runtime.loop import events as e
from agent_runtime.loop.submission import submit
from agent_runtime.loop.supervisor import Supervisor
from agent_runtime.types import Effect, Lease, Ready, Status, TaskId, TaskSpec
from tests.loop.harness import FOREVER, NO, TASK, Answer, Bench, Script, step, task

pytestmark = pytest.mark.anyio


def ids(count: int) -> list[TaskId]:
    return [TaskId(f"task_{n:03}") for n in range(count)]


def statuses(bench: Bench) -> dict[str, str]:
    return {task_id: found.summary.status for task_id, found in bench.shared.tasks.items()}


async def test_a_hundred_tasks_are_driven_side_by_side() -> None:
    answers: list[Answer] = [60.0] * 100
    bench = Bench(Script("look", answers=answers))
    for task_id in ids(100):
        await bench.submit(task(step("a", "look")), task_id)
    began = anyio.current_time()
    await Supervisor(bench.ports(bench.store())).run_all()
    assert set(statuses(bench).values()) == {Status.SUCCEEDED}
    assert anyio.current_time() - began < 120, "virtual seconds: not one after the other"


async def test_no_more_tasks_are_driven_than_there_is_room_for() -> None:
    bench = Bench(Script("look"))
    live, most = 0, 0

    async def count(place: str) -> None:
        nonlocal live, most
        live += 1
        most = max(most, live)
        await anyio.sleep(10)
        live -= 1

    bench.workspaces._point = count
    for task_id in ids(9):
        await bench.submit(task(step("a", "look")), task_id)
    await Supervisor(bench.ports(bench.store()), tasks_max=3).run_all()
    assert set(statuses(bench).values()) == {Status.SUCCEEDED}
    assert most == 3


async def test_two_supervisors_share_the_tasks() -> None:
    bench = Bench(Script("look", answers=[5.0] * 20))
    for task_id in ids(20):
        await bench.submit(task(step("a", "look")), task_id)
    async with anyio.create_task_group() as tg:
        tg.start_soon(Supervisor(bench.ports(bench.store())).run_all)
        tg.start_soon(Supervisor(bench.ports(bench.store())).run_all)
    assert set(statuses(bench).values()) == {Status.SUCCEEDED}
    assert len(bench.scripts["look"].calls) == 20, "each call once"


async def test_a_corrupt_log_stops_its_task_only_and_the_supervisor_ends() -> None:
    """It used to be claimed again at once, for ever."""
    bench = Bench(Script("look"))
    for task_id in ids(3):
        await bench.submit(task(step("a", "look")), task_id)
    damaged = bench.shared.tasks[TaskId("task_001")]
    damaged.rows[0] = msgspec.structs.replace(damaged.rows[0], prev_hash="x")
    logging.disable()
    with anyio.fail_after(100):
        await Supervisor(bench.ports(bench.store())).run_all()
    logging.disable(logging.NOTSET)
    assert statuses(bench) == {
        "task_000": Status.SUCCEEDED,
        "task_001": Status.PENDING,
        "task_002": Status.SUCCEEDED,
    }


async def test_a_task_whose_driver_fails_is_tried_again_with_growing_pauses() -> None:
    """A sandbox that cannot be proven dead: nothing of the task is touched, nothing spins."""
    bench = Bench(Script("write", Effect.WORKSPACE, [FOREVER], where="worker"))
    await bench.submit(task(step("a", "write")))
    await bench.drive_and_die(10)
    reap, times = bench.sandbox.reap, list[float]()

    async def moody(owner_id: str) -> int:
        times.append(anyio.current_time())
        if len(times) < 5:
            raise SandboxUnavailable("it lives on")
        return await reap(owner_id)

    bench.sandbox.reap = moody  # type: ignore[method-assign]
    logging.disable()
    with anyio.fail_after(1000):
        await Supervisor(bench.ports(bench.store())).run_all()
    logging.disable(logging.NOTSET)
    assert statuses(bench) == {TASK: Status.SUCCEEDED}
    pauses = [b - a for a, b in itertools.pairwise(times[:5])]
    assert pauses == pytest.approx([1, 2, 4, 8], abs=0.5)


async def test_a_store_that_is_busy_for_a_moment_is_asked_again() -> None:
    bench = Bench(Script("look"))
    await bench.submit(task(step("a", "look")))
    store = bench.store()
    ready, failures = store.ready, iter([1, 2])

    async def busy(**wish: Any) -> list[Ready]:
        for _ in failures:
            raise StoreUnavailable("busy")
        return await ready(**wish)

    store.ready = busy  # type: ignore[method-assign]
    logging.disable()
    with anyio.fail_after(60):
        await Supervisor(bench.ports(store)).run_all()
    logging.disable(logging.NOTSET)
    assert statuses(bench) == {TASK: Status.SUCCEEDED}


async def test_claims_that_fail_are_made_again() -> None:
    bench = Bench(Script("look"))
    for task_id in ids(3):
        await bench.submit(task(step("a", "look")), task_id)
    store = bench.store()
    claim_all, failures = store.claim_all, iter([StoreUnavailable("busy")])

    async def busy(task_ids: Sequence[TaskId]) -> list[Lease]:
        for error in failures:
            raise error
        return await claim_all(task_ids)

    store.claim_all = busy  # type: ignore[method-assign]
    logging.disable()
    with anyio.fail_after(60):
        await Supervisor(bench.ports(store)).run_all()
    logging.disable(logging.NOTSET)
    assert set(statuses(bench).values()) == {Status.SUCCEEDED}


async def test_a_graceful_stop_ends_every_driver_and_says_so() -> None:
    answers: list[Answer] = [FOREVER] * 5
    bench = Bench(Script("look", answers=answers))
    for task_id in ids(5):
        await bench.submit(task(step("a", "look")), task_id)
    supervisor = Supervisor(bench.ports(bench.store()))
    async with anyio.create_task_group() as tg:
        tg.start_soon(supervisor.run_until_stopped)
        await anyio.sleep(10)
        supervisor.stop.set()
    for found in bench.shared.tasks.values():
        assert found.rows[-1].type == "Interrupted"
        assert found.owner is None


async def test_a_task_that_waits_lets_the_supervisor_end_and_an_answer_wakes_it() -> None:
    bench = Bench()
    await bench.submit(task(model=None))
    await Supervisor(bench.ports(bench.store())).run_all()
    assert statuses(bench) == {TASK: Status.WAITING}
    await bench.say(e.CancelRequested(by="me"))
    await Supervisor(bench.ports(bench.store())).run_all()
    assert statuses(bench) == {TASK: Status.CANCELLED}


async def test_a_fact_from_another_process_reaches_a_running_driver() -> None:
    """Its bus is not ours: the watcher sees that the log has grown."""
    bench = Bench(Script("look", answers=[FOREVER]))
    await bench.submit(task(step("a", "look")))
    supervisor = Supervisor(bench.ports(bench.store()))
    async with anyio.create_task_group() as tg:
        tg.start_soon(supervisor.run_task, TASK)
        await anyio.sleep(10)
        from_elsewhere = type(bench)()
        from_elsewhere.shared, from_elsewhere.clock = bench.shared, bench.clock
        await from_elsewhere.say(e.CancelRequested(by="me"))
        with anyio.fail_after(5):
            while not bench.state().ended:
                await bench.store().wait_changed(1)
    assert statuses(bench) == {TASK: Status.CANCELLED}


async def test_one_task_is_run_by_name_and_its_errors_are_the_callers() -> None:
    bench = Bench(Script("look", answers=[30.0, NO]))
    await bench.submit(task(step("a", "look")))
    supervisor = Supervisor(bench.ports(bench.store()))
    async with anyio.create_task_group() as tg:
        tg.start_soon(supervisor.run_task, TASK)
        await anyio.sleep(1)
        with pytest.raises(LeaseHeld):
            await Supervisor(bench.ports(bench.store())).run_task(TASK)
    assert statuses(bench) == {TASK: Status.SUCCEEDED}
    await bench.submit(task(step("a", "look")), TaskId("task_2"))
    damaged = bench.shared.tasks[TaskId("task_2")].rows
    damaged.append(damaged[0])
    with pytest.raises(CorruptLog):
        await Supervisor(bench.ports(bench.store())).run_task(TaskId("task_2"))


# ---- tasks that wait ---------------------------------------------------------------------


def asking(seconds: float = 86_400) -> TaskSpec:
    policy = {"approvals": {"write": "ask"}, "approval_seconds": seconds}
    return task(step("a", "write"), policy=policy)


@asynccontextmanager
async def supervised(bench: Bench, **wish: Any) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(bench.ports(bench.store()), **wish)
    async with anyio.create_task_group() as tg:
        tg.start_soon(supervisor.run_until_stopped)
        yield supervisor
        supervisor.stop.set()


async def until(true: Callable[[], bool], seconds: float = 60) -> None:
    with anyio.fail_after(seconds):
        while not true():
            await anyio.sleep(0.1)


async def test_a_task_that_waits_is_let_go_and_comes_back_with_its_answer() -> None:
    """Our contract: who waits is rows in the store, no driver and no worker."""
    bench = Bench(Script("write", Effect.WORKSPACE, where="worker"))
    await bench.submit(asking())
    async with supervised(bench, hibernate_seconds=60) as supervisor:
        await until(lambda: statuses(bench) == {TASK: Status.WAITING})
        await anyio.sleep(50)
        assert supervisor.driven == 1, "for a while its worker is kept"
        await until(lambda: not supervisor.driven)
        assert bench.of(e.Interrupted)[-1].reason == "hibernated"
        assert not bench.sandbox.live
        await bench.say(e.ApprovalDecided(approval_id="a1", decision="approve", by="me"))
        await until(lambda: statuses(bench) == {TASK: Status.SUCCEEDED})
    assert len(bench.scripts["write"].calls) == 1


async def test_a_task_that_was_let_go_comes_back_when_its_time_has_come() -> None:
    bench = Bench(Script("write", Effect.WORKSPACE))
    await bench.submit(asking(seconds=1000))
    async with supervised(bench, hibernate_seconds=5) as supervisor:
        await until(lambda: statuses(bench) == {TASK: Status.WAITING} and not supervisor.driven)
        await anyio.sleep(900)
        assert not supervisor.driven
        await until(lambda: bench.state().ended, 120)
    assert bench.of(e.ApprovalExpired)


async def test_tasks_that_wait_make_room_for_others_at_once() -> None:
    bench = Bench(Script("write", Effect.WORKSPACE))
    for task_id in ids(5):
        await bench.submit(asking(), task_id)
    async with supervised(bench, tasks_max=2, hibernate_seconds=10_000):
        await until(lambda: set(statuses(bench).values()) == {Status.WAITING})


async def test_no_submitter_holds_all_the_room() -> None:
    bench = Bench(Script("look", answers=[FOREVER] * 6))
    for task_id in ids(5):
        await bench.submit(task(step("a", "look")), task_id)
    await submit(
        task(step("a", "look")), bench.store(), bench.clock, submitted_by="other",
        task_id=TaskId("task_9"),
    )  # fmt: skip
    async with supervised(bench, tasks_max=2) as supervisor:
        await until(lambda: len(bench.scripts["look"].calls) == 2)
        assert supervisor.driven == 2
        assert {call.task_id for call in bench.scripts["look"].calls} == {"task_000", "task_9"}


async def test_a_supervisor_remembers_nothing_of_tasks_that_have_ended() -> None:
    """A daemon drives millions."""
    bench = Bench(Script("look"))
    for task_id in ids(30):
        await bench.submit(task(step("a", "look")), task_id)
    supervisor = Supervisor(bench.ports(bench.store()))
    tried: dict[TaskId, int] = {}
    async with anyio.create_task_group() as tg:
        await supervisor._start_ready(tg, tried)
    assert set(statuses(bench).values()) == {Status.SUCCEEDED}
    assert (tried, supervisor.driven, supervisor._stops, supervisor._failures) == ({}, 0, {}, {})


async def test_a_lease_that_the_store_did_not_take_back_is_given_back_later() -> None:
    bench = Bench(Script("write", Effect.WORKSPACE))
    await bench.submit(asking())
    store = bench.store()
    release, failures = store.release, iter([StoreUnavailable("full")])

    async def full(lease: Lease) -> None:
        for error in failures:
            raise error
        await release(lease)

    store.release = full  # type: ignore[method-assign]
    supervisor = Supervisor(bench.ports(store), hibernate_seconds=1)
    logging.disable()
    async with anyio.create_task_group() as tg:
        tg.start_soon(supervisor.run_until_stopped)
        await until(lambda: statuses(bench) == {TASK: Status.WAITING})
        await until(lambda: bench.shared.tasks[TASK].owner is None)
        supervisor.stop.set()
    logging.disable(logging.NOTSET)
