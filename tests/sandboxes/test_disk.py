"""A workspace with a disk of its own, seen from the sandbox and from those beside it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent_runtime.ports import DiskQuota
from agent_runtime.sandboxes.bubblewrap import BubblewrapSandbox
from agent_runtime.workspaces import quota
from tests.sandboxes.support import call, info, make_spec
from tests.workspaces.test_quota import backing_files

pytestmark = pytest.mark.anyio

FILL = "dd if=/dev/zero of=zeros bs=1M count=200 2>&1"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Where a task of the same state directory would have it."""
    place = tmp_path / "state" / "workspaces"
    if reason := quota.unavailable(str(place)):
        pytest.skip(f"no disk quotas here: {reason}")
    point = place / "task_1" / "disk"
    point.parent.mkdir()
    quota.make(str(point), DiskQuota(bytes=64 << 20, inodes=1000))
    (point / "work").mkdir()
    return point


async def test_a_full_disk_is_told_as_the_quota(
    bubblewrap: BubblewrapSandbox, tmp_path: Path, disk: Path
) -> None:
    spec = make_spec(tmp_path, workspace=str(disk / "work"))
    try:
        session = await bubblewrap.open(spec)
        try:
            for command in (FILL, "rm zeros; for i in $(seq 2000); do : > $i || exit 1; done"):
                told = await session.call(
                    info("shell"), call("shell", command=command), deadline_seconds=60
                )
                assert not told.ok and "environment.resources.disk" in told.output
                assert "No space left" in (told.raw or b"").decode()
            command = "rm *; exit 7"
            fine = await session.call(
                info("shell"), call("shell", command=command), deadline_seconds=60
            )
            assert fine.exit == 7 and "quota" not in fine.output
        finally:
            await session.close()
        check = await bubblewrap.execute(spec, ["sh", "-c", FILL], deadline_seconds=60)
        assert check.exit != 0 and b"disk quota of the workspace" in check.output
    finally:
        quota.remove(str(disk))


async def test_a_sandbox_does_not_hold_the_disk_of_another_task(
    bubblewrap: BubblewrapSandbox, tmp_path: Path, disk: Path
) -> None:
    """A mount namespace is a copy: what is mounted in it stays, whoever unmounts it outside."""
    session = await bubblewrap.open(make_spec(tmp_path, owner_id="task_2"))
    try:
        assert len(backing_files(tmp_path)) == 1
        quota.remove(str(disk))
        assert backing_files(tmp_path) == []
        assert not os.path.exists(disk)
    finally:
        await session.close()
