"""A client decides every turn of an agent, over the wire: a real bug is mended and certified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from bench.evals import pairs
from bench.evals.cases import Prepared
from tests.api.daemons import serving
from tests.mcp.runtime.clients import called, connected
from tests.pairs import releases

pytestmark = [pytest.mark.anyio, pytest.mark.long]

PLAN = json.dumps(
    {
        "requirements": ["the tests pass"],
        "steps": [{"id": "mend", "goal": "Find the bugs and mend them", "needs": []}],
        "objectives": [],
    }
)
PAIR = next(pair for pair in releases.all_pairs() if pair.name == "parse")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Prepared]:
    """The pair as a task, and how a competent model goes about it."""
    try:
        python = releases.fetch([PAIR])
    except releases.Unreachable as error:
        pytest.skip(str(error))
    [case] = pairs.cases([PAIR], python)
    return case, case.prepare(tmp_path_factory.mktemp("pair"))


@pytest.mark.parametrize(
    ("mode", "answer"), [("legacy", "gold"), ("2026-07-28", "gold"), ("2026-07-28", "half")]
)
async def test_a_scripted_client_is_the_brain_of_a_task(
    prepared: tuple[Any, Prepared], tmp_path: Path, mode: str, answer: str
) -> None:
    """The runtime proves the right patch, and does not believe in half of it."""
    case, there = prepared
    task = case.task(there, "client")
    roots = {"AGENT_RUNTIME_WORKSPACE_ROOTS": str(there.repo.parent)}
    with serving(tmp_path / "state", settings=roots, arguments=()) as daemon:
        async with connected(daemon, mode) as client:
            told = await called(client, "submit_task", task=task, idempotency_key="row")
            moves, turns = there.scripts[answer], 0
            view = await called(client, "next_decision", task_id=told["id"], wait_seconds=50)
            while (asked := view["decision"]) is not None and turns < 20:
                said: dict[str, Any] = {"text": PLAN}
                if not asked.get("answer_schema"):
                    move = moves[min(turns, len(moves) - 1)]
                    calls = [{"name": name, "arguments": given} for name, given in move.calls]
                    said = {"text": move.text, "calls": calls}
                    turns += 1
                view = await called(
                    client, "submit_decision", decision_id=asked["decision_id"], **said,
                    wait_seconds=50, known_messages=asked["messages_count"],
                    known_tools=asked["tools_count"],
                )  # fmt: skip
            ended = await called(client, "get_task", task_id=told["id"], wait_seconds=50)
        verified = await anyio.to_thread.run_sync(
            daemon.ask, "GET", f"/v1/tasks/{told['id']}/verify"
        )
    assert verified.json()["ok"]
    if answer == "gold":
        assert (ended["status"], ended["grade"]) == ("succeeded", "proven"), ended
        assert turns == len(there.scripts["gold"])
    else:
        assert ended["status"] == "unverified", ended
