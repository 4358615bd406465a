"""Prompts: listed with their arguments, filled without running anything."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from agent_runtime.errors import UsageError
from agent_runtime_mcp.definitions import McpFault
from agent_runtime_mcp.runtime.prompts import parse_prompt, read_prompts

DOCS = Path(__file__).parents[3] / "docs" / "mcp-runtime.md"
HEAD = "---\ntitle: T\narguments: [{name: who, required: true}, {name: why}]\n---\n"


def test_ours_are_filled_and_name_tools_that_there_are() -> None:
    found = read_prompts("")
    assert {"fix-failing-tests", "fix-bug", "review-task", "write-task-file"} <= set(found)
    for name, prompt in found.items():
        arguments = prompt.definition.arguments
        assert prompt.definition.title and prompt.definition.description
        assert all(each.description for each in arguments)
        full = prompt.filled({each.name: f"<{each.name}>" for each in arguments})
        least = prompt.filled({each.name: "x" for each in arguments if each.required})
        text = full.messages[0]["content"]["text"]
        assert all(f"<{each.name}>" in text for each in arguments), name
        assert "{{" not in text + least.messages[0]["content"]["text"]


def test_what_a_person_types_is_no_template() -> None:
    prompt = parse_prompt("p", HEAD + "Hello {{ who }}{% if why %}, {{ why | trim }}{% endif %}")
    said = prompt.filled({"who": "{{ 7 * 7 }}", "why": " {% raw %} "})
    assert said.messages[0]["content"]["text"] == "Hello {{ 7 * 7 }}, {% raw %}"


@pytest.mark.parametrize(
    "body",
    [
        "{{ 'a' * 10**9 }}",
        "{% for a in who %}{% for b in who %}{{ b }}{% endfor %}{% endfor %}",
        "{{ who.__class__ }}",
        "{{ who['x'] }}",
        "{{ range(3) }}",
        "{{ who | map('upper') }}",
        "{{ who | format(1) }}",
        "{% set who = 1 %}",
        "{% include 'x' %}",
        "{% macro m() %}{% endmacro %}",
        "{{ unknown }}",
        "{{ who",
        "{{ " + "(" * 500 + "who" + ")" * 500 + " }}",
    ],
)
def test_templates_that_could_grow_or_reach_out_are_refused(body: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_prompt("p", HEAD + body)
    assert "template" in str(caught.value)


def test_the_example_of_the_docs_is_a_prompt() -> None:
    [example] = re.findall(r"```markdown\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    prompt = parse_prompt("example", example)
    said = prompt.filled({"repo": "R", "package": "P"}).messages[0]["content"]["text"]
    assert said == "Call submit_task for R: update P to its newest version."


def test_arguments_are_checked_with_a_hint() -> None:
    prompt = parse_prompt("p", HEAD + "Hello {{ who }}")
    for given, said in (
        ({}, "needs who"),
        ({"who": " "}, "needs who"),
        ({"who": "x", "whoo": "y"}, "did you mean 'who'"),
        ({"who": "x" * 60_000}, "at most 50000"),
    ):
        with pytest.raises(McpFault, match=said):
            prompt.filled(given)


def test_a_folder_adds_and_replaces_and_what_is_wrong_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mine.md").write_text(HEAD + "Mine, {{ who }}", encoding="utf-8")
    (tmp_path / "fix-bug.md").write_text(HEAD + "Ours is replaced", encoding="utf-8")
    (tmp_path / "broken.md").write_text(HEAD + "{{ who.x }}", encoding="utf-8")
    (tmp_path / "headless.md").write_text("{{ who }}", encoding="utf-8")
    (tmp_path / "Upper.md").write_text(HEAD, encoding="utf-8")
    (tmp_path / "binary.md").write_bytes(b"\0" * 9)
    (tmp_path / "large.md").write_bytes(b"x" * (1 << 17))
    (tmp_path / "directory.md").mkdir()
    os.mkfifo(tmp_path / "fifo.md")
    (tmp_path / "notes.txt").write_text("no prompt", encoding="utf-8")
    found = read_prompts(str(tmp_path))
    assert set(found) == {*read_prompts(""), "mine"}
    assert (
        found["fix-bug"].filled({"who": "x"}).messages[0]["content"]["text"] == "Ours is replaced"
    )
    for name in ("broken", "headless", "Upper", "binary", "large", "directory", "fifo"):
        assert name in caplog.text, name
    assert set(read_prompts(str(tmp_path / "none"))) == set(read_prompts(""))
