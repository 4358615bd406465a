"""The two ways of answering over HTTP, side by side, and what stands before both."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import mcp_types as types
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from agent_runtime.access.callers import SCOPES, Caller
from agent_runtime_mcp.definitions import Asked, ToolDefinition
from agent_runtime_mcp.http import HttpFace
from tests.api.daemons import DaemonProcess, serving
from tests.mcp.conformance.__main__ import PLUGIN
from tests.mcp.lines import META
from tests.mcp.small_server import SmallServer

SECRET = b"s" * 32


@pytest.fixture
def anyio_backend() -> str:
    """Sockets know no virtual clock."""
    return "asyncio"


OWNER = Caller("tests", frozenset(SCOPES), "key", "k1")
PLAIN = {
    "host": "localhost",
    "content-type": "application/json",
    "accept": "application/json, text/event-stream",
    "mcp-protocol-version": "2026-07-28",
}


OPENING = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "0"},
    },
}


async def post(
    face: HttpFace, body: bytes, headers: list[tuple[str, str]], caller: Caller = OWNER
) -> tuple[int, Any]:
    """Status and body of one request to the application."""
    sent: list[Any] = []
    given = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        if given:
            return given.pop()
        await anyio.sleep_forever()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/mcp/small", "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers],
        "caller": caller, "scheme": "http", "http_version": "1.1", "server": ("localhost", 1),
        "client": ("127.0.0.1", 1), "root_path": "",
    }  # fmt: skip
    await face(scope, receive, send)
    text = b"".join(each.get("body", b"") for each in sent)
    if text.startswith(b"event:"):
        text = text.split(b"data: ")[-1]
    return sent[0]["status"], json.loads(text) if text.strip() else None


@asynccontextmanager
async def face(*, short_way: bool) -> AsyncIterator[HttpFace]:
    made = HttpFace(SmallServer(), secret=SECRET, short_way=short_way)
    async with anyio.create_task_group() as tasks:
        await tasks.start(made.run)
        yield made
        tasks.cancel_scope.cancel()


def request(method: str, **params: Any) -> bytes:
    params.setdefault("_meta", META)
    return json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}).encode()


ECHO = request("tools/call", name="echo", arguments={"text": "x"})
REQUESTS: list[tuple[bytes, dict[str, str]]] = [
    (ECHO, {"mcp-method": "tools/call", "mcp-name": "echo"}),
    (ECHO, {"mcp-method": " tools/call\t", "mcp-name": " echo "}),
    (ECHO, {"mcp-method": "tools/call", "mcp-name": "=?base64?ZWNobw==?="}),
    (ECHO, {"mcp-method": "tools/call", "mcp-name": "=?base64?ZWNob?="}),
    (ECHO, {"mcp-method": "tools/call", "mcp-name": "other"}),
    (ECHO, {"mcp-method": "tools/call"}),
    (ECHO, {"mcp-name": "echo"}),
    (ECHO, {"mcp-method": "TOOLS/CALL", "mcp-name": "echo"}),
    (ECHO, {"mcp-method": "tools/call", "mcp-name": "echo", "accept": "application/json"}),
    (ECHO, {"mcp-method": "tools/call", "mcp-name": "echo", "accept": "*/*"}),
    (ECHO, {"mcp-method": "tools/call", "mcp-name": "echo", "mcp-protocol-version": "2031-01-01"}),
    (ECHO, {"mcp-method": "tools/call", "mcp-name": "echo", "mcp-param-x": "y"}),
    (request("tools/call", name="echo", arguments={"text": "slow"}),
     {"mcp-method": "tools/call", "mcp-name": "echo"}),
    (request("tools/call", name="nope"), {"mcp-method": "tools/call", "mcp-name": "nope"}),
    (request("tools/call", name="greet"), {"mcp-method": "tools/call", "mcp-name": "greet"}),
    (request("tools/list"), {"mcp-method": "tools/list"}),
    (request("server/discover"), {"mcp-method": "server/discover"}),
    (request("ping"), {"mcp-method": "ping"}),
    (request("tools/list", _meta={}), {"mcp-method": "tools/list"}),
    (b"{", {"mcp-method": "tools/list"}),
    (b"[]", {"mcp-method": "tools/list"}),
    (b'{"jsonrpc":"2.0","method":"tools/list"}', {"mcp-method": "tools/list"}),
]  # fmt: skip


@pytest.mark.anyio
async def test_the_short_way_answers_as_the_sdk_does() -> None:
    """Right requests, and each way in which headers and body can disagree."""
    async with face(short_way=True) as short, face(short_way=False) as long:
        statuses = set()
        for body, more in REQUESTS:
            headers = list({**PLAIN, **more}.items())
            ours, theirs = await post(short, body, headers), await post(long, body, headers)
            if ours[1] and "requestState" in (ours[1].get("result") or {}):
                for each in (ours, theirs):
                    assert each[1]["result"].pop("requestState")
            assert ours == theirs, (body, more)
            statuses.add(ours[0])
        assert statuses == {200, 202, 400, 404, 406}
        twice = [*PLAIN.items(), ("mcp-method", "tools/call"), ("mcp-name", "echo")]
        for name in ("mcp-name", "mcp-method"):
            headers = [*twice, (name, "echo")]
            assert await post(short, ECHO, headers) == await post(long, ECHO, headers)


class Counting(SmallServer):
    """Counts how often it is asked for everything it has."""

    listed = 0

    async def tools(self, asked: Asked) -> Sequence[ToolDefinition]:
        self.listed += 1
        return await super().tools(asked)

    async def tool(self, name: str, asked: Asked) -> ToolDefinition | None:
        return next(each for each in self.fixed_tools() if each.name == name)


@pytest.mark.anyio
async def test_a_call_costs_the_same_among_two_tools_and_among_a_hundred() -> None:
    """The SDK alone would list them all before each call, to see whether headers must agree."""
    server = Counting()
    made = HttpFace(server, secret=SECRET, short_way=False)
    async with anyio.create_task_group() as tasks:
        await tasks.start(made.run)
        headers = [*PLAIN.items(), ("mcp-method", "tools/call"), ("mcp-name", "echo")]
        status, said = await post(made, ECHO, headers)
        assert (status, said["result"]["content"][0]["text"]) == (200, "x")
        tasks.cancel_scope.cancel()
    assert server.listed == 0


@pytest.mark.anyio
async def test_an_answer_to_a_question_counts_for_who_was_asked_only() -> None:
    """What a client carries for us is sealed: for its caller, its tool and its arguments."""
    headers = [*PLAIN.items(), ("mcp-method", "tools/call"), ("mcp-name", "greet")]
    stranger = Caller("other", frozenset(SCOPES), "key", "k2")
    async with face(short_way=True) as one, face(short_way=True) as other:
        _, asked = await post(one, request("tools/call", name="greet", arguments={}), headers)
        state = asked["result"]["requestState"]
        answers = {"who": {"action": "accept", "content": {"name": "Ada"}}}

        def again(state: str) -> bytes:
            return request(
                "tools/call", name="greet", arguments={}, inputResponses=answers, requestState=state
            )

        # Another process of the installation knows the secret too: a restart loses no question.
        _, said = await post(other, again(state), headers)
        assert said["result"]["content"][0]["text"] == "accept {'name': 'Ada'}"
        for caller, sent in ((stranger, state), (OWNER, state[:-2] + "xx")):
            status, said = await post(one, again(sent), headers, caller)
            assert (status, said["error"]["message"]) == (400, "Invalid or expired requestState")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A real one, with the fixtures of the conformance suite."""
    settings = {"AGENT_RUNTIME_PLUGINS": "mcp-conformance", "PYTHONPATH": str(PLUGIN)}
    with serving(tmp_path_factory.mktemp("mcp") / "state", settings=settings) as process:
        yield process


def test_whoever_shows_no_credentials_learns_where_they_come_from(daemon: DaemonProcess) -> None:
    """RFC 9728: a client that is refused finds the metadata by the refusal."""
    refused = daemon.ask("POST", "/mcp/conformance", {}, token=None)
    assert refused.status == 401
    challenge = refused.headers["www-authenticate"]
    where = challenge.partition('resource_metadata="')[2].rstrip('"')
    path = where.partition(f":{daemon.port}")[2]
    told = daemon.ask("GET", path, token=None)
    assert told.status == 200
    assert told.json()["resource"] == f"http://127.0.0.1:{daemon.port}/mcp/conformance"
    assert told.json()["bearer_methods_supported"] == ["header"]
    assert daemon.ask("POST", "/mcp/nothing", {}).status == 404


def test_other_sites_and_other_names_are_refused_before_mcp(daemon: DaemonProcess) -> None:
    """A page in a browser, and a name that was made to point here."""
    assert daemon.ask("POST", "/mcp/conformance", {}, {"Origin": "http://evil"}).status == 403
    assert daemon.ask("POST", "/mcp/conformance", {}, {"Host": "evil.example"}).status == 421


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_official_client_speaks_with_the_daemon(daemon: DaemonProcess, mode: Any) -> None:
    """Both wires: calls, progress, questions, documents, changes."""
    url = f"http://127.0.0.1:{daemon.port}/mcp/conformance"
    credentials = {"Authorization": f"Bearer {daemon.token}"}

    async def elicited(context: Any, params: Any) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"name": "Ada"})

    heard: list[float] = []

    async def progressed(progress: float, total: float | None, message: str | None) -> None:
        heard.append(progress)

    async with httpx2.AsyncClient(headers=credentials, timeout=30) as http:
        transport = streamable_http_client(url, http_client=http)
        async with Client(transport, mode=mode, elicitation_callback=elicited) as client:
            assert client.protocol_version == ("2026-07-28" if mode == "auto" else "2025-11-25")
            said = await client.call_tool("test_simple_text", {})
            assert said.content[0].type == "text"
            await client.call_tool("test_tool_with_progress", {}, progress_callback=progressed)
            assert heard == [0, 50, 100]
            said = await client.call_tool("test_input_required_result_elicitation", {})
            assert isinstance(said.content[0], types.TextContent)
            assert said.content[0].text == "Hello, Ada!"
            read = await client.read_resource("test://static-text")
            assert read.contents[0].uri == "test://static-text"
            assert len((await client.list_prompts()).prompts) == 5


def test_a_session_is_its_openers_alone(daemon: DaemonProcess) -> None:
    """Whoever knows a session's id, and has another key, does not find it."""
    other = daemon.ask("POST", "/v1/keys", {"name": "other", "role": "admin"}).json()["secret"]
    accept = {"Accept": "application/json, text/event-stream"}
    opened = daemon.ask("POST", "/mcp/conformance", OPENING, accept)
    session = {**accept, "Mcp-Session-Id": opened.headers["mcp-session-id"]}
    ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
    assert daemon.ask("POST", "/mcp/conformance", ping, session).status == 200
    assert daemon.ask("POST", "/mcp/conformance", ping, session, token=other).status == 404
    assert daemon.ask("DELETE", "/mcp/conformance", headers=session, token=other).status == 404
    assert daemon.ask("POST", "/mcp/conformance", ping, session).status == 200


def test_streams_end_with_the_daemon(tmp_path: Path) -> None:
    """Clients that listen keep no daemon from ending, and see that it does."""
    settings = {"AGENT_RUNTIME_PLUGINS": "mcp-conformance", "PYTHONPATH": str(PLUGIN)}
    with serving(tmp_path / "state", settings=settings) as process:
        headers = {**PLAIN, "authorization": f"Bearer {process.token}"}
        opened = process.ask("POST", "/mcp/conformance", OPENING, {"Accept": PLAIN["accept"]})
        session = {
            "mcp-session-id": opened.headers["mcp-session-id"],
            "mcp-protocol-version": "2025-11-25",
        }
        body = request("subscriptions/listen", notifications={"toolsListChanged": True})
        asked: list[tuple[str, bytes | None, dict[str, str]]] = [
            ("POST", body, {"mcp-method": "subscriptions/listen"}),
            ("GET", None, session),
        ]
        connections, answers = [], []
        for method, sent, more in asked:
            connections.append(process.connect())
            connections[-1].request(method, "/mcp/conformance", sent, {**headers, **more})
            answers.append(connections[-1].getresponse())
            assert answers[-1].status == 200
        assert b"acknowledged" in answers[0].readline() + answers[0].readline()
        assert process.stop(10) == 0
        for answer, connection in zip(answers, connections, strict=True):
            answer.read()
            connection.close()
        assert "ERROR" not in process.log
