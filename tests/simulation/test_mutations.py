"""The simulation can fail: the core is broken on purpose, and each time it must be noticed."""

from collections.abc import Callable
from itertools import count
from typing import Any

import anyio
import msgspec
import pytest

from agent_runtime.loop import (
    actions,
    budget,
    calls,
    decide,
    egress,
    evolve,
    intend,
    journal,
    perform,
    recovery,
    settle,
)
from agent_runtime.loop import events as e
from agent_runtime.loop.hands import Hands
from agent_runtime.loop.reached import Reached, observe
from agent_runtime.loop.state import State
from agent_runtime.messages import ModelChoice
from agent_runtime.ports import OpenedWorkspace
from agent_runtime.stores.memory import MemoryStore
from agent_runtime.testing import FakeWorkspaces
from agent_runtime.types import PreparedEnvironment, Status
from tests.simulation.lives import failures_of
from tests.simulation.world import TASK, Chances, WorldSandbox

SEEDS_MAX = 200
TRIED_FIRST = (0, 22, 128)
"""Lives in which what is noticed seldom was noticed: a guess that saves seconds."""
Patch = Callable[[pytest.MonkeyPatch], None]


def rerun_once(patch: pytest.MonkeyPatch) -> None:
    resolve = calls.resolve

    async def careless(*args: Any) -> e.CallResolved:
        found = await resolve(*args)
        if found.resolution == "unknown":
            return msgspec.structs.replace(found, resolution="rerun")
        return found

    patch.setattr(calls, "resolve", careless)


def forget_on_crash(patch: pytest.MonkeyPatch) -> None:
    """A store that answers before the disk has it."""
    crash = MemoryStore.crash

    def forgetful(self: MemoryStore) -> None:
        task = self._shared.tasks[TASK]
        if len(task.rows) > 3:
            last = task.rows[-2]
            del task.rows[-1]
            task.summary = msgspec.structs.replace(
                task.summary, seq=last.seq, head_hash=last.hash, status=Status.RUNNING
            )
        crash(self)

    patch.setattr(MemoryStore, "crash", forgetful)


def skip_an_append(patch: pytest.MonkeyPatch) -> None:
    append, numbers = journal._append, count()

    async def lazy(*args: Any, **more: Any) -> None:
        if next(numbers) % 20 != 19:
            await append(*args, **more)

    patch.setattr(journal, "_append", lazy)


def never_reap(patch: pytest.MonkeyPatch) -> None:
    async def reap(self: WorldSandbox, owner_id: str) -> int:
        return 0

    patch.setattr(WorldSandbox, "reap", reap)


def never_restore(patch: pytest.MonkeyPatch) -> None:
    async def restore(*args: Any) -> None:
        return

    patch.setattr(FakeWorkspaces, "restore", restore)


def new_key_for_every_run(patch: pytest.MonkeyPatch) -> None:
    numbers = count()
    patch.setattr(calls, "_idempotency_key", lambda *args: str(next(numbers)))


def one_key_for_all(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(calls, "_idempotency_key", lambda *args: "key")


def approve_anything(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(intend, "call_digest", lambda prepared, policy: "same")


def spend_freely(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(budget, "attempt_fits", lambda state: None)


def talk_freely(patch: pytest.MonkeyPatch) -> None:
    def reserve(state: State, model: ModelChoice, prompt_tokens: int) -> budget.Reservation:
        return budget.Reservation(prompt_tokens + 2_000, 0.0, 2_000)

    patch.setattr(budget, "reserve", reserve)


def forget_the_lane(patch: pytest.MonkeyPatch) -> None:
    for place in (actions, intend):
        patch.setattr(place, "lane_is_taken", lambda state: False)


def forget_the_conversation(patch: pytest.MonkeyPatch) -> None:
    for module in (actions, intend):
        patch.setattr(module, "in_conversation", lambda state: None)


def decide_by_chance(patch: pytest.MonkeyPatch) -> None:
    choose, numbers = recovery.choose, count()

    def fickle(*args: Any, **more: Any) -> recovery.Choice:
        choice = choose(*args, **more)
        return recovery.Choice(choice.strategy, choice.delay_ms + next(numbers))

    patch.setattr(recovery, "choose", fickle)


def keep_quiet(patch: pytest.MonkeyPatch) -> None:
    record = decide._record

    def quiet(*args: Any) -> e.Events:
        return tuple(x for x in record(*args) if not isinstance(x, e.EffectUnknown))

    patch.setattr(decide, "_record", quiet)


def believe(patch: pytest.MonkeyPatch) -> None:
    done = e.TaskConcluded(status=Status.SUCCEEDED, reason="the model said so")
    patch.setattr(settle, "judge", lambda state: (done,) if state.verification else ())


def wait_for_ever(patch: pytest.MonkeyPatch) -> None:
    async def sleep(*args: Any) -> e.TimerFired:
        await anyio.sleep(1)  # else nothing would ever pass, and nobody could tell
        return e.TimerFired(timer="nobody waits for it")

    patch.setattr(perform, "_wait", sleep)
    patch.setattr(actions, "_for_steps", lambda state: [])


def leave_the_copy(patch: pytest.MonkeyPatch) -> None:
    async def close(*args: Any) -> None:
        return

    patch.setattr(FakeWorkspaces, "close", close)


def never_look_into_the_record(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(egress.EgressLog, "pick_up", lambda self: None)


def forget_the_mark(patch: pytest.MonkeyPatch) -> None:
    def forgetful(*args: Any) -> Reached:
        return msgspec.structs.replace(observe(*args), mark=0)

    patch.setattr(evolve, "observe", forgetful)


def store_it_later(patch: pytest.MonkeyPatch) -> None:
    store, numbers = egress.EgressLog.store, count()

    async def lazy(self: egress.EgressLog) -> None:
        if next(numbers) % 2:
            await store(self)

    patch.setattr(egress.EgressLog, "store", lazy)


def begin_again(patch: pytest.MonkeyPatch) -> None:
    """A continued task that gets a fresh working copy."""
    opened = FakeWorkspaces.open

    async def fresh(self: FakeWorkspaces, *args: Any, **more: Any) -> OpenedWorkspace:
        if more.pop("left", None) is not None and TASK not in self._open:
            self.files.pop(TASK, None)
        return await opened(self, *args, **more)

    patch.setattr(FakeWorkspaces, "open", fresh)


def skip_the_setup(patch: pytest.MonkeyPatch) -> None:
    async def careless(hands: Hands) -> calls.Performed:
        return e.EnvironmentPrepared(environment=PreparedEnvironment(), cached=True), {}

    patch.setattr(perform, "_prepare_environment", careless)


def forget_what_was_asked_for(patch: pytest.MonkeyPatch) -> None:
    def forgotten(state: State, step_id: str) -> State:
        steps = {name: step for name, step in state.steps.items() if name != step_id}
        return msgspec.structs.replace(state, steps=steps)

    patch.setattr(evolve, "_forgotten", forgotten)


@pytest.mark.parametrize(
    ("mutate", "noticed"),
    [
        (rerun_once, "repeated: "),
        # What is gone is noticed where the log is gone through again, mostly before it is missed.
        (forget_on_crash, "decided differently"),
        (skip_an_append, "CorruptLog"),
        (never_reap, "earlier owner's sandbox is alive"),
        (never_restore, "half a write is left"),
        (new_key_for_every_run, "under two keys"),
        (one_key_for_all, "key"),
        (approve_anything, "is not what was asked"),
        (spend_freely, "overshoot: limits.steps"),
        (talk_freely, "overshoot: limits."),
        (forget_the_lane, "overlaps another writing call"),
        pytest.param(forget_the_conversation, "conversation", marks=pytest.mark.long),
        (decide_by_chance, "decided differently"),
        (keep_quiet, "unreported: "),
        (believe, "succeeded without a proof"),
        (wait_for_ever, "stuck"),
        (leave_the_copy, "working copy is still there"),
        (never_look_into_the_record, "egress: "),
        (forget_the_mark, "egress: "),
        (store_it_later, "late: "),
        (begin_again, "tree"),
        (skip_the_setup, "environment: "),
        pytest.param(forget_what_was_asked_for, "is forgotten", marks=pytest.mark.long),
    ],
)
def test_the_simulation_notices(
    mutate: Patch, noticed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that cannot fail is worth nothing."""
    mutate(monkeypatch)
    for seed in (*TRIED_FIRST, *range(SEEDS_MAX)):
        found = failures_of([seed], Chances(fault=0.2, crashes=4))
        if found and noticed in found[0]:
            return
    pytest.fail(f"{SEEDS_MAX} lives without {noticed!r}")
