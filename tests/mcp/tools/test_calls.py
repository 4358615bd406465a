"""Calls of a client through the real loop, store and sandbox."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent_runtime.access.callers import Caller
from agent_runtime.errors import Forbidden, UsageError
from agent_runtime.loop import codec
from agent_runtime.types import ChangeSpec, Status, TaskId
from agent_runtime_mcp.definitions import McpFault
from agent_runtime_mcp.wire import FRONT_KEYS
from tests.mcp.asked import Asks, FakeAsked, text_of
from tests.mcp.tools.conftest import Client

pytestmark = pytest.mark.anyio

ASKS = json.dumps({"approvals": {"shell": "ask"}})
CAN = frozenset({"elicitation"})
APPEND = {"command": "echo x >> log.txt; echo done"}


async def until(seen: Callable[[], bool]) -> None:
    with anyio.fail_after(30):
        while not seen():
            await anyio.sleep(0.01)


async def test_a_call_lands_in_the_checkout_as_it_was_asked_for(client: Client) -> None:
    """Arguments of a client are data: what looks like a template stays as it is."""
    wrote = await client("write_file", {"path": "b.txt", "content": "{{ goal }}"})
    assert not wrote.is_error and (client.repo / "b.txt").read_text() == "{{ goal }}"
    read = await client("read_file", {"path": "b.txt"})
    assert text_of(read) == "{{ goal }}"
    assert read.structured is not None and read.structured["data"]["path"] == "b.txt"
    failed = await client("shell", {"command": "echo no; exit 3"})
    assert (failed.is_error, text_of(failed).strip()) == (True, "no")
    # Another toolbelt than the standard one is switched on by its first call.
    assert "b.txt" in await client.text("git_status", {})


async def test_in_a_clone_the_checkout_stays_as_it_is(client: Client) -> None:
    client.query["clone"] = "yes"
    await client("write_file", {"path": "a.txt", "content": "changed"})
    assert await client.text("read_file", {"path": "a.txt"}) == "changed"
    assert (client.repo / "a.txt").read_text() == "hello\n"
    patch = await client.served.daemon.runtime.patch(await client.session())
    assert b"+changed" in patch


async def test_a_call_with_a_known_key_is_answered_and_not_repeated(client: Client) -> None:
    log = client.repo / "log.txt"
    first = await client("shell", APPEND, key="k")
    again = await client("shell", APPEND, key="k")
    assert (first.content, first.is_error) == (again.content, again.is_error)
    assert log.read_text() == "x\n"
    with pytest.raises(McpFault, match="was used for another call"):
        await client("shell", {"command": "echo y >> log.txt"}, key="k")
    stranger = Caller("other", client.asked().caller.scopes, "key")
    theirs = FakeAsked(query=client.query | {"clone": "yes"}, meta=client.asked("k").meta,
                       caller=stranger)  # fmt: skip
    assert text_of(await client("shell", {"command": "echo theirs"}, theirs)) == "theirs\n"
    assert log.read_text() == "x\n"


async def test_calls_of_one_key_that_come_at_once_are_one(client: Client) -> None:
    answers: list[str] = []

    async def ask() -> None:
        answers.append(await client.text("shell", APPEND, key="one"))

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(ask)
    assert answers == ["done\n"] * 4 and (client.repo / "log.txt").read_text() == "x\n"


async def test_a_key_outlives_its_session(client: Client) -> None:
    runtime = client.served.daemon.runtime
    await client("shell", APPEND, key="k")
    ended = await client.session()
    await runtime.cancel(ended, by="me")
    assert await client.text("shell", APPEND, key="k2") == "done\n"
    assert await client.session() != ended
    assert await client.text("shell", APPEND, key="k") == "done\n"
    assert (client.repo / "log.txt").read_text() == "x\nx\n"
    with pytest.raises(McpFault):
        await client("shell", {"command": "true"}, key="k")


async def test_another_policy_takes_the_directory_over(client: Client) -> None:
    """Whoever changes its options does not wait for its own earlier session to be forgotten."""
    await client("read_file", {"path": "a.txt"})
    first = await client.session()
    client.query["policy"] = ASKS
    assert await client.text("read_file", {"path": "a.txt"}) == "hello\n"
    ended = await client.served.daemon.runtime.summary(first)
    assert ended.status == Status.CANCELLED and await client.session() != first


@pytest.mark.parametrize("key", ["", f"{FRONT_KEYS}1"])
async def test_reads_run_beside_a_write_and_a_cancelled_call_ends(client: Client, key: str) -> None:
    """Without a key of its own its client cannot come back for it: its process is ended, others go
    on."""
    waits = {"command": "touch began; until [ -e never ]; do sleep 0.02; done"}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(client, "shell", waits, key=key))
        await until((client.repo / "began").exists)
        assert await client.text("read_file", {"path": "a.txt"}) == "hello\n"
        tasks.cancel_scope.cancel()
    assert await client.text("shell", {"command": "echo next"}) == "next\n"
    state = await client.served.daemon.runtime.state(await client.session())
    assert not state.steps and not state.calls


async def test_progress_says_where_a_call_stands(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_runtime_mcp.tools.calls.BEAT_SECONDS", 0.02)
    asked = client.asked()
    asked.meta = {"progressToken": 1}
    go = client.repo / "go"
    async with anyio.create_task_group() as tasks:
        command = "until [ -e go ]; do sleep 0.02; done"
        tasks.start_soon(client, "shell", {"command": command}, asked)
        await until(lambda: any("runs" in said for _, said in asked.told))
        go.touch()
    seconds = [seconds for seconds, _ in asked.told]
    assert seconds == sorted(seconds)


async def test_a_long_output_can_be_read_on_by_its_caller_alone(client: Client) -> None:
    text = await client.text("shell", {"command": "seq 1 9999"})
    assert "5000" not in text.split() and len(text) < 11_000
    asks = json.loads(text[text.rindex("read_output ") + 12 : text.rindex("}") + 1])
    found, offset = "", 0
    while "this is the end" not in found[-60:]:
        piece = await client.text("read_output", {**asks, "offset": offset})
        found, offset = found + piece[: piece.rindex("\n[bytes")], offset + 10_000
        found += piece[piece.rindex("\n[bytes") :] if "the end]" in piece else ""
    assert found.split()[:9999] == [str(number) for number in range(1, 10_000)]
    stranger = Caller("other", client.asked().caller.scopes, "key")
    refused = await client("read_output", asks, FakeAsked(query=client.query, caller=stranger))
    assert refused.is_error and "there is no call" in text_of(refused)


# ---- approvals ---------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [("", ""), (f"{FRONT_KEYS}1", f"{FRONT_KEYS}2")])
async def test_a_call_that_nobody_here_may_allow_says_who_can(
    client: Client, keys: tuple[str, str]
) -> None:
    client.query["policy"] = ASKS
    waits = await client("shell", APPEND, key=keys[0])
    session = await client.session()
    assert waits.is_error and f"agent-runtime approve {session} a1" in text_of(waits)
    keyed = await client("read_file", {"path": "a.txt"})
    assert text_of(keyed) == "hello\n", "reads go on meanwhile"
    assert (client.repo / "log.txt").read_text() == ""
    await client.served.daemon.runtime.decide_approval(session, "a1", "approve", by="me")
    same = await client.text("shell", APPEND, key=keys[1])
    assert same == "done\n", "the same call is that call"
    assert "a2" in await client.text("shell", APPEND, key="k"), "an approval is for one call"
    await client.served.daemon.runtime.decide_approval(session, "a2", "deny", by="me", message="no")
    assert "was not approved: no" in await client.text("shell", APPEND, key="k")
    assert (client.repo / "log.txt").read_text() == "x\n"


async def test_the_person_at_the_client_sees_the_exact_arguments_and_decides(
    client: Client,
) -> None:
    client.query["policy"] = ASKS
    said: list[dict[str, Any]] = [
        {"action": "accept", "content": {"decision": "approve"}},
        {"action": "decline"},
        {"action": "accept", "content": {"decision": "approve all of this kind"}},
    ]
    asked = client.asked(capabilities=CAN, person=said)
    assert text_of(await client("shell", APPEND, asked)) == "done\n"
    assert '"echo x >> log.txt; echo done"' in asked.asked[0][1]["message"]
    assert "was not approved" in text_of(await client("shell", APPEND, asked))
    assert text_of(await client("shell", APPEND, asked)) == "done\n"
    assert text_of(await client("shell", APPEND, asked)) == "done\n", "it is trusted from now on"
    assert not said and (client.repo / "log.txt").read_text() == "x\n" * 3


async def test_a_caller_who_may_not_approve_is_not_asked(client: Client) -> None:
    client.query["policy"] = ASKS
    unable = Caller("local", frozenset({"tasks:write"}), "token")
    asked = client.asked(caller=unable, capabilities=CAN)
    assert "waits for an approval" in text_of(await client("shell", APPEND, asked))
    assert not asked.asked


async def test_who_closes_the_question_leaves_it_to_others(client: Client) -> None:
    """Somebody decides elsewhere while the client shows it: then nobody needs its answer."""
    client.query["policy"] = ASKS
    closing = client.asked(capabilities=CAN, person=[{"action": "cancel"}])
    assert "waits for an approval" in text_of(await client("shell", APPEND, closing))
    runtime, session = client.served.daemon.runtime, await client.session()
    shown = anyio.Event()

    class Slow(FakeAsked):
        async def ask(self, questions: Any, *, state: str = "") -> Any:
            shown.set()
            await anyio.sleep_forever()

    async def decide() -> None:
        await shown.wait()
        await runtime.decide_approval(session, None, "approve", by="another")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(decide)
        slow = Slow(query=client.query, capabilities=CAN)
        assert text_of(await client("shell", APPEND, slow)) == "done\n"


async def test_a_question_on_the_stateless_wire_goes_on_where_it_was(client: Client) -> None:
    client.query["policy"] = ASKS
    with pytest.raises(Asks) as ended:
        await client("shell", APPEND, client.asked(capabilities=CAN))
    (name,) = ended.value.questions
    answers: dict[str, Mapping[str, Any]] = {
        name: {"action": "accept", "content": {"decision": "approve"}}
    }
    again = client.asked(capabilities=CAN, state=ended.value.state, answers=answers)
    elsewhere = replace(again, query={**client.query, "network": "full"})
    with pytest.raises(McpFault, match="another workspace or policy"):
        await client("shell", APPEND, elsewhere)
    assert text_of(await client("shell", APPEND, again)) == "done\n"
    assert (client.repo / "log.txt").read_text() == "x\n"


# ---- what cannot be done -----------------------------------------------------------------


async def test_an_address_that_names_no_usable_workspace_says_what_would_be(
    client: Client, tmp_path: Path
) -> None:
    for query, kind, words in (
        ({}, UsageError, "no workspace is named"),
        ({"workspace": "here"}, UsageError, "absolute"),
        ({"workspace": str(tmp_path)}, Forbidden, "workspace_roots"),
        ({"workspace": str(client.served.root)}, UsageError, "is not a git repository"),
        ({**client.query, "clone": "perhaps"}, UsageError, "yes or no"),
        ({**client.query, "network": "all"}, UsageError, "network"),
        ({**client.query, "policy": '{"tools": ["nix"]}'}, UsageError, "nix"),
    ):
        with pytest.raises(kind, match=words):
            await client("read_file", {"path": "a.txt"}, FakeAsked(query=query))


async def test_a_session_keeps_the_labels_by_which_it_is_found(client: Client) -> None:
    """Without them its directory would be held for ever, and a key good for one call more."""
    await client("shell", APPEND, key="k")
    runtime, session = client.served.daemon.runtime, await client.session()
    labels = (await runtime.summary(session)).labels
    with pytest.raises(UsageError, match="mcp-session must stay"):
        await runtime.change(
            session, ChangeSpec(labels={**labels, "mcp-session": "another"}), by="me"
        )
    await runtime.change(session, ChangeSpec(labels={**labels, "team": "a"}, priority=1), by="me")
    assert (await client.text("shell", APPEND, key="k")) == "done\n"
    assert (client.repo / "log.txt").read_text() == "x\n"


async def test_wrong_arguments_are_told_as_the_loop_tells_them(client: Client) -> None:
    for tool, arguments, words in (
        ("call_tool", {"name": "read_fil"}, "did you mean 'read_file'?"),
        ("call_tool", {"name": "read_file", "arguments": {"pth": "a"}}, "read_file: "),
        ("read_file", {"pth": "a"}, "pth"),
    ):
        answer = await client(tool, arguments)
        assert answer.is_error and words in text_of(answer)


async def test_every_call_stands_in_the_log_with_who_asked(client: Client) -> None:
    answer = await client("read_file", {"path": "a.txt"})
    assert answer.meta is not None
    runtime = client.served.daemon.runtime
    task_id = TaskId(str(answer.meta["io.agent-runtime/task"]))
    events = [codec.decode(row) for row in await runtime.rows(task_id)]
    (asked,) = [event for event in events if type(event).__name__ == "CallRequested"]
    assert getattr(asked, "by", "") == "token:local"
    summary = await runtime.summary(task_id)
    assert (summary.status, summary.reason) == (Status.WAITING, "calls")
