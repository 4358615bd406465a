"""The common way to take tasks in: FastAPI, pydantic, aiosqlite, a commit for each task.

It keeps idempotency keys and stores a task and its first event, as the daemon does. It asks for no
credentials and bounds no rate, which is in its favour; there is no group commit, because nobody
writes one at first.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiosqlite
import uvicorn
from fastapi import FastAPI, Header, HTTPException
from pydantic import BaseModel, Field

PATH = os.path.join(os.environ["BENCH_DIRECTORY"], "tasks.db")
SCHEMA = """
PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS tasks (id TEXT PRIMARY KEY, status TEXT, body TEXT, created REAL);
CREATE TABLE IF NOT EXISTS events (task TEXT, seq INTEGER, data TEXT, PRIMARY KEY (task, seq));
CREATE TABLE IF NOT EXISTS keys (key TEXT PRIMARY KEY, task TEXT);
"""
SELECT = "SELECT id, status, body FROM tasks"


class Task(BaseModel):
    """What comes in."""

    goal: str = Field(min_length=1)
    labels: dict[str, str] = {}
    priority: int = Field(5, ge=0, le=9)


class State:
    """The one connection."""

    db: aiosqlite.Connection


@asynccontextmanager
async def life(app: FastAPI) -> AsyncIterator[None]:
    """Open and close the store."""
    async with aiosqlite.connect(PATH) as db:
        await db.executescript(SCHEMA)
        State.db = db
        yield


app = FastAPI(lifespan=life)


@app.post("/v1/tasks", status_code=201)
async def submit(task: Task, idempotency_key: str = Header()) -> dict[str, object]:
    """Store it, durably."""
    db = State.db
    async with db.execute("SELECT task FROM keys WHERE key = ?", (idempotency_key,)) as found:
        if known := await found.fetchone():
            return {"id": known[0]}
    task_id, now = uuid.uuid4().hex, time.time()
    body = task.model_dump_json()
    await db.execute("INSERT INTO tasks VALUES (?, 'pending', ?, ?)", (task_id, body, now))
    await db.execute("INSERT INTO events VALUES (?, 1, ?)", (task_id, json.dumps({"at": now})))
    await db.execute("INSERT INTO keys VALUES (?, ?)", (idempotency_key, task_id))
    await db.commit()
    return {"id": task_id, "status": "pending", **task.model_dump()}


@app.get("/v1/tasks/{task_id}")
async def get(task_id: str) -> dict[str, object]:
    """One task."""
    async with State.db.execute(f"{SELECT} WHERE id = ?", (task_id,)) as found:
        row = await found.fetchone()
    if row is None:
        raise HTTPException(404)
    return shown(row)


@app.get("/v1/tasks")
async def newest(limit: int = 50) -> list[dict[str, object]]:
    """The newest ones."""
    async with State.db.execute(f"{SELECT} ORDER BY rowid DESC LIMIT ?", (limit,)) as found:
        return [shown(row) async for row in found]


def shown(row: Any) -> dict[str, object]:
    """As `submit` tells it."""
    return {"id": row[0], "status": row[1], **json.loads(row[2])}


if __name__ == "__main__":
    uvicorn.run(
        app, port=int(sys.argv[1]), log_config=None, access_log=False, loop="uvloop",
        http="httptools",
    )  # fmt: skip
