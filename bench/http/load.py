"""A load generator: many connections in one process, one request after another on each.

It speaks HTTP/1.1 by hand, so that the server is what is measured: `python -m bench.http.load PORT
PID KIND N CONNECTIONS [TOKEN]` prints JSON: the server's CPU microseconds a request, latencies, and
how many answers had which status.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

KINDS = ("get", "submit", "batch")
BATCH = 50
GOAL = "Make the parser keep comments that follow the last statement of a script. " * 4


def body(kind: str) -> bytes:
    """About 500 bytes for one task."""
    task = {"goal": GOAL[:330], "labels": {"team": "parsers", "ticket": "PARSE-1234", "run": "7"},
            "priority": 5}  # fmt: skip
    return json.dumps({"tasks": [task] * BATCH} if kind == "batch" else task).encode()


def request(kind: str, path: str, token: str, key: str) -> bytes:
    """The bytes of one request."""
    head = f"{'GET' if kind == 'get' else 'POST'} {path} HTTP/1.1\r\nHost: localhost\r\n"
    if token:
        head += f"Authorization: Bearer {token}\r\n"
    if kind == "get":
        return f"{head}\r\n".encode()
    data = body(kind)
    head += f"Idempotency-Key: {key}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


def cpu_seconds(pid: int) -> float:
    """Of a process, user and system, with its threads."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def one(
    port: int, requests: list[bytes], seconds: list[float], statuses: dict[int, int]
) -> None:
    """One connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for data in requests:
        begun = time.perf_counter()
        writer.write(data)
        head = await reader.readuntil(b"\r\n\r\n")
        lower = head.lower()
        at = lower.index(b"content-length:") + 15
        await reader.readexactly(int(lower[at : lower.index(b"\r", at)]))
        seconds.append(time.perf_counter() - begun)
        status = int(head[9:12])
        statuses[status] = statuses.get(status, 0) + 1
    writer.close()


async def main(
    port: int, pid: int, kind: str, path: str, count: int, lines: int, token: str
) -> None:
    """Warm up, then measure."""
    nonce = f"{os.getpid()}-{time.time_ns()}"
    seconds: list[float] = []
    statuses: dict[int, int] = {}
    warm = [request(kind, path, token, f"{nonce}-w{at}") for at in range(20)]
    await one(port, warm, [], {})
    each = count // lines
    work = [
        [request(kind, path, token, f"{nonce}-{line}-{at}") for at in range(each)]
        for line in range(lines)
    ]
    cpu, begun = cpu_seconds(pid), time.perf_counter()
    await asyncio.gather(*(one(port, requests, seconds, statuses) for requests in work))
    took, used = time.perf_counter() - begun, cpu_seconds(pid) - cpu
    done = each * lines * (BATCH if kind == "batch" else 1)
    seconds.sort()
    print(
        json.dumps(
            {
                "cpu_us": used / done * 1e6,
                "per_second": done / took,
                "p50_ms": seconds[len(seconds) // 2] * 1e3,
                "p99_ms": seconds[int(len(seconds) * 0.99)] * 1e3,
                "statuses": statuses,
            }
        )
    )


if __name__ == "__main__":
    port, pid, kind, path, count, lines, *rest = sys.argv[1:]
    asyncio.run(
        main(int(port), int(pid), kind, path, int(count), int(lines), rest[0] if rest else "")
    )
