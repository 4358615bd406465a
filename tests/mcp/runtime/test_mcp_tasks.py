"""The runtime's tasks as MCP tasks: one id, one log, and an end that says everything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent_runtime.access.callers import TASKS_READ, TASKS_WRITE, Caller
from agent_runtime_mcp.definitions import McpFault, TaskView
from agent_runtime_mcp.runtime import RuntimeServer
from agent_runtime_mcp.tasks.book import Book, NoTask
from agent_runtime_mcp.wire import META_KEY
from tests.mcp.asked import FakeAsked, text_of

pytestmark = pytest.mark.anyio

ASKABLE = FakeAsked(capabilities=frozenset({"elicitation"}))
STRANGER = FakeAsked(caller=Caller("bob", frozenset({TASKS_READ, TASKS_WRITE}), "key", "k2"))


def a_task(repo: Path, command: str, **policy: Any) -> dict[str, Any]:
    return {
        "goal": "write", "workspace": {"repo": str(repo)},
        "plan": {"steps": [{"id": "s", "tool": "shell", "args": {"command": command}}]},
        "objectives": [{"id": "done", "check": {"command": "grep -q x out"}}], "policy": policy,
    }  # fmt: skip


async def begin(
    server: RuntimeServer, asked: FakeAsked = ASKABLE, **arguments: Any
) -> TaskView | NoTask:
    tool = await server.tool("submit_task", asked)
    assert tool is not None
    return await Book(server, None).begin(tool, arguments, asked)


async def until(server: RuntimeServer, task_id: str, *statuses: str) -> TaskView:
    book = Book(server, None)
    with anyio.fail_after(40):
        while (view := await book.view(task_id, ASKABLE)).status not in statuses:
            await book.changed(view, 5)
    return view


async def test_a_submission_is_the_task_and_its_end_stands_alone(
    server: RuntimeServer, repo: Path
) -> None:
    asked = replace(ASKABLE, meta={META_KEY: "k"})
    task = a_task(repo, "echo x > out")
    began = await begin(server, asked, task=task)
    assert isinstance(began, TaskView) and began.task_id.startswith("task_")
    again = await begin(server, asked, task=task)
    assert isinstance(again, TaskView) and again.task_id == began.task_id
    ended = await until(server, began.task_id, "completed", "failed")
    assert ended.answer is not None and not ended.answer.is_error, ended
    told = text_of(ended.answer)
    for word in ("succeeded", "grade proven", "branch", "Checks", "Not checked", "Cost"):
        assert word in told, told
    book = Book(server, None)
    assert [each.task_id for each in (await book.page(ASKABLE, "")).items] == [began.task_id]
    assert not (await book.page(STRANGER, "")).items
    for use in (book.view(began.task_id, STRANGER), book.cancel(began.task_id, STRANGER)):
        with pytest.raises(McpFault, match="there is no task"):
            await use


async def test_what_a_task_asks_its_owner_is_answered_as_a_task_is(
    server: RuntimeServer, repo: Path
) -> None:
    """`input_required`; a client that cannot show it is not asked."""
    began = await begin(server, task=a_task(repo, "echo x > out", approvals={"shell": "ask"}))
    assert isinstance(began, TaskView)
    book = Book(server, None)
    [(name, (method, question))] = (
        await until(server, began.task_id, "input_required")
    ).questions.items()
    assert method == "elicitation/create" and "echo x > out" in question["message"]
    assert (await book.view(began.task_id, FakeAsked())).status == "working"
    yes = {"action": "accept", "content": {"decision": "approve"}}
    await book.answer(began.task_id, {name: yes, "other": yes}, ASKABLE)
    assert (await until(server, began.task_id, "completed")).answer is not None


async def test_a_cancelled_task_is_so_at_once(server: RuntimeServer, repo: Path) -> None:
    began = await begin(server, task=a_task(repo, "sleep 600"))
    assert isinstance(began, TaskView)
    book = Book(server, None)
    assert (await book.cancel(began.task_id, ASKABLE)).status == "cancelled"
    assert (await book.cancel(began.task_id, ASKABLE)).status == "cancelled"
    access = server._daemon.access
    assert access is not None
    assert [each.entry.target for each in await access.store.audit(action="task.cancel")] == [
        began.task_id
    ]


async def test_not_every_submission_is_a_task(server: RuntimeServer, repo: Path) -> None:
    """Whoever decides for it cannot wait for its end, and what is wrong is said at once."""
    decides = await begin(server, goal="x", model="client")
    assert decides == NoTask() == await begin(server, goal="x", wait_seconds=1)
    wrong = await begin(server, task={"goal": "x", "gaol": 1})
    assert isinstance(wrong, NoTask) and wrong.answer and wrong.answer.is_error
    assert "gaol" in text_of(wrong.answer)
