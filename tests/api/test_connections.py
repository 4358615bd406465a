"""How long a connection lasts of which nothing is asked, with the times made short."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from time import monotonic
from typing import Any

import anyio
import pytest
import uvicorn

from agent_runtime.api import protocol
from agent_runtime.api.answers import Answer, Receive, Scope, Send
from agent_runtime.api.lobby import Lobby
from agent_runtime.api.protocol import GuardedProtocol
from agent_runtime.api.server import listen

SLOW = 0.4
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # uvicorn's


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["path"] == "/slow":
        await anyio.sleep(SLOW)
    await Answer(200, b"{}")(scope, receive, send)


@asynccontextmanager
async def served(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[anyio.abc.SocketStream]:
    monkeypatch.setattr(protocol, "HEAD_SECONDS_MAX", 0.1)  # and the time between two looks
    made: Any = partial(GuardedProtocol, lobby=Lobby(monotonic))
    config = uvicorn.Config(
        app, loop="none", http=made, lifespan="off", log_config=None, timeout_keep_alive=0
    )
    server = uvicorn.Server(config)
    [listening] = listen("127.0.0.1", 0)
    async with anyio.create_task_group() as tg:
        tg.start_soon(partial(server.serve, sockets=[listening]))
        stream = await anyio.connect_tcp("127.0.0.1", listening.getsockname()[1])
        stream.extra(anyio.abc.SocketAttribute.raw_socket).setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )
        async with stream:
            with anyio.fail_after(10):
                yield stream
        server.should_exit = True


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
