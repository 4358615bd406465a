"""docs/http.md: its operations, figures and commands are those of a daemon."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_runtime.access.callers import SCOPES
from agent_runtime.api.routes import OPERATIONS
from tests.api.daemons import DaemonProcess, serving

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    directory = tmp_path_factory.mktemp("home")
    (directory / "code").mkdir()
    settings = {"AGENT_RUNTIME_WORKSPACE_ROOTS": str(directory / "code")}
    with serving(directory / "state", settings=settings) as running:
        yield running


def test_every_operation_is_listed_with_its_scope() -> None:
    rows = re.findall(r"^\| `([A-Z]+ /\S*)` \| `?([a-z:]+)`? \| (.*) \|$", TEXT, re.MULTILINE)
    assert rows == [
        (f"{each.method} {each.path}", each.scope or "none", each.summary.rstrip("."))
        for each in OPERATIONS
    ]


def test_every_scope_is_told_as_the_code_has_it() -> None:
    text = (ROOT / "docs" / "access.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z]+:[a-z]+)` \| ([^|]*) \|", text, re.MULTILINE))
    assert rows == SCOPES


def test_every_figure_is_listed(daemon: DaemonProcess) -> None:
    told = set(re.findall(r"^\| `(agent_runtime_\w+)", TEXT, re.MULTILINE))
    body = daemon.ask("GET", "/metrics").body.decode()
    types = re.findall(r"^# TYPE (agent_runtime_\w+) ", body, re.MULTILINE)
    assert told == {name for name in types if not name.endswith("_created")}


def test_an_operation_is_refused_to_whoever_lacks_its_scope_alone(daemon: DaemonProcess) -> None:
    """With every other scope, and with the name of the one that is missing."""
    wanted = {each.scope for each in OPERATIONS if each.scope}
    keys = {}
    for scope in wanted:
        wish = {"name": scope.replace(":", "-"), "scopes": sorted(set(SCOPES) - {scope})}
        keys[scope] = daemon.ask("POST", "/v1/keys", wish).json()["secret"]
    for each in OPERATIONS:
        if each.scope:
            path = re.sub(r"\{\w+\}", "task_x", each.path)
            reply = daemon.ask(each.method, path, token=keys[each.scope])
            assert reply.status == 403, (each.name, reply.body)
            assert repr(each.scope) in reply.json()["detail"]


def test_a_key_gives_nothing_away_that_it_has_not(daemon: DaemonProcess) -> None:
    """Who may name addresses is not who may read tasks, or make them."""
    wish = {"name": "plumber", "scopes": ["tools:admin"]}
    secret = daemon.ask("POST", "/v1/keys", wish).json()["secret"]
    for path, body, scope in (
        ("/v1/webhooks", {"url": "https://example.org/"}, "tasks:read"),
        ("/v1/hooks", {"name": "x", "scheme": "standard", "task": {"goal": "x"}}, "tasks:write"),
    ):
        reply = daemon.ask("POST", path, body, token=secret)
        assert (reply.status, scope in reply.json()["detail"]) == (403, True), reply.body
    made = daemon.ask("POST", "/v1/webhooks", {"url": "https://example.org/"}).json()["webhook"]
    reply = daemon.ask("PATCH", f"/v1/webhooks/{made['id']}", {"types": []}, token=secret)
    assert reply.status == 403, reply.body
    [entry] = daemon.ask("GET", "/v1/audit?action=webhook.create").json()["entries"]
    assert (entry["by"], entry["target"]) == ("token:local", made["id"])


def test_the_commands_of_the_docs_lead_to_a_verified_patch(daemon: DaemonProcess) -> None:
    """What a new user types, word for word but for the address and the token's place."""
    home = daemon.directory.parent
    repo = home / "code" / "app"
    repo.mkdir()
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(repo)]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "begin"]):
        subprocess.run([*git, *words], check=True)
    script = "set -e\n" + "\n".join(
        re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    )
    for there, here in (
        ("http://127.0.0.1:8700", f"http://127.0.0.1:{daemon.port}"),
        ("~/.local/state/agent-runtime/token", str(daemon.directory / "token")),
    ):
        assert there in script
        script = script.replace(there, here)
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "HOME": str(home)},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"status":"succeeded"' in done.stdout
    assert "+++ b/hello.txt" in done.stdout
    watched = (home / "watched").read_text(encoding="utf-8")
    assert re.findall(r"^event: (\w+)$", watched, re.MULTILINE) == [
        "ApprovalRequested",
        "TaskEnded",
    ]
