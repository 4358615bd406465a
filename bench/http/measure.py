"""One server in a process of its own under load: `python -m bench.http.measure KIND DIRECTORY`.

KIND: `starlette` (a small GET: the least that anything costs), `daemon`, `parts` and `batch` (the
daemon, driving nothing, with an API key, idempotency keys and a rate limit), `streams` (the daemon,
1000 readers of one task), `hostile` (the daemon, beside ten thousand that want nothing), `fastapi`
(FastAPI and aiosqlite, a commit for each task: the common way), `langgraph` (`langgraph dev`,
driving nothing). What each is asked is in `works`, `streams` and `hostile`. Prints one JSON object:
figures as `WORK FIGURE`, and the versions.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.http.load import Failed, Load
from bench.http.processes import ROOT, daemon, free_port, post, serving
from bench.http.works import GET, SUBMIT, WORKS

READERS = 1000
KEPT = 100

_VERSIONS = {
    "starlette": ("starlette", "uvicorn"),
    "fastapi": ("fastapi", "aiosqlite"),
    "langgraph": ("langgraph-api", "langgraph-runtime-inmem", "langgraph-cli"),
}


def main() -> None:
    """Serve, load, tell."""
    kind, directory = sys.argv[1], Path(sys.argv[2])
    if kind == "streams":
        _streams(directory)
        return
    if kind == "hostile":
        _hostile(directory)
        return
    try:
        told = _kept(kind, directory) | _loaded(kind, directory)
    except Failed as error:
        raise SystemExit(f"{kind}: {error}") from None
    packages = _VERSIONS.get(kind, ("agent-runtime",))
    print(json.dumps({**told, "versions": {name: version(name) for name in packages}}))


def _loaded(kind: str, directory: Path) -> dict[str, Any]:
    with _server(kind, directory) as load:
        return asyncio.run(load.run(WORKS[kind]))


def _kept(kind: str, directory: Path) -> dict[str, Any]:
    """How many of a hundred tasks are there after a SIGKILL that follows the last answer."""
    works = {work.name: work for work in WORKS[kind]}
    if SUBMIT not in works:
        return {}
    with _server(kind, directory) as load:
        made = asyncio.run(load.submit(works[SUBMIT], KEPT))
    with _server(kind, directory) as load:
        return {f"{SUBMIT} kept": asyncio.run(load.found(works[GET], made))}


@contextmanager
def _server(kind: str, directory: Path) -> Iterator[Load]:
    if kind in ("daemon", "parts", "batch"):
        with daemon(directory) as (process, port, key, _):
            yield Load(port, process.pid, key)
        return
    port = free_port()
    env: dict[str, str] = {}
    match kind:
        case "starlette":
            argv = [sys.executable, "-m", "bench.http.baseline", str(port)]
        case "fastapi":
            argv = [sys.executable, "-m", "bench.peers.fastapi_tasks", str(port)]
        case "langgraph":
            from bench.peers.langgraph_dev import ENV, command

            argv, env = command(directory, port), ENV
        case _:
            raise SystemExit(f"{kind!r} is no server; there are {', '.join(WORKS)} and streams")
    with serving(argv, directory, port=port, env=env) as process:
        yield Load(port, process.pid, "")


def _streams(directory: Path) -> None:
    with daemon(directory) as (process, port, _, token):
        task = post(port, token, "/v1/tasks", {"goal": "be read"})["id"]
        words = map(str, (port, process.pid, task, token, READERS))
        module = "bench.http.streams"
        subprocess.run([sys.executable, "-m", module, *words], check=True, cwd=ROOT, env=os.environ)


def _hostile(directory: Path) -> None:
    with daemon(directory) as (process, port, key, _):
        words = map(str, (port, process.pid, key))
        module = "bench.http.hostile"
        subprocess.run([sys.executable, "-m", module, *words], check=True, cwd=ROOT, env=os.environ)


if __name__ == "__main__":
    main()
