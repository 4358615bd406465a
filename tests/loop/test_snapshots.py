"""A snapshot is a shortcut: with it or without it, the state is the fold of the log."""

from typing import Any

import msgspec
import pytest

from agent_runtime.errors import CorruptLog
from agent_runtime.loop import codec, journal
from agent_runtime.loop.evolve import fold
from agent_runtime.loop.journal import SNAPSHOT_PART, Journal
from agent_runtime.loop.state import FOLD_VERSION, State
from agent_runtime.stores.memory import MemoryStore
from agent_runtime.types import Seq, ToolResult
from tests.loop.harness import FOREVER, NO, TASK, Bench, Script, asks, step, task
from tests.simulation.world import live

pytestmark = pytest.mark.anyio


async def _killed(bench: Bench) -> Bench:
    await bench.submit(task(step("a", "flaky", retry=3), step("b", "slow", needs=["a"])))
    await bench.drive_and_die(20)
    return bench


def _bench() -> Bench:
    return Bench(Script("flaky", answers=[NO, NO]), Script("slow", answers=[FOREVER]))


async def _opened(bench: Bench) -> State:
    store = bench.store()
    opened = Journal(await store.claim(TASK), store, bench.clock, bench.bus)
    await opened.open()
    return opened.state


async def test_a_snapshot_and_the_tail_give_the_state_of_the_whole_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journal, "SNAPSHOT_EVENTS", 10)
    bench = await _killed(_bench())
    saved = bench.shared.tasks[TASK].snapshot
    assert saved is not None and 0 < saved[0] < len(bench.rows())
    assert await _opened(bench) == bench.state()


async def test_only_the_tail_is_read_behind_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SNAPSHOT_EVENTS", 10)
    bench = await _killed(_bench())
    saved = bench.shared.tasks[TASK].snapshot
    assert saved is not None
    # Rows before it are not decoded: opening a task of ten thousand events stays fast.
    bench.rows()[2] = msgspec.structs.replace(bench.rows()[2], data=b"damaged")
    assert (await _opened(bench)).seq == len(bench.rows())


@pytest.mark.parametrize(
    ("version", "data"), [(FOLD_VERSION + 1, None), (FOLD_VERSION, b"not a snapshot")]
)
async def test_a_snapshot_of_another_version_or_shape_is_dropped(
    version: int, data: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "SNAPSHOT_EVENTS", 10)
    bench = await _killed(_bench())
    saved = bench.shared.tasks[TASK].snapshot
    assert saved is not None
    bench.shared.tasks[TASK].snapshot = (saved[0], version, data or saved[2])
    assert await _opened(bench) == bench.state()


async def test_a_snapshot_of_a_longer_log_than_there_is_stops_the_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A cut log with a snapshot behind its end used to spin for ever."""
    monkeypatch.setattr(journal, "SNAPSHOT_EVENTS", 10)
    bench = await _killed(_bench())
    rows = bench.rows()
    del rows[5:]
    stored = bench.shared.tasks[TASK]
    stored.summary = msgspec.structs.replace(stored.summary, seq=5, head_hash=rows[-1].hash)
    with pytest.raises(CorruptLog):
        await _opened(bench)


async def test_a_state_that_no_snapshot_can_hold_is_folded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An integer of more than 64 bits: JSON has it, MessagePack has not."""
    monkeypatch.setattr(journal, "SNAPSHOT_EVENTS", 3)
    bench = Bench(Script("look"), answers=[asks(("look", {"n": 10**30}))])
    state = await bench.run(task(tools=["look"]))
    assert state.ended and bench.state() == state


async def test_a_damaged_snapshot_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bits that have flipped on the disk may still be some state."""
    monkeypatch.setattr(journal, "SNAPSHOT_EVENTS", 10)
    bench = await _killed(_bench())
    saved = bench.shared.tasks[TASK].snapshot
    assert saved is not None and b"make it so" in saved[2]
    damaged = saved[2].replace(b"make it so", b"make it no")
    bench.shared.tasks[TASK].snapshot = (saved[0], saved[1], damaged)
    opened = await _opened(bench)
    assert opened.task.goal == "make it so" and opened == bench.state()


async def test_a_long_state_is_not_stored_again_at_every_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All snapshots together are not much longer than the log."""
    monkeypatch.setattr(journal, "SNAPSHOT_EVENTS", 1)
    bench = Bench(Script("look", answers=[ToolResult(ok=True, output="x" * 9000)] * 30))
    kept = list[int]()
    append = MemoryStore.append

    async def measured(store: MemoryStore, *args: Any, **more: Any) -> Seq:
        kept.append(len(more["snapshot"].data) if more["snapshot"] else 0)
        return await append(store, *args, **more)

    monkeypatch.setattr(MemoryStore, "append", measured)
    await bench.run(task(*(step(f"s{n}", "look") for n in range(30))))
    logged = sum(len(row.data) for row in bench.rows())
    assert len([size for size in kept if size]) > 5
    assert sum(kept) < (1 + SNAPSHOT_PART) * logged


@pytest.mark.parametrize("seed", [3, 14, 15, 92])
def test_every_state_of_a_life_survives_a_snapshot(seed: int) -> None:
    """Whatever a state holds, its snapshot gives back, hash for hash in what follows."""
    life = live(seed)
    for count in range(1, len(life.rows), 7):
        rows = life.rows[:count]
        state = fold((codec.decode(r), r.at_us) for r in rows)
        data = journal.pack_snapshot(state, rows[-1].hash)
        assert journal.unpack_snapshot(data) == (state, rows[-1].hash)
