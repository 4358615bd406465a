"""Following tasks: contiguous, from any number, across restarts; SSE, JSON and WebSocket."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect as connect_websocket

from tests.api.daemons import DaemonProcess, Frame, frames, serving
from tests.api.test_tasks import IDLE

CHOSEN = "Steered,TaskEnded"


def follow(
    daemon: DaemonProcess, path: str, *, last_id: str = ""
) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    connection = daemon.connect()
    headers = {"Authorization": f"Bearer {daemon.token}", "Accept": "text/event-stream"}
    if last_id:
        headers["Last-Event-ID"] = last_id
    connection.request("GET", path, headers=headers)
    return connection, connection.getresponse()


def ended_task(daemon: DaemonProcess) -> str:
    task_id = daemon.submit(IDLE)
    daemon.wait_for(task_id, "waiting")
    daemon.ask("POST", f"/v1/tasks/{task_id}/cancel")
    daemon.wait_for(task_id, "cancelled")
    return task_id


def test_a_stream_has_every_event_once_and_ends_with_the_task(daemon: DaemonProcess) -> None:
    task_id = daemon.submit(IDLE)
    connection, answer = follow(daemon, f"/v1/tasks/{task_id}/events")
    assert answer.getheader("content-type") == "text/event-stream; charset=utf-8"
    seen: list[Frame] = []
    for frame in frames(answer):
        seen.append(frame)
        if frame.event == "Interrupted":
            daemon.ask("POST", f"/v1/tasks/{task_id}/cancel")
    connection.close()
    assert [int(frame.id) for frame in seen] == list(range(1, len(seen) + 1))
    assert [frame.json() for frame in seen] == daemon.events(task_id)
    assert seen[-1].event == "TaskEnded"


def test_a_reader_goes_on_behind_the_last_event_that_it_saw(daemon: DaemonProcess) -> None:
    task_id = ended_task(daemon)
    newest = len(daemon.events(task_id))
    connection, answer = follow(daemon, f"/v1/tasks/{task_id}/events", last_id="3")
    assert [int(frame.id) for frame in frames(answer)] == list(range(4, newest + 1))
    connection.close()
    connection, answer = follow(daemon, f"/v1/tasks/{task_id}/events", last_id=str(newest))
    assert answer.status == 204  # a browser stops asking
    connection.close()
    connection, answer = follow(daemon, f"/v1/tasks/{task_id}/events", last_id=str(newest + 1))
    assert answer.status == 422
    connection.close()


def test_types_and_snapshot_choose_what_is_sent(daemon: DaemonProcess) -> None:
    task_id = ended_task(daemon)
    connection, answer = follow(daemon, f"/v1/tasks/{task_id}/events?types=TaskEnded,LeaseTaken")
    assert [frame.event for frame in frames(answer)] == ["LeaseTaken", "LeaseTaken", "TaskEnded"]
    connection.close()
    connection, answer = follow(daemon, f"/v1/tasks/{task_id}/events?snapshot=true")
    snapshot, *rest = frames(answer)
    assert (snapshot.event, rest) == ("snapshot", [])
    assert snapshot.json()["status"] == "cancelled"
    connection.close()
    assert daemon.ask("GET", f"/v1/tasks/{task_id}/events?types=Nonsense").status == 422


def test_json_pages_have_the_same_events(daemon: DaemonProcess) -> None:
    task_id = ended_task(daemon)
    read: list[Any] = []
    after = 0
    while True:
        page = daemon.ask("GET", f"/v1/tasks/{task_id}/events?limit=5&after={after}").json()
        if not page["events"]:
            break
        read += page["events"]
        after = page["next"]
    assert read == daemon.events(task_id)


def test_all_tasks_are_followed_in_the_order_of_their_commits(daemon: DaemonProcess) -> None:
    before = daemon.ask("GET", "/v1/events?limit=500").json()["next"]
    while (page := daemon.ask("GET", f"/v1/events?limit=500&after={before}").json())["events"]:
        before = page["next"]
    connection, answer = follow(daemon, f"/v1/events?after={before}")
    tasks = [daemon.submit(IDLE) for _ in range(3)]
    for task_id in tasks:
        daemon.wait_for(task_id, "waiting")
    wanted = sum(len(daemon.events(task_id)) for task_id in tasks)
    seen = list(islice(frames(answer), wanted))
    connection.close()
    positions = [int(frame.id) for frame in seen]
    assert positions == sorted(set(positions))
    for task_id in tasks:
        of_task = [frame.json() for frame in seen if frame.json()["task_id"] == task_id]
        assert of_task == daemon.events(task_id)


@pytest.mark.long
def test_a_reader_loses_nothing_when_the_server_is_killed(tmp_path: Path) -> None:
    with serving(tmp_path / "state") as daemon:
        task_id = daemon.submit(IDLE)
        daemon.wait_for(task_id, "waiting")
        seen: list[int] = []
        for turn in range(3):
            connection, answer = follow(
                daemon, f"/v1/tasks/{task_id}/events", last_id=str(seen[-1]) if seen else ""
            )
            newest = len(daemon.events(task_id))
            for frame in frames(answer):
                seen.append(int(frame.id))
                if len(seen) == newest:
                    break
            daemon.ask("POST", f"/v1/tasks/{task_id}/steer", {"message": f"turn {turn}"})
            daemon.kill()
            connection.close()
            daemon.start()
        daemon.ask("POST", f"/v1/tasks/{task_id}/cancel")
        connection, answer = follow(daemon, f"/v1/tasks/{task_id}/events", last_id=str(seen[-1]))
        seen += [int(frame.id) for frame in frames(answer)]
        connection.close()
        assert seen == list(range(1, len(daemon.events(task_id)) + 1))


def test_a_websocket_shows_events_and_takes_what_a_person_says(daemon: DaemonProcess) -> None:
    task_id = daemon.submit(IDLE)
    daemon.wait_for(task_id, "waiting")
    url = f"ws://127.0.0.1:{daemon.port}/v1/tasks/{task_id}/attach"
    seen: list[int] = []
    answers: dict[Any, Any] = {}
    with connect_websocket(
        url, additional_headers={"Authorization": f"Bearer {daemon.token}"}
    ) as line:
        line.send(json.dumps({"type": "steer", "id": 1, "message": "be quick"}))
        line.send("no json")
        line.send(json.dumps({"type": "approve", "id": 2}))
        line.send(json.dumps({"type": "steer", "id": 4}))
        line.send(json.dumps({"type": "cancel", "id": 3, "message": "enough"}))
        for text in line:
            said = json.loads(text)
            if said["type"] == "event":
                seen.append(said["event"]["seq"])
            else:
                answers[said["id"]] = said
    assert line.close_code == 1000
    assert seen == list(range(1, len(daemon.events(task_id)) + 1))
    assert answers[1]["type"] == answers[3]["type"] == "done"
    assert answers[None]["problem"]["status"] == 422
    assert answers[2]["problem"]["status"] == 404
    assert answers[4]["problem"]["errors"] == [{"pointer": "/message", "detail": "is empty"}]
    # Whoever has seen the end is not kept waiting for more.
    authorized = {"Authorization": f"Bearer {daemon.token}"}
    with connect_websocket(f"{url}?after={seen[-1]}", additional_headers=authorized) as line:
        assert list(line) == []
    steered = [e["data"] for e in daemon.events(task_id) if e["type"] == "Steered"]
    assert [(each["by"], each["message"]) for each in steered] == [("token:local", "be quick")]


def test_readers_who_are_told_at_once_who_choose_and_who_are_slow_see_the_same(
    daemon: DaemonProcess,
) -> None:
    """Who has seen everything is written to by the pump; all others by a task of their own."""
    task_id = str(daemon.idle()["id"])
    path = f"/v1/tasks/{task_id}/events"
    steers, readers = 70, {"at once": path, "slow": path, "choosing": f"{path}?types={CHOSEN}"}
    opened = {name: follow(daemon, where, last_id="1") for name, where in readers.items()}
    opened["slow"][0].sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    seen: dict[str, list[Frame]] = {}

    def read(name: str) -> None:
        seen[name] = list(frames(opened[name][1]))

    threads = {name: threading.Thread(target=read, args=[name]) for name in readers}
    threads["at once"].start()
    threads["choosing"].start()
    for number in range(steers):  # more than all buffers on the way take
        body = {"message": f"{number} " + "x" * 90_000}
        assert daemon.ask("POST", f"/v1/tasks/{task_id}/steer", body).status == 202
    daemon.ask("POST", f"/v1/tasks/{task_id}/cancel")
    daemon.wait_for(task_id, "cancelled")
    threads["slow"].start()
    for name, thread in threads.items():
        thread.join(40)
        opened[name][0].close()
    logged = daemon.events(task_id)[1:]
    assert [frame.json() for frame in seen["at once"]] == logged
    assert [frame.json() for frame in seen["slow"]] == logged
    chosen = [event for event in logged if event["type"] in CHOSEN.split(",")]
    assert len(chosen) > steers
    assert [frame.json() for frame in seen["choosing"]] == chosen


BEHIND = {
    "no request": b"\x00 nonsense\r\n\r\n",
    "a WebSocket": b"GET /v1/tasks/x/attach HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
}


def head_of_stream(daemon: DaemonProcess, task_id: str) -> bytes:
    return (
        f"GET /v1/tasks/{task_id}/events HTTP/1.1\r\nHost: localhost\r\n"
        f"Accept: text/event-stream\r\nAuthorization: Bearer {daemon.token}\r\n\r\n"
    ).encode()


def read_until(sock: socket.socket, wanted: bytes) -> bytes:
    read = b""
    while wanted not in read:
        part = sock.recv(1 << 16)
        assert part, read[-500:]
        read += part
    return read


@pytest.mark.parametrize("name", BEHIND)
def test_what_stands_behind_a_stream_does_not_get_into_it(daemon: DaemonProcess, name: str) -> None:
    """A refusal was written into it and its side of the line closed; the pump ended with that."""
    task_id = str(daemon.idle()["id"])
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=20) as sock:
        sock.sendall(head_of_stream(daemon, task_id))
        read_until(sock, b"event: Interrupted")
        sock.sendall(BEHIND[name])
        for word in ("first", "second"):
            body = {"message": word}
            assert daemon.ask("POST", f"/v1/tasks/{task_id}/steer", body).status == 202
            assert b"HTTP/1.1" not in read_until(sock, f'"message":"{word}"'.encode())
        daemon.ask("POST", f"/v1/tasks/{task_id}/cancel")
        read = read_until(sock, b"0\r\n\r\n")
        assert b"event: TaskEnded" in read
        assert sock.recv(1) == b"", "nothing more is answered"


def open_streams(daemon: DaemonProcess) -> float:
    lines = daemon.ask("GET", "/metrics").body.decode().splitlines()
    return next(
        float(line.split()[1]) for line in lines if line.startswith("agent_runtime_streams")
    )


def test_a_stream_ends_with_its_client_also_when_another_request_stands_behind_it(
    daemon: DaemonProcess,
) -> None:
    """Only the newest request of a connection heard of its end; the first wrote on, to nobody."""
    task_id = str(daemon.idle()["id"])
    before = open_streams(daemon)
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=20) as sock:
        # A reset: an orderly end is not seen, as nothing is read while a request waits its turn.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.sendall(2 * head_of_stream(daemon, task_id))
        read_until(sock, b"event: Interrupted")
        assert open_streams(daemon) == before + 1
    deadline = time.monotonic() + 20
    number = 0
    while open_streams(daemon) != before:
        number += 1
        body = {"message": f"are you there? {number}"}
        assert daemon.ask("POST", f"/v1/tasks/{task_id}/steer", body).status == 202
        assert time.monotonic() < deadline
    assert "Traceback" not in daemon.log
