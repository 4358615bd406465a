"""A plain script on aiosqlite, as most people write one: what is recorded is not done again."""

from __future__ import annotations

import asyncio
import os
import sys
from importlib.metadata import version

import aiosqlite

from bench.crashes import outside


async def main() -> None:
    """`first` and `again` are the same call."""
    db = await aiosqlite.connect(os.path.join(sys.argv[2], "script.db"))
    await db.execute("PRAGMA journal_mode=WAL")
    await db.execute("PRAGMA synchronous=FULL")
    await db.execute("CREATE TABLE IF NOT EXISTS done (step TEXT PRIMARY KEY)")
    for name, step in (("pay", outside.pay), ("close", outside.close)):
        found = await db.execute_fetchall("SELECT 1 FROM done WHERE step = ?", (name,))
        if not list(found):
            step()
            await db.execute("INSERT INTO done VALUES (?)", (name,))
            await db.commit()
    await db.close()
    outside.tell(
        ended="closed",
        said="its table has one row for pay",
        reported=False,
        versions={"aiosqlite": version("aiosqlite")},
    )


asyncio.run(main())
