"""What a verification is worth follows from how its checks ended before and after the work."""

import pytest

from agent_runtime.loop.events import Baseline, CheckResult
from agent_runtime.loop.grades import grade_of

FAILED = Baseline(exit=1, ok=False)
PASSED = Baseline(exit=0, ok=True)


def check(ok: bool, before: Baseline | None, flaky: bool = False) -> CheckResult:
    return CheckResult(
        id="c", command="c", expected_exit=0, exit=0, ok=ok, before=before, flaky=flaky
    )


@pytest.mark.parametrize(
    ("checks", "grade"),
    [
        ([check(True, FAILED)], "proven"),
        ([check(True, PASSED), check(True, FAILED)], "proven"),
        ([check(True, PASSED)], "regression_only"),
        ([check(True, FAILED, flaky=True)], "regression_only"),
        ([check(True, PASSED), check(False, FAILED)], ""),
        ([check(True, None)], ""),
        ([], ""),
    ],
)
def test_a_check_that_failed_before_and_passes_now_proves_something(
    checks: list[CheckResult], grade: str
) -> None:
    assert grade_of(checks) == grade
