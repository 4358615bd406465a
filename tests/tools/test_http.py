"""`http` against a real server on this machine. What the sandbox adds is tested with it."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from agent_runtime.testing import check_effect
from agent_runtime.types import Effect, EffectPolicy
from agent_runtime_tools import _exchange
from agent_runtime_tools.http import http as http_tool
from tests.tools.conftest import Workbench


class Handler(http.server.BaseHTTPRequestHandler):
    """The path says what is answered."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        server: Any = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        key = self.headers.get("Idempotency-Key", "")
        server.seen.append((self.command, self.path, dict(self.headers), body))
        if self.command in ("PUT", "POST", "PATCH"):
            server.made[key] = server.made.get(key, 0) + 1
        kind, _, rest = self.path.lstrip("/").partition("/")
        if kind == "drop":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        if kind == "slow":
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            while not server.stopping.wait(0.01):
                self.wfile.write(b".")
            return
        data = {"binary": b"\x89PNG\0\xff", "large": b"x" * 200_000}.get(kind, b"hello " + body)
        self.send_response(int(rest) if kind == "status" else 302 if kind == "to" else 200)
        if kind == "to":
            self.send_header("Location", f"/{rest}" if not rest.startswith("http") else rest)
        types = {"binary": "image/png", "latin": "text/plain; charset=latin-1"}
        self.send_header("Content-Type", types.get(kind, "text/plain"))
        data = "ümlaut".encode("latin-1") if kind == "latin" else data
        length = len(data) + 5 if kind == "short" else len(data)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        if kind == "short":
            self.close_connection = True

    do_GET = do_HEAD = do_OPTIONS = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    """`made` counts what was made under each idempotency key."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.made: dict[str, int] = {}
        self.stopping = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away."""


@pytest.fixture(scope="module")
def serving() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.stopping.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def server(serving: Server) -> Server:
    serving.seen.clear()
    serving.made.clear()
    return serving


pytestmark = pytest.mark.anyio


async def test_an_answer_is_shown_with_status_and_headers(use: Workbench, server: Server) -> None:
    result = await use("http", url=f"{server.url}/a?b=c#d", headers={"X-Mine": "1"})
    assert (result.ok, result.exit, result.kind) == (True, 0, "")
    assert result.output.startswith("HTTP 200 OK\n")
    assert "Content-Type: text/plain" in result.output
    assert result.output.endswith("\n\nhello ")
    assert (result.data["status"], result.data["body_bytes"]) == (200, 6)
    ((method, path, headers, _),) = server.seen
    assert (method, path, headers["X-Mine"]) == ("GET", "/a?b=c", "1")
    assert headers["Host"] == server.url.removeprefix("http://")


async def test_an_object_is_sent_as_json_with_a_key_of_the_call(
    use: Workbench, server: Server
) -> None:
    result = await use("http", method="POST", url=server.url, body={"a": [1]})
    assert result.ok, result.output
    ((_, _, headers, body),) = server.seen
    assert json.loads(body) == {"a": [1]}
    assert headers["Content-Type"] == "application/json"
    assert headers["Idempotency-Key"] == "key-1"
    await use("http", url=server.url)
    assert "Idempotency-Key" not in server.seen[1][2]


@pytest.mark.parametrize(
    ("status", "method", "kind"),
    [
        (404, "GET", "failed"), (403, "GET", "failed"),
        (503, "GET", "transient"), (503, "PUT", "transient"), (429, "GET", "transient"),
        (503, "POST", "failed"),
    ],
)  # fmt: skip
async def test_a_bad_status_is_a_failure_and_only_what_may_be_repeated_is_called_passing(
    use: Workbench, server: Server, status: int, method: str, kind: str
) -> None:
    result = await use("http", method=method, url=f"{server.url}/status/{status}")
    assert (result.ok, result.exit, result.kind) == (False, 22, kind)
    assert result.data["status"] == status


async def test_what_is_no_text_is_described_and_kept(use: Workbench, server: Server) -> None:
    result = await use("http", url=f"{server.url}/binary")
    assert result.output.endswith("[6 bytes of image/png: it is no text and is not shown]")
    assert result.raw is not None and result.raw.endswith(b"\n\n\x89PNG\0\xff")
    latin = await use("http", url=f"{server.url}/latin")
    assert latin.output.endswith("\n\nümlaut")


async def test_a_long_body_is_capped_and_kept_whole(
    use: Workbench, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = await use("http", url=f"{server.url}/large")
    assert len(result.output) <= 10_000
    assert result.raw is not None and result.raw.count(b"x") >= 200_000
    monkeypatch.setattr(_exchange, "BODY_BYTES_MAX", 1000)
    result = await use("http", url=f"{server.url}/large")
    assert result.output.endswith("[cut: 1,000 bytes were read, and there are more]")


async def test_redirects_are_followed_for_reads_and_bounded(use: Workbench, server: Server) -> None:
    result = await use("http", url=f"{server.url}/to/to/fin")
    assert result.ok and result.data["redirects"] == [f"{server.url}/to/fin", f"{server.url}/fin"]
    result = await use("http", url=f"{server.url}/to/to/fin", follow_redirects=1)
    assert result.data["status"] == 302
    result = await use("http", url=f"{server.url}/to/fin", method="POST", body="x")
    assert result.data["status"] == 302
    result = await use("http", url=f"{server.url}/to/fin", method="POST", follow_redirects=1)
    assert server.seen[-1][:2] == ("GET", "/fin")


async def test_a_post_that_was_answered_is_never_called_not_sent(
    use: Workbench, server: Server
) -> None:
    """What is called not sent is tried again, and the first server has seen it."""
    for target in ("http://127.0.0.1:1/", f"{server.url}/drop"):
        url = f"{server.url}/to/{target}"
        result = await use("http", url=url, method="POST", body="x", follow_redirects=1)
        assert (result.ok, result.data["status"]) == (True, 302)
        assert f"[the redirect to {target} could not be followed: " in result.output


async def test_a_redirect_to_another_host_does_not_take_credentials_along(
    use: Workbench, server: Server
) -> None:
    other = server.url.replace("127.0.0.1", "localhost")
    headers = {"Authorization": "secret", "Cookie": "secret", "X-Other": "1"}
    result = await use("http", url=f"{server.url}/to/{other}/fin", headers=headers)
    assert result.ok, result.output
    first, second = (seen[2] for seen in server.seen)
    assert "Authorization" in first
    assert "secret" not in second.values() and second["X-Other"] == "1"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"url": "ftp://a.org/"}, "is no http:// or https:// address"),
        ({"url": "http:///x"}, "is no http:// or https:// address"),
        ({"url": "http://a.org/a b"}, "holds a space"),
        ({"url": "http://a.org:x/"}, "Port could not be cast"),
        ({"url": "http://me:pw@a.org/"}, "end up in logs: use a header"),
        ({"url": "http://ä.org/"}, "must be in ASCII"),
        ({"url": "http://a.org", "headers": {"Host": "b.org"}}, "cannot be chosen"),
        ({"url": "http://a.org", "headers": {"content-Length": "3"}}, "cannot be chosen"),
        ({"url": "http://a.org", "headers": {"Proxy-X": "3"}}, "cannot be chosen"),
        ({"url": "http://a.org", "headers": {"A": "b\r\nHost: c"}}, "a character that no header"),
        ({"url": "http://a.org", "headers": {"A b": "c"}}, "a character that no header"),
        ({"url": "http://a.org", "headers": {"A": "\u20ac"}}, "must be in Latin-1"),
        ({"url": "http://a.org", "method": "BREW"}, "'method' must be one of"),
    ],
)
async def test_bad_input_is_named(use: Workbench, arguments: dict[str, Any], problem: str) -> None:
    result = await use("http", **arguments)
    assert (result.ok, result.kind) == (False, "bad_input")
    assert problem in result.output
    assert "pw" not in result.output


async def test_without_an_answer_only_a_read_may_be_tried_again(
    use: Workbench, server: Server
) -> None:
    """Nobody knows what a POST has done: as a time-out it goes to the effect ledger."""
    for path in ("drop", "short"):
        result = await use("http", url=f"{server.url}/{path}")
        assert (result.kind, "the connection broke" in result.output) == ("transient", True)
        result = await use("http", method="POST", url=f"{server.url}/{path}", body="x")
        assert (result.kind, "the connection broke" in result.output) == ("timeout", True)


async def test_a_server_that_goes_on_for_ever_is_left_in_time(
    use: Workbench, server: Server
) -> None:
    began = time.monotonic()
    result = await use("http", url=f"{server.url}/slow", timeout_seconds=0.2)
    assert (result.kind, "no whole answer within 0.2 s" in result.output) == ("timeout", True)
    assert time.monotonic() - began < 10


async def test_a_server_that_is_not_there_has_seen_nothing(use: Workbench) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    result = await use("http", method="POST", url=f"http://127.0.0.1:{port}/", body="x")
    assert (result.kind, "cannot be reached" in result.output) == ("transient", True)


def test_what_a_call_changes_follows_from_its_method_unless_the_author_knows_better() -> None:
    def effect(policy: EffectPolicy | None = None, **arguments: str) -> Effect:
        return http_tool.effect(arguments, policy or EffectPolicy(network="restricted"))

    assert effect() is effect(method="HEAD") is effect(method="OPTIONS") is Effect.READ
    assert effect(method="PUT") is effect(method="DELETE") is Effect.IDEMPOTENT
    assert effect(method="POST") is effect(method="PATCH") is Effect.ONCE
    stated = EffectPolicy(network="restricted", stated=Effect.IDEMPOTENT)
    assert effect(stated, method="POST") is Effect.IDEMPOTENT


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
def test_its_effect_classes_are_true_wherever_it_is_killed(server: Server, method: str) -> None:
    """The world is what the server made under the keys that it was sent."""

    async def run() -> None:
        await check_effect(
            http_tool,
            {"method": method, "url": f"{server.url}/x"},
            observe=lambda: (
                sorted(server.made) if method != "POST" else sorted(server.made.items())
            ),
            reset=server.made.clear,
        )

    anyio.run(run)
