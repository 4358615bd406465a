"""Which tests are made to fail, how, and what a run must say then."""

import ast
import os
from pathlib import Path

import pytest

from agent_runtime.workspaces.counter import WhichTest, failures, spoil, spoiled_source, unnoticed

PYTEST = """\
=========================== short test summary info ============================
FAILED tests/test_a.py::test_one - assert 1 == 2
\x1b[31mFAILED\x1b[0m tests/test_a.py::TestX::test_two[a b - c] - ValueError: x
FAILED tests/test_a.py::TestX::test_two[d]
ERROR tests/test_b.py - ImportError: no
ERROR tests/test_c.py::test_three - RuntimeError
5 failed, 3 passed in 0.10s
"""
UNITTEST = """\
ERROR: test_one (tests.test_a.Case.test_one)
FAIL: test_two (tests.test_a.Case)
FAILED (failures=1, errors=1)
"""


def test_failures_are_read_by_file_and_function() -> None:
    assert failures(PYTEST) == [
        WhichTest("tests/test_a.py", "test_one"),
        WhichTest("tests/test_a.py", "test_two"),
        WhichTest("tests/test_b.py"),
        WhichTest("tests/test_c.py", "test_three"),
    ]
    assert failures(UNITTEST) == [
        WhichTest("tests/test_a.py", "test_one"),
        WhichTest("tests/test_a.py", "test_two"),
    ]
    assert failures("2 failed in 1s") == []


SOURCE = b'''\
import pytest

def test_a(): assert True

class TestX:
    def test_b(self):
        """Said."""
        for x in "\xc3\xa4": assert x

    async def test_c(self):
        @staticmethod
        def inner(): pass

    @pytest.mark.xfail(strict=True)
    def test_d(self):
        assert False

def helper():
\tpass
'''


@pytest.mark.parametrize(
    ("wanted", "made"),
    [(None, {"test_a", "test_b", "test_c"}), ({"test_b", "test_d", "no"}, {"test_b"})],
)
def test_spoiled_tests_raise_before_they_do_anything(
    wanted: set[str] | None, made: set[str]
) -> None:
    spoiled, found = spoiled_source(SOURCE, wanted)
    assert found == made
    raising = {
        node.name
        for node in ast.walk(ast.parse(spoiled))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and isinstance(node.body[0], ast.Raise)
    }
    assert raising == made


def test_a_checkout_is_spoiled_where_the_command_ran_and_never_through_a_link(
    tmp_path: Path,
) -> None:
    outside = tmp_path / "outside.py"
    outside.write_text("def test_a(): pass\n", encoding="utf-8")
    inside = tmp_path / "checkout" / "backend" / "tests"
    inside.mkdir(parents=True)
    (inside / "test_a.py").write_text("def test_a(): pass\n", encoding="utf-8")
    os.symlink(outside, inside / "test_b.py")
    wanted = [
        WhichTest("tests/test_a.py", "test_a"),
        WhichTest("tests/test_b.py"),
        WhichTest("tests/no.py"),
    ]
    assert spoil(str(tmp_path / "checkout"), wanted) == wanted[:1]
    assert (inside / "test_a.py").read_text() == "def test_a(): raise AssertionError; pass\n"
    assert outside.read_text() == "def test_a(): pass\n"


@pytest.mark.parametrize(
    ("ok", "output", "missed"),
    [
        (True, "9 passed in 1s", ["tests/test_a.py::test_one", "tests/test_b.py"]),
        (False, PYTEST, []),
        # One of them is let pass.
        (False, "FAILED tests/test_b.py::test_x - no\n1 failed, 4 passed in 1s",
         ["tests/test_a.py::test_one"]),
        # Not all that failed is listed, or the run ended early: then only the end counts.
        (False, "FAILED tests/test_b.py::test_x - no\n2 failed, 4 passed in 1s", []),
        (False, "FAILED tests/test_b.py::test_x\n!!! stopping after 1 failures !!!\n1 failed", []),
        (False, "no summary at all", []),
    ],
)  # fmt: skip
def test_a_check_has_to_notice_every_spoiled_test(ok: bool, output: str, missed: list[str]) -> None:
    spoiled = [WhichTest("tests/test_a.py", "test_one"), WhichTest("tests/test_b.py")]
    assert [str(test) for test in unnoticed(spoiled, output, ok=ok)] == missed
