"""A runtime around one SQLite store, with an in-process no-op tool, no sandbox and no tree."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from agent_runtime.bus import LocalBus
from agent_runtime.clock import SystemClock
from agent_runtime.contributions import Contribution
from agent_runtime.ports import Ports
from agent_runtime.stores.sqlite import SqliteStore
from agent_runtime.testing import FakeEnvironment, FakeSandbox, FakeVerifier, FakeWorkspaces
from agent_runtime.toolbox import PluginToolbox
from agent_runtime.toolkit import FunctionTool, tool
from agent_runtime.types import (
    Effect,
    Limits,
    PlanSpec,
    Policy,
    StepSpec,
    TaskSpec,
    ToolCall,
    ToolResult,
)
from bench.meter import OUTPUT

RESULT = ToolResult(ok=True, output=OUTPUT, exit=0)
Heard = Callable[[str, int], Awaitable[None]]
"""Told the agent and the number of a call, as it begins."""


def noop_tool(heard: Heard) -> FunctionTool:
    """Returns 500 bytes."""

    @tool(effect=Effect.READ, parameters={}, where="daemon")
    async def noop(call: ToolCall) -> ToolResult:
        """Do nothing."""
        await heard(call.task_id, int(call.call_id[1:].partition(".")[0]))
        return RESULT

    return noop


def playbook(calls: int) -> TaskSpec:
    """A chain of calls of the tool."""
    return TaskSpec(
        goal="no-op",
        policy=Policy(tools=["noop"]),
        limits=Limits(steps=calls),
        plan=PlanSpec(
            steps=[
                StepSpec(id=f"s{i}", tool="noop", needs=[f"s{i - 1}"] if i else [])
                for i in range(calls)
            ]
        ),
    )


@asynccontextmanager
async def opened(directory: str) -> AsyncIterator[SqliteStore]:
    """The store in `directory`, SQLite with synchronous=FULL."""
    store = await SqliteStore.open(os.path.join(directory, "store.db"))
    try:
        yield store
    finally:
        await store.close()


def ports(store: SqliteStore, heard: Heard) -> Ports:
    """What is left of the world: the loop, the log and the tool."""
    workspaces = FakeWorkspaces()
    return Ports(
        store=store,
        clock=SystemClock(),
        bus=LocalBus(),
        toolbox=PluginToolbox([Contribution(tools=(noop_tool(heard),), sources={})]),
        sandbox=FakeSandbox([]),
        workspaces=workspaces,
        verifier=FakeVerifier(workspaces),
        environment=FakeEnvironment(),
    )
