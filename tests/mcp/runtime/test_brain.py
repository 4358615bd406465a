"""The client's own model as the brain: each turn is decided once, by whoever answers first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent_runtime.access.callers import Caller
from agent_runtime_mcp.runtime import RuntimeServer
from tests.mcp.asked import FakeAsked, call, text_of
from tests.mcp.runtime.conftest import idle

pytestmark = pytest.mark.anyio

PLAN = '{"requirements": ["r"], "steps": [{"id": "a", "goal": "g", "needs": []}], "objectives": []}'
SOMEBODY = FakeAsked(caller=Caller("else", frozenset({"tasks:read", "tasks:write"}), "key"))


async def test_an_answer_that_comes_again_is_the_same_answer(server: RuntimeServer) -> None:
    """On the newest wire clients repeat a call whose answer they lost. Nothing is decided twice."""
    await idle(server)
    asked = (await call(server, "next_decision")).structured["decision"]
    answer = {"decision_id": asked["decision_id"], "text": PLAN}
    first = await call(server, "submit_decision", **answer)
    again = await call(server, "submit_decision", **answer)
    assert not again.is_error
    assert again.structured["decision"] == first.structured["decision"]
    assert first.structured["decision"]["decision_id"] != asked["decision_id"]
    for wish, who in (({**answer, "text": "other"}, None), (answer, SOMEBODY)):
        refused = await call(server, "submit_decision", who, **wish)
        assert refused.is_error and "was answered" in text_of(refused)
    events = await call(server, "read_task", task_id=asked["task_id"], what="events")
    assert text_of(events).count('"ModelReplied"') == 1


async def test_a_client_that_knows_the_conversation_gets_what_is_new(server: RuntimeServer) -> None:
    await idle(server)
    first = (await call(server, "next_decision")).structured["decision"]
    assert first["system"] and first["answer_schema"]
    seen = {"known_messages": first["messages_count"], "known_tools": first["tools_count"]}
    answer = await call(
        server, "submit_decision", decision_id=first["decision_id"], text="no plan", **seen
    )
    second = answer.structured["decision"]
    assert "system" not in second and second["tools"] == []
    assert [each["role"] for each in second["messages"]] == ["assistant", "user", "user"]
    assert "sandboxed" not in text_of(answer) and "no plan" in text_of(answer)
    whole = (await call(server, "next_decision")).structured["decision"]
    assert whole["messages"][: first["messages_count"]] == first["messages"]
    too_many = await call(server, "next_decision", known_messages=99, known_tools=99)
    assert too_many.structured["decision"] == whole, "a history that was compacted is told anew"


async def test_without_a_task_only_ones_own_are_looked_for(server: RuntimeServer) -> None:
    mine = await idle(server)
    theirs = await idle(server, SOMEBODY)
    found = await call(server, "next_decision")
    assert found.structured["decision"]["task_id"] == mine
    found = await call(server, "next_decision", SOMEBODY)
    assert found.structured["decision"]["task_id"] == theirs
    await call(server, "cancel_task", task_id=mine)
    nothing = await call(server, "next_decision", wait_seconds=0.05)
    assert nothing.structured["decision"] is None and "client" in text_of(nothing)


async def test_a_client_that_decides_everything_gets_its_work_proven(
    server: RuntimeServer, repo: Path
) -> None:
    """It says so itself, and is not believed: the check fails first, and passes in the end."""
    answer = await call(
        server, "submit_task", goal="say hello", repo=str(repo), check="grep -q hello out.txt",
        model="client",
    )  # fmt: skip
    task_id = answer.structured["id"]
    turns: list[dict[str, Any]] = [
        {"text": "Done."},
        {"calls": [{"name": "write_file", "arguments": {"path": "out.txt", "content": "hello"}}]},
        {"text": "Done now."},
    ]
    answer = await call(server, "next_decision", task_id=task_id, wait_seconds=30)
    while (asked := answer.structured["decision"]) is not None:
        said = {"text": PLAN} if asked.get("answer_schema") else turns.pop(0)
        answer = await call(
            server, "submit_decision", decision_id=asked["decision_id"], wait_seconds=30, **said
        )
    assert (answer.structured["task"]["status"], turns) == ("succeeded", []), text_of(answer)
    assert "grade proven" in text_of(answer)
    patch = await call(server, "read_task", task_id=task_id, what="diff")
    assert "+hello" in text_of(patch)


async def test_calls_need_no_ids_and_what_they_gave_is_told(server: RuntimeServer) -> None:
    await idle(server)
    asked = (await call(server, "next_decision")).structured["decision"]
    answer = await call(server, "submit_decision", decision_id=asked["decision_id"], text=PLAN)
    answer = await call(
        server,
        "submit_decision",
        decision_id=answer.structured["decision"]["decision_id"],
        calls=[{"name": "find_tools", "arguments": {"query": q}} for q in ("a", "b")],
    )
    told = answer.structured["decision"]["messages"]
    called = next(each for each in told if each.get("calls"))
    ids = [each["id"] for each in called["calls"]]
    assert len(set(ids)) == 2
    assert [each["call_id"] for each in told if each["role"] == "tool"] == ids
    twice = [{"id": "x", "name": "recall"}] * 2
    refused = await call(
        server, "submit_decision", decision_id=answer.structured["decision"]["decision_id"],
        calls=twice,
    )  # fmt: skip
    assert refused.is_error and "used twice" in text_of(refused)
