"""A store that cannot be written any more, under a daemon that runs."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.api.daemons import DaemonProcess, serving

IDLE = {"goal": "wait for somebody who thinks"}


def change(sign: str, directory: Path) -> bool:
    """Only root may, and only on some file systems."""
    files = [str(path) for path in directory.glob("store.db*")]
    if shutil.which("chattr") is None or not files:
        return False
    return subprocess.run(["chattr", sign, *files], capture_output=True).returncode == 0


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """Writes are refused also through files that are open, as on a disk that was remounted."""
    try:
        if not change("+i", directory):
            pytest.skip("files cannot be made immutable here")
        yield
    finally:
        change("-i", directory)


def ready(daemon: DaemonProcess, status: int) -> None:
    deadline = time.monotonic() + 30
    while (said := daemon.ask("GET", "/readyz")).status != status:
        assert time.monotonic() < deadline, said.body
        time.sleep(0.05)


@pytest.mark.long
def test_while_it_is_read_only_nothing_is_taken_and_then_it_goes_on_by_itself(
    tmp_path: Path,
) -> None:
    """What was stored can be read all the time."""
    state, key = tmp_path / "state", {"Idempotency-Key": "k"}
    with serving(state) as daemon:
        before = daemon.submit(IDLE)
        daemon.wait_for(before, "waiting")
        with read_only(state):
            refused = daemon.ask("POST", "/v1/tasks", IDLE, key)
            assert (refused.status, refused.json()["type"]) == (503, "/problems/store-unavailable")
            assert "goes on by itself" in refused.json()["detail"]
            assert daemon.ask("POST", f"/v1/tasks/{before}/cancel").status == 503
            ready(daemon, 503)
            listed = daemon.ask("GET", "/v1/tasks").json()["tasks"]
            assert [task["id"] for task in listed] == [before]
        ready(daemon, 200)
        made = daemon.ask("POST", "/v1/tasks", IDLE, key)
        assert made.status == 201
        daemon.wait_for(made.json()["id"], "waiting")
        assert daemon.ask("POST", f"/v1/tasks/{before}/cancel").status == 202
        daemon.wait_for(before, "cancelled")
