"""A real daemon: requests of other programs become tasks, and others hear of events, also of those
before it was killed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook as Oracle

from agent_runtime.notices.records import Hook
from agent_runtime.notices.signing import fault_of_request
from tests.api.daemons import DaemonProcess, Reply, serving
from tests.notices.ears import Ear, listening, told_through

CANARY = "canary-0123456789abcdef"


@pytest.fixture(scope="module")
def ear() -> Iterator[Ear]:
    with listening() as heard:
        yield heard


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, ear: Ear) -> Iterator[DaemonProcess]:
    settings = {
        "AGENT_RUNTIME_LOG_FORMAT": "json",
        "AGENT_RUNTIME_WEBHOOK_ALLOW": f"127.0.0.1:{ear.server_address[1]}",
    }
    with serving(tmp_path_factory.mktemp("daemon") / "state", settings=settings) as running:
        yield running


def make(daemon: DaemonProcess, name: str, scheme: str, **more: Any) -> tuple[str, str]:
    """Its path and its secret."""
    task = {"goal": "Look at {{ payload.title }}", "labels": {"from": "{{ hook.name }}"}}
    wish = {"name": name, "scheme": scheme, "task": task, **more}
    reply = daemon.ask("POST", "/v1/hooks", wish)
    assert reply.status == 201, reply.body
    made = reply.json()
    assert reply.headers["location"] == f"/v1/hooks/{made['hook']['id']}"
    return made["hook"]["path"], made["secret"]


def send(daemon: DaemonProcess, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
    sent = {"Content-Type": "application/json", **headers}
    return daemon.ask("POST", path, body, sent, token=None)


def hexed(secret: str, body: bytes) -> str:
    return hmac.digest(secret.encode(), body, "sha256").hex()


BODY = json.dumps({"title": "the roof", "n": 10**11}).encode()


def test_github_makes_one_task_for_a_delivery_however_often_it_comes(
    daemon: DaemonProcess,
) -> None:
    path, secret = make(daemon, "hub", "github")
    headers = {
        "X-Hub-Signature-256": f"sha256={hexed(secret, BODY)}", "X-GitHub-Delivery": "one",
        "X-GitHub-Event": "issues",
    }  # fmt: skip
    first = send(daemon, path, BODY, headers)
    assert (first.status, first.json()["status"]) == (202, "accepted")
    task_id = first.json()["task_id"]
    again = send(daemon, path, BODY, headers)
    assert (again.status, again.json()["status"]) == (200, "repeated")
    assert again.json()["task_id"] == task_id
    task = daemon.ask("GET", f"/v1/tasks/{task_id}").json()
    assert task["goal"] == "Look at the roof" and task["labels"] == {"from": "hub"}
    assert daemon.events(task_id)[0]["data"]["submitted_by"] == "hook:hub"
    other = send(daemon, path, BODY, {**headers, "X-GitHub-Delivery": "two"})
    assert other.status == 202 and other.json()["task_id"] != task_id
    ping = send(daemon, path, BODY, {**headers, "X-GitHub-Event": "ping"})
    assert (ping.status, ping.json()["status"]) == (200, "ignored")


def test_the_other_schemes_and_the_official_library(daemon: DaemonProcess) -> None:
    path, secret = make(daemon, "lab", "gitlab", secret=CANARY)
    assert secret == CANARY
    assert send(daemon, path, BODY, {"X-Gitlab-Token": CANARY}).status == 202
    path, secret = make(daemon, "plain", "hmac", header="x-mine", delivery_header="x-number")
    digest = hmac.digest(secret.encode(), BODY, "sha256")
    for at, form in enumerate((digest.hex(), base64.b64encode(digest).decode())):
        assert send(daemon, path, BODY, {"X-Mine": form, "X-Number": str(at)}).status == 202
    path, secret = make(daemon, "standard", "standard")
    for seconds, status in ((0, 202), (-400, 401), (400, 401)):
        at = int(time.time()) + seconds
        moment = datetime.fromtimestamp(at, UTC)
        signed = Oracle(secret).sign(f"msg_{at}", moment, BODY.decode())
        headers = {
            "webhook-id": f"msg_{at}", "webhook-timestamp": str(at),
            "webhook-signature": f"v1,bm9uZQ== {signed}",
        }  # fmt: skip
        assert send(daemon, path, BODY, headers).status == status


def test_a_rotated_secret_counts_at_once_and_the_one_before_it_for_a_day(
    daemon: DaemonProcess,
) -> None:
    path, first = make(daemon, "turning", "hmac")
    hook_id = path.rpartition("/")[2]

    def status(secret: str, number: str) -> int:
        signed = {"x-signature-256": hexed(secret, BODY), "X-Request-Id": number}
        return send(daemon, path, BODY, signed).status

    reply = daemon.ask("POST", f"/v1/hooks/{hook_id}/rotate")
    assert reply.status == 200 and reply.headers["cache-control"] == "no-store"
    second = reply.json()["secret"]
    assert [status(first, "1"), status(second, "2")] == [202, 202]
    third = daemon.ask("POST", f"/v1/hooks/{hook_id}/rotate").json()["secret"]
    assert [status(first, "3"), status(second, "4"), status(third, "5")] == [401, 202, 202]
    hook = Hook(
        hook_id="h", name="h", scheme="hmac", secret=third, task={}, made_at_us=0, made_by="me",
        old_secret=second, old_until_us=86_400_000_000,
    )  # fmt: skip
    signed = {"x-signature-256": hexed(second, BODY)}
    assert fault_of_request(hook, signed, BODY, 86_399) == ""
    assert "no signature" in fault_of_request(hook, signed, BODY, 86_400)


def test_a_hook_that_names_a_forbidden_directory_is_not_made(daemon: DaemonProcess) -> None:
    """Found as a user: it was made, and only its sender heard that it never makes a task."""
    task = {"goal": "g", "workspace": {"repo": "/etc"}}
    wish = {"name": "outside", "scheme": "hmac", "task": task}
    refused = daemon.ask("POST", "/v1/hooks", wish)
    assert refused.status == 403 and "workspace_roots" in refused.json()["detail"]
    task["workspace"] = {"repo": "{{ payload.repo }}"}
    assert daemon.ask("POST", "/v1/hooks", wish).status == 201


def test_a_hook_that_could_make_no_task_is_not_made(daemon: DaemonProcess) -> None:
    """Found as a user: a misspelt key was told to the sender, once for each delivery."""
    task = {
        "gaol": "{{ payload.x }}",
        "priority": "{{ payload.p }}",
        "workspace": "{{ payload.w }}",
    }
    told = daemon.ask("POST", "/v1/hooks", {"name": "gaol", "scheme": "hmac", "task": task})
    assert told.status == 422
    assert [each["pointer"] for each in told.json()["errors"]] == ["/task/gaol", "/task/goal"]
    assert "did you mean 'goal'?" in told.json()["detail"]


def test_what_is_not_signed_learns_nothing(daemon: DaemonProcess) -> None:
    path, secret = make(daemon, "closed", "github")
    header = "X-Hub-Signature-256"
    good = f"sha256={hexed(secret, BODY)}"
    replies = [
        send(daemon, path, BODY, {}),
        send(daemon, path, BODY + b" ", {header: good}),
        send(daemon, path, BODY, {header: good[:-1]}),
        send(daemon, path, BODY, {header: "sha256=é"}),
        send(daemon, path, BODY, {header: f"sha256={hexed('', BODY)}"}),
        send(daemon, "/hooks/hk_none", BODY, {header: good}),
        send(daemon, "/hooks/hk_none", b"", {}),
        daemon.ask("POST", path, BODY, {"Content-Type": "application/json"}),
    ]
    assert {reply.status for reply in replies} == {401}
    assert len({reply.body for reply in replies}) == 1
    assert send(daemon, path, b"x" * (2 << 20), {header: good}).status == 413
    hook_id = path.rpartition("/")[2]
    daemon.ask("PATCH", f"/v1/hooks/{hook_id}", {"enabled": False})
    assert send(daemon, path, BODY, {header: good}).status == 401


def test_filters_choose_and_a_bomb_harms_nobody(daemon: DaemonProcess) -> None:
    path, secret = make(
        daemon, "bomb", "github", filters=["payload.action == 'go'", "headers['x-a'] == '1'"],
        task={"goal": "{{ 'x' * payload.n }}"},
    )  # fmt: skip

    def told(body: dict[str, Any]) -> Reply:
        raw = json.dumps(body).encode()
        headers = {"X-Hub-Signature-256": f"sha256={hexed(secret, raw)}", "X-A": "1"}
        return send(daemon, path, raw, headers)

    assert told({"action": "stop"}).json()["status"] == "ignored"
    bomb = told({"action": "go", "n": 10**11})
    assert bomb.status == 422 and "too large" in bomb.json()["detail"]
    assert told({"action": "go"}).status == 422, "a name that is not there is told"
    assert told({"action": "go", "n": 3}).status == 202
    assert daemon.ask("GET", "/readyz").status == 200


def test_what_a_sender_writes_is_no_template_of_the_plan(daemon: DaemonProcess) -> None:
    task = {
        "goal": "x",
        "plan": {
            "steps": [
                {"id": "a", "tool": "shell", "args": {"command": "echo {{ payload.x | quote }}"}},
                {
                    "id": "b",
                    "tool": "shell",
                    "args": {"command": "echo {{ steps.a.output }}"},
                    "needs": ["a"],
                },
            ]
        },
    }
    path, _ = make(daemon, "plan", "github", task=task)
    hook_id = path.rpartition("/")[2]
    trial = {"payload": {"x": "{{ 7 * 7 }}"}}
    tried = daemon.ask("POST", f"/v1/hooks/{hook_id}/try", trial)
    assert tried.status == 200, tried.body
    steps = tried.json()["task"]["plan"]["steps"]
    assert steps[0]["args"]["command"] == "{% raw %}echo '{{ 7 * 7 }}'{% endraw %}"
    assert steps[1]["args"]["command"] == "echo {{ steps.a.output }}"


@pytest.mark.parametrize(
    ("wish", "pointer"),
    [
        ({"task": {"goal": "{{ payload.a }} {{ steps.x }}"}}, "/task/goal"),
        ({"task": {"goal": "{{ payload.a | nothing }}"}}, "/task/goal"),
        ({"filters": ["payload."]}, "/filters/0"),
        ({"filters": ["{{ payload.a }}"]}, "/filters/0"),
        ({"secret": "short"}, "/secret"),
    ],
)
def test_a_wrong_hook_is_refused_with_the_place(
    daemon: DaemonProcess, wish: dict[str, Any], pointer: str
) -> None:
    whole = {"name": "wrong", "scheme": "github", "task": {"goal": "x"}, **wish}
    reply = daemon.ask("POST", "/v1/hooks", whole)
    assert reply.status == 422
    assert [each["pointer"] for each in reply.json()["errors"]] == [pointer]


def test_secrets_are_told_once_and_never_logged(daemon: DaemonProcess) -> None:
    """JSON logs, and planted canaries in them."""
    hook = {"name": "canary", "scheme": "gitlab", "secret": CANARY, "task": {"goal": "x"}}
    assert daemon.ask("POST", "/v1/hooks", hook).json()["secret"] == CANARY
    assert daemon.ask("POST", "/v1/hooks", hook).status == 409
    webhook = {"url": "https://nowhere.invalid/x", "types": ["failed"]}
    made = daemon.ask("POST", "/v1/webhooks", webhook)
    secret = made.json()["secret"]
    assert made.status == 201 and secret.startswith("whsec_")
    listed = b"".join(
        daemon.ask("GET", path).body for path in ("/v1/hooks", "/v1/webhooks", "/metrics")
    )
    refused = daemon.ask("POST", "/v1/webhooks", {"url": f"https://u:{CANARY}@x.example/"})
    assert refused.status == 422 and refused.json()["errors"][0]["pointer"] == "/url"
    assert b"agent_runtime_deliveries_total" in listed and b"deliveries_pending" in listed
    lines = [line for line in daemon.log.splitlines() if line.startswith("{")]
    assert lines and all(
        {"at", "level", "logger", "message"} <= json.loads(x).keys() for x in lines
    )
    for text in (listed.decode(), daemon.log, refused.body.decode()):
        assert CANARY not in text and secret not in text


def test_the_inbox_says_what_waits_and_what_to_do(daemon: DaemonProcess) -> None:
    task_id = daemon.submit({"goal": "think"})
    daemon.wait_for(task_id, "waiting")
    items = daemon.ask("GET", "/v1/inbox?limit=500").json()["items"]
    [item] = [each for each in items if each["task_id"] == task_id]
    assert item["kind"] == "brain" and item["answers"][0]["words"][0] == "resume"
    done = item["answers"][-1]
    assert daemon.ask("POST", done["path"], done["body"]).status == 202
    daemon.wait_for(task_id, "cancelled")
    left = daemon.ask("GET", "/v1/inbox?limit=500").json()["items"]
    assert task_id not in [each["task_id"] for each in left]


def test_an_unknown_digest_is_not_the_body_of_a_delivery_twice() -> None:
    """Where nobody names a delivery, the body does."""
    from agent_runtime.notices.records import Hook
    from agent_runtime.notices.signing import delivery_of

    hook = Hook(
        hook_id="hk_1", name="x", scheme="github", secret="s", task={}, made_at_us=0, made_by=""
    )
    assert delivery_of(hook, {}, b"a") == f"sha256:{hashlib.sha256(b'a').hexdigest()}"
    assert delivery_of(hook, {"x-github-delivery": "y"}, b"a") == "y"
    assert len(delivery_of(hook, {"x-github-delivery": "y" * 9999}, b"a")) < 100


@pytest.mark.long
def test_what_happened_is_told_after_a_kill(daemon: DaemonProcess, ear: Ear) -> None:
    """At least once, each with its own id, and nothing twice that was written down."""
    told_through(daemon, ear, tasks=6, kills=1, seed=1)


@pytest.mark.long
def test_what_happened_is_told_after_thirty_kills(tmp_path: Path) -> None:
    with listening() as ear:
        settings = {"AGENT_RUNTIME_WEBHOOK_ALLOW": f"127.0.0.1:{ear.server_address[1]}"}
        with serving(tmp_path / "state", settings=settings) as daemon:
            told_through(daemon, ear, tasks=15, kills=30, seed=2)
