"""A sandbox that stands still: by cgroups where there are some, else by signals."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from agent_runtime.sandboxes import cgroups, groups, kernel, records
from agent_runtime.sandboxes.bubblewrap import BubblewrapSandbox
from agent_runtime.sandboxes.cgroups import Places
from agent_runtime.sandboxes.session import WorkerSession
from tests.sandboxes.support import AnySandbox, call, info, make_sandbox, make_spec, until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="local sandboxes need Linux"),
]

FROZEN_SECONDS = 1.2
"""Longer than the deadlines that must not run meanwhile."""


@pytest.fixture(params=["bubblewrap", "unsafe", "version 1", "without cgroups"])
def sandbox(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AnySandbox:
    """Without cgroups: stopped by signals, in a namespace of its own."""
    if request.param == "without cgroups":
        monkeypatch.setattr(cgroups, "here", lambda: Places())
        return make_sandbox("bubblewrap", tmp_path / "state")
    places = cgroups.here()
    if places.freezer is None:
        pytest.skip("no freezer here")
    if request.param == "version 1":
        mounted = cgroups.mounts(Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
        points = [m.point for m in mounted if "freezer" in m.controllers and not m.read_only]
        if not points or not os.access(points[0], os.W_OK):
            pytest.skip("no freezer of version 1 here")
        older = replace(places, freezer=cgroups.Place(1, points[0]))
        monkeypatch.setattr(cgroups, "here", lambda: older)
        return make_sandbox("bubblewrap", tmp_path / "state")
    return make_sandbox(request.param, tmp_path / "state")


async def stands_still(session: WorkerSession) -> bool:
    """Nobody answers. A slow machine may look like that, too: what follows tells them apart."""
    with anyio.move_on_after(10):
        while True:
            with anyio.move_on_after(0.3):
                await session.ping()
                continue
            return True
    return False


async def test_a_frozen_sandbox_does_nothing_and_goes_on_where_it_stood(
    sandbox: AnySandbox, tmp_path: Path
) -> None:
    session = await sandbox.open(make_spec(tmp_path))
    try:
        await session.freeze()
        await session.freeze()
        assert await stands_still(session)
        await session.thaw()
        await session.thaw()
        with anyio.fail_after(10):
            await session.ping()
    finally:
        await session.close()


async def test_no_deadline_runs_while_a_sandbox_is_frozen(
    sandbox: AnySandbox, tmp_path: Path
) -> None:
    session = await sandbox.open(make_spec(tmp_path))
    answers: list[bool] = []

    async def ask() -> None:
        result = await session.call(info("nap"), call("nap", seconds=0.3), deadline_seconds=1.0)
        answers.append(result.ok)

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await anyio.sleep(0)  # it has its deadline
            await session.freeze()
            tasks.start_soon(ask)  # asked for while nothing moves
            await anyio.sleep(FROZEN_SECONDS)
            assert answers == []
            await session.thaw()
        assert answers == [True, True]
    finally:
        await session.close()


@pytest.mark.long
async def test_a_tools_own_time_limit_does_not_run_while_it_is_frozen(
    sandbox: AnySandbox, tmp_path: Path
) -> None:
    """The tool watches its own clock, inside, which goes on."""
    session = await sandbox.open(make_spec(tmp_path))
    source = "agent_runtime_tools.shell:tools"
    command = call("shell", command=": > begun; sleep 0.7; echo woke", timeout_seconds=1.5)
    told: list[str] = []

    async def ask() -> None:
        result = await session.call(info("shell", source), command, deadline_seconds=20)
        told.append(result.output)

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await until((tmp_path / "workspace" / "begun").exists)
            await session.freeze()
            await anyio.sleep(2 * FROZEN_SECONDS)
            await session.thaw()
        assert told == ["woke\n"]
    finally:
        await session.close()


async def test_a_frozen_sandbox_can_be_closed(sandbox: AnySandbox, tmp_path: Path) -> None:
    session = await sandbox.open(make_spec(tmp_path))
    (record,) = (tmp_path / "state" / "sandboxes" / "task_1").glob("*.json")
    alive = [tuple(each) for each in json.loads(record.read_text())["processes"]]
    paths = records.groups(str(record))
    await session.freeze()
    assert await stands_still(session)
    await session.close()
    assert not record.exists() and not any(os.path.exists(path) for path in paths)
    await until(lambda: not any(kernel.start_time(pid) == at for pid, at in alive))


async def test_what_froze_with_its_keeper_killed_is_reaped(
    sandbox: AnySandbox, tmp_path: Path
) -> None:
    """Nobody is left to thaw it but a later process; in version 1 the dead cannot die frozen."""
    session = await sandbox.open(make_spec(tmp_path))
    (record,) = (tmp_path / "state" / "sandboxes" / "task_1").glob("*.json")
    alive = [tuple(each) for each in json.loads(record.read_text())["processes"]]
    await session.freeze()
    assert await stands_still(session)
    os.kill(alive[0][0], signal.SIGKILL)
    # As a later process sees it: the daemon that the record names is dead.
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "daemon": [os.getpid(), 1]}))
    assert await sandbox.reap("task_1") == 1
    assert not any(kernel.start_time(pid) == started for pid, started in alive)
    await session.close()


async def test_a_spare_thaws_what_a_killed_keeper_left_frozen(
    bubblewrap_with_groups: AnySandbox, tmp_path: Path
) -> None:
    """Also if nobody ever takes that task up again."""
    sandbox = bubblewrap_with_groups
    session = await sandbox.open(make_spec(tmp_path))
    (record,) = (tmp_path / "state" / "sandboxes" / "task_1").glob("*.json")
    alive = [tuple(each) for each in json.loads(record.read_text())["processes"]]
    await session.freeze()
    assert await stands_still(session)
    os.kill(alive[0][0], signal.SIGKILL)
    await until(lambda: kernel.start_time(alive[0][0]) == 0)
    groups.sweep(cgroups.bases(cgroups.here()))
    await until(lambda: not any(kernel.start_time(pid) == at for pid, at in alive))
    await session.close()


@pytest.fixture
def bubblewrap_with_groups(tmp_path: Path) -> AnySandbox:
    if cgroups.here().freezer is None:
        pytest.skip("no freezer here")
    return make_sandbox("bubblewrap", tmp_path / "state")


async def test_the_keepers_deadline_does_not_run_either(
    sandbox: AnySandbox, tmp_path: Path
) -> None:
    spec = make_spec(tmp_path)
    command = ["sh", "-c", ": > begun; sleep 0.4"]
    if not isinstance(sandbox, BubblewrapSandbox):
        pytest.skip("a command of the unsafe kind has the same keeper")
    await sandbox.probe()
    launch = sandbox._command(spec, command)
    running = await sandbox._launcher.launch(
        launch, owner_id="task_1", stdio="captured", deadline_seconds=1.0
    )
    await until((tmp_path / "workspace" / "begun").exists)
    await running.freeze()
    await anyio.sleep(FROZEN_SECONDS)
    await running.thaw()
    ended = await running.wait()
    await running.end()
    assert (ended.exit, ended.timed_out) == (0, False)
