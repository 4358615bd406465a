"""DBOS with its SQLite system database: a workflow of async steps.

A step's output is recorded before the workflow goes on; there is no faster durable setting. SQLite
is put into WAL mode, which DBOS leaves to its user and which is faster than its default.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from typing import Any

from dbos import DBOS, DBOSConfig, SetWorkflowID

from bench import meter
from bench.meter import OUTPUT, Halt, Meter, Regained

HALF = 10
heard: Callable[[str, int], Awaitable[None]]


@DBOS.step()
async def step(agent: str, number: int) -> dict[str, Any]:
    """One call of the tool."""
    await heard(agent, number)
    return {"ok": True, "exit": 0, "output": OUTPUT}


@DBOS.workflow()
async def work(agent: str, calls: int) -> str:
    """One agent."""
    for number in range(calls):
        await step(agent, number)
    return "done"


def launch(directory: str) -> None:
    """Start DBOS on the store in `directory`; it recovers what it finds there."""
    path = os.path.join(directory, "dbos.db")
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": f"sqlite:///{path}",
        "application_version": "1",
        "executor_id": "bench",
        "log_level": "ERROR",
        "run_admin_server": False,
    }
    DBOS(config=config)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    DBOS.launch()


async def start(agent: str, calls: int) -> Any:
    """A handle of the agent's workflow."""
    with SetWorkflowID(agent):
        return await DBOS.start_workflow_async(work, agent, calls)


async def measure(directory: str, waves: Sequence[Meter], agents: int) -> None:
    """Let `agents` workflows run at once, wave after wave."""
    global heard
    await asyncio.to_thread(launch, directory)
    for index, wave in enumerate(waves):
        heard = wave.call
        names = [f"a{index}-{number}" for number in range(agents)]
        handles = [await start(name, wave.calls) for name in names]
        await asyncio.gather(*(handle.get_result() for handle in handles))


async def half(directory: str, agents: int) -> None:
    """Start all; the last to arrive in the half-done step ends the process."""
    global heard
    heard = Halt(agents, HALF).call
    await asyncio.to_thread(launch, directory)
    for number in range(agents):
        await start(f"a{number}", 2 * HALF)
    await asyncio.Event().wait()


async def regain(directory: str, agents: int) -> None:
    """Launching recovers every workflow that had not ended, as documented."""
    global heard
    heard = Regained(agents, HALF).call
    await asyncio.to_thread(launch, directory)
    await asyncio.Event().wait()


def main() -> None:
    """`python -m bench.peers.dbos_steps WHAT DIRECTORY`: one line of JSON."""
    given = meter.arguments()
    match given.what:
        case "steps":
            waves = meter.meters(given)
            asyncio.run(measure(given.directory, waves, given.agents))
            versions = {"dbos": version("dbos"), "SQLite": sqlite3.sqlite_version}
            meter.tell_steps(waves, versions=versions)
        case "half":
            asyncio.run(half(given.directory, given.agents))
        case "regain":
            asyncio.run(regain(given.directory, given.agents))
    meter.end()


if __name__ == "__main__":
    main()
