"""Artifacts are read from the last tree: links, limits, ignore rules, writing them out."""

import os
from pathlib import Path

import pytest

from agent_runtime.errors import Conflict, UsageError, WorkspaceError
from agent_runtime.ports import ArtifactLimits, FoundFiles
from agent_runtime.types import TreeId, WorkspaceSpec
from agent_runtime.workspaces import LocalWorkspaces
from agent_runtime.workspaces.artifacts import matching
from tests.workspaces.conftest import TASK, Repo

pytestmark = pytest.mark.anyio
DEFAULTS = ArtifactLimits()


@pytest.fixture
async def work(workspaces: LocalWorkspaces, repo: Repo) -> Repo:
    """The task's working copy."""
    opened = await workspaces.open(TASK, WorkspaceSpec(repo=str(repo.path)))
    return Repo(Path(opened.path))


async def _find(
    workspaces: LocalWorkspaces, *patterns: str, limits: ArtifactLimits = DEFAULTS
) -> FoundFiles:
    return await workspaces.find(TASK, await workspaces.snapshot(TASK), patterns, limits=limits)


PATHS = frozenset(
    {b"dist/a.whl", b"dist/sub/b.whl", b"htmlcov/x/y.html", b"coverage.xml", b"sub/coverage.xml",
     b"a[1].txt", b".hidden/x"}
)  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("coverage.xml", {b"coverage.xml"}),
        ("**/coverage.xml", {b"coverage.xml", b"sub/coverage.xml"}),
        ("dist/*.whl", {b"dist/a.whl"}),
        ("dist/**/*.whl", {b"dist/a.whl", b"dist/sub/b.whl"}),
        ("./dist", {b"dist/a.whl", b"dist/sub/b.whl"}),
        ("htmlcov/", {b"htmlcov/x/y.html"}),
        ("coverage.xml/", set()),
        ("a[1].txt", set()),
        ("a\\[1].txt", {b"a[1].txt"}),
        ("*", PATHS),
        ("*.whl", set()),
    ],
)
def test_a_glob_is_anchored_at_the_top(pattern: str, meant: set[bytes]) -> None:
    assert matching(PATHS, pattern) == meant


async def test_links_are_never_followed_and_the_executable_bit_is_known(
    workspaces: LocalWorkspaces, work: Repo
) -> None:
    work.write("dist/run", b"#!/bin/sh\n", mode=0o755)
    os.symlink("/etc/passwd", work.path / "dist/passwd")
    os.symlink("/etc", work.path / "etc")
    os.mkfifo(work.path / "dist/pipe")
    found = await _find(workspaces, "dist", "etc/passwd", "etc")
    assert [(file.path, file.executable) for file in found.files] == [("dist/run", True)]
    assert found.missing == ("etc/passwd", "etc")
    assert [said.split(":")[0] for said in found.left_out] == ["dist/passwd", "etc"]


async def test_what_is_too_much_is_named(workspaces: LocalWorkspaces, work: Repo) -> None:
    for name in ("a", "b", "c"):
        work.write(f"out/{name}", b"x" * 10)
    work.write("out/large", b"x" * 100)
    found = await _find(workspaces, "out", limits=ArtifactLimits(files=10, bytes=25))
    assert [file.path for file in found.files] == ["out/a", "out/b"]
    assert "artifact_bytes" in found.left_out[0] and len(found.left_out) == 2
    found = await _find(workspaces, "out", limits=ArtifactLimits(files=1, bytes=1000))
    assert [file.path for file in found.files] == ["out/a"] and len(found.left_out) == 3
    for number in range(50):
        work.write(f"out/{number:03}", b"")
    found = await _find(workspaces, "out", limits=ArtifactLimits(files=0))
    assert len(found.left_out) == 21 and found.left_out[-1] == "and 34 more"


async def _without(workspaces: LocalWorkspaces, base: TreeId, *patterns: str) -> list[str]:
    """New paths that are handed over."""
    tree = await workspaces.snapshot(TASK)
    rest = await workspaces.without_ignored(TASK, tree, base=base, patterns=patterns)
    return [change.path for change in await workspaces.changes(TASK, base, rest)]


async def test_new_ignored_artifacts_are_not_handed_over(
    workspaces: LocalWorkspaces, repo: Repo
) -> None:
    """By the rules that the repository had: the task writes no rule that hides its work."""
    repo.write(".gitignore", b"dist/\n*.xml\n:odd\n")
    repo.write("docs/.gitignore", b"*.log\n!keep.log\n")
    repo.write("committed.xml", b"<x/>\n")
    repo.git("add", "--force", "committed.xml")
    repo.commit()
    opened = await workspaces.open(TASK, WorkspaceSpec(repo=str(repo.path)))
    work, base = Repo(Path(opened.path)), opened.base_tree
    names = ("dist/a.whl", "cov.xml", "docs/a.log", "docs/keep.log", "new.txt", ":odd", "sub/b.xml")
    for name in names:
        work.write(name, b"new\n")
    work.write("committed.xml", b"<y/>\n")
    work.write("sub/.gitignore", b"*\n")
    everything = sorted([*names, "committed.xml", "sub/.gitignore"])
    assert await _without(workspaces, base) == everything
    assert await _without(workspaces, base, "nothing/like/it") == everything
    assert await _without(workspaces, base, "**/*") == sorted(
        ["committed.xml", "docs/keep.log", "new.txt", "sub/.gitignore"]
    )
    assert await _without(workspaces, base, "dist") == [n for n in everything if n != "dist/a.whl"]


async def test_a_tree_that_is_made_of_a_listing_is_git_s_own(
    workspaces: LocalWorkspaces, work: Repo, state_dir: Path
) -> None:
    for name in ("a/b/c", "a.b", "a-b/x", "a/z", "ä/ö"):
        work.write(name, name.encode())
    tree = await workspaces.snapshot(TASK)
    trees = workspaces._task(TASK).trees
    assert trees.store.put_listing(trees.listing(tree)) == tree


# ---- writing them out --------------------------------------------------------------------


async def test_files_are_written_with_their_directories_and_modes(
    workspaces: LocalWorkspaces, work: Repo, tmp_path: Path
) -> None:
    work.write("dist/run", b"#!/bin/sh\n", mode=0o755)
    work.write("dist/sub/large", b"x" * (3 << 20))
    tree = await workspaces.snapshot(TASK)
    await workspaces.close(TASK)
    target = tmp_path / "out" / "here"
    paths = ["dist/sub/large", "dist/run"]
    await workspaces.take_out(TASK, tree, paths, str(target))
    await workspaces.take_out(TASK, tree, paths, str(target))
    assert (target / "dist/sub/large").stat().st_size == 3 << 20
    assert os.access(target / "dist/run", os.X_OK)
    assert sorted(os.listdir(target / "dist")) == ["run", "sub"], "no half file is left"


@pytest.mark.parametrize("in_the_way", ["other content", "a link", "a linked directory", "a file"])
async def test_what_is_in_the_way_is_neither_followed_nor_replaced(
    workspaces: LocalWorkspaces, work: Repo, tmp_path: Path, in_the_way: str
) -> None:
    work.write("a.txt", b"a\n")
    work.write("dist/run", b"new\n")
    tree = await workspaces.snapshot(TASK)
    outside, target = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    (target / "dist").mkdir(parents=True)
    match in_the_way:
        case "other content":
            (target / "dist/run").write_bytes(b"old\n")
        case "a link":
            os.symlink(outside / "run", target / "dist/run")
        case "a linked directory":
            (target / "dist").rmdir()
            os.symlink(outside, target / "dist")
        case _:
            (target / "dist").rmdir()
            (target / "dist").write_bytes(b"")
    with pytest.raises(Conflict, match="nothing was written"):
        await workspaces.take_out(TASK, tree, ["a.txt", "dist/run"], str(target))
    assert os.listdir(outside) == [] and not (target / "a.txt").exists()


async def test_only_files_of_the_tree_are_written(
    workspaces: LocalWorkspaces, work: Repo, tmp_path: Path
) -> None:
    """A log comes from anywhere: the paths in it are looked up, not believed."""
    tree = await workspaces.snapshot(TASK)
    for path in ("../a.py", "/etc/passwd", "nothing", "docs", "link", ""):
        with pytest.raises(WorkspaceError, match="holds no file"):
            await workspaces.take_out(TASK, tree, [path], str(tmp_path / "out"))


async def test_a_directory_that_cannot_be_written_is_named(
    workspaces: LocalWorkspaces, work: Repo, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    tree = await workspaces.snapshot(TASK)
    with pytest.raises(UsageError, match="cannot be written"):
        await workspaces.take_out(TASK, tree, ["a.py"], str(tmp_path / "file" / "out"))
