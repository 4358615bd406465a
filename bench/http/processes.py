"""Servers in processes of their own, and the processor time that they use."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
START_SECONDS = 60


def cpu_seconds(pid: int) -> float:
    """Of a process, its threads and all its descendants, user and system; in ticks of 10 ms."""
    parents, ticks = {}, {}
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended: then its time is in its parent's
            parent, *times = _stat(directory)
            parents[int(directory.name)], ticks[int(directory.name)] = parent, sum(times)
    family = [pid]
    for member in family:
        family += [child for child, parent in parents.items() if parent == member]
    return sum(ticks[member] for member in family) / os.sysconf("SC_CLK_TCK")


def loop_cpu_seconds(pid: int) -> float:
    """Of a process's first thread alone: that of its event loop."""
    _, user, system, *_ = _stat(Path(f"/proc/{pid}/task/{pid}"))
    return (user + system) / os.sysconf("SC_CLK_TCK")


def _stat(directory: Path) -> list[int]:
    """The parent; ticks in user and in system mode, and both of ended children."""
    text = (directory / "stat").read_text(encoding="utf-8", errors="replace")
    fields = text.rpartition(")")[2].split()
    return [int(fields[at]) for at in (1, 11, 12, 13, 14)]


@contextmanager
def serving(
    argv: Sequence[str], directory: Path, *, port: int, env: Mapping[str, str] = {},
    path: Sequence[Path] = (ROOT,),
) -> Iterator[subprocess.Popen[bytes]]:  # fmt: skip
    """A server that listens on `port`; killed at the end. `path`: PYTHONPATH.

    What it prints goes to a file: nobody reads a pipe while it is under load.
    """
    variables = {**os.environ, "BENCH_DIRECTORY": str(directory), **env}
    variables["PYTHONPATH"] = os.pathsep.join(map(str, path))
    log = directory / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            argv, cwd=directory, env=variables, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        until = time.monotonic() + START_SECONDS
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > until:
                said = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
                raise SystemExit(f"{' '.join(argv)} does not serve:\n{said}")
            time.sleep(0.05)
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def daemon(
    directory: Path, path: Sequence[Path] = (ROOT,), settings: Mapping[str, str] = {}
) -> Iterator[tuple[subprocess.Popen[bytes], int, str, str]]:
    """The daemon: its process, its port, a key of which the rate is no bound, and the local token.

    It drives nothing, unless `settings` (of the environment) say so.
    """
    port = free_port()
    argv = [
        *(sys.executable, "-m", "agent_runtime", "--store", f"sqlite:///{directory}/store.db"),
        *("serve", "--port", str(port), "--unsafe-no-sandbox"),
    ]
    env = {"AGENT_RUNTIME_TASKS_MAX": "0", **settings}
    with serving(argv, directory, port=port, env=env, path=path) as process:
        _until_ready(port)
        token = (directory / "token").read_text(encoding="utf-8").strip()
        wish = {"name": f"bench-{port}", "role": "admin", "rate": 1_000_000}
        made = post(port, token, "/v1/keys", wish)
        yield process, port, str(made["secret"]), token


def post(port: int, token: str, path: str, body: object) -> dict[str, Any]:
    """One request of whoever sets up a measurement."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        told: dict[str, Any] = json.loads(answer.read())
        return told


def _until_ready(port: int) -> None:
    """It listens before it takes work: its store is opened meanwhile."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
