"""Many readers of one task's events: `python -m bench.http.streams PORT PID TASK TOKEN READERS`.

Ten facts a second are told to a task that nobody drives; every reader gets every one. Prints JSON:
the server's CPU microseconds a delivery (the posts' own cost is measured first and taken off), and
how late the deliveries were, from the moment that the event carries.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from bench.http.processes import cpu_seconds

RATE = 10
SECONDS = 8


def steer(task_id: str, token: str, number: int) -> bytes:
    """The bytes of one fact."""
    data = json.dumps({"message": f"fact {number} " + "x" * 200}).encode()
    head = (
        f"POST /v1/tasks/{task_id}/steer HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


async def post(port: int, requests: list[bytes], rate: float) -> None:
    """One request after another, `rate` a second."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    begun = time.perf_counter()
    for at, data in enumerate(requests):
        await asyncio.sleep(max(0.0, begun + at / rate - time.perf_counter()))
        writer.write(data)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head[9:12] == b"202", head
        at_length = head.index(b"content-length:") + 15
        await reader.readexactly(int(head[at_length : head.index(b"\r", at_length)]))
    writer.close()


class Follower(asyncio.Protocol):
    """Reads a stream; the delays of the events that came."""

    def __init__(self, request: bytes, delays: list[float]) -> None:
        self._request = request
        self._delays = delays
        self.events = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Count what came; a frame comes whole as long as the reader keeps up."""
        now_us = time.time() * 1e6
        start = 0
        while (at := data.find(b'"at_us":', start)) >= 0:
            start = at + 8
            self._delays.append((now_us - int(data[start : data.index(b",", start)])) / 1e3)
            self.events += 1


async def main(port: int, pid: int, task_id: str, token: str, readers: int) -> None:
    """Alone first, then with everybody."""
    loop = asyncio.get_running_loop()
    count = RATE * SECONDS
    used = cpu_seconds(pid)
    await post(port, [steer(task_id, token, at) for at in range(count)], RATE)
    alone = cpu_seconds(pid) - used
    seq = 1
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"GET /v1/tasks/{task_id} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}"
        "\r\n\r\n".encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    seq = int(head.lower().partition(b'etag: "')[2].partition(b'"')[0])
    request = (
        f"GET /v1/tasks/{task_id}/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream"
        f"\r\nAuthorization: Bearer {token}\r\nLast-Event-ID: {seq}\r\n\r\n"
    ).encode()
    delays: list[float] = []
    followers = [Follower(request, delays) for _ in range(readers)]
    for follower in followers:
        await loop.create_connection(lambda follower=follower: follower, "127.0.0.1", port)
    await asyncio.sleep(1)
    used = cpu_seconds(pid)
    await post(port, [steer(task_id, token, at) for at in range(count)], RATE)
    deadline = time.perf_counter() + 10
    while len(delays) < count * readers and time.perf_counter() < deadline:
        await asyncio.sleep(0.05)
    spent = cpu_seconds(pid) - used - alone
    delays.sort()
    print(
        json.dumps(
            {
                "readers": readers,
                "deliveries": len(delays),
                "missing": count * readers - len(delays),
                "cpu_us": spent / max(1, len(delays)) * 1e6,
                "p50_ms": delays[len(delays) // 2],
                "p99_ms": delays[int(len(delays) * 0.99)],
            }
        )
    )


if __name__ == "__main__":
    port, pid, task_id, token, readers = sys.argv[1:]
    asyncio.run(main(int(port), int(pid), task_id, token, int(readers)))
