"""A disk of a task's own: real loop devices and mounts, where they can be had."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_runtime.errors import WorkspaceError
from agent_runtime.ports import DiskQuota, OpenedWorkspace
from agent_runtime.types import WorkspaceSpec
from agent_runtime.workspaces import LocalWorkspaces, quota
from tests.workspaces.conftest import TASK, Repo

pytestmark = pytest.mark.anyio

MIB = 1 << 20
SMALL = DiskQuota(bytes=64 * MIB, inodes=1000)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A state directory on which quotas can be had; nothing is mounted there at the end."""
    path = tmp_path / "state"
    if reason := quota.unavailable(str(path / "workspaces")):
        pytest.skip(f"no disk quotas here: {reason}")
    yield path
    left = backing_files(path)
    quota.unmount_below(str(path))
    assert left == []


@pytest.fixture
def workspaces(state: Path) -> LocalWorkspaces:
    return LocalWorkspaces(str(state))


def backing_files(below: Path) -> list[str]:
    """What the machine's loop devices lie on, below a directory; removed files included."""
    found = []
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            text = file.read_text(encoding="utf-8").strip()
        except OSError:
            continue  # it has just gone
        if text.startswith(f"{below}/"):
            found.append(text)
    return found


def fill(directory: str) -> int:
    """Write zeros until there is no more room; the mebibytes that fitted."""
    with open(os.path.join(directory, "zeros"), "wb", buffering=0) as file:
        for number in range(1000):
            try:
                file.write(b"\0" * MIB)
            except OSError as error:
                assert error.errno == errno.ENOSPC
                return number
    raise AssertionError("a gigabyte fitted")


async def opened(workspaces: LocalWorkspaces, repo: Repo) -> OpenedWorkspace:
    return await workspaces.open(TASK, WorkspaceSpec(repo=str(repo.path)), disk=SMALL)


async def test_clone_and_home_share_one_disk_and_all_of_it_goes_with_close(
    workspaces: LocalWorkspaces, repo: Repo, state: Path
) -> None:
    place = await opened(workspaces, repo)
    assert place.disk == "a disk of its own (ext4 in a file), 64 MiB, 1,000 files"
    assert 30 < fill(place.path) < 64
    home = await workspaces.scratch(TASK, disk=SMALL)
    with pytest.raises(OSError, match="No space left"):
        Path(home, "cache").write_bytes(b"x" * 5 * MIB)
    assert len(backing_files(state)) == 1
    await workspaces.close(TASK)
    assert backing_files(state) == []
    left = set(os.listdir(state / "workspaces" / TASK))
    assert left == {"history", "objects-at-open", "quota.json", "trees"}
    await workspaces.forget(TASK)
    assert not (state / "workspaces" / TASK).exists()


async def test_the_number_of_files_is_limited(workspaces: LocalWorkspaces, repo: Repo) -> None:
    place = await opened(workspaces, repo)
    with pytest.raises(OSError, match="No space left"):
        for number in range(2000):
            Path(place.path, f"{number}").touch()
    await workspaces.close(TASK)


async def test_after_a_restart_of_the_machine_the_clone_is_still_there(
    workspaces: LocalWorkspaces, repo: Repo, state: Path
) -> None:
    """Mounts end with the machine; the file that holds the disk does not."""
    place = await opened(workspaces, repo)
    Path(place.path, "work.txt").write_text("done", encoding="utf-8")
    quota.unmount_below(str(state))
    assert not os.path.exists(place.path)
    later = LocalWorkspaces(str(state))
    assert await opened(later, repo) == place
    assert Path(place.path, "work.txt").read_text(encoding="utf-8") == "done"
    quota.unmount_below(str(state))
    await LocalWorkspaces(str(state)).forget(TASK)
    assert not (state / "workspaces" / TASK).exists()


async def test_a_checkout_for_a_check_has_a_disk_too_and_a_killed_ones_is_removed(
    workspaces: LocalWorkspaces, repo: Repo, state: Path
) -> None:
    place = await opened(workspaces, repo)
    base = place.base_tree
    first, tree = await workspaces.export(TASK, base, base=base, protected=())
    second, same = await workspaces.export(TASK, base, base=base, protected=())
    assert tree == same == base
    assert 30 < fill(first) < 64 and not os.path.exists(os.path.join(second, "lost+found"))
    assert len(backing_files(state)) == 3
    await workspaces.discard(first)
    await workspaces.discard(first)
    assert len(backing_files(state)) == 2
    # As after a kill: another process opens the workspace, and nobody discards the second one.
    await opened(LocalWorkspaces(str(state)), repo)
    assert len(backing_files(state)) == 1 and not os.path.exists(second)
    await workspaces.close(TASK)


async def test_after_close_a_checkout_is_still_limited(
    workspaces: LocalWorkspaces, repo: Repo
) -> None:
    """`verify --rerun` runs checks of a task that has ended."""
    base = (await opened(workspaces, repo)).base_tree
    await workspaces.close(TASK)
    path, _ = await workspaces.export(TASK, base, base=base, protected=())
    assert os.path.ismount(path)
    await workspaces.discard(path)


@pytest.mark.long
async def test_a_repository_that_does_not_fit_is_told_as_the_quotas(
    workspaces: LocalWorkspaces, repo: Repo, state: Path
) -> None:
    """Not as a full machine, which would stop the task until there is room."""
    repo.write("big", bytes(70 * MIB))
    repo.commit()
    with pytest.raises(WorkspaceError, match=r"disk quota of \d+ MiB.*environment\.resources"):
        await opened(workspaces, repo)
    await workspaces.close(TASK)
    assert backing_files(state) == []


async def test_a_restore_that_does_not_fit_is_told_as_the_quotas(
    workspaces: LocalWorkspaces, repo: Repo
) -> None:
    repo.write("big", bytes(10 * MIB))
    repo.commit()
    place = await opened(workspaces, repo)
    os.unlink(os.path.join(place.path, "big"))
    fill(await workspaces.scratch(TASK, disk=SMALL))
    with pytest.raises(WorkspaceError, match="disk quota"):
        await workspaces.restore(TASK, place.base_tree)
    await workspaces.close(TASK)


KILLED = """
import os, signal, sys
from agent_runtime.ports import DiskQuota
from agent_runtime.workspaces import quota

at, point = sys.argv[1:]
real = getattr(quota, at)
def kill(*arguments):
    if at == "_run":
        real(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(quota, at, kill)
os.makedirs(os.path.dirname(point))
quota.make(point, DiskQuota(bytes=64 << 20))
"""


@pytest.mark.parametrize("at", ["_run", "mount"])
async def test_a_disk_whose_maker_was_killed_is_made_anew(
    at: str, workspaces: LocalWorkspaces, repo: Repo, state: Path
) -> None:
    point = state / "workspaces" / TASK / "disk"
    script = [sys.executable, "-c", KILLED, at, str(point)]
    assert subprocess.run(script, check=False).returncode == -signal.SIGKILL
    assert list(point.parent.glob("disk.img*"))
    place = await opened(workspaces, repo)
    assert Path(place.path, "a.py").exists() and os.path.ismount(point)
    await workspaces.forget(TASK)
    assert not point.parent.exists()


async def test_a_disk_that_lost_its_task_before_it_was_opened_is_made_anew(
    workspaces: LocalWorkspaces, repo: Repo, state: Path
) -> None:
    point = state / "workspaces" / TASK / "disk"
    point.parent.mkdir(parents=True)
    quota.make(str(point), SMALL)
    (point / "opening-x").mkdir()
    await opened(workspaces, repo)
    assert sorted(os.listdir(point)) == ["work"] and len(backing_files(state)) == 1
    await workspaces.close(TASK)


async def test_home_of_a_task_without_a_workspace_is_limited(
    workspaces: LocalWorkspaces, state: Path
) -> None:
    home = await workspaces.scratch(TASK, disk=SMALL)
    assert 30 < fill(home) < 64
    assert await workspaces.scratch(TASK, disk=SMALL) == home and os.path.exists(f"{home}/zeros")
    await workspaces.forget(TASK)


async def test_a_file_that_somebody_else_put_there_is_not_mounted(state: Path) -> None:
    """A crafted file system is an attack on the kernel."""
    point = state / "disk"
    quota.make(str(point), SMALL)
    quota.unmount_below(str(point))
    os.chown(f"{point}.img", 12345, 12345)
    with pytest.raises(WorkspaceError, match="not a disk that this user made"):
        quota.mount(str(point))
    quota.remove(str(point))
    os.symlink("/dev/null", f"{point}.img.new")
    quota.make(str(point), SMALL)
    assert os.path.isfile(f"{point}.img")
    quota.remove(str(point))


async def test_where_there_are_no_quotas_the_workspace_says_why(
    repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota, "unavailable", lambda directory: "only root may mount")
    workspaces = LocalWorkspaces(str(tmp_path / "plain"))
    place = await opened(workspaces, repo)
    assert place.disk == "none: only root may mount"
    assert place.path.endswith(f"{TASK}/work")
    path, _ = await workspaces.export(TASK, place.base_tree, base=place.base_tree, protected=())
    assert not os.path.ismount(path)
    await workspaces.forget(TASK)
