from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent_runtime.protect import (
    DEFAULT_PATTERNS,
    forbids,
    glob_regex,
    matches,
    protected_sections_changed,
)


@pytest.mark.parametrize(
    ("path", "patterns", "found"),
    [
        ("conftest.py", ["conftest.py"], "conftest.py"),
        ("a/b/conftest.py", ["conftest.py"], "conftest.py"),
        ("conftest.pyc", ["conftest.py"], None),
        ("tests/a/b.py", ["tests/**"], "tests/**"),
        ("src/tests/a.py", ["tests/**"], None),
        ("src/tests/a.py", ["tests"], "tests"),
        ("src/tests/a.py", ["tests/"], "tests/"),
        ("src/tests", ["tests/"], None),
        ("tests/a.py", ["/tests"], "/tests"),
        ("src/tests/a.py", ["/tests"], None),
        ("a/x/b", ["a/*/b"], "a/*/b"),
        ("a/x/y/b", ["a/*/b"], None),
        ("a/x/y/b", ["a/**/b"], "a/**/b"),
        ("a/b", ["a/**/b"], "a/**/b"),
        ("x/test_a.py", ["test_?.py"], "test_?.py"),
        ("x/test_ab.py", ["test_?.py"], None),
        ("a/b", ["a?b"], None),
        ("test_1.py", ["test_[0-9].py"], "test_[0-9].py"),
        ("test_a.py", ["test_[!0-9].py"], "test_[!0-9].py"),
        ("test_b.py", ["test_[a-c].py"], "test_[a-c].py"),
        ("test_-.py", ["test_[c-].py"], "test_[c-].py"),
        ("test_..py", ["test_[--0].py"], "test_[--0].py"),
        ("test_&.py", ["test_[a&&b].py"], "test_[a&&b].py"),
        ("a[1].py", ["a\\[1\\].py"], "a\\[1\\].py"),
        ("a[.py", ["a[.py"], "a[.py"),
        ("m/x", ["./x"], None),
        ("x", ["./x"], "./x"),
        ("tests/a.py", ["tests/**", "!tests/a.py"], None),
        ("tests/b.py", ["tests/**", "!tests/a.py"], "tests/**"),
        ("tests/a.py", ["!tests/a.py", "tests/**"], "tests/**"),
        ("conftest.py", [*DEFAULT_PATTERNS, "!conftest.py"], None),
        ("a", [], None),
        ("a", ["", "/", "!"], None),
        ("new\nline/a", ["new*"], "new*"),
    ],
)
def test_the_last_pattern_that_fits_decides(
    path: str, patterns: list[str], found: str | None
) -> None:
    assert matches(path, patterns) == found


@pytest.mark.parametrize(
    "path",
    [
        "conftest.py", "tests/unit/conftest.py", "pytest.ini", ".pytest.ini", "tox.ini",
        "noxfile.py", "setup.cfg", "jest.config.js", "web/jest.config.ts", "sitecustomize.py",
        "src/usercustomize.py", ".github/workflows/ci.yml", ".github/actions/a/action.yml",
        ".gitlab-ci.yml", ".circleci/config.yml", "Makefile", "docs/Makefile", "Jenkinsfile",
        ".agent-runtime.yaml", ".devcontainer/devcontainer.json", ".devcontainer/setup.sh",
    ],
)  # fmt: skip
def test_what_decides_how_tests_run_is_protected_by_default(path: str) -> None:
    """DESIGN, completion."""
    assert matches(path, DEFAULT_PATTERNS)


@pytest.mark.parametrize(
    "path", ["src/app.py", "pyproject.toml", "package.json", "README.md", ".github/CODEOWNERS"]
)
def test_ordinary_files_are_free_by_default(path: str) -> None:
    assert matches(path, DEFAULT_PATTERNS) is None


def test_patterns_mean_what_they_mean_to_git(tmp_path: Path) -> None:
    """Oracle: git check-ignore, with which this shares its rules but for re-inclusion."""
    patterns = [
        "conftest.py", "tests/**", "/top", "a/*/b", "a/**/z", "*.cfg", "doc/", "q?", "[x-z]1",
        "**/deep/f", "one/two/",
    ]  # fmt: skip
    paths = [
        "conftest.py", "m/conftest.py", "tests/x", "m/tests/x", "top", "m/top", "a/1/b", "a/1/2/b",
        "a/z", "a/1/2/z", "s.cfg", "m/s.cfg", "doc/x", "m/doc/x", "qq", "qqq", "x1", "w1",
        "m/n/deep/f", "deep/f", "one/two/x", "m/one/two/x",
    ]  # fmt: skip
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text("\n".join(patterns), "utf-8")
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("", "utf-8")
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", *paths],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert [path for path in paths if matches(path, patterns)] == done.stdout.splitlines()


PYTEST = b'[tool.pytest.ini_options]\naddopts = "-q"\n'


@pytest.mark.parametrize(
    ("path", "before", "after", "changed"),
    [
        ("pyproject.toml", PYTEST, PYTEST + b"[project]\nname = 'a'\n", False),
        ("pyproject.toml", PYTEST, b"# note\n" + PYTEST, False),
        ("pyproject.toml", PYTEST, PYTEST.replace(b"-q", b"-k x"), True),
        ("pyproject.toml", PYTEST, b"", True),
        ("pyproject.toml", b"", PYTEST, True),
        ("pyproject.toml", b"", b"[project]\nname = 'a'\n", False),
        ("pyproject.toml", b"", b"[tool.pytest-asyncio]\nmode = 'auto'\n", True),
        ("pyproject.toml", b"", b"[tool.tox]\nenv_list = []\n", True),
        ("sub/pyproject.toml", PYTEST, b"", True),
        ("pyproject.toml", PYTEST, b"[broken", True),
        ("pyproject.toml", PYTEST, PYTEST, False),
        ("pyproject.toml", b"tool = 1", b"tool = 2", True),
        ("package.json", b'{"scripts": {"test": "jest"}}', b'{"scripts": {"test": "true"}}', True),
        ("package.json", b'{"scripts": {"a": "b"}}', b'{"name":"x","scripts":{"a":"b"}}', False),
        ("package.json", b"{}", b'{"jest": {"testMatch": []}}', True),
        ("package.json", b"{}", b"[]", True),
        ("package.json", b"{}", b"[" * 100_000, True),
        ("other.toml", PYTEST, b"", False),
    ],
)
def test_only_the_sections_that_decide_about_tests_are_guarded(
    path: str, before: bytes, after: bytes, changed: bool
) -> None:
    assert protected_sections_changed(path, before, after) is changed


def test_sections_are_guarded_where_anything_is_until_the_file_is_released() -> None:
    change = {"before": PYTEST, "after": b""}
    assert forbids("pyproject.toml", ["x"], **change) == "[tool.pytest*] of pyproject.toml"
    assert forbids("pyproject.toml", [], **change) is None
    assert forbids("pyproject.toml", ["x", "!pyproject.toml"], **change) is None
    assert forbids("pyproject.toml", ["*.toml"], before=b"", after=b"") == "*.toml"


@given(st.text("ab*?[]!-\\/^.", max_size=12), st.text("ab/-.", max_size=8))
@example("[^]a", "a")
@example("[b-a]", "b")
def test_no_pattern_makes_it_raise(pattern: str, path: str) -> None:
    assert isinstance(glob_regex(pattern), re.Pattern)
    matches(path, [pattern, f"!{pattern}"])
