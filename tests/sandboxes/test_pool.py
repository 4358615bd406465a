"""Workers that start before they are asked for: for one spec, bounded, and never for another."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from agent_runtime.sandboxes import kernel
from agent_runtime.sandboxes.pool import Pool
from tests.sandboxes.support import AnySandbox, call, info, make_sandbox, make_spec, until

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["bubblewrap", "unsafe"])
def sandbox(request: pytest.FixtureRequest, tmp_path: Path) -> AnySandbox:
    return make_sandbox(request.param, tmp_path / "state")


def workers(tmp_path: Path, owner_id: str = "task_1") -> list[list[tuple[int, int]]]:
    """Keeper, outer and inner process of each sandbox of an owner."""
    place = tmp_path / "state" / "sandboxes" / owner_id
    return [
        [tuple(each) for each in json.loads(path.read_text())["processes"]]
        for path in place.glob("*.json")
    ]


async def started(tmp_path: Path, owner_id: str = "task_1") -> list[tuple[int, int]]:
    await until(lambda: [len(each) for each in workers(tmp_path, owner_id)] == [3])
    (found,) = workers(tmp_path, owner_id)
    return found


async def test_a_spare_is_handed_out_to_the_open_with_its_spec(
    sandbox: AnySandbox, tmp_path: Path
) -> None:
    pool, spec = Pool(1), make_spec(tmp_path, env={"A": "1"})
    await pool.prestart(sandbox, spec)
    spare = await started(tmp_path)
    await pool.prestart(sandbox, spec)
    session = await pool.open(sandbox, make_spec(tmp_path, env={"A": "1"}))
    assert workers(tmp_path) == [spare]
    told = await session.call(info("echo"), call("echo", text="x"), deadline_seconds=20)
    assert told.output == "x"
    await session.close()
    again = await pool.open(sandbox, spec)
    assert workers(tmp_path) != [spare], "used once only"
    await again.close()


async def test_a_spare_of_another_spec_is_ended_and_not_handed_out(
    sandbox: AnySandbox, tmp_path: Path
) -> None:
    """Settings, plug-ins, variables: all of it is in the spec."""
    pool = Pool(1)
    await pool.prestart(sandbox, make_spec(tmp_path, env={"A": "1"}))
    spare = await started(tmp_path)
    session = await pool.open(sandbox, make_spec(tmp_path, env={"A": "2"}))
    assert spare not in workers(tmp_path)
    assert not kernel.start_time(spare[1][0])
    await session.close()


async def test_spares_are_bounded_and_none_at_all_is_possible(
    sandbox: AnySandbox, tmp_path: Path
) -> None:
    one, none = Pool(1), Pool(0)
    await none.prestart(sandbox, make_spec(tmp_path))
    await one.prestart(sandbox, make_spec(tmp_path))
    await one.prestart(sandbox, make_spec(tmp_path, owner_id="task_2"))
    await started(tmp_path)
    assert workers(tmp_path, "task_2") == []
    await one.discard("task_2")
    await one.discard("task_1")
    assert workers(tmp_path) == []


async def test_a_spare_that_died_is_replaced(sandbox: AnySandbox, tmp_path: Path) -> None:
    pool, spec = Pool(1), make_spec(tmp_path)
    await pool.prestart(sandbox, spec)
    spare = await started(tmp_path)
    os.kill(spare[2][0], signal.SIGKILL)
    session = await pool.open(sandbox, spec)
    told = await session.call(info("echo"), call("echo", text="x"), deadline_seconds=20)
    assert told.output == "x"
    await session.close()


async def test_a_workspace_that_cannot_be_used_is_told_by_open(
    sandbox: AnySandbox, tmp_path: Path
) -> None:
    pool = Pool(1)
    await pool.prestart(sandbox, make_spec(tmp_path, workspace=str(tmp_path / "missing")))
    assert workers(tmp_path) == []
