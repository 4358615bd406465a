"""What a finished task goes on with, read from a file or a JSON body."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agent_runtime.errors import UsageError
from agent_runtime.taskfile import (
    _CONTINUATION_RULES,
    _STAYS,
    parse_change,
    parse_continuation,
    parse_task,
    read_continuation,
)
from agent_runtime.types import ArtifactSpec, ContinuationSpec, LimitsChange

TASK = parse_task(
    {
        "goal": "g",
        "policy": {"network": "restricted", "egress": ["example.org"], "approvals": {"pay": "ask"}},
    },
    base_dir="/",
)
DOCS = Path(__file__).parents[1] / "docs" / "task-file.md"
EARLIER = {"fix": True, "broken": False}


def parsed(document: object) -> ContinuationSpec:
    return parse_continuation(document, task=TASK, earlier=EARLIER)


def step(**more: object) -> dict[str, object]:
    made = {"id": "b", "tool": "shell", "args": {"command": "ls"}, **more}
    return {"plan": {"steps": [{k: v for k, v in made.items() if v is not None}]}}


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ([], "must hold a mapping"),
        ({"goal": "x"}, "stays as the task has it; write what is wanted now as `message`"),
        ({"workspace": {"repo": "."}}, "for another repository, run a new task"),
        ({"gaol": "x"}, "unknown key"),
        ({"limits": {"steps": 0}}, "limits.steps: must be from 1"),
        ({"limits": {"calls": 3}}, "limits.calls: unknown key"),
        ({"policy": {"network": "none"}}, "policy.egress: allows nothing with network none"),
        ({"objectives": [{"id": "a", "check": {"command": ""}}]}, "must not be empty"),
        ({"model": "x"}, "must be provider/name"),
        (step(id="fix"), "'fix' was a step of the task's earlier plan"),
        (step(id="broken"), "'broken' was a step of the task's earlier plan"),
        (step(needs=["broken"]), "'broken' did not come out well in the earlier plan"),
        (step(needs=["fox"]), "did you mean 'fix'?"),
        (step(args={"command": "{{ steps.broken.output }}"}), "'broken' did not come out well"),
        (step(args={"command": "{{ steps.fix.outputs }}"}), "did you mean 'output'?"),
        (step(fallback="fix"), "a fallback is a step of the plan"),
        (step(tool=None, args=None, goal="think"), "add `model: provider/name`"),
    ],
)
def test_what_is_wrong_is_told_with_the_way_out(document: object, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        parsed(document)
    assert told in str(caught.value)


def test_new_steps_need_and_read_earlier_ones_that_came_out_well() -> None:
    wish = parsed(
        step(needs=["fix"], args={"command": "echo {{ steps.fix.output }}"}, when="steps.fix.ok")
    )
    assert wish.plan is not None and wish.plan.steps[0].needs == ["fix"]


def test_the_example_of_the_docs_goes_on_with_the_task_of_the_docs(tmp_path: Path) -> None:
    found = re.search(r"<!-- continuation.*?```yaml\n(.*?)```", DOCS.read_text(), flags=re.S)
    assert found is not None
    file = tmp_path / "more.yaml"
    file.write_text(found[1], encoding="utf-8")
    wish = read_continuation(str(file), task=TASK, earlier={"reproduce": True})
    assert wish.plan is not None and wish.limits.seconds == 600


def test_every_key_is_in_the_docs() -> None:
    section = DOCS.read_text().split("## Going on with a finished task")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?`) \|", section, flags=re.M)
    told = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    assert told == set(ContinuationSpec.__struct_fields__)


def test_what_a_policy_does_not_name_stays() -> None:
    wish = parsed({"policy": {"approvals": {"shell": "ask"}}})
    assert wish.policy is not None
    assert (wish.policy.network, wish.policy.egress) == ("restricted", ["example.org"])
    assert wish.policy.approvals == {"shell": "ask"}


def test_words_of_the_command_line_win(tmp_path: Path) -> None:
    file = tmp_path / "more.yaml"
    file.write_text("message: from the file\nlimits: {steps: 3, seconds: 4}\n", encoding="utf-8")
    wish = read_continuation(
        str(file), task=TASK, earlier=EARLIER, message="said", limits={"steps": 5}
    )
    assert (wish.message, wish.limits) == ("said", LimitsChange(steps=5, seconds=4.0))
    with pytest.raises(UsageError, match=r"more\.yaml:2: limits\.steps: must be from 1"):
        read_continuation(str(file), task=TASK, earlier=EARLIER, limits={"steps": 0})


# ---- artifacts, in both files ------------------------------------------------------------


def test_a_text_stands_for_the_path_of_an_artifact() -> None:
    wanted = ["dist/*.whl", {"path": "cov.xml", "required": True}]
    expected = [ArtifactSpec(path="dist/*.whl"), ArtifactSpec(path="cov.xml", required=True)]
    assert parsed({"artifacts": wanted}).artifacts == expected
    assert parse_task({"goal": "g", "artifacts": wanted}, base_dir="/").artifacts == expected


@pytest.mark.parametrize(
    ("artifact", "told"),
    [
        ("", "must name files"),
        ("./", "must name files"),
        ("/etc/passwd", "write 'etc/passwd'"),
        ("../x", "must not hold '..'"),
        ("~/x", "below the repository"),
        ("!x", "below the repository"),
        ("a\nb", "control characters"),
        (3, "must be a mapping"),
        ({"path": "x", "requierd": True}, "did you mean 'required'?"),
        ({"required": True}, "is required and missing"),
    ],
)
def test_an_artifact_names_files_of_the_repository(artifact: object, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_task({"goal": "g", "artifacts": [artifact]}, base_dir="/")
    assert told in str(caught.value)


def test_there_are_not_too_many() -> None:
    with pytest.raises(UsageError, match="at most 100 patterns, got 101"):
        parse_task({"goal": "g", "artifacts": ["x"] * 101}, base_dir="/")


def test_every_rule_is_about_a_field_that_exists() -> None:
    ruled = _CONTINUATION_RULES
    assert all(name in owner.__struct_fields__ for owner, name in ruled)  # type: ignore[attr-defined]
    assert not any(name in owner.__struct_fields__ for owner, name in _STAYS)  # type: ignore[attr-defined]


def test_json_of_a_continuation_counts_with_one_kind_of_number() -> None:
    """8.0 is an integer (JSON Schema, 6.1.1), as in a task; found by schemathesis in a change."""
    assert parsed({"limits": {"steps": 8.0}}).limits.steps == 8
    assert parse_change({"priority": 5.0}).priority == 5
