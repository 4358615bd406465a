"""Tasks over both wires, at a real daemon with the fixtures of the conformance suite.

What the suite looks at on the stateless wire is not looked at again here.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import mcp_types as types
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from agent_runtime_mcp.tasks.forms import IMMEDIATE, RELATED
from agent_runtime_mcp.wire import META_CAPABILITIES, META_KEY, META_VERSION, MODERN
from tests.api.daemons import DaemonProcess, serving
from tests.mcp.conformance.__main__ import PLUGIN
from tests.mcp.tasks.client import CAPABILITIES, Refused, TaskClient
from tests.mcp.tasks.kills import UNKNOWN, kill_many


@pytest.fixture
def anyio_backend() -> str:
    """Sockets know no virtual clock."""
    return "asyncio"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    settings = {"AGENT_RUNTIME_PLUGINS": "mcp-conformance", "PYTHONPATH": str(PLUGIN)}
    with serving(tmp_path_factory.mktemp("tasks") / "state", settings=settings) as process:
        yield process


@asynccontextmanager
async def session(daemon: DaemonProcess, related: list[Any]) -> AsyncIterator[Client]:
    """The official client on the wire with sessions; `related` gets which task asked something."""

    async def elicited(context: Any, params: Any) -> types.ElicitResult:
        related.append((params.meta or {}).get(RELATED))
        return types.ElicitResult(action="accept", content={"name": "Ada", "confirm": True})

    url = f"http://127.0.0.1:{daemon.port}/mcp/conformance"
    credentials = {"Authorization": f"Bearer {daemon.token}"}
    async with httpx2.AsyncClient(headers=credentials, timeout=30) as http:
        transport = streamable_http_client(url, http_client=http)
        async with Client(transport, mode="legacy", elicitation_callback=elicited) as client:
            yield client


async def raw(client: Client, method: str, params: dict[str, Any]) -> dict[str, Any]:
    """Beneath the session, which knows only one form of an answer to a method."""
    return await client.session._dispatcher.send_raw_request(method, params, {})


async def create(client: Client, name: str, **arguments: Any) -> types.CreateTaskResult:
    params = {"name": name, "arguments": arguments, "task": {"ttl": 7_200_000}}
    return types.CreateTaskResult.model_validate(await raw(client, "tools/call", params))


async def get(client: Client, task_id: str) -> types.GetTaskResult:
    params = types.GetTaskRequestParams(task_id=task_id)
    return await client.session.send_request(
        types.GetTaskRequest(params=params), types.GetTaskResult
    )


async def result_of(client: Client, task_id: str) -> dict[str, Any]:
    return await raw(client, "tasks/result", {"taskId": task_id})


async def cancel(client: Client, task_id: str) -> types.CancelTaskResult:
    params = types.CancelTaskRequestParams(task_id=task_id)
    return await client.session.send_request(
        types.CancelTaskRequest(params=params), types.CancelTaskResult
    )


@pytest.mark.anyio
async def test_sessions_speak_of_tasks_as_2025_11_25_does(daemon: DaemonProcess) -> None:
    """The form that VS Code speaks."""
    related: list[Any] = []
    async with session(daemon, related) as client:
        said = client.session.server_capabilities
        assert said and said.tasks and said.tasks.list is not None and said.tasks.cancel is not None
        assert said.tasks.requests and said.tasks.requests.tools and not said.extensions
        tools = {each.name: each.execution for each in (await client.list_tools()).tools}
        assert tools["greet"] is None
        assert tools["failing_job"] == types.ToolExecution(task_support="required")

        made = await create(client, "slow_compute", seconds=0.1, label="x")
        assert made.task.status == "working" and made.task.ttl == 7_200_000
        assert made.task.poll_interval and made.meta and IMMEDIATE in made.meta
        told = await result_of(client, made.task.task_id)
        assert told["content"][0]["text"] == "computed x in 0.1 s"
        assert told["_meta"][RELATED] == {"taskId": made.task.task_id}
        assert (await get(client, made.task.task_id)).status == "completed"

        asks = (await create(client, "confirm_delete", filename="f")).task.task_id
        assert (await result_of(client, asks))["content"][0]["text"] == "f was deleted"
        assert related == [{"taskId": asks}]

        bad = (await create(client, "failing_job")).task.task_id
        assert (await result_of(client, bad))["isError"]
        assert (await get(client, bad)).status == "failed", "also what is an answer, here"
        fault = (await create(client, "protocol_error_job")).task.task_id
        with pytest.raises(MCPError, match="always ends with a protocol error"):
            await result_of(client, fault)

        long = (await create(client, "slow_compute", seconds=600)).task.task_id
        assert (await cancel(client, long)).status == "cancelled"
        with pytest.raises(MCPError, match="has ended as 'cancelled'") as refused:
            await cancel(client, long)
        assert refused.value.error.code == -32602
        with pytest.raises(MCPError, match="cancelled by its caller"):
            await result_of(client, long)

        with pytest.raises(MCPError, match="there is no task 'call_x'"):
            await result_of(client, "call_x")
        listed = await client.session.send_request(types.ListTasksRequest(), types.ListTasksResult)
        assert {made.task.task_id, asks, bad, fault, long} <= {e.task_id for e in listed.tasks}
        for name, way in (("greet", create(client, "greet")), ("failing_job", None)):
            with pytest.raises(MCPError, match=name) as refused:
                await (way or client.call_tool(name, {}))
            assert refused.value.error.code == -32601
        plain = await client.call_tool("slow_compute", {"seconds": 0})
        assert isinstance(plain.content[0], types.TextContent), "may also just be called"


def test_others_neither_see_nor_change_a_task(daemon: DaemonProcess) -> None:
    secret = daemon.ask("POST", "/v1/keys", {"name": "other", "role": "admin"}).json()["secret"]
    mine, other = (TaskClient(daemon.port, token) for token in (daemon.token, secret))
    task_id = mine.call("confirm_delete", key="both", filename="f")["taskId"]
    mine.until(task_id, lambda task: task["status"] == "input_required")
    theirs = other.call("confirm_delete", key="both", filename="f")["taskId"]
    assert theirs != task_id, "a key is its caller's own"
    answers = {"confirm": {"action": "accept", "content": {"confirm": True}}}
    for method, more in (
        ("tasks/get", {}), ("tasks/cancel", {}), ("tasks/update", {"inputResponses": answers}),
    ):  # fmt: skip
        with pytest.raises(Refused, match=r"-32602: there is no task") as refused:
            other.ask(method, taskId=task_id, **more)
        assert task_id in str(refused.value)
    assert mine.get(task_id)["status"] == "input_required"


def test_whoever_listens_hears_how_their_tasks_go_on(daemon: DaemonProcess) -> None:
    client = TaskClient(daemon.port, daemon.token)
    task_id = client.call("confirm_delete", filename="f")["taskId"]
    client.until(task_id, lambda task: task["status"] == "input_required")
    meta = {META_VERSION: MODERN, META_CAPABILITIES: CAPABILITIES}
    wanted = {"taskIds": [task_id, "call_of_somebody"]}
    body = {
        "jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen",
        "params": {"_meta": meta, "notifications": wanted},
    }  # fmt: skip
    headers = {
        "Authorization": f"Bearer {daemon.token}", "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream", "MCP-Protocol-Version": MODERN,
        "Mcp-Method": "subscriptions/listen",
    }  # fmt: skip
    connection = daemon.connect()
    connection.request("POST", "/mcp/conformance", json.dumps(body).encode(), headers)
    stream = connection.getresponse()

    def heard() -> dict[str, Any]:
        while not (line := stream.readline()).startswith(b"data:"):
            assert line, "the stream has ended"
        said: dict[str, Any] = json.loads(line[5:])["params"]
        return said

    assert heard()["notifications"]["taskIds"] == [task_id], "of others' nothing is told"
    assert "confirm" in heard()["inputRequests"]
    answers = {"confirm": {"action": "decline"}}
    client.ask("tasks/update", taskId=task_id, inputResponses=answers)
    while (said := heard())["status"] != "completed":
        assert said["taskId"] == task_id
    assert said["result"]["content"][0]["text"] == "f was kept"
    connection.close()


def test_a_killed_daemon_keeps_its_tasks_and_their_ids(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    """What has ended, what asks, what may run again and what may not."""
    client = TaskClient(daemon.port, daemon.token)
    file = tmp_path / "effects"
    once = {"path": str(file), "word": "once", "seconds": 600}
    done = client.call("slow_compute", key="done", seconds=0)["taskId"]
    lost = client.call("write_once", key="once", **once)["taskId"]
    safe = client.call("slow_compute", key="safe", seconds=0.5)["taskId"]
    asks = client.call("multi_input")["taskId"]
    before = client.end(done)
    client.until(asks, lambda task: task["status"] == "input_required")
    yes = {"action": "accept", "content": {"name": "Ada"}}
    client.ask("tasks/update", taskId=asks, inputResponses={"first": yes})
    client.until(lost, lambda task: file.exists())
    daemon.kill()
    daemon.start()
    assert client.get(done) == before
    failed = client.end(lost)
    assert failed["status"] == "failed" and UNKNOWN in failed["error"]["message"]
    assert client.call("write_once", key="once", **once)["taskId"] == lost
    assert file.read_text().split() == ["once", "once"], "one line: the word and the key"
    assert client.end(safe)["status"] == "completed"
    assert list(client.get(asks)["inputRequests"]) == ["second"]
    client.ask("tasks/update", taskId=asks, inputResponses={"second": yes})
    assert client.end(asks)["result"]["content"][0]["text"].count("Ada") == 2
    with pytest.raises(Refused, match=META_KEY):
        client.call("slow_compute", key="done", seconds=1)


@pytest.mark.long
def test_nothing_is_lost_or_doubled_while_the_daemon_is_killed_every_second(tmp_path: Path) -> None:
    """`python -m tests.mcp.tasks.kills N` does it for longer."""
    tally = kill_many(tmp_path, kills=10, seed=1)
    assert tally.clean, tally
    assert tally.kills == 10 and tally.tasks.total() > 20 and tally.cut
