"""Daemons that fronts start, and clients that die: many real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
import pytest
from mcp import StdioServerParameters
from mcp.client.client import Client

from agent_runtime_mcp.front.daemons import Daemons
from agent_runtime_mcp.front.relay import Relay
from tests.mcp.front.speaking import (
    SETTINGS,
    daemon_in,
    end_daemons,
    front,
    hear,
    processes_with,
    send_call,
    text_of,
    until,
)
from tests.mcp.lines import META, ROOT, speaking

pytestmark = pytest.mark.long

KILLS = 50
CLIENT = """
import json, subprocess, sys, time
process = subprocess.Popen(sys.argv[3:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
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
    send(id=2, method="tools/call", params=json.loads(sys.argv[2]))
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


CALLS = {
    "runtime": {"name": "next_decision", "arguments": {"wait_seconds": 50}},
    "filesystem": {"name": "search_files", "arguments": {"path": "/", "pattern": "*"}},
}
"""One of each server that lasts."""


@pytest.mark.parametrize("server", ["runtime", "filesystem"])
def test_fifty_killed_clients_leave_no_process(state: Path, tmp_path: Path, server: str) -> None:
    """Whenever they die: before a word, in the handshake, in mid-call, while a daemon starts."""
    tmp_path.joinpath("root").mkdir()
    store = f"sqlite:///{state}/store.db"
    own = ["filesystem", "--root", str(tmp_path / "root")] if server == "filesystem" else [server]
    command = front(store, *own)
    for number in range(KILLS):
        client = subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(number % 4), json.dumps(CALLS[server]), *command],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, **SETTINGS},
            cwd=ROOT,
        )  # fmt: skip
        assert client.stdout is not None
        with client.stdout:
            assert client.stdout.readline() == b"now\n"
        client.kill()
        client.wait()
    served = daemons(state)
    assert len(served) == (1 if server == "runtime" else 0)
    until("gone", lambda: processes_with(str(tmp_path)) == served)
    if served:
        assert json.loads((state / "daemon.json").read_text())["pid"] == served[0]


def test_a_question_that_its_daemon_cannot_hear_the_answer_of_is_asked_again(state: Path) -> None:
    """Under another id: an answer that comes late reaches nobody."""
    daemon = daemon_in(state)
    daemon.start()
    try:
        with speaking(front(daemon.store)) as lines:
            can: Any = {"elicitation": {}}
            client = {"name": "asked", "version": "0"}
            opening: Any = {
                "protocolVersion": "2025-11-25",
                "capabilities": can,
                "clientInfo": client,
            }
            lines.ask("initialize", **opening)
            lines.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
            send_call(lines, "q", "ask", modern=False)
            first = hear(lines, lambda m: m.get("method") == "elicitation/create")
            daemon.kill()
            daemon.start()
            taken_back = hear(lines, lambda m: m.get("method") == "notifications/cancelled")
            assert taken_back["params"]["requestId"] == first["id"]
            second = hear(lines, lambda m: m.get("method") == "elicitation/create")
            assert second["id"] != first["id"]
            for question, name in ((first, "late"), (second, "Ada")):
                answer = {"action": "accept", "content": {"name": name}}
                lines.send({"jsonrpc": "2.0", "id": question["id"], "result": answer})
            assert text_of(lines.reply("q")) == "Ada"
    finally:
        daemon.kill()


def test_a_daemon_that_stays_away_is_told_in_time(state: Path) -> None:
    """To each request, and in bounded time; a front that may start none waits for none to start."""
    daemon = daemon_in(state)
    daemon.start()
    try:
        source, to_front = os.pipe()
        from_front, sink = os.pipe()
        daemons = Daemons(store=daemon.store, may_start=False)
        relay = Relay(daemons, "fixtures", {}, source=source, sink=sink, patience_seconds=2)
        running = threading.Thread(target=relay.run)
        running.start()
        with os.fdopen(to_front, "wb") as client, os.fdopen(from_front, "rb") as answers:

            def ask(request_id: int) -> dict[str, Any]:
                asked = {"jsonrpc": "2.0", "id": request_id, "method": "tools/list"}
                client.write(json.dumps({**asked, "params": {"_meta": META}}).encode() + b"\n")
                client.flush()
                found: dict[str, Any] = json.loads(answers.readline())
                return found

            assert len(ask(1)["result"]["tools"]) == 5
            daemon.kill()
            said = ask(2)
            assert said["id"] == 2 and "agent-runtime serve" in said["error"]["message"]
            daemon.start()
            assert len(ask(3)["result"]["tools"]) == 5
            client.close()
            running.join(30)
            assert not running.is_alive()
            relay.close()
            os.close(sink)
            os.close(source)
    finally:
        daemon.kill()


@pytest.mark.parametrize("mode", ["legacy", "auto", "2026-07-28"])
def test_the_official_client_talks_through_it(state: Path, mode: Any) -> None:
    """Calls, odd headers, questions, progress, many at once, cancellation; on both wires."""
    daemon = daemon_in(state)
    daemon.start()
    seen: list[Any] = []

    async def answer(context: Any, params: Any) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"name": "Ada"})

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total, message))

    async def talk() -> None:
        program, *arguments = front(daemon.store)
        server = StdioServerParameters(command=program, args=arguments)
        async with Client(server, mode=mode, elicitation_callback=answer) as client:
            assert client.protocol_version == ("2025-11-25" if mode == "legacy" else "2026-07-28")
            told = await client.call_tool("marked", {"region": "\u00fc x"})
            assert isinstance(told.content[0], types.TextContent)
            assert told.content[0].text == "\u00fc x"
            told = await client.call_tool("ask", {})
            assert isinstance(told.content[0], types.TextContent)
            assert told.content[0].text == "Ada"
            (state / "go").touch()
            await client.call_tool("count", {"name": "go"}, progress_callback=note)
            assert seen == [(1, 2, "done")]
            async with anyio.create_task_group() as tasks:
                for _ in range(100):
                    tasks.start_soon(client.call_tool, "options", {})
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.call_tool, "wait", {"name": "never"})
                while not (state / "never.begun").exists():
                    await anyio.sleep(0.01)
                tasks.cancel_scope.cancel()
            with anyio.fail_after(30):
                while not (state / "never.cancelled").exists():
                    await anyio.sleep(0.01)

    try:
        anyio.run(talk)
    finally:
        daemon.kill()
