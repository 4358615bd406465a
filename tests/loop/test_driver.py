"""The driver and its journal: conflicts, leases, a store that fails, workers, two models' steps."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import anyio
import msgspec
import pytest

from agent_runtime.errors import (
    Conflict,
    CorruptLog,
    DiskFull,
    LeaseHeld,
    LeaseLost,
    StoreUnavailable,
)
from agent_runtime.loop import driver
from agent_runtime.loop import events as e
from agent_runtime.loop.driver import drive
from agent_runtime.loop.journal import APPEND_TRIES, Journal, append_fact
from agent_runtime.loop.perform import perform
from agent_runtime.loop.stopping import Stop
from agent_runtime.ports import SandboxLimits, SandboxSession, SandboxSpec
from agent_runtime.sandboxes.pool import Pool
from agent_runtime.stores.memory import MemoryStore
from agent_runtime.testing import FakeSandbox, FakeVerifier
from agent_runtime.types import (
    Effect,
    EnvironmentSpec,
    ResourcesSpec,
    Row,
    Status,
    TaskId,
    ToolResult,
)
from tests.loop.harness import FOREVER, TASK, Bench, Script, asks, step, task

pytestmark = pytest.mark.anyio


# ---- other writers -----------------------------------------------------------------------


async def test_a_driver_that_hears_of_its_own_append_reads_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A busy store shows each append to its own watcher before it answers."""
    bench = Bench(Script("look"))
    read = list[int]()

    async def load(store: MemoryStore, task_id: TaskId, after: int = 0) -> list[Row]:
        read.append(after)
        return store._shared.tasks[task_id].rows[after:]

    async def watched(rows: Sequence[Row]) -> None:
        bench.bus.publish(TASK, rows[-1].seq)

    monkeypatch.setattr(MemoryStore, "load", load)
    bench.hook = watched
    await bench.run(task(step("a", "look"), step("b", "look", needs=["a"])))
    assert read == [0], "when it took the task"


async def test_an_announcement_that_comes_after_a_cancel_is_dropped() -> None:
    """DESIGN, append: on `Conflict` an announcement is dropped."""
    look = Script("look")
    bench = Bench(look)
    store = bench.store()

    class Late(MemoryStore):
        async def append(self, task_id, expected, rows, **more):  # type: ignore[no-untyped-def]
            if any(r.type == "CallIntended" for r in rows) and not bench.of(e.CancelRequested):
                await bench.say(e.CancelRequested(by="me"))
            return await super().append(task_id, expected, rows, **more)

    await bench.submit(task(step("a", "look")))
    late = Late(bench.shared)
    await drive(await late.claim(TASK), bench.ports(late))
    assert not bench.of(e.CallIntended) and not look.calls
    assert bench.state().conclusion is not None
    await store.close()


async def test_an_outcome_that_comes_after_a_cancel_is_kept() -> None:
    """DESIGN: a fact is never thrown away."""
    bench = Bench(Script("look"))

    class Late(MemoryStore):
        async def append(self, task_id, expected, rows, **more):  # type: ignore[no-untyped-def]
            if rows[0].type == "CallReturned" and not bench.of(e.CancelRequested):
                await bench.say(e.CancelRequested(by="me"))
            return await super().append(task_id, expected, rows, **more)

    await bench.submit(task(step("a", "look")))
    late = Late(bench.shared)
    state = await drive(await late.claim(TASK), bench.ports(late))
    assert [x.call_id for x in bench.of(e.CallReturned)] == ["a.1"]
    assert state.conclusion is not None and state.conclusion.status is Status.CANCELLED


async def test_a_fact_is_found_right_on_the_newest_state() -> None:
    bench = Bench(Script("look"))
    state = await bench.run(task(step("a", "look")))

    def refuse(newest: object) -> e.OutsideFact:
        assert newest == state
        raise Conflict("it has ended")

    with pytest.raises(Conflict, match="it has ended"):
        await append_fact(bench.store(), bench.clock, bench.bus, TASK, refuse)


async def test_a_fact_whose_answer_was_lost_is_stored_once() -> None:
    bench = Bench(Script("look"))
    await bench.submit(task(step("a", "look")))
    store = Flaky(bench, [True])
    fact = e.Steered(by="me", message="hurry")
    await append_fact(store, bench.clock, bench.bus, TASK, lambda _: fact)
    assert bench.of(e.Steered) == [fact]


# ---- a store that fails ------------------------------------------------------------------


class Flaky(MemoryStore):
    """Fails as told: True after the write, False before it."""

    def __init__(self, bench: Bench, failures: list[bool]) -> None:
        super().__init__(bench.shared)
        self.failures = failures
        self.times: list[float] = []

    async def append(self, task_id, expected, rows, **more):  # type: ignore[no-untyped-def]
        self.times.append(anyio.current_time())
        if not self.failures:
            return await super().append(task_id, expected, rows, **more)
        if self.failures.pop(0):
            await super().append(task_id, expected, rows, **more)
        raise StoreUnavailable("the disk is full")


@pytest.mark.parametrize("stored", [True, False])
async def test_an_append_is_repeated_five_times_and_is_stored_once(stored: bool) -> None:
    """An append whose first event is already stored with the same hash has succeeded."""
    bench = Bench(Script("look"))
    await bench.submit(task(step("a", "look")))
    store = Flaky(bench, [stored] * (APPEND_TRIES - 1))
    state = await drive(await store.claim(TASK), bench.ports(store))
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED
    assert len(bench.of(e.LeaseTaken)) == 1
    waits = [b - a for a, b in zip(store.times, store.times[1:6], strict=False)]
    assert waits == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8])


async def test_a_log_that_cannot_be_written_stops_the_driver() -> None:
    """DESIGN: the daemon never goes on without its log."""
    look = Script("look")
    bench = Bench(look)
    await bench.submit(task(step("a", "look")))
    store = Flaky(bench, [False] * APPEND_TRIES)
    with pytest.raises(StoreUnavailable):
        await drive(await store.claim(TASK), bench.ports(store))
    assert not look.calls and len(bench.rows()) == 1


async def test_the_sandbox_is_frozen_while_the_log_cannot_be_written() -> None:
    """DESIGN, recovery policy: another call that runs meanwhile must not get ahead of the log."""
    bench = Bench(
        Script("short", answers=[10.0], where="worker"),
        Script("long", answers=[60.0], where="worker"),
    )
    await bench.submit(task(step("a", "short"), step("b", "long")))
    frozen: list[bool] = []

    class Down(MemoryStore):
        async def append(self, task_id, expected, rows, **more):  # type: ignore[no-untyped-def]
            if rows[0].type == "CallReturned":
                frozen.extend(session.frozen for session in bench.sandbox.live)
                if len(frozen) < 3:
                    raise StoreUnavailable("the disk is full")
            return await super().append(task_id, expected, rows, **more)

    store = Down(bench.shared)
    state = await drive(await store.claim(TASK), bench.ports(store))
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED
    assert frozen == [False, True, True, False], "twice refused, then stored; then the long one"


@pytest.mark.parametrize("work", ["open", "snapshot", "patch"])
async def test_a_full_disk_under_the_workspace_decides_nothing_and_the_task_goes_on(
    work: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is opened, before a writing call, and during the verification."""
    bench = Bench(write := Script("write", effect=Effect.WORKSPACE))
    await bench.submit(task(step("a", "write")))

    async def refuse(*arguments: object, **options: object) -> None:
        await anyio.sleep(0.01)
        raise DiskFull("no room")

    store = bench.store()
    with monkeypatch.context() as full:
        full.setattr(bench.workspaces, work, refuse)
        with pytest.RaisesGroup(DiskFull):
            await drive(await store.claim(TASK), bench.ports(store))
    assert not bench.of(e.TaskConcluded, e.StepFailed, e.VerificationEnded, e.InitiationFailed)
    store.crash()
    state = await bench.drive()
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED
    assert len(write.calls) == 1


# ---- leases ------------------------------------------------------------------------------


async def test_two_drivers_never_drive_the_same_task() -> None:
    bench = Bench(Script("look", answers=[60.0]))
    await bench.submit(task(step("a", "look")))
    async with anyio.create_task_group() as tg:
        tg.start_soon(bench.drive)
        await anyio.sleep(1)
        with pytest.raises(LeaseHeld):
            await bench.drive()
    assert len(bench.scripts["look"].calls) == 1


async def test_who_lost_its_lease_stops_and_touches_nothing() -> None:
    """A newer epoch owns the task: its sandbox, its copy and its log are not ours any more."""
    bench = Bench(
        Script("slow", Effect.WORKSPACE, [30.0], where="worker"), Script("look", answers=[20.0])
    )
    await bench.submit(task(step("a", "slow"), step("b", "look")))
    store = bench.store()
    lease = await store.claim(TASK)
    with pytest.raises(BaseExceptionGroup) as caught:
        async with anyio.create_task_group() as tg:
            tg.start_soon(_take_over, bench, 10)
            await drive(lease, bench.ports(store))
    assert caught.group_contains(LeaseLost)
    assert bench.of(e.CallReturned) == []
    assert not bench.workspaces.closed
    assert not bench.sandbox.live, "its own sandbox is dead"


async def _take_over(bench: Bench, seconds: float) -> None:
    await anyio.sleep(seconds)
    bench.shared.tasks[TASK].epoch += 1


async def test_a_new_owner_proves_the_old_sandbox_dead_before_it_touches_anything() -> None:
    bench = Bench(Script("write", Effect.WORKSPACE, [FOREVER], where="worker"))
    await bench.submit(task(step("a", "write")))
    await bench.drive_and_die(10)
    places: list[str] = []
    reap, restore = bench.sandbox.reap, bench.workspaces.restore

    async def seen_reap(owner_id: str) -> int:
        places.append("reap")
        return await reap(owner_id)

    async def seen_restore(*args: object) -> None:
        places.append("restore")
        await restore(*args)  # type: ignore[arg-type]

    bench.sandbox.reap = seen_reap  # type: ignore[method-assign]
    bench.workspaces.restore = seen_restore  # type: ignore[method-assign,assignment]
    await bench.drive()
    assert places[0] == "reap" and "restore" in places


async def test_a_driver_of_a_finished_task_writes_nothing() -> None:
    """Its last owner died between the terminal event and giving the lease back."""
    bench = Bench(Script("look"))
    await bench.run(task(step("a", "look")))
    rows = list(bench.rows())
    state = await bench.drive()
    assert state.ended and bench.rows() == rows


# ---- the log itself ----------------------------------------------------------------------


async def _killed() -> Bench:
    bench = Bench(Script("look", answers=[FOREVER]))
    await bench.submit(task(step("a", "look")))
    await bench.drive_and_die(10)
    return bench


async def test_a_cut_tail_is_seen_by_the_next_owner() -> None:
    """A chain alone does not see it: the task's row holds the last number and hash."""
    bench = await _killed()
    del bench.rows()[-1]
    before = len(bench.rows())
    with pytest.raises(CorruptLog, match="does not end as its task's row says"):
        await bench.drive()
    assert len(bench.rows()) == before


async def test_a_log_that_loses_its_tail_under_a_driver_stops_it() -> None:
    """It used to load and decide again, for ever."""
    bench = Bench(Script("look", answers=[10.0]))
    await bench.submit(task(step("a", "look")))
    store = bench.store()
    journal = Journal(await store.claim(TASK), store, bench.clock, bench.bus)
    await journal.open()
    del bench.rows()[-1]
    with anyio.fail_after(10), pytest.raises(CorruptLog):
        await journal.commit(e.Steered(by="me", message="x"))


async def test_a_missing_or_changed_row_stops_the_next_owner() -> None:
    bench = await _killed()
    bench.rows()[3] = bench.rows()[2]
    with pytest.raises(CorruptLog):
        await bench.drive()


# ---- steps beside each other -------------------------------------------------------------


async def test_reads_overlap_and_writes_do_not() -> None:
    spans: dict[str, list[float]] = {}

    def seen(call: object) -> None:
        spans[call.call_id] = [anyio.current_time()]  # type: ignore[attr-defined]

    look = Script("look", answers=[10.0] * 3, work=seen)
    write = Script("write", Effect.WORKSPACE, [10.0] * 3, where="worker", work=seen)
    bench = Bench(look, write)
    await bench.run(
        task(
            *(step(f"r{i}", "look") for i in range(3)), *(step(f"w{i}", "write") for i in range(3))
        )
    )
    starts = {k: v[0] for k, v in spans.items()}
    assert max(starts[f"r{i}.1"] for i in range(3)) < 1
    writes = sorted(starts[f"w{i}.1"] for i in range(3))
    assert writes[1] - writes[0] >= 10 and writes[2] - writes[1] >= 10


async def test_a_step_that_needs_the_model_has_the_conversation_to_itself() -> None:
    """A tool-only step before it in the plan used to start beside it."""
    bench = Bench(Script("look", answers=[30.0, 1.0]), answers=[asks("look")])

    async def think(_: str) -> None:
        await anyio.sleep(5)

    bench.model.point = think
    await bench.run(
        task(
            step("a", "look"),
            step("b", "look", needs=["a"]),
            step("think", None, goal="think", needs=["a"]),
            step("more", None, goal="think more", needs=["a"]),
            model="test/model",
        )
    )
    talking, seen = "", []
    for event in bench.events():
        match event:
            case e.ModelCallStarted(step_id=step_id):
                assert talking in ("", step_id)
                talking = step_id
                seen.append(step_id)
            case e.CallIntended(step_id=step_id):
                assert talking in ("", step_id)
            case e.StepSucceeded(step_id=step_id) if step_id == talking:
                talking = ""
            case _:
                pass
    assert seen == ["think", "think", "more"]


async def test_a_given_plan_is_never_made_anew() -> None:
    bench = Bench(Script("look"), judge=lambda files: False)
    state = await bench.run(task(step("a", "look"), model="test/model"))
    assert state.conclusion is not None and state.conclusion.status is Status.UNVERIFIED
    assert len(bench.of(e.PlanAdopted)) == 1


async def test_a_model_may_plan_again_twice() -> None:
    """DESIGN: at most 2 times, then `unverified`."""
    bench = Bench(Script("look"), judge=lambda files: False)
    state = await bench.run(task())
    assert len(bench.of(e.ReplanRequested)) == 2
    assert [x.attempt for x in bench.of(e.PlanAdopted)] == [1, 2, 3]
    assert state.conclusion is not None and state.conclusion.status is Status.UNVERIFIED


async def test_a_cleanup_that_fails_is_reported_and_never_blocks() -> None:
    bench = Bench(Script("look"))

    async def close(_: object) -> None:
        raise OSError("busy")

    bench.workspaces.close = close  # type: ignore[method-assign,assignment]
    state = await bench.run(task(step("a", "look")))
    assert state.ended
    assert bench.of(e.CleanedUp)[0].problems == ["removing the working copy: busy"]


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "text",
        ToolResult(ok=True, output=5),  # type: ignore[arg-type]
        ToolResult(ok=False, kind="weird"),  # type: ignore[arg-type]
        ToolResult(ok=True, exit="0"),  # type: ignore[arg-type]
        ToolResult(ok=True, raw="text"),  # type: ignore[arg-type]
        SystemExit(3),
    ],
)
async def test_a_plugin_that_answers_with_no_result_fails_its_call_and_nothing_else(
    answer: Any,
) -> None:
    """What is stored must be readable: an unknown `kind` once ended the task for good."""
    bench = Bench(Script("bad", answers=[answer]), Script("good"))
    state = await bench.run(task(step("a", "bad", fallback="b"), step("b", "good")))
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED
    assert bench.of(e.CallReturned)[0].kind == "internal"
    assert bench.state() == state


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_tool_that_is_cancelled_by_itself_fails_its_call_and_nothing_else() -> None:
    """A future that somebody else cancelled: it once looked like the end of the driver."""
    itself = cast(Exception, asyncio.CancelledError("by somebody"))
    bench = Bench(Script("wait", answers=[itself]), Script("good"))
    state = await bench.run(task(step("a", "wait", fallback="b"), step("b", "good")))
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED
    assert bench.of(e.CallReturned)[0].kind == "internal"


async def test_an_effect_that_is_none_fails_its_call_and_nothing_else() -> None:
    """It once went into the log as it was, and nobody could read the log again."""
    bench = Bench(Script("bad", effect=cast(Effect, "zzz")), Script("good"))
    state = await bench.run(task(step("a", "bad", fallback="b"), step("b", "good")))
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED
    assert "zzz" in bench.of(e.PreparationFailed)[0].message
    assert bench.state() == state


async def test_what_no_log_can_hold_does_not_end_the_task() -> None:
    """A file name that is no UTF-8 comes with surrogates, a plug-in may return any object."""
    answer = ToolResult(
        ok=False, kind="refused", output="a\udcff", paths=("b\udcff",), data=object()
    )
    bench = Bench(Script("look", answers=[answer]), Script("good"))
    state = await bench.run(task(step("a", "look", fallback="b"), step("b", "good")))
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED
    assert bench.of(e.CallReturned)[0].paths == ["b?"]
    assert bench.state() == state


# ---- what a tool and its sandbox are given -----------------------------------------------


async def test_a_tool_hears_whose_call_it_is_and_what_for() -> None:
    """R63: agent, sandbox and a view of the memory are the tool's context."""
    look = Script("look", where="worker")
    bench = Bench(look)
    await bench.run(task(step("a", "look")))
    call = look.calls[0]
    assert (call.call_id, call.task_id, call.agent_id) == ("a.1", TASK, TASK)
    assert call.idempotency_key == f"{TASK}/a/first/0"
    assert (call.workspace, call.memory) == ("/workspace", {"goal": "make it so"})


async def test_every_sandbox_of_a_task_has_the_limits_of_the_installation_and_the_task() -> None:
    """R104, R112: also those of the checks."""
    limits = SandboxLimits(memory_bytes=1 << 30)
    resources = ResourcesSpec(cpus=1.5)
    bench = Bench(Script("look", where="worker"))
    seen: list[SandboxSpec] = []

    class Seeing(FakeSandbox):
        async def open(self, spec: SandboxSpec) -> SandboxSession:
            seen.append(spec)
            return await super().open(spec)

    class SeeingVerifier(FakeVerifier):
        async def verify(self, task_id, **more):  # type: ignore[no-untyped-def]
            async with more["furnished"]("/export") as spec:
                seen.append(spec)
            return await super().verify(task_id, **more)

    spec = task(step("a", "look"))
    await bench.submit(
        msgspec.structs.replace(spec, environment=EnvironmentSpec(resources=resources))
    )
    await bench.drive(
        sandbox=Seeing(bench.tools),
        verifier=SeeingVerifier(bench.workspaces),
        sandbox_limits=limits,
    )
    wanted = SandboxLimits(memory_bytes=1 << 30, cpus=1.5)
    assert [spec.limits for spec in seen] == [wanted, wanted]


async def test_the_worker_starts_beside_the_planning_and_is_handed_out_to_the_first_call() -> None:
    """Its spec is made twice, and must come out the same."""
    bench = Bench(Script("look", where="worker"))
    happened: list[str] = []

    class Starting:
        async def ready(self) -> SandboxSession:
            happened.append("handed out")
            return await sandbox.open(spec_of_spare[0])

        async def close(self) -> None:
            happened.append("closed")

    class Warm(FakeSandbox):
        pool = Pool(1)

        async def start(self, spec: SandboxSpec) -> Starting:
            happened.append("started")
            spec_of_spare.append(spec)
            return Starting()

        async def prestart(self, spec: SandboxSpec) -> None:
            await self.pool.prestart(self, spec)

        async def discard(self, owner_id: str) -> None:
            await self.pool.discard(owner_id)

        async def open(self, spec: SandboxSpec) -> SandboxSession:
            if spec is spec_of_spare[0]:
                return await super().open(spec)
            return await self.pool.open(self, spec)

    spec_of_spare: list[SandboxSpec] = []
    sandbox = Warm(bench.tools)
    await bench.submit(task(step("a", "look"), step("b", "look", needs=["a"])))
    state = await bench.drive(sandbox=sandbox)
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED
    assert happened == ["started", "handed out"] and not sandbox.live


async def test_a_worker_that_nobody_needed_is_ended_with_its_task() -> None:
    bench = Bench(Script("look", where="daemon"))
    live: set[str] = set()

    class Warm(FakeSandbox):
        async def prestart(self, spec: SandboxSpec) -> None:
            live.add(spec.owner_id)

        async def discard(self, owner_id: str) -> None:
            live.discard(owner_id)

    await bench.submit(task(step("a", "look")))
    stop = Stop()

    async def see(rows: Sequence[Row]) -> None:
        if any(row.type == "CallReturned" for row in rows):
            seen.append(set(live))

    seen: list[set[str]] = []
    bench.hook = see
    await bench.drive(sandbox=Warm(bench.tools), stop=stop)
    assert seen == [{TASK}] and not live


async def test_a_driver_that_fails_begins_no_call_again_on_its_way_out() -> None:
    """A tool without an await would have its effect twice before the cancellation finds it."""
    pay = Script("pay", Effect.ONCE)
    bench = Bench(pay)

    async def lose_the_answer(rows: Sequence[Row]) -> None:
        if any(row.type == "CallReturned" for row in rows):
            raise StoreUnavailable("the answer was lost")

    bench.hook = lose_the_answer
    await bench.submit(task(step("a", "pay")))
    store = bench.store()
    lease = await store.claim(TASK)
    with pytest.raises(BaseExceptionGroup):
        await drive(lease, bench.ports(store))
    assert len(pay.calls) == 1
    store.crash()
    bench.hook = None
    state = await bench.drive()
    assert len(pay.calls) == 1
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED


async def test_what_came_back_is_stored_though_the_stop_came_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A call whose last wait is shielded (its sandbox's end) returns in spite of the stop."""
    pay, stop = Script("pay", Effect.ONCE), Stop()
    bench = Bench(pay)

    async def stopped_before_it_returned(action: Any, hands: Any) -> Any:
        outcome = await perform(action, hands)
        if any(isinstance(each, e.CallReturned) for each in outcome):
            with anyio.CancelScope(shield=True):
                stop.set()
                await anyio.sleep(1)
        return outcome

    monkeypatch.setattr(driver, "perform", stopped_before_it_returned)
    await bench.submit(task(step("a", "pay")))
    await bench.drive(stop=stop)
    assert [row.type for row in bench.rows()].count("CallReturned") == 1
    state = await bench.drive()
    assert len(pay.calls) == 1
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED
