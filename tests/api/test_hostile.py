"""Clients that nobody wants: slow, huge, malformed, many. Others are served meanwhile."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from agent_runtime.api.lobby import FILES_KEPT
from agent_runtime.api.protocol import HEAD_BYTES_MAX
from tests.api.daemons import DaemonProcess, serving


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
def test_ten_thousand_that_want_nothing_keep_nobody_else_out(daemon: DaemonProcess) -> None:
    """Silent ones, half heads, kept ones, and 200 that drip heads and bodies."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "bench.http.hostile", str(daemon.port), str(daemon.pid)),
            *(daemon.token, "--alone", "5", "--beside", "20"),
        ],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    print(figures)
    assert figures["beside_files"] > 10_000
    assert [figures[f"{when}_refused"] for when in ("alone", "beside", "after")] == [0, 0, 0]
    assert set(figures["crowd"]) == {"200", "408"}, "answered and let go; nobody was cut off"


@contextmanager
def idle(daemon: DaemonProcess, count: int) -> Iterator[list[socket.socket]]:
    """Connections that say nothing."""
    with ExitStack() as stack:
        yield [stack.enter_context(line(daemon)) for _ in range(count)]


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def closed(lines: list[socket.socket]) -> list[bool]:
    return [is_closed(each) for each in lines]


def is_closed(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        while sock.recv(65_536):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        pass
    return True


@pytest.mark.long
def test_beyond_the_number_of_connections_the_oldest_idle_ones_make_room(tmp_path: Path) -> None:
    with serving(tmp_path / "state", files_max=FILES_KEPT + 88) as daemon:
        stream = (
            "GET /v1/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n"
            f"Authorization: Bearer {daemon.token}\r\n\r\n"
        ).encode()
        with idle(daemon, 1) as busy:
            busy[0].sendall(stream)
            assert busy[0].recv(4096).startswith(b"HTTP/1.1 200")
            with idle(daemon, 120) as lines:
                assert daemon.ask("GET", "/livez", token=None).status == 200
                assert closed(lines) == [True] * 34 + [False] * 86
            with idle(daemon, 87) as lines:
                for each in lines:
                    each.sendall(stream)
                    assert each.recv(4096).startswith(b"HTTP/1.1 200")
                # Where none is idle, who comes is told so.
                with line(daemon) as late:
                    assert answer(late).startswith(b"HTTP/1.1 503")
                assert not any(closed([*busy, *lines]))
        until(lambda: "that waited for a request" in daemon.log)


@pytest.mark.long
def test_who_does_not_read_its_answer_makes_room(tmp_path: Path) -> None:
    """Such connections need no credentials, and kept everybody else out while they stayed."""
    with serving(tmp_path / "state", files_max=FILES_KEPT + 88) as daemon, ExitStack() as stack:
        asked = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for _ in range(88):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            sock.connect(("127.0.0.1", daemon.port))
            sock.sendall(asked * 80)  # more than the kernel takes
        until(lambda: refused_or(daemon) == 503)
        until(lambda: refused_or(daemon) == 200)


def refused_or(daemon: DaemonProcess) -> int:
    """How a newcomer is answered."""
    with line(daemon) as sock:
        try:
            sock.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass
        return int((answer(sock) or b"HTTP/1.1 0").split()[1])


def test_where_files_run_out_idle_connections_make_room(daemon: DaemonProcess) -> None:
    """The kernel's refusals alone would keep everybody out for as long as they stay."""
    before = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    used = len(os.listdir(f"/proc/{daemon.pid}/fd"))
    with idle(daemon, 150) as lines:
        until(lambda: len(os.listdir(f"/proc/{daemon.pid}/fd")) >= used + 150)
        try:
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (used + 170, before[1]))
            until(lambda: closed(lines)[0])
            assert daemon.ask("GET", "/livez", token=None).status == 200
            assert closed(lines)[0] and not closed(lines)[-1], "those that waited longest"
        finally:
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, before)
    assert "more files can be opened): closed" in daemon.log


@pytest.mark.long
def test_a_body_that_drips_is_ended(daemon: DaemonProcess) -> None:
    token = daemon.token.encode()
    head = HEAD + b"Authorization: Bearer " + token + b"\r\nContent-Type: application/json\r\n"
    with line(daemon) as sock:
        sock.settimeout(60)
        sock.sendall(head + b"Content-Length: 100\r\n\r\n{")
        assert sock.recv(4096).startswith(b"HTTP/1.1 408")
