"""Playbook tasks of no-op steps in one process: durable steps a second, memory of a live task.

A no-op tool in the daemon, a result of 500 bytes, no sandbox and no tree: what is left is the loop,
the log and the disk. Every step stores its intent and its result before the next one starts.
"""

from __future__ import annotations

import gc
import os
import resource
import sys
import tempfile
import time
from dataclasses import dataclass

import anyio

from agent_runtime.bus import LocalBus
from agent_runtime.clock import SystemClock
from agent_runtime.loop.submission import submit
from agent_runtime.loop.supervisor import Supervisor
from agent_runtime.ports import Ports
from agent_runtime.stores.sqlite import SqliteStore
from agent_runtime.testing import (
    FakeEnvironment,
    FakeSandbox,
    FakeToolbox,
    FakeVerifier,
    FakeWorkspaces,
)
from agent_runtime.toolkit import tool
from agent_runtime.types import (
    Effect,
    PlanSpec,
    Policy,
    StepSpec,
    TaskSpec,
    ToolCall,
    ToolResult,
)

RESULT = ToolResult(ok=True, output="x" * 500, exit=0)
STEPS = 20


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run came to."""

    tasks: int
    ended: int
    steps_per_second: float
    kilobytes_per_task: float
    events: int
    seconds: float


@tool(effect=Effect.READ, parameters={}, where="daemon")
async def noop(call: ToolCall) -> ToolResult:
    """Do nothing and return 500 bytes."""
    return RESULT


def playbook(steps: int = STEPS) -> TaskSpec:
    """A chain of no-op steps."""
    return TaskSpec(
        goal="no-op",
        policy=Policy(tools=["noop"]),
        plan=PlanSpec(
            steps=[
                StepSpec(id=f"s{i}", tool="noop", needs=[f"s{i - 1}"] if i else [])
                for i in range(steps)
            ]
        ),
    )


async def run_tasks(tasks: int, path: str) -> Figures:
    """Submit `tasks` tasks, then drive them all at once."""
    store = await SqliteStore.open(path)
    try:
        clock, workspaces = SystemClock(), FakeWorkspaces()
        ports = Ports(
            store=store,
            clock=clock,
            bus=LocalBus(),
            toolbox=FakeToolbox([noop]),
            sandbox=FakeSandbox([]),
            workspaces=workspaces,
            verifier=FakeVerifier(workspaces),
            environment=FakeEnvironment(),
        )
        spec = playbook()
        ids = [await submit(spec, store, clock, submitted_by="bench") for _ in range(tasks)]
        gc.collect()
        before = _resident_bytes()
        started = time.perf_counter()
        supervisor = Supervisor(ports, tasks_max=tasks)
        peak = before
        async with anyio.create_task_group() as tg:

            async def watch() -> None:
                nonlocal peak
                while True:
                    peak = max(peak, _resident_bytes())
                    await anyio.sleep(0.05)

            tg.start_soon(watch)
            await supervisor.run_all()
            tg.cancel_scope.cancel()
        seconds = time.perf_counter() - started
        events = sum((await store.heads(ids)).values())
        ended = sum(1 for t in await store.tasks(limit=tasks) if t.status == "unverified")
        return Figures(
            tasks=tasks,
            ended=ended,
            steps_per_second=tasks * STEPS / seconds,
            kilobytes_per_task=(peak - before) / 1024 / tasks,
            events=events,
            seconds=seconds,
        )
    finally:
        await store.close()


def _resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def measure(tasks: int) -> Figures:
    """`run_tasks` in a fresh directory."""
    with tempfile.TemporaryDirectory() as directory:
        return anyio.run(run_tasks, tasks, os.path.join(directory, "store.db"))


def main() -> None:
    """`python -m bench.steps TASKS`: one row."""
    found = measure(int(sys.argv[1]))
    print(
        f"{found.tasks:>6} {found.ended:>6} {found.steps_per_second:>16,.0f} "
        f"{found.kilobytes_per_task:>15.1f} {found.events:>8}"
    )


if __name__ == "__main__":
    main()
