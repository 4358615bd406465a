"""Opening: what an agent gets, and what is refused by name."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from agent_runtime.errors import WorkspaceError
from agent_runtime.ports import OpenedWorkspace
from agent_runtime.types import TaskId, WorkspaceSpec
from agent_runtime.workspaces import LocalWorkspaces, source
from tests.workspaces.conftest import TASK, Repo, contents, fingerprint, git, make_repo

pytestmark = pytest.mark.anyio


async def _open(workspaces: LocalWorkspaces, repo: Repo, **options: object) -> OpenedWorkspace:
    return await workspaces.open(TASK, WorkspaceSpec(repo=str(repo.path), **options))  # type: ignore[arg-type]  # options of the spec


async def test_the_clone_is_the_source_byte_for_byte_on_a_branch_of_its_own(
    workspaces: LocalWorkspaces, repo: Repo
) -> None:
    opened = await _open(workspaces, repo)
    assert contents(opened.path) == contents(repo.path)
    assert opened.base_commit == repo.git("rev-parse", "HEAD")
    assert opened.base_tree == repo.git("rev-parse", "HEAD^{tree}")
    assert opened.branch == f"agent-runtime/{TASK}"
    assert git("branch", "--show-current", cwd=opened.path).decode().strip() == opened.branch
    assert git("status", "--porcelain", cwd=opened.path) == b""
    assert git("fsck", "--strict", cwd=opened.path) == b""
    assert opened.mount == str(repo.path)


async def test_the_users_checkout_is_never_written_to(
    workspaces: LocalWorkspaces, repo: Repo
) -> None:
    repo.write("a.py", b"edited\n")
    os.utime(repo.path / "run.sh")  # the index is stale now, and must stay so
    before = fingerprint(repo.path)
    opened = await _open(workspaces, repo)
    await workspaces.snapshot(TASK)
    Path(opened.path, "a.py").write_bytes(b"agent\n")
    await workspaces.restore(TASK, opened.base_tree)
    await workspaces.close(TASK)
    assert fingerprint(repo.path) == before


async def test_a_gc_that_packs_the_source_meanwhile_loses_nothing(
    workspaces: LocalWorkspaces, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large commit starts one in the background: loose objects vanish while they are copied."""
    for number in range(20):
        repo.write(f"f{number}", b"%d" % number)
    repo.commit()
    repo.git("repack", "-a", "-q")
    copy = source._copy_regular

    def vanish_first(path: str, target: str) -> None:
        if "/pack/" not in path:
            os.unlink(path)
        copy(path, target)

    monkeypatch.setattr(source, "_copy_regular", vanish_first)
    opened = await _open(workspaces, repo)
    assert contents(opened.path) == contents(repo.path)
    assert git("fsck", "--strict", cwd=opened.path) == b""


async def test_no_file_is_shared_with_the_source(workspaces: LocalWorkspaces, repo: Repo) -> None:
    """facts/sandbox.md, 13: a chown of the clone reached the user's own packs."""
    repo.git("gc", "--quiet")
    await _open(workspaces, repo)
    assert {path.stat().st_nlink for path in repo.path.rglob("*") if path.is_file()} == {1}


async def test_uncommitted_edits_are_carried_over(workspaces: LocalWorkspaces, repo: Repo) -> None:
    repo.write("a.py", b"one\r\ntwo edited\r\n")
    repo.write("run.sh", b"#!/bin/sh\n", mode=0o644)
    repo.write("staged.py", b"staged\n")
    repo.git("add", "staged.py")
    repo.write("new/untracked\n\xff".encode("latin-1"), b"\x00raw\xff")
    repo.write(".gitignore", b"ignored\n")
    repo.write("ignored", b"not mine\n")
    os.unlink(repo.path / "link")
    os.symlink("/etc/passwd", repo.path / "evil")
    (repo.path / "docs" / "guide.md").unlink()
    opened = await _open(workspaces, repo)
    expected = contents(repo.path)
    del expected[b"ignored"]
    assert contents(opened.path) == expected
    assert opened.carried == (
        ".gitignore", "a.py", "docs/guide.md", "evil", "link", "new/untracked\n\\xff", "run.sh",
        "staged.py",
    )  # fmt: skip
    assert await workspaces.snapshot(TASK) == opened.base_tree


async def test_a_file_that_became_a_directory_and_the_reverse_are_carried_over(
    workspaces: LocalWorkspaces, repo: Repo
) -> None:
    os.unlink(repo.path / "a.py")
    repo.write("a.py/inner.py", b"1\n")
    shutil.rmtree(repo.path / "docs")
    repo.write("docs", b"a file now\n")
    opened = await _open(workspaces, repo)
    assert contents(opened.path) == contents(repo.path)


async def test_uncommitted_edits_stay_behind_when_asked(
    workspaces: LocalWorkspaces, repo: Repo
) -> None:
    clean = contents(repo.path)
    repo.write("a.py", b"edited\n")
    opened = await _open(workspaces, repo, include_dirty=False)
    assert contents(opened.path) == clean
    assert opened.carried == ()


async def test_an_edit_of_one_length_right_after_a_commit_is_carried_over(
    workspaces: LocalWorkspaces, repo: Repo
) -> None:
    """Git knows such a file by the stamp of its index: our copy of the index must keep it."""
    for number in range(10, 20):
        repo.write("a.py", b"second\n")
        repo.commit()
        repo.write("a.py", b"edit %d" % number)
        opened = await workspaces.open(TaskId(f"task_{number}"), WorkspaceSpec(repo=str(repo.path)))
        assert opened.carried == ("a.py",)


async def test_edits_are_not_put_on_another_ref_and_that_is_said(
    workspaces: LocalWorkspaces, repo: Repo
) -> None:
    first = repo.git("rev-parse", "HEAD")
    repo.write("a.py", b"second\n")
    repo.commit()
    repo.write("a.py", b"edited\n")
    opened = await _open(workspaces, repo, ref="HEAD~1")
    assert opened.base_commit == first
    assert Path(opened.path, "a.py").read_bytes() == b"one\ntwo\nthree\n"
    assert any("not carried over" in note for note in opened.notes)


async def test_branches_and_tags_come_along(workspaces: LocalWorkspaces, repo: Repo) -> None:
    repo.git("tag", "-a", "v1", "-m", "one")
    repo.git("branch", "feature/x")
    opened = await _open(workspaces, repo, ref="feature/x")
    names = git("for-each-ref", "--format=%(refname)", cwd=opened.path).decode().split()
    assert names == [
        f"refs/heads/agent-runtime/{TASK}", "refs/remotes/origin/feature/x",
        "refs/remotes/origin/main", "refs/tags/v1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("mian", "near: main"),
        ("--upload-pack=touch /tmp/x", "may not begin with '-'"),
        ("", "is not a ref"),
        ("0" * 40, "names no commit"),
        ("HEAD:a.py", "names no commit"),
    ],
)
async def test_a_ref_that_is_none_is_refused_by_name(
    workspaces: LocalWorkspaces, repo: Repo, ref: str, message: str
) -> None:
    with pytest.raises(WorkspaceError, match=message):
        await _open(workspaces, repo, ref=ref)


async def test_what_is_no_repository_is_refused_with_the_way_out(
    workspaces: LocalWorkspaces, repo: Repo, tmp_path: Path
) -> None:
    (tmp_path / "plain").mkdir()
    for path, message in (
        (tmp_path / "missing", "does not exist"),
        (tmp_path / "plain", "git init"),
        (repo.path / "docs", "lies inside the repository"),
        (repo.path / "a.py", "is a file"),
        (repo.path / ".git", "use '"),
    ):
        with pytest.raises(WorkspaceError, match=message):
            await workspaces.open(TASK, WorkspaceSpec(repo=str(path)))


async def test_kinds_of_repository_that_cannot_be_used_are_refused_by_name(
    workspaces: LocalWorkspaces, repo: Repo
) -> None:
    for key, value, message in (
        ("extensions.objectFormat", "sha256", "SHA-256"),
        ("extensions.refStorage", "reftable", "reftable"),
        ("extensions.partialClone", "origin", "partial clone"),
        ("remote.origin.promisor", "true", "partial clone"),
    ):
        git("config", "--file", str(repo.path / ".git/config"), key, value, cwd="/")
        with pytest.raises(WorkspaceError, match=message):
            await _open(workspaces, repo)
        git("config", "--file", str(repo.path / ".git/config"), "--unset", key, cwd="/")
    await _open(workspaces, repo)


async def test_a_repository_without_commits_is_an_empty_base(
    workspaces: LocalWorkspaces, tmp_path: Path
) -> None:
    repo = make_repo(tmp_path / "empty")
    repo.write("first.py", b"1\n")
    opened = await _open(workspaces, repo)
    assert opened.base_commit == ""
    assert opened.carried == ("first.py",)
    assert contents(opened.path) == {b"first.py": ("file", b"1\n")}
    assert git("branch", "--show-current", cwd=opened.path).decode().strip() == opened.branch


async def test_a_bare_repository_can_be_cloned(
    workspaces: LocalWorkspaces, repo: Repo, tmp_path: Path
) -> None:
    git("clone", "--quiet", "--bare", str(repo.path), str(tmp_path / "bare.git"), cwd=tmp_path)
    opened = await workspaces.open(TASK, WorkspaceSpec(repo=f"file://{tmp_path}/bare.git"))
    assert contents(opened.path) == contents(repo.path)
    assert opened.mount == "/workspace"


async def test_a_worktree_and_a_shared_clone_become_whole_clones(
    workspaces: LocalWorkspaces, repo: Repo, tmp_path: Path
) -> None:
    repo.git("worktree", "add", "--quiet", "-b", "side", str(tmp_path / "side"))
    git("clone", "--quiet", "--shared", str(repo.path), str(tmp_path / "shared"), cwd=tmp_path)
    Path(tmp_path, "side", "a.py").write_bytes(b"side edit\n")
    side = await workspaces.open(TASK, WorkspaceSpec(repo=str(tmp_path / "side")))
    shared = await workspaces.open(TaskId("other"), WorkspaceSpec(repo=str(tmp_path / "shared")))
    assert side.carried == ("a.py",)
    shutil.rmtree(repo.path)
    for opened in (side, shared):
        assert git("fsck", "--strict", cwd=opened.path) == b""
        assert git("log", "--format=%s", cwd=opened.path) == b"start\n"


async def test_a_shallow_clone_works_and_says_so(
    workspaces: LocalWorkspaces, repo: Repo, tmp_path: Path
) -> None:
    repo.write("a.py", b"second\n")
    repo.commit("second")
    url = f"file://{repo.path}"
    git("clone", "--quiet", "--depth=1", url, str(tmp_path / "shallow"), cwd=tmp_path)
    opened = await workspaces.open(TASK, WorkspaceSpec(repo=str(tmp_path / "shallow")))
    assert any("shallow" in note for note in opened.notes)
    assert git("log", "--format=%s", cwd=opened.path) == b"second\n"


async def test_initialised_submodules_are_refused_and_others_left_empty(
    workspaces: LocalWorkspaces, repo: Repo, tmp_path: Path
) -> None:
    inner = make_repo(tmp_path / "inner")
    inner.write("i", b"i\n")
    inner.commit()
    repo.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner.path),
             "vendor/inner")  # fmt: skip
    repo.commit("with a submodule")
    with pytest.raises(WorkspaceError, match=r"vendor/inner.*deinit"):
        await _open(workspaces, repo)
    repo.git("submodule", "--quiet", "deinit", "--force", "--all")
    opened = await _open(workspaces, repo)
    assert any("vendor/inner" in note for note in opened.notes)
    assert os.listdir(Path(opened.path, "vendor/inner")) == []


async def test_lfs_pointers_stay_pointers_and_are_counted(
    workspaces: LocalWorkspaces, repo: Repo
) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
    repo.write("big.bin", pointer)
    repo.commit()
    opened = await _open(workspaces, repo)
    assert Path(opened.path, "big.bin").read_bytes() == pointer
    assert [note[:7] for note in opened.notes] == ["1 Git L"]


async def test_nested_repositories_and_special_files_are_skipped_by_name(
    workspaces: LocalWorkspaces, repo: Repo
) -> None:
    nested = make_repo(repo.path / "nested")
    nested.write("n", b"n\n")
    nested.commit()
    os.mkfifo(repo.path / "pipe")
    os.unlink(repo.path / "a.py")
    os.mkfifo(repo.path / "a.py")
    listener = socket.socket(socket.AF_UNIX)
    with listener:
        listener.bind(str(repo.path / "socket"))
        with anyio.fail_after(20):
            opened = await _open(workspaces, repo)
    notes = "\n".join(opened.notes)
    assert "'nested'" in notes
    assert "'a.py', 'pipe', 'socket'" in notes
    assert set(contents(opened.path)) == {b"docs/guide.md", b"link", b"run.sh"}


EVIL = """\
[core]
	fsmonitor = touch {mark}
	hooksPath = {hooks}
	autocrlf = true
	sshCommand = touch {mark}
	pager = touch {mark}
	alternateRefsCommand = touch {mark}
[filter "evil"]
	clean = touch {mark}; cat
	smudge = touch {mark}; cat
	process = touch {mark}
	required = true
[diff "evil"]
	textconv = touch {mark}; cat
	command = touch {mark}
[merge "evil"]
	driver = touch {mark}
[uploadpack]
	packObjectsHook = touch {mark}
[credential]
	helper = !touch {mark}
"""


async def test_nothing_of_a_repositorys_configuration_runs(
    workspaces: LocalWorkspaces, repo: Repo, tmp_path: Path
) -> None:
    """Also not of the clone's, which the agent may write."""
    mark, hooks = tmp_path / "ran", tmp_path / "hooks"
    hooks.mkdir()
    for name in ("post-checkout", "post-index-change", "reference-transaction", "pre-commit"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {mark}\n", encoding="utf-8")
        (hooks / name).chmod(0o755)
    repo.write("crlf.txt", b"a\r\nb\n$Id$\n")
    repo.commit()
    repo.write(".gitattributes", b"* filter=evil diff=evil merge=evil\n")
    repo.commit()
    text = EVIL.format(mark=mark, hooks=hooks)
    with open(repo.path / ".git/config", "a", encoding="utf-8") as config:
        config.write(text)
    os.utime(repo.path / "crlf.txt")
    opened = await _open(workspaces, repo)
    with open(Path(opened.path, ".git/config"), "a", encoding="utf-8") as config:
        config.write(text)
    Path(opened.path, "crlf.txt").write_bytes(b"changed\r\n")
    after = await workspaces.snapshot(TASK)
    await workspaces.changes(TASK, opened.base_tree, after)
    patch = await workspaces.patch(TASK, opened.base_tree, after)
    path, _ = await workspaces.export(TASK, after, base=opened.base_tree, protected=("run.sh",))
    await workspaces.restore(TASK, opened.base_tree)
    await workspaces.apply(TASK, patch, str(repo.path), base_commit=opened.base_commit)
    assert Path(path, "crlf.txt").read_bytes() == b"changed\r\n"
    assert not mark.exists()


async def test_the_clones_configuration_names_no_credential(
    workspaces: LocalWorkspaces, repo: Repo
) -> None:
    repo.git("remote", "add", "origin", "https://user:secret@example.org/x.git")
    opened = await _open(workspaces, repo)
    for path in Path(opened.path, ".git").rglob("*"):
        if path.is_file():
            assert b"secret" not in path.read_bytes()
    assert git("config", "--local", "--list", "--name-only", cwd=opened.path).split() == [
        b"core.repositoryformatversion", b"core.filemode", b"core.bare", b"core.logallrefupdates",
        b"user.name", b"user.email",
    ]  # fmt: skip
    assert not Path(opened.path, ".git/info/attributes").exists()


async def test_an_interrupted_open_is_repeated_cleanly(
    workspaces: LocalWorkspaces, repo: Repo, state_dir: Path
) -> None:
    """A kill may come before the clone is in place, or before its facts are."""
    task = state_dir / "workspaces" / TASK
    (task / "opening-xyz" / "work").mkdir(parents=True)
    (task / "work").mkdir()
    (task / "work" / "half").write_bytes(b"half")
    opened = await _open(workspaces, repo)
    assert contents(opened.path) == contents(repo.path)
    assert sorted(os.listdir(task)) == ["objects-at-open", "opened.json", "trees", "work"]


async def test_a_later_process_finds_the_workspace_as_it_was(
    workspaces: LocalWorkspaces, repo: Repo, state_dir: Path
) -> None:
    opened = await _open(workspaces, repo)
    Path(opened.path, "mine").write_bytes(b"mine")
    Path(opened.path, ".git/index.lock").touch()
    after = await workspaces.snapshot(TASK)
    repo.write("a.py", b"the source moved on\n")
    repo.commit()
    later = LocalWorkspaces(str(state_dir))
    assert await _open(later, repo) == opened
    assert not Path(opened.path, ".git/index.lock").exists()
    assert await later.snapshot(TASK) == after


async def test_a_killed_git_in_the_source_is_no_obstacle(
    workspaces: LocalWorkspaces, repo: Repo
) -> None:
    (repo.path / ".git/index.lock").touch()
    repo.write("a.py", b"edited\n")
    assert (await _open(workspaces, repo)).carried == ("a.py",)


async def test_close_keeps_trees_and_forget_removes_everything(
    workspaces: LocalWorkspaces, repo: Repo, state_dir: Path
) -> None:
    opened = await _open(workspaces, repo)
    home = await workspaces.scratch(TASK)
    Path(opened.path, "a.py").write_bytes(b"done\n")
    after = await workspaces.snapshot(TASK)
    await workspaces.close(TASK)
    assert not os.path.exists(opened.path) and not os.path.exists(home)
    assert b"+done" in await workspaces.patch(TASK, opened.base_tree, after)
    with pytest.raises(WorkspaceError, match="not open"):
        await workspaces.snapshot(TASK)
    await workspaces.forget(TASK)
    assert not (state_dir / "workspaces" / TASK).exists()
    with pytest.raises(WorkspaceError, match="not one that was recorded"):
        await workspaces.patch(TASK, opened.base_tree, after)


async def test_a_task_id_cannot_leave_the_state_directory(workspaces: LocalWorkspaces) -> None:
    with pytest.raises(WorkspaceError, match="cannot name a directory"):
        await workspaces.close(TaskId("../x"))


async def test_only_exports_can_be_discarded(
    workspaces: LocalWorkspaces, repo: Repo, state_dir: Path
) -> None:
    await _open(workspaces, repo)
    for path in (str(repo.path), f"{state_dir}/workspaces/{TASK}/exports/../work", "/"):
        with pytest.raises(WorkspaceError, match="not a directory that `export` made"):
            await workspaces.discard(path)


async def test_a_url_is_cloned_without_its_credentials(
    workspaces: LocalWorkspaces, repo: Repo, tmp_path: Path
) -> None:
    """A bare repository served by `git daemon` stands for any forge."""
    bare = tmp_path / "served" / "project.git"
    git("clone", "--quiet", "--bare", str(repo.path), str(bare), cwd=tmp_path)
    git("tag", "v1", cwd=bare)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        ["git", "-c", "safe.directory=*", "daemon", "--export-all", f"--base-path={bare.parent}",
         "--listen=127.0.0.1", f"--port={port}", "--reuseaddr"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], "HOME": str(_trusting_home(tmp_path))},
        start_new_session=True,
    )  # fmt: skip
    try:
        with anyio.fail_after(20):
            while not await _listens(port):
                await anyio.lowlevel.checkpoint()
        url = f"git://127.0.0.1:{port}/project.git"
        opened = await workspaces.open(TASK, WorkspaceSpec(repo=url))
        assert contents(opened.path) == contents(repo.path)
        assert (opened.mount, opened.carried) == ("/workspace", ())
        assert git("config", "remote.origin.url", cwd=opened.path).decode().strip() == url
        tagged = await workspaces.open(TaskId("tagged"), WorkspaceSpec(repo=url, ref="v1"))
        assert tagged.base_tree == opened.base_tree
        with pytest.raises(WorkspaceError, match="near: main"):
            await workspaces.open(TaskId("no"), WorkspaceSpec(repo=url, ref="mani"))
        with pytest.raises(WorkspaceError, match="cannot be fetched"):
            await workspaces.open(TaskId("gone"), WorkspaceSpec(repo=url + "x"))
    finally:
        os.killpg(server.pid, 15)
        server.wait(10)


def _trusting_home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text("[safe]\n\tdirectory = *\n", encoding="utf-8")
    return home


async def _listens(port: int) -> bool:
    try:
        async with await anyio.connect_tcp("127.0.0.1", port):
            return True
    except OSError:
        return False


async def test_dangerous_transports_are_refused(
    workspaces: LocalWorkspaces, tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    for repo in (f"ext::sh -c 'touch {mark}'", "ssh://-oProxyCommand=touch/x", "fd::0"):
        with pytest.raises(WorkspaceError):
            await workspaces.open(TASK, WorkspaceSpec(repo=repo))
    assert not mark.exists()


async def test_a_server_that_never_answers_does_not_outlive_a_cancel(
    workspaces: LocalWorkspaces, state_dir: Path
) -> None:
    asked = anyio.Event()

    async def silent(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            asked.set()
            await anyio.sleep_forever()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as servers:
                servers.start_soon(listener.serve, silent)
                spec = WorkspaceSpec(repo=f"git://127.0.0.1:{port}/x.git")
                async with anyio.create_task_group() as tg:
                    tg.start_soon(workspaces.open, TASK, spec)
                    await asked.wait()
                    tg.cancel_scope.cancel()
                servers.cancel_scope.cancel()
    assert os.listdir(state_dir / "workspaces" / TASK) == ["trees"]
