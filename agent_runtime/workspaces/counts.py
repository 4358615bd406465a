"""How many tests ran, and how many passed, as test runners print it at their end.

pytest (`11 failed, 449 passed in 1.7s`), jest (`Tests: 1 failed, 2 passed, 3 total`) and cargo
(`test result: ok. 5 passed; 0 failed; …`, a line for each binary). Everything else is judged by
its exit code alone.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_COUNT = re.compile(r"(?<![\w.])(\d+) (passed|failed|errors?|xfailed|xpassed)\b")
_CARGO = "test result:"


_SAYS_FAILED = re.compile(
    r"^(?:=+ )?(?:\d+ \w+, )*[1-9]\d* (?:failed|errors?)\b.* in [\d.]+s|^Tests: +[1-9]\d* failed|"
    r"^test result: FAILED",
    re.MULTILINE,
)


class Counts(NamedTuple):
    """Of one run. Skipped tests are in neither number."""

    passed: int
    ran: int
    """Came to a verdict, good or bad."""


def count_tests(output: str) -> Counts | None:
    """What the last summary says; None where there is none that names passed or failed tests."""
    lines = _ANSI.sub("", output).splitlines()
    cargo = [line for line in lines if line.startswith(_CARGO)]
    for line in reversed(lines):
        found = _COUNT.findall(line)
        if any(word in ("passed", "failed") for _, word in found) or (found and " in " in line):
            break
    else:
        return None
    if cargo:
        found = [pair for line in cargo for pair in _COUNT.findall(line)]
    return Counts(
        passed=sum(int(number) for number, word in found if word == "passed"),
        ran=sum(int(number) for number, _ in found),
    )


def says_failed(output: str) -> bool:
    """Does any summary say that a test failed? A run that ends well says no such thing."""
    return _SAYS_FAILED.search(_ANSI.sub("", output)) is not None
