from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.cli.conftest import Fixed, WriteTask, git, make_repository
from tests.cli.helpers import UNSAFE, Cli


@pytest.fixture
def copy(fixed: Fixed, tmp_path: Path) -> Fixed:
    """The finished task in a store that may be damaged, and a checkout that may be changed."""
    shutil.copytree(fixed.cli.home, tmp_path / "copy")
    return Fixed(Cli(tmp_path / "copy"), fixed.task_id, fixed.out)


def damage(copy: Fixed, *statements: str) -> None:
    """Change the store's file behind everybody's back."""
    db = sqlite3.connect(copy.cli.state / "store.db")
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.close()


def test_an_untouched_log_verifies(fixed: Fixed) -> None:
    """DESIGN, "JSON": verify --json {"ok","task_id","seq","fault"}."""
    done = fixed.cli("verify", fixed.task_id[-8:], "--json")
    assert done.code == 0
    assert done.json() == {"ok": True, "task_id": fixed.task_id, "seq": None, "fault": None}


@pytest.mark.parametrize("name", ["patch.diff", "certificate.json"])
@pytest.mark.long
def test_a_changed_result_file_is_found_and_no_harm(fixed: Fixed, name: str) -> None:
    """The log is what counts: `diff` still prints the patch that was verified."""
    path = next(fixed.cli.home.rglob(f"{fixed.task_id}/{name}"))
    stored, patch = path.read_bytes(), fixed.cli("diff", fixed.task_id).out
    try:
        path.write_bytes(stored.replace(b"add", b"sub"))
        report = fixed.cli("verify", fixed.task_id, "--json")
        assert report.code == 1 and str(path) in report.json()["fault"]
        assert fixed.cli("diff", fixed.task_id).out == patch
        path.unlink()
        assert fixed.cli("verify", fixed.task_id).code == 0
    finally:
        path.write_bytes(stored)


@pytest.mark.long
def test_checks_are_run_again_and_another_end_is_a_fault(cli: Cli, tmp_path: Path) -> None:
    """The world outside of the log has changed since: here a file that the check looks for."""
    make_repository(tmp_path / "repo")
    marker = tmp_path / "marker"
    marker.touch()
    (cli.home / "task.yaml").write_text(
        f"goal: look\nworkspace: {{repo: {tmp_path}/repo}}\n"
        "plan: {steps: [{id: a, tool: create_file, args: {path: new, content: x}}]}\n"
        f"objectives: [{{id: there, check: {{command: test -e {marker}}}}}]\n",
        encoding="utf-8",
    )
    result = cli("run", "task.yaml", "--json", UNSAFE).lines()[-1]
    assert result["status"] == "succeeded"
    again = cli("verify", result["task_id"], "--rerun", UNSAFE)
    assert again.code == 0 and "every check ended as before" in again.out
    marker.unlink()
    changed = cli("verify", result["task_id"], "--rerun", "--json", UNSAFE)
    assert changed.code == 1
    assert "'there' ended well, and run again badly (exit 1" in changed.json()["fault"]
    assert cli("verify", result["task_id"]).code == 0, "the log is what was written"


@pytest.mark.long
def test_a_changed_event_is_found(copy: Fixed) -> None:
    damage(copy, "UPDATE events SET data = CAST(replace(data, 'Make add', 'Make sub') AS BLOB)"
                 " WHERE seq = 1")  # fmt: skip
    done = copy.cli("verify", copy.task_id, "--json")
    assert done.code == 1
    assert done.json()["ok"] is False and done.json()["seq"] == 1 and done.json()["fault"]
    assert copy.cli("verify", copy.task_id).out.startswith(f"{copy.task_id}: FAULT at event 1")


def test_an_unknown_task_is_5_with_an_object(fixed: Fixed) -> None:
    done = fixed.cli("verify", "ffffffff", "--json")
    assert done.code == 5 and done.json()["ok"] is False


@pytest.mark.long
def test_a_saved_certificate_sees_a_cut_that_took_the_head_along(copy: Fixed) -> None:
    """A chain alone does not see a cut tail, and whoever cuts it can mend the head."""
    saved = copy.cli.home / "saved.json"
    [certificate] = (copy.cli.state / "results").glob("*/certificate.json")
    shutil.copy(certificate, saved)
    arguments = ("verify", copy.task_id, "--certificate", str(saved), "--json")
    assert copy.cli(*arguments).code == 0
    damage(
        copy,
        "DELETE FROM events WHERE seq > 5",
        "UPDATE tasks SET seq = 5, head_hash = (SELECT hash FROM events WHERE seq = 5)",
    )
    assert copy.cli("verify", copy.task_id).code == 0, "the log alone looks whole"
    done = copy.cli(*arguments)
    assert done.code == 1 and done.json()["seq"] == 6 and "cut" in done.json()["fault"]


@pytest.mark.long
def test_a_changed_certificate_is_found(copy: Fixed) -> None:
    [certificate] = (copy.cli.state / "results").glob("*/certificate.json")
    claims = json.loads(certificate.read_text(encoding="utf-8"))
    claims["checks"][0]["exit"] = 1
    saved = copy.cli.home / "saved.json"
    saved.write_text(json.dumps(claims), encoding="utf-8")
    done = copy.cli("verify", copy.task_id, "--certificate", str(saved))
    assert done.code == 1 and "was changed" in done.out
    saved.write_text("{}", encoding="utf-8")
    assert copy.cli("verify", copy.task_id, "--certificate", str(saved)).code == 2


@pytest.mark.long
def test_diff_prints_the_patch_and_its_size(fixed: Fixed) -> None:
    patch = fixed.cli("diff", fixed.task_id)
    assert patch.out.startswith("diff --git a/calc.py b/calc.py\n") and patch.err == ""
    assert "calc.py |    2 +-" in fixed.cli("diff", fixed.task_id, "--stat").out


@pytest.mark.long
def test_apply_changes_the_checkout_once(copy: Fixed) -> None:
    checkout = copy.cli.home / "repo"
    to = ("apply", copy.task_id, "--to", str(checkout))
    checked = copy.cli(*to, "--check")
    assert checked.code == 0 and checked.out == "calc.py\n"
    assert git(checkout, "status", "--porcelain") == ""
    assert copy.cli(*to).out == "calc.py\n"
    assert "a + b" in (checkout / "calc.py").read_text(encoding="utf-8")
    again = copy.cli(*to)
    assert again.code == 0 and again.out == "" and "nothing to do" in again.err


def test_a_conflict_is_6_and_changes_nothing(copy: Fixed) -> None:
    checkout = copy.cli.home / "repo"
    (checkout / "calc.py").write_text("def add(a, b):\n    return a * b\n", encoding="utf-8")
    done = copy.cli("apply", copy.task_id, "--to", str(checkout))
    assert done.code == 6 and "calc.py" in done.err
    assert "a * b" in (checkout / "calc.py").read_text(encoding="utf-8")


@pytest.mark.long
def test_apply_commits_on_a_new_branch_and_touches_nothing_else(copy: Fixed) -> None:
    """Nothing of the repository's configuration or hooks takes part."""
    checkout = copy.cli.home / "repo"
    hook = checkout / ".git" / "hooks" / "reference-transaction"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {copy.cli.home}/hooked\n", encoding="utf-8")
    hook.chmod(0o755)
    (checkout / "calc.py").write_text("# being edited\n", encoding="utf-8")
    index = (checkout / ".git" / "index").read_bytes()
    to = ("apply", copy.task_id, "--to", str(checkout), "--branch")
    done = copy.cli(*to, "fix/add", "--author", "A Person <a@example.org>")
    assert done.code == 0, done
    assert not (copy.cli.home / "hooked").exists()
    hook.unlink()
    assert (checkout / "calc.py").read_text(encoding="utf-8") == "# being edited\n"
    assert (checkout / ".git" / "index").read_bytes() == index
    assert git(checkout, "symbolic-ref", "HEAD") == "refs/heads/main\n"
    assert git(checkout, "show", "fix/add:calc.py").endswith("return a + b\n")
    told = git(checkout, "log", "-1", "--format=%an <%ae>|%s|%P", "fix/add").strip().split("|")
    head = git(checkout, "rev-parse", "main").strip()
    assert told == ["A Person <a@example.org>", "Make add add", head]
    git(checkout, "fsck", "--strict")
    taken = copy.cli(*to, "fix/add")
    assert taken.code == 6 and "exists" in taken.err
    assert copy.cli(*to, "fix..add").code == 2


@pytest.mark.long
def test_a_branch_needs_the_base_commit(copy: Fixed) -> None:
    other = make_repository(copy.cli.home / "other")
    git(other, "commit", "--quiet", "--amend", "--message=another")
    done = copy.cli("apply", copy.task_id, "--to", str(other), "--branch", "fix")
    assert done.code == 1 and "does not have the commit" in done.err


@pytest.mark.long
def test_an_unverified_result_is_applied_only_on_demand(cli: Cli, shell_task: WriteTask) -> None:
    path = shell_task("echo more >> calc.py")
    text = path.read_text(encoding="utf-8").replace("{command: 'true'}", "{command: 'false'}")
    path.write_text(text, encoding="utf-8")
    ran = cli("run", str(path), "--json", UNSAFE)
    assert ran.code == 1 and ran.lines()[-1]["status"] == "unverified"
    assert ran.lines()[-1]["failed_checks"] == ["fine"]
    task_id = ran.lines()[-1]["task_id"]
    refused = cli("apply", task_id)
    assert refused.code == 6 and "--unverified" in refused.err
    done = cli("apply", task_id, "--unverified")
    assert done.code == 0 and "more" in (cli.home / "repo" / "calc.py").read_text(encoding="utf-8")
