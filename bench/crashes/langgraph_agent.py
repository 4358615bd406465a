"""LangGraph: nodes `pay` and `close`, AsyncSqliteSaver, `durability="sync"`, its most durable mode.

Resumed as documented: the same thread, no input. What it knows is looked up in the history.
"""

from __future__ import annotations

import asyncio
import os
import sys
from importlib.metadata import version
from typing import Any, TypedDict

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph

from bench.crashes import outside


class Carried(TypedDict):
    done: str


async def main() -> None:
    """`first` runs it, `again` resumes it."""

    async def pay(state: Carried) -> dict[str, Any]:
        outside.pay()
        return {"done": "paid"}

    async def close(state: Carried) -> dict[str, Any]:
        outside.close()
        return {"done": "closed"}

    graph = StateGraph(Carried)
    graph.add_node("pay", pay)
    graph.add_node("close", close)
    graph.add_edge(START, "pay")
    graph.add_edge("pay", "close")
    graph.add_edge("close", END)
    config: Any = {"configurable": {"thread_id": "one"}}
    async with AsyncSqliteSaver.from_conn_string(os.path.join(sys.argv[2], "langgraph.db")) as db:
        app = graph.compile(checkpointer=db)
        given = Carried(done="") if sys.argv[1] == "first" else None
        ended = await app.ainvoke(given, config, durability="sync")
        history = [snapshot async for snapshot in app.aget_state_history(config)]
        tasks = [task for snapshot in history for task in snapshot.tasks if task.name == "pay"]
        errors = [task.error for task in tasks if task.error]
    outside.tell(
        ended=ended["done"],
        said=f"its history has {len(tasks)} run of pay and {len(errors)} errors",
        reported=bool(errors) or len(tasks) > 1,
        versions={n: version(n) for n in ("langgraph", "langgraph-checkpoint-sqlite")},
    )


asyncio.run(main())
