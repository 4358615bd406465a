"""`make crashes`: one kill -9 around an effect, every engine on its own durable store.

Exit code 1 if the runtime repeats an effect, or does not say what it cannot know.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import report, runs
from bench.crashes import ours, outside

PAGE = runs.ROOT / "docs" / "crash-matrix.md"
RESULTS = runs.ROOT / "bench" / "results" / "crashes.json"
KILLED = -9
SECONDS_MAX = 120.0

HEAD = """# The crash matrix

Written by `make crashes`; do not edit. Each cell is a real process that was killed with SIGKILL
once, at that place, and was then resumed as its documentation says, on its own durable store. The
effect is a request to the world outside, which is on the disk there before the call goes on; it is
counted there, not by the engine. Versions: {versions}.

What nobody can do is make an outside effect happen exactly once. What can be done is to know what
may have happened, and to say so: **one effect, or one effect and a reported unknown**.
"""

NOTES = """## How to read it

- **read**: looked again, nothing changed. **workspace**: the command ran twice, the working copy
  went back to the tree from before in between, so its result has the effect once. **idempotent**:
  two requests with the same key, which the receiver takes for one. **probe**: the tool looked
  before it was run again. **once**: never run again; the task waits for a person, who is told that
  the effect is unknown, also where it had not happened.
- A class is a promise of the tool's author (`effect=`). The peers have none: to be safe, every
  effect must be idempotent, and their documentation asks for that.

## Settings

- **LangGraph**: `AsyncSqliteSaver`, `durability="sync"`, its most durable mode; resumed by
  `ainvoke(None, …)` on the same thread. Its documentation of durable execution asks to make side
  effects idempotent.
- **DBOS**: SQLite system database in WAL mode; launching recovers. Its documentation says that a
  step runs at least once. (Its transactions, for writes to one's own database, are not outside.)
- **OpenAI Agents SDK**: `SQLiteSession` in a file, and a stub model by the SDK's own interface
  that asks for what has no result in its conversation. A run that died cannot be resumed
  (`RunState` is for runs that stopped by themselves), so the agent is run again on the same
  session.
- **a plain script**: aiosqlite, `synchronous=FULL`, a row for each step that is done.
"""


@dataclass(frozen=True, slots=True)
class Cell:
    """One life."""

    engine: str
    effect: str
    place: str
    runs: int
    effects: int
    reported: bool
    said: str
    kept: bool

    def text(self) -> str:
        """For the table."""
        count = f"{self.effects} effect" + ("" if self.effects == 1 else "s")
        if self.effect == "read":
            count = f"looked {self.runs} x, changed nothing"
        if self.reported:
            return f"{count}, told: unknown"
        return count if self.kept else f"**{count}, not told**"


PEERS: Mapping[str, str] = {
    "LangGraph": "bench.crashes.langgraph_agent",
    "DBOS": "bench.crashes.dbos_agent",
    "OpenAI Agents SDK": "bench.crashes.openai_agents_agent",
    "a plain script": "bench.crashes.script",
}
OURS = "agent-runtime"


def our_cell(effect: str, place: str) -> Cell:
    """The runtime, one class of effects."""
    with _home() as home:
        seen = ours.live(effect, place, home)
    return Cell(OURS, effect, place, seen.runs, seen.effects, seen.reported, seen.said,
                seen.kept(effect))  # fmt: skip


def peer_cell(engine: str, place: str) -> tuple[Cell, dict[str, str]]:
    """A peer, and its versions."""
    with _home() as home:
        first = _run(engine, "first", home, place)
        if first.returncode != KILLED:
            raise runs.Failed(f"{engine} was to be killed {place}: {first.stderr[-2000:]}")
        again = _run(engine, "again", home, "")
        if again.returncode != 0:
            raise runs.Failed(f"{engine} did not resume: {again.stderr[-2000:]}")
        told: dict[str, Any] = json.loads(again.stdout.strip().splitlines()[-1])
        if told["ended"] != "closed":
            raise runs.Failed(f"{engine} was resumed and ended {told['ended']!r}")
        effects = len(outside.taken(home / "requests"))
    kept = effects == 1 or (effects == 0 and told["reported"])
    cell = Cell(engine, "", place, effects, effects, told["reported"], told["said"], kept)
    return cell, told["versions"]


def _run(engine: str, what: str, home: Path, place: str) -> subprocess.CompletedProcess[str]:
    env = {
        **os.environ,
        "PYTHONPATH": str(runs.ROOT),
        "LANGSMITH_TRACING": "false",
        outside.REQUESTS: str(home / "requests"),
        outside.DIE: place,
    }
    argv = [str(runs.PEERS), "-m", PEERS[engine], what, str(home)]
    return subprocess.run(
        argv, cwd=home, env=env, capture_output=True, text=True, timeout=SECONDS_MAX
    )


def _home() -> _Home:
    return _Home()


class _Home:
    """A directory that the sandbox's user may enter."""

    def __enter__(self) -> Path:
        self._directory = tempfile.TemporaryDirectory(dir=runs.work(), prefix="crash-")
        path = Path(self._directory.name)
        path.chmod(0o755)
        return path

    def __exit__(self, *error: object) -> None:
        self._directory.cleanup()


def markdown(cells: Sequence[Cell], versions: Mapping[str, str]) -> str:
    """The page in the docs."""
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    rows, said = [], []
    for engine, effect in dict.fromkeys((cell.engine, cell.effect) for cell in cells):
        row = {c.place: c for c in cells if (c.engine, c.effect) == (engine, effect)}
        rows.append([engine, effect or "-", *(row[place].text() for place in outside.PLACES)])
        between = row[outside.BETWEEN]
        said.append([engine, effect or "-", between.said])
    heads = ("engine", "effect class", *(f"killed {place}" for place in outside.PLACES.values()))
    parts = [HEAD.format(versions=told), report.table(heads, rows)]
    parts.append("## What is known afterwards\n\nKilled between the effect and its record:\n")
    parts.append(report.table(("engine", "effect class", "it says"), said))
    parts.append(NOTES)
    return "\n".join(parts)


def main() -> None:
    """Kill, resume, count, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.crashes", description=__doc__)
    parser.add_argument("--no-page", action="store_true", help="leave docs/crash-matrix.md alone")
    given = parser.parse_args()
    cells: list[Cell] = []
    versions = ours.versions()
    try:
        for effect in ours.CLASSES:
            report.note(f"{OURS}, {effect} …")
            cells += [our_cell(effect, place) for place in outside.PLACES]
        for engine in PEERS:
            report.note(f"{engine} …")
            for place in outside.PLACES:
                cell, found = peer_cell(engine, place)
                cells.append(cell)
                versions.update(found)
    except runs.Failed as error:
        sys.exit(str(error))
    for cell in cells:
        where = outside.PLACES[cell.place]
        print(f"{cell.engine:<18} {cell.effect:<11} {where:<34} {cell.text()}")
    found_all = {"versions": versions, "cells": [asdict(cell) for cell in cells]}
    report.write(RESULTS, json.dumps(found_all, indent=1))
    if not given.no_page:
        report.write(PAGE, markdown(cells, versions))
        print(f"written: {PAGE.relative_to(runs.ROOT)}")
    broken = [cell for cell in cells if cell.engine == OURS and not cell.kept]
    if broken:
        sys.exit(f"{len(broken)} promises of the runtime are broken")
    print("one effect, or at most one and a reported unknown: kept everywhere by the runtime")


if __name__ == "__main__":
    main()
