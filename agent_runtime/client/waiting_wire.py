"""Requests and streams of `waiting.AsyncClient`, on httpx2: any number of them at once.

Proxies and certificates come from the environment, but no proxy leads to this machine's own daemon.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
import httpx2

from agent_runtime.client import places
from agent_runtime.client import views as v
from agent_runtime.client.asks import Ask, Reply
from agent_runtime.client.following import Broken, Following, Output
from agent_runtime.client.patience import (
    ANSWER_SECONDS,
    PATIENCE_SECONDS,
    SILENCE_SECONDS,
    STREAM_SECONDS,
    Failure,
    Patience,
)
from agent_runtime.client.places import Place
from agent_runtime.client.wire import CONNECT_SECONDS, Wire, refusal
from agent_runtime.errors import AgentRuntimeError

T = TypeVar("T")

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class WaitingWire(Wire):
    """For one event loop."""

    def __init__(
        self,
        place: Place | str,
        token: str | None = None,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        stream_seconds: float = STREAM_SECONDS,
    ) -> None:
        super().__init__(
            place, token, patience_seconds=patience_seconds, stream_seconds=stream_seconds
        )
        for name in ("httpx2", "httpcore2"):
            # They log headers, and a key is one.
            logging.getLogger(name).setLevel(logging.WARNING)
        self._http = httpx2.AsyncClient(
            follow_redirects=False,
            mounts={f"all://{host}": None for host in _LOOPBACK},
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        await self.close()

    async def close(self) -> None:
        """Close every connection. The client is not used after it."""
        await self._http.aclose()

    async def send(self, ask: Ask[T]) -> T:
        """The answer to one request, after as many tries as it takes and may have."""
        return ask.read(await self._reply(ask))

    async def _reply(self, ask: Ask[Any], *, refuse: bool = True) -> Reply:
        patience = Patience(self._patience_seconds, ask.again)
        while True:
            retry_after: str | None = None
            trouble: AgentRuntimeError
            try:
                response = await self._http.request(
                    ask.method, self._url(ask.path), content=_content(ask),
                    headers=self._headers(ask.headers, has_body=ask.body is not None),
                    timeout=httpx2.Timeout(
                        ANSWER_SECONDS + ask.wait_seconds, connect=CONNECT_SECONDS
                    ),
                )  # fmt: skip
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                failure, trouble = Failure.REFUSED, self._unreachable(_words(error))
            except httpx2.TransportError as error:
                failure, trouble = Failure.LOST, self._unreachable(_words(error))
            else:
                if response.status_code < 400 or not refuse:
                    headers = {name.lower(): value for name, value in response.headers.items()}
                    return Reply(response.status_code, headers, response.content)
                if self._has_new_token(response.status_code):
                    continue
                retry_after = response.headers.get("retry-after")
                trouble = refusal(response.status_code, response.content, retry_after)
                failure = Failure.BUSY
            seconds = patience.wait(failure, anyio.current_time(), retry_after)
            if seconds is None:
                raise trouble
            await anyio.sleep(seconds)
            self.place = places.again(self.place)

    async def _follow(self, following: Following) -> AsyncIterator[v.Event | Output | v.TaskView]:
        async with aclosing(self._news(following)) as bursts:
            async for news in bursts:
                for said in news:
                    yield said

    async def _news(
        self, following: Following
    ) -> AsyncGenerator[list[v.Event | Output | v.TaskView]]:
        """What comes, in bursts."""
        patience = Patience(self._stream_seconds, again=True)
        while True:
            failure, retry_after = Failure.LOST, None
            trouble: AgentRuntimeError = self._unreachable()
            path, headers = following.ask()
            try:
                async with self._http.stream(
                    "GET", self._url(path), headers=self._headers(headers, has_body=False),
                    timeout=httpx2.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
                ) as response:  # fmt: skip
                    if response.status_code == 204:
                        return
                    if response.status_code != 200:
                        await response.aread()
                        if self._has_new_token(response.status_code):
                            continue
                        retry_after = response.headers.get("retry-after")
                        trouble = refusal(response.status_code, response.content, retry_after)
                        failure = Failure.BUSY
                    else:
                        async for data in response.aiter_raw():
                            patience.rest()
                            if news := following.feed(data):
                                yield news
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                failure, trouble = Failure.REFUSED, self._unreachable(_words(error))
            except (httpx2.TransportError, httpx2.StreamError, Broken) as error:
                trouble = self._unreachable(_words(error))
            # See `blocking_wire`: what ended after it brought something is asked for again at once.
            now = anyio.current_time()
            seconds = 0.0 if following.moved else patience.wait(failure, now, retry_after)
            if seconds is None:
                raise trouble
            await anyio.sleep(seconds)
            self.place = places.again(self.place)

    def _url(self, path: str) -> str:
        return self.place.url.rstrip("/") + path


def _content(ask: Ask[Any]) -> bytes | AsyncIterator[bytes] | None:
    return ask.body if ask.file is None else _pieces(ask.file)


async def _pieces(path: str) -> AsyncIterator[bytes]:
    async with await anyio.open_file(path, "rb") as file:
        while piece := await file.read(1 << 18):
            yield piece


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
