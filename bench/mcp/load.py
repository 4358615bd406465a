"""A client as thin as can be, so that the server is what is measured.

It keeps eight calls open, one after another on each line, and tells the server's processor time a
call, which is steadier than calls a second on a machine that does other things as well.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from bench.http.processes import cpu_seconds

OPEN_CALLS = 8
WARM_SECONDS, SECONDS = 0.5, 2.0
MODERN = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "0"},
}
OPENING = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "bench", "version": "0"},
    },
}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}
LINE_BYTES_MAX = 1 << 22


def call(name: str, arguments: dict[str, Any], number: int, *, modern: bool) -> bytes:
    """A `tools/call`."""
    params: dict[str, Any] = {"name": name, "arguments": arguments}
    if modern:
        params["_meta"] = META
    message = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
    return json.dumps(message).encode()


class Tally:
    """What one load came to."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.seconds: list[float] = []
        self._cpu, self._begun = cpu_seconds(pid), time.perf_counter()

    def told(self) -> dict[str, float]:
        """Processor microseconds a call, calls a second, and how long one took."""
        took = time.perf_counter() - self._begun
        used = cpu_seconds(self._pid) - self._cpu
        self.seconds.sort()
        count = len(self.seconds)
        return {
            "cpu_us": used / count * 1e6,
            "per_second": count / took,
            "p50_ms": self.seconds[count // 2] * 1e3,
            "p99_ms": self.seconds[int(count * 0.99)] * 1e3,
        }


def must_be_good(message: dict[str, Any]) -> None:
    """A refusal would be fast too."""
    result = message.get("result")
    if result is None or result.get("isError"):
        raise SystemExit(f"a call failed: {json.dumps(message)[:500]}")


# ---- stdio -------------------------------------------------------------------------------


async def over_stdio(
    command: Sequence[str], calls: dict[str, tuple[str, dict[str, Any]]], *, modern: bool
) -> dict[str, Any]:
    """Start a server, tell how long its first list took, and load it with each of the calls."""
    begun = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=LINE_BYTES_MAX,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    incoming, outgoing = process.stdout, process.stdin

    async def heard() -> dict[str, Any]:
        while True:
            line = await incoming.readline()
            if not line:
                raise SystemExit(f"{command[0]} has ended")
            message: dict[str, Any] = json.loads(line)
            if "method" not in message:
                return message
            if "id" in message:  # the TypeScript server asks for roots
                answer = {"jsonrpc": "2.0", "id": message["id"], "result": {"roots": []}}
                outgoing.write(json.dumps(answer).encode() + b"\n")

    listing: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    if modern:
        listing["params"] = {"_meta": META}
    else:
        outgoing.write(json.dumps(OPENING).encode() + b"\n")
        must_be_good(await heard())
        outgoing.write(json.dumps(INITIALIZED).encode() + b"\n")
    outgoing.write(json.dumps(listing).encode() + b"\n")
    must_be_good(await heard())
    told: dict[str, Any] = {"start_ms": (time.perf_counter() - begun) * 1e3}
    told["start_cpu_ms"] = cpu_seconds(process.pid) * 1e3
    number = 1

    async def phase(
        seconds: float, make: Callable[[int], bytes], tally: Tally | None = None
    ) -> None:
        nonlocal number
        until = time.perf_counter() + seconds
        open_calls: dict[int, float] = {}
        left = OPEN_CALLS
        while left or open_calls:
            while left:
                left, number = left - 1, number + 1
                open_calls[number] = time.perf_counter()
                outgoing.write(make(number) + b"\n")
            message = await heard()
            must_be_good(message)
            now = time.perf_counter()
            sent = open_calls.pop(message["id"])
            if tally is not None:
                tally.seconds.append(now - sent)
            left = int(now < until)

    for kind, (name, arguments) in calls.items():
        make = partial(call, name, arguments, modern=modern)
        await phase(WARM_SECONDS, make)
        tally = Tally(process.pid)
        await phase(SECONDS, make, tally)
        told |= {f"{kind} {figure}": value for figure, value in tally.told().items()}
    outgoing.close()
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(process.wait(), 5)
    if process.returncode is None:
        process.kill()
    return told


# ---- HTTP --------------------------------------------------------------------------------


async def over_http(
    port: int,
    pid: int,
    path: str,
    calls: dict[str, tuple[str, dict[str, Any]]],
    token: str = "",
) -> dict[str, Any]:
    """Load a server on the stateless wire with each of the calls."""
    told: dict[str, Any] = {}
    for kind, (name, arguments) in calls.items():
        body = call(name, arguments, 1, modern=True)
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            "Accept: application/json, text/event-stream\r\n"
            f"MCP-Protocol-Version: {MODERN}\r\nMcp-Method: tools/call\r\nMcp-Name: {name}\r\n"
            f"Content-Length: {len(body)}\r\n"
        )
        if token:
            head += f"Authorization: Bearer {token}\r\n"
        request = f"{head}\r\n".encode() + body

        work = partial(_line, port, request)
        await asyncio.gather(*(work(WARM_SECONDS, []) for _ in range(OPEN_CALLS)))
        tally = Tally(pid)
        await asyncio.gather(*(work(SECONDS, tally.seconds) for _ in range(OPEN_CALLS)))
        told |= {f"{kind} {figure}": value for figure, value in tally.told().items()}
    return told


async def _line(port: int, request: bytes, lasts: float, seconds: list[float]) -> None:
    """One connection, one request after another."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=LINE_BYTES_MAX)
    until = time.perf_counter() + lasts
    while (begun := time.perf_counter()) < until:
        writer.write(request)
        answer = await _answer(reader)
        seconds.append(time.perf_counter() - begun)
        if b'"isError":true' in answer or b'"error":' in answer[:60]:
            raise SystemExit(f"a call failed: {answer[:500]!r}")
    writer.close()


async def _answer(reader: asyncio.StreamReader) -> bytes:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if not head.startswith(b"http/1.1 200"):
        raise SystemExit(f"refused: {head.decode()}")
    at = head.find(b"content-length:")
    if at >= 0:
        return await reader.readexactly(int(head[at + 15 : head.index(b"\r", at)]))
    parts = []
    while size := int(await reader.readline(), 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readline()
    return b"".join(parts)
