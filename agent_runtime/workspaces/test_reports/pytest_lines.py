"""What the pytest plug-in tells: lines of JSON, of one session or several."""

from __future__ import annotations

import msgspec

from agent_runtime.verdicts import Seen, Verdict, worst
from agent_runtime.workspaces.test_reports.places import Places

_GOOD_ENDS = (0, 5)
"""Exit codes of pytest: all passed; no tests were found. A minimum of tests is another question."""


class _Line(msgspec.Struct):
    session: str
    start: str = ""
    root: str = ""
    found: list[str] = []
    broken: str = ""
    test: str = ""
    verdict: Verdict = "error"
    end: int | None = None


_LINE = msgspec.json.Decoder(_Line)


def read(data: bytes, places: Places) -> Seen | None:
    """The tests of all sessions; one that ran in several has the worst verdict. None: no session.

    Sessions elsewhere than in the checkout are those that tests start: they do not count.

    Raises:
        ValueError: somebody else wrote into the pipe.
    """
    prefixes: dict[str, str | None] = {}
    tests: dict[str, Verdict] = {}
    broken: list[str] = []
    ends: dict[str, int | None] = {}
    for text in data.split(b"\n"):
        if not text:
            continue
        line = _LINE.decode(text)
        if line.start:
            prefixes[line.session] = places.prefix(line.root)
            if prefixes[line.session] is not None:
                ends[line.session] = None
        if line.session not in prefixes:
            raise ValueError("a line of a session that never started")
        prefix = prefixes[line.session]
        if prefix is None:
            continue
        for name in line.found:
            tests.setdefault(prefix + name, "not_run")
        if line.broken:
            broken.append(prefix + line.broken)
        if line.test:
            known = tests.get(prefix + line.test, "not_run")
            verdicts: list[Verdict] = (
                [line.verdict] if known == "not_run" else [known, line.verdict]
            )
            tests[prefix + line.test] = worst(verdicts)
        if line.end is not None:
            ends[line.session] = line.end
    if not ends:
        return None
    problems = [f"pytest could not collect {name}" for name in dict.fromkeys(broken)]
    if None in ends.values():
        problems.append("pytest did not come to its end")
    problems += [
        f"pytest itself ended with {end}"
        for end in dict.fromkeys(ends.values())
        if end is not None and end not in _GOOD_ENDS
    ]
    return Seen(known_by="report", runner="pytest", tests=tests, problems=tuple(problems))
