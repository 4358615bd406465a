"""What became of every single test of a check: names, verdicts, and what two runs have apart.

Pure. How a runner's own report or its output is read is in `workspaces.test_reports`; a comparison
that stands in a certificate is made, and checked again from the stored lists, by the same function.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from agent_runtime.protect import glob_regex

Verdict = Literal["passed", "failed", "error", "skipped", "not_run"]
"""`skipped`: also what was expected to fail. `not_run`: found, and the run ended before it."""
KnownBy = Literal["report", "output", "count", "exit"]
"""A report of the runner's own; names read from its output; only their number; nothing at all."""

NAMES_MAX: Final = 50
"""Of one list in a record; the blob has all of them."""
REASON_NAMES_MAX: Final = 5
NAME_CHARS_MAX: Final = 500
_DECIDED: Final = ("passed", "failed", "error")
_BAD: Final = ("failed", "error")
_WORST_FIRST: Final = ("error", "failed", "not_run", "skipped", "passed")


@dataclass(frozen=True, slots=True)
class Seen:
    """What one run of a check told about its tests."""

    known_by: KnownBy = "exit"
    runner: str = ""
    """`pytest`, `jest`, `go test`, `cargo test`, `unittest`, `node`; several with a `+`."""
    tests: Mapping[str, Verdict] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    """Why the report itself says that the run is no good, whatever the exit code: in words."""


NOTHING_SEEN: Final = Seen()


class TestsSeen(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """`Seen`, as it is stored: numbers, and `blob` with a line `verdict<TAB>name` for each test."""

    known_by: KnownBy = "exit"
    runner: str = ""
    passed: int = 0
    failed: int = 0
    errors: int = 0
    skipped: int = 0
    not_run: int = 0
    ids_sha256: str = ""
    """Of the sorted names, each with a line feed."""
    blob: str = ""


class Named(msgspec.Struct, frozen=True, gc=False):
    """So many tests, and the names of the first ones."""

    count: int = 0
    names: list[str] = []


class TestsCompared(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The tests before the work and after it, or in two looks at the same tree."""

    lost: Named = Named()
    """Gone, or they came to a verdict before and do not now. Makes a good check fail."""
    broken: Named = Named()
    """Passed before, failed now."""
    mended: Named = Named()
    """Failed before, passed now."""
    added: Named = Named()
    unstable: Named = Named()
    """Came out differently in two looks at one and the same tree."""


_VARYING: Final = (
    (re.compile(r"0x[0-9a-fA-F]{5,16}\b"), "0x…"),
    (re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", re.IGNORECASE), "<uuid>"),
    (
        re.compile(
            r"\b\d{4}-\d\d-\d\d[T _]\d\d[:-]?\d\d(?:[:-]?\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?"
        ),
        "<time>",
    ),
    (re.compile(r"datetime\.datetime\([\d, ]+\)"), "<time>"),
    (re.compile(r"(?<![\w.])1[4-9]\d{8}(?:\d{3}|\.\d+)?(?![\w.])"), "<time>"),
    (re.compile(r"/tmp/[\w./-]+"), "/tmp/…"),
)
"""What two runs of the same test have apart in its name: addresses, ids, points in time, scratch
directories. Tests that get the same name by it are numbered, so that none is lost."""


def steady(name: str) -> str:
    """A test's name without what changes from run to run, on one line and not too long."""
    for pattern, instead in _VARYING:
        name = pattern.sub(instead, name)
    # A lone surrogate is no UTF-8, and a line feed would end the record.
    name = name.encode("utf-8", "backslashreplace").decode()
    name = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
    if len(name) > NAME_CHARS_MAX:
        digest = hashlib.sha256(name.encode()).hexdigest()[:16]
        name = f"{name[:NAME_CHARS_MAX]}…{digest}"
    return name


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """What several verdicts on one test come to."""
    return min(verdicts, key=_WORST_FIRST.index)


def steadied(tests: Mapping[str, Verdict]) -> dict[str, Verdict]:
    """The same tests by steady names. Namesakes are numbered, the worst verdict first."""
    groups: defaultdict[str, list[Verdict]] = defaultdict(list)
    for name, verdict in tests.items():
        groups[steady(name)].append(verdict)
    made: dict[str, Verdict] = {}
    for name, verdicts in groups.items():
        for number, verdict in enumerate(sorted(verdicts, key=_WORST_FIRST.index), 1):
            made[name if number == 1 else f"{name} #{number}"] = verdict
    return made


def stored(seen: Seen) -> tuple[TestsSeen, bytes]:
    """The record and the content of its blob; empty where no test is known by name."""
    data = "".join(f"{verdict}\t{name}\n" for name, verdict in sorted(seen.tests.items())).encode()
    verdicts = list(seen.tests.values())
    return (
        TestsSeen(
            known_by=seen.known_by,
            runner=seen.runner,
            passed=verdicts.count("passed"),
            failed=verdicts.count("failed"),
            errors=verdicts.count("error"),
            skipped=verdicts.count("skipped"),
            not_run=verdicts.count("not_run"),
            ids_sha256=ids_sha256(seen.tests) if verdicts else "",
        ),
        data,
    )


def ids_sha256(names: Collection[str]) -> str:
    """Of the sorted names, each with a line feed after it."""
    return hashlib.sha256("".join(f"{name}\n" for name in sorted(names)).encode()).hexdigest()


def read_stored(data: bytes) -> dict[str, Verdict]:
    """The tests of a blob. `ValueError`: it is no such list."""
    tests: dict[str, Verdict] = {}
    for line in data.decode().split("\n")[:-1]:
        verdict, _, name = line.partition("\t")
        tests[name] = msgspec.convert(verdict, Verdict)
    return tests


def compare(
    before: Mapping[str, Verdict],
    after: Mapping[str, Verdict],
    *,
    unstable: Collection[str] = (),
    may_lose: Sequence[str] = (),
) -> TestsCompared:
    """What became of the tests of `before`. `unstable` ones and those of `may_lose` are not lost.

    `may_lose` are names, or patterns over whole names: `*` does not cross a slash, `**` does.
    """
    lost = [
        f"{name} ({_fate(old, after.get(name))})"
        for name, old in before.items()
        if _fate(old, after.get(name))
        and name not in unstable
        and not any(name == p or glob_regex(p).fullmatch(name) for p in may_lose)
    ]
    both = [(name, old, after[name]) for name, old in before.items() if name in after]
    return TestsCompared(
        lost=named(lost),
        broken=named(name for name, old, new in both if old == "passed" and new in _BAD),
        mended=named(name for name, old, new in both if old in _BAD and new == "passed"),
        added=named(name for name in after if name not in before),
        unstable=named(unstable),
    )


def differing(first: Mapping[str, Verdict], second: Mapping[str, Verdict]) -> set[str]:
    """The names that came out differently in two looks at one and the same tree."""
    return {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)}


def bad(tests: Mapping[str, Verdict]) -> set[str]:
    """The names of those that failed."""
    return {name for name, verdict in tests.items() if verdict in _BAD}


def named(names: Iterable[str]) -> Named:
    """Their number, and the first of them in order."""
    ordered = sorted(names)
    return Named(len(ordered), ordered[:NAMES_MAX])


def few(names: Sequence[str], count: int) -> str:
    """Some names on one line, and how many there are beside them."""
    shown = [name if len(name) <= 160 else f"{name[:159]}…" for name in names[:REASON_NAMES_MAX]]
    more = count - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _fate(old: Verdict, new: Verdict | None) -> str:
    if new is None:
        return "gone"
    if old in _DECIDED and new not in _DECIDED:
        return f"{old} before, {new} now".replace("_", " ")
    return ""
