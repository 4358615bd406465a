"""Connections that want nothing: `python -m bench.http.crowd PORT IDLE SLOW TOKEN`.

IDLE of them, a third each: one says nothing, one half a head, one was answered and stays. SLOW drip
a head and as many a body, a byte a second. Whoever is let go comes back at once, so that their
number stays. Prints `ready` when all are there; at the end of stdin, JSON: how many could not
connect, were cut off without a word, and were answered by which status.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from collections import Counter

AT_ONCE = 200
"""Connecting."""
NICE = 19
"""A crowd has machines of its own: here it shall take no processor from whom it is to disturb."""
BODY = b"Content-Length: 100\r\n\r\n{"
HALF = b"GET /livez HTTP/1.1\r\nHost: loc"
WHOLE = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Crowd:
    """All of one process."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._here, self._wanted = 0, 0
        self._all_here = asyncio.Event()
        self._connecting = asyncio.Semaphore(AT_ONCE)
        head = "POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self._post = f"{head}Authorization: Bearer {token}\r\n".encode()
        self.counts: Counter[str] = Counter()

    async def run(self, idle: int, slow: int) -> None:
        """Until it is cancelled."""
        self._wanted = idle + 2 * slow
        firsts = (b"", HALF, WHOLE)
        async with asyncio.TaskGroup() as tg:
            for number in range(idle):
                tg.create_task(self._stay(firsts[number % 3], drips=False))
            for _ in range(slow):
                tg.create_task(self._stay(HALF, drips=True))
                tg.create_task(self._stay(self._post + BODY, drips=True))
            await self._all_here.wait()
            print("ready", flush=True)

    async def _stay(self, first: bytes, *, drips: bool) -> None:
        is_new = True
        while True:
            try:
                async with self._connecting:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                    writer.write(first)
                    # Not there before it was served.
                    if first == WHOLE:
                        await self._answered(reader)
            except OSError:
                self.counts["not connected"] += 1
                await asyncio.sleep(0.5)
                continue
            except asyncio.IncompleteReadError:
                self.counts["cut off"] += 1
                continue
            if is_new:
                is_new, self._here = False, self._here + 1
                if self._here == self._wanted:
                    self._all_here.set()
            try:
                await self._until_let_go(reader, writer, drips=drips)
            except (OSError, asyncio.IncompleteReadError):
                self.counts["closed" if first == WHOLE else "cut off"] += 1
            finally:
                writer.transport.abort()

    async def _until_let_go(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, drips: bool
    ) -> None:
        answered = asyncio.ensure_future(self._answered(reader))
        try:
            while drips and not answered.done():
                await asyncio.wait([answered], timeout=1)
                writer.write(b"a")
            await answered
        finally:
            answered.cancel()

    async def _answered(self, reader: asyncio.StreamReader) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        at = head.index(b"content-length:") + 15
        await reader.readexactly(int(head[at : head.index(b"\r", at)]))
        self.counts[head[9:12].decode()] += 1


async def main(port: int, idle: int, slow: int, token: str) -> None:
    """Stay until stdin ends."""
    os.nice(NICE)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    crowd = Crowd(port, token)
    staying = asyncio.ensure_future(crowd.run(idle, slow))
    loop = asyncio.get_running_loop()
    ended = loop.run_in_executor(None, sys.stdin.read)
    await asyncio.wait([staying, ended], return_when=asyncio.FIRST_COMPLETED)
    if staying.done():
        staying.result()
    staying.cancel()
    print(json.dumps(crowd.counts), flush=True)


if __name__ == "__main__":
    port, idle, slow, token = sys.argv[1:]
    asyncio.run(main(int(port), int(idle), int(slow), token))
