"""A user's own directory: one owner at a time, never cloned, never rolled back."""

import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from agent_runtime.errors import WorkspaceError
from agent_runtime.ports import Change
from agent_runtime.types import TaskId, WorkspaceSpec
from agent_runtime.workspaces import LocalWorkspaces
from tests.workspaces.conftest import TASK, Repo, contents, fingerprint

pytestmark = pytest.mark.anyio

OTHER = TaskId("task_2")


def _spec(repo: Repo, ref: str = "HEAD") -> WorkspaceSpec:
    return WorkspaceSpec(repo=str(repo.path), in_place=True, ref=ref)


async def test_the_directory_itself_is_used_and_versioned(
    workspaces: LocalWorkspaces, repo: Repo
) -> None:
    repo.write("a.py", b"edited\n")
    before = fingerprint(repo.path)
    opened = await workspaces.open(TASK, _spec(repo))
    assert (opened.path, opened.mount, opened.branch) == (str(repo.path), str(repo.path), "")
    assert opened.base_commit == repo.git("rev-parse", "HEAD")
    assert opened.carried == ("a.py",)
    assert fingerprint(repo.path) == before
    repo.write("new.py", b"new\n")
    after = await workspaces.snapshot(TASK)
    assert await workspaces.changes(TASK, opened.base_tree, after) == [Change("new.py", "A")]


async def test_it_is_never_rolled_back_nor_removed(workspaces: LocalWorkspaces, repo: Repo) -> None:
    opened = await workspaces.open(TASK, _spec(repo))
    repo.write("new.py", b"new\n")
    before = contents(repo.path)
    with pytest.raises(WorkspaceError, match="never rolled back"):
        await workspaces.restore(TASK, opened.base_tree)
    await workspaces.close(TASK)
    await workspaces.forget(TASK)
    assert contents(repo.path) == before


async def test_another_ref_or_a_url_is_refused(workspaces: LocalWorkspaces, repo: Repo) -> None:
    repo.git("branch", "old")
    repo.commit("newer")
    with pytest.raises(WorkspaceError, match="check it out first"):
        await workspaces.open(TASK, _spec(repo, "old"))
    with pytest.raises(WorkspaceError, match="on this machine"):
        await workspaces.open(TASK, WorkspaceSpec(repo="https://example.org/x.git", in_place=True))
    await workspaces.open(OTHER, _spec(repo))  # a failed open holds no lock


async def test_another_task_waits_until_the_owner_closes(
    workspaces: LocalWorkspaces, repo: Repo, tmp_path: Path
) -> None:
    """Also when it reaches the directory by another name, and in another process's runtime."""
    os.symlink(repo.path, tmp_path / "alias")
    await workspaces.open(TASK, _spec(repo))
    await workspaces.open(TASK, _spec(repo))  # the owner itself may come again
    second = LocalWorkspaces(str(tmp_path / "state"))
    spec = WorkspaceSpec(repo=f"file://{tmp_path}/alias", in_place=True)
    with anyio.move_on_after(0.2) as waiting:
        await second.open(OTHER, spec)
    assert waiting.cancelled_caught
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tg:
            tg.start_soon(second.open, OTHER, spec)
            await workspaces.close(TASK)
    assert await second.snapshot(OTHER)


HOLD = """
import sys, anyio
from agent_runtime.types import TaskId, WorkspaceSpec
from agent_runtime.workspaces import LocalWorkspaces

async def main():
    await LocalWorkspaces(sys.argv[1]).open(
        TaskId("task_9"), WorkspaceSpec(repo=sys.argv[2], in_place=True)
    )
    print("held", flush=True)
    await anyio.sleep_forever()

anyio.run(main)
"""


async def test_a_killed_owner_gives_the_directory_back(
    workspaces: LocalWorkspaces, repo: Repo, state_dir: Path
) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(state_dir), str(repo.path)], stdout=subprocess.PIPE
    )
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"held\n"
        with anyio.move_on_after(0.1) as waiting:
            await workspaces.open(TASK, _spec(repo))
        assert waiting.cancelled_caught
        owner.kill()
    with anyio.fail_after(10):
        await workspaces.open(TASK, _spec(repo))
