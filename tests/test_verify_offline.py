"""`verify` names task and event of anything that is not what was written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import apsw
import pytest

from agent_runtime.bus import LocalBus
from agent_runtime.clock import SystemClock
from agent_runtime.ports import Ports
from agent_runtime.runtime import Runtime
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
    TaskId,
    TaskSpec,
    ToolCall,
    ToolResult,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@tool(effect=Effect.READ, parameters={}, where="daemon")
async def talk(call: ToolCall) -> ToolResult:
    """Say more than an observation holds."""
    return ToolResult(ok=True, output="word " * 5000)


@asynccontextmanager
async def runtime(path: Path) -> AsyncIterator[Runtime]:
    store = await SqliteStore.open(str(path / "store.db"))
    workspaces = FakeWorkspaces()
    ports = Ports(
        store=store,
        clock=SystemClock(),
        bus=LocalBus(),
        toolbox=FakeToolbox([talk]),
        sandbox=FakeSandbox([]),
        workspaces=workspaces,
        verifier=FakeVerifier(workspaces),
        environment=FakeEnvironment(),
    )
    try:
        yield Runtime(ports, state_dir=str(path))
    finally:
        await store.close()


SPEC = TaskSpec(
    goal="talk",
    policy=Policy(tools=["talk"]),
    plan=PlanSpec(steps=[StepSpec(id="a", tool="talk"), StepSpec(id="b", tool="talk")]),
)


async def ended_task(path: Path) -> TaskId:
    async with runtime(path) as made:
        task_id = await made.submit(SPEC, submitted_by="test")
        state = await made.drive(task_id)
        assert state.ended
        report = await made.verify(task_id)
        assert report.ok, report
        return task_id


def tamper(path: Path, sql: str, *values: str | int | bytes) -> None:
    db = apsw.Connection(str(path / "store.db"))
    db.execute(sql, values)
    assert db.changes() > 0
    db.close()


@pytest.mark.parametrize(
    "change",
    [
        "data = CAST(replace(CAST(data AS TEXT), 'talk', 'walk') AS BLOB)",
        "at_us = at_us + 1",
        "type = 'Steered'",
        "schema = 2",
        "hash = replace(hash, substr(hash, 1, 1), 'g')",
        "prev_hash = replace(prev_hash, substr(prev_hash, 1, 1), 'g')",
    ],
)
async def test_a_changed_column_is_named_with_its_event(tmp_path: Path, change: str) -> None:
    """Our contract: one changed byte in any stored column is found."""
    task_id = await ended_task(tmp_path)
    async with runtime(tmp_path) as made:
        rows = await made.rows(task_id)
    seq = next(row.seq for row in rows if row.type == "CallIntended")
    tamper(tmp_path, f"UPDATE events SET {change} WHERE task_id = ? AND seq = ?", task_id, seq)
    async with runtime(tmp_path) as made:
        report = await made.verify(task_id)
    assert not report.ok
    assert report.task_id == task_id
    assert report.seq == seq
    assert report.fault is not None and str(seq) in report.fault


async def test_a_cut_tail_is_found_by_the_head_in_the_task_row(tmp_path: Path) -> None:
    """A chain alone does not see that its tail is gone."""
    task_id = await ended_task(tmp_path)
    async with runtime(tmp_path) as made:
        last = (await made.rows(task_id))[-1].seq
    tamper(tmp_path, "DELETE FROM events WHERE task_id = ? AND seq = ?", task_id, last)
    async with runtime(tmp_path) as made:
        report = await made.verify(task_id)
    assert (report.ok, report.task_id, report.seq) == (False, task_id, last)


async def test_a_missing_event_in_the_middle_is_named(tmp_path: Path) -> None:
    """Numbers have no holes."""
    task_id = await ended_task(tmp_path)
    tamper(tmp_path, "DELETE FROM events WHERE task_id = ? AND seq = 5", task_id)
    async with runtime(tmp_path) as made:
        report = await made.verify(task_id)
    assert (report.ok, report.seq) == (False, 5)


async def test_a_changed_blob_is_named_with_the_event_that_needs_it(tmp_path: Path) -> None:
    """Large texts are content-addressed: their bytes are part of the evidence."""
    task_id = await ended_task(tmp_path)
    tamper(tmp_path, "UPDATE blobs SET data = CAST('nothing' AS BLOB)")
    async with runtime(tmp_path) as made:
        rows = await made.rows(task_id)
        report = await made.verify(task_id)
    first = next(row.seq for row in rows if row.type == "CallReturned")
    assert (report.ok, report.seq) == (False, first)
