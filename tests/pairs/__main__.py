"""`make pairs`: real bugs, each with its right patch and two wrong ones, by the command line.

The right patch must end proven, with a check that notices tests which are made to fail. Half of it,
and a comment, must never succeed. Ends with 1 if one of them does not, and with 2 where the
releases cannot be had.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.pairs.releases import (
    Case,
    Pair,
    Unreachable,
    all_pairs,
    comment_of,
    fetch,
    half_of,
    make_case,
)

TASKS_AT_A_TIME = 2
SECONDS_MAX = 900


@dataclass(frozen=True)
class Ended:
    """How a task ended."""

    status: str
    reason: str
    grade: str
    before: str
    after: str
    countered: int
    """Tests that the counter-check made to fail, and the check noticed."""
    verified: bool
    """`verify` found the log and its claims to be what was written."""


@dataclass(frozen=True)
class Line:
    """Of the table: one pair."""

    pair: Pair
    right: Ended
    half: Ended
    comment: Ended
    seconds: float

    @property
    def good(self) -> bool:
        """Is everything as it should be?"""
        proven = self.right.status == "succeeded" and self.right.grade == "proven"
        wrong = (self.half, self.comment)
        listens = self.right.countered > 0
        return (
            proven
            and listens
            and self.right.verified
            and all(w.status != "succeeded" for w in wrong)
        )


def main() -> int:
    """Run all pairs, or those that are named."""
    parser = argparse.ArgumentParser(prog="python -m tests.pairs", description=__doc__)
    parser.add_argument("names", nargs="*", help="packages; all by default")
    names = parser.parse_args().names
    pairs = [pair for pair in all_pairs() if not names or pair.name in names]
    if unknown := set(names) - {pair.name for pair in pairs}:
        parser.error(f"no pair is called {', '.join(sorted(unknown))}")
    try:
        python = fetch(pairs)
    except Unreachable as error:
        print(f"No release pair was tried: {error}.")
        return 2
    print(
        f"{len(pairs)} release pairs: source of the older, tests of the newer one. Each with the"
        " right patch,\nwith half of it and with a comment in its place.\n"
    )
    show(
        [
            "pair",
            "passed before",
            "passed after",
            "right patch",
            "countered",
            "half of it",
            "a comment",
            "s",
        ]
    )
    good = 0
    with (
        tempfile.TemporaryDirectory(prefix="pairs-") as work,
        ThreadPoolExecutor(TASKS_AT_A_TIME) as threads,
    ):
        for line in threads.map(lambda pair: try_pair(pair, Path(work), python), pairs):
            good += line.good
            report(line)
    proven = f"{good} of {len(pairs)} pairs as they should be: right patches proven, wrong ones not"
    print(f"\n{proven}")
    return 0 if good == len(pairs) else 1


def try_pair(pair: Pair, work: Path, python: Path) -> Line:
    """All tasks of one pair, one after another."""
    started = time.monotonic()
    case = make_case(pair, work / pair.name, python)
    right, half, comment = (
        run(case, patch, work / pair.name / name)
        for name, patch in (
            ("right", case.fix),
            ("half", half_of(case)),
            ("comment", comment_of(case)),
        )
    )
    return Line(pair, right, half, comment, time.monotonic() - started)


def run(case: Case, patch: str, work: Path) -> Ended:
    """A task of its own store that applies `patch`."""
    work.mkdir()
    task = work / "task.json"
    task.write_text(json.dumps(task_of(case, [step_of(patch)])), encoding="utf-8")
    environment = {**os.environ, "AGENT_RUNTIME_STORE": f"sqlite:///{work / 'state' / 'store.db'}"}
    lines = _runtime(["run", str(task), "--json"], environment)
    result = json.loads(lines[-1])
    verified = _runtime(["verify", result["task_id"], "--json"], environment)
    certificate: dict[str, Any] = {"grade": None, "checks": [{"before": None}]}
    if result["certificate"]:
        certificate = json.loads(Path(result["certificate"]).read_text(encoding="utf-8"))
    [check] = certificate["checks"]
    return Ended(
        status=result["status"],
        reason=result["reason"],
        grade=certificate["grade"] or "",
        before=counts(check["before"]),
        after=counts(check),
        countered=len(check.get("countered", ())),
        verified=json.loads(verified[-1])["ok"],
    )


def task_of(case: Case, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """A task file: reproduce the failure, then `steps` in their order."""
    reproduce = {
        "id": "reproduce",
        "tool": "shell",
        "args": {"command": f"! {case.pair.command}"},
        "effect": "read",
    }
    chain = [reproduce, *steps]
    for before, step in zip(chain, steps, strict=False):
        step["needs"] = [before["id"]]
    return {
        "goal": f"Make the failing tests of {case.pair.name} pass without touching the tests",
        "workspace": {"repo": str(case.repo)},
        "environment": {"python": str(case.python)},
        "plan": {"steps": chain},
        "objectives": [{"id": "tests", "check": {"command": case.pair.command}}],
    }


def step_of(patch: str) -> dict[str, Any]:
    """A step that applies a patch as it is."""
    text = f"{{% raw %}}{patch}{{% endraw %}}"
    return {"id": "fix", "tool": "apply_patch", "args": {"patch": text}}


def counts(check: dict[str, Any] | None) -> str:
    """Tests that passed, of those that came to a verdict."""
    if not check or check.get("ran") is None:
        return "-"
    return f"{check['passed']} of {check['ran']}"


def _runtime(arguments: list[str], environment: dict[str, str]) -> list[str]:
    command = [sys.executable, "-m", "agent_runtime", *arguments]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=SECONDS_MAX, check=False
    )
    lines = done.stdout.splitlines()
    if not lines:
        raise RuntimeError(f"{' '.join(arguments)}: exit {done.returncode}: {done.stderr}")
    return lines


# ---- the table ---------------------------------------------------------------------------


def report(line: Line) -> None:
    """One line, and what is off below it."""
    pair = line.pair
    show([
        f"{pair.name} {pair.old.version} -> {pair.new.version}", line.right.before,
        line.right.after, f"{line.right.status}, {line.right.grade or 'no grade'}",
        str(line.right.countered),
        _why(line.half), _why(line.comment), f"{line.seconds:.0f}",
    ])  # fmt: skip
    if not line.good:
        for name, ended in (("right", line.right), ("half", line.half), ("comment", line.comment)):
            print(f"    OFF {name}: {ended}")


def _why(ended: Ended) -> str:
    return f"{ended.status}, {ended.reason.partition(':')[0]}"


def show(cells: list[str]) -> None:
    """Columns of fixed width."""
    widths = (34, 15, 14, 20, 11, 26, 26, 4)
    print("".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip(),
          flush=True)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
