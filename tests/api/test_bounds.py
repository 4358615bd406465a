"""A daemon says no in time, and says when to come back: bounds of the daemon, and of a key."""

from collections.abc import Iterator

import pytest

from tests.api.daemons import DaemonProcess, serving

TASK = {"goal": "wait for somebody who thinks"}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    settings = {"AGENT_RUNTIME_PENDING_TASKS_MAX": "3"}
    with serving(tmp_path_factory.mktemp("daemon") / "state", settings=settings) as running:
        yield running


def test_more_tasks_than_may_wait_are_refused_as_a_whole_with_a_time(daemon: DaemonProcess) -> None:
    """503 with Retry-After, before memory grows."""
    refused = daemon.ask("POST", "/v1/tasks:batch", {"tasks": [TASK] * 4})
    assert (refused.status, refused.headers["retry-after"]) == (503, "10")
    assert refused.json()["type"] == "/problems/overloaded"
    assert "pending_tasks_max" in refused.json()["detail"]
    assert daemon.ask("GET", "/v1/tasks").json()["tasks"] == []


def test_what_is_refused_takes_nobodys_place(daemon: DaemonProcess) -> None:
    """A caller's mistakes, and repetitions, are no tasks that wait."""
    wrong = {"goal": "x", "plan": {"steps": [{"id": "a", "tool": "no_such_tool"}]}}
    for body in (wrong, b"{", {"goal": 1}, wrong):
        assert daemon.ask("POST", "/v1/tasks", body).status in (400, 422)
    refused = daemon.ask("POST", "/v1/tasks:batch", {"tasks": [wrong] * 3})
    assert [item["status"] for item in refused.json()["items"]] == [422] * 3
    for _ in range(4):
        kept = daemon.ask("POST", "/v1/tasks", TASK, {"Idempotency-Key": "one"})
        assert kept.status == 201, kept.body
    assert "wait to be driven" not in daemon.log, "a line for each refusal is a stranger's to cause"
    daemon.wait_for(kept.json()["id"], "waiting")


def test_a_key_whose_day_is_used_up_is_told_when_the_next_begins(daemon: DaemonProcess) -> None:
    made = daemon.ask("POST", "/v1/keys", {"name": "ci", "role": "operator", "tasks_day": 1})
    assert made.status == 201, made.body
    secret = made.json()["secret"]
    once = {"Idempotency-Key": "1"}
    first = daemon.ask("POST", "/v1/tasks", TASK, once, token=secret)
    assert first.status == 201, first.body
    refused = daemon.ask("POST", "/v1/tasks", TASK, token=secret)
    assert refused.status == 429, refused.body
    assert refused.json()["type"] == "/problems/allowance-spent"
    assert 0 < int(refused.headers["retry-after"]) <= 86_400
    # Whoever lost the answer asks again, and it was the day's last.
    again = daemon.ask("POST", "/v1/tasks", TASK, once, token=secret)
    assert (again.status, again.json()["id"]) == (201, first.json()["id"]), again.body
    batch = daemon.ask("POST", "/v1/tasks:batch", {"tasks": [TASK]}, token=secret)
    assert batch.status == 429
    [mine] = daemon.ask("GET", "/v1/tasks?submitted_by=key:ci").json()["tasks"]
    assert mine["id"] == first.json()["id"]
    assert daemon.ask("GET", "/v1/tasks?submitted_by=key:none").json()["tasks"] == []
