"""All that is known about the tests of one run of a check, from the best source there is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from agent_runtime.verdicts import Seen, Verdict, steadied
from agent_runtime.workspaces.counts import count_tests
from agent_runtime.workspaces.test_reports import jest_documents, printed, pytest_lines
from agent_runtime.workspaces.test_reports.channel import BYTES_MAX
from agent_runtime.workspaces.test_reports.places import Places

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_REPORTS: Final[Mapping[str, Callable[[bytes, Places], Seen | None]]] = {
    "pytest": pytest_lines.read,
    "jest": jest_documents.read,
}


def seen_in(told: Mapping[str, bytes], output: str, *, whole: bool, places: Places) -> Seen:
    """The tests of one run.

    `told` is what came through the pipes. `output` is read only where no runner reported; names in
    it only if it is `whole`.
    """
    found = [seen for name in _REPORTS if (seen := _report(name, told.get(name, b""), places))]
    if not found:
        found = _printed(output) if whole else []
    if not found:
        counted = count_tests(output) is not None
        return Seen(known_by="count" if counted else "exit")
    tests: dict[str, Verdict] = {}
    for seen in found:
        tests |= seen.tests
    return Seen(
        known_by=found[0].known_by,
        runner="+".join(seen.runner for seen in found),
        tests=steadied(tests),
        problems=tuple(problem for seen in found for problem in seen.problems),
    )


def _report(name: str, data: bytes, places: Places) -> Seen | None:
    try:
        if len(data) > BYTES_MAX:
            raise ValueError(f"it has more than {BYTES_MAX >> 20} MiB")
        return _REPORTS[name](data, places)
    except (ValueError, RecursionError) as error:
        problem = f"the report of {name} cannot be read: {error}"
        return Seen(known_by="report", runner=name, problems=(problem,))


def _printed(output: str) -> list[Seen]:
    lines = _ANSI.sub("", output).splitlines()
    return [
        Seen(known_by="output", runner=runner, tests=tests)
        for runner, read in printed.READERS.items()
        if (tests := read(lines))
    ]
