"""What a person sees who is asked: exact arguments, and the change that the call would make."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from agent_runtime.cli import asked as under_test
from agent_runtime.cli.asked import detail_lines, say_details
from agent_runtime.loop import events as e
from agent_runtime.types import Json
from tests.cli.helpers import UNSAFE, Cli
from tests.cli.test_live import Terminal

DIFF = "--- a/calc.py\n+++ b/calc.py\n@@ -1 +1 @@\n-old\n+new\n"


def asked(preview: str = "", **arguments: Json) -> e.ApprovalRequested:
    return e.ApprovalRequested(
        approval_id="a1", step_id="s", subject="call", tool="t", arguments=arguments, digest="",
        expires_at_us=0, question="May it?", preview=preview,
    )  # fmt: skip


def test_a_preview_is_shown_line_by_line() -> None:
    assert detail_lines(asked(DIFF, content="new\nlong")) == [
        ("--- a/calc.py", "bold"),
        ("+++ b/calc.py", "bold"),
        ("@@ -1 +1 @@", "cyan"),
        ("-old", "red"),
        ("+new", "green"),
    ]


def test_texts_of_several_lines_are_readable_where_there_is_no_preview() -> None:
    arguments: dict[str, Json] = {
        "code": "a = 1\nprint(a)\n",
        "one": "line\n",
        "deep": [{"text": "x\ny"}],
    }
    assert [line for line, _ in detail_lines(asked("", **arguments))] == [
        "code:", "  a = 1", "  print(a)", "deep[0].text:", "  x", "  y",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("terminal", "no_color", "coloured"),
    [(True, "", True), (True, "1", False), (False, "", False)],
)
def test_colours_are_for_a_terminal_that_wants_them(
    monkeypatch: pytest.MonkeyPatch,
    terminal: bool,
    no_color: str,
    coloured: bool,
) -> None:
    painted: list[str] = []
    monkeypatch.setattr(under_test, "is_terminal", lambda: terminal)
    monkeypatch.setattr(click, "echo", painted.append)
    monkeypatch.setenv("NO_COLOR", no_color)
    say_details(asked("+new\x1b[2J\n"), "  ")
    assert painted == [
        "  \x1b[32m+new\N{REPLACEMENT CHARACTER}[2J\x1b[0m" if coloured
        else "  +new\N{REPLACEMENT CHARACTER}[2J"
    ]  # fmt: skip


@pytest.fixture
def edits(tmp_path: Path, repository: Path) -> Path:
    """A task that wants to edit a file, and must ask."""
    path = tmp_path / "task.yaml"
    path.write_text(
        "goal: Try it\nworkspace: {repo: ./repo}\nplan:\n  steps:\n"
        "    - {id: try, tool: write_file, args: {path: new.txt, content: \"one\\ntwo\\n\"}}\n"
        "objectives:\n  - {id: fine, check: {command: 'true'}}\n"
        "policy: {approvals: {\"write_file(path=*.txt)\": ask}}\n",
        encoding="utf-8",
    )  # fmt: skip
    return path


@pytest.mark.long
def test_the_change_is_shown_by_run_show_and_approve(cli: Cli, edits: Path) -> None:
    shown = ["--- /dev/null", "+++ b/new.txt", "@@ -0,0 +1,2 @@", "+one", "+two"]
    waited = cli("run", str(edits), "--wait-seconds", "0", UNSAFE)
    assert waited.code == 9, waited
    name = waited.out.splitlines()[0][-8:]
    listed = cli("approve")
    for out in (waited.out, cli("show", name).out, listed.out):
        assert 'write_file {"path":"new.txt","content":"one\\ntwo\\n"}' in out
        assert [line.strip() for line in out.splitlines() if line.strip() in shown] == shown
    assert f"approve {name} a1" in listed.out and "'write_file(path=*.txt)'" in listed.out
    done = cli("approve", name, "--json").json()
    assert (done["approval_id"], done["decision"]) == ("a1", "approve")
    assert done["task_id"].endswith(name)


@pytest.mark.long
def test_what_waits_is_listed_as_json_until_nothing_does(cli: Cli, edits: Path) -> None:
    waited = cli("run", str(edits), "--wait-seconds", "0", "--json", UNSAFE)
    task_id = waited.lines()[-1]["task_id"]
    [entry] = cli("approve", "--json").json()
    assert entry["task_id"] == task_id and entry["preview"].endswith("+one\n+two\n")
    assert cli("deny", task_id, "--json").json()["decision"] == "deny"
    nothing = cli("approve")
    assert (nothing.code, nothing.out) == (0, "") and "nothing waits" in nothing.err


@pytest.mark.long
def test_a_terminal_shows_the_change_in_colour(cli: Cli, edits: Path) -> None:
    terminal = Terminal(cli, "run", str(edits), UNSAFE)
    terminal.wait_for(r"type y or n here")
    assert "\x1b[32m          +one" in terminal.drawn
    terminal.type("y\n")
    assert terminal.close() == 0, terminal.drawn
