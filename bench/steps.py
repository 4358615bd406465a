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
from agent_runtime.toolkit import FunctionTool, tool
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


class Gate:
    """Holds every task in its first step until all of them are there: then all live at once."""

    def __init__(self, tasks: int) -> None:
        self._missing = tasks
        self.resident_bytes = 0
        self.opened_at = 0.0
        self._open = anyio.Event()

    async def arrive(self) -> None:
        """Wait for the others; the last one looks at memory and at the clock."""
        self._missing -= 1
        if self._missing == 0:
            gc.collect()
            self.resident_bytes = _resident_bytes()
            self.opened_at = time.perf_counter()
            self._open.set()
        await self._open.wait()


def noop_tool(gate: Gate) -> FunctionTool:
    """A tool that does nothing, but for waiting at the gate in a task's first step."""

    @tool(effect=Effect.READ, parameters={}, where="daemon")
    async def noop(call: ToolCall) -> ToolResult:
        """Do nothing and return 500 bytes."""
        if call.call_id == "s0.1":
            await gate.arrive()
        return RESULT

    return noop


def playbook(steps: int = STEPS) -> TaskSpec:
    """A chain of no-op steps behind the gate."""
    return TaskSpec(
        goal="no-op",
        policy=Policy(tools=["noop"]),
        plan=PlanSpec(
            steps=[
                StepSpec(id=f"s{i}", tool="noop", needs=[f"s{i - 1}"] if i else [])
                for i in range(steps + 1)
            ]
        ),
    )


async def run_tasks(tasks: int, path: str) -> Figures:
    """Submit `tasks` tasks, get them all to their first step, then let them run."""
    store = await SqliteStore.open(path)
    try:
        clock, workspaces, gate = SystemClock(), FakeWorkspaces(), Gate(tasks)
        ports = Ports(
            store=store,
            clock=clock,
            bus=LocalBus(),
            toolbox=FakeToolbox([noop_tool(gate)]),
            sandbox=FakeSandbox([]),
            workspaces=workspaces,
            verifier=FakeVerifier(workspaces),
            environment=FakeEnvironment(),
        )
        spec = playbook()
        ids = [await submit(spec, store, clock, submitted_by="bench") for _ in range(tasks)]
        gc.collect()
        before = _resident_bytes()
        await Supervisor(ports, tasks_max=tasks).run_all()
        seconds = time.perf_counter() - gate.opened_at
        events = sum((await store.heads(ids)).values())
        ended = sum(1 for t in await store.tasks(limit=tasks) if t.status == "unverified")
        return Figures(
            tasks=tasks,
            ended=ended,
            steps_per_second=tasks * STEPS / seconds,
            kilobytes_per_task=(gate.resident_bytes - before) / 1024 / tasks,
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
