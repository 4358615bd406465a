"""The playbooks of the examples, as `try.sh` runs them: no model, no network, the real sandbox."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e.conftest import ROOT, SECONDS_MAX, CommandLine

PLAYBOOKS = ROOT / "examples" / "playbooks"


class Story(NamedTuple):
    """What a playbook is to come to, beside `succeeded` and `proven`."""

    changed: list[str]
    recoveries: list[tuple[str, str]]
    decision: str = ""


STORIES = {
    "bug-fix": Story(["CHANGES.md", "duration.py"], []),
    "runbook": Story(["config/checkout.ini", "incidents/2026-03-14.md"], []),
    "pipeline": Story(
        ["quarantine.csv", "source/orders.lock", "warehouse.db"],
        [("extract", "retry"), ("transform", "fallback")],
    ),
    "session": Story(["summary.txt"], [("broken", "fallback")]),
    "support": Story(["outbox/1042.txt"], [], "approve"),
    "support, denied": Story(
        ["drafts/1042.txt", "escalations/1042.txt"], [("send", "fallback")], "deny"
    ),
}


def script(cli: CommandLine, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A script of the examples, with this `agent-runtime` first on PATH."""
    path = f"{Path(sys.executable).parent}:{cli.environment['PATH']}"
    return subprocess.run(
        [str(PLAYBOOKS / name), *arguments],
        env={**cli.environment, "PATH": path, "TMPDIR": str(cli.home)},
        cwd=cli.home,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )


@pytest.mark.parametrize("name", STORIES)
@pytest.mark.long
def test_a_playbook_is_proven_on_the_way_that_it_tells(cli: CommandLine, name: str) -> None:
    story = STORIES[name]
    done = script(cli, "try.sh", name.partition(",")[0], "--json", "--wait-seconds", "0")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines, done.stderr
    code, task_id = done.returncode, lines[-1]["task_id"]
    if story.decision:
        assert (code, lines[-1]["status"]) == (9, "waiting")
        assert cli(story.decision, task_id).returncode == 0
        resumed = cli("resume", task_id, "--json")
        code, lines = resumed.returncode, [json.loads(line) for line in resumed.stdout.splitlines()]
    assert (code, lines[-1]["status"]) == (0, "succeeded"), lines[-1]["reason"]
    (ended,) = of_type(lines, "VerificationEnded")
    assert (ended["grade"], ended["changed"]) == ("proven", story.changed)
    recoveries = [(each["step_id"], each["strategy"]) for each in of_type(lines, "RecoveryChosen")]
    assert recoveries == story.recoveries


def of_type(lines: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [line["data"] for line in lines if line["type"] == kind]


def test_every_playbook_is_run_here_and_explained() -> None:
    there = {path.parent.name for path in PLAYBOOKS.glob("*/task.yaml")}
    assert {name.partition(",")[0] for name in STORIES} == there
    docs = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    assert {name for name in there if f"`{name}`" in docs} == there


@pytest.mark.long
def test_the_bare_sandbox_keeps_files_and_nothing_else(cli: CommandLine, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(0o777)  # run by root, the sandbox is another user
    done = script(cli, "session/sandbox.sh", str(state))
    assert done.returncode == 0, done.stderr
    *told, network = done.stdout.splitlines()
    assert told == [
        "one call",
        "another call",
        "no process of the call before",
        "no keys of yours",
    ]
    assert network.startswith("no network: ")


def test_a_playbook_that_is_not_there_is_named_with_those_that_are(cli: CommandLine) -> None:
    done = script(cli, "try.sh", "supprot")
    assert done.returncode == 2
    assert "supprot" in done.stderr and "support/" in done.stderr
