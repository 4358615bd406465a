"""Stop means stop: nothing that a task started outlives its cancellation, within five seconds."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.api.daemons import DaemonProcess, serving

SECONDS_MAX = 5.0
"""From the order to the end of the last process."""

DETACHED = """
import os, signal, sys, time
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
open("started", "w").close()
time.sleep(600)
"""


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("repo")
    (path / "detach.py").write_text(DETACHED)
    for command in (
        ("init", "-q"),
        ("add", "."),
        ("-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "first"),
    ):
        subprocess.run(["git", *command], cwd=path, check=True)
    return path


@pytest.fixture(scope="module")
def boxed(tmp_path_factory: pytest.TempPathFactory, repo: Path) -> Iterator[DaemonProcess]:
    """A daemon with a real sandbox."""
    with serving(
        tmp_path_factory.mktemp("boxed") / "state",
        arguments=(),
        settings={"AGENT_RUNTIME_WORKSPACE_ROOTS": str(repo)},
    ) as daemon:
        yield daemon


def survivors(marker: str) -> list[str]:
    """Command lines with a marker, of processes that are no zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, UnicodeDecodeError):
                continue
            if marker in words and entry.name != str(os.getpid()):
                found.append(words)
    return found


def wait_until(is_so: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def cancel(daemon: DaemonProcess, task_id: str) -> float:
    """Seconds from the request to the end; the ledger is empty then."""
    begun = time.monotonic()
    assert daemon.ask("POST", f"/v1/tasks/{task_id}/cancel").status == 202
    daemon.wait_for(task_id, "cancelled", seconds=60)
    took = time.monotonic() - begun
    events = daemon.events(task_id)
    assert events[-1]["type"] == "TaskEnded"
    open_calls: set[str] = set()
    for event in events:
        call_id = event["data"].get("call_id", "")
        match event["type"]:
            case "CallIntended":
                open_calls.add(call_id)
            case "CallReturned" | "CallResolved" | "CallLost" | "EffectUnknown":
                open_calls.discard(call_id)
    assert not open_calls, open_calls
    return took


def task(repo: Path, *steps: dict[str, Any]) -> dict[str, Any]:
    return {"goal": "run", "workspace": {"repo": str(repo)}, "plan": {"steps": list(steps)}}


def test_a_detached_process_that_ignores_sigterm_is_gone(boxed: DaemonProcess, repo: Path) -> None:
    marker = "sleep 7531"
    steps = (
        {"id": "detach", "tool": "shell", "args": {"command": "python3 detach.py"}},
        {
            "id": "stay", "tool": "shell", "needs": ["detach"],
            "args": {"command": f"trap '' TERM HUP INT; (setsid {marker} &) ; {marker}"},
        },
    )  # fmt: skip
    task_id = boxed.submit(task(repo, *steps))
    wait_until(lambda: len(survivors(marker)) >= 2)
    assert cancel(boxed, task_id) < SECONDS_MAX
    assert survivors(marker) == []
    assert survivors("detach.py") == []


def test_a_hundred_steps_at_once_are_gone(boxed: DaemonProcess, repo: Path) -> None:
    marker = "sleep 7532"
    steps = [
        {"id": f"s{n}", "tool": "shell", "effect": "read", "args": {"command": marker}}
        for n in range(100)
    ]
    task_id = boxed.submit(task(repo, *steps))
    wait_until(lambda: bool(survivors(marker)))
    assert cancel(boxed, task_id) < SECONDS_MAX
    assert survivors(marker) == []


@contextmanager
def silent_model() -> Iterator[tuple[str, threading.Event]]:
    """A model server that takes requests and never answers."""
    asked = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def take() -> None:
            while True:
                try:
                    line, _ = server.accept()
                except OSError:
                    return
                held.append(line)
                line.recv(65_536)
                asked.set()

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}/v1#silent", asked
        finally:
            for line in held:
                line.close()
            server.shutdown(socket.SHUT_RDWR)


def test_a_task_that_hangs_in_a_model_call_ends(boxed: DaemonProcess, repo: Path) -> None:
    with silent_model() as (model, asked):
        wanted = {"goal": "think", "workspace": {"repo": str(repo)}, "model": model}
        task_id = boxed.submit(wanted)
        assert asked.wait(60)
        assert cancel(boxed, task_id) < SECONDS_MAX
