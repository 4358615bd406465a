"""`make bench`: the runtime and its peers, measured in turns, in one run.

`make bench ARGS="one hundred"` runs some groups only; `--list` names them. The exit code is 0
though a row is not met, and 1 with `--strict`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from bench import report, runs
from bench.figures import Rounds
from bench.rows import GROUPS, ROWS, Group, judge

PAGE = runs.ROOT / "docs" / "benchmarks.md"
RESULTS = runs.ROOT / "bench" / "results" / "benchmarks.json"


def main() -> None:
    """Measure, print, and after a whole run write the page in the docs."""
    given = _arguments()
    if given.list:
        for group in GROUPS.values():
            print(f"{group.name:<10} {group.title}")
        return
    groups = [GROUPS[name] for name in given.groups or GROUPS]
    begun = time.monotonic()
    told: dict[str, Rounds] = {}
    for group in groups:
        report.note(f"{group.title} …")
        told[group.name] = _measured(group, given.pairs)
    judged = [judge(row, told[row.group]) for row in ROWS if row.group in told]
    run = report.Run(given.pairs, told, judged, _versions(told))
    machine = report.machine()
    report.write(given.json, json.dumps(_as_json(run, machine), indent=1))
    print(f"{machine}\n{', '.join(f'{k} {v}' for k, v in run.versions.items())}\n")
    print(report.terminal(run))
    print(f"{time.monotonic() - begun:.0f} s; every figure: {given.json}, and as a page beside it")
    report.write(given.json.with_suffix(".md"), report.section(run))
    if len(groups) == len(GROUPS) and not given.no_page:
        report.write(PAGE, report.markdown(run, machine))
        print(f"written: {PAGE.relative_to(runs.ROOT)}")
    if given.strict and not all(one.met for one in judged):
        sys.exit(1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("groups", nargs="*", choices=[*GROUPS, []], metavar="GROUP")
    parser.add_argument("--pairs", type=int, default=3, help="of measurements; at least 3")
    parser.add_argument("--strict", action="store_true", help="exit 1 if a row is not met")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where every figure goes")
    parser.add_argument("--no-page", action="store_true", help="leave docs/benchmarks.md alone")
    parser.add_argument("--list", action="store_true", help="name the groups")
    return parser.parse_args()


def _measured(group: Group, pairs: int) -> Rounds:
    directory = runs.scratch()
    try:
        prepared = {m.name: runs.prepare(m, directory / m.name) for m in group.prepared}
        return runs.take_turns(group.measurements, group.rounds or pairs, prepared)
    except runs.Failed as error:
        sys.exit(str(error))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _versions(told: dict[str, Rounds]) -> dict[str, str]:
    """Of every package; the SQLite that an engine uses stands with its first one."""
    found: dict[str, str] = {}
    for rounds in told.values():
        for figures in rounds.values():
            versions: dict[str, str] = dict(figures[0].get("versions", {}))  # type: ignore[call-overload]
            sqlite = versions.pop("SQLite", "")
            for number, (name, version) in enumerate(versions.items()):
                named = sqlite and not number
                found[name] = f"{version} on SQLite {sqlite}" if named else version
    return found


def _as_json(run: report.Run, machine: str) -> dict[str, Any]:
    rows = [
        {
            "what": one.row.what,
            "beside": one.row.peer,
            "figure": one.row.figure,
            "target": one.row.target.text(one.row.unit),
            "least": one.spread.least,
            "median": one.spread.median,
            "greatest": one.spread.greatest,
            "pairs": one.pairs,
            "met": one.met,
        }
        for one in run.judged
    ]
    return {
        "machine": machine, "versions": run.versions, "rows": rows,
        "measurements": run.groups,
    }  # fmt: skip


if __name__ == "__main__":
    main()
