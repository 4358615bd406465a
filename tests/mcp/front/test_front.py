"""The way from stdin and stdout to a daemon, as clients start it: real processes, real deaths."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_runtime_mcp import wire
from agent_runtime_mcp.front import words
from tests.api.daemons import DaemonProcess
from tests.mcp.front.blocks import commands, environment, lists_tools
from tests.mcp.front.speaking import daemon_in, front, hear, send_call, text_of, until
from tests.mcp.lines import META, speaking

WIRES = pytest.mark.parametrize("modern", [True, False], ids=["stateless", "session"])
ANSWER = {"action": "accept", "content": {"name": "Ada"}}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    made = daemon_in(tmp_path_factory.mktemp("front") / "agent-runtime")
    made.start()
    yield made
    made.kill()


def test_it_imports_nothing_that_is_slow_and_knows_the_words_of_the_wire() -> None:
    """A client starts one for each of its windows, and waits."""
    code = "import sys, agent_runtime_mcp.front; print(*sys.modules)"
    loaded = set(subprocess.check_output([sys.executable, "-c", code], text=True).split())
    heavy = {"mcp", "msgspec", "pydantic", "anyio", "asyncio", "http.client", "click", "subprocess"}
    assert not heavy & loaded
    assert (words.META_KEY, words.META_VERSION) == (wire.META_KEY, wire.META_VERSION)
    assert words.FRONT_KEYS == wire.FRONT_KEYS


@WIRES
def test_what_the_daemon_serves_is_served_on_stdin_and_stdout(
    daemon: DaemonProcess, modern: bool
) -> None:
    """Lists, calls, progress, options of the address, headers that a tool wants, questions."""
    with speaking(front(daemon.store, "fixtures", "--no-start", "--option", "mode=sea")) as lines:
        if not modern:
            assert lines.initialize()["result"]["serverInfo"]["name"] == "agent-runtime-fixtures"
            assert lines.ask("ping")["result"] == {}
        region = "\u00fcber\nall"
        assert text_of({"result": lines.call("marked", modern=modern, region=region)}) == region
        assert len(lines.ask("tools/list", modern=modern)["result"]["tools"]) == 5
        assert json.loads(text_of({"result": lines.call("options", modern=modern)})) == {
            "mode": "sea"
        }
        (daemon.directory / "a").touch()
        send_call(lines, "p", "count", modern=modern, name="a")
        assert text_of(lines.reply("p")) == "a is there"
        (progress,) = [m for m in lines.notifications if m["method"] == "notifications/progress"]
        assert progress["params"]["progressToken"] == "p"
        if modern:
            asked = lines.ask("tools/call", modern=True, name="ask", arguments={})["result"]
            assert asked["resultType"] == "input_required"
            params = {"inputResponses": {"who": ANSWER}, "requestState": asked["requestState"]}
            said = lines.ask("tools/call", modern=True, name="ask", arguments={}, **params)
            assert text_of(said) == "Ada"
        missing = lines.ask("tools/call", modern=modern, name="nope", arguments={})
        assert "nope" in missing["error"]["message"]
        lines.send(b"{nonsense")
        assert lines.reply(None)["error"]["code"] == -32700
        assert lines.close() == 0


@WIRES
def test_a_call_that_is_cancelled_ends_in_the_daemon_and_holds_nobody_up(
    daemon: DaemonProcess, modern: bool
) -> None:
    """On the stateless wire by closing its stream, else by a notification."""
    name = f"never-{modern}"
    with speaking(front(daemon.store)) as lines:
        if not modern:
            lines.initialize()
        send_call(lines, "slow", "wait", modern=modern, name=name)
        until("begun", (daemon.directory / f"{name}.begun").exists)
        assert lines.call("options", modern=modern)
        params: dict[str, Any] = {"requestId": "slow", "reason": "enough"}
        lines.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})
        until("cancelled", (daemon.directory / f"{name}.cancelled").exists)
        assert lines.call("options", modern=modern)
        assert lines.close() == 0
        assert not [m for m in lines.heard.queue if m and m.get("id") == "slow"]


@WIRES
def test_a_client_that_is_killed_in_mid_call_leaves_no_process(
    daemon: DaemonProcess, modern: bool
) -> None:
    """Neither the front, nor the call in the daemon."""
    name = f"left-{modern}"
    client = (
        "import os, subprocess, sys, time;"
        "from tests.mcp.lines import Lines, META; from tests.mcp.front.speaking import send_call;"
        "process = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE, stdout=subprocess.PIPE);"
        "lines = Lines(process); print(process.pid, flush=True); modern = sys.argv[1] == 'True';"
        "modern or lines.initialize();"
        f"send_call(lines, 'slow', 'wait', modern=modern, name={name!r}); time.sleep(600)"
    )
    command = [sys.executable, "-c", client, str(modern), *front(daemon.store)]
    killed = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3])
    assert killed.stdout is not None
    with killed.stdout:
        process_id = int(killed.stdout.readline())
    until("begun", (daemon.directory / f"{name}.begun").exists)
    killed.kill()
    killed.wait()
    until("gone", lambda: not os.path.exists(f"/proc/{process_id}"))
    until("cancelled", (daemon.directory / f"{name}.cancelled").exists)


def test_the_commands_of_the_readme_list_their_tools(daemon: DaemonProcess, tmp_path: Path) -> None:
    """From this checkout, beside a daemon; a long test starts them from a wheel, without one."""
    given = environment(tmp_path, daemon.directory.parent, Path(sys.executable).parent)
    assert min(lists_tools(each, given) for each in commands(tmp_path)) > 10


def test_without_a_daemon_each_request_says_what_to_do(tmp_path: Path) -> None:
    """Where none may be started, or it does not know the server; a token is never shown."""
    store = f"sqlite:///{tmp_path}/store.db"
    with speaking(front(store)) as lines:
        for modern in (True, False):
            said = lines.ask("tools/list", modern=modern)["error"]
            assert "agent-runtime serve" in said["message"] and str(tmp_path) in said["message"]


def test_a_server_that_the_daemon_does_not_have_is_named(daemon: DaemonProcess) -> None:
    with speaking(front(daemon.store, "elsewhere", "--no-start")) as lines:
        for modern in (True, False):
            said = lines.ask("tools/list", modern=modern)["error"]["message"]
            assert "/mcp/elsewhere" in said and daemon.token not in said


def test_a_key_that_does_not_count_is_told_with_where_keys_go(daemon: DaemonProcess) -> None:
    """Whoever reads it has a client's configuration before them, no HTTP headers."""
    with speaking(front(daemon.store), AGENT_RUNTIME_TOKEN="ark_none") as lines:
        for modern in (True, False):
            said = lines.ask("tools/list", modern=modern)["error"]["message"]
            assert "AGENT_RUNTIME_TOKEN" in said and "ark_none" not in said


def test_a_restart_of_the_daemon_is_a_slow_answer_and_no_effect_happens_twice(
    daemon: DaemonProcess,
) -> None:
    """Calls in flight are asked again under their keys, sessions, subscriptions and questions are
    built up again, whoever follows hears that something may have changed."""
    calls = 5
    with speaking(front(daemon.store)) as old, speaking(front(daemon.store)) as new:
        old.initialize()
        old.ask("resources/subscribe", uri="test://one")
        listen = {
            "notifications": {"toolsListChanged": True, "resourceSubscriptions": ["test://x"]}
        }
        params = {**listen, "_meta": META}
        new.send({"jsonrpc": "2.0", "id": "l", "method": "subscriptions/listen", "params": params})
        acknowledged = "notifications/subscriptions/acknowledged"
        hear(new, lambda m: m.get("method") == acknowledged)
        for number in range(calls):
            send_call(old, f"c{number}", "count", modern=False, name="go")
            send_call(new, f"c{number}", "count", modern=True, name="go")
        for lines in (old, new):
            for _ in range(calls):
                hear(lines, lambda m: m.get("method") == "notifications/progress")
        effects = daemon.directory / "effects"
        done = effects.read_text()
        daemon.kill()
        (daemon.directory / "following").unlink()
        daemon.start()
        meta = {"io.modelcontextprotocol/subscriptionId": "l"}
        hear(old, lambda m: m.get("method") == "notifications/tools/list_changed")
        heard = hear(new, lambda m: m.get("method") == "notifications/resources/updated")
        assert heard["params"] == {"uri": "test://x", "_meta": meta}
        following = daemon.directory / "following"
        until("followed", lambda: len(following.read_text().splitlines()) >= 2)
        (daemon.directory / "changed").touch()
        heard = hear(new, lambda m: m.get("method") == "notifications/resources/updated")
        assert heard["params"] == {"uri": "test://x", "_meta": meta}
        (daemon.directory / "go").touch()
        for lines in (old, new):
            found: dict[Any, str] = {}
            while len(found) < calls:
                message = hear(lines, lambda m: str(m.get("id")).startswith("c"))
                found[message["id"]] = text_of(message)
            assert found == {f"c{number}": "go is there" for number in range(calls)}
        assert effects.read_text() == done
        assert (old.close(), new.close()) == (0, 0)


def test_what_a_client_says_last_is_answered_after_it_closed_its_side(
    daemon: DaemonProcess,
) -> None:
    """`echo … | agent-runtime mcp NAME`, also where it does not wait for one answer to the next."""
    client = {"name": "echo", "version": "0"}
    opening = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client}
    said: list[dict[str, Any]] = [
        {"id": 1, "method": "initialize", "params": opening},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/list"},
    ]
    text = "\n".join(json.dumps({"jsonrpc": "2.0", **each}) for each in said)
    done = subprocess.run(front(daemon.store), input=text.encode(), capture_output=True, timeout=30)
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert first["result"]["protocolVersion"] == "2025-06-18"
    assert len(second["result"]["tools"]) == 5
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_answer_is_given_whole_before_the_front_ends(tmp_path: Path) -> None:
    """Of a fixed bug: it ended between an answer and its writing. A line may be of any shape."""
    name = "x" * (1 << 20)
    cancelled = {"method": "notifications/cancelled", "params": {"requestId": [1]}}
    said: list[dict[str, Any]] = [cancelled, {"id": name, "method": "tools/list"}]
    text = "\n".join(json.dumps({"jsonrpc": "2.0", **each}) for each in said)
    command = front(f"sqlite:///{tmp_path}/store.db", "runtime", "--no-start")
    done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")
    (answer,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert answer["id"] == name and "agent-runtime serve" in answer["error"]["message"]
