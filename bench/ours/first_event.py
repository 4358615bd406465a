"""From a submission to the loop's first event after the claim, before the workspace opens.

One process drives, another submits, as `submit` does beside a daemon. The log's own times tell: the
clock is one machine's. Counted until the event after `LeaseTaken`, which is durable then.
"""

from __future__ import annotations

import subprocess
import sys
import time

import anyio

from agent_runtime.clock import SystemClock
from agent_runtime.loop.submission import submit
from agent_runtime.loop.supervisor import Supervisor
from agent_runtime.types import TaskId
from bench import meter
from bench.ours.world import opened, playbook, ports

TASKS = 200
PAUSE_SECONDS = 0.02


async def submit_all(directory: str) -> None:
    """One task after the other, with pauses."""
    async with opened(directory) as store:
        for _ in range(TASKS):
            await submit(playbook(1), store, SystemClock(), submitted_by="bench")
            await anyio.sleep(PAUSE_SECONDS)


async def measure(directory: str) -> list[float]:
    """Sorted milliseconds, one a task."""

    async def heard(agent: str, number: int) -> None:
        return None

    async with opened(directory) as store:
        supervisor = Supervisor(ports(store, heard), tasks_max=TASKS)
        argv = [sys.executable, "-m", "bench.ours.first_event", directory, "submit"]
        async with anyio.create_task_group() as tg:
            tg.start_soon(supervisor.run_until_stopped)
            other = subprocess.Popen(argv)
            deadline = time.monotonic() + 120
            ended: list[TaskId] = []
            while len(ended) < TASKS and time.monotonic() < deadline:
                await anyio.sleep(0.2)
                found = await store.tasks(statuses=["unverified"], limit=TASKS)
                ended = [TaskId(task.task_id) for task in found]
            supervisor.stop.set()
        other.wait()
        return sorted([await _waited_ms(store, task_id) for task_id in ended])


async def _waited_ms(store, task_id: TaskId) -> float:  # type: ignore[no-untyped-def]
    rows = await store.load(task_id)
    taken = next(i for i, row in enumerate(rows) if row.type == "LeaseTaken")
    later = next(row for row in rows[taken:] if row.type == "WorkspaceOpened")
    return float(later.at_us - rows[0].at_us) / 1000


def main() -> None:
    """`python -m bench.ours.first_event DIRECTORY`: one line of JSON."""
    directory = sys.argv[1]
    if len(sys.argv) > 2:
        anyio.run(submit_all, directory)
        return
    waited = anyio.run(measure, directory)
    if len(waited) != TASKS:
        sys.exit(f"{len(waited)} of {TASKS} tasks ended")
    meter.tell(p50_ms=waited[len(waited) // 2], p99_ms=waited[int(len(waited) * 0.99)])


if __name__ == "__main__":
    main()
