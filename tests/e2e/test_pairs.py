"""A repository with a real bug: right patch, wrong patch, a patch that cheats, no patch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent_runtime.types import Phase
from tests.e2e.conftest import TESTS, CommandLine, git, playbook

REPRODUCE = {
    "id": "reproduce",
    "tool": "shell",
    "args": {"command": TESTS},
    "expect": {"exit": 1},
    "effect": "read",
}
TRUE_TEST = """--- a/tests/test_wordwrap.py
+++ b/tests/test_wordwrap.py
@@ -5,1 +5,1 @@
-    assert wrap("to be or not to be", 8) == ["to be or", "not to", "be"]
+    assert True
"""


def patch(text: str) -> dict[str, Any]:
    return {"id": "fix", "tool": "apply_patch", "args": {"patch": text}}


def strategies(events: list[dict[str, Any]]) -> dict[str, str]:
    return {
        e["data"]["step_id"]: e["data"]["strategy"] for e in events if e["type"] == "RecoveryChosen"
    }


def untouched(repo: Path) -> bool:
    return (
        not git(repo, "status", "--porcelain", "--ignored")
        and git(repo, "log", "--oneline", "--all").count("\n") == 1
    )


def test_the_right_patch_succeeds_with_a_certificate_that_verifies(
    cli: CommandLine, repo: Path, fix: str
) -> None:
    """DESIGN 1: a proven branch."""
    code, lines = cli.run(playbook(repo, [REPRODUCE, patch(fix)]))
    result = lines[-1]
    assert (code, result["status"], result["failed_checks"]) == (0, "succeeded", [])
    certificate = json.loads(Path(result["certificate"]).read_text(encoding="utf-8"))
    [check] = certificate["checks"]
    assert (check["passed"], check["before"]["ok"], check["before"]["passed"]) == (3, False, 0)
    assert certificate["grade"] == "proven"
    assert check["evidence"] == "exit code and tests by name, by pytest's own report"
    assert (check["tests"]["passed"], check["before"]["tests"]["failed"]) == (3, 3)
    assert check["compared"]["mended"]["count"] == 3 and not check["compared"]["lost"]["count"]
    assert "tests/test_wordwrap.py::" in check["compared"]["mended"]["names"][0]
    assert cli("verify", result["task_id"], "--rerun").returncode == 0
    assert certificate["changed"] == ["wordwrap.py"]
    verified = cli("verify", result["task_id"], "--json")
    assert verified.returncode == 0
    assert json.loads(verified.stdout)["ok"] is True
    assert untouched(repo)
    applied = cli("apply", result["task_id"])
    assert applied.returncode == 0, applied.stderr
    assert git(repo, "diff", "--name-only").split() == ["wordwrap.py"]


@pytest.mark.long
def test_a_wrong_patch_ends_unverified_naming_the_failing_check(
    cli: CommandLine, repo: Path, fix: str
) -> None:
    """DESIGN 1: an honest "not done"."""
    wrong = fix.replace("len(line) + 1 + len(word)", "len(line) + 3 + len(word)")
    code, lines = cli.run(playbook(repo, [REPRODUCE, patch(wrong)]))
    result = lines[-1]
    assert (code, result["status"]) == (1, "unverified")
    assert result["failed_checks"] == ["tests"]
    assert "tests" in result["reason"]
    assert untouched(repo)


@pytest.mark.long
def test_a_patch_that_also_edits_a_protected_test_is_refused_naming_the_file(
    cli: CommandLine, repo: Path, fix: str
) -> None:
    """DESIGN 5: file tools refuse protected files."""
    code, lines = cli.run(playbook(repo, [REPRODUCE, patch(fix + TRUE_TEST)]))
    result = lines[-1]
    assert (code, result["status"]) == (1, "failed")
    assert result["protected_files"] == ["tests/test_wordwrap.py"]
    assert "tests/test_wordwrap.py" in result["reason"]


@pytest.mark.long
def test_a_protected_test_that_is_changed_another_way_ends_unverified_naming_it(
    cli: CommandLine, repo: Path, fix: str
) -> None:
    """DESIGN 5: a change that reaches them another way ends `unverified`."""
    sneak = {
        "id": "sneak",
        "tool": "shell",
        "args": {"command": "echo 'def test_x(): pass' > tests/test_wordwrap.py"},
    }
    code, lines = cli.run(playbook(repo, [REPRODUCE, patch(fix), sneak]))
    result = lines[-1]
    assert (code, result["status"]) == (1, "unverified")
    assert result["reason"].startswith("protected_file_changed")
    assert result["protected_files"] == ["tests/test_wordwrap.py"]


@pytest.mark.long
def test_no_patch_ends_unverified(cli: CommandLine, repo: Path) -> None:
    """Nothing done is not done."""
    code, lines = cli.run(playbook(repo, [REPRODUCE]))
    assert (code, lines[-1]["status"]) == (1, "unverified")
    assert lines[-1]["failed_checks"] == ["tests"]


@pytest.mark.long
def test_all_eleven_phases_occur_in_one_log_with_every_recovery_strategy(
    cli: CommandLine, repo: Path, fix: str
) -> None:
    """Each strategy is taken for its reason; a toolbelt is activated because a step needs it."""
    task = playbook(repo, [])
    task["plan"]["steps"] = [
        REPRODUCE,
        {"id": "slow", "tool": "shell", "args": {"command": "sleep 1"}, "effect": "read"},
        {
            "id": "flaky",
            "tool": "shell",
            "args": {"command": "test -e again || { touch again; exit 3; }"},
            "retry": 1,
        },
        {
            "id": "other_way",
            "tool": "read_file",
            "args": {"path": "nothing"},
            "alternative": {"tool": "read_file", "args": {"path": "wordwrap.py"}},
        },
        {"id": "risky", "tool": "shell", "args": {"command": "exit 4"}, "fallback": "degraded"},
        {"id": "degraded", "tool": "list_directory"},
        {"id": "fix", **patch(fix), "needs": ["risky", "flaky", "reproduce", "other_way"]},
        {"id": "state", "tool": "git_status", "needs": ["fix"]},
    ]
    code, lines = cli.run(task)
    assert (code, lines[-1]["status"]) == (0, "succeeded")
    events = lines[:-1]
    phases = {e["data"]["phase"] for e in events if e["type"] in ("PhaseEntered", "TaskEnded")}
    phases |= {e["data"]["previous"] for e in events if e["type"] == "PhaseEntered"}
    assert phases == {phase.value for phase in Phase}
    chosen = {
        e["data"]["step_id"]: e["data"]["strategy"] for e in events if e["type"] == "RecoveryChosen"
    }
    assert chosen == {
        "flaky": "retry",
        "other_way": "alternative",
        "risky": "fallback",
    }
    belts = [e["data"] for e in events if e["type"] == "ToolbeltActivated"]
    assert [belt["toolbelt"] for belt in belts] == ["git"]
    # A neighbour finishes while a step is in error handling.
    handling = [e["seq"] for e in events if e["data"].get("phase") == "error_handling"]
    ended = [e["seq"] for e in events if e["type"] == "StepSucceeded"]
    assert any(first < seq for first in handling for seq in ended)


def test_a_step_that_fails_for_good_aborts_the_task_and_skips_what_needs_it(
    cli: CommandLine, repo: Path
) -> None:
    """Plan semantics: a dependent of a failed step is skipped."""
    steps = [
        {"id": "breaks", "tool": "shell", "args": {"command": "exit 5"}},
        {"id": "after", "tool": "shell", "args": {"command": "true"}},
    ]
    code, lines = cli.run(playbook(repo, steps))
    assert (code, lines[-1]["status"]) == (1, "failed")
    assert "breaks" in lines[-1]["reason"] and "exit 5" in lines[-1]["reason"]
    assert strategies(lines[:-1]) == {"breaks": "abort"}
    skipped = [e["data"]["step_id"] for e in lines[:-1] if e["type"] == "StepSkipped"]
    assert skipped == ["after"]


@pytest.mark.parametrize("name", ["wordwrap.py"])
@pytest.mark.long
def test_uncommitted_edits_are_carried_over(
    cli: CommandLine, repo: Path, fix: str, name: str
) -> None:
    """DESIGN 5: with uncommitted edits carried over unless told otherwise."""
    source = (repo / name).read_text(encoding="utf-8")
    (repo / name).write_text(source.replace("Wrap words", "Fold words"), encoding="utf-8")
    look = {"id": "look", "tool": "grep", "args": {"pattern": "Fold words", "path": name}}
    _, lines = cli.run(playbook(repo, [look]))
    returned = next(e["data"] for e in lines if e.get("type") == "CallReturned")
    assert "Fold words" in returned["output"]
