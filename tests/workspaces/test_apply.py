"""The result reaches the user's checkout: cleanly, merged, or not at all."""

import os
import shutil
from pathlib import Path

import pytest

from agent_runtime.errors import ApplyConflict, WorkspaceError
from agent_runtime.ports import OpenedWorkspace
from agent_runtime.types import WorkspaceSpec
from agent_runtime.workspaces import LocalWorkspaces
from agent_runtime.workspaces.apply import apply
from tests.workspaces.conftest import TASK, Repo, contents, fingerprint

pytestmark = pytest.mark.anyio

LINES = [b"line %d\n" % number for number in range(30)]


def _text(**changes: bytes) -> bytes:
    lines = list(LINES)
    for key, line in changes.items():
        lines[int(key.removeprefix("at"))] = line
    return b"".join(lines)


@pytest.fixture
async def opened(workspaces: LocalWorkspaces, repo: Repo) -> OpenedWorkspace:
    repo.write("text.py", _text())
    repo.commit()
    return await workspaces.open(TASK, WorkspaceSpec(repo=str(repo.path)))


async def _result(workspaces: LocalWorkspaces, opened: OpenedWorkspace) -> bytes:
    after = await workspaces.snapshot(TASK)
    return await workspaces.patch(TASK, opened.base_tree, after)


async def _apply(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace, repo: Repo, *, check_only: bool = False
) -> list[str]:
    return await workspaces.apply(
        TASK,
        await _result(workspaces, opened),
        str(repo.path),
        base_commit=opened.base_commit,
        check_only=check_only,
    )


async def test_a_result_lands_in_an_unmoved_checkout(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace, repo: Repo
) -> None:
    work = Path(opened.path)
    (work / "text.py").write_bytes(_text(at3=b"by the agent\n"))
    (work / "run.sh").chmod(0o644)
    (work / "a.py").unlink()
    (work / "a.py").mkdir()
    (work / "a.py" / "inner").write_bytes(b"\0\xff")
    shutil.rmtree(work / "docs")
    (work / "docs").write_bytes(b"a file now\n")
    (work / "link").unlink()
    os.symlink("text.py", work / "link")
    os.makedirs(work / "new/deep")
    (work / "new/deep/x\n.sh").write_bytes(b"#!/bin/sh\n")
    (work / "new/deep/x\n.sh").chmod(0o755)
    index = (repo.path / ".git/index").read_bytes()
    changed = await _apply(workspaces, opened, repo)
    assert contents(repo.path) == contents(work)
    assert changed == [
        "a.py", "a.py/inner", "docs", "docs/guide.md", "link", "new/deep/x\n.sh", "run.sh",
        "text.py",
    ]  # fmt: skip
    assert (repo.path / ".git/index").read_bytes() == index


async def test_uncommitted_and_committed_edits_are_merged(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace, repo: Repo
) -> None:
    Path(opened.path, "text.py").write_bytes(_text(at3=b"by the agent\n"))
    repo.write("text.py", _text(at5=b"committed\n"))
    repo.commit()
    repo.write("text.py", _text(at5=b"committed\n", at6=b"uncommitted\n"))
    repo.write("other.py", b"mine\n")
    assert await _apply(workspaces, opened, repo) == ["text.py"]
    assert (repo.path / "text.py").read_bytes() == _text(
        at3=b"by the agent\n", at5=b"committed\n", at6=b"uncommitted\n"
    )
    assert (repo.path / "other.py").read_bytes() == b"mine\n"


async def test_edits_that_were_carried_over_are_no_obstacle(
    workspaces: LocalWorkspaces, repo: Repo
) -> None:
    """The base has content that no commit of the checkout has: the private store has it."""
    repo.write("text.py", _text())
    repo.commit()
    repo.write("text.py", _text(at1=b"uncommitted\n"))
    opened = await workspaces.open(TASK, WorkspaceSpec(repo=str(repo.path)))
    Path(opened.path, "text.py").write_bytes(_text(at1=b"uncommitted\n", at20=b"by the agent\n"))
    repo.write("text.py", _text(at1=b"uncommitted\n", at17=b"moved on\n"))
    assert await _apply(workspaces, opened, repo) == ["text.py"]
    assert (repo.path / "text.py").read_bytes() == _text(
        at1=b"uncommitted\n", at17=b"moved on\n", at20=b"by the agent\n"
    )


async def test_a_conflict_names_the_paths_and_changes_nothing(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace, repo: Repo
) -> None:
    Path(opened.path, "text.py").write_bytes(_text(at3=b"by the agent\n"))
    Path(opened.path, "new.py").write_bytes(b"new\n")
    repo.write("text.py", _text(at3=b"by the user\n"))
    repo.write("staged.py", b"staged\n")
    repo.git("add", "staged.py")
    before = fingerprint(repo.path)
    with pytest.raises(ApplyConflict, match=r"'text\.py'") as caught:
        await _apply(workspaces, opened, repo)
    assert caught.value.exit_code == 6
    assert "new.py" not in str(caught.value) and "move" not in str(caught.value)
    assert fingerprint(repo.path) == before


async def test_a_file_that_the_user_removed_or_added_is_a_conflict(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace, repo: Repo
) -> None:
    Path(opened.path, "text.py").write_bytes(_text(at3=b"by the agent\n"))
    (repo.path / "text.py").unlink()
    with pytest.raises(ApplyConflict, match=r"text\.py"):
        await _apply(workspaces, opened, repo)
    repo.write("text.py", _text())
    Path(opened.path, "same.py").write_bytes(b"by the agent\n")
    repo.write("same.py", b"by the user\n")
    before = contents(repo.path)
    with pytest.raises(ApplyConflict, match=r"The task makes 'same\.py'.*: move it away"):
        await _apply(workspaces, opened, repo)
    assert contents(repo.path) == before


async def test_applying_twice_changes_nothing_more(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace, repo: Repo
) -> None:
    Path(opened.path, "text.py").write_bytes(_text(at3=b"by the agent\n"))
    Path(opened.path, "new.py").write_bytes(b"new\n")
    Path(opened.path, "a.py").unlink()
    Path(opened.path, "link").unlink()
    Path(opened.path, "link").write_bytes(b"a file now\n")
    assert await _apply(workspaces, opened, repo) == ["a.py", "link", "new.py", "text.py"]
    before = fingerprint(repo.path)
    assert await _apply(workspaces, opened, repo) == []
    assert fingerprint(repo.path) == before


async def test_a_check_changes_nothing(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace, repo: Repo
) -> None:
    Path(opened.path, "text.py").write_bytes(_text(at3=b"by the agent\n"))
    before = fingerprint(repo.path)
    assert await _apply(workspaces, opened, repo, check_only=True) == ["text.py"]
    assert fingerprint(repo.path) == before


@pytest.mark.parametrize("obstacle", ["directory", "pipe", "link_above", "file_above"])
async def test_what_stands_in_the_way_is_named_and_left_alone(
    workspaces: LocalWorkspaces,
    opened: OpenedWorkspace,
    repo: Repo,
    obstacle: str,
    tmp_path: Path,
) -> None:
    Path(opened.path, "sub").mkdir()
    Path(opened.path, "sub/new.py").write_bytes(b"new\n")
    outside = tmp_path / "outside"
    outside.mkdir()
    match obstacle:
        case "directory":
            repo.write("sub/new.py/theirs", b"theirs\n")
        case "pipe":
            (repo.path / "sub").mkdir()
            os.mkfifo(repo.path / "sub/new.py")
        case "link_above":
            os.symlink(outside, repo.path / "sub")
        case _:
            repo.write("sub", b"theirs\n")
    before = contents(repo.path)
    with pytest.raises(ApplyConflict, match=r"in the way of 'sub/new\.py'"):
        await _apply(workspaces, opened, repo)
    assert contents(repo.path) == before
    assert os.listdir(outside) == []


async def test_a_checkout_with_converted_line_ends_keeps_them(
    workspaces: LocalWorkspaces, repo: Repo
) -> None:
    """`core.autocrlf` or `eol=crlf` on the user's side: the repository has LF."""
    repo.write("text.py", _text())
    repo.commit()
    opened = await workspaces.open(TASK, WorkspaceSpec(repo=str(repo.path)))
    Path(opened.path, "text.py").write_bytes(_text(at3=b"by the agent\n"))
    repo.write("text.py", _text(at9=b"mine\n").replace(b"\n", b"\r\n"))
    assert await _apply(workspaces, opened, repo) == ["text.py"]
    assert (repo.path / "text.py").read_bytes() == _text(
        at3=b"by the agent\n", at9=b"mine\n"
    ).replace(b"\n", b"\r\n")


async def test_attributes_convert_nothing(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace, repo: Repo
) -> None:
    """Neither those the result brings nor those that are there."""
    attributes = b"* text eol=crlf ident working-tree-encoding=UTF-16\n"
    repo.write(".gitattributes", attributes)
    Path(opened.path, ".gitattributes").write_bytes(attributes)
    Path(opened.path, "text.py").write_bytes(_text(at3=b"$Id$ by the agent\n"))
    await _apply(workspaces, opened, repo)
    assert contents(repo.path) == contents(opened.path)


async def test_a_file_keeps_its_permissions(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace, repo: Repo
) -> None:
    (repo.path / "text.py").chmod(0o600)
    Path(opened.path, "text.py").write_bytes(_text(at3=b"by the agent\n"))
    await _apply(workspaces, opened, repo)
    assert (repo.path / "text.py").stat().st_mode & 0o777 == 0o600


async def test_a_result_outlives_the_workspace_and_its_store(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace, repo: Repo
) -> None:
    Path(opened.path, "text.py").write_bytes(_text(at3=b"by the agent\n"))
    patch = await _result(workspaces, opened)
    await workspaces.forget(TASK)
    repo.write("text.py", _text(at5=b"moved on\n"))
    changed = await apply(patch, str(repo.path), base_commit=opened.base_commit)
    assert changed == ["text.py"]
    assert (repo.path / "text.py").read_bytes() == _text(at3=b"by the agent\n", at5=b"moved on\n")


async def test_what_is_no_checkout_or_no_patch_is_an_error(repo: Repo, tmp_path: Path) -> None:
    assert await apply(b"", str(repo.path), base_commit="") == []
    with pytest.raises(WorkspaceError, match="not a patch"):
        await apply(b"hello\n", str(repo.path), base_commit="")
    with pytest.raises(WorkspaceError, match="not a git repository"):
        await apply(b"", str(tmp_path), base_commit="")
    evil = (
        b"diff --git a/.git/hooks/x b/.git/hooks/x\nnew file mode 100755\nindex 0000000..e69de29\n"
        b"diff --git a/../x b/../x\nnew file mode 100644\nindex 0000000..e69de29\n"
    )
    with pytest.raises((WorkspaceError, ApplyConflict)):
        await apply(evil, str(repo.path), base_commit="")
    assert not (repo.path / ".git/hooks/x").exists()
