"""An ended task is opened again, from the command line, over and over; its old result is known."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Fixed, WriteTask, git
from tests.cli.helpers import UNSAFE, Cli

MORE = """\
message: and document it
plan:
  steps:
    - id: note
      tool: write_file
      args: {path: "notes/{{ steps.look.exit }}.txt", content: done}
      needs: [look]
objectives:
  - {id: noted, check: {command: "test -s notes/1.txt"}}
artifacts: ["notes/*.txt"]
"""


@pytest.fixture(scope="module")
def continued(fixed: Fixed, tmp_path_factory: pytest.TempPathFactory) -> Fixed:
    """The finished task, in a store of its own, after a second run."""
    home = tmp_path_factory.mktemp("continued") / "home"
    shutil.copytree(fixed.cli.home, home)
    cli = Cli(home)
    (home / "more.yaml").write_text(MORE, encoding="utf-8")
    done = cli("continue", fixed.task_id[-8:], "--file", "more.yaml", "--json", UNSAFE)
    assert done.code == 0, done
    return Fixed(cli, fixed.task_id, done.out)


@pytest.fixture
def copy(continued: Fixed, tmp_path: Path) -> Fixed:
    shutil.copytree(continued.cli.home, tmp_path / "copy")
    return Fixed(Cli(tmp_path / "copy"), continued.task_id, continued.out)


def results(task: Fixed) -> Path:
    return task.cli.state / "results" / task.task_id


def show(task: Fixed) -> Any:
    return task.cli("show", task.task_id, "--json").json()


@pytest.mark.long
def test_the_second_run_is_watched_like_the_first(fixed: Fixed, continued: Fixed) -> None:
    *rows, result = (json.loads(line) for line in continued.out.splitlines())
    first = len(fixed.out.splitlines()) - 1
    assert [row["seq"] for row in rows] == list(range(first + 1, first + 1 + len(rows)))
    assert (rows[0]["type"], rows[0]["data"]["message"]) == ("Continued", "and document it")
    assert (result["status"], result["run"]) == ("succeeded", 2)
    assert [file["path"] for file in result["artifacts"]] == ["notes/1.txt"]


@pytest.mark.long
def test_old_and_new_objectives_decide_against_the_base_of_the_first_run(
    fixed: Fixed, continued: Fixed
) -> None:
    before, after = show(fixed), show(continued)
    assert [check["id"] for check in after["verification"]["checks"]] == ["adds", "noted"]
    assert after["workspace"]["base_tree"] == before["workspace"]["base_tree"]
    assert after["certificate"]["grade"] == "proven"
    patch = continued.cli("diff", continued.task_id).out
    assert "+    return a + b" in patch and "notes/1.txt" in patch
    assert [run["status"] for run in after["earlier_runs"]] == ["succeeded"]
    assert after["usage"]["steps"] == 1 and after["total_usage"]["steps"] == 3


@pytest.mark.long
def test_the_first_result_is_kept_and_superseded(fixed: Fixed, continued: Fixed) -> None:
    names = {path.name for path in results(continued).iterdir()}
    assert names >= {"patch.diff", "certificate.json", "patch.1.diff", "certificate.1.json"}
    assert (results(continued) / "patch.1.diff").read_bytes() == (
        results(fixed) / "patch.diff"
    ).read_bytes()
    verify = ("verify", continued.task_id, "--certificate")
    old = continued.cli(*verify, str(results(continued) / "certificate.1.json"))
    assert old.code == 0 and "superseded" in old.err
    new = continued.cli(*verify, str(results(continued) / "certificate.json"))
    assert new.code == 0 and "superseded" not in new.err


@pytest.mark.parametrize("name", ["patch.1.diff", "certificate.1.json", "certificate.json"])
def test_verify_knows_what_each_run_gave(copy: Fixed, name: str) -> None:
    assert copy.cli("verify", copy.task_id).code == 0
    path = results(copy) / name
    path.write_bytes(path.read_bytes().replace(b"add", b"sub"))
    done = copy.cli("verify", copy.task_id)
    assert done.code == 1 and name in done.out


@pytest.mark.parametrize("old", ["patch.1.diff", "certificate.1.json"])
def test_a_patch_of_one_run_is_not_believed_under_the_certificate_of_another(
    copy: Fixed, old: str
) -> None:
    shutil.copy(results(copy) / old, results(copy) / old.replace(".1.", "."))
    done = copy.cli("verify", copy.task_id)
    assert done.code == 1 and "patch.diff" in done.err + done.out


def test_a_result_that_nobody_has_numbered_yet_is_no_fault(copy: Fixed) -> None:
    """Kill -9 between the log and the files: the next look at the result mends it."""
    for name in ("patch", "certificate"):
        ending = "diff" if name == "patch" else "json"
        old, new = (results(copy) / f"{name}{number}.{ending}" for number in (".1", ""))
        old.replace(new)
    assert copy.cli("verify", copy.task_id).code == 0
    # Superseded again by the next run, under the number that is its own.
    (copy.cli.home / "again.yaml").write_text("protect: [nothing]", encoding="utf-8")
    assert copy.cli("continue", copy.task_id, "--file", "again.yaml", UNSAFE).code == 0
    numbered = sorted(path.name for path in results(copy).glob("certificate*"))
    assert numbered == ["certificate.1.json", "certificate.json"]


@pytest.mark.long
def test_report_logs_and_ps_tell_of_both_runs(continued: Fixed) -> None:
    page = continued.cli("report", continued.task_id).out
    assert "superseded, run 1: succeeded" in page and "continued the task" in page
    assert "`notes/1.txt`" in page and "all 2 runs together" in page
    told = continued.cli("logs", "-f", continued.task_id).out
    assert told.count("TaskEnded") == 2, "the first end is not the last word"
    [row] = continued.cli("ps", "--json").json()
    assert row["status"] == "succeeded"
    assert "run 1" in continued.cli("show", continued.task_id).out


@pytest.mark.long
def test_it_is_exported_imported_and_continued_elsewhere(
    continued: Fixed, cli: Cli, tmp_path: Path
) -> None:
    file = tmp_path / "task.tar"
    assert continued.cli("export", continued.task_id, str(file)).code == 0
    assert cli("import", str(file)).code == 0
    assert cli("verify", continued.task_id).code == 0
    assert cli("artifacts", continued.task_id, "--output", "out").code == 0
    assert (tmp_path / "out" / "notes" / "1.txt").read_text() == "done"
    (tmp_path / "again.yaml").write_text("protect: [nothing]", encoding="utf-8")
    done = cli("continue", continued.task_id, "--file", "again.yaml", UNSAFE)
    assert done.code == 0 and "commits of the earlier run are not here" in done.out
    assert cli("diff", continued.task_id).out == continued.cli("diff", continued.task_id).out


def test_it_is_applied_as_a_whole(continued: Fixed, repository: Path) -> None:
    done = continued.cli("apply", continued.task_id, "--to", str(repository))
    assert done.code == 0 and done.out.split() == ["calc.py", "notes/1.txt"]
    assert "a + b" in (repository / "calc.py").read_text()


# ---- refusals ----------------------------------------------------------------------------


@pytest.mark.long
def test_what_cannot_be_gone_on_with_is_told_and_nothing_is_stored(
    fixed: Fixed, tmp_path: Path
) -> None:
    file = tmp_path / "more.yaml"
    file.write_text("plan: {steps: [{id: fix, tool: shell, args: {command: ls}}]}")
    before = fixed.cli("logs", fixed.task_id, "--json").out
    done = fixed.cli("continue", fixed.task_id, "--file", str(file), UNSAFE)
    assert done.code == 2 and f"{file}:1: plan.steps[0].id: must be new; 'fix'" in done.err
    done = fixed.cli("continue", fixed.task_id, "--limit", "steps=0")
    assert done.code == 2 and "limits.steps: must be from 1" in done.err
    done = fixed.cli("continue", fixed.task_id, "and now?")
    assert done.code == 2 and "nothing to do" in done.err and "--file FILE" in done.err
    assert fixed.cli("logs", fixed.task_id, "--json").out == before


def test_a_task_that_does_not_exist_was_perhaps_forgotten(cli: Cli) -> None:
    done = cli("continue", "ffffffff")
    assert done.code == 5 and "agent-runtime gc" in done.err


def test_without_its_versions_it_says_that_they_are_gone(copy: Fixed) -> None:
    shutil.rmtree(copy.cli.state / "workspaces" / copy.task_id)
    done = copy.cli("continue", copy.task_id, "--file", "more.yaml", UNSAFE)
    assert done.code == 2, "the ids are taken"
    (copy.cli.home / "again.yaml").write_text("protect: [nothing]", encoding="utf-8")
    done = copy.cli("continue", copy.task_id, "--file", "again.yaml", UNSAFE)
    assert done.code == 6 and "are gone" in done.err and "run a new one" in done.err


@pytest.mark.long
def test_without_its_base_commit_nothing_is_stored_and_the_result_stays(
    copy: Fixed, tmp_path: Path
) -> None:
    repository = Path(show(copy)["spec"]["workspace"]["repo"])
    before = copy.cli("logs", copy.task_id, "--json").out
    (copy.cli.home / "again.yaml").write_text("protect: [nothing]", encoding="utf-8")
    hidden = tmp_path / "objects"
    (repository / ".git" / "objects").rename(hidden)
    (repository / ".git" / "objects").mkdir()
    try:
        done = copy.cli("continue", copy.task_id, "--file", "again.yaml", UNSAFE)
    finally:
        (repository / ".git" / "objects").rmdir()
        hidden.rename(repository / ".git" / "objects")
    assert done.code == 6 and "no longer in" in done.err and "run a new task" in done.err
    assert copy.cli("logs", copy.task_id, "--json").out == before
    assert (results(copy) / "certificate.json").exists()


def test_a_running_task_is_a_conflict_that_names_steer(cli: Cli, shell_task: WriteTask) -> None:
    shell_task("sleep 60")
    running = cli.start("run", "task.yaml", "--json", UNSAFE)
    task_id = running.wait_for_event("CallIntended")["task_id"]
    done = cli("continue", task_id, "more")
    assert done.code == 6 and "agent-runtime steer" in done.err
    running.signal(signal.SIGINT)
    assert running.finish().code == 130


# ---- kills and cut-off tasks -------------------------------------------------------------


@pytest.mark.long
def test_a_continued_task_is_killed_and_resumed(copy: Fixed) -> None:
    (copy.cli.home / "slow.yaml").write_text(
        "plan: {steps: [{id: slow, tool: shell, args: {command: 'test -e notes/go || sleep 60'}}]}",
        encoding="utf-8",
    )
    running = copy.cli.start("continue", copy.task_id, "--file", "slow.yaml", "--json", UNSAFE)
    running.wait_for_event("CallIntended")
    running.signal(signal.SIGKILL)
    running.finish()
    [row] = copy.cli("ps", "--json").json()
    assert row["interrupted"] is True
    assert copy.cli("cancel", copy.task_id).code == 0
    assert show(copy)["run"] == 3 and show(copy)["status"] == "cancelled"
    # And once more, with what it had not got to given up.
    (copy.cli.home / "again.yaml").write_text(
        "plan: {steps: [{id: quick, tool: shell, args: {command: 'ls notes'}}]}", encoding="utf-8"
    )
    done = copy.cli("continue", copy.task_id, "--file", "again.yaml", UNSAFE)
    assert done.code == 0, done
    assert copy.cli("verify", copy.task_id).code == 0


@pytest.mark.long
def test_a_cancelled_task_goes_on_where_it_stood_with_its_commits(
    cli: Cli, repository: Path, tmp_path: Path
) -> None:
    """Same branch, history and tree: a commit of the first run is there in the second."""
    commit = "echo x > x && git add x && git commit -qm X"
    (tmp_path / "task.yaml").write_text(
        "goal: Try it\nworkspace: {repo: ./repo}\nplan:\n  steps:\n"
        f"    - {{id: one, tool: shell, args: {{command: '{commit}'}}}}\n"
        "    - {id: two, tool: shell, args: {command: 'git log --format=%s -1 && git status'}, "
        "needs: [one], expect: {contains: X}}\n"
        "objectives: [{id: fine, check: {command: 'test -e x'}}]\nlimits: {steps: 1}\n",
        encoding="utf-8",
    )
    first = cli("run", "task.yaml", "--json", UNSAFE).lines()[-1]
    assert (first["status"], first["reason"].split(":")[0]) == ("failed", "budget_exhausted")
    # What happens to the repository meanwhile is not the task's business.
    (repository / "other.py").write_text("x = 1\n", encoding="utf-8")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message=two")
    again = cli("continue", first["task_id"], "--limit", "steps=9", "--json", UNSAFE)
    result = again.lines()[-1]
    assert (result["status"], result["reason"]) == ("succeeded", "every check passed"), again
    assert cli("diff", first["task_id"], "--stat").out.split()[0] == "x"


# ---- artifacts ---------------------------------------------------------------------------


@pytest.mark.long
def test_artifacts_are_listed_and_written_out(continued: Fixed, tmp_path: Path) -> None:
    listed = continued.cli("artifacts", continued.task_id, "--json").json()
    [file] = listed["artifacts"]
    assert (file["path"], file["bytes"], listed["missing"]) == ("notes/1.txt", 4, [])
    done = continued.cli("artifacts", continued.task_id, "--output", str(tmp_path / "out"))
    assert done.code == 0 and done.out == "notes/1.txt\n"
    assert (tmp_path / "out" / "notes" / "1.txt").read_text() == "done"
    again = continued.cli("artifacts", continued.task_id, "--output", str(tmp_path / "out"))
    assert again.code == 0, "the same content is no conflict"
    (tmp_path / "out" / "notes" / "1.txt").write_text("mine")
    conflict = continued.cli("artifacts", continued.task_id, "--output", str(tmp_path / "out"))
    assert conflict.code == 6 and "nothing was written" in conflict.err


@pytest.mark.long
def test_a_task_without_artifacts_says_so(fixed: Fixed, tmp_path: Path) -> None:
    assert fixed.cli("artifacts", fixed.task_id).err.startswith("no artifacts")
    done = fixed.cli("artifacts", fixed.task_id, "--output", str(tmp_path))
    assert done.code == 5 and "has kept no artifacts" in done.err


@pytest.mark.long
def test_ignored_artifacts_are_no_part_of_the_patch_and_gc_forgets_them(
    cli: Cli, repository: Path, shell_task: WriteTask
) -> None:
    (repository / ".gitignore").write_text("dist/\n", encoding="utf-8")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message=ignore")
    task = shell_task(
        "mkdir dist && echo wheel > dist/a.whl && ln -s /etc/passwd dist/b.whl && echo n > new.txt",
        "artifacts: ['dist/*.whl', {path: cov.xml, required: false}]\n",
    )
    done = cli("run", str(task), UNSAFE)
    assert done.code == 0, done
    assert "artifacts    dist/a.whl" in done.out and "no artifact matches: cov.xml" in done.out
    assert "dist/b.whl: a link" in done.out
    [row] = cli("ps", "--json").json()
    assert cli("diff", row["id"], "--stat").out.split()[0] == "new.txt"
    assert "dist" not in cli("diff", row["id"]).out
    assert cli("gc", "--older-than", "0").code == 0
    assert cli("artifacts", row["id"]).code == 5
    assert not list(cli.state.glob("workspaces/task_*"))
