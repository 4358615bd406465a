from __future__ import annotations

import pytest

from agent_runtime.loop.deciding import deciding_files, standing_in
from agent_runtime.protect import matches
from agent_runtime.types import Check, Objective

KNOWN = {
    "calc.py", "check.sh", "src/app.py", "src/lib.py", "tests/test_calc.py", "tests/data.json",
    "pkg/core.py", "pkg/tests/test_core.py", "backend/api.py", "backend/tests/test_api.py",
    "odd[1].py", "tests/__init__.py", "tests/helpers.py", "tests/run.py", "Specs/a.py",
    "Specs/test_a.py", "plug.py", "pytest_odd.py", "unit_tests/test_u.py", "unit_tests/util.py",
}  # fmt: skip


def protects(path: str, *commands: str | list[str]) -> bool:
    objectives = [
        Objective(id=f"o{n}", check=Check(command=command)) for n, command in enumerate(commands)
    ]
    patterns = [*standing_in(objectives, KNOWN), *deciding_files(objectives, KNOWN)]
    return matches(path, patterns) is not None


@pytest.mark.parametrize(
    ("command", "path"),
    [
        ("python -m pytest -q tests", "tests/data.json"),
        ("python -m pytest -q tests/test_calc.py::test_add", "tests/test_calc.py"),
        ("./check.sh", "check.sh"),
        ("CI=1 sh ./check.sh | tail -1", "check.sh"),
        ("python odd[1].py", "odd[1].py"),
        # A runner that is not told where to look.
        ("python -m pytest -q", "tests/test_calc.py"),
        ("pytest", "pkg/tests/test_core.py"),
        ("npm test", "web/button.test.tsx"),
        ("./check.sh", "tests/test_calc.py"),
        (["pytest", "-q"], "tests/test_calc.py"),
        # A directory of sources that has its tests in it.
        ("python -m pytest -q pkg", "pkg/tests/test_core.py"),
        # Not in the repository's top directory.
        ("cd backend && python -m pytest -q tests", "backend/tests/test_api.py"),
        (["sh", "-c", "cd backend && pytest -q tests"], "backend/tests/test_api.py"),
        # What would be run in place of the runner.
        ("python -m pytest -q tests", "pytest.py"),
        ("python3.12 -m pytest -q tests", "pytest/__main__.py"),
        ("python -m pytest -q tests", "_pytest/config.py"),
        ("cd backend; python -m unittest", "backend/unittest.py"),
        ("make test", "pytest.py"),
        ("./check.sh", "src/pytest/__init__.py"),
        ("PYTHONPATH=src python -m pytest -q tests", "src/pytest.py"),
        ("PYTHONPATH=pkg:. pytest -q tests", "pkg/pluggy.py"),
        ("pytest -q tests", "_pytest.cpython-311-x86_64-linux-gnu.so"),
        ("pytest -q tests", "pygments/__init__.py"),
        ("pytest -q tests", "pytest_evil.py"),
        # What a single test stands on.
        ("python -m pytest -q tests/test_calc.py", "tests/helpers.py"),
        ("python -m pytest -q tests/test_calc.py", "tests/__init__.py"),
        ("python -m pytest -q tests/test_calc.py::test_add", "tests/data.json"),
        ("python -m pytest -q pkg/tests/test_core.py", "pkg/tests/__init__.py"),
        # Called like tests in other words.
        ("python -m pytest Specs", "Specs/a.py"),
        ("python -m pytest unit_tests", "unit_tests/util.py"),
        # Runners and plug-ins of the repository's own.
        ("python -m tests.run", "tests/run.py"),
        ("python -m pytest -p plug tests", "plug.py"),
    ],
)
def test_what_decides_an_objective_is_protected(command: str | list[str], path: str) -> None:
    assert protects(path, command)


@pytest.mark.parametrize(
    ("command", "path"),
    [
        ("python -m pytest -q tests", "calc.py"),
        ("python -m pytest -q", "calc.py"),
        ("python -m pytest -q pkg", "pkg/core.py"),
        ("cd backend && python -m pytest -q tests", "backend/api.py"),
        ("cd backend && python -m pytest -q", "backend/api.py"),
        ("ruff check src && python -m mypy src", "src/app.py"),
        ("python -m compileall -q src", "src/lib.py"),
        ("grep -q 'a + b' calc.py", "calc.py"),
        ("test -f NOTES.md", "tests/test_new.py"),
        ("python -m pkg.core", "pkg/core.py"),
        ("it's unbalanced", "calc.py"),
        ("python -m pytest -q tests/test_calc.py", "tests/test_new.py"),
        ("python -m pytest -q pkg/tests/test_core.py", "pkg/core.py"),
        ("python -m pytest -q tests", "pytest_odd.py"),
        ("python -m pytest -q tests", "plug.py"),
        ("python -m pytest -q tests", "pytesting.py"),
        ([], "calc.py"),
        ("", "calc.py"),
    ],
)
def test_what_is_worked_on_is_not(command: str | list[str], path: str) -> None:
    assert not protects(path, command)


@pytest.mark.parametrize(
    ("command", "path", "protected"),
    [
        ("python -m pytest -q tests", "argparse.py", True),
        ("python -m pytest -q tests", "argparse/__init__.py", True),
        ("./check.sh", "src/json.py", True),
        ("cd backend && pytest", "backend/json.py", True),
        ("cd backend && pytest", "json.py", False),
        ("python -m pytest -q tests", "pkg/types.py", False),
        ("python -m pytest -q tests", "calendars.py", False),
        ("grep -q x argparse.py", "argparse.py", False),
        ("PYTHONPATH=pkg python -m pytest -q tests", "pkg/types.py", True),
        ("pytest", "json.cpython-311-x86_64-linux-gnu.so", True),
        ("pytest", "json.md", False),
        # What the base has is worked on.
        ("python -m pytest -q tests", "queue.py", False),
        ("python -m pytest -q tests", "code/app.py", False),
    ],
)
def test_nothing_new_stands_in_for_the_standard_library(
    command: str, path: str, protected: bool
) -> None:
    """`argparse.py` printed "2 passed" and ended the process before pytest had begun."""
    objectives = [Objective(id="o", check=Check(command=command))]
    patterns = standing_in(objectives, KNOWN | {"queue.py", "code/app.py"})
    assert (matches(path, patterns) is not None) is protected


def test_a_directory_called_like_a_module_keeps_its_tests_protected() -> None:
    """`test` is a module of Python, too."""
    objectives = [Objective(id="o", check=Check(command="pytest -q test"))]
    known = {"a.py", "test/test_a.py"}
    patterns = [*standing_in(objectives, known), *deciding_files(objectives, known)]
    assert matches("test/test_a.py", patterns)


def test_without_python_there_is_nothing_to_stand_in_for() -> None:
    assert standing_in([Objective(id="o", check=Check(command="npm test"))], {"a.js"}) == []
