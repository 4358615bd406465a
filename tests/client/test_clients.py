"""Both clients on a real daemon."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import anyio
import pytest

from agent_runtime.access import token
from agent_runtime.api.presence import daemon_file, find_daemon, find_daemons
from agent_runtime.client import AsyncClient, Client, Event, connect
from agent_runtime.client.views import SETTLED
from agent_runtime.errors import (
    Conflict,
    DeadlineExceeded,
    Forbidden,
    IdempotencyMismatch,
    NotFound,
    Unauthenticated,
    Unreachable,
    UsageError,
)
from agent_runtime.taskfile import parse_task
from agent_runtime.types import ContinuationSpec
from tests.api.daemons import DaemonProcess
from tests.cli.helpers import Cli
from tests.client.daemon import IDLE, place_of, shell_task, state_of
from tests.client.test_restarts import follow_through

DOCS = Path(__file__).parents[2] / "docs" / "client.md"


def home_of(daemon: DaemonProcess) -> Path:
    return daemon.directory.parents[1]


def test_a_task_from_its_submission_to_its_patch(daemon: DaemonProcess, client: Client) -> None:
    document = shell_task(
        home_of(daemon) / "repo", "echo more > more.txt", "cat calc.py", artifacts=["calc.py"]
    )
    task = client.submit(parse_task(document, base_dir="/"))
    events = list(client.events(task.id))
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert events[0].fields["spec"]["goal"] == "Run commands"
    done = client.wait(task.id)
    assert (done.status, done.seq) == ("succeeded", events[-1].seq)
    assert client.log(task.id) == events
    assert [e.type for e in client.events(task.id, types=["TaskConcluded"])] == ["TaskConcluded"]
    assert list(client.events(task.id, after=done.seq)) == []
    page = client.event_page(task.id, after=2, limit=3)
    assert page.events == events[2:5] and page.next == 5

    assert b"more.txt" in client.diff(task.id)
    assert client.verify(task.id).ok and client.replay(task.id).ok
    assert [step.status for step in client.plan(task.id).steps] == ["done", "done"]
    assert client.cost(task.id).usage.steps == 2
    assert client.certificate(task.id)["log"]["seq"] == done.seq
    assert "more.txt" in client.report(task.id)
    kept = client.artifacts(task.id).artifacts
    assert [client.artifact(task.id, each.path)[:7] for each in kept] == [b"def add"]

    again = client.continue_task(
        task.id, ContinuationSpec(objectives=parse_task(document, base_dir="/").objectives)
    )
    assert again.seq > done.seq
    # What ended before it was continued is no end.
    assert list(client.events(task.id, after=done.seq - 1))[-1].seq > again.seq
    fork = client.fork(task.id, at=1)
    assert fork.id != task.id
    with pytest.raises(Conflict):
        client.cancel(task.id)
    client.wait(task.id)
    client.forget(task.id)
    with pytest.raises(NotFound):
        client.get(task.id)


def test_people_s_wishes_and_lists(client: Client) -> None:
    key = "one-" + os.urandom(4).hex()
    task = client.submit(IDLE, idempotency_key=key, wait_seconds=20)
    assert task.status == "waiting"
    assert client.submit(IDLE, idempotency_key=key).id == task.id
    with pytest.raises(IdempotencyMismatch):
        client.submit({"goal": "Another"}, idempotency_key=key)
    with pytest.raises(UsageError) as wrong:
        client.submit({"goal": "x", "limits": {"stepps": 1}})
    assert [fault.pointer for fault in wrong.value.faults] == ["/limits/stepps"]
    settled = client.wait(task.id, settled=True)
    assert settled.status in SETTLED
    with pytest.raises(DeadlineExceeded):
        client.wait(task.id, seconds=0.2)

    changed = client.change(task.id, labels={"set": key}, priority=8)
    assert (changed.labels, changed.priority) == ({"set": key}, 8)
    assert client.change(task.id, labels={}, seq=changed.seq).labels == {}
    told = client.steer(task.id, "Think of a song.")
    with pytest.raises(Conflict):
        client.steer(task.id, "Or of a poem.", seq=told.seq - 1)
    assert client.pause(task.id).status == "paused"
    assert client.resume(task.id).status != "paused"
    assert client.approvals() == []
    [waits] = [item for item in client.inbox().items if item.task_id == task.id]
    assert waits.kind == "brain" and waits.answers[-1].path.endswith("/cancel")
    with pytest.raises(NotFound):
        client.approve(f"{task.id}.a1")

    batch = client.submit_all([{"goal": f"Idea {n}", "labels": {"set": key}} for n in range(5)])
    ids = [item.task.id for item in batch if item.task is not None]
    listed = [each.id for each in client.tasks(labels={"set": key}, page_size=2)]
    assert listed == sorted(ids, reverse=True) and len(ids) == 5
    refused = client.submit_all([{"goal": ""}])[0].problem
    assert refused is not None and "goal" in refused.detail

    position = client.request("GET", "/v1/events?limit=1")["next"]
    [first] = [event for event, _ in zip(client.all_events(after=position), [1], strict=False)]
    assert first.position is not None and first.position > position
    for each in (task.id, *ids):
        client.cancel(each, "enough")
    assert {client.wait(each).status for each in (task.id, *ids)} == {"cancelled"}
    assert [t.status for t in client.tasks(statuses=["cancelled"], labels={"set": key})]


def test_the_installation_and_who_may_ask(daemon: DaemonProcess, client: Client) -> None:
    assert client.livez().status == "ok" and client.ready()
    assert "shell" in {tool.name for tool in client.tools()}
    assert "knowledge" in {module.name for module in client.modules()}
    assert client.models().brain in ("none", "model", "client")
    assert "agent_runtime" in client.metrics() and client.openapi()["openapi"].startswith("3.1")
    made = client.create_key("reader", role="viewer")
    assert client.key(made.key.id).name == "reader" and client.keys().keys
    with Client(place_of(daemon).url, made.secret) as reader:
        assert reader.page(limit=1) is not None
        with pytest.raises(Forbidden, match="tasks:write"):
            reader.submit(IDLE)
        client.revoke_key(made.key.id)
        with pytest.raises(Unauthenticated, match="AGENT_RUNTIME_TOKEN"):
            reader.page()
    assert any(entry.key_id or entry.by for entry in client.audit(limit=5).entries)


def test_webhooks_out_and_in(client: Client) -> None:
    made = client.create_webhook("https://nowhere.invalid/x", types=["failed"])
    webhook_id = made.webhook.id
    assert webhook_id in {each.id for each in client.webhooks()}
    changed = client.change_webhook(webhook_id, labels={"a": "b"})
    assert (changed.types, changed.labels) == (["failed"], {"a": "b"})
    assert client.rotate_webhook(webhook_id).secret != made.secret
    ping = client.ping_webhook(webhook_id)
    assert ping.id in {each.id for each in client.deliveries(webhook_id).deliveries}
    assert client.redeliver(webhook_id, ping.id).id == ping.id
    assert client.disable_webhook(webhook_id).enabled is False
    with pytest.raises(Conflict):
        client.ping_webhook(webhook_id)
    assert client.enable_webhook(webhook_id).enabled
    client.delete_webhook(webhook_id)
    with pytest.raises(NotFound):
        client.webhook(webhook_id)

    task = {"goal": "Look at {{ payload.title }}"}
    hook = client.create_hook("roofs", "gitlab", task, filters=["payload.title != ''"])
    hook_id, sent = hook.hook.id, b'{"title": "the roof"}'
    assert [each.id for each in client.hooks()] == [hook_id]
    assert client.try_hook(hook_id, {"title": "x"}).task == {"goal": "Look at x"}
    taken = [client.call_hook(hook_id, sent, {"X-Gitlab-Token": hook.secret}) for _ in range(2)]
    assert [each.status for each in taken] == ["accepted", "repeated"]
    assert taken[0].task_id is not None and taken[0].task_id == taken[1].task_id
    assert client.get(taken[0].task_id).goal == "Look at the roof"
    client.cancel(taken[0].task_id)
    with pytest.raises(Unauthenticated, match="not signed"):
        client.call_hook(hook_id, sent, {"X-Gitlab-Token": "wrong"})
    assert client.rotate_hook(hook_id).secret != hook.secret
    assert client.change_hook(hook_id, enabled=False).enabled is client.hook(hook_id).enabled
    client.delete_hook(hook_id)
    assert client.hooks() == []
    with pytest.raises(UsageError, match="id"):
        client.hook("")


def test_an_event_loop_has_the_same(daemon: DaemonProcess) -> None:
    async def main() -> None:
        async with AsyncClient(place_of(daemon)) as client:
            task = await client.submit(shell_task(home_of(daemon) / "repo", "true"))
            idle = await client.submit(IDLE, wait_seconds=20)
            seen: list[int] = []

            async def follow() -> None:
                async for event in client.watch(task.id):
                    assert isinstance(event, Event)
                    seen.append(event.seq)

            async with anyio.create_task_group() as tg:
                tg.start_soon(follow)
                with pytest.raises(DeadlineExceeded):
                    await client.wait(idle.id, seconds=0.2)
                assert (await client.wait(task.id, seconds=60)).status == "succeeded"
            assert seen == list(range(1, len(seen) + 1))
            assert (await client.log(task.id))[-1].seq == seen[-1]
            assert [each.id async for each in client.tasks(page_size=1)][:2] == [idle.id, task.id]
            await client.cancel(idle.id)
            assert (await client.wait(idle.id, settled=True, seconds=60)).status == "cancelled"
            with pytest.raises(NotFound):
                await client.get("task_" + "0" * 32)
        async with AsyncClient("http://127.0.0.1:1", "x", patience_seconds=0) as nobody:
            with pytest.raises(Unreachable):
                await nobody.livez()

    anyio.run(main)


def test_a_token_that_was_changed_is_not_noticed(daemon: DaemonProcess, client: Client) -> None:
    """`keys rotate-token` beside a program that lives for long."""
    task = client.submit(IDLE)
    following = client.events(task.id)
    assert next(following).seq == 1
    token.rotate(str(daemon.directory))
    assert client.get(task.id).id == task.id
    client.cancel(task.id)
    assert [event.seq for event in following][-1] == client.wait(task.id).seq


def test_the_command_line_asks_the_daemon(daemon: DaemonProcess) -> None:
    """The rest of it is in tests/cli/test_daemon.py."""
    cli = Cli(home_of(daemon), {"AGENT_RUNTIME_TOKEN": daemon.token})
    done = cli("--url", place_of(daemon).url, "submit", "Think", "--repo", "repo", "--wait")
    assert done.code == 9 and "waiting: brain" in done.err, done
    listed = cli("ps", "--status", "waiting", "--json").json()
    assert listed[0]["id"] == done.out.strip() and "daemon" in listed[0]["owner"]
    done = cli("change", listed[0]["id"], "--label", "a=b", "--label", "c=d", "--priority", "7")
    assert done.out.endswith("priority 7, labels a=b, c=d\n"), done
    assert cli("change", listed[0]["id"], "--remove", "a").out.endswith("labels c=d\n")
    assert cli("change", listed[0]["id"]).code == 2


# ---- finding it --------------------------------------------------------------------------


def test_a_daemon_is_found_by_argument_environment_or_state_file(
    daemon: DaemonProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AGENT_RUNTIME_URL", "AGENT_RUNTIME_TOKEN", "AGENT_RUNTIME_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(home_of(daemon) / "state"))
    with connect() as client:
        assert client.place.token == daemon.token and client.page(limit=1) is not None
    # Its own token goes to it by any name that leads there, and to nobody else.
    assert connect(place_of(daemon).url).place.token == daemon.token
    assert connect("http://127.0.0.1:1").place.token is None
    monkeypatch.setenv("AGENT_RUNTIME_URL", "https://agents.example.org/base")
    monkeypatch.setenv("AGENT_RUNTIME_TOKEN", "ark_x_y")
    place = connect().place
    assert (place.parts.path, place.token) == ("/base", "ark_x_y") and "ark_x_y" not in repr(place)
    assert connect(state_dir=str(daemon.directory)).place.state_dir == str(daemon.directory)
    with pytest.raises(Unreachable, match="agent-runtime serve"):
        connect(state_dir=str(tmp_path))
    for url in ("127.0.0.1:8700", "ftp://x", "http://u:p@x", "http://x:99999"):
        with pytest.raises(UsageError, match="must look like"):
            connect(url)


def test_a_key_goes_to_another_machine_in_the_clear_only_where_that_is_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("AGENT_RUNTIME_URL", "AGENT_RUNTIME_TOKEN", "AGENT_RUNTIME_PLAIN_HTTP"):
        monkeypatch.delenv(name, raising=False)
    far = "http://agents.example.org:8700"
    for refused in (far, "http://10.0.0.7", "http://localhost.example.org", "http://[fe80::1]"):
        for make in (Client, AsyncClient, lambda url, token: connect(url, token=token)):
            with pytest.raises(UsageError, match="AGENT_RUNTIME_PLAIN_HTTP=1"):
                make(refused, "ark_x_y")
    assert Client(far).place.token is None
    near = ("https://10.0.0.7", "http://127.0.0.9", "http://[::1]:1", "http://a.localhost")
    assert [Client(url, "ark_x_y").place.url for url in near] == list(near)
    monkeypatch.setenv("AGENT_RUNTIME_PLAIN_HTTP", "1")
    assert Client(far, "ark_x_y").place.token == "ark_x_y"


def test_only_who_looks_at_an_address_where_nobody_is_learns_it_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Found as a user: `--url` with a wrong port took four seconds to say so."""

    class Waited(Exception):
        pass

    def wait(seconds: float) -> None:
        raise Waited

    monkeypatch.setattr("agent_runtime.client.blocking_wire.time.sleep", wait)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with Client(url) as client, pytest.raises(Waited):
            client.get("task_1")
        with Client(url) as client:
            client.hasty = True
            with pytest.raises(Unreachable, match="refused"):
                client.get("task_1")
            with pytest.raises(Unreachable, match="refused"):
                next(client.events("task_1"))
            with pytest.raises(Waited):
                client.submit(parse_task({"goal": "handed off"}, base_dir="/"))
        with Client(url) as client:
            client.hasty = True
            taken.listen()
            answers = threading.Thread(target=_answer_once, args=(taken,))
            answers.start()
            with pytest.raises(NotFound):
                client.get("task_1")
            answers.join()
            taken.close()
            with pytest.raises(Waited):  # it is being started anew
                client.get("task_1")


def _answer_once(listening: socket.socket) -> None:
    connection, _ = listening.accept()
    with connection:
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}")


def test_who_looks_for_a_daemon_is_not_taken_for_one(tmp_path: Path) -> None:
    """Of two who looked at a stale file at once, one saw the other's lock."""
    with daemon_file(str(tmp_path), "http://127.0.0.1:1"):
        assert find_daemon(str(tmp_path)) is not None
        left = (tmp_path / "daemon.json").read_bytes()
    (tmp_path / "daemon.json").write_bytes(left)
    looks = (
        f"from agent_runtime.api.presence import find_daemon; print(find_daemon({str(tmp_path)!r}))"
    )
    holds = "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_SH)"
    said = subprocess.run(
        [sys.executable, "-c", f"{holds}\n{looks}", str(tmp_path / "daemon.json")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.strip() == "None"


def test_a_daemon_is_found_again_when_a_later_one_on_its_store_has_gone(tmp_path: Path) -> None:
    """Found as a user: the later one took the file with it, and the earlier one was not found."""
    held = "from agent_runtime.api.presence import daemon_file\n" + (
        f"with daemon_file({str(tmp_path)!r}, 'http://127.0.0.1:2'): print(1, flush=True); input()"
    )

    def found() -> str | None:
        presence = find_daemon(str(tmp_path))
        return presence and presence.address

    with daemon_file(str(tmp_path), "http://127.0.0.1:1"):
        for is_killed in (False, True):
            with subprocess.Popen(
                [sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            ) as later:
                assert later.stdout is not None and later.stdout.readline() == b"1\n"
                assert found() == "http://127.0.0.1:2"
                assert {each.address for each in find_daemons(str(tmp_path))} == {
                    "http://127.0.0.1:1", "http://127.0.0.1:2",
                }  # fmt: skip
                if is_killed:
                    later.kill()
                else:
                    later.communicate(b"\n")
            assert found() == "http://127.0.0.1:1"
    assert found() is None
    with daemon_file(str(tmp_path), "http://127.0.0.1:3"):
        assert found() == "http://127.0.0.1:3"
    assert list(tmp_path.iterdir()) == []


def test_importing_the_client_brings_no_server_and_no_event_loop() -> None:
    script = "import sys, agent_runtime.client; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True
    )
    heavy = {"anyio", "apsw", "asyncio", "httpx2", "pydantic", "starlette", "uvicorn", "yaml"}
    assert heavy.isdisjoint(done.stdout.split())


@pytest.mark.parametrize("at", range(3))
def test_the_examples_of_the_docs_run(
    at: int,
    daemon: DaemonProcess,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """docs/client.md is what people copy."""
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 3
    monkeypatch.setenv("XDG_STATE_HOME", str(home_of(daemon) / "state"))
    for name in ("AGENT_RUNTIME_URL", "AGENT_RUNTIME_TOKEN", "AGENT_RUNTIME_STORE"):
        monkeypatch.delenv(name, raising=False)
    assert state_of(home_of(daemon)) == daemon.directory
    exec(compile(blocks[at], str(DOCS), "exec"), {"repo": str(home_of(daemon) / "repo")})
    said = capsys.readouterr().out
    assert ("succeeded True", "it has moved on\ncancelled", "Idea 0")[at] in said


@pytest.mark.long
def test_a_reader_does_not_notice_that_the_daemon_was_killed(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    """The short form of tests/client/test_restarts.py; the last one, for the daemon moves."""
    follow_through(daemon, ["server"], tmp_path / "seen")
