"""What a run of the bench came to, as Markdown and as lines for a terminal."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import runs
from bench.figures import Rounds, short
from bench.http.works import CONNECTIONS
from bench.rows import EXTRAS, GROUPS, Judged, median

HEAD = """# Benchmarks

Written by `make bench`; do not edit. Every figure is of one run on one machine ({machine}). Each
measurement is a fresh process; those that are compared take turns, so a ratio's two sides saw the
same machine. A ratio is ours divided by the peer's: median (least to greatest) of {pairs} pairs.
A row is met if its median is. Where the load is above the cores, others were using the machine:
then the ratios stand, though wider, and rows without a peer say little.

Work: agents that call a no-op tool with a result of 500 bytes one step after the other, in one
asyncio process, each step durable before the next one begins (SQLite, `synchronous=FULL`,
write-ahead log). A step is the time from one call to the next of the same agent. Ours stores an
intent before and a result after each call; the peers store a step's result. Memory is what the
process grew by until all agents lived, by agent: of a single one, that is its engine's.
Sandboxes are measured in one round, each figure the p50 of 30 runs or more.

Over HTTP: one server process, {connections} connections, tasks of some 500 bytes. Processor time is
that of the server's whole process tree, for each task or answer. Requests a second and latencies
are of a server that shares this machine's cores with the load.
"""

SETTINGS = """## Settings of the peers

- **LangGraph**: `AsyncSqliteSaver` with `durability="sync"`, the only mode that is documented to
  have a step persisted before the next one starts. One node that comes back to itself, and the last
  result as its only state: the least that a graph can do.
- **DBOS**: async steps of a workflow on its SQLite system database, put into WAL mode (it leaves
  SQLite's default, which is slower). Its documentation recommends PostgreSQL for production.
- **aiosqlite**: one connection, `synchronous=FULL`, WAL, one insert and one commit a step, no
  orchestration: what most people write themselves, and the floor for the bare log.
- **langgraph dev**: `--no-reload --no-browser --allow-blocking --n-jobs-per-worker 0`, tracing and
  its log of requests off; a graph of one node that does nothing. A submit is a background run on a
  thread that the same request makes (`if_not_exists: create`); nothing runs it, as nothing runs the
  daemon's tasks. It is LangGraph's server for development (Elastic License 2.0). The durable one is
  a container with PostgreSQL and Redis that checks a licence: not measured.
- **FastAPI**: uvloop and httptools, one aiosqlite connection with `synchronous=FULL` and WAL; a
  task, its first event and its key in one commit for each request.
"""

FIGURES = {
    "steps_per_second": "steps/s",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "cpu_us_per_step": "CPU us a step",
    "live_kib_per_agent": "KiB a live agent",
    "alone_p99_ms": "p99 ms before the crowd",
    "beside_p99_ms": "p99 ms beside it",
    "after_p99_ms": "p99 ms after it",
    "alone_rss_mib": "MiB before it",
    "beside_rss_mib": "MiB beside it",
    "after_rss_mib": "MiB after it",
    "seconds": "seconds",
    "cpu_seconds": "CPU seconds",
    "cpu_ms": "CPU ms",
    "cpu_us": "CPU us",
    "loop_cpu_us": "of it in the loop's thread",
    "per_second": "a second",
    "answer_bytes": "bytes of an answer",
    "kept": "kept of 100",
    "start_ms": "ms to start",
}


@dataclass(frozen=True, slots=True)
class Run:
    """Everything of one run of the bench."""

    pairs: int
    groups: Mapping[str, Rounds]
    judged: Sequence[Judged]
    versions: Mapping[str, str]


def machine() -> str:
    """The class of this machine, and nothing that tells which one it is."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return ", ".join(
        (
            f"{platform.system()} {platform.machine()}",
            f"{os.cpu_count()} cores",
            f"{memory:.0f} GiB of memory",
            f"Python {platform.python_version()}",
            f"load average {os.getloadavg()[1]:.1f} at the end",
            f"{short(1000 * sync_seconds())} ms for 8 KiB to reach the disk",
        )
    )


def sync_seconds(count: int = 50) -> float:
    """Median of appending 8 KiB to a file and `fdatasync`."""
    taken = []
    with tempfile.TemporaryFile(dir=runs.WORK) as file:
        for _ in range(count):
            begun = time.perf_counter()
            os.write(file.fileno(), b"x" * 8192)
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - begun)
    return sorted(taken)[count // 2]


def row_cells(judged: Judged) -> tuple[str, str, str, str, str]:
    """What, beside whom, the target, the figure, and whether that is good enough."""
    row = judged.row
    return (
        row.what,
        row.peer or "-",
        row.target.text(row.unit),
        f"{judged.spread.text()} {row.unit}",
        "met" if judged.met else "**not met**",
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(cells) + " |" for cells in rows]
    return "\n".join(lines) + "\n"


def markdown(run: Run, machine: str) -> str:
    """The page in the docs."""
    head = HEAD.format(machine=machine, pairs=run.pairs, connections=CONNECTIONS)
    return "\n".join((head, section(run), SETTINGS))


def section(run: Run) -> str:
    """What was found, of however many groups."""
    missed = [judged for judged in run.judged if not judged.met]
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    parts = [f"Versions: {versions}.\n"]
    parts.append(f"**{len(run.judged) - len(missed)} of {len(run.judged)} rows are met.**\n")
    heads = ("what", "beside", "target", "figure", "")
    parts.append(table(heads, [row_cells(judged) for judged in run.judged]))
    parts.append("## What each engine told\n\nMedians of all runs.\n")
    noted: set[str] = set()
    for name, rounds in run.groups.items():
        if lines := engine_lines(rounds):
            figures = [figure for figure in FIGURES if any(figure in told for _, told in lines)]
            heads = (GROUPS[name].title, *(FIGURES[figure] for figure in figures))
            cells = [[who, *(told.get(figure, "") for figure in figures)] for who, told in lines]
            parts.append(table(heads, cells))
        parts += [f"{EXTRAS[engine]}\n" for engine in EXTRAS if engine in rounds.keys() - noted]
        noted |= rounds.keys()
    return "\n".join(parts)


def engine_lines(rounds: Rounds) -> list[tuple[str, dict[str, str]]]:
    """A line for each engine, or for each of its works where figures are called `WORK FIGURE`."""
    lines: dict[str, dict[str, str]] = {}
    for engine, told in rounds.items():
        for key in dict.fromkeys(key for figures in told for key in figures):
            work, _, figure = key.rpartition(" ")
            if figure in FIGURES:
                line = lines.setdefault(f"{engine}: {work}" if work else engine, {})
                line[figure] = median(rounds, engine, key)
    return list(lines.items())


def terminal(run: Run) -> str:
    """The same rows for a terminal, and a clear last line."""
    lines = []
    for judged in run.judged:
        what, peer, target, figure, verdict = row_cells(judged)
        beside = "" if peer == "-" else f" / {peer}"
        lines.append(f"{verdict.strip('*'):<8} {target:<10} {figure:<32} {what}{beside}")
    missed = sum(not judged.met for judged in run.judged)
    lines.append(
        f"{missed} of {len(run.judged)} rows are NOT MET" if missed else "all rows are met"
    )
    return "\n".join(lines)


def write(path: Path, text: str) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def note(text: str) -> None:
    """Progress, for whoever waits."""
    print(text, file=sys.stderr, flush=True)
