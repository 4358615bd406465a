"""How long a connection lasts of which nothing is asked, with the times made short."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, cast

import anyio
import pytest
import uvicorn
from anyio.streams.tls import TLSStream

from agent_runtime.api import protocol
from agent_runtime.api.answers import Answer, Receive, Scope, Send
from agent_runtime.api.lobby import Lobby
from agent_runtime.api.protocol import GuardedProtocol
from agent_runtime.api.server import listen
from agent_runtime.api.short_way import ShortWay
from tests.api.test_access_live import write_certificate

SLOW = 0.4
LARGE = b"x" * 300_000
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # uvicorn's


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["path"] == "/slow":
        await anyio.sleep(SLOW)
    if scope["method"] == "POST":
        while (await receive()).get("more_body"):
            pass
    await Answer(200, b"{}")(scope, receive, send)


@asynccontextmanager
async def served(
    monkeypatch: pytest.MonkeyPatch,
    ending: anyio.Event | None = None,
    short_way: Any = None,
) -> AsyncIterator[anyio.abc.SocketStream]:
    monkeypatch.setattr(protocol, "HEAD_SECONDS_MAX", 0.1)  # and the time between two looks
    made: Any = partial(GuardedProtocol, lobby=Lobby(monotonic), short_way=short_way)
    config = uvicorn.Config(
        app, loop="none", http=made, lifespan="off", log_config=None, timeout_keep_alive=0
    )
    server = uvicorn.Server(config)
    [listening] = listen("127.0.0.1", 0)
    async with anyio.create_task_group() as tg:
        tg.start_soon(partial(server.serve, sockets=[listening]))
        if ending is not None:
            tg.start_soon(end_on, ending, server)
        stream = await anyio.connect_tcp("127.0.0.1", listening.getsockname()[1])
        stream.extra(anyio.abc.SocketAttribute.raw_socket).setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )
        async with stream:
            with anyio.fail_after(10):
                yield stream
        server.should_exit = True


async def end_on(ending: anyio.Event, server: uvicorn.Server) -> None:
    await ending.wait()
    server.should_exit = True


def wrong(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What the log complains of."""
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


async def until_closed(stream: anyio.abc.SocketStream) -> bytes:
    read = b""
    try:
        while True:
            read += await stream.receive()
    except anyio.EndOfStream:
        return read


async def test_one_that_was_answered_and_asks_nothing_more_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with served(monkeypatch) as stream:
        await stream.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        read = await until_closed(stream)
    assert read.startswith(b"HTTP/1.1 200 OK") and read.count(b"HTTP/1.1") == 1


async def test_one_whose_answer_takes_its_time_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(monkeypatch) as stream:
        await stream.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        read = await until_closed(stream)
    assert read.count(b"HTTP/1.1 200 OK") == 2


async def test_one_that_never_asks_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(monkeypatch) as stream:
        read = await until_closed(stream)
    assert read.startswith(b"HTTP/1.1 408")


async def test_half_a_head_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(monkeypatch) as stream:
        await stream.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HT")
        read = await until_closed(stream)
    assert read.startswith(b"HTTP/1.1 200 OK") and b"HTTP/1.1 408" in read


async def test_the_end_does_not_wait_for_a_body_that_does_not_come(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Else one client keeps a daemon from ending for as long as it may take, and fills its log."""
    monkeypatch.setattr(protocol, "LAST_BODY_SECONDS", 0.05)
    ending = anyio.Event()
    wish = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    async with served(monkeypatch, ending) as stream:
        await stream.send(wish)
        assert b"100 Continue" in await stream.receive()  # somebody waits for the body
        ending.set()
        read = await until_closed(stream)
    assert read.startswith(b"HTTP/1.1 503") and b"the body did not come" in read
    assert not wrong(caplog)


async def test_the_end_does_not_wait_for_an_idle_client_over_tls(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Who keeps a connection for later does not hear that it is closed, and does not say so."""
    monkeypatch.setattr(protocol, "LINGER_SECONDS", 0.05)
    write_certificate(tmp_path, 1)
    made: Any = partial(GuardedProtocol, lobby=Lobby(monotonic))
    config = uvicorn.Config(
        app, loop="none", http=made, lifespan="off", log_config=None,
        ssl_certfile=tmp_path / "cert.pem", ssl_keyfile=tmp_path / "key.pem",
    )  # fmt: skip
    server = uvicorn.Server(config)
    [listening] = listen("127.0.0.1", 0)
    trusting = ssl.create_default_context(cafile=tmp_path / "cert.pem")
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tg:
            tg.start_soon(partial(server.serve, sockets=[listening]))
            stream = await anyio.connect_tcp("localhost", listening.getsockname()[1])
            tls = await TLSStream.wrap(stream, hostname="localhost", ssl_context=trusting)
            await tls.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await tls.receive()).startswith(b"HTTP/1.1 200")
            server.should_exit = True
    await anyio.aclose_forcefully(tls)


class Defective:
    """A short way that fails at one of its steps."""

    def __init__(self, step: str) -> None:
        self._step = step

    def plain(self, *_: object) -> object:
        if self._step == "plain":
            raise KeyError("a defect")
        return object()

    async def answer(self, *_: object, **__: object) -> Answer:
        return Answer(200)

    def written(self, answer: Answer, *_: object, **__: object) -> tuple[bytes, ...]:
        raise AssertionError("a defect")


async def test_a_defect_before_an_operation_is_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(monkeypatch, short_way=Defective("plain")) as stream:
        await stream.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        read = await until_closed(stream)
    assert read.startswith(b"HTTP/1.1 400")
    [record] = wrong(caplog)
    assert record.exc_info is not None and record.exc_info[0] is KeyError


async def test_an_answer_that_cannot_be_written_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Else its client would wait for ever."""
    async with served(monkeypatch, short_way=Defective("written")) as stream:
        await stream.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await until_closed(stream) == b""
    assert "an answer failed by a defect" in caplog.text


class Large(Defective):
    """A short way whose answer has a large body."""

    async def answer(self, *_: object, **__: object) -> Answer:
        return Answer(200, LARGE)

    def written(self, answer: Answer, *_: object, **__: object) -> tuple[bytes, ...]:
        return ShortWay.written(cast(ShortWay, self), answer, self._common[0], closes=True)

    _common: tuple[list[tuple[bytes, bytes]], bytes] = ([], b"")


async def test_a_large_answer_comes_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(monkeypatch, short_way=Large("none")) as stream:
        await stream.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        head, _, body = (await until_closed(stream)).partition(b"\r\n\r\n")
    assert b"content-length: 300000" in head and body == LARGE
