from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.cli.conftest import Fixed, WriteTask
from tests.cli.helpers import UNSAFE, Cli

ASK = "policy: {approvals: {shell: ask}}\n"


@pytest.mark.long
def test_ps_lists_tasks_as_table_and_as_json(fixed: Fixed) -> None:
    table = fixed.cli("ps").out.splitlines()
    assert table[0].split() == ["TASK", "STATUS", "PHASE", "AGE", "GOAL"]
    assert table[1].startswith(fixed.task_id[-8:]) and table[1].endswith("Make add add")
    [task] = fixed.cli("ps", "--json", "--status", "succeeded", "--label", "team=parsers").json()
    assert task["id"] == task["task_id"] == fixed.task_id and task["status"] == "succeeded"
    shown = fixed.cli("show", fixed.task_id, "--json").json()
    assert {"created_at", "updated_at", "interrupted", "seq"} <= task.keys() & shown.keys()
    assert all(task[key] == shown[key] for key in task.keys() & shown.keys())
    assert task["labels"] == {"team": "parsers"} and task["owner"] is None
    assert fixed.cli("ps", "--json", "--label", "team=other").json() == []
    assert fixed.cli("ps", "--json", "--status", "failed", "--all").json() == []


def test_show_says_everything_as_json(fixed: Fixed) -> None:
    shown = fixed.cli("show", fixed.task_id[-8:], "--json").json()
    assert shown["id"] == fixed.task_id and shown["status"] == "succeeded"
    assert [entry["phase"] for entry in shown["phases"]][:3] == [
        "task_initiation", "analyze_requirements", "tool_discovery",
    ]  # fmt: skip
    assert [(step["id"], step["status"], step["attempts"]) for step in shown["steps"]] == [
        ("look", "done", 1), ("fix", "done", 1),
    ]  # fmt: skip
    assert shown["steps"][0]["exit"] == 1
    assert shown["verification"]["checks"][0]["id"] == "adds"
    assert shown["certificate"]["log"]["seq"] == shown["seq"]
    assert shown["spec"]["goal"] == shown["goal"] == "Make add add"


def test_show_is_readable(fixed: Fixed) -> None:
    shown = fixed.cli("show", fixed.task_id).out
    assert "status     succeeded: every check passed" in shown
    assert "adds: ok, exit 0" in shown


def test_an_unknown_task_is_5(fixed: Fixed) -> None:
    missing = fixed.cli("show", "ffffffff")
    assert missing.code == 5 and missing.err.startswith("error: no task is called 'ffffffff'")


def test_logs_tell_every_event_in_words(fixed: Fixed) -> None:
    lines = fixed.cli("logs", fixed.task_id).out.splitlines()
    rows = [json.loads(line) for line in fixed.out.splitlines()[:-1]]
    assert [line.split()[0] for line in lines] == [str(row["seq"]) for row in rows]
    assert any("CallReturned" in line and "changed calc.py" in line for line in lines)


def test_logs_as_json_are_what_run_printed(fixed: Fixed) -> None:
    done = fixed.cli("logs", fixed.task_id, "--json", "--follow")
    assert done.out.splitlines() == fixed.out.splitlines()[:-1]


def test_logs_can_be_narrowed(fixed: Fixed) -> None:
    done = fixed.cli("logs", fixed.task_id, "--types", "CallIntended", "--after", "3", "--json")
    assert {row["type"] for row in done.lines()} == {"CallIntended"}
    wrong = fixed.cli("logs", fixed.task_id, "--types", "CalIntended")
    assert wrong.code == 2 and "did you mean 'CallIntended'?" in wrong.err


def test_a_reader_that_leaves_ends_logs_quietly(fixed: Fixed) -> None:
    """`logs | head` must not complain."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "agent_runtime", "logs", fixed.task_id],
        stdout=writing,
        stderr=subprocess.PIPE,
        env=fixed.cli.environment(),
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_an_approval_comes_from_another_process(cli: Cli, shell_task: WriteTask) -> None:
    running = cli.start("run", str(shell_task("true", ASK)), "--json", UNSAFE)
    asked = running.wait_for_event("ApprovalRequested")
    approved = cli("approve", asked["task_id"][-8:], asked["data"]["approval_id"], "-m", "fine")
    assert approved.code == 0 and approved.err == "", approved
    done = running.finish()
    assert done.code == 0, done
    [decided] = [row for row in done.lines() if row["type"] == "ApprovalDecided"]
    assert decided["data"]["decision"] == "approve" and decided["data"]["message"] == "fine"


def test_a_denied_call_fails_its_step(cli: Cli, shell_task: WriteTask) -> None:
    running = cli.start("run", str(shell_task("true", ASK)), "--json", UNSAFE)
    asked = running.wait_for_event("ApprovalRequested")
    assert cli("deny", asked["task_id"]).code == 0
    assert running.finish().code == 1


@pytest.mark.long
def test_without_an_answer_run_ends_with_9_and_says_how_to_go_on(
    cli: Cli, shell_task: WriteTask
) -> None:
    """Exit code 9: waiting for a person; nothing is lost, nothing is asked twice."""
    path = str(shell_task("true", ASK))
    waited = cli("run", path, "--json", "--wait-seconds", "0.1", UNSAFE)
    assert waited.code == 9, waited
    result = waited.lines()[-1]
    assert (result["status"], result["reason"]) == ("waiting", "approval")
    name = result["task_id"][-8:]
    assert f"agent-runtime approve {name}" in waited.err
    assert f"agent-runtime resume {name}" in waited.err

    [pending] = cli("show", name, "--json").json()["approvals"]
    approved = cli("approve", name)
    assert pending["approval_id"] in approved.out and "nobody drives" in approved.err
    again = cli("approve", name)
    assert again.code == 5 and "waits for no approval" in again.err
    assert cli("resume", name, UNSAFE).code == 0


@pytest.mark.long
def test_commands_that_are_suggested_name_the_store(cli: Cli, shell_task: WriteTask) -> None:
    store = f"sqlite:///{cli.home}/elsewhere/tasks.db"
    path = str(shell_task("true", ASK))
    waited = cli("--store", store, "run", path, "--wait-seconds", "0", UNSAFE)
    assert waited.code == 9 and f"agent-runtime --store {store} approve" in waited.err
    assert cli("ps", "--json").json() == []
    assert len(cli("--store", store, "ps", "--json").json()) == 1
