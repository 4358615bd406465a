"""Which files a task's work must leave alone: patterns, the default list, and guarded sections.

File tools ask here before they write, and verification asks again about what really changed: a
shell can reach any file. A pattern reads as in a gitignore file: without a slash it names a file or
directory at any depth, with one it starts at the workspace; `**` crosses directories; what names a
directory covers everything in it. The last pattern that fits decides, and a leading `!` releases.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

import msgspec

from agent_runtime.types import Json

DEFAULT_PATTERNS: Final[tuple[str, ...]] = (
    # What decides how tests are found and run.
    "conftest.py", "pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml", "tox.ini",
    "tox.toml", "noxfile.py", "setup.cfg", "nose2.cfg", "unittest.cfg", "jest.config.*",
    "jest.setup.*", "jest.preset.*", "setupTests.*", "vitest.config.*", "vitest.setup.*",
    "vitest.workspace.*", ".mocharc.*", "karma.conf.*", "ava.config.*", "cypress.config.*",
    "playwright.config.*", "babel.config.*", ".babelrc", ".babelrc.*", "bunfig.toml", ".rspec",
    "phpunit.xml", "phpunit.xml.dist", "/.config/nextest.toml", "__snapshots__/",
    # What Python imports before any test.
    "sitecustomize", "sitecustomize.*", "usercustomize", "usercustomize.*",
    # What calls the tests, and what says by which program they are called.
    "Makefile", "makefile", "GNUmakefile", "*.mk", "Rakefile", "justfile", "Justfile", ".justfile",
    "Taskfile.yml", "Taskfile.yaml", ".npmrc", ".yarnrc", ".yarnrc.yml", "/.cargo/**",
    "/.github/workflows/**", "/.github/actions/**",
    "/.gitlab-ci.yml", "/.circleci/**", "/.travis.yml", "/.buildkite/**", "/.woodpecker/**",
    "/.woodpecker.yml", "/.cirrus.yml", "/.drone.yml", "/azure-pipelines.yml",
    "/bitbucket-pipelines.yml", "/appveyor.yml", "/.appveyor.yml", "Jenkinsfile",
    # What sets up the next task's environment.
    "/.agent-runtime.yaml", "/.agent-runtime.yml", "/.devcontainer/**", "/.devcontainer.json",
)  # fmt: skip
"""Protected unless the task releases it. The objectives' own test files come from the task."""

CACHE_PATTERNS: Final[tuple[str, ...]] = (
    "__pycache__/", "*.pyc", ".pytest_cache/", ".mypy_cache/", ".ruff_cache/", ".hypothesis/",
    ".tox/", ".nox/", "*.egg-info/", "*.dist-info/",
)  # fmt: skip
"""What tests, linters and installers leave behind; by the last two, plug-ins of a test runner are
found. New files of these names are not handed over, so not verified: a fix must not need them."""

STANDARD_LIBRARY: Final = "<standard library>"
"""As the last part of a pattern: a file or directory that is imported in place of a module of
Python's own. A `json.py` beside the tests runs before any of them."""

TEST_RUNNER: Final = "<test runner>"
"""Likewise for what runs Python's tests, its libraries and plug-ins: a `pytest.py`."""

_STANDING_IN: Final = {
    STANDARD_LIBRARY: "|".join(sorted(sys.stdlib_module_names)),
    TEST_RUNNER: r"_?pytest|pytest_[^/.]+|pluggy|iniconfig|unittest|packaging|pygments|py|"
    r"exceptiongroup|tomli|xdist|execnet",
}
_IMPORTABLE: Final = r"(?:\.pyc?|(?:\.[^/.]+)?\.(?:so|pyd))?"
"""What Python finds under a module's name: files of these kinds, and directories."""

PACKAGE_JSON_SECTIONS: Final = ("scripts", "jest", "vitest", "mocha", "ava", "babel")
PYPROJECT_TOOLS: Final = ("tox", "nox", "poe", "taskipy")
"""Guarded in `[tool]`, beside every key that starts with `pytest`."""


def matches(path: str, patterns: Sequence[str]) -> str | None:
    """The pattern that protects `path` (relative, `/` between the parts), or None."""
    deciding = _deciding(path, patterns)
    return None if deciding is None or deciding.startswith("!") else deciding


def is_released(path: str, patterns: Sequence[str]) -> bool:
    """Has the task's author released this very path, as `!PATTERN`?"""
    deciding = _deciding(path, patterns)
    return deciding is not None and deciding.startswith("!")


def is_cache(path: str) -> bool:
    """Is this a file that tools make for themselves, at any depth?"""
    return matches(path, CACHE_PATTERNS) is not None


def forbids(path: str, patterns: Sequence[str], *, before: bytes, after: bytes) -> str | None:
    """What protects `path` against this change: a pattern, or the name of guarded sections.

    A missing file has the content b"". Sections are guarded wherever anything is protected; a
    task releases them with the file, as `!pyproject.toml`.
    """
    deciding = _deciding(path, patterns)
    if deciding is not None:
        return None if deciding.startswith("!") else deciding
    if patterns and protected_sections_changed(path, before, after):
        return _SECTIONS[_file_name(path)][1]
    return None


def protected_sections_changed(path: str, before: bytes, after: bytes) -> bool:
    """Did the part of a shared file change that decides how the tests run?

    True for `[tool.pytest*]` and task runners' tables of a pyproject.toml and the scripts and test
    sections of a package.json. A file that cannot be read counts as changed in any part.
    """
    if _file_name(path) not in _SECTIONS or before == after:
        return False
    read, _ = _SECTIONS[_file_name(path)]
    old, new = read(before), read(after)
    return old is None or new is None or old != new


@lru_cache(maxsize=1024)
def glob_regex(pattern: str) -> re.Pattern[str]:
    """A whole-path pattern: `*` and `?` stay inside a part, `**` crosses, `[…]` is a set."""
    for kind, names in _STANDING_IN.items():
        if pattern.endswith(kind):
            place = glob_regex(pattern.removesuffix(kind)).pattern
            return re.compile(rf"{place}(?:{names}){_IMPORTABLE}")
    out: list[str] = []
    at = 0
    while at < len(pattern):
        if pattern.startswith("**/", at) and (at == 0 or pattern[at - 1] == "/"):
            # Twice the same is slower to fail and no different.
            if out[-1:] != ["(?:[^/]+/)*"]:
                out.append("(?:[^/]+/)*")
            at += 3
        elif pattern.startswith("**", at):
            out.append(".*")
            at += 2
        else:
            piece, at = _piece(pattern, at)
            out.append(piece)
    return re.compile("".join(out), re.DOTALL)


def _piece(pattern: str, at: int) -> tuple[str, int]:
    match pattern[at]:
        case "*":
            return "[^/]*", at + 1
        case "?":
            return "[^/]", at + 1
        case "\\" if at + 1 < len(pattern):
            return re.escape(pattern[at + 1]), at + 2
        case "[" if (end := pattern.find("]", at + 2)) != -1:
            inside = pattern[at + 1 : end]
            negated = inside[0] in "!^"
            body = _set_body(inside[1:] if negated else inside)
            try:
                re.compile(f"[{body}]")
            except re.error:
                return re.escape(pattern[at : end + 1]), end + 1
            return (f"(?!/)[^{body}]" if negated else f"(?!/)[{body}]"), end + 1
        case plain:
            return re.escape(plain), at + 1


def _set_body(inside: str) -> str:
    """Characters and ranges; escaped, for `--`, `&&` and the like may get a meaning in `re`."""
    out: list[str] = []
    at = 0
    while at < len(inside):
        end = at + 2 if inside[at + 1 : at + 2] == "-" and at + 2 < len(inside) else at
        out.append("-".join(re.escape(inside[i]) for i in sorted({at, end})))
        at = end + 1
    return "".join(out)


def _deciding(path: str, patterns: Sequence[str]) -> str | None:
    covered = _with_parents(path)
    for pattern in reversed(patterns):
        if _fits(pattern.removeprefix("!"), covered):
            return pattern
    return None


def _fits(pattern: str, covered: Sequence[str]) -> bool:
    directory_only = pattern.endswith("/")
    body = pattern.rstrip("/")
    anchored = "/" in body
    body = body.removeprefix("./").removeprefix("/")
    if not body:
        return False
    regex = glob_regex(body if anchored else f"**/{body}")
    candidates = covered[1:] if directory_only else covered
    return any(regex.fullmatch(candidate) for candidate in candidates)


def _with_parents(path: str) -> list[str]:
    """`a/b/c`, `a/b`, `a`: a pattern that names a directory covers what is in it."""
    parts = path.strip("/").split("/")
    return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _file_name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _pyproject_sections(content: bytes) -> Mapping[str, Json] | None:
    # Reading TOML costs a worker's start 15 ms, and only a change of this one file needs it.
    import tomllib

    try:
        tools = tomllib.loads(content.decode()).get("tool", {})
    except (ValueError, RecursionError):
        return None
    if not isinstance(tools, dict):
        return None
    return {
        key: value
        for key, value in tools.items()
        if key.startswith("pytest") or key in PYPROJECT_TOOLS
    }


def _package_sections(content: bytes) -> Mapping[str, Json] | None:
    try:
        package = msgspec.json.decode(content or b"{}")
    except (ValueError, RecursionError):
        return None
    if not isinstance(package, dict):
        return None
    return {key: package[key] for key in PACKAGE_JSON_SECTIONS if key in package}


_SECTIONS: Final = {
    "pyproject.toml": (_pyproject_sections, "[tool.pytest*] of pyproject.toml"),
    "package.json": (_package_sections, "scripts of package.json"),
}


def has_guarded_sections(path: str) -> bool:
    """Is this a shared file of which only some sections are guarded?"""
    return _file_name(path) in _SECTIONS
