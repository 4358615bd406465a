"""A receiver of webhooks on a real socket: says what it is told to say, keeps what it heard."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio


@dataclass
class Heard:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """`answers` are used in their order; then 204. One is a status, with headers or without."""

    port: int = 0
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)
    news: anyio.Event = field(default_factory=anyio.Event)
    hold: anyio.Event | None = None
    """Requests are not answered before it is set."""
    at_once: int = 0
    at_once_max: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/in"

    async def wait_for(self, count: int, seconds: float = 20) -> list[Heard]:
        with anyio.fail_after(seconds):
            while len(self.heard) < count:
                await self.news.wait()
        return self.heard

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = dict(line.split(": ", 1) for line in head[1:] if line)
                headers = {name.lower(): value for name, value in headers.items()}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.heard.append(Heard(head[0].split(" ")[1], headers, body))
                self.at_once += 1
                self.at_once_max = max(self.at_once, self.at_once_max)
                news, self.news = self.news, anyio.Event()
                news.set()
                if self.hold is not None:
                    await self.hold.wait()
                self.at_once -= 1
                status, more = self.answers.pop(0) if self.answers else (204, {})
                lines = [f"HTTP/1.1 {status} X", "content-length: 0"]
                lines += [f"{name}: {value}" for name, value in more.items()]
                writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def receiving(
    *answers: int | tuple[int, dict[str, str]], port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    receiver.answers = [(each, {}) if isinstance(each, int) else each for each in answers]
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", port, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
