from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent_runtime.types import Effect, EffectPolicy, Json
from agent_runtime_tools import git
from tests.tools.conftest import Workbench

pytestmark = pytest.mark.anyio


async def test_work_is_staged_committed_and_seen_in_the_log(repo: Workbench) -> None:
    repo.write("a.txt", "one\ntwo\n")
    repo.write("new \u00e9.txt", "x\n")
    status = await repo("git_status")
    assert status.output == "## main\n M a.txt\n?? new é.txt"
    assert status.data["files"][0] == {
        "path": "a.txt", "index": " ", "worktree": "M", "from": None,
    }  # fmt: skip
    assert "+two" in (await repo("git_diff")).output
    assert (await repo("git_add", paths=["a.txt"])).ok
    assert (await repo("git_diff")).output == ""
    assert "+two" in (await repo("git_diff", staged=True)).output
    committed = await repo("git_commit", message="second\n\nwith a body")
    assert committed.data["commit"] == repo.git("rev-parse", "HEAD").strip()
    log = await repo("git_log")
    assert [commit["subject"] for commit in log.data["commits"]] == ["second", "first"]
    assert log.data["commits"][0]["author"] == "agent-runtime"
    assert log.data["commits"][0]["email"] == "agent@agent-runtime.invalid"
    assert "with a body" in (await repo("git_show")).output
    assert (await repo("git_show", ref="HEAD~1", path="a.txt")).output == "one\n"
    assert "two" in (await repo("git_blame", path="a.txt", start=2)).output


async def test_a_commit_takes_a_given_author_and_can_be_amended(repo: Workbench) -> None:
    repo.write("a.txt", "two\n")
    assert (await repo("git_commit", message="x", all=True, author="Ann B <ann@example.org>")).ok
    assert repo.git("log", "-1", "--format=%an <%ae> %cn") == (
        "Ann B <ann@example.org> agent-runtime\n"
    )
    assert (await repo("git_commit", amend=True, message="better")).ok
    assert repo.git("log", "--format=%s") == "better\nfirst\n"
    assert (await repo("git_commit", message="x", author="Ann")).kind == "refused"
    assert (await repo("git_commit")).kind == "refused"
    nothing = await repo("git_commit", message="again")
    assert (nothing.ok, nothing.exit) == (False, 1)
    assert "nothing to commit" in nothing.output


async def test_branches_are_made_switched_listed_and_deleted(repo: Workbench) -> None:
    assert (await repo("git_checkout", create="work")).ok
    repo.write("a.txt", "two\n")
    await repo("git_commit", message="on work", all=True)
    listed = await repo("git_branch")
    assert listed.data["current"] == "work"
    assert [branch["name"] for branch in listed.data["branches"]] == ["main", "work"]
    assert (await repo("git_checkout", ref="main")).ok
    assert repo.read("a.txt") == b"one\n"
    assert "+two" in (await repo("git_diff", ref="main", other="work")).output
    assert "+two" in (await repo("git_diff", ref="main..work", paths=["a.txt"])).output
    assert not (await repo("git_branch", name="work", delete=True)).ok
    assert (await repo("git_branch", name="work", delete=True, force=True)).ok
    assert (await repo("git_branch", name="other", start="HEAD")).ok
    assert (await repo("git_checkout", ref="no-such")).exit not in (0, None)


async def test_files_are_taken_back_and_the_branch_is_moved(repo: Workbench) -> None:
    repo.write("a.txt", "two\n")
    assert (await repo("git_checkout", paths=["a.txt"])).ok
    assert repo.read("a.txt") == b"one\n"
    repo.write("a.txt", "two\n")
    await repo("git_commit", message="second", all=True)
    assert (await repo("git_reset", mode="soft", ref="HEAD~1")).ok
    assert repo.git("diff", "--cached", "--name-only") == "a.txt\n"
    assert (await repo("git_reset", paths=["a.txt"])).ok
    assert repo.git("diff", "--cached", "--name-only") == ""
    assert (await repo("git_reset", mode="hard")).ok
    assert repo.read("a.txt") == b"one\n"
    assert (await repo("git_reset", mode="hard", paths=["a.txt"])).kind == "refused"


async def test_a_stash_puts_everything_away_and_brings_it_back(repo: Workbench) -> None:
    repo.write("a.txt", "two\n")
    repo.write("new.txt", "x\n")
    pushed = await repo("git_stash", action="push", message="-m", include_untracked=True)
    assert pushed.ok
    assert (repo.read("a.txt"), repo.listing()) == (b"one\n", ["a.txt"])
    assert "On main: -m" in (await repo("git_stash", action="list")).output
    assert "+two" in (await repo("git_stash", action="show")).output
    assert (await repo("git_stash", action="pop")).ok
    assert (repo.read("a.txt"), repo.read("new.txt")) == (b"two\n", b"x\n")
    assert not (await repo("git_stash", action="drop")).ok


async def test_nothing_that_the_repository_configures_is_started(
    repo: Workbench, tmp_path: Path
) -> None:
    """Hooks, external diff, textconv, fsmonitor, pager, editor, signing."""
    trap = tmp_path / "trap"
    script = tmp_path / "evil"
    script.write_text(f"#!/bin/sh\necho $0 >> {trap}\n", "utf-8")
    script.chmod(0o755)
    hooks = repo.workspace / ".git/hooks"
    hooks.mkdir(exist_ok=True)
    for hook in ("pre-commit", "commit-msg", "post-commit", "post-checkout", "post-index-change",
                 "reference-transaction", "prepare-commit-msg"):  # fmt: skip
        (hooks / hook).write_bytes(script.read_bytes())
        (hooks / hook).chmod(0o755)
    evil = str(script)
    for key, value in {
        "core.fsmonitor": evil, "core.pager": evil, "pager.log": evil, "core.editor": evil,
        "diff.external": evil, "diff.evil.textconv": evil, "diff.evil.command": evil,
        "gpg.program": evil, "commit.gpgSign": "true", "log.showSignature": "true",
        "core.hooksPath": str(hooks), "core.sshCommand": evil, "credential.helper": evil,
    }.items():  # fmt: skip
        repo.git("config", key, value)
    repo.write(".gitattributes", "*.txt diff=evil\n")
    repo.write("a.txt", "two\n")
    for name, arguments in (
        ("git_status", {}),
        ("git_diff", {}),
        ("git_add", {"all": True}),
        ("git_diff", {"staged": True}),
        ("git_commit", {"message": "x"}),
        ("git_log", {}),
        ("git_show", {}),
        ("git_show", {"ref": "HEAD", "path": "a.txt"}),
        ("git_blame", {"path": "a.txt"}),
        ("git_checkout", {"create": "b"}),
        ("git_reset", {"mode": "hard", "ref": "HEAD~1"}),
    ):
        result = await repo(name, **arguments)
        assert result.ok, (name, result.output)
    repo.write("a.txt", "three\n")
    for action in ("push", "show", "pop"):
        assert (await repo("git_stash", action=action)).ok
    assert not trap.exists()


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("git_diff", {"ref": "--output=pwned"}),
        ("git_diff", {"ref": "HEAD", "other": "--no-index"}),
        ("git_log", {"ref": "--output=pwned"}),
        ("git_show", {"ref": "-Opwned"}),
        ("git_blame", {"path": "a.txt", "ref": "--contents=/etc/passwd"}),
        ("git_branch", {"name": "-D"}),
        ("git_branch", {"name": "x", "start": "--force"}),
        ("git_checkout", {"ref": "--orphan"}),
        ("git_checkout", {"create": "-f"}),
        ("git_reset", {"ref": "--hard"}),
        ("git_show", {"ref": "a\0b"}),
        ("git_add", {"paths": ["a\0b"]}),
    ],
)
async def test_a_name_that_git_would_take_for_an_option_is_refused(
    repo: Workbench, tool: str, arguments: dict[str, Json]
) -> None:
    before = repo.listing()
    assert (await repo(tool, **arguments)).kind == "refused"
    assert repo.listing() == before


async def test_paths_that_look_like_options_or_patterns_are_just_paths(repo: Workbench) -> None:
    for name in ("-f", "--all", "*", ":(top)x", "new\nline"):
        repo.write(name, "x\n")
    repo.write("other", "x\n")
    assert (await repo("git_add", paths=["-f", "*", ":(top)x", "new\nline"])).ok
    staged = repo.git("diff", "--cached", "--name-only", "-z").strip("\0").split("\0")
    assert sorted(staged) == sorted(["-f", "*", ":(top)x", "new\nline"])
    assert (await repo("git_commit", message="--amend")).ok
    assert repo.git("log", "-1", "--format=%s") == "--amend\n"
    assert not (await repo("git_add", paths=["../outside"])).ok


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
async def test_a_workspace_of_somebody_else_is_not_dubious(repo: Workbench) -> None:
    for path in (repo.workspace, repo.workspace / ".git"):
        os.chown(path, 4242, 4242)
    assert (await repo("git_status")).ok


async def test_a_workspace_that_is_no_repository_says_so(use: Workbench) -> None:
    result = await use("git_status")
    assert result.kind == "refused" and "is not a git repository" in result.output
    use.git("init", "-q", "-b", "main")
    assert "No commits yet" in (await use("git_status")).output
    assert not (await use("git_log")).ok
    (use.workspace / "below").mkdir()
    use.workspace = use.workspace / "below"
    assert (await use("git_status")).kind == "refused"


async def test_without_git_on_the_path_it_says_so(repo: Workbench) -> None:
    repo.env["PATH"] = "/nowhere"
    assert "no git" in (await repo("git_status")).output


async def test_a_long_diff_is_cut_for_the_brain_and_whole_in_raw(repo: Workbench) -> None:
    repo.write("a.txt", "".join(f"{n}\n" for n in range(5000)))
    result = await repo("git_diff")
    assert len(result.output) <= 10_000
    assert result.raw is not None and b"+4999\n" in result.raw


@pytest.mark.parametrize(
    ("name", "arguments", "effect"),
    [
        ("git_status", {}, Effect.READ),
        ("git_branch", {}, Effect.READ),
        ("git_branch", {"name": "x"}, Effect.WORKSPACE),
        ("git_stash", {"action": "list"}, Effect.READ),
        ("git_stash", {"action": "pop"}, Effect.WORKSPACE),
        ("git_commit", {"message": "x"}, Effect.WORKSPACE),
    ],
)
async def test_what_only_looks_is_a_read(
    name: str, arguments: dict[str, Json], effect: Effect
) -> None:
    tool = next(tool for tool in git.tools() if tool.name == name)
    assert tool.effect(arguments, EffectPolicy()) == effect
