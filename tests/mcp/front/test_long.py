"""Daemons that fronts start, and clients that die: many real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mcp.front.speaking import SETTINGS, end_daemons, front, processes_with, until
from tests.mcp.lines import ROOT, speaking

pytestmark = pytest.mark.long

KILLS = 50
CLIENT = """
import json, subprocess, sys, time
process = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def send(**message):
    process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\\n")
    process.stdin.flush()
phase = int(sys.argv[1])
if phase > 0:
    send(id=1, method="initialize", params={"protocolVersion": "2025-11-25", "capabilities": {},
         "clientInfo": {"name": "dies", "version": "0"}})
if phase > 1:
    process.stdout.readline()
    send(method="notifications/initialized")
if phase > 2:
    send(id=2, method="tools/call", params={"name": "wait", "arguments": {"name": "never"}})
    send(id=3, method="tools/list")
    process.stdout.readline()
print("now", flush=True)
time.sleep(600)
"""


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A state directory without a daemon, and at the end again."""
    directory = tmp_path / "state"
    yield directory
    end_daemons(directory)
    until("ended", lambda: not processes_with(f"{directory}/store.db"))


def daemons(directory: Path) -> list[int]:
    found = processes_with(f"{directory}/store.db")
    return [each for each in found if b"\0serve\0" in Path(f"/proc/{each}/cmdline").read_bytes()]


def test_two_fronts_that_start_at_once_start_one_daemon_that_outlives_them(state: Path) -> None:
    """It is no child of theirs, and is found by the next one."""
    command = front(f"sqlite:///{state}/store.db", "fixtures")
    with speaking(command, **SETTINGS) as one, speaking(command, **SETTINGS) as other:
        for lines in (one, other):
            lines.send({"jsonrpc": "2.0", "id": "x", "method": "tools/list"})
        for lines in (one, other):
            assert "id" in lines.reply("x")
        (daemon,) = daemons(state)
        assert (one.close(), other.close()) == (0, 0)
    status = Path(f"/proc/{daemon}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    assert int(status[1]) not in (one.process.pid, other.process.pid, os.getpid())
    assert int(status[3]) != os.getsid(0)
    with speaking(front(f"sqlite:///{state}/store.db")) as lines:
        assert lines.call("options", modern=True)
    assert daemons(state) == [daemon]
    assert (state / "daemon.log").stat().st_mode & 0o077 == 0


def test_a_daemon_that_cannot_start_is_told_with_its_reason(state: Path) -> None:
    state.mkdir()
    (state / "store.db").write_text("this is no database " * 400)
    with speaking(front(f"sqlite:///{state}/store.db", "fixtures")) as lines:
        said = lines.ask("tools/list", modern=True)["error"]["message"]
        assert "did not start" in said and "daemon.log" in said and "store.db" in said


def test_a_daemon_that_nobody_needs_ends_by_itself(state: Path) -> None:
    """As those do that fronts start; an open session of a client keeps it."""
    store = f"sqlite:///{state}/store.db"
    serve = [*(sys.executable, "-m", "agent_runtime", "--store", store, "serve", "--port", "0")]
    state.mkdir()
    with (state / "log").open("wb") as log:
        daemon = subprocess.Popen(
            [*serve, "--idle-exit", "0.05", "--unsafe-no-sandbox"],
            stderr=log, env={**os.environ, **SETTINGS}, cwd=state,
        )  # fmt: skip
    until("there", (state / "daemon.json").exists)
    with speaking(front(store)) as lines:
        lines.initialize()
        lines.ask("tools/list")
        with pytest.raises(subprocess.TimeoutExpired):
            daemon.wait(6)
        lines.close()
    assert daemon.wait(30) == 0
    assert "nobody has needed" in (state / "log").read_text()


@pytest.mark.parametrize("server", ["fixtures", "filesystem"])
def test_fifty_killed_clients_leave_no_process(state: Path, tmp_path: Path, server: str) -> None:
    """Whenever they die: before a word, in the handshake, in mid-call, while a daemon starts."""
    tmp_path.joinpath("root").mkdir()
    store = f"sqlite:///{state}/store.db"
    own = ["filesystem", "--root", str(tmp_path / "root")] if server == "filesystem" else [server]
    command = front(store, *own)
    for number in range(KILLS):
        client = subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(number % 4), *command],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, **SETTINGS},
            cwd=ROOT,
        )  # fmt: skip
        assert client.stdout is not None
        with client.stdout:
            assert client.stdout.readline() == b"now\n"
        client.kill()
        client.wait()
    served = daemons(state)
    assert len(served) == (1 if server == "fixtures" else 0)
    until("gone", lambda: processes_with(str(tmp_path)) == served)
    if served:
        assert json.loads((state / "daemon.json").read_text())["pid"] == served[0]
