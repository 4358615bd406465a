"""A plain request goes past ASGI; nobody can tell by the answer which way it went."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.api.daemons import DaemonProcess

LONG = "X-Any: thing"
"""A header that is not known to need no closer look: such a request goes the long way."""

TASK = json.dumps({"goal": "be taken in", "labels": {"team": "a"}})
KEY = "Idempotency-Key"


class Line:
    """One connection; `ask` gives the next answer."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._read = b""

    def ask(self, *parts: bytes) -> tuple[int, dict[str, str], bytes]:
        for at, part in enumerate(parts):
            if at:
                time.sleep(0.05)  # that it is a segment of its own
            self.sock.sendall(part)
        return self.answer()

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        while b"\r\n\r\n" not in self._read:
            self._more()
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        assert first.startswith("HTTP/1.1 ")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        assert len(headers) == len(lines), "a header came twice"
        length = int(headers.get("content-length", "0"))
        while len(self._read) < length:
            self._more()
        body, self._read = self._read[:length], self._read[length:]
        return int(first.split()[1]), headers, body

    def ended(self) -> bool:
        return not self._read and not self.sock.recv(1)

    def _more(self) -> None:
        part = self.sock.recv(65_536)
        assert part, f"the server closed after {self._read!r}"
        self._read += part


@contextmanager
def line(daemon: DaemonProcess) -> Iterator[Line]:
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=20) as sock:
        yield Line(sock)


def request(
    daemon: DaemonProcess, method: str, path: str, body: str = "", *fields: str, token: str = ""
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    if token != "none":
        lines.append(f"Authorization: Bearer {token or daemon.token}")
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body.encode())}"]
    return "\r\n".join((*lines, *fields, "", body)).encode()


def shape(value: Any) -> Any:
    """What does not differ between two runs of the same request."""
    text = re.sub(r"task_[0-9a-f]{32}", "TASK", json.dumps(value))
    return json.loads(re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", text))


ASKED: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "a task": ("POST", "/v1/tasks", TASK, ()),
    "a task with a key that is none": ("POST", "/v1/tasks", TASK, (f"{KEY}: a b",)),
    "a task and a wait": ("POST", "/v1/tasks", TASK, ("Prefer: wait=0",)),
    "a wrong task": ("POST", "/v1/tasks", '{"goal": "", "priority": 12}', ()),
    "no JSON": ("POST", "/v1/tasks", '{"goal"', ()),
    "no body": ("POST", "/v1/tasks", "", ()),
    "another media type": ("POST", "/v1/tasks?", TASK, ()),
    "a batch": ("POST", "/v1/tasks:batch", f'{{"tasks": [{TASK}, {{"goal": ""}}]}}', ()),
    "a list": ("GET", "/v1/tasks?limit=2&status=failed", "", ()),
    "a wrong query": ("GET", "/v1/tasks?limit=0", "", ()),
    "a query twice": ("GET", "/v1/tasks?limit=1&limit=2", "", ()),
    "a key in the query": ("GET", "/v1/tasks?access_token=x", "", ()),
    "a task that is not there": ("GET", "/v1/tasks/task_" + "0" * 32, "", ()),
    "a path that is not there": ("GET", "/v1/nothing", "", ()),
    "a method that it does not take": ("DELETE", "/v1/tasks", "", ()),
    "a decoded path": ("GET", "/v1/t%61sks?limit=1&status=failed", "", ()),
    "a change of nothing": ("PATCH", "/v1/tasks/task_" + "0" * 32, '{"priority": 2}', ()),
    "who may ask": ("GET", "/v1/keys", "", ()),
    "a probe": ("GET", "/livez", "", ()),
    "approvals": ("GET", "/v1/approvals", "", ()),
}


@pytest.mark.parametrize("name", ASKED)
def test_both_ways_give_the_same_answer(daemon: DaemonProcess, name: str) -> None:
    method, path, body, fields = ASKED[name]
    answers = []
    with line(daemon) as one:
        for more in ((), (LONG,)):
            status, headers, told = one.ask(request(daemon, method, path, body, *fields, *more))
            headers.pop("date")
            answers.append((status, shape(headers), shape(json.loads(told)) if told else None))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("token", ["none", "ark_local_" + "0" * 43, "ark_x_" + "0" * 20, "x y"])
def test_strangers_are_refused_alike(daemon: DaemonProcess, token: str) -> None:
    with line(daemon) as one:
        wish = request(daemon, "POST", "/v1/tasks", TASK, token=token)
        status, headers, told = one.ask(wish)
    assert status == 401 and "bearer" in headers["www-authenticate"]
    assert json.loads(told)["status"] == 401


@pytest.mark.parametrize("odd", ["{} ", "{}\t", "0000000000000000000{}"])
def test_an_odd_length_is_refused_on_both_ways(daemon: DaemonProcess, odd: str) -> None:
    """RFC 9112, 6.3: a proxy could see another end of this body."""
    length = f"Content-Length: {len(TASK)}"
    for more in ((), (LONG,)):
        wish = request(daemon, "POST", "/v1/tasks", TASK, *more).decode()
        with line(daemon) as one:
            one.ask(request(daemon, "GET", "/v1/inbox"))  # the host and the token are known now
            odd_one = wish.replace(length, f"Content-Length: {odd.format(len(TASK))}")
            status, headers, _ = one.ask(odd_one.encode())
        assert (status, headers["connection"]) == (400, "close")


def test_a_body_may_come_behind_its_head_or_in_parts(daemon: DaemonProcess) -> None:
    with line(daemon) as one:
        head, _, body = request(daemon, "POST", "/v1/tasks", TASK).partition(b"\r\n\r\n")
        for parts in (
            (head + b"\r\n\r\n", body),
            (head + b"\r\n\r\n" + body[:5], body[5:9], body[9:]),
            (head[:30], head[30:] + b"\r\n\r\n" + body),
        ):
            assert one.ask(*parts)[0] == 201


def test_a_body_that_takes_its_time_is_awaited(daemon: DaemonProcess) -> None:
    wish = request(daemon, "POST", "/v1/tasks", TASK)
    with line(daemon) as one:
        one.sock.sendall(wish[:-5])
        time.sleep(0.4)  # longer than a plain request may take to come
        assert one.ask(wish[-5:])[0] == 201
        assert one.ask(wish)[0] == 201, "the connection is still good"


def test_requests_behind_each_other_are_answered_in_their_order(daemon: DaemonProcess) -> None:
    with line(daemon) as one:
        wishes = [
            request(daemon, "POST", "/v1/tasks", TASK, "Prefer: wait=0"),
            request(daemon, "GET", "/v1/tasks?limit=0"),
            request(daemon, "POST", "/v1/tasks", TASK),
            request(daemon, "GET", "/v1/tasks?limit=1", "", LONG),
            request(daemon, "POST", "/v1/tasks", TASK),
        ]
        one.sock.sendall(b"".join(wishes))
        assert [one.answer()[0] for _ in wishes] == [201, 422, 201, 200, 201]


def test_a_websocket_may_follow_a_plain_request(daemon: DaemonProcess) -> None:
    """A proxy keeps its connections, and takes any of them for the next request."""
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    with line(daemon) as one:
        one.ask(request(daemon, "GET", "/v1/inbox"))
        task = json.loads(one.ask(request(daemon, "POST", "/v1/tasks", TASK))[2])["id"]
        path = f"/v1/tasks/{task}/attach"
        key = f"Sec-WebSocket-Key: {'A' * 22}=="
        assert one.ask(request(daemon, "GET", path, "", *upgrade, key))[0] == 101


def test_a_repeated_key_gives_the_same_task_whichever_way(daemon: DaemonProcess) -> None:
    with line(daemon) as one:
        told = [
            one.ask(request(daemon, "POST", "/v1/tasks", TASK, f"{KEY}: both-ways", *more))
            for more in ((), (), (LONG,))
        ]
        other = one.ask(request(daemon, "POST", "/v1/tasks", '{"goal": "x"}', f"{KEY}: both-ways"))
    assert len({json.loads(body)["id"] for _, _, body in told}) == 1
    assert ["idempotency-replayed" in headers for _, headers, _ in told] == [False, True, True]
    assert other[0] == 422


def test_whoever_wants_the_connection_closed_gets_that(daemon: DaemonProcess) -> None:
    with line(daemon) as one:
        status, headers, _ = one.ask(
            request(daemon, "POST", "/v1/tasks", TASK, "Connection: close")
        )
        assert (status, headers["connection"]) == (201, "close")
        assert one.ended()


def test_a_task_is_kept_whose_submitter_has_gone(daemon: DaemonProcess) -> None:
    with line(daemon) as one:
        one.sock.sendall(request(daemon, "POST", "/v1/tasks", TASK, f"{KEY}: gone"))
    again = daemon.ask("POST", "/v1/tasks", json.loads(TASK), headers={KEY: "gone"})
    assert again.status == 201
    assert daemon.ask("GET", "/livez", token=None).status == 200


def test_plain_requests_are_counted_as_others_are(daemon: DaemonProcess) -> None:
    def counted(status: int) -> float:
        text = daemon.ask("GET", "/metrics").body.decode()
        name = f'_http_requests_total{{method="GET",route="list_inbox",status="{status}"}}'
        return next((float(row.split()[1]) for row in text.splitlines() if name in row), 0.0)

    before = counted(200)
    with line(daemon) as one:
        for more in ((), (LONG,)):
            assert one.ask(request(daemon, "GET", "/v1/inbox", "", *more))[0] == 200
    assert counted(200) == before + 2


def test_a_rate_holds_on_both_ways(daemon: DaemonProcess) -> None:
    wish = {"name": "slow", "role": "viewer", "rate": 0.01, "burst": 3}
    secret = daemon.ask("POST", "/v1/keys", wish).json()["secret"]
    with line(daemon) as one:
        ask: Callable[..., int] = lambda *more: one.ask(  # noqa: E731
            request(daemon, "GET", "/v1/inbox", "", *more, token=secret)
        )[0]
        assert [ask(), ask(LONG), ask(), ask(), ask(LONG)] == [200, 200, 200, 429, 429]


def test_what_a_key_does_not_hold_is_refused_on_both_ways(daemon: DaemonProcess) -> None:
    wish = {"name": "looks", "role": "viewer"}
    secret = daemon.ask("POST", "/v1/keys", wish).json()["secret"]
    with line(daemon) as one:
        for more in ((), (LONG,)):
            told = one.ask(request(daemon, "POST", "/v1/tasks", TASK, *more, token=secret))
            assert told[0] == 403
