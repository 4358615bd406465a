"""The runtime server as clients meet it: in a daemon, over HTTP, in both eras of the protocol."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import anyio
import mcp_types as types
import pytest

from tests.api.daemons import DaemonProcess, serving
from tests.e2e.conftest import git
from tests.mcp.lines import META
from tests.mcp.runtime.clients import called, connected

pytestmark = [pytest.mark.anyio, pytest.mark.long]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    directory = tmp_path_factory.mktemp("wire")
    repo = directory / "repo"
    repo.mkdir()
    git(repo, "init", "-q")
    git(repo, "commit", "-qm", "one", "--allow-empty")
    roots = {"AGENT_RUNTIME_WORKSPACE_ROOTS": str(directory)}
    with serving(directory / "state", settings=roots) as running:
        yield running


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_a_person_is_asked_once_for_each_call(daemon: DaemonProcess, mode: Any) -> None:
    asked: list[str] = []

    async def elicited(_: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        asked.append(params.message)
        return types.ElicitResult(action="accept", content={"decision": "approve"})

    steps = [
        {"id": "a", "tool": "shell", "args": {"command": "echo a > out"}},
        {"id": "b", "tool": "shell", "args": {"command": "echo b >> out"}, "needs": ["a"]},
    ]
    task = {
        "goal": "write", "workspace": {"repo": str(daemon.directory.parent / "repo")},
        "plan": {"steps": steps}, "policy": {"approvals": {"shell": "ask"}},
        "objectives": [{"id": "done", "check": {"command": "grep -q b out"}}],
    }  # fmt: skip
    async with connected(daemon, mode, elicitation_callback=elicited) as client:
        told = await called(client, "submit_task", task=task, wait_seconds=50)
        while told["status"] not in ("succeeded", "failed", "unverified"):
            told = await called(client, "get_task", task_id=told["id"], wait_seconds=50)
    assert told["status"] == "succeeded", told
    assert ["echo a" in asked[0], "echo b" in asked[1], len(asked)] == [True, True, 2]


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_resources_prompts_and_progress(daemon: DaemonProcess, mode: Any) -> None:
    told: list[str | None] = []

    async def heard(progress: float, total: float | None, message: str | None) -> None:
        told.append(message)

    async with connected(daemon, mode) as client:
        task = await called(client, "submit_task", goal="wait", model="client")
        uri = f"agent-runtime://tasks/{task['id']}"
        listed = await client.list_resources()
        assert f"{uri}/report" in [str(each.uri) for each in listed.resources]
        report = await client.read_resource(f"{uri}/report")
        assert isinstance(report.contents[0], types.TextResourceContents)
        assert task["id"] in report.contents[0].text
        prompt = await client.get_prompt("review-task", {"task_id": task["id"]})
        assert task["id"] in prompt.messages[0].content.text  # type: ignore[union-attr]
        reference = types.PromptReference(name="review-task")
        argument = {"name": "task_id", "value": task["id"][:14]}
        found = await client.complete(reference, argument)
        assert task["id"] in found.completion.values
        async with anyio.create_task_group() as tasks:

            async def end() -> None:
                with anyio.fail_after(30):
                    while not told:
                        await anyio.sleep(0.01)
                await called(client, "cancel_task", task_id=task["id"])

            await called(client, "pause_task", task_id=task["id"])
            await called(client, "resume_task", task_id=task["id"])
            tasks.start_soon(end)
            wish = {"wait_seconds": 1}
            await client.call_tool("next_decision", wish, progress_callback=heard)
            told.append("over")
        ended = await called(client, "get_task", task_id=task["id"], wait_seconds=50)
    assert ended["status"] == "cancelled"


async def test_a_task_of_mcp_goes_on_after_a_kill_and_asks_for_the_same(
    daemon: DaemonProcess,
) -> None:
    """The client has gone, and so has the daemon: the id and the question are what they were."""
    task = {
        "goal": "write", "workspace": {"repo": str(daemon.directory.parent / "repo")},
        "plan": {"steps": [{"id": "a", "tool": "shell", "args": {"command": "echo a > out"}}]},
        "policy": {"approvals": {"shell": "ask"}},
        "objectives": [{"id": "done", "check": {"command": "grep -q a out"}}],
    }  # fmt: skip
    began = asked_once(daemon, "tools/call", name="submit_task", arguments={"task": task})
    task_id = began["taskId"]
    waits = settled(daemon, task_id, "input_required")
    daemon.kill()
    daemon.start()
    again = settled(daemon, task_id, "input_required")
    assert again["inputRequests"] == waits["inputRequests"]
    yes = {"action": "accept", "content": {"decision": "approve"}}
    answers = dict.fromkeys(again["inputRequests"], yes)
    asked_once(daemon, "tasks/update", taskId=task_id, inputResponses=answers)
    ended = settled(daemon, task_id, "completed")
    assert "grade proven" in ended["result"]["content"][0]["text"]
    log = [each["type"] for each in daemon.events(task_id)]
    assert log.count("ApprovalDecided") == log.count("CallIntended") == 1


def asked_once(daemon: DaemonProcess, method: str, **params: Any) -> Any:
    """One request of the stateless wire, by a client that knows tasks; its result."""
    capabilities: dict[str, Any] = {
        "elicitation": {},
        "extensions": {"io.modelcontextprotocol/tasks": {}},
    }
    meta = {**META, "io.modelcontextprotocol/clientCapabilities": capabilities}
    reply = daemon.ask(
        "POST", "/mcp/runtime",
        {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}},
        {
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": "2026-07-28",
            "mcp-method": method,
            "mcp-name": params.get("name") or params["taskId"],
        },
    )  # fmt: skip
    body = reply.body.decode()
    answer = json.loads(body.rpartition("data: ")[2] if "data: " in body[:60] else body)
    return answer["result"]


def settled(daemon: DaemonProcess, task_id: str, status: str) -> Any:
    deadline = time.monotonic() + 30
    while (task := asked_once(daemon, "tasks/get", taskId=task_id))["status"] != status:
        assert time.monotonic() < deadline, task
        time.sleep(0.02)
    return task
