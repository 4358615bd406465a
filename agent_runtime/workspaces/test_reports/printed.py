"""Names and verdicts of tests as runners print them: go, cargo, Python's unittest, node's TAP.

These have no report that can be asked for from the outside, and print a line for each test. Code
under test can print such lines too. Where a runner also says how many there were, names that do not
come to that number are not believed: something was printed in between.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from agent_runtime.verdicts import Verdict

Tests = dict[str, Verdict]


class _Names:
    """Collects tests in order; a second one of the same name is numbered."""

    def __init__(self) -> None:
        self.tests: Tests = {}
        self._count: Counter[str] = Counter()

    def add(self, name: str, verdict: Verdict) -> str:
        self._count[name] += 1
        number = self._count[name]
        key = name if number == 1 else f"{name} #{number}"
        self.tests[key] = verdict
        return key


# ---- go ----------------------------------------------------------------------------------

_GO_RUN = re.compile(r"^=== RUN +(\S+)$")
_GO_TEST = re.compile(r"^(.*)--- (PASS|FAIL|SKIP|BENCH): (\S+) \(\d+\.\d+s\)$")
_GO_PACKAGE = re.compile(r"^(?:ok|FAIL) *\t(\S+)\t")
_GO: Final[Mapping[str, Verdict]] = {
    "PASS": "passed", "FAIL": "failed", "SKIP": "skipped", "BENCH": "passed",
    "pass": "passed", "fail": "failed", "skip": "skipped",
}  # fmt: skip


class _GoLine(msgspec.Struct, rename="pascal"):
    action: str
    package: str = ""
    test: str = ""


_GO_LINE = msgspec.json.Decoder(_GoLine)


def go(lines: list[str]) -> Tests | None:
    """`go test -v` or `go test -json`. A package's name stands behind its tests."""
    tests: Tests = {}
    package: Tests = {}
    packages = 0
    for line in lines:
        if line.startswith('{"Time":'):
            try:
                told = _GO_LINE.decode(line)
            except ValueError:
                continue
            packages += not told.test
            if told.test and told.action in ("run", *_GO):
                verdict = _GO.get(told.action, "not_run")
                tests[f"{told.package} {told.test}"] = verdict
        elif found := _GO_RUN.match(line):
            package[found[1]] = "not_run"
        elif found := _GO_TEST.match(line):
            package[found[3]] = _GO[found[2]]
        elif found := _GO_PACKAGE.match(line):
            packages += 1
            tests |= {f"{found[1]} {name}": verdict for name, verdict in package.items()}
            package = {}
    return tests if packages and tests else None


# ---- cargo -------------------------------------------------------------------------------

_CARGO_PLACE = re.compile(r"^ +Running (?:unittests )?(\S+) \(\S*?([^/\s]+)-[0-9a-f]{16}\S*\)$")
_CARGO_DOC = re.compile(r"^ +Doc-tests (\S+)$")
_CARGO_TEST = re.compile(r"^test (.+?)(?: - should panic)? \.\.\. (ok|FAILED|ignored)\b")
_CARGO_RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored")
_CARGO: Final[Mapping[str, Verdict]] = {"ok": "passed", "FAILED": "failed", "ignored": "skipped"}


def cargo(lines: list[str]) -> Tests | None:
    """`cargo test`. Doc tests are named by their line, which is left out."""
    names = _Names()
    place = ""
    told = 0
    for line in lines:
        if found := _CARGO_PLACE.match(line):
            place = f"{found[2]} {found[1]}"
        elif found := _CARGO_DOC.match(line):
            place = f"{found[1]} doc"
        elif found := _CARGO_TEST.match(line):
            name = re.sub(r" \(line \d+\)", "", found[1])
            names.add(f"{place} {name}".strip(), _CARGO[found[2]])
        elif found := _CARGO_RESULT.match(line):
            told += sum(int(number) for number in found.groups())
    return names.tests if names.tests and told == len(names.tests) else None


# ---- unittest ----------------------------------------------------------------------------

_UNITTEST = re.compile(r"^( *)(\w+) \(([\w.]+)\)(.*)$")
_UNITTEST_END = re.compile(
    r"(?:^|\.\.\. )(ok|FAIL|ERROR|skipped .*|expected failure|unexpected success)$"
)
_UNITTEST_RAN = re.compile(r"^Ran (\d+) tests? in ")
_UNITTEST_VERDICTS: Final[Mapping[str, Verdict]] = {
    "ok": "passed", "FAIL": "failed", "ERROR": "error", "skipped": "skipped",
    "expected": "skipped", "unexpected": "failed",
}  # fmt: skip


def unittest(lines: list[str]) -> Tests | None:
    """`python -m unittest -v`. A failed subtest stands on a line of its own and counts."""
    names = _Names()
    open_test = ""
    told = 0
    for line in lines:
        if ran := _UNITTEST_RAN.match(line):
            told += int(ran[1])
            open_test = ""
            continue
        head = _UNITTEST.match(line)
        end = _UNITTEST_END.search(line)
        if head and not head[1] and head[2] not in ("setUpClass", "tearDownClass"):
            method, where = head[2], head[3]
            name = where if where.endswith(f".{method}") else f"{where}.{method}"
            if end or not head[4] or head[4].startswith(" ... "):
                open_test = names.add(name, "not_run")
        if end and open_test:
            names.tests[open_test] = _UNITTEST_VERDICTS[end[1].split()[0]]
            open_test = ""
    return names.tests if names.tests and told == len(names.tests) else None


# ---- node --------------------------------------------------------------------------------

_TAP_SUBTEST = re.compile(r"^( *)# Subtest: (.*)$")
_TAP_POINT = re.compile(r"^( *)(ok|not ok) \d+ - (.*?)(?: # (SKIP|TODO)\b.*)?$")
_TAP_SUITE = re.compile(r"^ *type: 'suite'$")
_TAP_TESTS = re.compile(r"^# tests (\d+)$")


def node(lines: list[str]) -> Tests | None:
    """`node --test` where it prints TAP. Suites are no tests."""
    names = _Names()
    path: list[str] = []
    last = ""
    told = 0
    for line in lines:
        if found := _TAP_SUBTEST.match(line):
            path[len(found[1]) // 4 :] = [found[2]]
        elif found := _TAP_POINT.match(line):
            verdict: Verdict = "passed" if found[2] == "ok" else "failed"
            verdict = "skipped" if found[4] else verdict
            depth = len(found[1]) // 4
            last = names.add(" > ".join([*path[:depth], found[3]]), verdict)
        elif _TAP_SUITE.match(line):
            names.tests.pop(last, None)
        elif found := _TAP_TESTS.match(line):
            told += int(found[1])
    return names.tests if names.tests and told == len(names.tests) else None


READERS: Final[Mapping[str, Callable[[list[str]], Tests | None]]] = {
    "go test": go,
    "cargo test": cargo,
    "unittest": unittest,
    "node": node,
}
