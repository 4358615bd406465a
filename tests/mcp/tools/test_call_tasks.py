"""Calls as MCP Tasks: the log of their session is the record."""

from __future__ import annotations

import json
from dataclasses import replace

import anyio
import pytest

from agent_runtime_mcp.definitions import BackedTasks, TaskView
from tests.mcp.asked import FakeAsked, text_of
from tests.mcp.tools.conftest import Client

pytestmark = pytest.mark.anyio

WAITS = "touch began; until [ -e go ]; do sleep 0.02; done; echo done"


async def begin(client: Client, command: str, asked: FakeAsked) -> tuple[BackedTasks, TaskView]:
    tool = await client.served.server.tool("shell", asked)
    assert tool is not None and tool.begin is not None and tool.task_support == "optional"
    task_id = await tool.begin({"command": command}, asked)
    tasks = client.served.server.backed_tasks()
    assert isinstance(task_id, str)
    view = await tasks.view(task_id, asked)
    assert view is not None
    return tasks, view


async def ended(tasks: BackedTasks, view: TaskView, asked: FakeAsked) -> TaskView:
    with anyio.fail_after(30):
        while view.status in ("working", "input_required"):
            await tasks.changed(view, 5)
            found = await tasks.view(view.task_id, asked)
            assert found is not None
            view = found
    return view


async def test_a_call_may_go_on_as_a_task_of_its_caller_alone(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_runtime_mcp.tools.calls.MOMENT_SECONDS", 0.01)
    asked = client.asked("k")
    tasks, view = await begin(client, WAITS, asked)
    assert view.status == "working" and view.answer is None
    _, same = await begin(client, WAITS, asked)
    assert same.task_id == view.task_id, "a known key is the same task"
    stranger = replace(asked.caller, subject="other")
    assert await tasks.view(view.task_id, FakeAsked(caller=stranger)) is None
    assert await tasks.view("task_1", asked) is None
    (client.repo / "go").touch()
    view = await ended(tasks, view, asked)
    assert view.status == "completed" and view.answer is not None
    assert text_of(view.answer) == "done\n" and view.updated_at_us > view.created_at_us
    page = await tasks.page(asked, "")
    assert view in page.items


async def test_a_short_call_has_ended_when_its_task_is_told_of(client: Client) -> None:
    asked = client.asked()
    _, view = await begin(client, "echo at once", asked)
    assert view.status == "completed"
    file_tool = await client.served.server.tool("read_file", asked)
    assert file_tool is not None and file_tool.task_support == "forbidden"
    by_name = await client.served.server.tool("call_tool", asked)
    assert by_name is not None and by_name.begin is not None
    assert await by_name.begin({"name": "read_file", "arguments": {"path": "a.txt"}}, asked) is None


async def test_a_cancelled_task_ends_its_call_also_one_with_a_key(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_runtime_mcp.tools.calls.MOMENT_SECONDS", 0.01)
    asked = client.asked("k")
    tasks, view = await begin(client, WAITS, asked)
    await tasks.cancel(view.task_id, asked)
    cancelled = await tasks.view(view.task_id, asked)
    assert cancelled is not None and cancelled.status == "cancelled"
    assert await client.text("shell", {"command": "echo next"}) == "next\n"


async def test_an_approval_is_a_question_of_the_task(client: Client) -> None:
    client.query["policy"] = json.dumps({"approvals": {"shell": "ask"}})
    asked = client.asked()
    tasks, view = await begin(client, "echo allowed", asked)
    assert view.status == "input_required"
    ((name, (method, params)),) = view.questions.items()
    assert method == "elicitation/create" and "echo allowed" in params["message"]
    said = {"action": "accept", "content": {"decision": "approve"}}
    await tasks.answer(view.task_id, {name: said}, asked)
    view = await ended(tasks, view, asked)
    assert view.answer is not None and text_of(view.answer) == "allowed\n"
