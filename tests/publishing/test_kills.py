"""SIGKILL at every step of publishing: one branch and one pull request, whatever died when."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
from pathlib import Path

import pytest

from tests.cli.helpers import UNSAFE, Cli, Done
from tests.publishing.server import TOKEN, GitHost, files_with, processes_with

TASK_FILE = """\
goal: Make add add
workspace: {{repo: "{url}"}}
plan:
  steps:
    - id: fix
      tool: edit_file
      args: {{path: calc.py, edits: [{{oldText: a - b, newText: a + b}}]}}
objectives:
  - {{id: adds, check: {{command: "grep -q 'a + b' calc.py"}}}}
{publish}
"""
KILLS = 25
"""For each forge."""


def installation(host: GitHost, tmp_path: Path, forge: str) -> Cli:
    """A command line that may use the host."""
    credentials = json.dumps(host.credentials(forge))
    env = {"HOST_TOKEN": TOKEN, "AGENT_RUNTIME_GIT_CREDENTIALS": credentials}
    return Cli(tmp_path, env)


def write_task(host: GitHost, tmp_path: Path, publish: str = "") -> str:
    path = tmp_path / "task.yaml"
    path.write_text(TASK_FILE.format(url=host.url(), publish=publish), encoding="utf-8")
    return str(path)


class Killer:
    """Kills a process when the host's log has come to a point."""

    def __init__(self, host: GitHost) -> None:
        self.points: list[str] = []
        self.pid = 0
        self.at: int | str | None = None
        self.killed = ""
        host.at = self._look

    def arm(self, at: int | str | None) -> None:
        self.points, self.at, self.pid, self.killed = [], at, 0, ""

    def _look(self, point: str) -> None:
        self.points.append(point)
        at = self.at
        due = point.startswith(at) if isinstance(at, str) else at == len(self.points) - 1
        if due and self.pid and not self.killed:
            self.killed = point
            os.kill(self.pid, signal.SIGKILL)


def killed(cli: Cli, killer: Killer, at: int | str, *arguments: str) -> None:
    killer.arm(at)
    started = cli.start(*arguments)
    killer.pid = started.process.pid
    started.finish()
    assert killer.killed, f"it came to no {at!r}: {killer.points}"


def ended_well(done: Done) -> dict[str, object]:
    result = done.lines()[-1]
    assert done.code == 0, (result, done.err)
    publication: dict[str, object] = result["publication"]
    assert publication["ok"], result
    return publication


@pytest.mark.long
def test_a_daemon_that_dies_after_the_push_repeats_nothing(host: GitHost, tmp_path: Path) -> None:
    """The server has done it, and nobody has heard of it. No process or file shows the token."""
    host.token = f"ghp_canary-{secrets.token_hex(8)}"
    secret = tmp_path / "secret"
    secret.write_text(host.token, encoding="utf-8")
    home = tmp_path / "home"
    home.mkdir()
    credentials = json.dumps(host.credentials(token=f"file:{secret}"))
    cli, killer = Cli(home, {"AGENT_RUNTIME_GIT_CREDENTIALS": credentials}), Killer(host)
    task_file = write_task(host, home, "publish: {pr: draft}")
    killed(cli, killer, "after POST /acme/app.git/git-receive-pack", "run", task_file, UNSAFE)
    (task,) = cli.state.joinpath("workspaces").glob("task_*")
    killer.arm(None)
    seen: list[str] = []
    host.at = lambda point: seen.extend(processes_with(host.token))
    done = cli("resume", task.name, "--json", UNSAFE)
    told = ended_well(done)
    branch = f"agent-runtime/{task.name}"
    assert host.branches() == {"main": host.branches()["main"], branch: told["commit"]}
    assert [each["head"] for each in host.requests] == [branch]
    assert "a + b" in host.show(f"{branch}:calc.py")
    pushed = [line for line in host.log if line.startswith("POST /acme/app.git/git-receive-pack")]
    assert len(pushed) == 1, "the branch was there, and was found"
    assert host.token not in done.out + done.err + host.requests[0]["text"]
    assert (seen, files_with(home, host.token)) == ([], [])


@pytest.mark.long
@pytest.mark.parametrize("forge", ["github", "gitlab"])
def test_killed_at_every_request_there_is_one_branch_and_one_request(
    host: GitHost, tmp_path: Path, forge: str
) -> None:
    """Table row 9: before and after each request of a whole publication, and round again."""
    cli, killer = installation(host, tmp_path, forge), Killer(host)
    done = cli("run", write_task(host, tmp_path), "--json", UNSAFE)
    assert done.code == 0, done.err
    task_id = done.lines()[-1]["task_id"]
    publishing = cli.state / "publishing" / task_id

    def forget() -> None:
        # The commit is made anew, and the base fetched.
        if publishing.exists():
            shutil.rmtree(publishing)

    killer.arm(None)
    ended_well(cli("publish", task_id, "--branch", "whole", "--json", UNSAFE))
    steps = len(killer.points)
    assert steps > 20, killer.points
    for number in range(KILLS):
        branch, at = f"b{number}", number * steps // KILLS
        forget()
        before = len(host.requests)
        killed(cli, killer, at, "publish", task_id, "--branch", branch, UNSAFE)
        killer.arm(None)
        told = ended_well(cli("resume", task_id, "--json", UNSAFE))
        assert told["commit"] == host.branches()[branch], killer.killed
        assert [each["head"] for each in host.requests[before:]] == [branch], killer.killed
    assert cli("verify", task_id).code == 0
    assert cli("replay", task_id).code == 0
    log = cli("logs", task_id, "--json").out
    assert log.count('"PublicationEnded"') == KILLS + 1 and TOKEN not in log
