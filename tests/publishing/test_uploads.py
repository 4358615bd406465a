"""Repositories that are sent: what is taken in, what is refused, and how a task opens one."""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import zlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from agent_runtime.errors import UsageError, WorkspaceError
from agent_runtime.types import TaskId, WorkspaceSpec
from agent_runtime.workspaces import LocalWorkspaces
from agent_runtime.workspaces.git import Git, make_git_dir
from agent_runtime.workspaces.pull import pull_branch
from agent_runtime.workspaces.uploads import LocalUploads, make_bundle
from tests.cli.conftest import git, make_repository

pytestmark = pytest.mark.anyio
TASK = TaskId("task_1")


@pytest.fixture
def anyio_backend() -> str:
    """Threads and processes: in real time, on asyncio."""
    return "asyncio"


async def chunks(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def edited(tmp_path: Path) -> Path:
    """A checkout with one commit and every kind of uncommitted edit."""
    path = make_repository(tmp_path / "repo")
    (path / "gone.txt").write_text("x", encoding="utf-8")
    (path / ".gitignore").write_text("*.log\n", encoding="utf-8")
    git(path, "add", ".")
    git(path, "commit", "--quiet", "--message=two")
    git(path, "tag", "v1")
    (path / "gone.txt").unlink()
    (path / "calc.py").write_bytes(b"edited\r\n")
    (path / "new.sh").write_text("#!/bin/sh\n", encoding="utf-8")
    (path / "new.sh").chmod(0o755)
    (path / "link").symlink_to("calc.py")
    (path / "noise.log").write_text("x", encoding="utf-8")
    return path


async def send(tmp_path: Path, checkout: Path, **more: bool) -> tuple[LocalUploads, str]:
    uploads = LocalUploads(str(tmp_path / "state"))
    bundle = tmp_path / "bundle"
    make_bundle(str(checkout), str(bundle), **more)
    return uploads, await uploads.receive(chunks(bundle.read_bytes()))


async def test_a_sent_checkout_opens_as_the_local_one_would(tmp_path: Path) -> None:
    """Commits, tags, and uncommitted edits of every kind; what is ignored stays at home."""
    checkout = edited(tmp_path)
    _, name = await send(tmp_path, checkout)
    workspaces = LocalWorkspaces(str(tmp_path / "state"))
    local = await workspaces.open(TaskId("task_0"), WorkspaceSpec(repo=str(checkout)))
    sent = await workspaces.open(TASK, WorkspaceSpec(repo=name))
    assert sent.base_tree == local.base_tree and sent.base_commit == local.base_commit
    assert sent.carried == local.carried == ("calc.py", "gone.txt", "link", "new.sh")
    work = Path(sent.path)
    assert git(work, "status", "--porcelain") == git(Path(local.path), "status", "--porcelain")
    assert git(work, "tag") == "v1\n" and (work / "calc.py").read_bytes() == b"edited\r\n"
    clean = await workspaces.open(
        TaskId("task_2"), WorkspaceSpec(repo=name, include_dirty=False, ref="v1")
    )
    assert clean.carried == () and (Path(clean.path) / "gone.txt").exists()


async def test_the_same_repository_is_kept_once_and_goes_when_nobody_works_on_it(
    tmp_path: Path,
) -> None:
    """By content; a task that names it keeps it."""
    checkout = edited(tmp_path)
    uploads, name = await send(tmp_path, checkout)
    assert (await send(tmp_path, checkout))[1] == name
    place = tmp_path / "state" / "uploads"
    assert len([each for each in place.iterdir() if not each.name.startswith(".")]) == 1
    far = 4e9
    assert await uploads.unused({name}, far) == []
    assert await uploads.unused({"/other"}, 0.0) == []
    assert await uploads.unused({"/other"}, far) == [name]
    await uploads.remove(name)
    await uploads.remove(name)
    with pytest.raises(WorkspaceError, match="send the repository again"):
        await LocalWorkspaces(str(tmp_path / "state")).check(WorkspaceSpec(repo=name))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no git bundle"),
        (b"PK\x03\x04", "no git bundle"),
        (b"# v2 git bundle\n", "no end"),
        (b"# v2 git bundle\n\nPACK", "neither a HEAD nor a branch"),
        (b"# v2 git bundle\n" + b"x" * 5000, "no end"),
        (b"# v3 git bundle\n@filter=blob:none\n\n", "not supported"),
        (b"# v2 git bundle\n-" + b"0" * 40 + b" c\n\n", "not in it"),
        (b"# v2 git bundle\n" + b"1" * 40 + b" refs/heads/main\n\nPACKxxxx", "not whole"),
    ],
)
async def test_what_is_no_whole_bundle_is_refused(tmp_path: Path, data: bytes, why: str) -> None:
    """And nothing of it stays."""
    with pytest.raises(UsageError, match=why):
        await LocalUploads(str(tmp_path)).receive(chunks(data))
    assert [p.name for p in (tmp_path / "uploads").iterdir() if not p.name.startswith(".")] == []


async def test_a_hostile_tree_is_refused(tmp_path: Path) -> None:
    """A `.git` in a tree would be the clone's own configuration and hooks."""
    work = make_repository(tmp_path / "repo")
    blob = git(work, "hash-object", "-w", "calc.py").strip()
    made = subprocess.run(
        ["git", "-C", str(work), "hash-object", "-t", "tree", "-w", "--literally", "--stdin"],
        input=b"100644 .git\0" + bytes.fromhex(blob), capture_output=True, check=True,
    ).stdout.decode().strip()  # fmt: skip
    commit = git(work, "commit-tree", "-m", "evil", made).strip()
    git(work, "update-ref", "refs/heads/main", commit)
    git(work, "bundle", "create", "--quiet", str(tmp_path / "bundle"), "HEAD", "main")
    with pytest.raises(UsageError, match="hasDotgit"):
        await LocalUploads(str(tmp_path)).receive(chunks((tmp_path / "bundle").read_bytes()))


async def test_too_much_is_refused_while_it_comes(tmp_path: Path) -> None:
    """The sender is not read to his end."""
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 65_536
            yield b"x" * 65_536

    with pytest.raises(UsageError, match="upload_bytes"):
        await LocalUploads(str(tmp_path), bytes_max=1 << 20).receive(endless())
    assert read <= (1 << 20) + 65_536


@pytest.mark.long
async def test_a_hundred_megabytes_pass_through_a_file(tmp_path: Path) -> None:
    """Not through memory."""
    work = make_repository(tmp_path / "repo")
    (work / "big").write_bytes(os.urandom(100 << 20))
    git(work, "add", ".")
    git(work, "commit", "--quiet", "--message=big")
    make_bundle(str(work), str(tmp_path / "bundle"))

    async def read() -> AsyncIterator[bytes]:
        with open(tmp_path / "bundle", "rb") as file:
            while piece := file.read(65_536):
                yield piece

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    name = await LocalUploads(str(tmp_path / "state")).receive(read())
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert name.startswith("upload:") and grown < 32 << 10, f"{grown} KiB"


@pytest.mark.parametrize("odd", ["a//b", "a/", "x.lock"])
async def test_refs_that_git_refuses_are_dropped(tmp_path: Path, odd: str) -> None:
    """A repository with one of them could not be read any more."""
    checkout = make_repository(tmp_path / "repo")
    make_bundle(str(checkout), str(tmp_path / "bundle"))
    data = (tmp_path / "bundle").read_bytes()
    line = f"\n{git(checkout, 'rev-parse', 'HEAD').strip()} refs/heads/{odd}\n\nPACK"
    uploads = LocalUploads(str(tmp_path / "state"))
    name = await uploads.receive(chunks(data.replace(b"\n\nPACK", line.encode(), 1)))
    opened = await LocalWorkspaces(str(tmp_path / "state")).open(TASK, WorkspaceSpec(repo=name))
    assert (Path(opened.path) / "calc.py").exists()


async def test_few_trees_of_very_many_files_are_refused(tmp_path: Path) -> None:
    """Each names the next one ten times: some KiB that a machine has no room for."""
    checkout = make_repository(tmp_path / "repo")
    tree = git(checkout, "rev-parse", "HEAD^{tree}").strip()
    for _ in range(8):
        lines = "".join(f"040000 tree {tree}\td{number}\n" for number in range(10))
        made = subprocess.run(["git", "mktree"], cwd=checkout, input=lines.encode(), check=True,
                              capture_output=True)  # fmt: skip
        tree = made.stdout.decode().strip()
    commit = git(checkout, "commit-tree", "-m", "many", tree).strip()
    git(checkout, "update-ref", "HEAD", commit)
    _, name = await send(tmp_path, checkout, include_dirty=False)
    with pytest.raises(WorkspaceError, match="so many files"):
        await LocalWorkspaces(str(tmp_path / "state")).open(TASK, WorkspaceSpec(repo=name))


def bomb(unpacked_bytes: int) -> bytes:
    """A bundle of some KiB: an object that is a delta, of copies of 4 MiB of zeros."""
    base = bytes(4 << 20)
    copy = b"\xf0\xff\xff\x3f"  # from 0 on, 0x3fffff bytes
    times = unpacked_bytes // 0x3FFFFF
    delta = varint(len(base)) + varint(times * 0x3FFFFF) + copy * times
    oid = hashlib.sha1(b"blob %d\0" % len(base) + base).digest()
    packed = (
        b"PACK" + (2).to_bytes(4, "big") + (2).to_bytes(4, "big")
        + head(3, len(base)) + zlib.compress(base)
        + head(7, len(delta)) + oid + zlib.compress(delta)
    )  # fmt: skip
    refs = b"# v2 git bundle\n" + oid.hex().encode() + b" HEAD\n\n"
    return refs + packed + hashlib.sha1(packed).digest()


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def head(kind: int, size: int) -> bytes:
    """Of an object in a pack: four bits of its size beside its kind, then seven each."""
    first, rest = kind << 4 | size & 15, size >> 4
    return bytes([first | 0x80]) + varint(rest) if rest else bytes([first])


async def test_a_delta_that_unpacks_to_gigabytes_takes_no_memory(tmp_path: Path) -> None:
    """Some KiB must not be what a machine's memory goes into."""
    uploads = LocalUploads(str(tmp_path))
    with pytest.raises(UsageError, match="limit"):
        await uploads.receive(chunks(bomb(3 << 30)))
    runner = Git(str(tmp_path / "home"))
    make_git_dir(str(tmp_path / "repo.git"), bare=True)
    asked = ["-c", "alias.told=!printenv GIT_ALLOC_LIMIT", "told"]
    told = runner.run(asked, git_dir=str(tmp_path / "repo.git"), network=True)
    assert int(told) <= 1 << 30, "what is fetched from a server has a bound, too"


async def test_a_bundle_that_is_just_unpacked_holds_no_daemon_up(tmp_path: Path) -> None:
    """Git reads for as long as it takes; whoever is cancelled ends it."""
    git_dir = str(tmp_path / "repo.git")
    make_git_dir(git_dir, bare=True)
    ours, theirs = os.pipe()
    with open(ours, "rb") as file, open(theirs, "wb"), anyio.fail_after(20):
        async with anyio.create_task_group() as tg:
            feed = partial(
                Git(str(tmp_path / "home")).feed, ["index-pack", "--stdin"],
                git_dir=git_dir, file=file, cancellable=True,
            )  # fmt: skip
            tg.start_soon(anyio.to_thread.run_sync, feed)
            await anyio.wait_all_tasks_blocked()
            tg.cancel_scope.cancel()


async def test_a_branch_comes_back_as_one_commit(tmp_path: Path) -> None:
    """From the private store alone: neither the repository nor the clone is needed any more."""
    checkout = make_repository(tmp_path / "repo")
    workspaces = LocalWorkspaces(str(tmp_path / "state"))
    opened = await workspaces.open(TASK, WorkspaceSpec(repo=str(checkout)))
    (Path(opened.path) / "calc.py").write_text("done\n", encoding="utf-8")
    tree = await workspaces.snapshot(TASK)
    patch = await workspaces.patch(TASK, opened.base_tree, tree)
    await workspaces.close(TASK)
    bundle = await workspaces.branch_bundle(
        TASK, patch, base_commit=opened.base_commit, message="Done\n", at_us=10**15
    )
    before = git(checkout, "status", "--porcelain=v2", "--branch")
    name, commit, made = pull_branch(bundle, str(checkout))
    assert (name, made) == ("agent-runtime/task_1", True)
    assert pull_branch(bundle, str(checkout)) == (name, commit, False)
    assert git(checkout, "show", f"{name}:calc.py") == "done\n"
    assert git(checkout, "rev-parse", f"{name}^").strip() == opened.base_commit
    assert git(checkout, "status", "--porcelain=v2", "--branch") == before
    git(checkout, "fsck", "--strict")
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    git(stranger, "init", "--quiet")
    with pytest.raises(WorkspaceError, match="does not have the commit"):
        pull_branch(bundle, str(stranger))
