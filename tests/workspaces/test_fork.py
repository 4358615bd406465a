"""A workspace that is forked: commits and branches too, of a live clone and of an ended task."""

import os
from pathlib import Path

import pytest

from agent_runtime.errors import WorkspaceError
from agent_runtime.ports import LeftWork, OpenedWorkspace
from agent_runtime.types import TaskId, WorkspaceSpec
from agent_runtime.workspaces import LocalWorkspaces
from tests.workspaces.conftest import TASK, Repo, contents, git

pytestmark = pytest.mark.anyio

FORK = TaskId("task_fork")


async def fork(workspaces: LocalWorkspaces, repo: Repo, left: LeftWork) -> OpenedWorkspace:
    await workspaces.fork(TASK, FORK)
    return await workspaces.open(FORK, WorkspaceSpec(repo=str(repo.path)), left=left)


def commits(opened: OpenedWorkspace) -> list[str]:
    return git("log", "--format=%s", cwd=opened.path).decode().split()


@pytest.mark.parametrize("ended", [False, True])
async def test_commits_and_index_go_along(
    workspaces: LocalWorkspaces, repo: Repo, ended: bool
) -> None:
    opened = await workspaces.open(TASK, WorkspaceSpec(repo=str(repo.path)))
    work = Repo(Path(opened.path))
    work.write("a.py", b"mended\n")
    work.commit("mend")
    work.write("b.py", b"staged\n")
    work.git("add", "b.py")
    tree = await workspaces.snapshot(TASK)
    before, status = contents(opened.path), work.git("status", "--porcelain")
    if ended:
        await workspaces.close(TASK)
    left = LeftWork(base_commit=opened.base_commit, base_tree=opened.base_tree, tree=tree)
    forked = await fork(workspaces, repo, left)
    assert contents(forked.path) == before and commits(forked) == ["mend", "start"]
    assert Repo(Path(forked.path)).git("status", "--porcelain") == status
    git("fsck", "--full", "--strict", cwd=forked.path)
    Repo(Path(forked.path)).commit("mine")
    assert not ended or not os.path.exists(opened.path)
    assert ended or commits(opened) == ["mend", "start"]


async def test_objects_are_shared_and_stay_when_the_parent_is_forgotten(
    workspaces: LocalWorkspaces, repo: Repo, state_dir: Path
) -> None:
    opened = await workspaces.open(TASK, WorkspaceSpec(repo=str(repo.path)))
    Repo(Path(opened.path)).write("big.bin", b"x" * 100_000)
    tree = await workspaces.snapshot(TASK)
    await workspaces.fork(TASK, FORK)
    stores = [state_dir / "workspaces" / name / "trees/store/objects" for name in (TASK, FORK)]
    ours, theirs = ({p.relative_to(s): p.stat().st_ino for p in s.rglob("*") if p.is_file()}
                    for s in stores)  # fmt: skip
    empty = Path("4b/825dc642cb6eb9a060e54bf8d69288fbee4904")  # every store makes its own
    assert {**ours, empty: 0} == {**theirs, empty: 0}
    await workspaces.forget(TASK)
    left = LeftWork(base_commit=opened.base_commit, base_tree=opened.base_tree, tree=tree)
    forked = await workspaces.open(FORK, WorkspaceSpec(repo=str(repo.path)), left=left)
    assert Path(forked.path, "big.bin").read_bytes() == b"x" * 100_000


async def test_where_nothing_is_kept_nothing_can_be_forked(workspaces: LocalWorkspaces) -> None:
    with pytest.raises(WorkspaceError, match="the versions of the workspace are gone"):
        await workspaces.fork(TASK, FORK)
