"""A person at the client is asked what a task may do: once, and about exactly that call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent_runtime.access.callers import TASKS_READ, Caller
from agent_runtime_mcp.definitions import TaskView
from agent_runtime_mcp.runtime import RuntimeServer
from agent_runtime_mcp.tasks.book import Book
from tests.mcp.asked import Asks, FakeAsked, call, text_of

pytestmark = pytest.mark.anyio

ASKABLE = frozenset({"elicitation"})
METHOD = "elicitation/create"
YES: Mapping[str, Any] = {"action": "accept", "content": {"decision": "approve"}}
NO: Mapping[str, Any] = {"action": "accept", "content": {"decision": "deny", "message": "not now"}}


def task_that_asks(repo: Path, calls: int = 1) -> dict[str, Any]:
    steps = [
        {"id": f"s{at}", "tool": "shell", "args": {"command": f"echo {at} >> out"}}
        | ({"needs": [f"s{at - 1}"]} if at else {})
        for at in range(calls)
    ]
    return {
        "goal": "write", "workspace": {"repo": str(repo)}, "plan": {"steps": steps},
        "policy": {"approvals": {"shell": "ask"}},
        "objectives": [{"id": "done", "check": {"command": "grep -q 0 out"}}],
    }  # fmt: skip


async def asking(server: RuntimeServer, repo: Path, calls: int = 1) -> dict[str, Any]:
    """A task that waits for a person; how it reads."""
    # A question would end this request, and it would come again: another task would be made.
    asked, task = FakeAsked(capabilities=ASKABLE), task_that_asks(repo, calls)
    answer = await call(server, "submit_task", asked, task=task, wait_seconds=30)
    assert answer.structured["status"] == "waiting", text_of(answer)
    return dict(answer.structured)


async def events(server: RuntimeServer, task_id: str) -> str:
    return text_of(await call(server, "read_task", task_id=task_id, what="events"))


async def test_a_yes_at_the_client_lets_the_task_go_on_to_its_end(
    server: RuntimeServer, repo: Path
) -> None:
    """Every argument is shown; the answer is in the log and in the audit record. It may hold for
    the rest of the task."""
    task = await asking(server, repo, calls=2)
    whole_task = {"action": "accept", "content": {"decision": "approve", "scope": "task"}}
    asked = FakeAsked(capabilities=ASKABLE, says={METHOD: whole_task})
    answer = await call(server, "get_task", asked, task_id=task["id"], wait_seconds=40)
    assert answer.structured["status"] == "succeeded", text_of(answer)
    assert "grade proven" in text_of(answer)
    [(_, question)] = asked.asked
    assert "echo 0 >> out" in question["message"] and task["id"] in question["message"]
    assert set(question["requestedSchema"]["properties"]) == {"decision", "scope", "message"}
    log = await events(server, task["id"])
    assert log.count('"ApprovalDecided"') == 1 and '"by":"token:local"' in log
    access = server._daemon.access
    assert access is not None
    records = await access.store.audit()
    assert "approval.decide" in [each.entry.action for each in records]


async def test_an_answer_of_the_stateless_wire_counts_for_that_call_alone(
    server: RuntimeServer, repo: Path
) -> None:
    """The request ends with the question and comes again: for the next call it must ask anew."""
    task = await asking(server, repo, calls=2)
    wish = {"task_id": task["id"], "wait_seconds": 40}
    asked = FakeAsked(capabilities=ASKABLE)
    with pytest.raises(Asks) as first:
        await call(server, "get_task", asked, **wish)
    [name] = first.value.questions
    busy = await call(server, "get_task", FakeAsked(capabilities=ASKABLE), **wish)
    assert busy.structured["status"] == "waiting", "one client at a time is asked"
    with pytest.raises(Asks) as second:
        answered = replace(asked, state=first.value.state, answers={name: YES})
        await call(server, "get_task", answered, **wish)
    assert set(second.value.questions) != {name}
    stale = replace(asked, state=second.value.state, answers={name: YES})
    with pytest.raises(Asks):
        await call(server, "get_task", stale, **wish)
    assert (await events(server, task["id"])).count('"ApprovalDecided"') == 1


async def test_an_answer_names_its_question(server: RuntimeServer, repo: Path) -> None:
    """A repetition of "yes, go on with this task" would allow what it asks for by then."""
    task = await asking(server, repo)
    [approval] = task["approvals"]
    refused = await call(server, "approve", approval=task["id"], decision="approve")
    assert refused.is_error and f"pending: {approval['id']}" in text_of(refused)
    assert '"ApprovalDecided"' not in await events(server, task["id"])


async def test_who_would_not_say_is_not_asked_again(server: RuntimeServer, repo: Path) -> None:
    """A model that polls must not open a form each time. `approve` still decides."""
    task = await asking(server, repo)
    asked = FakeAsked(capabilities=ASKABLE, says={METHOD: {"action": "decline"}})
    for _ in range(3):
        answer = await call(server, "get_task", asked, task_id=task["id"], wait_seconds=1)
        assert answer.structured["status"] == "waiting"
    assert len(asked.asked) == 1
    [approval] = answer.structured["approvals"]
    assert approval["id"] in text_of(answer) and "echo 0 >> out" in text_of(answer)
    wish = {"approval": approval["id"], "decision": "deny", "message": "not now"}
    for _ in range(2):  # a repetition is answered
        assert not (await call(server, "approve", **wish)).is_error
    other = await call(server, "approve", **{**wish, "decision": "approve"})
    assert other.is_error
    ended = await call(server, "get_task", task_id=task["id"], wait_seconds=40)
    assert ended.structured["status"] == "failed"
    assert (await events(server, task["id"])).count('"ApprovalDecided"') == 1


@pytest.mark.parametrize(
    "asked",
    [
        FakeAsked(
            Caller("r", frozenset({TASKS_READ}), "key"), capabilities=ASKABLE, says={METHOD: YES}
        ),
        FakeAsked(says={METHOD: YES}),
    ],
    ids=["who may not decide", "who cannot be asked"],
)
async def test_nobody_is_asked(server: RuntimeServer, repo: Path, asked: FakeAsked) -> None:
    task = await asking(server, repo)
    answer = await call(server, "get_task", asked, task_id=task["id"], wait_seconds=5)
    assert answer.structured["status"] == "waiting" and not asked.asked
    assert '"ApprovalDecided"' not in await events(server, task["id"])
    [approval] = answer.structured["approvals"]
    refused = await call(server, "approve", asked, approval=approval["id"], decision="approve")
    assert refused.is_error is (asked.caller.subject == "r")


async def test_a_task_without_a_brain_asks_who_shall_think(server: RuntimeServer) -> None:
    """Once, whether in a wait or as an MCP task; what is said gives it one."""
    book, tool = Book(server, None), await server.tool("submit_task", FakeAsked())
    asked = FakeAsked(
        capabilities=ASKABLE, says={METHOD: {"action": "accept", "content": {"model": "client"}}}
    )
    assert tool is not None
    view = await book.begin(tool, {"goal": "think"}, asked)
    assert isinstance(view, TaskView)
    while view.status != "input_required":
        await book.changed(view, 10)
        view = await book.view(view.task_id, asked)
    [(name, (_, question))] = view.questions.items()
    assert "model: client" in question["message"]
    await book.answer(view.task_id, {name: {"action": "decline"}}, asked)
    assert not (await book.view(view.task_id, asked)).questions
    other = await call(server, "submit_task", goal="think")
    told = await call(server, "get_task", asked, task_id=other.structured["id"], wait_seconds=20)
    assert told.structured["decides"] and len(asked.asked) == 1, text_of(told)
