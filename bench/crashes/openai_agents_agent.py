"""OpenAI Agents SDK with SQLiteSession: a model that wants `pay`, then `close`, then is done.

The model is a stub by the SDK's own interface. It decides by what it is shown, as a model would: it
asks for what has no result in its conversation yet. There is no resumption of a run that died (its
`RunState` is for runs that stopped by themselves), so the agent is run again on the same session.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Any

from agents import (
    Agent,
    Model,
    ModelResponse,
    RunConfig,
    Runner,
    SQLiteSession,
    Usage,
    function_tool,
)
from agents.testing import assistant_message, function_call

from bench.crashes import outside


@function_tool
def pay() -> str:
    """The effect."""
    outside.pay()
    return "paid"


@function_tool
def close() -> str:
    """The step behind it."""
    outside.close()
    return "closed"


class Deciding(Model):
    """Asks for `pay` until it has seen a result of it, then for `close`."""

    def __init__(self) -> None:
        self.shown: list[Any] = []
        self.asked = 0

    async def get_response(  # type: ignore[override]
        self, system_instructions: Any, input: Any, *more: Any, **options: Any
    ) -> ModelResponse:
        self.shown = input if isinstance(input, list) else []
        names = {i["call_id"]: i["name"] for i in self.shown if i.get("type") == "function_call"}
        seen = {
            names.get(i["call_id"]) for i in self.shown if i.get("type") == "function_call_output"
        }
        self.asked += 1
        for name in ("pay", "close"):
            if name not in seen:
                call = function_call(name, {}, call_id=f"{name}-{os.getpid()}-{self.asked}")
                return ModelResponse(output=[call], usage=Usage(), response_id=None)
        return ModelResponse(output=[assistant_message("closed")], usage=Usage(), response_id=None)

    def stream_response(self, *args: Any, **options: Any) -> AsyncIterator[Any]:  # type: ignore[override]
        raise NotImplementedError


async def main() -> None:
    """`first` and `again` are the same call."""
    session = SQLiteSession("one", os.path.join(sys.argv[2], "session.db"))
    agent = Agent(name="payer", model=Deciding(), tools=[pay, close])
    words = "pay once, then close"
    found = await session.get_items() if sys.argv[1] == "again" else []
    settings = RunConfig(tracing_disabled=True)
    ended = await Runner.run(agent, words, session=session, run_config=settings)
    calls = [i for i in found if i.get("type") == "function_call" and i["name"] == "pay"]
    answered = {i["call_id"] for i in found if i.get("type") == "function_call_output"}
    unanswered = [call for call in calls if call["call_id"] not in answered]
    outside.tell(
        ended=ended.final_output,
        said=f"its session had {len(calls)} call of pay, {len(unanswered)} without a result",
        reported=bool(unanswered),
        versions={"openai-agents": version("openai-agents")},
    )


asyncio.run(main())
