"""What is told of a changed source that reaches for its own judge."""

import pytest

from agent_runtime.tampering import reaches_for_runner
from agent_runtime.workspaces.counts import says_failed


@pytest.mark.parametrize(
    ("path", "before", "after", "name"),
    [
        ("a.py", b"x = 1", b"x = 1\nimport _pytest.python", "_pytest"),
        ("a.py", b"", b"import os; os._exit(0)", "os._exit"),
        ("a.py", b"import atexit", b"atexit.register(os.execv, 'x', [])", "os.execv"),
        (
            "a.py", b"", b"sys.modules['agent_runtime_reporting'].Reporter",
            "agent_runtime_reporting",
        ),
        ("a.py", b"import unittest", b"import unittest  # more", None),
        ("a.py", b"", b"# the pytester", None),
        ("a.py", b"", b"if 'PYTEST_CURRENT_TEST' in os.environ: pass", "PYTEST_CURRENT_TEST"),
        ("a.py", b"", b"sys._getframe(1).f_locals", "sys._getframe"),
        ("a.py", b"", "import \N{FULLWIDTH LATIN SMALL LETTER P}ytest".encode(), "pytest"),
        ("a.py", b"", b"# coding: utf_7\nimport +AHAAeQB0AGUAcwB0-", "the encoding utf-7"),
        ("a.py", b"", b"# -*- coding: latin-1 -*-\n", None),
        (
            "a.py",
            b"",
            b"class A:\n    def __eq__(self, o: object) -> bool:\n        return True\n",
            "an __eq__ that is always true",
        ),
        ("a.py", b"", b"def __eq__(self, o):\n        return self.x == o.x\n", None),
        ("testing/__init__.py", b"", b"import pytest", "pytest"),
        ("tests/helpers.py", b"", b"import pytest", None),
        ("pkg/test_a.py", b"", b"import pytest", None),
        ("notes.md", b"", b"run pytest", None),
    ],
)  # fmt: skip
def test_a_source_that_begins_to_name_the_runner_is_told(
    path: str, before: bytes, after: bytes, name: str | None
) -> None:
    assert reaches_for_runner(path, before, after) == name


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("1 failed, 2 passed in 0.10s\n3 passed in 0.1s", True),
        ("=== 1 error in 0.10s ===", True),
        ("Tests:       1 failed, 41 passed, 42 total", True),
        ("test result: FAILED. 3 passed; 1 failed", True),
        ("11 passed, 1 xfailed in 0.1s", False),
        ("0 failed in 1s", False),
        ("the last run said 3 failed in words", False),
    ],
)
def test_a_summary_that_tells_of_failures_is_heard(output: str, said: bool) -> None:
    assert says_failed(output) is said
