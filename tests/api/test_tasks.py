"""Tasks over HTTP: what is accepted is kept, once, and found again."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path
from typing import Any

from tests.api.daemons import DaemonProcess, serving

# No brain and no plan: such a task waits, and stays as it is.
IDLE = {"goal": "wait for somebody who thinks"}


def _playbook(directory: Path, *commands: str) -> dict[str, Any]:
    steps = [
        {"id": f"s{at}", "tool": "shell", "args": {"command": command}}
        for at, command in enumerate(commands)
    ]
    return {"goal": "run", "workspace": {"repo": str(directory)}, "plan": {"steps": steps}}


def test_a_submitted_task_is_there_and_is_driven(daemon: DaemonProcess) -> None:
    reply = daemon.ask("POST", "/v1/tasks", IDLE)
    task = reply.json()
    assert reply.status == 201
    assert reply.headers["location"] == f"/v1/tasks/{task['id']}"
    assert reply.headers["etag"] == '"1"'
    waits = daemon.wait_for(task["id"], "waiting")
    assert waits["reason"] == "brain"
    assert daemon.events(task["id"])[0]["data"]["submitted_by"] == "token:local"


def test_a_repetition_with_the_same_key_makes_one_task(daemon: DaemonProcess) -> None:
    headers = {"Idempotency-Key": "once"}
    first = daemon.ask("POST", "/v1/tasks", IDLE, headers)
    again = daemon.ask("POST", "/v1/tasks", IDLE, headers)
    assert (first.status, again.status) == (201, 201)
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["idempotency-replayed"] == "true"
    other = daemon.ask("POST", "/v1/tasks", {"goal": "another"}, headers)
    assert other.status == 422
    assert other.json()["type"] == "/problems/idempotency-mismatch"


def test_ten_at_once_with_one_key_make_one_task(daemon: DaemonProcess) -> None:
    found: list[str] = []

    def submit() -> None:
        found.append(daemon.submit(IDLE, Idempotency_Key="ten"))

    threads = [threading.Thread(target=submit) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 10 and len(set(found)) == 1


def test_prefer_wait_answers_when_the_task_has_come_to_rest(daemon: DaemonProcess) -> None:
    reply = daemon.ask("POST", "/v1/tasks", IDLE, {"Prefer": "respond-async, wait=20"})
    assert reply.json()["status"] == "waiting"
    assert reply.headers["preference-applied"] == "wait=20"
    assert reply.headers["etag"] == f'"{reply.json()["seq"]}"'


def test_of_a_batch_each_task_has_its_own_answer(daemon: DaemonProcess) -> None:
    tasks = [IDLE, {"goal": ""}, {**IDLE, "labels": {"n": "2"}}]
    headers = {"Idempotency-Key": "batch"}
    reply = daemon.ask("POST", "/v1/tasks:batch", {"tasks": tasks}, headers)
    items = reply.json()["items"]
    assert reply.status == 207
    assert [item["status"] for item in items] == [201, 422, 201]
    assert items[1]["problem"]["errors"][0]["pointer"] == "/goal"
    again = daemon.ask("POST", "/v1/tasks:batch", {"tasks": tasks}, headers).json()["items"]
    assert [item["status"] for item in again] == [200, 422, 200]
    assert again[0]["task"]["id"] == items[0]["task"]["id"]
    assert daemon.ask("POST", "/v1/tasks:batch", {"tasks": []}).status == 422


def test_pages_neither_skip_nor_repeat_while_tasks_arrive(daemon: DaemonProcess) -> None:
    there = [daemon.submit({**IDLE, "labels": {"page": "yes"}}) for _ in range(7)]
    seen: list[str] = []
    path = "/v1/tasks?limit=2&label=page%3Dyes"
    cursor = ""
    while True:
        page = daemon.ask("GET", f"{path}&cursor={cursor}").json()
        seen += [task["id"] for task in page["tasks"]]
        daemon.submit({**IDLE, "labels": {"page": "yes"}})
        if page["next_cursor"] is None:
            break
        cursor = page["next_cursor"]
    assert seen == there[::-1]


def test_lists_are_filtered_by_status_and_label(daemon: DaemonProcess) -> None:
    mine = daemon.submit({**IDLE, "labels": {"filter": "a"}})
    daemon.wait_for(mine, "waiting")
    found = daemon.ask("GET", "/v1/tasks?label=filter%3Da&status=waiting&status=failed").json()
    assert [task["id"] for task in found["tasks"]] == [mine]
    assert not daemon.ask("GET", "/v1/tasks?label=filter%3Da&status=failed").json()["tasks"]


def test_a_change_can_be_bound_to_what_was_seen(daemon: DaemonProcess) -> None:
    seen = daemon.idle()
    task_id = seen["id"]
    tag = {"If-None-Match": f'"{seen["seq"]}"'}
    assert daemon.ask("GET", f"/v1/tasks/{task_id}", headers=tag).status == 304
    stale = daemon.ask("POST", f"/v1/tasks/{task_id}/cancel", headers={"If-Match": '"1"'})
    assert stale.status == 412
    fresh = {"If-Match": f'"{seen["seq"]}"'}
    assert daemon.ask("POST", f"/v1/tasks/{task_id}/cancel", headers=fresh).status == 202
    daemon.wait_for(task_id, "cancelled")
    assert daemon.ask("POST", f"/v1/tasks/{task_id}/cancel").status == 409


def test_labels_and_priority_are_changed_until_the_task_ends(daemon: DaemonProcess) -> None:
    seen = daemon.idle()
    path = f"/v1/tasks/{seen['id']}"
    stale = {"If-Match": f'"{seen["seq"] - 1}"'}
    assert daemon.ask("PATCH", path, {"priority": 9}, stale).status == 412
    made = daemon.ask("PATCH", path, {"labels": {"team": "a"}, "priority": 9})
    task = made.json()
    assert (made.status, task["labels"], task["priority"]) == (200, {"team": "a"}, 9)
    assert made.headers["etag"] == f'"{task["seq"]}"' and task["seq"] == seen["seq"] + 1
    for nothing_new in ({}, {"priority": None}, {"labels": {"team": "a"}}):
        assert daemon.ask("PATCH", path, nothing_new).json()["seq"] == task["seq"]
    found = daemon.ask("GET", "/v1/tasks?label=team%3Da").json()["tasks"]
    assert [each["id"] for each in found] == [seen["id"]]
    last = daemon.events(seen["id"])[-1]
    told = {"by": "token:local", "labels": {"team": "a"}, "priority": 9}
    assert (last["type"], last["data"]) == ("TaskChanged", told)
    for wrong, pointer in (
        ({"priority": 10}, "/priority"),
        ({"labels": {"": "x"}}, "/labels/"),
        ({"goal": "x"}, "/goal"),
    ):
        refused = daemon.ask("PATCH", path, wrong)
        assert (refused.status, refused.json()["errors"][0]["pointer"]) == (422, pointer)
    daemon.ask("POST", f"{path}/cancel")
    daemon.wait_for(seen["id"], "cancelled")
    assert daemon.ask("PATCH", path, {"priority": 1}).status == 409


def test_a_wish_with_a_key_is_carried_out_once(daemon: DaemonProcess) -> None:
    """Whoever lost the answer asks again, with the same ETag, whatever has become of the task."""
    seen = daemon.idle()
    path = f"/v1/tasks/{seen['id']}"
    headers = {"Idempotency-Key": "told", "If-Match": f'"{seen["seq"]}"'}
    said = [daemon.ask("POST", f"{path}/steer", {"message": "go on"}, headers) for _ in range(3)]
    assert [each.status for each in said] == [202] * 3
    assert ["idempotency-replayed" in each.headers for each in said] == [False, True, True]
    other = daemon.ask("POST", f"{path}/steer", {"message": "stop"}, headers)
    assert (other.status, other.json()["type"]) == (422, "/problems/idempotency-mismatch")
    forks = [
        daemon.ask("POST", f"{path}/fork", {"at": 1}, {"Idempotency-Key": "forked"})
        for _ in range(2)
    ]
    assert [each.status for each in forks] == [201, 201]
    assert forks[0].json()["id"] == forks[1].json()["id"] != seen["id"]
    other = daemon.ask("POST", f"{path}/fork", {"at": 2}, {"Idempotency-Key": "forked"})
    assert other.status == 422
    daemon.ask("POST", f"{path}/cancel")
    daemon.wait_for(seen["id"], "cancelled")
    wish = {"message": "once more", "model": "client"}
    for _ in range(2):
        continued = daemon.ask("POST", f"{path}/continue", wish, {"Idempotency-Key": "again"})
        assert continued.status == 202, continued.body
    stored = [event["type"] for event in daemon.events(seen["id"])]
    assert (stored.count("Steered"), stored.count("Continued")) == (1, 1)


def test_forks_with_one_key_at_once_are_one(daemon: DaemonProcess) -> None:
    seen, made = daemon.idle(), list[str]()

    def fork() -> None:
        path, headers = f"/v1/tasks/{seen['id']}/fork", {"Idempotency-Key": "all-at-once"}
        made.append(daemon.ask("POST", path, {"at": 1}, headers).json()["id"])

    threads = [threading.Thread(target=fork) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8 and len(set(made)) == 1


def test_of_many_changes_bound_to_one_state_one_is_made(daemon: DaemonProcess) -> None:
    """RFC 9110, 13.1.1: If-Match is there so that nobody overwrites what he has not seen."""
    seen, answers = daemon.idle(), list[int]()

    def steer() -> None:
        path, tag = f"/v1/tasks/{seen['id']}/steer", {"If-Match": f'"{seen["seq"]}"'}
        answers.append(daemon.ask("POST", path, {"message": "go on"}, tag).status)

    threads = [threading.Thread(target=steer) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [202, *[412] * 23]


def test_a_repetition_is_answered_though_the_repository_has_gone(tmp_path: Path) -> None:
    """What was accepted is found by whoever lost the answer, whatever became of its files."""
    repo = tmp_path / "code" / "repo"
    repo.mkdir(parents=True)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(repo)]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "begin"]):
        subprocess.run([*git, *words], check=True)
    settings = {"AGENT_RUNTIME_WORKSPACE_ROOTS": f"{tmp_path}/code"}
    task = {"goal": "x", "workspace": {"repo": str(repo)}}
    with serving(tmp_path / "state", settings=settings) as daemon:
        first = daemon.ask("POST", "/v1/tasks", task, {"Idempotency-Key": "once"})
        assert first.status == 201, first.body
        repo.rename(tmp_path / "gone")
        again = daemon.ask("POST", "/v1/tasks", task, {"Idempotency-Key": "once"})
        assert (again.status, again.json()["id"]) == (201, first.json()["id"]), again.body
        assert daemon.ask("POST", "/v1/tasks", task, {"Idempotency-Key": "new"}).status == 422


def test_only_an_ended_task_is_forgotten(daemon: DaemonProcess) -> None:
    task_id = daemon.submit(IDLE)
    daemon.wait_for(task_id, "waiting")
    assert daemon.ask("DELETE", f"/v1/tasks/{task_id}").status == 409
    daemon.ask("POST", f"/v1/tasks/{task_id}/cancel")
    daemon.wait_for(task_id, "cancelled")
    assert daemon.ask("DELETE", f"/v1/tasks/{task_id}").status == 204
    assert daemon.ask("GET", f"/v1/tasks/{task_id}").status == 404


def test_repositories_outside_of_the_roots_are_forbidden(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    """To keys. The local token's holder could read them without a daemon, and nothing was said."""
    made = daemon.ask("POST", "/v1/keys", {"name": "roots", "role": "operator"}).json()["secret"]
    for repo in (str(tmp_path), "relative/path", "/", "/etc/../root"):
        reply = daemon.ask(
            "POST", "/v1/tasks", {"goal": "x", "workspace": {"repo": repo}}, token=made
        )
        assert reply.status == 403, reply.body
        assert "workspace_roots" in reply.json()["detail"]
