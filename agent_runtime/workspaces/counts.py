"""How many tests ran, and how many passed, as test runners print it at their end.

pytest (`11 failed, 449 passed in 1.7s`), jest (`Tests: 1 failed, 2 passed, 3 total`), cargo
(`test result: ok. 5 passed; 0 failed; …`, a line for each binary), Python's unittest (`Ran 5 tests
in 0.1s` and `FAILED (failures=1)`) and node (`# pass 5`, `# fail 1`). Everything else is judged by
its exit code alone. Only for checks whose tests are not known by name: see `test_reports`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_COUNT = re.compile(r"(?<![\w.])(\d+) (passed|failed|errors?|xfailed|xpassed)\b")
_CARGO = "test result:"
_UNITTEST = re.compile(
    r"^Ran (\d+) tests? in [\d.]+s$\n+^(?:OK|FAILED|NO TESTS RAN)(?: \((.*)\))?$", re.MULTILINE
)
_NODE = re.compile(r"^[#\u2139] (pass|fail) (\d+)$", re.MULTILINE)

_SAYS_FAILED = re.compile(
    r"^(?:=+ )?(?:\d+ \w+, )*[1-9]\d* (?:failed|errors?)\b.* in [\d.]+s|^Tests: +[1-9]\d* failed|"
    r"^test result: FAILED|^FAILED \((?:failures|errors|unexpected successes)=|"
    r"^[#\u2139] fail [1-9]",
    re.MULTILINE,
)


class Counts(NamedTuple):
    """Of one run. Skipped tests are in neither number."""

    passed: int
    ran: int
    """Came to a verdict, good or bad."""


def count_tests(output: str) -> Counts | None:
    """What the last summary says; None where there is none that names passed or failed tests."""
    text = _ANSI.sub("", output)
    lines = text.splitlines()
    cargo = [line for line in lines if line.startswith(_CARGO)]
    for line in reversed(lines):
        found = _COUNT.findall(line)
        if any(word in ("passed", "failed") for _, word in found) or (found and " in " in line):
            break
    else:
        return _unittest(text) or _node(text)
    if cargo:
        found = [pair for line in cargo for pair in _COUNT.findall(line)]
    return Counts(
        passed=sum(int(number) for number, word in found if word == "passed"),
        ran=sum(int(number) for number, _ in found),
    )


def says_failed(output: str) -> bool:
    """Does any summary say that a test failed? A run that ends well says no such thing."""
    return _SAYS_FAILED.search(_ANSI.sub("", output)) is not None


def _unittest(text: str) -> Counts | None:
    found = _UNITTEST.findall(text)
    if not found:
        return None
    passed = ran = 0
    for number, told in found:
        parts = dict(re.findall(r"([a-z ]+?)=(\d+)", told.replace(", ", ",")))
        # An error may be one of a whole class, whose tests are not among those that ran.
        not_good = sum(int(parts.get(name, 0)) for name in _NOT_GOOD)
        skipped = int(parts.get("skipped", 0))
        ran += int(number) - skipped
        passed += max(0, int(number) - skipped - not_good)
    return Counts(passed=passed, ran=ran)


_NOT_GOOD = ("failures", "errors", "expected failures", "unexpected successes")


def _node(text: str) -> Counts | None:
    found = _NODE.findall(text)
    if not found:
        return None
    passed = sum(int(number) for word, number in found if word == "pass")
    return Counts(passed=passed, ran=sum(int(number) for _, number in found))
