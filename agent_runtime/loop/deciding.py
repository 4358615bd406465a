"""Which files decide an objective: what its command names, and what could stand in for its runner.

A command that names a test file is decided by that file. One that names none (`pytest`, `npm test`)
lets its runner look for them, so whatever is called like a test is meant. And `python -m pytest`
takes a `pytest.py` of the working directory before the real one, and a `json.py` there before the
one that pytest imports: such files are no fix of anything.
Pure, and never sure: what a script runs in its turn is not seen. `protect` adds and releases.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterator, Sequence

from agent_runtime.protect import STANDARD_LIBRARY, TEST_RUNNER, matches
from agent_runtime.types import Objective

TEST_PATTERNS = (
    "tests/", "__tests__/", "/test/**", "/spec/**", "test_*.py", "*_test.py", "*_test.go",
    "*.test.[cm][jt]s", "*.test.[jt]s", "*.test.[jt]sx", "*.spec.[cm][jt]s", "*.spec.[jt]s",
    "*.spec.[jt]sx", "*_spec.rb", "*_test.rb",
)  # fmt: skip
"""What a runner that is not told where to look takes for tests."""

IMPORT_ROOTS = ("", "src", "lib", "python")
"""Where Python looks before its own library, from the directory that a command runs in."""

LOOKERS = frozenset({
    "[", "black", "cat", "compileall", "echo", "flake8", "grep", "head", "isort", "ls", "mypy",
    "py_compile", "pylint", "pyright", "ruff", "tail", "test", "true", "wc",
})  # fmt: skip
"""They look at what they are given and run none of it: that is the work, not what decides it."""

_TEST_NAME = re.compile(
    r"tests?|__tests__|specs?|test_.*|testing|testsuites?|unittests?|.*[._-]tests?|"
    r".*[._]test\..*|.*[._]spec\..*",
    re.IGNORECASE,
)
_TEST_FILE = re.compile(r"test_.*|.*_test\.\w+|.*[._](test|spec)\.\w+", re.IGNORECASE)
_PYTHONPATH = re.compile(r"(?<!\S)PYTHONPATH=['\"]?([^\s'\"]+)")
_SEPARATOR = re.compile(r"[;&|()\n]+")
_SHELLS = frozenset({"sh", "bash", "dash", "zsh"})
_PYTHON = re.compile(r"python[0-9.]*")


def deciding_files(objectives: Sequence[Objective], known: set[str]) -> list[str]:
    """Patterns of the files that the objectives' commands depend on; `known` is in the base."""
    directories = _directories(known)
    found: list[str] = []
    for objective in objectives:
        named: list[str] = []
        modules: list[str] = []
        decided_by_code = False
        for words, cwd in _placed(objective.check.command):
            if (module := _module(words)) is not None:
                modules.append(posixpath.join(cwd, module.split(".", 1)[0]))
            if posixpath.basename((module or words[0]).split(".", 1)[0]) not in LOOKERS:
                decided_by_code = True
                named.extend(_named(words, cwd, known, directories))
        if decided_by_code and not any(_is_test(pattern) for pattern in named):
            # A directory of sources may hold its tests: then these are meant, and not the sources.
            named = [p for p in named if not (p.endswith("/**") and _holds_tests(p, known))]
            found.extend(TEST_PATTERNS)
        found.extend(named)
        for name in modules:
            path = posixpath.normpath(name).removeprefix("./")
            if f"{path}.py" not in known and path not in directories:
                found += [f"/{path}.py", f"/{path}/**"]
    return list(dict.fromkeys(found))


def standing_in(objectives: Sequence[Objective], known: set[str]) -> list[str]:
    """Patterns of new files that would be imported in place of Python's library or a test runner.

    For the front of the list: what the base has is released, unless a later pattern protects it.
    """
    if not any(path.endswith(".py") for path in known):
        return []
    directories = _directories(known)
    found: list[str] = []
    for objective in objectives:
        for words, cwd in _placed(objective.check.command):
            module = _module(words) or words[0]
            if posixpath.basename(module.split(".", 1)[0]) not in LOOKERS:
                found += _roots(cwd, objective.check.command, directories)
    patterns: list[str] = []
    for root in dict.fromkeys(found):
        made = [posixpath.join("/", root, kind) for kind in (STANDARD_LIBRARY, TEST_RUNNER)]
        patterns += made
        there = {path for path in (*known, *directories) if posixpath.dirname(path) == root}
        patterns += [f"!/{path}" for path in sorted(there) if matches(path, made)]
    return patterns


def _placed(command: str | Sequence[str]) -> Iterator[tuple[list[str], str]]:
    """The simple commands, each with the directory that it runs in."""
    cwd = ""
    for words in _commands(command):
        if words[0] == "cd" and len(words) > 1:
            cwd = posixpath.normpath(posixpath.join(cwd, words[1]))
        else:
            yield words, cwd


def _roots(cwd: str, command: str | Sequence[str], directories: set[str]) -> list[str]:
    """Where a command's Python imports from, inside of the repository."""
    line = command if isinstance(command, str) else " ".join(command)
    named = [part for found in _PYTHONPATH.findall(line) for part in found.split(":") if part]
    roots = (posixpath.join(cwd, root).rstrip("/") for root in (*IMPORT_ROOTS, *named))
    places = (posixpath.normpath(root) if root else "" for root in roots)
    return [p for p in dict.fromkeys(places) if p in ("", cwd) or p in directories]


def _commands(command: str | Sequence[str]) -> Iterator[list[str]]:
    """The simple commands of a line of shell, as words; roughly, as nothing is expanded."""
    if not isinstance(command, str):
        words = list(command)
        if len(words) > 2 and posixpath.basename(words[0]) in _SHELLS and "c" in words[1][:4]:
            yield from _commands(words[2])
        elif words:
            yield words
        return
    try:
        lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        lexer.commenters = ""
        words = list(lexer)
    except ValueError:
        words = command.split()
    simple: list[str] = []
    for word in [*words, ";"]:
        if not _SEPARATOR.fullmatch(word):
            simple.append(word)
            continue
        while simple and re.fullmatch(r"\w+=.*|env|exec|time|!", simple[0]):
            simple.pop(0)
        if len(simple) > 2 and posixpath.basename(simple[0]) in _SHELLS and simple[1] == "-c":
            yield from _commands(simple[2])
        elif simple:
            yield simple
        simple = []


def _module(words: Sequence[str]) -> str | None:
    """The module of `python … -m MODULE`."""
    if _PYTHON.fullmatch(posixpath.basename(words[0])) and "-m" in words[1:-1]:
        return words[words.index("-m", 1) + 1]
    return None


def _named(words: Sequence[str], cwd: str, known: set[str], directories: set[str]) -> Iterator[str]:
    for before, word in zip(("", *words), words, strict=False):
        path = posixpath.normpath(posixpath.join(cwd, word.split("::", 1)[0]))
        if path in known:
            yield _literal(path)
            yield from _companions(path, known)
        elif path in directories:
            yield f"{_literal(path)}/**"
        elif before == "-p" or (before == "-m" and "test" in word):
            # A plug-in of the repository's own, or a runner: `python -m tests.run`.
            module = posixpath.normpath(posixpath.join(cwd, word.replace(".", "/")))
            for place in (f"{module}.py", f"{module}/__init__.py", f"{module}/__main__.py"):
                if place in known:
                    yield _literal(place)


def _companions(path: str, known: set[str]) -> Iterator[str]:
    """What a named test file stands on: packages around it, helpers and data of its directory.

    Other tests there are not meant: adding one is no cheat.
    """
    parts = path.split("/")
    tests = next((n for n, part in enumerate(parts[:-1], 1) if _TEST_NAME.fullmatch(part)), None)
    if tests is None:
        return
    for depth in range(tests, len(parts)):
        yield _literal("/".join((*parts[:depth], "__init__.py")))
    top = "/".join(parts[:tests]) + "/"
    for other in sorted(known):
        if other.startswith(top) and not _TEST_FILE.fullmatch(posixpath.basename(other)):
            yield _literal(other)


def _literal(path: str) -> str:
    return "/" + re.sub(r"([\\*?\[])", r"\\\1", path)


def _is_test(pattern: str) -> bool:
    return any(_TEST_NAME.fullmatch(part) for part in pattern.strip("/*").split("/"))


def _holds_tests(pattern: str, known: set[str]) -> bool:
    top = pattern.removeprefix("/").removesuffix("**")
    return any(path.startswith(top) and _is_test(path.removeprefix(top)) for path in known)


def _directories(paths: set[str]) -> set[str]:
    found: set[str] = set()
    for path in paths:
        while (path := posixpath.dirname(path)) and path not in found:
            found.add(path)
    return found
