"""A load generator: many connections in one process, one request after another on each.

It speaks HTTP/1.1 by hand, so that the server is what is measured, and sends what `works` declares.
The server's processor time is what is compared: requests a second and latencies on one machine are
those of a server that shares its cores with this generator.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

from bench.http.processes import cpu_seconds, loop_cpu_seconds
from bench.http.works import Work

WARM = 64


class Failed(Exception):
    """A server answered something else than was asked for."""


class Line:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    @asynccontextmanager
    async def opened(cls, port: int) -> AsyncIterator[Line]:
        """To a server on this machine."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()
            await writer.wait_closed()

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """The status and the body of the answer."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        lower = head.lower()
        at = lower.index(b"content-length:") + 15
        body = await self._reader.readexactly(int(lower[at : lower.index(b"\r", at)]))
        return int(head[9:12]), body


class Load:
    """Works against one server, in turn; a later one may ask for what an earlier one made."""

    def __init__(self, port: int, pid: int, token: str) -> None:
        self._port, self._pid, self._token = port, pid, token
        self.made: list[str] = []
        self._bytes = 0

    async def run(self, works: Sequence[Work]) -> dict[str, float]:
        """Figures as `WORK FIGURE`.

        Raises:
            Failed: an answer had another status than its work says.
        """
        told: dict[str, float] = {}
        for work in works:
            told |= {
                f"{work.name} {name}": value for name, value in (await self._run(work)).items()
            }
        return told

    async def submit(self, work: Work, count: int) -> list[str]:
        """Make so many on one connection, and return their ids."""
        before = len(self.made)
        await self._line(work, self._requests(work, count), [])
        return self.made[before:]

    async def found(self, work: Work, ids: Sequence[str]) -> int:
        """How many of these the server gives back."""
        async with Line.opened(self._port) as line:
            answers = [await line.ask(self._request(work, task_id)) for task_id in ids]
        return sum(status == work.status for status, _ in answers)

    async def _run(self, work: Work) -> dict[str, float]:
        await self._line(work, self._requests(work, WARM), [])
        each = work.count // work.connections
        lines = [self._requests(work, each) for _ in range(work.connections)]
        seconds: list[float] = []
        self._bytes = 0
        cpu, loop_cpu = cpu_seconds(self._pid), loop_cpu_seconds(self._pid)
        begun = time.perf_counter()
        await asyncio.gather(*(self._line(work, requests, seconds) for requests in lines))
        took = time.perf_counter() - begun
        done = each * work.connections * work.tasks
        seconds.sort()
        return {
            "cpu_us": (cpu_seconds(self._pid) - cpu) / done * 1e6,
            "loop_cpu_us": (loop_cpu_seconds(self._pid) - loop_cpu) / done * 1e6,
            "per_second": done / took,
            "p50_ms": seconds[len(seconds) // 2] * 1e3,
            "p99_ms": seconds[int(len(seconds) * 0.99)] * 1e3,
            "answer_bytes": self._bytes / len(seconds),
        }

    async def _line(self, work: Work, requests: Sequence[bytes], seconds: list[float]) -> None:
        async with Line.opened(self._port) as line:
            for request in requests:
                begun = time.perf_counter()
                status, body = await line.ask(request)
                seconds.append(time.perf_counter() - begun)
                self._bytes += len(body)
                if status != work.status:
                    said = body[:300].decode(errors="replace")
                    raise Failed(f"{work.name}: {status} instead of {work.status}: {said}")
                if work.made:
                    self.made.append(json.loads(body)[work.made])

    def _requests(self, work: Work, count: int) -> list[bytes]:
        ids: Iterator[str] = itertools.cycle(self.made or [""])
        return [self._request(work, next(ids)) for _ in range(count)]

    def _request(self, work: Work, task_id: str) -> bytes:
        return work.request(key=str(uuid.uuid4()), task_id=task_id, token=self._token)
