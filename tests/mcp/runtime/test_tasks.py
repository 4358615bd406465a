"""Tasks over MCP, without a wire: handed off once, waited for, told so that a model understands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent_runtime.access.callers import TASKS_READ, Caller
from agent_runtime.schema import check
from agent_runtime_mcp.definitions import McpFault
from agent_runtime_mcp.runtime import RuntimeServer
from agent_runtime_mcp.runtime.prompts import read_prompts
from agent_runtime_mcp.runtime.telling import TOLD_SECTIONS
from agent_runtime_mcp.wire import META_KEY
from tests.mcp.asked import FakeAsked, call, text_of
from tests.mcp.runtime.conftest import idle

pytestmark = pytest.mark.anyio


async def test_of_ten_with_one_key_one_task_is_made(server: RuntimeServer) -> None:
    """The key may stand in the arguments or in `_meta`; each caller has keys of their own."""
    first = await call(server, "submit_task", goal="x", idempotency_key="k")
    by_meta = FakeAsked(meta={META_KEY: "k"})
    again = [await call(server, "submit_task", by_meta, goal="x") for _ in range(9)]
    assert {each.structured["id"] for each in again} == {first.structured["id"]}
    other = await call(server, "submit_task", by_meta, goal="y")
    assert other.is_error and "another task" in text_of(other)
    somebody = FakeAsked(
        caller=Caller("else", frozenset({"tasks:read", "tasks:write"}), "key"),
        meta={META_KEY: "k"},
    )
    theirs = await call(server, "submit_task", somebody, goal="x")
    assert theirs.structured["id"] != first.structured["id"]


async def test_what_cannot_be_taken_is_told_with_the_way_out(server: RuntimeServer) -> None:
    for wish, said in (
        ({"goal": "x", "repo": "/etc"}, "workspace_roots"),
        ({"task": {"goal": "x", "labells": {}}}, "labels"),
        ({"task": {"goal": "x"}, "goal": "y"}, "either a whole `task`"),
        ({}, "say what is wanted"),
        ({"goal": "x", "idempotency_key": "two words"}, "visible ASCII"),
    ):
        answer = await call(server, "submit_task", **wish)
        assert answer.is_error and said in text_of(answer), text_of(answer)
    wrong = await call(server, "list_tasks", cursor="abc")
    assert wrong.is_error and "cursor" in text_of(wrong)
    page = await call(server, "list_tasks")
    assert page.structured["tasks"] == [] and "no such tasks" in text_of(page)


async def test_a_wait_tells_its_progress_and_ends_with_the_task(server: RuntimeServer) -> None:
    task_id = await idle(server)
    asked = FakeAsked()
    answers = []
    async with anyio.create_task_group() as tasks:

        async def wait() -> None:
            await call(server, "pause_task", task_id=task_id)
            await call(server, "resume_task", task_id=task_id)
            await call(server, "cancel_task", task_id=task_id, reason="enough")
            answers.append(await call(server, "get_task", asked, task_id=task_id, wait_seconds=30))

        tasks.start_soon(wait)
    [answer] = answers
    assert answer.structured["status"] == "cancelled"
    assert [each for each, _ in asked.told] == sorted(each for each, _ in asked.told)


async def test_the_text_of_an_ended_task_stands_alone(server: RuntimeServer) -> None:
    """Many clients show their model nothing else."""
    task_id = await idle(server)
    taken = await call(server, "next_decision", task_id=task_id)
    decision = taken.structured["decision"]["decision_id"]
    plan = '{"requirements": ["r"], "steps": [{"id": "a", "goal": "g"}], "objectives": []}'
    wanted = taken.structured["decision"].get("answer_schema")
    said = plan if wanted else "Done: nothing was to be done."
    answer = await call(server, "submit_decision", decision_id=decision, text=said)
    while answer.structured["decision"] is not None:
        decision = answer.structured["decision"]["decision_id"]
        answer = await call(server, "submit_decision", decision_id=decision, text="Done.")
    task = answer.structured["task"]
    text = text_of(answer)
    assert task["status"] == "unverified"
    for word in (task_id, "unverified", "no branch", "Not checked", "no objectives", "Cost",
                 "How to go on", "continue_task"):  # fmt: skip
        assert word in text, (word, text)
    assert task["cost"]["steps"] > 0 and task["not_checked"]
    report = await call(server, "read_task", task_id=task_id)
    assert all(f"## {title}" in text_of(report) for title in TOLD_SECTIONS)
    for what in ("diff", "plan", "events", "task"):
        assert not (await call(server, "read_task", task_id=task_id, what=what)).is_error
    missing = await call(server, "read_task", task_id=task_id, what="certificate")
    assert missing.is_error and "nothing of it was verified" in text_of(missing)


async def test_structured_answers_fit_the_schemas_that_are_listed(server: RuntimeServer) -> None:
    """Clients check them, and refuse the answer otherwise."""
    task_id = await idle(server)
    asked = FakeAsked()
    tools = {tool.name: tool for tool in await server.tools(asked)}
    for tool in tools.values():
        schema = tool.output_schema or {"type": "object"}
        assert schema["type"] == tool.input_schema["type"] == "object"
        assert "$ref" not in repr(schema) + repr(tool.input_schema), tool.name
    calls: list[tuple[str, dict[str, Any]]] = [
        ("get_task", {"task_id": task_id}),
        ("list_tasks", {}),
        ("inbox", {}),
        ("next_decision", {"task_id": task_id}),
        ("steer_task", {"task_id": task_id, "message": "m"}),
        ("fork_task", {"task_id": task_id, "at": 1}),
        ("cancel_task", {"task_id": task_id}),
    ]
    for name, arguments in calls:
        answer = await call(server, name, **arguments)
        assert not answer.is_error, text_of(answer)
        assert check(answer.structured, tools[name].output_schema or {}) == [], name
    wrong = await call(server, "fork_task", task_id=task_id, at=1, replace={"modell": "x"})
    assert wrong.is_error and "replace" in text_of(wrong)


async def test_who_may_only_read_changes_nothing(server: RuntimeServer) -> None:
    task_id = await idle(server)
    reader = FakeAsked(caller=Caller("r", frozenset({TASKS_READ}), "key"))
    for tool in await server.tools(reader):
        if tool.scope != TASKS_READ:
            refused = await call(server, tool.name, reader)
            assert refused.is_error and tool.scope in text_of(refused)
        else:
            assert tool.annotations["readOnlyHint"], tool.name
    seen = await call(server, "get_task", reader, task_id=task_id[-6:], wait_seconds=0)
    assert seen.structured["decides"]


async def test_what_is_said_or_forked_with_a_key_is_so_once(server: RuntimeServer) -> None:
    """On the newest wire clients repeat a call whose answer they lost."""
    task_id = await idle(server)
    asked = FakeAsked(meta={META_KEY: "k1"})
    for _ in range(2):
        told = await call(server, "steer_task", asked, task_id=task_id, message="left")
        assert not told.is_error, text_of(told)
    other = await call(server, "steer_task", asked, task_id=task_id, message="right")
    assert other.is_error and "k1" in text_of(other)
    wish = {"task_id": task_id, "at": 1, "idempotency_key": "k2"}
    forks = [await call(server, "fork_task", **wish) for _ in range(2)]
    assert len({each.structured["id"] for each in forks}) == 1
    await call(server, "cancel_task", task_id=task_id)
    await call(server, "get_task", task_id=task_id, wait_seconds=20)
    again = {"task_id": task_id, "message": "go on", "idempotency_key": "k3"}
    for _ in range(2):
        told = await call(server, "continue_task", **again)
        assert not told.is_error, text_of(told)
    events = text_of(await call(server, "read_task", task_id=task_id, what="events"))
    assert [events.count(f'"{name}"') for name in ("Steered", "Continued")] == [1, 1]


async def test_what_was_decided_on_an_older_look_is_refused(server: RuntimeServer) -> None:
    """As If-Match over HTTP."""
    task_id = await idle(server)
    seen = (await call(server, "get_task", task_id=task_id)).structured["seq"]
    first = await call(server, "steer_task", task_id=task_id, message="left", only_at_seq=seen)
    again = await call(server, "steer_task", task_id=task_id, message="left", only_at_seq=seen)
    assert not first.is_error
    assert again.is_error and f"only_at_seq wants {seen}" in text_of(again)
    events = text_of(await call(server, "read_task", task_id=task_id, what="events"))
    assert events.count('"Steered"') == 1


async def test_events_are_read_page_by_page_and_none_twice(
    server: RuntimeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_runtime_mcp.runtime.documents.EVENTS_MAX", 3)
    task_id = await idle(server)
    asked, uri, seen = FakeAsked(), f"agent-runtime://tasks/{task_id}/events", []
    while uri:
        [content] = await server.read_resource(uri, asked)
        lines = [line for line in content["text"].splitlines() if line]
        assert 0 < len(lines) <= 3
        seen += [int(line.split('"seq":')[1].split(",")[0]) for line in lines]
        uri = content.get("_meta", {}).get("io.agent-runtime/next", "")
    assert seen == list(range(1, len(seen) + 1)) and len(seen) > 3


async def test_resources_are_listed_read_completed_and_followed(server: RuntimeServer) -> None:
    task_id = await idle(server)
    asked = FakeAsked()
    page = await server.resources(asked, "")
    uri = f"agent-runtime://tasks/{task_id}"
    assert f"{uri}/report" in [each.uri for each in page.items]
    for part in ("", "/report", "/diff", "/plan", "/events", "/task"):
        [content] = await server.read_resource(uri + part, asked)
        assert content["uri"] == uri + part and content["mimeType"]
    for wrong in (f"{uri}/shadow", f"{uri}/certificate", "agent-runtime://tasks/../x",
                  f"agent-runtime://tasks/task_{'0' * 32}", f"{uri}/plan?after=1"):  # fmt: skip
        with pytest.raises(McpFault) as caught:
            await server.read_resource(wrong, asked)
        assert caught.value.code == McpFault.INVALID_PARAMS
    reference = {"type": "ref/resource", "uri": uri}
    for begun in (task_id[:12], task_id[-5:]):
        assert task_id in await server.complete(reference, "task_id", begun, {}, asked)
    changes = server.changes([f"{uri}/plan"], asked)
    heard = []
    async with anyio.create_task_group() as tasks:

        async def listen() -> None:
            async for change in changes:
                heard.append((change.kind, change.uri))
                if ("resources", "") in heard:
                    return

        tasks.start_soon(listen)
        while not server._daemon.hub.followers:
            await anyio.sleep(0.01)
        await anyio.wait_all_tasks_blocked()
        await call(server, "cancel_task", task_id=task_id)
    assert ("resource", f"{uri}/plan") in heard and ("resources", "") in heard


async def test_every_tool_and_resource_is_documented(server: RuntimeServer) -> None:
    docs = (Path(__file__).parents[3] / "docs" / "mcp-runtime.md").read_text(encoding="utf-8")
    tools = await server.tools(FakeAsked())
    listed = re.findall(r"^\| `(\w+)` \| `([\w:]+)` \|", docs, re.MULTILINE)
    assert listed == [(tool.name, tool.scope) for tool in tools]
    templates = await server.resource_templates(FakeAsked())
    assert all(f"`{each.uri}`" in docs for each in templates)
    assert all(f"`{name}`" in docs for name in read_prompts(""))
