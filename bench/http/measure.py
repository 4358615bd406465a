"""One server in a process of its own under load: `python -m bench.http.measure KIND DIRECTORY`.

KIND: `get` (Starlette, a small GET: the least that anything costs), `submit` and `batch` (the
daemon, driving nothing, with an API key, idempotency keys and a rate limit), `streams` (the daemon,
1000 readers of one task), `fastapi` (FastAPI and aiosqlite, a commit for each task: the common
way). Prints what `load` or `streams` print.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
REQUESTS = 12_800
CONNECTIONS = 64
READERS = 1000
START_SECONDS = 60


def main() -> None:
    """Serve, load, tell."""
    kind, directory = sys.argv[1], Path(sys.argv[2])
    match kind:
        case "get" | "fastapi":
            module = "bench.http.baseline" if kind == "get" else "bench.peers.fastapi_tasks"
            with _serving([sys.executable, "-m", module], directory, lambda line: line) as found:
                process, port = found
                work = ("get", "/") if kind == "get" else ("submit", "/v1/tasks")
                _load(port, process, *work, REQUESTS, "")
        case _:
            with daemon(directory) as (process, port, key, token):
                if kind == "streams":
                    task = _post(port, token, "/v1/tasks", {"goal": "be read"})["id"]
                    _run("bench.http.streams", port, process.pid, task, token, READERS)
                else:
                    path = "/v1/tasks" if kind == "submit" else "/v1/tasks:batch"
                    count = REQUESTS if kind == "submit" else 256
                    _load(port, process, kind, path, count, key)


def _load(
    port: int, process: subprocess.Popen[str], kind: str, path: str, count: int, key: str
) -> None:
    lines = CONNECTIONS if kind != "batch" else 8
    _run("bench.http.load", port, process.pid, kind, path, count, lines, *([key] if key else []))


def _run(module: str, *words: object) -> None:
    subprocess.run([sys.executable, "-m", module, *map(str, words)], check=True, cwd=ROOT)


@contextmanager
def _serving(
    argv: list[str], directory: Path, port_in: Any, path: Sequence[Path] = (ROOT,)
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server that says its port in a line on stdout."""
    env = {**os.environ, "BENCH_DIRECTORY": str(directory)}
    env["PYTHONPATH"] = os.pathsep.join(map(str, path))
    process = subprocess.Popen(
        argv, cwd=directory, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        port = ""
        while not port:
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"{argv} ended before it served")
            port = port_in(line.strip())
        yield process, int(port)
    finally:
        process.kill()
        process.wait()


@contextmanager
def daemon(
    directory: Path, path: Sequence[Path] = (ROOT,)
) -> Iterator[tuple[subprocess.Popen[str], int, str, str]]:
    """The daemon, a key of which the rate is no bound, and the local token. `path`: PYTHONPATH."""
    argv = [
        *(sys.executable, "-m", "agent_runtime", "--store", f"sqlite:///{directory}/store.db"),
        *("serve", "--port", "0", "--unsafe-no-sandbox"),
    ]
    os.environ["AGENT_RUNTIME_TASKS_MAX"] = "0"

    def port_in(line: str) -> str:
        return line.rpartition(":")[2] if " serves at " in line else ""

    with _serving(argv, directory, port_in, path) as (process, port):
        token = (directory / "token").read_text(encoding="utf-8").strip()
        wish = {"name": "bench", "role": "admin", "rate": 1_000_000}
        made = _post(port, token, "/v1/keys", wish)
        yield process, port, str(made["secret"]), token


def _post(port: int, token: str, path: str, body: object) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                told: dict[str, Any] = json.loads(answer.read())
                return told
        except OSError as error:
            if time.monotonic() > deadline or getattr(error, "code", 503) != 503:
                raise
            time.sleep(0.1)


if __name__ == "__main__":
    main()
