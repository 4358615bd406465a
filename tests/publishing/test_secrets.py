"""A whole task on a git URL, in the real sandbox: cloned, worked on, published; the key unseen."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import pytest

from tests.cli.helpers import Cli
from tests.publishing.server import GitHost, files_with, processes_with
from tests.publishing.test_publisher import push_upstream

LOOK = """\
cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'
env; cat .git/config; git remote -v
grep -rl 'ghp_canar[y]' . /tmp "$HOME" 2>/dev/null; git ls-remote origin 2>&1; true
"""
TASK = {
    "goal": "Make add add",
    "plan": {
        "steps": [
            {"id": "look", "tool": "shell", "args": {"command": LOOK}, "effect": "read"},
            {
                "id": "fix",
                "tool": "edit_file",
                "args": {"path": "calc.py", "edits": [{"oldText": "a - b", "newText": "a + b"}]},
                "needs": ["look"],
            },
        ]
    },
    "objectives": [{"id": "adds", "check": {"command": "grep -q 'a + b' calc.py"}}],
    "publish": {"pr": "ready", "title": "Add adds"},
}


@pytest.mark.long
def test_the_credential_is_nowhere_but_in_its_file(host: GitHost, tmp_path: Path) -> None:
    """Table row 9: in no process, log, event, blob or repository; and a moved base is checked."""
    host.token = f"ghp_canary-{secrets.token_hex(8)}"
    secret = tmp_path / "secret"
    secret.write_text(host.token + "\n", encoding="utf-8")
    told = host.credentials(token=f"file:{secret}")
    home = tmp_path / "home"
    home.mkdir()
    cli = Cli(home, {"AGENT_RUNTIME_GIT_CREDENTIALS": json.dumps(told)})
    seen: list[str] = []
    moved: list[str] = []

    def look(point: str) -> None:
        seen.extend(processes_with(host.token))
        if point.startswith("before GET /acme/app.git") and "a" not in moved and cloned():
            moved.append("a")
            push_upstream(host, tmp_path, "other.py", "x = 1\n")

    def cloned() -> bool:
        return any("git-upload-pack" in line and line.startswith("POST") for line in host.log[3:])

    host.at = look
    path = home / "task.json"
    path.write_text(json.dumps({**TASK, "workspace": {"repo": host.url()}}), encoding="utf-8")
    done = cli("--log-level", "debug", "run", str(path), "--json")
    result = done.lines()[-1]
    assert (done.code, result["status"]) == (0, "succeeded"), (result, done.err)
    publication = result["publication"]
    assert publication["ok"] and publication["base_commit"] == host.branches()["main"]
    assert publication["verified_again"]["ok"], "the base had moved since it was cloned"
    assert host.show(f"{publication['branch']}:other.py") == "x = 1\n"
    (request,) = host.requests
    assert not request["draft"] and request["title"] == "Add adds"
    assert "grade: `proven`" in request["text"] and "status: succeeded" in request["text"]
    assert seen == [], "a process had it among its arguments or variables"
    assert host.token not in done.out + done.err + request["text"]
    looked = next(row for row in done.lines() if row["type"] == "CallReturned")
    assert host.netloc in looked["data"]["output"], "it did look"
    assert "fatal: " in looked["data"]["output"], "its git has neither a network nor a credential"
    assert files_with(home, host.token) == []
