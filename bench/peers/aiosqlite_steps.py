"""What most people write: one aiosqlite connection, one insert and one commit a step."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import Sequence
from importlib.metadata import version

import aiosqlite

from bench import meter
from bench.meter import OUTPUT, Meter

TABLE = """CREATE TABLE events (agent TEXT NOT NULL, seq INTEGER NOT NULL, type TEXT NOT NULL,
    data TEXT NOT NULL, at REAL NOT NULL, PRIMARY KEY (agent, seq))"""


async def measure(directory: str, waves: Sequence[Meter], agents: int) -> None:
    """Let `agents` agents write at once, wave after wave."""
    db = await aiosqlite.connect(os.path.join(directory, "steps.db"))
    await db.execute("PRAGMA journal_mode=WAL")
    await db.execute("PRAGMA synchronous=FULL")
    await db.execute(TABLE)
    await db.commit()
    lock = asyncio.Lock()

    async def agent(name: str, wave: Meter) -> None:
        for number in range(wave.calls):
            await wave.call(name, number)
            data = json.dumps({"call": f"s{number}.1", "ok": True, "exit": 0, "output": OUTPUT})
            row = (name, number, "CallReturned", data, time.time())
            async with lock:
                await db.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?)", row)
                await db.commit()

    for index, wave in enumerate(waves):
        await asyncio.gather(*(agent(f"a{index}-{n}", wave) for n in range(agents)))
    await db.close()


def main() -> None:
    """`python -m bench.peers.aiosqlite_steps steps DIRECTORY`: one line of JSON."""
    given = meter.arguments()
    waves = meter.meters(given)
    asyncio.run(measure(given.directory, waves, given.agents))
    versions = {"aiosqlite": version("aiosqlite"), "SQLite": sqlite3.sqlite_version}
    meter.tell_steps(waves, versions=versions)


if __name__ == "__main__":
    main()
