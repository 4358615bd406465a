"""What others get while ten thousand want nothing: `python -m bench.http.hostile PORT PID TOKEN`.

Others ask at a steady rate, for a list, a task and a submission in turn, each tenth on a connection
of its own: alone, beside the crowd, alone again. Prints JSON: their latencies, how many were not
served, and the server's memory. Where the crowd's number is above what a server holds, it is the
crowd's older connections that have to go.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.http.processes import cpu_seconds

ROOT = Path(__file__).parents[2]
IDLE, SLOW = 10_000, 100
PROCESSES = 2
"""Of the crowd: files of one process are bounded."""
RATE, LINES = 200, 16
ALONE_SECONDS, BESIDE_SECONDS = 10, 30
"""Beside them longer: those that said nothing are let go after 15 s, and come back."""
GONE_SECONDS_MAX = 30.0
RSS_SECONDS = 3.0

TASK = {
    "goal": "Make the parser keep comments that follow the last statement of a script. " * 4,
    "labels": {"team": "parsers", "ticket": "PARSE-1234", "run": "7"},
    "priority": 5,
}


class Others:
    """They ask, and wait for the answer, however long it takes."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        data = json.dumps(TASK).encode()
        credentials = f" HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
        post = f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        self._asks = (
            f"GET /v1/tasks?limit=20{credentials}\r\n".encode(),
            f"GET /v1/tools{credentials}\r\n".encode(),
            f"POST /v1/tasks{credentials}{post}".encode() + data,
        )
        self.statuses: Counter[str] = Counter()
        self.ms: list[float] = []

    async def ask(self, seconds: float) -> None:
        """For so long, `RATE` a second."""
        self.statuses, self.ms = Counter(), []
        begun = time.perf_counter()
        each = [
            [begun + number / RATE for number in range(line, int(seconds * RATE), LINES)]
            for line in range(LINES)
        ]
        await asyncio.gather(*(self._line(line, moments) for line, moments in enumerate(each)))
        self.ms.sort()

    def figures(self, name: str) -> dict[str, float]:
        """Latencies from the moment at which they were to ask; who was not served."""
        served = sum(self.statuses[status] for status in ("200", "201"))
        return {
            f"{name}_p50_ms": self.ms[len(self.ms) // 2],
            f"{name}_p99_ms": self.ms[int(len(self.ms) * 0.99)],
            f"{name}_max_ms": self.ms[-1],
            f"{name}_refused": sum(self.statuses.values()) - served,
        }

    async def _line(self, line: int, moments: list[float]) -> None:
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        for number, moment in enumerate(moments):
            await asyncio.sleep(moment - time.perf_counter())
            try:
                if streams is None or number % 10 == 0:
                    if streams is not None:
                        streams[1].close()
                    streams = await asyncio.open_connection("127.0.0.1", self._port)
                reader, writer = streams
                writer.write(self._asks[(line + number) % len(self._asks)])
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                at = head.index(b"content-length:") + 15
                await reader.readexactly(int(head[at : head.index(b"\r", at)]))
                self.statuses[head[9:12].decode()] += 1
            except (OSError, asyncio.IncompleteReadError) as error:
                self.statuses[type(error).__name__] += 1
                streams = None
            self.ms.append((time.perf_counter() - moment) * 1e3)
        if streams is not None:
            streams[1].close()


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def files(pid: int) -> int:
    """How many it has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


@contextmanager
def crowd(port: int, token: str, idle: int, slow: int, told: Counter[str]) -> Iterator[None]:
    """They are there, and in the end gone; what they were told is added to `told`."""
    with ExitStack() as stack:
        found = [
            stack.enter_context(
                subprocess.Popen(
                    [
                        *(sys.executable, "-m", "bench.http.crowd", str(port)),
                        *(str(idle // PROCESSES), str(slow // PROCESSES), token),
                    ],
                    cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                )
            )
            for _ in range(PROCESSES)
        ]  # fmt: skip
        for process in found:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise SystemExit("the crowd did not come")
        yield
        for process in found:
            said, _ = process.communicate()
            told.update(json.loads(said.splitlines()[-1]))


async def main(given: argparse.Namespace) -> None:
    """Alone, beside them, alone."""
    port, pid = given.port, given.pid
    others = Others(port, given.token)
    await others.ask(2)  # what is made once, is made
    figures: dict[str, object] = {"idle": given.idle, "slow": 2 * given.slow}
    await others.ask(given.alone)
    figures |= others.figures("alone")
    figures |= {"alone_rss_mib": rss_mib(pid), "alone_files": files(pid)}
    told: Counter[str] = Counter()
    begun = time.perf_counter()
    with crowd(port, given.token, given.idle, given.slow, told):
        figures["came_in_seconds"] = time.perf_counter() - begun
        # All are there now; later some have been let go, and are on their way back.
        figures["beside_files"] = files(pid)
        used, begun = cpu_seconds(pid), time.perf_counter()
        await others.ask(given.beside)
        figures |= others.figures("beside")
        share = (cpu_seconds(pid) - used) / (time.perf_counter() - begun)
        figures["beside_rss_mib"] = rss_mib(pid)
        figures |= {"beside_cpu_share": share}
    figures["crowd"] = dict(told)
    deadline = time.perf_counter() + GONE_SECONDS_MAX
    while files(pid) > int(str(figures["alone_files"])) + LINES:
        if time.perf_counter() > deadline:
            raise SystemExit(f"{files(pid)} files are still open")
        await asyncio.sleep(0.1)
    await asyncio.sleep(RSS_SECONDS)
    figures["after_rss_mib"] = rss_mib(pid)
    before, beside, after = (
        float(str(figures[f"{when}_rss_mib"])) for when in ("alone", "beside", "after")
    )
    figures["kib_a_connection"] = (beside - before) * 1024 / (given.idle + 2 * given.slow)
    figures["stays_mib"] = after - before
    await others.ask(given.alone)
    figures |= others.figures("after")
    print(json.dumps(figures))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("pid", type=int)
    parser.add_argument("token")
    parser.add_argument("--idle", type=int, default=IDLE)
    parser.add_argument("--slow", type=int, default=SLOW)
    parser.add_argument("--alone", type=float, default=ALONE_SECONDS)
    parser.add_argument("--beside", type=float, default=BESIDE_SECONDS)
    asyncio.run(main(parser.parse_args()))
