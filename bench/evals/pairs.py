"""Release pairs as tasks for a model: older source, newer tests; see `tests.pairs`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench.evals.cases import Arguments, Case, Prepared, worked_out
from tests.pairs import releases

SUITE = "release-pairs"
ANSWERS = ("gold", "half", "comment")
GOAL = (
    "The tests of {name} in {tests} fail: its source has bugs. Find and mend them, without touching"
    " the tests."
)
READ_FILES = 3
READ_LINES = 120


def cases(listed: Sequence[releases.Pair], python: Path) -> list[Case]:
    """The pairs as tasks, whose tests run in the environment `python`."""
    return [
        Case(
            suite=SUITE,
            name=pair.name,
            goal=GOAL.format(name=pair.name, tests=pair.tests),
            command=pair.command,
            protect=(f"{pair.tests}/**",),
            answers=ANSWERS,
            prepare=partial(_prepare, pair, python),
        )
        for pair in listed
    ]


def _prepare(pair: releases.Pair, python: Path, directory: Path) -> Prepared:
    case = releases.make_case(pair, directory, python)
    patches = {
        "gold": case.fix,
        "half": releases.half_of(case),
        "comment": releases.comment_of(case),
    }
    changed = re.findall(r"(?m)^diff --git a/(\S+)", case.fix)
    reads: list[tuple[str, Arguments]] = [
        ("read_file", {"path": path, "start": 1, "end": READ_LINES})
        for path in changed
        if (case.repo / path).exists()
    ][:READ_FILES]
    reads += [("list_directory", {"path": pair.tests}), ("grep", {"pattern": "def test_"})]
    return Prepared(
        repo=case.repo,
        python=python,
        scripts={
            name: worked_out(reads, patch, pair.command, f"{pair.name} is mended.")
            for name, patch in patches.items()
        },
    )
