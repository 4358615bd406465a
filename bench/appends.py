"""How long one durable write takes: submitting tasks, one after the other and many at once."""

from __future__ import annotations

import os
import sys
import tempfile
import time

import anyio

from agent_runtime.clock import SystemClock
from agent_runtime.loop.submission import submit
from agent_runtime.stores.sqlite import SqliteStore
from agent_runtime.types import TaskSpec

WRITES = 2000


async def write_seconds(writers: int, path: str) -> list[float]:
    """Sorted seconds of `WRITES` durable appends to SQLite, by `writers` at once."""
    store = await SqliteStore.open(path)
    taken: list[float] = []

    async def write() -> None:
        for _ in range(WRITES // writers):
            begun = time.perf_counter()
            await submit(TaskSpec(goal="wait"), store, SystemClock(), submitted_by="bench")
            taken.append(time.perf_counter() - begun)

    async with anyio.create_task_group() as tg:
        for _ in range(writers):
            tg.start_soon(write)
    await store.close()
    return sorted(taken)


def main() -> None:
    """`python -m bench.appends WRITERS`: one row."""
    writers = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as directory:
        taken = anyio.run(write_seconds, writers, os.path.join(directory, "store.db"))
    p50, p99 = (1000 * taken[int(len(taken) * share)] for share in (0.5, 0.99))
    print(f"{writers:>7} {len(taken):>7} {p50:>8.2f} {p99:>8.2f}")


if __name__ == "__main__":
    main()
