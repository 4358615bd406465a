"""The serving process is killed with SIGKILL, and the client asks again with the same key."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.mcp.tools.conftest import checkout

pytestmark = pytest.mark.long

SECONDS_MAX = 60


@dataclass
class Process:
    """`tests.mcp.tools.serving`, and a client that has its pipes."""

    root: Path
    query: dict[str, str]
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None
    threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        self.process = process = subprocess.Popen(
            [sys.executable, "-m", "tests.mcp.tools.serving",
             f"sqlite:///{self.root}/state/store.db", str(self.root)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        thread = threading.Thread(target=self._read, args=(process,))
        thread.start()
        self.threads.append(thread)

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.endswith("\n"):
                answer = json.loads(line)
                self.answers[answer["id"]] = answer

    def ask(self, key: str, command: str) -> None:
        assert self.process is not None and self.process.stdin is not None
        request = {"id": key, "tool": "shell", "arguments": {"command": command}, "key": key}
        self.process.stdin.write(json.dumps({**request, "query": self.query}) + "\n")
        self.process.stdin.flush()

    def wait(self, *keys: str) -> list[dict[str, Any]]:
        until(lambda: self.answers.keys() >= set(keys))
        return [self.answers[key] for key in keys]

    def wait_or(self, seconds: float, *keys: str) -> None:
        """Until all are answered, or so long."""
        end = time.monotonic() + seconds
        until(lambda: time.monotonic() > end or self.answers.keys() >= set(keys))

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.communicate()
        self.threads.pop().join()


def until(seen: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def process(root: Path, **query: str) -> Iterator[Process]:
    made = Process(root, {"workspace": str(checkout(root / "repo")), **query})
    made.start()
    try:
        yield made
    finally:
        made.kill()


def test_in_place_a_cut_off_call_is_said_to_be_unknown_and_an_answered_one_is_told_again(
    tmp_path: Path,
) -> None:
    """Nothing of the user's own directory is ever undone, so nobody can know."""
    command = "echo x >> log.txt; wc -l < log.txt; [ -e go.txt ] || sleep 1000"
    with process(tmp_path) as in_place:
        log = tmp_path / "repo" / "log.txt"
        in_place.ask("done", "echo one >> a.txt; wc -l < a.txt")
        assert in_place.wait("done")[0]["text"].strip() == "2"
        in_place.ask("cut", command)
        until(lambda: log.read_text() == "x\n")
        in_place.kill()
        in_place.answers.clear()
        in_place.start()
        in_place.ask("cut", command)
        in_place.ask("done", "echo one >> a.txt; wc -l < a.txt")
        cut, done = in_place.wait("cut", "done")
        assert cut["error"] and "It is unknown whether 'shell'" in cut["text"]
        assert log.read_text() == "x\n"
        assert (done["text"].strip(), done["error"]) == ("2", False)
        assert (tmp_path / "repo" / "a.txt").read_text() == "hello\none\n"


def test_in_a_clone_a_cut_off_call_is_undone_and_made_again(tmp_path: Path) -> None:
    with process(tmp_path, clone="yes") as made:
        made.ask("cut", "echo x >> log.txt; wc -l < log.txt; sleep 3")
        marks = tmp_path / "state" / "workspaces"
        until(lambda: any(path.read_text() == "x\n" for path in marks.glob("*/work/log.txt")))
        made.kill()
        made.start()
        made.ask("cut", "echo x >> log.txt; wc -l < log.txt; sleep 3")
        (cut,) = made.wait("cut")
        assert (cut["text"].strip(), cut["error"]) == ("1", False)


@pytest.mark.parametrize("seed", range(2))
def test_however_often_it_is_killed_no_effect_is_doubled_and_no_answer_lost(
    tmp_path: Path, seed: int
) -> None:
    """Effects in the user's own directory; SIGKILL at random moments."""
    dice = random.Random(seed)
    keys = [f"k{number}" for number in range(30)]
    with process(tmp_path) as made:
        while missing := [key for key in keys if key not in made.answers]:
            for key in missing[:8]:
                made.ask(key, f"echo {key} >> log.txt")
            made.wait_or(dice.uniform(0.05, 0.6), *missing[:8])
            made.kill()
            made.start()
        lines = (tmp_path / "repo" / "log.txt").read_text().split()
    unknown = {key for key, answer in made.answers.items() if answer["error"]}
    assert all("It is unknown whether" in made.answers[key]["text"] for key in unknown)
    assert len(lines) == len(set(lines)), "an effect was doubled"
    assert set(keys) - unknown <= set(lines) <= set(keys)
