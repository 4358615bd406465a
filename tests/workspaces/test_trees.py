"""Trees: raw bytes of everything, whatever an agent does to hide it; and the way back."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_runtime.errors import WorkspaceError
from agent_runtime.ports import Change, OpenedWorkspace
from agent_runtime.types import TreeId, WorkspaceSpec
from agent_runtime.workspaces import LocalWorkspaces
from agent_runtime.workspaces import trees as trees_module
from tests.workspaces.conftest import TASK, Repo, contents, git, make_repo

pytestmark = pytest.mark.anyio


@pytest.fixture
async def opened(workspaces: LocalWorkspaces, repo: Repo) -> OpenedWorkspace:
    return await workspaces.open(TASK, WorkspaceSpec(repo=str(repo.path)))


def _tree_by_git(path: str, scratch: Path) -> str:
    """The tree that git itself makes of a directory, with every rule of the repository off."""
    store = scratch / "by-git"
    git("init", "--quiet", "--bare", "--template=", str(store), cwd=scratch)
    (store / "info").mkdir()
    (store / "info" / "attributes").write_text("* -text -filter -ident -working-tree-encoding\n")
    options = (f"--git-dir={store}", f"--work-tree={path}", "-c", "core.excludesFile=/dev/null",
               "-c", "core.compression=0")  # fmt: skip
    git(*options, "add", "--all", "--force", ".", cwd=path)
    tree = git(*options, "write-tree", cwd=path).decode().strip()
    shutil.rmtree(store)
    return tree


async def test_a_tree_is_what_git_would_call_it(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace, tmp_path: Path
) -> None:
    """Also in git's order, in which `a.b` comes before the directory `a` and that before `a0`."""
    work = Path(opened.path)
    for name in ("a/x", "a.b", "a0", "a-b", "é/ü", "new\nline", ' "quoted\\"', ".gitignore"):
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_text(f"*{name}\n", encoding="utf-8")
    Path(os.fsdecode(os.fsencode(work) + b"/\xff\xfe")).write_bytes(b"bytes")
    (work / "empty").mkdir()
    os.symlink("/nowhere/\udcff", work / "dangling")
    assert await workspaces.snapshot(TASK) == _tree_by_git(opened.path, tmp_path)


async def test_ignored_and_attributed_files_count_as_they_are(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace, tmp_path: Path
) -> None:
    work = Path(opened.path)
    (work / ".gitattributes").write_text(
        "* text eol=crlf filter=evil ident working-tree-encoding=UTF-16 export-subst\n"
        "kept.txt export-ignore\n"
    )
    (work / ".gitignore").write_text("*\n")
    (work / ".git/info").mkdir(exist_ok=True)
    (work / ".git/info/attributes").write_text("* text eol=lf\n")
    (work / ".git/info/exclude").write_text("*\n")
    (work / "kept.txt").write_bytes(b"a\r\nb\n\xff\xfe $Id$ $Format:%H$\n")
    kept = contents(work)
    after = await workspaces.snapshot(TASK)
    path, tree = await workspaces.export(TASK, after, base=opened.base_tree, protected=())
    assert tree == after
    assert contents(path) == kept
    (work / "kept.txt").write_bytes(b"gone")
    await workspaces.restore(TASK, after)
    assert contents(work) == kept


async def test_a_nested_repository_hides_nothing(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace
) -> None:
    """`git add` would store a link to a commit: the files would be out of diff and proof."""
    nested = make_repo(Path(opened.path, "docs", "nested"))
    nested.write("hidden.py", b"import os\n")
    nested.commit()
    make_repo(Path(opened.path, "docs", "nested", "deeper"))
    after = await workspaces.snapshot(TASK)
    assert await workspaces.changes(TASK, opened.base_tree, after) == [
        Change("docs/nested/hidden.py", "A")
    ]


async def test_two_edits_of_one_length_in_one_tick_are_told_apart(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace
) -> None:
    """The stamps of a file cannot tell such edits apart ("racy git")."""
    path = Path(opened.path, "a.py")
    facts = path.stat()
    trees: list[TreeId] = []
    for number in range(50):
        with open(path, "r+b") as file:
            file.write(b"%02d" % number)
        trees.append(await workspaces.snapshot(TASK))
    assert len(set(trees)) == 50
    # Nor may an agent hide an edit behind a forged time.
    with open(path, "r+b") as file:
        file.write(b"xx")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert await workspaces.snapshot(TASK) not in trees


async def test_only_type_executable_bit_and_bytes_count(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace
) -> None:
    work = Path(opened.path)
    (work / "a.py").chmod(0o600)
    (work / "run.sh").chmod(0o700)
    os.utime(work / "docs/guide.md", (1, 1))
    (work / "empty/deep").mkdir(parents=True)
    os.mkfifo(work / "pipe")
    with anyio.fail_after(10):
        assert await workspaces.snapshot(TASK) == opened.base_tree
    (work / "a.py").chmod(0o755)
    after = await workspaces.snapshot(TASK)
    assert await workspaces.changes(TASK, opened.base_tree, after) == [Change("a.py", "M")]
    os.unlink(work / "a.py")
    os.symlink("run.sh", work / "a.py")
    after = await workspaces.snapshot(TASK)
    assert await workspaces.changes(TASK, opened.base_tree, after) == [Change("a.py", "T")]


async def test_a_link_to_a_secret_is_only_a_link(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace, tmp_path: Path
) -> None:
    """The daemon may read what no sandbox may: it must never follow a link of the agent's."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "key").write_bytes(b"hunter2")
    shutil.rmtree(Path(opened.path, "docs"))
    os.symlink(tmp_path / "secrets", Path(opened.path, "docs"))
    os.symlink(tmp_path / "secrets" / "key", Path(opened.path, "key"))
    after = await workspaces.snapshot(TASK)
    assert b"hunter2" not in await workspaces.patch(TASK, opened.base_tree, after)
    await workspaces.restore(TASK, opened.base_tree)
    assert (tmp_path / "secrets" / "key").read_bytes() == b"hunter2"
    assert Path(opened.path, "docs", "guide.md").read_bytes() == b"# Guide\n"


async def test_restore_makes_the_directory_equal(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace, repo: Repo
) -> None:
    work = Path(opened.path)
    kept = (work / "run.sh").stat().st_mtime_ns
    (work / ".gitignore").write_text("ignored\n")
    (work / "ignored").mkdir()
    (work / "ignored" / "x").write_bytes(b"x")
    (work / "locked" / "inner").mkdir(parents=True)
    (work / "locked" / "inner" / "x").write_bytes(b"x")
    (work / "locked" / "inner").chmod(0o000)
    (work / "locked").chmod(0o500)
    os.unlink(work / "a.py")
    (work / "a.py").mkdir()
    os.mkfifo(work / "a.py" / "pipe")
    shutil.rmtree(work / "docs")
    (work / "docs").write_bytes(b"a file\n")
    (work / "link").unlink()
    (work / "link").mkdir()
    await workspaces.restore(TASK, opened.base_tree)
    assert contents(work) == contents(repo.path)
    assert sorted(os.listdir(work)) == [".git", "a.py", "docs", "link", "run.sh"]
    assert (work / "run.sh").stat().st_mtime_ns == kept


async def test_restore_brings_empty_directories_back(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace
) -> None:
    """Not part of a tree, but the repeated call may need the directory an earlier one made."""
    work = Path(opened.path)
    (work / "build" / "out").mkdir(parents=True)
    before = await workspaces.snapshot(TASK)
    assert before == opened.base_tree
    shutil.rmtree(work / "build")
    (work / "other").mkdir()
    await workspaces.restore(TASK, before)
    assert (work / "build" / "out").is_dir()
    assert not (work / "other").exists()


async def test_very_deep_directories_are_an_error_and_can_still_be_removed(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace
) -> None:
    fd = os.open(opened.path, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    with pytest.raises(WorkspaceError, match="nested more than"):
        await workspaces.snapshot(TASK)
    await workspaces.close(TASK)
    assert not os.path.exists(opened.path)


async def test_an_unknown_tree_is_an_error_and_changes_nothing(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace
) -> None:
    before = contents(opened.path)
    for tree in ("0" * 40, "HEAD", opened.base_commit, "--all"):
        with pytest.raises(WorkspaceError, match="not one that was recorded"):
            await workspaces.restore(TASK, TreeId(tree))
    assert contents(opened.path) == before


async def test_a_file_of_many_megabytes_is_streamed(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace, tmp_path: Path
) -> None:
    path = Path(opened.path, "big.bin")
    block = os.urandom(1 << 20)
    with open(path, "wb") as file:
        for _ in range(33):  # above 32 MiB nothing is compressed
            file.write(block)
    after = await workspaces.snapshot(TASK)
    assert after == _tree_by_git(opened.path, tmp_path)
    path.write_bytes(b"small")
    await workspaces.restore(TASK, after)
    assert path.stat().st_size == 33 << 20
    assert await workspaces.snapshot(TASK) == after


async def test_a_patch_too_large_to_hold_is_refused_naming_the_largest_files(
    workspaces: LocalWorkspaces, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = await workspaces.open(TASK, WorkspaceSpec(repo=str(repo.path)))
    Path(opened.path, "small").write_bytes(b"x")
    Path(opened.path, "noise").write_bytes(os.urandom(5000))
    after = await workspaces.snapshot(TASK)
    assert await workspaces.patch(TASK, opened.base_tree, after)
    monkeypatch.setattr(trees_module, "PATCH_BYTES_MAX", 4000)
    with pytest.raises(WorkspaceError, match=r"patch_too_large: .* 4,000 bytes.*'noise' \(5,000 b"):
        await workspaces.patch(TASK, opened.base_tree, after)


async def test_a_patch_is_binary_safe_and_git_applies_it(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace, repo: Repo
) -> None:
    work = Path(opened.path)
    (work / "a.py").write_bytes(b"one\ntwo\nthree")
    (work / "bin").write_bytes(bytes(range(256)) * 10)
    (work / "crlf").write_bytes(b"a\r\n b\r\n")
    os.rename(work / "docs/guide.md", work / "docs/moved.md")
    (work / "run.sh").chmod(0o644)
    (work / "link").unlink()
    os.symlink("docs", work / "link")
    (work / "new\nline \xe9").write_bytes(b"odd name\n")
    Path(os.fsdecode(os.fsencode(work) + b"/\xff")).write_bytes(b"odd\n")
    (work / ".gitattributes").write_text("* -diff\n")
    after = await workspaces.snapshot(TASK)
    patch = await workspaces.patch(TASK, opened.base_tree, after)
    repo.git("apply", "--whitespace=nowarn", stdin=patch)
    assert contents(repo.path) == contents(work)


# ---- the state of .git -------------------------------------------------------------------


def _facts_of_git(path: str) -> tuple[bytes, ...]:
    return (
        git("log", "--all", "--format=%H %D %s", cwd=path),
        git("for-each-ref", cwd=path),
        git("stash", "list", cwd=path),
        git("status", "--porcelain", "--branch", cwd=path),
        git("config", "--local", "--list", cwd=path),
        git("reflog", "--all", cwd=path),
    )


def _commit(work: str) -> None:
    git("commit", "--quiet", "--all", "--allow-empty", "-m", "by the agent", cwd=work)


def _branch(work: str) -> None:
    git("checkout", "--quiet", "-b", "other/branch", cwd=work)
    git("branch", "-D", f"agent-runtime/{TASK}", cwd=work)


def _stash(work: str) -> None:
    git("stash", "--quiet", cwd=work)


def _merge_half_way(work: str) -> None:
    git("stash", "--quiet", cwd=work)
    git("checkout", "--quiet", "-b", "left", cwd=work)
    Path(work, "a.py").write_bytes(b"left\n")
    _commit(work)
    git("checkout", "--quiet", "-b", "right", "HEAD~1", cwd=work)
    Path(work, "a.py").write_bytes(b"right\n")
    _commit(work)
    git("merge", "left", cwd=work, check=False)


def _killed(work: str) -> None:
    for name in ("index.lock", "HEAD.lock", "refs/heads/x.lock", "config.lock"):
        Path(work, ".git", name).write_bytes(b"half")
    Path(work, ".git", "index").write_bytes(b"garbage")
    git("gc", "--quiet", cwd=work, check=False)


def _configure(work: str) -> None:
    git("config", "alias.x", "!evil", cwd=work)
    Path(work, ".git/hooks").mkdir(exist_ok=True)
    Path(work, ".git/hooks/pre-commit").write_text("evil", encoding="utf-8")


def _pack(work: str) -> None:
    _commit(work)
    git("pack-refs", "--all", cwd=work)
    git("repack", "-adq", cwd=work)


def _destroy_refs(work: str) -> None:
    shutil.rmtree(Path(work, ".git/refs"))
    os.unlink(Path(work, ".git/HEAD"))


@pytest.mark.parametrize(
    "act",
    [_commit, _branch, _stash, _merge_half_way, _killed, _configure, _pack, _destroy_refs],
    ids=lambda act: act.__name__,
)
async def test_what_a_call_did_to_git_is_rolled_back(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace, act: Callable[[str], None]
) -> None:
    """After a crash the call runs again: a commit must not be there twice."""
    work = opened.path
    Path(work, "a.py").write_bytes(b"uncommitted\n")
    Path(work, "staged").write_bytes(b"staged\n")
    git("add", "staged", cwd=work)
    git("tag", "mine", cwd=work)
    before, facts, files = await workspaces.snapshot(TASK), _facts_of_git(work), contents(work)
    act(work)
    await workspaces.restore(TASK, before)
    assert _facts_of_git(work) == facts
    assert contents(work) == files
    assert git("fsck", "--no-dangling", cwd=work) == b""


async def test_restore_takes_the_last_state_that_a_tree_had(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace
) -> None:
    """A commit leaves the files as they are: two calls may start from one tree."""
    _commit(opened.path)
    assert await workspaces.snapshot(TASK) == opened.base_tree
    committed = _facts_of_git(opened.path)
    _commit(opened.path)
    await workspaces.restore(TASK, opened.base_tree)
    assert _facts_of_git(opened.path) == committed


async def test_looking_after_a_crash_does_not_forget_the_state_to_roll_back_to(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace, repo: Repo, state_dir: Path
) -> None:
    before, facts = await workspaces.snapshot(TASK), _facts_of_git(opened.path)
    _commit(opened.path)  # the daemon dies before the result is stored
    later = LocalWorkspaces(str(state_dir))
    await later.open(TASK, WorkspaceSpec(repo=str(repo.path)))
    assert await later.snapshot(TASK) == before
    await later.restore(TASK, before)
    assert _facts_of_git(opened.path) == facts


# ---- any sequence of edits ---------------------------------------------------------------

NAMES = [b"a", b"b", b"d/a", b"d/b", b"d/e/a", b"d.x", b"\xff\n", b"d0", b".gitignore"]
Edits = list[tuple[str, bytes, bytes]]
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["write", "exec", "link", "remove", "mkdir", "fifo", "append"]),
        st.sampled_from(NAMES),
        st.binary(max_size=3),
    ),
    max_size=12,
)


def _edit(top: bytes, kind: str, name: bytes, data: bytes) -> None:
    path = os.path.join(top, name)
    if kind == "append" and os.path.isfile(path) and not os.path.islink(path):
        with open(path, "r+b") as file:
            file.write(data)
        return
    parent = top
    for part in name.split(b"/")[:-1]:
        parent = os.path.join(parent, part)
        if os.path.lexists(parent) and (os.path.islink(parent) or not os.path.isdir(parent)):
            os.unlink(parent)
        os.makedirs(parent, exist_ok=True)
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)
    match kind:
        case "write" | "exec" | "append":
            with open(path, "wb") as file:
                file.write(data)
            os.chmod(path, 0o755 if kind == "exec" else 0o644)
        case "link":
            os.symlink(data.replace(b"\0", b"") or b"x", path)
        case "mkdir":
            os.mkdir(path)
        case "fifo":
            os.mkfifo(path)
        case _:
            pass


async def test_any_edits_can_be_undone_and_redone(
    workspaces: LocalWorkspaces, repo: Repo, state_dir: Path
) -> None:
    """Bytes, types and executable bits, and the same tree for the same content."""
    opened = await workspaces.open(TASK, WorkspaceSpec(repo=str(repo.path)))
    top = os.fsencode(opened.path)

    async def run(first: Edits, second: Edits) -> None:
        await workspaces.restore(TASK, opened.base_tree)
        assert contents(opened.path) == contents(repo.path)
        versions: list[tuple[TreeId, dict[bytes, tuple[str, bytes]]]] = []
        for edits in (first, second):
            for kind, name, data in edits:
                _edit(top, kind, name, data)
            found = {k: v for k, v in contents(opened.path).items() if v[0] != "special"}
            versions.append((await workspaces.snapshot(TASK), found))
        for tree, expected in [*versions, *reversed(versions)]:
            await workspaces.restore(TASK, tree)
            assert contents(opened.path) == expected
            assert await workspaces.snapshot(TASK) == tree
        # A process that remembers nothing sees the same.
        assert await LocalWorkspaces(str(state_dir)).snapshot(TASK) == tree

    @settings(max_examples=30, deadline=None, database=None)
    @given(EDITS, EDITS)
    def examples(first: Edits, second: Edits) -> None:
        anyio.from_thread.run(run, first, second)

    await anyio.to_thread.run_sync(examples)
