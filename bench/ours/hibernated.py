"""Many tasks that wait for somebody, beside some that run: memory, and what lists and submits cost.

Two stores in one process, an empty one and a full one, take turns, so that whatever else the
machine does meets both. CPU of the whole process counts: the loop's and the writer's thread.
"""

from __future__ import annotations

import argparse
import gc
import os
import time
from collections.abc import Awaitable, Callable
from statistics import median

import anyio
import msgspec

from agent_runtime.clock import SystemClock
from agent_runtime.loop.submission import first_event, submit
from agent_runtime.loop.supervisor import Supervisor
from agent_runtime.ports import NewTask
from agent_runtime.stores.sqlite import SqliteStore
from agent_runtime.types import Phase, Status
from bench import meter
from bench.meter import _settled_bytes
from bench.ours.world import opened, playbook, ports

SUBMITTERS = 50
BATCH = 500
AT_ONCE = 100
WAIT_US = 30 * 86_400_000_000


async def fill(store: SqliteStore, count: int, *, submitters: int, teams: int) -> None:
    """Store `count` tasks that wait for an approval, each with a submitter and a label."""
    clock = SystemClock()
    for start in range(0, count, BATCH):
        batch = []
        for number in range(start, min(start + BATCH, count)):
            spec = msgspec.structs.replace(playbook(1), labels={"team": f"t{number % teams}"})
            now_us = clock.now_us()
            made = first_event(spec, now_us, submitted_by=f"key:s{number % submitters}")
            summary = msgspec.structs.replace(
                made.summary,
                status=Status.WAITING,
                phase=Phase.EXECUTION,
                reason="approval",
                wake_at_us=now_us + WAIT_US,
            )
            batch.append(NewTask(summary, made.rows))
        await store.create_all(batch)


async def measure(directory: str, waiting: int, live: int, rounds: int) -> dict[str, float]:
    """Figures; microseconds of CPU, and how many times those of the empty store they are."""
    arrived, done = 0, anyio.Event()

    async def heard(agent: str, number: int) -> None:
        nonlocal arrived
        arrived += 1
        await done.wait()

    async with (
        opened(os.path.join(directory, "empty")) as empty,
        opened(os.path.join(directory, "full")) as full,
    ):
        for store in (empty, full):
            await store.tasks(limit=1)
        before = _settled_bytes()
        await fill(full, waiting, submitters=SUBMITTERS, teams=20)
        # A page full of each kind, so that lists answer with as much.
        await fill(empty, 50, submitters=1, teams=1)
        filled = _settled_bytes()
        supervisor = Supervisor(ports(full, heard), tasks_max=live)
        async with anyio.create_task_group() as tg:
            tg.start_soon(supervisor.run_until_stopped)
            async with anyio.create_task_group() as submits:
                for _ in range(live):
                    submits.start_soon(_submit, full, SystemClock(), playbook(1), "bench")
            with anyio.fail_after(600):
                while arrived < live:
                    await anyio.sleep(0.05)
            running = _settled_bytes()
            supervisor.stop.set()
            done.set()
        figures: dict[str, float] = {
            "waiting": waiting,
            "live": live,
            "driven_at_once": arrived,
            "rss_mib_of_waiting": (filled - before) / (1 << 20),
            "kib_a_live_task": (running - filled) / 1024 / max(live, 1),
            "rss_mib": running / (1 << 20),
        }
        await _pairs(empty, full, rounds, figures)
        return figures


async def _pairs(
    empty: SqliteStore, full: SqliteStore, rounds: int, figures: dict[str, float]
) -> None:
    clock = SystemClock()

    async def submits(store: SqliteStore) -> int:
        async with anyio.create_task_group() as tg:
            for number in range(AT_ONCE):
                spec = playbook(1)
                tg.start_soon(_submit, store, clock, spec, f"key:s{number % SUBMITTERS}")
        return AT_ONCE

    def lists(**wish: object) -> Callable[[SqliteStore], Awaitable[int]]:
        async def run(store: SqliteStore) -> int:
            for _ in range(20):
                await store.tasks(limit=50, **wish)  # type: ignore[arg-type]
            return 20

        return run

    async def looks(store: SqliteStore) -> int:
        for _ in range(20):
            await store.ready(now_us=clock.now_us(), of_each=2)
        return 20

    kinds: dict[str, Callable[[SqliteStore], Awaitable[int]]] = {
        "look_for_work": looks,
        "submit": submits,
        "list": lists(),
        "list_status": lists(statuses=["waiting"]),
        "list_label": lists(labels={"team": "t0"}),
        "list_submitter": lists(submitted_by="key:s0"),
    }
    for name, kind in kinds.items():
        taken: dict[int, list[float]] = {0: [], 1: []}
        for turn in range(2 * rounds):
            which = (turn + turn // 2) % 2  # 0 1 1 0 0 1 1 0: neither is always the second
            gc.collect()
            begun = time.process_time()
            number = await kind((empty, full)[which])
            taken[which].append((time.process_time() - begun) / number * 1e6)
        figures[f"{name}_us"] = median(taken[1])
        figures[f"{name}_ratio"] = median(taken[1]) / median(taken[0])


async def _submit(store: SqliteStore, clock: SystemClock, spec, who: str) -> None:  # type: ignore[no-untyped-def]
    await submit(spec, store, clock, submitted_by=who)


def main() -> None:
    """`python -m bench.ours.hibernated DIRECTORY --waiting 100000 --live 1000`: a line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--waiting", type=int, default=100_000)
    parser.add_argument("--live", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=30)
    given = parser.parse_args()
    meter.tell(**anyio.run(measure, given.directory, given.waiting, given.live, given.rounds))


if __name__ == "__main__":
    main()
