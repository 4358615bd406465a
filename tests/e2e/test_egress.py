"""A task that may reach one host: its calls do, its checks do not, and what left is on record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import CommandLine, playbook
from tests.sandboxes.web import ADDRESS, serving

FETCH = """import urllib.request
text = urllib.request.urlopen("{url}").read().decode()
print(text)"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/hello").write_text("hello from outside", encoding="utf-8")
    return tmp_path / "site"


def test_shell_and_python_reach_what_the_task_allows_and_nothing_else(
    cli: CommandLine, repo: Path, site: Path
) -> None:
    """DESIGN 5: calls that reach the network are never repeated; each connection is on record."""
    with serving(site) as (_, port):
        url = f"http://{ADDRESS}:{port}/hello"
        get = f"python -c 'import urllib.request as u; print(u.urlopen(\"{url}\").read())'"
        other = get.replace(f":{port}", ":1")
        task = playbook(
            repo,
            [
                {"id": "by_shell", "tool": "shell", "args": {"command": get}},
                {
                    "id": "by_python",
                    "tool": "python",
                    "args": {"code": FETCH.format(url=url)},
                    "expect": {"contains": "hello from outside"},
                },
                {
                    "id": "other",
                    "tool": "shell",
                    "args": {"command": other},
                    "expect": {"exit": 1, "contains": "not allowed by policy.egress"},
                },
            ],
            policy={"network": "restricted", "egress": [f"{ADDRESS}:{port}"]},
        )
        task["objectives"] = [
            {"id": "offline", "check": {"command": f"{get} && exit 1 || exit 0"}},
        ]
        code, lines = cli.run(task)
    result = lines[-1]
    assert (code, result["status"]) == (0, "succeeded"), lines
    intended = [line["data"] for line in lines if line.get("type") == "CallIntended"]
    assert [call["effect"] for call in intended] == ["once"] * 3
    record = cli.home / "state" / "results" / result["task_id"] / "egress.jsonl"
    told = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    assert [line["kind"] for line in told] == ["opened", "closed"] * 2 + ["refused"]
