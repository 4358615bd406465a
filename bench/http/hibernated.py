"""A daemon with many tasks beside an empty one: `python -m bench.http.hibernated 100000 DIRECTORY`.

One has so many tasks that wait for an approval, and 1,000 that run, each in a call of a tool that
goes on; the other has two pages of tasks that wait. They are asked the same in turns. Prints JSON:
memory, and for each kind of request how many times the empty one's time, and its CPU time, the full
one takes: the median of thirty pairs of turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import anyio

from bench.http.hostile import TASK, rss_mib
from bench.http.load import Line
from bench.http.processes import ROOT, daemon, post
from bench.ours.hibernated import SUBMITTERS, fill
from bench.ours.world import opened

FEW = 100
TEAMS = 20
PAGES = 20
"""That are turned before the page that is measured as one far behind."""
REQUESTS, LINES = 48, 4
LIVE_SECONDS_MAX = 180.0
QUIET_SHARE = 0.05

LIVE: Mapping[str, object] = {
    "goal": "live",
    "policy": {"tools": ["linger"]},
    "plan": {"steps": [{"id": "wait", "tool": "linger"}]},
}


class Server:
    """One of the two."""

    def __init__(self, pid: int, port: int, key: str) -> None:
        self.pid, self.port, self.key = pid, port, key
        self._asked = 0

    def get(self, path: str) -> bytes:
        """One answer."""
        asked = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", headers={"Authorization": f"Bearer {self.key}"}
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return bytes(answer.read())

    def list(self, path: str) -> dict[str, Any]:
        """One page."""
        told: dict[str, Any] = json.loads(self.get(path))
        return told

    def driven(self) -> int:
        """Tasks."""
        for line in self.get("/metrics").decode().splitlines():
            if line.startswith("agent_runtime_tasks_driven "):
                return int(float(line.split()[1]))
        raise SystemExit("/metrics does not tell how many tasks are driven")

    def cpu_seconds(self) -> float:
        """Of all threads, to the nanosecond."""
        total = 0
        for task in os.listdir(f"/proc/{self.pid}/task"):
            with open(f"/proc/{self.pid}/task/{task}/schedstat", encoding="ascii") as file:
                total += int(file.read().split()[0])
        return total / 1e9

    def quiet(self, deadline: float) -> None:
        """Until it has little to do."""
        while True:
            used = self.cpu_seconds()
            time.sleep(1)
            if self.cpu_seconds() - used < QUIET_SHARE:
                return
            if time.perf_counter() > deadline:
                raise SystemExit("the daemon does not come to rest")

    async def ask(self, kind: str, path: str) -> tuple[float, float]:
        """Milliseconds of an answer, the median, and microseconds of CPU for each."""
        self._asked += 1
        seconds: list[float] = []
        used = self.cpu_seconds()
        await asyncio.gather(*(self._line(kind, path, line, seconds) for line in range(LINES)))
        return median(seconds) * 1e3, (self.cpu_seconds() - used) / REQUESTS * 1e6

    async def _line(self, kind: str, path: str, line: int, seconds: list[float]) -> None:
        head = f"{path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self.key}\r\n"
        async with Line.opened(self.port) as opened_line:
            for at in range(REQUESTS // LINES):
                asked = f"GET {head}\r\n".encode()
                if kind == "submit":
                    data = json.dumps(TASK).encode()
                    head_ = f"POST {head}Idempotency-Key: {self._asked}-{line}-{at}\r\n"
                    head_ += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
                    asked = f"{head_}\r\n".encode() + data
                begun = time.perf_counter()
                status, body = await opened_line.ask(asked)
                seconds.append(time.perf_counter() - begun)
                if status not in {200, 201}:
                    raise SystemExit(f"{kind} {path}: {status}: {body[:300]!r}")


def kinds(full: Server, few: Server) -> dict[str, Callable[[Server], tuple[str, str]]]:
    """What is asked: the kind of a request, and its path on each of the two."""
    cursors = {server.port: _far(server) for server in (full, few)}
    listing = "/v1/tasks?limit=50"
    return {
        "submit": lambda _: ("submit", "/v1/tasks"),
        "list": lambda _: ("get", listing),
        "list_status": lambda _: ("get", f"{listing}&status=waiting"),
        "list_label": lambda _: ("get", f"{listing}&label=team=t0"),
        "list_both": lambda _: ("get", f"{listing}&status=waiting&label=team=t0"),
        "list_submitter": lambda _: ("get", f"{listing}&submitted_by=key:s0"),
        "list_far": lambda server: ("get", f"{listing}&cursor={cursors[server.port]}"),
    }


def _far(server: Server) -> str:
    cursor, pages = "", 0
    while pages < PAGES:
        page = server.list(f"/v1/tasks?limit=50&status=waiting&cursor={cursor}")
        if not page["next_cursor"]:
            break
        cursor, pages = str(page["next_cursor"]), pages + 1
    return cursor


async def compare(full: Server, few: Server, rounds: int) -> dict[str, float]:
    """In turns; neither is always the second, and each turn is set beside the one next to it."""
    figures: dict[str, float] = {}
    for name, what in kinds(full, few).items():
        seen: dict[Server, list[tuple[float, float]]] = {few: [], full: []}
        for turn in range(rounds):
            for server in (few, full) if turn % 2 else (full, few):
                seen[server].append(await server.ask(*what(server)))
        for at, (figure, ratio) in enumerate((("ms", "time"), ("cpu_us", "cpu"))):
            pairs = [(a[at], b[at]) for a, b in zip(seen[full], seen[few], strict=True)]
            figures[f"{name}_{figure}"] = median(a for a, _ in pairs)
            figures[f"{name}_{ratio}_ratio"] = median(a / b for a, b in pairs)
    for ratio in ("time", "cpu"):
        lists = (figures[f"{name}_{ratio}_ratio"] for name in kinds(full, few) if "list" in name)
        figures[f"lists_{ratio}_ratio"] = max(lists)
    return figures


async def _fill(directory: Path, count: int, *, submitters: int, teams: int) -> None:
    async with opened(str(directory)) as store:
        await fill(store, count, submitters=submitters, teams=teams)


def main() -> None:
    """Fill, serve, make live, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("waiting", type=int)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--live", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=30)
    given = parser.parse_args()
    places = [given.directory / name for name in ("few", "full")]
    for place in places:
        place.mkdir()
    anyio.run(lambda: _fill(places[0], FEW, submitters=1, teams=1))
    anyio.run(lambda: _fill(places[1], given.waiting, submitters=SUBMITTERS, teams=TEAMS))
    settings = {
        "AGENT_RUNTIME_TASKS_MAX": str(given.live),
        "AGENT_RUNTIME_PLUGINS": "bench-waiting",
        "AGENT_RUNTIME_SANDBOX_SPARES": "0",
    }
    path = (Path(__file__).parent / "plugin", ROOT)
    with daemon(places[0], path) as empty, daemon(places[1], path, settings) as other:
        few, full = (Server(it[0].pid, it[1], it[2]) for it in (empty, other))
        figures: dict[str, float] = {"waiting": given.waiting, "live": given.live}
        deadline = time.perf_counter() + LIVE_SECONDS_MAX
        for server in (few, full):
            server.get("/v1/tasks?status=waiting&limit=50")
            server.quiet(deadline)
        figures |= {"few_rss_mib": rss_mib(few.pid), "waiting_rss_mib": rss_mib(full.pid)}
        for start in range(0, given.live, 100):
            tasks = [LIVE] * min(100, given.live - start)
            post(full.port, full.key, "/v1/tasks:batch", {"tasks": tasks})
        while (driven := full.driven()) < given.live:
            if time.perf_counter() > deadline:
                raise SystemExit(f"{driven} of {given.live} tasks are live")
            time.sleep(0.2)
        full.quiet(deadline)
        figures |= {"live_at_once": full.driven(), "rss_mib": rss_mib(full.pid)}
        live_kib = (figures["rss_mib"] - figures["waiting_rss_mib"]) * 1024 / given.live
        figures["live_kib_per_agent"] = live_kib
        figures |= asyncio.run(compare(full, few, given.rounds))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
