"""`langgraph dev`, the server that LangGraph's own command line starts, and the graph it serves.

Its options are those that leave it the least to do: no reloader, no browser, no detector of
blocking calls, no tracing, no look for newer versions, and no workers (`--n-jobs-per-worker 0`),
because the daemon beside it drives nothing either: what is measured is taking work in. It keeps
everything in memory, and a thread of it pickles all of that to `.langgraph_api` every ten seconds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph

ENV = {
    "LANGSMITH_TRACING": "false",
    "LANGGRAPH_CLI_NO_ANALYTICS": "1",
    "LANGGRAPH_NO_VERSION_CHECK": "true",
    "LOG_LEVEL": "ERROR",
}


class Carried(TypedDict):
    goal: str


async def nothing(state: Carried) -> dict[str, Any]:
    """The one step."""
    return {}


graph = (
    StateGraph(Carried)
    .add_node("nothing", nothing)
    .add_edge(START, "nothing")
    .add_edge("nothing", END)
    .compile()
)


def command(directory: Path, port: int) -> list[str]:
    """How to serve it on `port`; its state goes into the directory that it is started in."""
    described = {"dependencies": ["."], "graphs": {"bench": f"{__file__}:graph"}}
    config = directory / "langgraph.json"
    config.write_text(json.dumps(described), encoding="utf-8")
    script = Path(sys.executable).parent / "langgraph"
    return [
        *(str(script), "dev", "--config", str(config), "--port", str(port)),
        *("--no-reload", "--no-browser", "--allow-blocking", "--n-jobs-per-worker", "0"),
        *("--server-log-level", "ERROR"),
    ]
