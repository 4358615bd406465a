"""The whole runtime: playbook tasks of no-op steps, each with a durable intent and result."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

import anyio
import apsw

from agent_runtime.clock import SystemClock
from agent_runtime.loop.submission import submit
from agent_runtime.loop.supervisor import Supervisor
from bench import meter
from bench.meter import Halt, Meter, Regained
from bench.ours.world import Heard, opened, playbook, ports

HALF = 10
"""Steps that are done when a task is half done."""


async def measure(directory: str, waves: Sequence[Meter], agents: int) -> None:
    """Let `agents` tasks run at once, wave after wave."""
    async with opened(directory) as store:
        for wave in waves:
            spec = playbook(wave.calls)
            for _ in range(agents):
                await submit(spec, store, SystemClock(), submitted_by="bench")
            await Supervisor(ports(store, wave.call), tasks_max=agents).run_all()


async def half(directory: str, agents: int, heard: Heard) -> None:
    """Submit and drive; `heard` ends it."""
    spec = playbook(2 * HALF)
    async with opened(directory) as store:
        for _ in range(agents):
            await submit(spec, store, SystemClock(), submitted_by="bench")
        await Supervisor(ports(store, heard), tasks_max=agents).run_all()


async def regain(directory: str, agents: int, heard: Heard) -> None:
    """Drive what the killed process left."""
    async with opened(directory) as store:
        await Supervisor(ports(store, heard), tasks_max=agents).run_all()


def main() -> None:
    """`python -m bench.ours.steps WHAT DIRECTORY`: one line of JSON."""
    given = meter.arguments()
    match given.what:
        case "steps":
            waves = meter.meters(given)
            anyio.run(measure, given.directory, waves, given.agents)
            versions = {
                "agent-runtime": version("agent-runtime"),
                "SQLite": apsw.sqlitelibversion(),
            }
            meter.tell_steps(waves, versions=versions)
        case "half":
            anyio.run(half, given.directory, given.agents, Halt(given.agents, HALF).call)
        case "regain":
            anyio.run(regain, given.directory, given.agents, Regained(given.agents, HALF).call)


if __name__ == "__main__":
    main()
