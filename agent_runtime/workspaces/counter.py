"""The counter-check: the tests that turned good are made to fail, and the check has to notice.

Code under test runs in the process of its own test runner, and can make it say anything: it can
patch it, forge its summary, or end the process. So on one more checkout of the result, the tests
whose turning is the proof begin with `raise AssertionError`. A check that is still good there is
not decided by its tests. For Python, where pytest or unittest name what failed before the work.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from agent_runtime.workspaces.files import Walker, directory, open_file

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_PYTEST = re.compile(r"(?m)^(?:FAILED|ERROR) ([^\s:]+\.py)(?:::([^\[\s]+))?")
_UNITTEST = re.compile(r"(?m)^(?:FAIL|ERROR): (\w+) \(([\w.]+)\)")
_SUMMARY = re.compile(r"(?<![\w.])(\d+) (?:failed|errors?)\b")
_ONLY_SOME = re.compile(r"SUBFAIL|stopping after|Interrupted:|xdist\.dsession")
"""The run ended early, or its list of failures is in other words."""
_NOT_FAILING = ("xfail", "expectedFailure", "skip")
"""Decorators under which a test that raises is no failure."""
_DIRECTORIES_MAX = 20_000
_FILES_MAX = 2_000
_CALLED_LIKE_TESTS = re.compile(r"(^|/)((tests?|testing)/.*|test_[^/]*|[^/]*_test|tests?)\.py$")


class WhichTest(NamedTuple):
    """A test function, or (without a name) all of a file that could not be collected."""

    path: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.path}::{self.name}" if self.name else self.path


def failures(output: str) -> list[WhichTest]:
    """The tests that a run's output says have failed; parameters and classes are left out."""
    text = _ANSI.sub("", output)
    found = [
        WhichTest(path, name.rsplit("::", 1)[-1] if name else "")
        for path, name in _PYTEST.findall(text)
    ]
    for name, dotted in _UNITTEST.findall(text):
        parts = dotted.split(".")
        # Python 3.11 began to repeat the test's name; the class is never part of the path.
        if parts[-1] == name:
            parts.pop()
        if len(parts) > 1:
            found.append(WhichTest("/".join(parts[:-1]) + ".py", name))
    return list(dict.fromkeys(found))


def all_tests(checkout: str) -> list[WhichTest]:
    """The files of a fresh checkout that are called like tests. Blocks."""
    found: list[WhichTest] = []
    for place, _, files in os.walk(checkout):
        paths = (os.path.relpath(os.path.join(place, name), checkout) for name in files)
        found += [WhichTest(path) for path in paths if _CALLED_LIKE_TESTS.search(path)]
        if len(found) >= _FILES_MAX:
            break
    return sorted(found[:_FILES_MAX])


def spoil(checkout: str, tests: Sequence[WhichTest]) -> list[WhichTest]:
    """Make these tests fail in a fresh checkout; returns those that will. Blocks.

    WhichTest as found from the directory that the command runs in, which may lie deeper.
    """
    names: dict[str, set[str]] = {}
    for test in tests:
        names.setdefault(test.path, set()).add(test.name)
    spoiled: list[WhichTest] = []
    for path, wanted in names.items():
        # A test file is the base's, but its parent may be a link of the agent's: none is followed.
        with suppress(OSError, SyntaxError, ValueError, RecursionError):
            real = _found(checkout, path)
            made = _spoil_file(checkout, real, None if "" in wanted else wanted)
            if not made:
                continue
            spoiled += [
                WhichTest(path, name) for name in sorted(wanted) if name in made or not name
            ]
    return spoiled


def unnoticed(spoiled: Sequence[WhichTest], output: str, *, ok: bool) -> list[WhichTest]:
    """Spoiled tests of which a run takes no notice: all if it is good, else those it leaves out."""
    if ok:
        return list(spoiled)
    told = _PYTEST.findall(_ANSI.sub("", output))
    last = next(
        (counts for line in reversed(output.splitlines()) if (counts := _SUMMARY.findall(line))), []
    )
    if _ONLY_SOME.search(output) or not told or sum(map(int, last)) != len(told):
        return []
    failed = failures(output)
    paths = {test.path for test in failed}
    return [t for t in spoiled if (t not in failed if t.name else t.path not in paths)]


def _found(checkout: str, path: str) -> bytes:
    """`path` below the checkout, or below the one directory of it that has it."""
    if os.path.lexists(os.path.join(checkout, path)):
        return os.fsencode(path)
    places: list[str] = []
    for count, (place, directories, _) in enumerate(os.walk(checkout)):
        if count > _DIRECTORIES_MAX or len(places) > 1:
            break
        directories.sort()
        if os.path.lexists(os.path.join(place, path)):
            places.append(os.path.relpath(os.path.join(place, path), checkout))
    if len(places) != 1:
        raise FileNotFoundError(path)
    return os.fsencode(places[0])


def _spoil_file(checkout: str, path: bytes, wanted: set[str] | None) -> set[str]:
    with directory(checkout) as root, Walker(root) as walker:
        below, name = walker.parent(path)
        with open(open_file(name, below=below), "rb") as file:
            source = file.read()
        spoiled, made = spoiled_source(source, wanted)
        if made:
            flags = os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(name, flags, dir_fd=below), "wb") as file:
                file.write(spoiled)
    return made


def spoiled_source(source: bytes, wanted: set[str] | None) -> tuple[bytes, set[str]]:
    """`source` with failing tests of these names (None: all), and which there are.

    Raises:
        ValueError, SyntaxError: it is no Python that can be read here.
    """
    source.decode("utf-8")  # columns are counted in this encoding
    lines = source.splitlines(keepends=True)
    made: set[str] = set()
    places: list[tuple[int, int]] = []
    for function in _tests(ast.parse(source), wanted):
        made.add(function.name)
        first = function.body[0]
        decorators = getattr(first, "decorator_list", [])
        places.append(min((node.lineno, node.col_offset) for node in (first, *decorators)))
    for number, column in sorted(set(places), reverse=True):
        line = lines[number - 1]
        before = line[:column].rstrip(b"@")
        if before.strip():
            lines[number - 1] = line[:column] + b"raise AssertionError; " + line[column:]
        else:
            lines.insert(number - 1, before + b"raise AssertionError\n")
    return b"".join(lines), made


def _tests(
    tree: ast.AST, wanted: set[str] | None
) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        decorated = " ".join(ast.unparse(decorator) for decorator in node.decorator_list)
        named = node.name.startswith("test") if wanted is None else node.name in wanted
        if named and not any(word in decorated for word in _NOT_FAILING):
            yield node
