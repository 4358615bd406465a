"""What waits for a person, and what a person's answer may say."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.daemons import DaemonProcess, serving

PLUGIN = Path(__file__).parents[1] / "crash" / "plugin"


@pytest.fixture(scope="module")
def paying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A daemon with tools that change something outside."""
    directory = tmp_path_factory.mktemp("paying")
    settings = {
        "AGENT_RUNTIME_PLUGINS": "outside-effects",
        "PYTHONPATH": os.pathsep.join([str(PLUGIN), os.environ.get("PYTHONPATH", "")]),
        "OUTSIDE_EFFECTS": str(directory / "effects.txt"),
    }
    with serving(directory / "state", settings=settings) as daemon:
        yield daemon


def asking(daemon: DaemonProcess, *, calls: int = 2) -> tuple[str, dict[str, Any]]:
    """A task whose calls are asked about, and what it asks first."""
    steps = [{"id": f"s{n}", "tool": "put_again"} for n in range(calls)]
    for before, step in itertools.pairwise(steps):
        step["needs"] = [before["id"]]  # type: ignore[assignment]
    policy = {"tools": ["put_again"], "approvals": {"put_again": "ask"}}
    task_id = daemon.submit({"goal": "pay", "plan": {"steps": steps}, "policy": policy})
    deadline = time.monotonic() + 30
    while True:
        waiting = daemon.ask("GET", "/v1/approvals").json()["approvals"]
        if mine := [each for each in waiting if each["task_id"] == task_id]:
            return task_id, mine[0]
        assert time.monotonic() < deadline, daemon.events(task_id)
        time.sleep(0.02)


def test_a_yes_for_the_task_is_asked_for_once(paying: DaemonProcess) -> None:
    task_id, asked = asking(paying)
    path = f"/v1/approvals/{asked['id']}/decide"
    reply = paying.ask("POST", path, {"decision": "approve", "scope": "task"})
    assert reply.status == 200, reply.body
    paying.wait_for(task_id, "unverified", "succeeded")
    events = paying.events(task_id)
    assert [e["type"] for e in events].count("ApprovalRequested") == 1
    assert [e["type"] for e in events].count("CallReturned") == 2
    assert paying.ask("POST", path, {"decision": "approve"}).status in (404, 409)


def test_arguments_that_do_not_fit_are_pointed_at_and_decide_nothing(
    paying: DaemonProcess,
) -> None:
    task_id, asked = asking(paying, calls=1)
    path = f"/v1/approvals/{asked['id']}/decide"
    for body in (
        {"decision": "approve", "arguments": {"nonsense": 1}},
        {"decision": "deny", "scope": "task"},
        {"decision": "perhaps"},
    ):
        assert paying.ask("POST", path, body).status == 422
    told = paying.ask("POST", path, {"decision": "approve", "arguments": {"nonsense": 1}}).json()
    assert told["errors"][0]["pointer"] == "/arguments"
    told = paying.ask("POST", path, {"decision": "aprove"}).json()
    words = "Invalid enum value 'aprove': must be one of 'approve', 'deny'; did you mean 'approve'?"
    assert told["errors"] == [{"pointer": "/decision", "detail": words}]
    assert paying.ask("GET", "/v1/approvals").json()["approvals"]
    assert paying.ask("POST", path, {"decision": "deny", "message": "no"}).status == 200
    paying.wait_for(task_id, "failed")
