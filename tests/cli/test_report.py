from __future__ import annotations

import os
from html.parser import HTMLParser
from pathlib import Path

import pytest

from agent_runtime.patches import FileChange, file_changes
from tests.cli.conftest import Fixed, WriteTask
from tests.cli.helpers import UNSAFE, Cli

EVIL = "x`|<img src=x onerror=alert(1)>\n\n# Approved\x1b[2J\u202e[a](http://b)``"
"""What a task, a file or a tool may be called."""


class Page(HTMLParser):
    """The tags of a page and the texts of its code."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.codes: list[str] = []
        self._in_code = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not any(name.startswith("on") or name in ("src", "href") for name, _ in attrs)
        if tag in ("code", "pre"):
            self._in_code = True
            self.codes.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("code", "pre"):
            self._in_code = False

    def handle_data(self, data: str) -> None:
        if self._in_code:
            self.codes[-1] += data


OWN_TAGS = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "span", "pre", "section", "ul",
    "li", "code",
}  # fmt: skip


def test_a_report_tells_what_changed_how_it_was_checked_and_what_was_not(fixed: Fixed) -> None:
    """A reviewer reads nothing else."""
    done = fixed.cli("report", fixed.task_id[-8:])
    assert done.code == 0 and done.err == ""
    lines = done.out.splitlines()
    assert lines[0] == f"# `{fixed.task_id}`: succeeded"
    assert "Make add add" in lines
    assert "- `calc.py`: changed, +1 -1" in lines
    assert "- step `fix`: done, tool `edit_file`, wrote `calc.py`" in lines
    assert (
        "- check `adds`: ok, before the work: exit 1 (expected 0); after: exit 0; "
        "command `grep -q 'a + b' *.py`" in lines
    )
    assert "- grade: `proven`" in lines
    assert "no baseline" not in done.out
    assert "- whether these checks pass every time: they ran once on the result: `adds`" in lines
    assert "- how many tests ran, only the exit code counted: `adds`" in lines
    assert f"- take it: `agent-runtime apply {fixed.task_id}`" in lines
    assert "- policy: none; no connection is recorded in the log" in lines


def test_the_page_is_one_file_that_loads_and_runs_nothing(fixed: Fixed, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    done = fixed.cli("report", fixed.task_id, "--html", "--output", str(path))
    assert done.code == 0 and done.out == "" and str(path) in done.err
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags == OWN_TAGS
    assert "default-src 'none'" in text and "calc.py" in page.codes
    assert [each.name for each in tmp_path.glob("report.html*")] == ["report.html"]


@pytest.mark.long
def test_json_has_the_same_parts(fixed: Fixed) -> None:
    made = fixed.cli("report", fixed.task_id, "--json").json()
    assert made["status"] == "succeeded" and made["good"] is True
    assert made["goal"] == {"text": "Make add add"}
    [changed] = [part["items"] for part in made["sections"] if part["title"] == "What changed"]
    assert changed == [[{"text": "calc.py"}, ": changed, +1 -1"]]
    assert fixed.cli("report", fixed.task_id, "--json", "--html").code == 2


@pytest.mark.long
def test_a_report_that_cannot_be_written_is_2_and_leaves_nothing(
    fixed: Fixed, tmp_path: Path
) -> None:
    done = fixed.cli("report", fixed.task_id, "--output", str(tmp_path / "missing" / "r.md"))
    assert done.code == 2 and "No such file" in done.err
    done = fixed.cli("report", fixed.task_id, "--output", str(tmp_path))
    assert done.code == 2 and os.listdir(tmp_path) == []
    assert fixed.cli("report", "ffffffff").code == 5


@pytest.mark.long
def test_what_a_task_and_its_files_are_called_is_never_markup(
    cli: Cli, shell_task: WriteTask
) -> None:
    """Goals, file names and commands come from anywhere; a report lands in a browser or a forge."""
    name = EVIL.replace("/", "_")
    path = shell_task(f"printf x > {_sh(name)}")
    text = path.read_text(encoding="utf-8").replace("goal: Try it", f"goal: {_yaml(EVIL)}")
    path.write_text(text, encoding="utf-8")
    done = cli("run", "task.yaml", UNSAFE)
    assert done.code == 0, done
    [task_id] = [line for line in done.out.splitlines() if line.startswith("task_")][:1]

    shown = name.replace("\n", "\\n").replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    html = cli("report", task_id, "--html").out
    page = Page(html)
    assert page.tags == OWN_TAGS
    assert shown in page.codes
    assert EVIL.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e") in page.codes

    markdown = cli("report", task_id).out
    assert (
        f"- ```{' ' if name[-1] == '`' else ''}{shown} ```: added, +1 -0" in markdown.splitlines()
    )
    assert "\x1b" not in markdown + html and "\u202e" not in markdown + html
    # The goal's lines stand between fences, and there is no other place where they begin a line.
    fence = markdown.splitlines()[2].removesuffix("text")
    before, goal, after = markdown.split(f"\n{fence}", 2)
    assert "# Approved" in goal
    assert "\n# Approved" not in before + after


def _sh(text: str) -> str:
    octal = "".join(f"\\{byte:03o}" for byte in text.encode())
    return f'"$(printf "{octal}")"'


def _yaml(text: str) -> str:
    return '"' + "".join(f"\\U{ord(char):08x}" for char in text) + '"'


@pytest.mark.parametrize(
    "name", ["a b", "b", 'quo"te', "tab\t", "new\nline", "back\\slash", "ü", "\udcff"]
)
def test_sizes_are_read_from_a_patch_of_any_file_name(tmp_path: Path, name: str) -> None:
    """As `git diff-tree` spells them."""
    from tests.cli.conftest import git

    git(tmp_path, "init", "--quiet")
    (tmp_path / "old").write_text("1\n2\n", encoding="utf-8")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message=one")
    (tmp_path / "old").unlink()
    # A file that looks like a patch itself, and ends without a line end.
    (tmp_path / name).write_text("diff --git a/x b/x\n@@ -1 +1,9 @@\n-- x\n++ x", encoding="utf-8")
    (tmp_path / "z.bin").write_bytes(bytes(range(256)))
    git(tmp_path, "add", ".")
    patch = git(tmp_path, "diff", "--cached", "--binary", "--full-index", "--no-renames")
    shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    assert sorted(file_changes(patch.encode()), key=lambda change: change.path) == sorted(
        [
            FileChange("old", "deleted", 0, 2),
            FileChange(shown, "added", 4, 0),
            FileChange("z.bin", "added", binary=True, bytes=256),
        ],
        key=lambda change: change.path,
    )
