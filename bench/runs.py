"""One measurement is one fresh process in a fresh directory; those that are compared take turns."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
WORK = ROOT / ".cache" / "bench-data"
"""On a real disk: where /tmp lives in memory, nothing that is durable costs anything."""
PEERS = ROOT / ".cache" / "bench" / "bin" / "python"
SECONDS_MAX = 300.0
KILLED = -9


@dataclass(frozen=True, slots=True)
class Measurement:
    """A module of `bench` and what it is asked for."""

    name: str
    module: str
    words: tuple[str, ...] = ()
    prepared: str = ""
    """Name of a directory that was prepared before (`prepare`), to begin with a copy of."""

    @property
    def python(self) -> str:
        """The venv that it runs in."""
        return str(PEERS) if ".peers." in self.module else sys.executable


class Failed(Exception):
    """A measurement ended badly; the text says which and how."""


def measure(measurement: Measurement, prepared: Mapping[str, Path] = {}) -> dict[str, Any]:
    """Run it in a directory of its own and return what it told."""
    with tempfile.TemporaryDirectory(dir=work(), prefix="run-") as directory:
        if measurement.prepared:
            shutil.copytree(prepared[measurement.prepared], directory, dirs_exist_ok=True)
            os.sync()  # what the copy left to be written is not this measurement's work
        done = _run(measurement, directory)
    if done.returncode != 0:
        raise Failed(_why(measurement, done))
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return told


def prepare(measurement: Measurement, directory: Path) -> Path:
    """Run one that kills itself, and keep what it left."""
    directory.mkdir(parents=True)
    done = _run(measurement, str(directory))
    if done.returncode != KILLED:
        raise Failed(f"it was to kill itself: {_why(measurement, done)}")
    return directory


def take_turns(
    measurements: Sequence[Measurement], rounds: int, prepared: Mapping[str, Path] = {}
) -> dict[str, list[dict[str, Any]]]:
    """Measure all of them, `rounds` times, every other time in reverse."""
    told: dict[str, list[dict[str, Any]]] = {m.name: [] for m in measurements}
    for number in range(rounds):
        turn = measurements if number % 2 == 0 else measurements[::-1]
        for measurement in turn:
            told[measurement.name].append(measure(measurement, prepared))
    return told


def scratch() -> Path:
    """A directory for what is prepared; remove it when done."""
    return Path(tempfile.mkdtemp(dir=work(), prefix="prepared-"))


def _run(measurement: Measurement, directory: str) -> subprocess.CompletedProcess[str]:
    argv = [measurement.python, "-m", measurement.module, *measurement.words]
    # Libraries look for settings around them: they shall find none, and report to nobody.
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OPENAI_AGENTS_DISABLE_TRACING": "1"}
    env.update(LANGSMITH_TRACING="false", BENCH_DIRECTORY=directory)
    argv = [directory if word == "{directory}" else word for word in argv]
    return subprocess.run(
        argv, cwd=directory, env=env, capture_output=True, text=True, timeout=SECONDS_MAX
    )


def _why(measurement: Measurement, done: subprocess.CompletedProcess[str]) -> str:
    tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-12:])
    return f"{measurement.name} ({measurement.module}) ended with {done.returncode}:\n{tail}"


def work() -> Path:
    """Where measurements happen; made if it is missing."""
    WORK.mkdir(parents=True, exist_ok=True)
    return WORK
