"""Clients that nobody wants: slow, huge, malformed, many. Others are served meanwhile."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agent_runtime.api.protocol import HEAD_BYTES_MAX, HEAD_SECONDS_MAX
from tests.api.daemons import DaemonProcess


@contextmanager
def line(daemon: DaemonProcess) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=30) as sock:
        yield sock


def answer(sock: socket.socket) -> bytes:
    """Everything until the server closes, or says a whole answer."""
    read = b""
    while True:
        try:
            part = sock.recv(65_536)
        except ConnectionResetError:
            return read
        if not part:
            return read
        read += part


def said(daemon: DaemonProcess, data: bytes) -> bytes:
    with line(daemon) as sock:
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return answer(sock)


HEAD = b"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\n"

SMUGGLED = {
    "two lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
    "length and chunks": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "no number": HEAD + b"Content-Length: +5\r\n\r\n{}",
    "odd encoding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "space before colon": HEAD + b"Content-Length : 5\r\n\r\n{}",
    "folded header": HEAD + b"X-A: b\r\n c: d\r\n\r\n",
    "line feeds alone": b"GET /livez HTTP/1.1\nHost: localhost\n\n",
    "no protocol": b"GET /v1/tasks\r\n\r\n",
    "another protocol": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a bad chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\nxx\r\n",
}


@pytest.mark.parametrize("name", SMUGGLED)
def test_heads_that_two_servers_would_read_differently_are_refused(
    daemon: DaemonProcess, name: str
) -> None:
    read = said(daemon, SMUGGLED[name])
    assert read.startswith((b"HTTP/1.1 400", b"HTTP/1.1 401", b"HTTP/1.1 421")) or not read, read
    assert read.count(b"HTTP/1.1 ") <= 1, read  # nothing of it was taken for a second request
    assert daemon.ask("GET", "/livez", token=None).status == 200


def test_a_head_that_is_too_large_is_refused(daemon: DaemonProcess) -> None:
    read = said(daemon, b"GET /livez HTTP/1.1\r\n" + b"X-A: " + b"x" * (HEAD_BYTES_MAX + 4096))
    assert read.startswith(b"HTTP/1.1 431")
    assert json.loads(read.partition(b"\r\n\r\n")[2])["status"] == 431
    many = b"".join(b"X-%d: y\r\n" % n for n in range(20_000))
    assert said(daemon, b"GET /livez HTTP/1.1\r\n" + many).startswith(b"HTTP/1.1 431")


def test_a_body_of_100_mb_is_refused_before_it_came(daemon: DaemonProcess) -> None:
    token = daemon.token.encode()
    head = HEAD + b"Authorization: Bearer " + token + b"\r\nContent-Type: application/json\r\n"
    assert said(daemon, head + b"Content-Length: 104857600\r\n\r\n{").startswith(b"HTTP/1.1 413")
    chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    read = said(daemon, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 400)
    assert read.startswith(b"HTTP/1.1 413") or not read, read[:200]


@pytest.mark.long
def test_slow_heads_and_idle_connections_cost_nobody_else_anything(daemon: DaemonProcess) -> None:
    idle: list[socket.socket] = []
    try:
        for number in range(2000):
            sock = socket.create_connection(("127.0.0.1", daemon.port), timeout=30)
            if number % 2:
                sock.sendall(b"GET /livez HTTP/1.1\r\nHost: loc")
            idle.append(sock)
        begun = time.monotonic()
        for _ in range(50):
            assert daemon.ask("GET", "/livez", token=None).status == 200
        # Those that began a head, and those that said nothing, are let go.
        first, last = idle[0], idle[-1]
        assert answer(last).startswith(b"HTTP/1.1 408")
        assert answer(first).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - begun >= HEAD_SECONDS_MAX / 2
    finally:
        for sock in idle:
            sock.close()


@pytest.mark.long
def test_a_body_that_drips_is_ended(daemon: DaemonProcess) -> None:
    token = daemon.token.encode()
    head = HEAD + b"Authorization: Bearer " + token + b"\r\nContent-Type: application/json\r\n"
    with line(daemon) as sock:
        sock.settimeout(60)
        sock.sendall(head + b"Content-Length: 100\r\n\r\n{")
        assert sock.recv(4096).startswith(b"HTTP/1.1 408")
