"""What is served is what is documented, and nobody without credentials gets further than probes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.api.daemons import DaemonProcess

OPEN = {"/livez", "/readyz", "/openapi.json"}
CONFIG = Path(__file__).with_name("schemathesis.toml")


def _attack(daemon: DaemonProcess, seconds: int, *options: str) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"),
            *(f"http://127.0.0.1:{daemon.port}/openapi.json", "--no-color"),
            *("--continue-on-failure", "--max-time", str(seconds), *options),
        ],
        cwd=daemon.directory,
        capture_output=True,
        text=True,
        timeout=seconds + 120,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    assert "Tested: " in done.stdout and "Coverage" in done.stdout


@pytest.mark.long
def test_schemathesis_finds_nothing_with_credentials(daemon: DaemonProcess) -> None:
    """All checks, all phases."""
    bearer = f"Authorization: Bearer {daemon.token}"
    _attack(daemon, 90, "-H", bearer, "-n", "40")


@pytest.mark.long
def test_schemathesis_finds_nothing_without_credentials(daemon: DaemonProcess) -> None:
    _attack(daemon, 30, "-n", "20")


def test_without_credentials_only_the_probes_and_the_document_are_reached(
    daemon: DaemonProcess,
) -> None:
    document = daemon.ask("GET", "/openapi.json", token=None).json()
    asked = 0
    for path, methods in document["paths"].items():
        for method, entry in methods.items():
            place = path.replace("{task_id}", "task_x").replace("{", "").replace("}", "")
            reply = daemon.ask(method.upper(), place, token=None)
            assert (reply.status == 401) == (path not in OPEN), (method, path, reply.status)
            assert bool(entry["security"]) == (path not in OPEN)
            asked += 1
    assert asked >= 30
    assert daemon.ask("GET", "/nothing/here", token=None).status == 401


def test_every_error_is_a_problem_that_names_the_way_out(daemon: DaemonProcess) -> None:
    for reply, status in (
        (daemon.ask("GET", "/v1/nothing"), 404),
        (daemon.ask("PUT", "/v1/tasks"), 405),
        (daemon.ask("POST", "/v1/tasks", b"{", {"Content-Type": "application/json"}), 400),
        (daemon.ask("POST", "/v1/tasks", b"{}", {"Content-Type": "text/plain"}), 415),
        (daemon.ask("POST", "/v1/tasks", b"[" * 100_000), 400),
        (daemon.ask("POST", "/v1/tasks", b'{"goal": "\xff"}'), 400),
        (daemon.ask("GET", "/v1/tasks?limit=1&limit=2"), 422),
        (daemon.ask("GET", "/v1/tasks?limit=x"), 422),
        (daemon.ask("GET", "/v1/tasks?colour=red"), 422),
        (daemon.ask("GET", "/v1/tasks/task_0"), 404),
        (daemon.ask("POST", "/v1/tasks", b"x" * (2 << 20)), 413),
    ):
        assert reply.status == status, reply.body
        assert reply.headers["content-type"] == "application/problem+json"
        told = reply.json()
        assert told["status"] == status and told["detail"] and told["title"] and told["type"]


def test_what_is_wrong_with_a_task_is_pointed_at(daemon: DaemonProcess) -> None:
    steps = [{"id": "a", "tool": "shel", "args": {}}]
    reply = daemon.ask("POST", "/v1/tasks", {"goal": "x", "plan": {"steps": steps}})
    assert reply.status == 422
    assert [fault["pointer"] for fault in reply.json()["errors"]] == ["/plan/steps/0"]
    assert "did you mean 'shell'" in reply.json()["errors"][0]["detail"]
    reply = daemon.ask("POST", "/v1/tasks", {"goal": " ", "labels": {"a/b": "x" * 99}, "gaol": 1})
    assert [fault["pointer"] for fault in reply.json()["errors"]] == [
        "/gaol", "/goal", "/labels/a~1b",
    ]  # fmt: skip


def test_an_unknown_key_of_a_body_is_pointed_at(daemon: DaemonProcess) -> None:
    body = {"at": 1, "replace": {"answer": {"m/n": 1}}}
    for sent, path, pointer in (
        ({"name": "x", "rol": "admin"}, "/v1/keys", "/rol"),
        (body, "/v1/tasks/task_1/fork", "/replace/answer/m~1n"),
    ):
        [fault] = daemon.ask("POST", path, sent).json()["errors"]
        assert fault["pointer"] == pointer


def test_one_operation_of_each_kind_is_documented_with_its_scope(daemon: DaemonProcess) -> None:
    document = daemon.ask("GET", "/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    submit = document["paths"]["/v1/tasks"]["post"]
    assert submit["security"] == [{"bearer": ["tasks:write"]}]
    assert set(submit["responses"]) >= {"201", "400", "401", "403", "413", "415", "422", "429"}
    assert "problem+json" in str(submit["responses"]["422"])
