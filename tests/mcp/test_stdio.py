"""The two ways of answering on stdin and stdout, side by side."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.mcp.lines import META, Lines, small, speaking

NAMES = "io.modelcontextprotocol"
BAD_ENVELOPE = {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}
OTHER_VERSION = {**META, "io.modelcontextprotocol/protocolVersion": "2031-01-01"}
MESSAGES: list[dict[str, Any]] = [
    {"method": "tools/list"},
    {"method": "tools/call", "params": {"name": "echo", "arguments": {"text": "\u00e4\U0001f600"}}},
    {"method": "tools/call", "params": {"name": "echo", "arguments": {"text": "slow"}}},
    {"method": "tools/call", "params": {"name": "echo", "arguments": {"text": "fail"}}},
    {"method": "tools/call", "params": {"name": "echo", "arguments": {"txt": "x"}}},
    {"method": "tools/call", "params": {"name": "echo", "arguments": {"text": 3}}},
    {"method": "tools/call", "params": {"name": "echo"}},
    {"method": "tools/call", "params": {"name": "no such tool", "arguments": {}}},
    {"method": "tools/call", "params": {"arguments": {}}},
    {"method": "tools/call", "params": {"name": "echo", "arguments": ["x"]}},
    {"method": "tools/list", "params": {"cursor": "x"}},
    {"method": "ping"},
    {"method": "server/discover"},
    {"method": "resources/list"},
    {"method": "no/such"},
    {"method": "prompts/list"},
    {"method": "tools/list", "params": {"_meta": {"progressToken": {}}}},
    {"method": "tools/list", "params": {"_meta": {"progressToken": 1, "of.others/x": [None]}}},
    {"method": "tools/call", "params": {"name": "no such tool", "_meta": OTHER_VERSION}},
    *({"method": "tools/list", "params": {"_meta": {**META, f"{NAMES}/{name}": value}}}
      for name, value in [
          ("clientInfo", {"name": 3}), ("clientCapabilities", {"roots": [1]}), ("logLevel", "no"),
          ("clientInfo", None), ("clientCapabilities", {"of.others": 3, "sampling": {"tools": {}}}),
      ]),
]  # fmt: skip


def answers(lines: Lines, *, modern: bool) -> list[Any]:
    found = []
    for number, message in enumerate(MESSAGES):
        request_id: int | str = number if number % 2 else f"id-{number}"
        params = dict(message.get("params", {}))
        if modern:
            params["_meta"] = {**META, **params.get("_meta", {})}
        sent = {"jsonrpc": "2.0", "id": request_id, "method": message["method"]}
        lines.send(sent | ({"params": params} if params else {}))
        found.append(lines.reply(request_id))
    return found


@pytest.mark.parametrize("modern", [True, False], ids=["stateless", "session"])
def test_the_short_way_answers_as_the_sdk_does(modern: bool) -> None:
    """Whatever is asked, rightly or wrongly: nobody can tell which way it went."""
    with speaking(small()) as short, speaking(small("--long")) as long:
        if not modern:
            assert short.initialize() == long.initialize()
        ours, theirs = answers(short, modern=modern), answers(long, modern=modern)
        for message, one, other in zip(MESSAGES, ours, theirs, strict=True):
            assert one == other, message
        assert any("error" in each for each in ours)
        assert any("result" in each for each in ours)
        assert (short.close(), long.close()) == (0, 0)


def test_revisions_are_agreed_on_as_the_sdk_does() -> None:
    """Also with those that we do not know, and with old ones, which know less of an answer."""
    for version in ("2024-11-05", "2025-06-18", "2031-01-01"):
        with speaking(small()) as short:
            said = short.initialize(version)["result"]
            known = version if version != "2031-01-01" else "2025-11-25"
            assert said["protocolVersion"] == known
            assert said["capabilities"]["tools"] == {"listChanged": True}
            entry = short.ask("tools/list")["result"]["tools"][0]
            assert entry["name"] == "echo"
            assert short.call("echo", text="x")["content"][0]["text"] == "x"


def test_most_conversations_need_no_sdk() -> None:
    """A client that lists and calls costs neither an event loop nor half a second of imports."""
    code = (
        "import sys; from tests.mcp.small_server import SmallServer;"
        "from agent_runtime_mcp.stdio import Stdio; before = set(sys.modules);"
        "Stdio(SmallServer(), {}).run();"
        "print(sorted({m.split('.')[0] for m in set(sys.modules) - before}), file=sys.stderr)"
    )
    asked: list[dict[str, Any]] = [
        {"method": "server/discover"},
        {"method": "tools/list"},
        {"method": "tools/call", "params": {"name": "echo", "arguments": {"text": "x"}}},
    ]
    lines = [
        json.dumps(
            {"jsonrpc": "2.0", "id": 1, **each, "params": {**each.get("params", {}), "_meta": META}}
        )
        for each in asked
    ]
    done = subprocess.run(
        [sys.executable, "-c", code], input="\n".join(lines), capture_output=True, text=True
    )
    assert len(done.stdout.splitlines()) == 3, done.stderr
    assert done.stderr.strip() == "[]"


def test_what_starts_a_server_on_stdio_imports_nothing_heavy() -> None:
    """A client starts one for each of its windows, and waits."""
    code = "import sys, agent_runtime_mcp.stdio; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    heavy = {"mcp", "pydantic", "anyio", "asyncio", "starlette", "httpx2", "jinja2", "click"}
    assert not heavy & set(loaded)


def test_a_line_that_is_no_message_is_told_and_ends_nothing() -> None:
    """Neither before the first request nor later."""
    with speaking(small()) as lines:
        lines.send(b"{nonsense")
        assert lines.reply(None)["error"]["code"] == -32700
        lines.send(b"")
        assert lines.call("echo", modern=True, text="still here")["content"][0]["text"]


@pytest.mark.parametrize("long", [(), ("--long",)], ids=["short", "long"])
def test_who_sends_what_is_no_message_does_not_wait_for_an_answer(long: tuple[str, ...]) -> None:
    """Of a fixed bug: to most of these nothing was ever said. JSON-RPC 2.0, 5 and 5.1."""
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"_meta": META}}
    with speaking(small(*long)) as lines:
        for line in (b"[]", b"[%b]" % json.dumps(ping).encode(), b"3", b"{}"):
            lines.send(line)
            assert lines.reply(None)["error"]["code"] == -32600
        ids: list[Any] = [1.5, None, [1], True]
        for each in ids:
            lines.send({**ping, "id": each})
            assert "id" in lines.reply(None)["error"]["message"]
        for wrong in (
            {"jsonrpc": "1.0"},
            {"method": 3},
            {"params": [1]},
            {"params": {"x": "\ud800"}},
        ):
            lines.send({**ping, **wrong})
            assert lines.reply(1)["error"]["code"] == -32600
        lines.send({"jsonrpc": "2.0", "method": "notifications/x", "params": [1]})
        lines.send({"jsonrpc": "2.0", "id": 7, "result": 3})
        assert lines.call("echo", modern=True, text="still here")["content"][0]["text"]


def test_a_conversation_keeps_to_the_wire_that_it_began_with() -> None:
    """Also where the short way answered its beginning."""
    for long in ((), ("--long",)):
        with speaking(small(*long)) as lines:
            lines.ask("tools/list", modern=True)
            assert "2026-07-28" in lines.initialize()["error"]["message"]
            assert "error" in lines.ask("tools/list")
        with speaking(small(*long)) as lines:
            lines.initialize()
            assert lines.ask("tools/list", modern=True)["error"]["code"] == -32600
            assert "result" in lines.ask("tools/list")


def test_an_envelope_that_is_wrong_is_refused_by_name() -> None:
    """As the protocol's own errors say it."""
    with speaking(small()) as lines:
        said = lines.ask("tools/list", _meta=BAD_ENVELOPE)
        assert "clientCapabilities" in said["error"]["message"]
        said = lines.ask("tools/list", _meta=OTHER_VERSION)
        assert said["error"]["data"]["supported"] == ["2026-07-28"]


def test_a_slow_call_holds_up_no_other() -> None:
    """The short way goes on while the long one waits."""
    with speaking(small()) as lines:
        params = {"name": "hang", "arguments": {}, "_meta": META}
        lines.send({"jsonrpc": "2.0", "id": "h", "method": "tools/call", "params": params})
        for number in range(20):
            said = lines.call("echo", modern=True, text=str(number))
            assert said["content"][0]["text"] == str(number)
        cancelled = {"requestId": "h", "reason": "enough"}
        lines.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancelled})
        assert lines.close() == 0


def test_what_a_client_says_last_is_answered_after_it_closed_its_side() -> None:
    """Of a fixed bug: on the long way the last answers were dropped. Not so what it cancelled, or
    what never ends."""
    said: list[dict[str, Any]] = [
        *({"id": n, "method": "resources/list", "params": {"_meta": META}} for n in range(9)),
        {"id": "c", "method": "tools/call", "params": {"name": "hang", "_meta": META}},
        {"method": "notifications/cancelled", "params": {"requestId": "c"}},
        {"id": "l", "method": "subscriptions/listen",
         "params": {"notifications": {"toolsListChanged": True}, "_meta": META}},
        {"id": 9, "method": "tools/call",
         "params": {"name": "echo", "arguments": {"text": "slow"}, "_meta": META}},
    ]  # fmt: skip
    text = "\n".join(json.dumps({"jsonrpc": "2.0", **each}) for each in said)
    command = small("--long")
    done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=30)
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    assert {each["id"] for each in replies if "result" in each} >= set(range(10))
    assert done.returncode == 0


def test_long_lines_and_pieces_of_lines_are_put_together() -> None:
    """A pipe cuts where it likes."""
    with speaking(small()) as lines:
        big = "x" * (3 << 20)
        assert lines.call("echo", modern=True, text=big)["content"][0]["text"] == big
        params = {"name": "echo", "arguments": {"text": "cut"}, "_meta": META}
        message = json.dumps(
            {"jsonrpc": "2.0", "id": "c", "method": "tools/call", "params": params}
        )
        assert lines.process.stdin is not None
        for piece in (message[:30], message[30:31], message[31:] + "\n" + message[:5]):
            os.write(lines.process.stdin.fileno(), piece.encode())
        assert lines.reply("c")["result"]["content"][0]["text"] == "cut"


@pytest.mark.parametrize("how", ["stdin is closed", "killed"])
def test_it_ends_with_its_client(how: str) -> None:
    """Also with a call that never ends, and a client that has no time to say anything."""
    reading, writing = os.pipe()
    process = subprocess.Popen(small(), stdin=reading, stdout=subprocess.PIPE)
    os.close(reading)
    params = {"name": "hang", "arguments": {}, "_meta": META | {"progressToken": 1}}
    hang = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
    listing = {"jsonrpc": "2.0", "id": 2, "method": "resources/list", "params": {"_meta": META}}
    client = subprocess.Popen(
        [sys.executable, "-c", "import os, sys, time; os.write(int(sys.argv[1]), sys.argv[2]"
         ".encode()); time.sleep(60)", str(writing), f"{hang}\n{json.dumps(listing)}\n"],
        pass_fds=[writing],
    )  # fmt: skip
    os.close(writing)
    assert process.stdout is not None
    assert b"resources" in process.stdout.readline()
    client.send_signal(signal.SIGKILL if how == "killed" else signal.SIGTERM)
    client.wait()
    assert process.wait(30) == 0
    process.stdout.close()
