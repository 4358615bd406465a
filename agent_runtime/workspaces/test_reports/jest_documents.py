"""What `jest --json --outputFile` writes: one document for each run."""

from __future__ import annotations

import json

import msgspec

from agent_runtime.verdicts import Seen, Verdict, worst
from agent_runtime.workspaces.test_reports.places import Places

_VERDICTS: dict[str, Verdict] = {"passed": "passed", "failed": "failed"}
"""All others are `skipped`: pending, todo, disabled, focused out."""


class _Assertion(msgspec.Struct, rename="camel"):
    title: str
    status: str
    ancestor_titles: list[str] = []


class _File(msgspec.Struct, rename="camel"):
    name: str
    status: str
    assertion_results: list[_Assertion] = []


class _Run(msgspec.Struct, rename="camel"):
    success: bool
    test_results: list[_File]


def read(data: bytes, places: Places) -> Seen | None:
    """The tests of all runs. None: there was none.

    Raises:
        ValueError: it is no such report, or it was cut.
    """
    if not data.strip():
        return None
    text = data.decode().strip()
    decoder = json.JSONDecoder()
    tests: dict[str, Verdict] = {}
    problems: list[str] = []
    at = 0
    while at < len(text):
        document, at = decoder.raw_decode(text, at)
        run = msgspec.convert(document, _Run)
        for file in run.test_results:
            path = places.relative(file.name)
            if file.status == "failed" and not file.assertion_results:
                problems.append(f"jest could not run {path}")
            for name, verdict in _named(file.assertion_results):
                full = f"{path} > {name}"
                tests[full] = worst([verdict, *([tests[full]] if full in tests else [])])
        if not run.success and not problems:
            problems.append("jest itself says that the run failed")
        at += len(text[at:]) - len(text[at:].lstrip())
    return Seen(known_by="report", runner="jest", tests=tests, problems=tuple(problems))


def _named(results: list[_Assertion]) -> list[tuple[str, Verdict]]:
    """Nothing keeps two tests of one file from having one name: they are numbered."""
    named: list[tuple[str, Verdict]] = []
    count: dict[str, int] = {}
    for result in results:
        name = " > ".join([*result.ancestor_titles, result.title])
        count[name] = count.get(name, 0) + 1
        numbered = name if count[name] == 1 else f"{name} #{count[name]}"
        named.append((numbered, _VERDICTS.get(result.status, "skipped")))
    return named
