"""What waits for a person, of states as logs make them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agent_runtime.api import inbox as served
from agent_runtime.cli import inbox as printed
from agent_runtime.inbox import unpublished, waits_of
from agent_runtime.loop import events as e
from agent_runtime.loop.state import State
from agent_runtime.types import Phase, TaskSpec, TaskSummary

TASK = "task_" + "0" * 24 + "4f2a4f2a"


def summary(**more: Any) -> TaskSummary:
    fields: dict[str, Any] = {
        "task_id": TASK, "status": "waiting", "phase": "idle", "reason": "", "goal": "Fix it",
        "seq": 3, "head_hash": "", "created_at_us": 1, "updated_at_us": 7, "labels": {},
        "priority": 5, "repo": "",
    }  # fmt: skip
    return TaskSummary(**{**fields, **more})


def asked(subject: Any) -> e.ApprovalRequested:
    return e.ApprovalRequested(
        approval_id="a1", step_id="s", subject=subject, tool="shell", arguments={}, digest="d",
        expires_at_us=9, question="may I?",
    )  # fmt: skip


def state(**more: Any) -> State:
    spec = TaskSpec(goal="Fix it")
    return State(**{"task_id": TASK, "spec": spec, "stage": Phase.EXECUTION, **more})


@pytest.mark.parametrize("subject", ["call", "unknown_effect"])
def test_a_question_waits_with_both_answers_also_while_others_run(subject: str) -> None:
    [item] = waits_of(state(approvals={"a1": asked(subject)}), summary(status="running"))
    assert item.kind == ("approval" if subject == "call" else "unknown_effect")
    assert (item.what, item.approval_id, item.since_us) == ("may I?", "a1", 7)
    assert [answer.words for answer in item.answers] == [
        ["approve", "4f2a4f2a", "a1"], ["deny", "4f2a4f2a", "a1"],
    ]  # fmt: skip
    assert item.answers[0].path == f"/v1/approvals/{TASK}.a1/decide"


def test_a_paused_task_waits_and_one_that_works_does_not() -> None:
    [item] = waits_of(state(paused=True), summary(status="paused"))
    assert item.kind == "paused" and item.answers[0].words == ["resume", "4f2a4f2a"]
    assert waits_of(state(), summary(status="running")) == []


def test_a_branch_that_did_not_get_out_waits() -> None:
    [item] = unpublished(summary(status="succeeded", reason="; not published: denied"))
    assert (item.kind, item.what) == ("publishing", "its branch is not published: denied")
    assert not unpublished(summary(status="succeeded", reason="not needed"))


def test_the_command_line_has_an_item_as_the_daemon_answers_it() -> None:
    [item] = waits_of(state(paused=True), summary(status="paused"))
    printed_item = msgspec.to_builtins(printed._view(item))
    assert printed_item == msgspec.to_builtins(served.inbox_view(item))
    assert printed_item["since"] == "1970-01-01T00:00:00.000Z"


def test_a_task_whose_brain_is_a_client_is_offered_no_model() -> None:
    """It has a brain: `resume --model` would be refused."""
    told = state(
        brain=e.BrainFound(kind="client", why="the task names it"),
        asking=e.ModelCallStarted(
            step_id="s", turn=1, model="client", reserved_tokens=0, reserved_usd=0
        ),
    )
    [item] = waits_of(told, summary(reason="brain"))
    assert item.what == "a connected client is to decide its next turn"
    assert [each.does for each in item.answers] == ["end it"]
