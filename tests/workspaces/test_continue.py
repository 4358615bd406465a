"""A workspace that is opened again: the last tree, the commits, the first base, what is gone."""

import os
import shutil
from pathlib import Path

import pytest

from agent_runtime.errors import WorkspaceError
from agent_runtime.ports import LeftWork, OpenedWorkspace
from agent_runtime.types import TaskId, WorkspaceSpec
from agent_runtime.workspaces import LocalWorkspaces, history
from tests.workspaces.conftest import TASK, Repo, contents, git

pytestmark = pytest.mark.anyio


async def _open(workspaces: LocalWorkspaces, repo: Repo, **more: object) -> OpenedWorkspace:
    spec = WorkspaceSpec(repo=str(repo.path), **more)  # type: ignore[arg-type]
    return await workspaces.open(TASK, spec)


async def _end(workspaces: LocalWorkspaces, opened: OpenedWorkspace) -> LeftWork:
    """The last look at the work, and its end."""
    tree = await workspaces.snapshot(TASK)
    await workspaces.close(TASK)
    return LeftWork(base_commit=opened.base_commit, base_tree=opened.base_tree, tree=tree)


async def _reopen(state_dir: Path, repo: Repo, left: LeftWork, **more: object) -> OpenedWorkspace:
    """In a process that knows nothing of the first run."""
    spec = WorkspaceSpec(repo=str(repo.path), **more)  # type: ignore[arg-type]
    return await LocalWorkspaces(str(state_dir)).open(TASK, spec, left=left)


def _log(opened: OpenedWorkspace) -> list[str]:
    return git("log", "--format=%s", cwd=opened.path).decode().split()


async def test_commits_branches_stash_and_index_are_as_they_were(
    workspaces: LocalWorkspaces, repo: Repo, state_dir: Path
) -> None:
    first = await _open(workspaces, repo)
    work = Repo(Path(first.path))
    work.write("a.py", b"mended\n")
    work.commit("mend")
    work.git("tag", "mine")
    work.write("a.py", b"stashed\n")
    work.git("stash", "--quiet")
    work.write("b.py", b"staged\n")
    work.git("add", "b.py")
    work.write("c.py", b"untracked\n")
    before, status = contents(first.path), work.git("status", "--porcelain")
    left = await _end(workspaces, first)
    assert not os.path.exists(first.path)
    again = await _reopen(state_dir, repo, left)
    work = Repo(Path(again.path))
    assert contents(again.path) == before and again.branch == first.branch
    assert _log(again) == ["mend", "start"]
    assert work.git("status", "--porcelain") == status
    assert work.git("rev-parse", "--abbrev-ref", "HEAD") == first.branch
    assert work.git("stash", "show", "-p").endswith("+stashed") and work.git("rev-parse", "mine")
    work.git("fsck", "--full", "--strict")
    assert again.notes == first.notes


async def test_commits_of_every_run_are_there_in_the_next(
    workspaces: LocalWorkspaces, repo: Repo
) -> None:
    opened = await _open(workspaces, repo)
    spec = WorkspaceSpec(repo=str(repo.path))
    for name in ("one", "two", "three"):
        Repo(Path(opened.path)).commit(name)
        if name == "two":
            # What an agent's own git packs is kept as a pack.
            git("gc", "--quiet", "--prune=now", cwd=opened.path)
        left = await _end(workspaces, opened)
        opened = await workspaces.open(TASK, spec, left=left)
    assert _log(opened) == ["three", "two", "one", "start"]
    git("fsck", "--full", "--strict", cwd=opened.path)


async def test_the_base_stays_where_the_task_began_while_the_repository_moves_on(
    workspaces: LocalWorkspaces, repo: Repo, state_dir: Path
) -> None:
    repo.write("a.py", b"edited, not committed\n")
    first = await _open(workspaces, repo)
    Path(first.path, "b.py").write_bytes(b"new\n")
    left = await _end(workspaces, first)
    repo.write("a.py", b"edited otherwise\n")
    repo.commit("meanwhile")
    again = await _reopen(state_dir, repo, left)
    assert (again.base_commit, again.base_tree) == (first.base_commit, first.base_tree)
    assert Path(again.path, "a.py").read_bytes() == b"edited, not committed\n"
    assert _log(again) == ["start"]


async def test_too_many_commits_are_not_kept_and_their_files_are(
    workspaces: LocalWorkspaces, repo: Repo, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "BYTES_MAX", 10)
    first = await _open(workspaces, repo)
    work = Repo(Path(first.path))
    work.write("a.py", b"mended\n")
    work.commit("mend")
    again = await _reopen(state_dir, repo, await _end(workspaces, first))
    assert _log(again) == ["start"]
    assert "a.py" in Repo(Path(again.path)).git("status", "--porcelain")
    assert any("commits of the earlier run are not here" in note for note in again.notes)


async def test_traps_among_the_objects_are_not_followed(
    workspaces: LocalWorkspaces, repo: Repo, state_dir: Path, tmp_path: Path
) -> None:
    """An agent writes in its own `.git` what it likes."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    first = await _open(workspaces, repo)
    objects = Path(first.path, ".git/objects")
    (objects / "aa").mkdir(exist_ok=True)
    os.symlink(secret, objects / "aa" / ("0" * 38))
    os.mkfifo(objects / "aa" / ("1" * 38))
    os.symlink("/etc", objects / "bb") if not (objects / "bb").exists() else None
    (objects / "info").mkdir(exist_ok=True)
    (objects / "info" / "alternates").write_text(f"{repo.path}/.git/objects\n")
    again = await _reopen(state_dir, repo, await _end(workspaces, first))
    kept = {path.name for path in Path(again.path, ".git/objects/aa").glob("*")}
    assert not kept & {"0" * 38, "1" * 38}
    assert not Path(again.path, ".git/objects/info/alternates").exists()


async def test_commits_that_cannot_be_read_are_not_replaced_by_those_of_an_earlier_run(
    workspaces: LocalWorkspaces, repo: Repo, state_dir: Path
) -> None:
    opened = await _open(workspaces, repo)
    Repo(Path(opened.path)).commit("one")
    left = await _end(workspaces, opened)
    opened = await workspaces.open(TASK, WorkspaceSpec(repo=str(repo.path)), left=left)
    Repo(Path(opened.path)).commit("two")
    objects = Path(opened.path, ".git/objects")
    objects.rename(objects.with_name("elsewhere"))
    objects.symlink_to("elsewhere")
    again = await _reopen(state_dir, repo, await _end(workspaces, opened))
    assert any("commits of the earlier run are not here" in note for note in again.notes)
    assert _log(again) == ["start"]
    git("fsck", "--full", "--strict", cwd=again.path)


async def test_a_close_that_was_killed_is_repeated_with_nothing_lost(
    workspaces: LocalWorkspaces, repo: Repo, state_dir: Path
) -> None:
    first = await _open(workspaces, repo)
    Repo(Path(first.path)).commit("mend")
    tree = await workspaces.snapshot(TASK)
    left = LeftWork(base_commit=first.base_commit, base_tree=first.base_tree, tree=tree)
    task = state_dir / "workspaces" / TASK
    shutil.copytree(task, state_dir / "killed", symlinks=True)
    await workspaces.close(TASK)
    # Killed after the commits were kept and the facts were gone, half-way through the clone.
    shutil.copytree(state_dir / "killed" / "work", task / "work", symlinks=True)
    shutil.rmtree(task / "work" / ".git" / "objects")
    later = LocalWorkspaces(str(state_dir))
    await later.close(TASK)
    assert _log(await _reopen(state_dir, repo, left)) == ["mend", "start"]


@pytest.mark.parametrize("gone", ["trees", "commit"])
async def test_what_is_gone_is_said(
    workspaces: LocalWorkspaces, repo: Repo, state_dir: Path, gone: str
) -> None:
    left = await _end(workspaces, await _open(workspaces, repo))
    if gone == "trees":
        shutil.rmtree(state_dir / "workspaces")
    else:
        shutil.rmtree(repo.path / ".git")
        repo.git("init", "--quiet", "--template=", "--initial-branch=main")
        repo.commit("another history")
    with pytest.raises(WorkspaceError, match="are gone" if gone == "trees" else "no commit"):
        await _reopen(state_dir, repo, left)


async def test_a_repository_without_commits_is_opened_again_as_it_was(
    workspaces: LocalWorkspaces, tmp_path: Path, state_dir: Path
) -> None:
    (tmp_path / "empty").mkdir()
    repo = Repo(tmp_path / "empty")
    repo.git("init", "--quiet", "--template=", "--initial-branch=main")
    first = await _open(workspaces, repo)
    Path(first.path, "a.py").write_bytes(b"x\n")
    left = await _end(workspaces, first)
    repo.commit("the first one")
    again = await _reopen(state_dir, repo, left)
    assert (again.base_commit, again.base_tree) == ("", first.base_tree)
    assert contents(again.path) == {b"a.py": ("file", b"x\n")}


async def test_in_place_the_directory_is_taken_as_it_is(
    workspaces: LocalWorkspaces, repo: Repo, state_dir: Path
) -> None:
    first = await _open(workspaces, repo, in_place=True)
    repo.write("a.py", b"by the task\n")
    left = await _end(workspaces, first)
    repo.write("b.py", b"by its user\n")
    again = await _reopen(state_dir, repo, left, in_place=True)
    assert again.base_tree == first.base_tree and again.path == str(repo.path)
    assert (repo.path / "a.py").read_bytes() == b"by the task\n"
    assert any("counts as the task's" in note for note in again.notes)


async def test_forgetting_leaves_nothing(
    workspaces: LocalWorkspaces, repo: Repo, state_dir: Path
) -> None:
    await _end(workspaces, await _open(workspaces, repo))
    await workspaces.forget(TaskId(TASK))
    assert not (state_dir / "workspaces" / TASK).exists()
