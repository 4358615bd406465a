"""LangGraph with AsyncSqliteSaver: a graph of one node that comes back to itself.

`durability="sync"` is the only mode of which its documentation says that a step is persisted before
the next one starts ("async" writes it while the next one runs; "exit" at the end only), so it is
the one that can be compared. The saver sets SQLite's WAL itself. The state holds the last result
only, the least that a graph can carry.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from typing import Any, TypedDict

import aiosqlite
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph

from bench import meter
from bench.meter import OUTPUT, Halt, Meter, Regained

HALF = 10
Heard = Callable[[str, int], Awaitable[None]]


class Carried(TypedDict):
    agent: str
    number: int
    calls: int
    last: dict[str, Any]


async def compiled(directory: str, heard: Heard) -> tuple[Any, AsyncSqliteSaver]:
    """The graph on the store in `directory`."""

    async def step(state: Carried) -> dict[str, Any]:
        await heard(state["agent"], state["number"])
        result = {"ok": True, "exit": 0, "output": OUTPUT}
        return {"number": state["number"] + 1, "last": result}

    # A condition that is no coroutine would go through a thread at each step.
    async def onwards(state: Carried) -> str:
        return "step" if state["number"] < state["calls"] else END

    graph = StateGraph(Carried)
    graph.add_node("step", step)
    graph.add_edge(START, "step")
    graph.add_conditional_edges("step", onwards)
    saver = AsyncSqliteSaver(await aiosqlite.connect(os.path.join(directory, "langgraph.db")))
    await saver.setup()
    return graph.compile(checkpointer=saver), saver


def config(agent: str) -> dict[str, Any]:
    """One thread an agent."""
    return {"configurable": {"thread_id": agent}, "recursion_limit": 1000}


async def measure(directory: str, waves: Sequence[Meter], agents: int, durability: str) -> None:
    """Let `agents` graphs run at once, wave after wave."""
    wave = waves[0]

    async def heard(agent: str, number: int) -> None:
        await wave.call(agent, number)

    app, saver = await compiled(directory, heard)
    for index, wave in enumerate(waves):
        names = [f"a{index}-{number}" for number in range(agents)]
        inputs = [{"agent": name, "number": 0, "calls": wave.calls} for name in names]
        await asyncio.gather(
            *(app.ainvoke(given, config(given["agent"]), durability=durability) for given in inputs)
        )
    await saver.conn.close()


async def half(directory: str, agents: int) -> None:
    """Invoke all; the last to arrive in the half-done step ends the process."""
    app, _ = await compiled(directory, Halt(agents, HALF).call)
    inputs = [{"agent": f"a{n}", "number": 0, "calls": 2 * HALF} for n in range(agents)]
    await asyncio.gather(
        *(app.ainvoke(given, config(given["agent"]), durability="sync") for given in inputs)
    )


async def regain(directory: str, agents: int) -> None:
    """Resume every thread, as documented: the same thread id, no input."""
    app, saver = await compiled(directory, Regained(agents, HALF).call)
    async with saver.conn.execute("SELECT DISTINCT thread_id FROM checkpoints") as found:
        names = [name async for (name,) in found]
    await asyncio.gather(*(app.ainvoke(None, config(name), durability="sync") for name in names))


def main() -> None:
    """`python -m bench.peers.langgraph_steps WHAT DIRECTORY`: one line of JSON."""
    given = meter.arguments()
    match given.what:
        case "steps":
            waves = meter.meters(given)
            asyncio.run(measure(given.directory, waves, given.agents, given.durability))
            names = ("langgraph", "langgraph-checkpoint-sqlite")
            versions = {name: version(name) for name in names}
            meter.tell_steps(waves, versions={**versions, "SQLite": sqlite3.sqlite_version})
        case "half":
            asyncio.run(half(given.directory, given.agents))
        case "regain":
            asyncio.run(regain(given.directory, given.agents))
    meter.end()


if __name__ == "__main__":
    main()
