"""The command line as a user has it: real processes, real git, the real sandbox."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.lean import LEAN_PYTEST

ROOT = Path(__file__).parent.parent.parent
SMALL = ROOT / "examples" / "small"
SECONDS_MAX = 90


@dataclass
class CommandLine:
    """`agent-runtime` on a store of its own."""

    home: Path
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "AGENT_RUNTIME_STORE": f"sqlite:///{self.home / 'state' / 'store.db'}",
            "XDG_CONFIG_HOME": str(self.home / "config"),
            **self.extra,
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "agent_runtime", *arguments],
            env=self.environment,
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"{arguments} hangs: {out}\n{err}") from None
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def run(self, task: dict[str, Any], *options: str) -> tuple[int, list[dict[str, Any]]]:
        """`run --json`: the exit code and all lines; the last one is the result."""
        done = self("run", str(self.write(task)), "--json", *options)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert lines, done.stderr
        return done.returncode, lines

    def write(self, task: dict[str, Any]) -> Path:
        path = self.home / f"task-{len(list(self.home.glob('task-*')))}.json"
        path.write_text(json.dumps(task), encoding="utf-8")
        return path


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path)


def git(repo: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.invalid"]
    done = subprocess.run(
        ["git", "-C", str(repo), *identity, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """The small example: three failing tests, one source file."""
    where = tmp_path / "repo"
    shutil.copytree(SMALL, where)
    (where / "fix.patch").unlink()
    git(where, "init", "-q")
    git(where, "add", "-A")
    git(where, "commit", "-qm", "one")
    return where


@pytest.fixture
def fix() -> str:
    """The patch that mends it."""
    return (SMALL / "fix.patch").read_text(encoding="utf-8")


def chain(steps: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each step needs the one before."""
    made = []
    for index, step in enumerate(steps):
        needs = {"needs": [steps[index - 1]["id"]]} if index else {}
        made.append({**needs, **step})
    return made


TESTS = "python -m pytest -q tests"
ENVIRONMENT = {"python": sys.prefix, "env": LEAN_PYTEST}
"""Where tasks run: our own packages, without what they plug into every pytest."""


def playbook(repo: Path, steps: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A task with the tests as its objective."""
    return {
        "goal": "Make the failing tests pass without touching the tests",
        "workspace": {"repo": str(repo)},
        "environment": ENVIRONMENT,
        "plan": {"steps": chain(steps)},
        "objectives": [{"id": "tests", "check": {"command": TESTS, "min_passed": 3}}],
        **more,
    }
