from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.cli.helpers import UNSAFE, Cli


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line with an empty store."""
    return Cli(tmp_path)


def make_repository(path: Path) -> Path:
    """One commit with a bug that needs no interpreter to be seen."""
    path.mkdir()
    (path / "calc.py").write_text("def add(a, b):\n    return a - b\n", encoding="utf-8")
    for arguments in (
        ["init", "--quiet", "--initial-branch=main"],
        ["add", "."],
        ["commit", "--quiet", "--message=one"],
    ):
        git(path, *arguments)
    return path


def git(path: Path, *arguments: str) -> str:
    """The user's own git."""
    identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    done = subprocess.run(
        ["git", "-C", str(path), *identity, *arguments],
        check=True,
        capture_output=True,
        env={"PATH": os.environ["PATH"], "HOME": str(path), "GIT_CONFIG_NOSYSTEM": "1"},
    )
    return done.stdout.decode()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "repo")


FIX = """\
goal: Make add add
workspace: {repo: ./repo}
plan:
  steps:
    - {id: look, tool: shell, args: {command: "grep -q 'a + b' calc.py"}, expect: {exit: 1}}
    - id: fix
      tool: edit_file
      args: {path: calc.py, edits: [{oldText: a - b, newText: a + b}]}
      needs: [look]
objectives:
  - {id: adds, check: {command: "grep -q 'a + b' *.py"}}
labels: {team: parsers}
"""


@pytest.fixture(scope="session")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fixed]:
    """A finished task that succeeded; nobody may change it."""
    home = tmp_path_factory.mktemp("fixed")
    make_repository(home / "repo")
    (home / "task.yaml").write_text(FIX, encoding="utf-8")
    cli = Cli(home)
    done = cli("run", "task.yaml", "--json", UNSAFE)
    assert done.code == 0, done
    yield Fixed(cli, done.lines()[0]["task_id"], done.out)


class Fixed:
    """A finished task, where it is, and what `run --json` printed."""

    def __init__(self, cli: Cli, task_id: str, out: str) -> None:
        self.cli, self.task_id, self.out = cli, task_id, out


class WriteTask(Protocol):
    """Writes a task of one shell step, with more of the file behind it."""

    def __call__(self, command: str, more: str = "") -> Path: ...


@pytest.fixture
def shell_task(tmp_path: Path, repository: Path) -> WriteTask:
    """Writes a task of one shell step, with more of the file behind it."""

    def write(command: str, more: str = "") -> Path:
        path = tmp_path / "task.yaml"
        path.write_text(
            "goal: Try it\n"
            "workspace: {repo: ./repo}\n"
            "plan:\n"
            "  steps:\n"
            f"    - {{id: try, tool: shell, args: {{command: {command!r}}}}}\n"
            "objectives:\n"
            "  - {id: fine, check: {command: 'true'}}\n" + more,
            encoding="utf-8",
        )
        return path

    return write
