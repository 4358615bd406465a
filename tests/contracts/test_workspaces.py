"""What every implementation of `ports.Workspaces` promises. A new one adds a line to `WORLDS`.

A *world* is one repository with the files `README` and `src/a.py`, and hands on a task's files.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from agent_runtime.errors import WorkspaceError
from agent_runtime.ports import ArtifactLimits, Change, FoundFile, LeftWork, Workspaces
from agent_runtime.testing import FakeWorkspaces
from agent_runtime.types import TaskId, TreeId, WorkspaceSpec
from agent_runtime.workspaces import LocalWorkspaces

pytestmark = pytest.mark.anyio

TASK, OTHER = TaskId("task_1"), TaskId("task_2")
BASE = {"README": "hello\n", "src/a.py": "print(1)\n"}


class World(Protocol):
    """Implementations differ in where a task's files are; the rest is the port."""

    workspaces: Workspaces
    spec: WorkspaceSpec

    def read(self, task_id: TaskId) -> dict[str, str]: ...

    def write(self, task_id: TaskId, path: str, text: str) -> None: ...

    def remove(self, task_id: TaskId, path: str) -> None: ...


class LocalWorld:
    def __init__(self, directory: Path) -> None:
        repo = directory / "repo"
        for path, text in BASE.items():
            (repo / path).parent.mkdir(parents=True, exist_ok=True)
            (repo / path).write_text(text, encoding="utf-8")
        identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
        for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "start"]):
            subprocess.run(["git", *identity, *command], cwd=repo, check=True)
        self.workspaces: Workspaces = LocalWorkspaces(str(directory / "state"))
        self.spec = WorkspaceSpec(repo=str(repo))
        self._root = directory / "state" / "workspaces"

    def _work(self, task_id: TaskId) -> Path:
        return self._root / task_id / "work"

    def read(self, task_id: TaskId) -> dict[str, str]:
        work = self._work(task_id)
        return {
            str(path.relative_to(work)): path.read_text(encoding="utf-8")
            for path in work.rglob("*")
            if path.is_file() and ".git" not in path.parts
        }

    def write(self, task_id: TaskId, path: str, text: str) -> None:
        full = self._work(task_id) / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_text(text, encoding="utf-8")

    def remove(self, task_id: TaskId, path: str) -> None:
        os.unlink(self._work(task_id) / path)


class FakeWorld:
    def __init__(self, _directory: Path) -> None:
        self._fake = FakeWorkspaces(BASE)
        self.workspaces: Workspaces = self._fake
        self.spec = WorkspaceSpec(repo="/fake")

    def read(self, task_id: TaskId) -> dict[str, str]:
        return dict(self._fake.files[task_id])

    def write(self, task_id: TaskId, path: str, text: str) -> None:
        self._fake.files[task_id][path] = text

    def remove(self, task_id: TaskId, path: str) -> None:
        del self._fake.files[task_id][path]


WORLDS: dict[str, Callable[[Path], World]] = {"local": LocalWorld, "fake": FakeWorld}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=sorted(WORLDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def world(kind: str, tmp_path: Path) -> World:
    return WORLDS[kind](tmp_path)


@pytest.fixture
def elsewhere(kind: str, tmp_path: Path) -> Workspaces:
    """The same on another machine, where nothing has been opened."""
    (tmp_path / "elsewhere").mkdir()
    return WORLDS[kind](tmp_path / "elsewhere").workspaces


async def _opened(world: World, task_id: TaskId = TASK) -> TreeId:
    return (await world.workspaces.open(task_id, world.spec)).base_tree


async def test_a_workspace_starts_as_the_base(world: World) -> None:
    base = await _opened(world)
    assert world.read(TASK) == BASE
    assert await world.workspaces.snapshot(TASK) == base


async def test_opening_again_gives_the_same_facts_and_keeps_the_work(world: World) -> None:
    first = await world.workspaces.open(TASK, world.spec)
    world.write(TASK, "new.py", "x\n")
    assert await world.workspaces.open(TASK, world.spec) == first
    assert world.read(TASK) == BASE | {"new.py": "x\n"}


async def test_a_tree_is_about_content_alone(world: World) -> None:
    base = await _opened(world)
    world.write(TASK, "README", "changed\n")
    assert await world.workspaces.snapshot(TASK) != base
    world.write(TASK, "README", BASE["README"])
    assert await world.workspaces.snapshot(TASK) == base


async def test_files_of_a_tree_can_be_read_and_what_is_none_is_none(world: World) -> None:
    base = await _opened(world)
    world.write(TASK, "README", "changed\n")
    after = await world.workspaces.snapshot(TASK)
    paths = ["README", "src/a.py", "src", "nothing"]
    old = await world.workspaces.contents(TASK, base, paths)
    assert old == {"README": b"hello\n", "src/a.py": b"print(1)\n", "src": None, "nothing": None}
    assert (await world.workspaces.contents(TASK, after, paths))["README"] == b"changed\n"


async def test_two_tasks_with_the_same_content_have_the_same_tree(world: World) -> None:
    assert await _opened(world) == await _opened(world, OTHER)


async def test_restore_undoes_changed_new_and_removed_files(world: World) -> None:
    base = await _opened(world)
    world.write(TASK, "README", "changed\n")
    world.write(TASK, "deep/er/new.txt", "new\n")
    world.remove(TASK, "src/a.py")
    await world.workspaces.restore(TASK, base)
    assert world.read(TASK) == BASE
    assert await world.workspaces.snapshot(TASK) == base


async def test_restore_goes_forward_as_well(world: World) -> None:
    base = await _opened(world)
    world.write(TASK, "README", "changed\n")
    after = await world.workspaces.snapshot(TASK)
    await world.workspaces.restore(TASK, base)
    await world.workspaces.restore(TASK, after)
    assert world.read(TASK) == BASE | {"README": "changed\n"}


async def test_changes_are_named_by_kind_and_sorted(world: World) -> None:
    base = await _opened(world)
    world.write(TASK, "z", "z\n")
    world.write(TASK, "README", "changed\n")
    world.remove(TASK, "src/a.py")
    after = await world.workspaces.snapshot(TASK)
    assert await world.workspaces.changes(TASK, base, after) == [
        Change("README", "M"),
        Change("src/a.py", "D"),
        Change("z", "A"),
    ]
    assert await world.workspaces.changes(TASK, base, base) == []


async def test_a_patch_is_there_exactly_when_the_trees_differ(world: World) -> None:
    base = await _opened(world)
    world.write(TASK, "README", "changed\n")
    after = await world.workspaces.snapshot(TASK)
    assert await world.workspaces.patch(TASK, base, after)


async def test_a_fork_has_every_version_and_a_working_copy_of_its_own(world: World) -> None:
    """The other one may be worked on meanwhile, and be forgotten afterwards."""
    opened = await world.workspaces.open(TASK, world.spec)
    base = opened.base_tree
    world.write(TASK, "README", "changed\n")
    middle = await world.workspaces.snapshot(TASK)
    world.write(TASK, "README", "later\n")
    after = await world.workspaces.snapshot(TASK)
    for _ in range(2):  # safe to repeat
        await world.workspaces.fork(TASK, OTHER)
    left = LeftWork(base_commit=opened.base_commit, base_tree=base, tree=middle)
    forked = await world.workspaces.open(OTHER, world.spec, left=left)
    assert forked.path != opened.path and forked.base_tree == base
    assert world.read(OTHER) == BASE | {"README": "changed\n"}
    assert world.read(TASK) == BASE | {"README": "later\n"}
    await world.workspaces.forget(TASK)
    world.write(OTHER, "README", "mine\n")
    assert await world.workspaces.snapshot(OTHER) not in (middle, after)
    await world.workspaces.restore(OTHER, after)
    assert world.read(OTHER) == BASE | {"README": "later\n"}
    assert await world.workspaces.patch(OTHER, base, middle)


async def test_an_export_says_which_tree_it_holds(world: World) -> None:
    base = await _opened(world)
    world.write(TASK, "README", "changed\n")
    after = await world.workspaces.snapshot(TASK)
    path, tree = await world.workspaces.export(TASK, after, base=base, protected=())
    assert tree == after
    await world.workspaces.discard(path)


async def test_close_may_be_repeated_and_forget_follows(world: World) -> None:
    await _opened(world)
    await world.workspaces.scratch(TASK)
    await world.workspaces.close(TASK)
    await world.workspaces.close(TASK)
    await world.workspaces.forget(TASK)


async def test_trees_stay_after_close(world: World) -> None:
    base = await _opened(world)
    world.write(TASK, "README", "changed\n")
    after = await world.workspaces.snapshot(TASK)
    await world.workspaces.close(TASK)
    assert await world.workspaces.changes(TASK, base, after) == [Change("README", "M")]


async def _packed(world: World) -> tuple[list[TreeId], bytes]:
    """Two trees of a task that has been closed, and what `pack` made of them."""
    base = await _opened(world)
    world.write(TASK, "README", "changed\n")
    trees = [base, await world.workspaces.snapshot(TASK)]
    await world.workspaces.close(TASK)
    return trees, await world.workspaces.pack(TASK, trees)


async def test_trees_can_be_carried_elsewhere(world: World, elsewhere: Workspaces) -> None:
    trees, packed = await _packed(world)
    for _ in range(2):
        await elsewhere.unpack(TASK, trees, packed)
    assert await elsewhere.changes(TASK, *trees) == [Change("README", "M")]
    assert await elsewhere.patch(TASK, *trees) == await world.workspaces.patch(TASK, *trees)
    assert await elsewhere.pack(TASK, trees) == packed


async def test_an_unknown_tree_is_not_packed(world: World) -> None:
    trees, _ = await _packed(world)
    with pytest.raises(WorkspaceError):
        await world.workspaces.pack(TASK, [*trees, TreeId("a" * 40)])


async def test_what_is_no_pack_or_lacks_a_tree_is_not_taken(
    world: World, elsewhere: Workspaces
) -> None:
    trees, packed = await _packed(world)
    for wrong in (b"", b"PACK", packed[:-1], packed[: len(packed) // 2]):
        with pytest.raises(WorkspaceError):
            await elsewhere.unpack(TASK, trees, wrong)
    with pytest.raises(WorkspaceError):
        await elsewhere.unpack(TASK, [*trees, TreeId("a" * 40)], packed)


def test_git_is_there() -> None:
    """Every local test needs it; this one says so by name."""
    assert shutil.which("git")


# ---- continuing, artifacts ---------------------------------------------------------------


async def _left(world: World) -> LeftWork:
    """What a run leaves that has changed something."""
    opened = await world.workspaces.open(TASK, world.spec)
    world.write(TASK, "new.py", "x\n")
    world.remove(TASK, "README")
    tree = await world.workspaces.snapshot(TASK)
    await world.workspaces.close(TASK)
    return LeftWork(base_commit=opened.base_commit, base_tree=opened.base_tree, tree=tree)


async def test_what_an_ended_run_left_is_gone_on_with(world: World) -> None:
    left = await _left(world)
    again = await world.workspaces.open(TASK, world.spec, left=left)
    assert again.base_tree == left.base_tree and again.base_commit == left.base_commit
    assert world.read(TASK) == {"src/a.py": "print(1)\n", "new.py": "x\n"}
    assert await world.workspaces.snapshot(TASK) == left.tree


async def test_an_open_that_goes_on_keeps_what_was_done_since(world: World) -> None:
    """Its caller may die before it has stored that the workspace is open."""
    left = await _left(world)
    await world.workspaces.open(TASK, world.spec, left=left)
    world.write(TASK, "later.py", "y\n")
    await world.workspaces.open(TASK, world.spec, left=left)
    assert "later.py" in world.read(TASK)


async def test_trees_are_there_until_they_are_forgotten(world: World) -> None:
    left = await _left(world)
    await world.workspaces.require(TASK, [left.base_tree, left.tree])
    with pytest.raises(WorkspaceError, match="gone"):
        await world.workspaces.require(TASK, [TreeId("0" * 40)])


async def test_files_are_found_by_globs_within_limits(world: World) -> None:
    await _opened(world)
    for name in ("dist/a.whl", "dist/b.whl", "cov.xml"):
        world.write(TASK, name, name)
    tree = await world.workspaces.snapshot(TASK)
    await world.workspaces.close(TASK)
    patterns = ["dist/*.whl", "cov.xml", "htmlcov"]
    found = await world.workspaces.find(TASK, tree, patterns, limits=ArtifactLimits())
    digest = hashlib.sha256(b"cov.xml").hexdigest()
    assert found.files[0] == FoundFile(path="cov.xml", bytes=7, sha256=digest)
    assert [file.path for file in found.files] == ["cov.xml", "dist/a.whl", "dist/b.whl"]
    assert (found.missing, found.left_out) == (("htmlcov",), ())
    few = await world.workspaces.find(TASK, tree, patterns, limits=ArtifactLimits(files=1))
    assert [file.path for file in few.files] == ["cov.xml"]
    assert few.missing == ("dist/*.whl", "htmlcov") and len(few.left_out) == 2
