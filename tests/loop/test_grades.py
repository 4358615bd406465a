"""What a verification is worth follows from how its checks ended before and after the work."""

import msgspec
import pytest

from agent_runtime.certificate import claims_hold, names_hold
from agent_runtime.loop import events as e
from agent_runtime.loop.events import Baseline, CheckResult
from agent_runtime.loop.grades import accepts, grade_of
from agent_runtime.types import BlobId, Check, Effect, Grade, Json, Objective, Origin, Status
from agent_runtime.verdicts import Named, Seen, TestsSeen, compare, stored
from tests.loop.harness import Bench, Script, step, task

FAILED = Baseline(exit=1, ok=False)
PASSED = Baseline(exit=0, ok=True)


def check(
    ok: bool, before: Baseline | None, flaky: bool = False, origin: Origin = "given"
) -> CheckResult:
    return CheckResult(
        id="c", command="c", expected_exit=0, exit=0, ok=ok, before=before, flaky=flaky,
        origin=origin,
    )  # fmt: skip


def own(ok: bool, before: Baseline | None) -> CheckResult:
    return check(ok, before, origin="self_chosen")


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
        ([own(True, FAILED)], "self_chosen"),
        ([own(True, FAILED), check(True, PASSED)], "regression_only"),
        ([own(True, PASSED), check(True, FAILED)], "proven"),
        ([own(False, FAILED), check(True, FAILED)], ""),
    ],
)
def test_a_check_that_failed_before_and_passes_now_proves_something(
    checks: list[CheckResult], grade: str
) -> None:
    assert grade_of(checks) == grade


@pytest.mark.parametrize(
    ("least", "enough"),
    [
        ("proven", ["proven"]),
        ("regression_only", ["proven", "regression_only", ""]),
        ("self_chosen", ["proven", "regression_only", "self_chosen", ""]),
    ],
)
def test_a_task_succeeds_with_the_evidence_that_it_accepts_or_better(
    least: Grade, enough: list[str]
) -> None:
    """An old log has no grade: its checks passed."""
    grades = ["proven", "regression_only", "self_chosen", ""]
    assert [grade for grade in grades if accepts(least, grade)] == enough


OWN = [Objective(id="o", check=Check(command="true"), origin="self_chosen")]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("more", "mends", "status"),
    [
        ({}, False, Status.SUCCEEDED),
        ({"accept": "proven"}, False, Status.UNVERIFIED),
        ({"accept": "proven"}, True, Status.SUCCEEDED),
        ({"objectives": OWN}, True, Status.UNVERIFIED),
        ({"objectives": OWN, "accept": "self_chosen"}, False, Status.SUCCEEDED),
    ],
)
async def test_only_accepted_evidence_makes_a_task_succeed(
    more: dict[str, Json], mends: bool, status: Status
) -> None:
    """DESIGN 5: self_chosen ends unverified unless the task accepts it."""
    write = Script("plain", Effect.WORKSPACE)
    bench = Bench(write, judge=lambda files: "fixed" in files or not mends)
    write.work = lambda _: bench.workspaces.files["task_1"].update(fixed="")
    state = await bench.run(task(step("a", "plain"), **more))
    assert state.conclusion is not None and state.conclusion.status is status
    if status is Status.UNVERIFIED:
        assert state.conclusion.reason.startswith("grade_too_low: every check passed, and that is ")
        lie = e.TaskConcluded(status=Status.SUCCEEDED, reason="every check passed")
        claim = claims_hold(msgspec.structs.replace(state, conclusion=lie))
        assert claim is not None and "it accepts" in claim
    else:
        assert claims_hold(state) is None


# ---- what is said about single tests, checked offline ------------------------------------


def by_name() -> tuple[CheckResult, dict[BlobId, bytes]]:
    before = Seen("report", "pytest", {"a": "failed", "b": "passed", "r1": "passed"})
    after = Seen("report", "pytest", {"a": "passed", "b": "passed", "r2": "passed"})
    tests = []
    lists = {}
    for number, seen in enumerate((before, after)):
        record, data = stored(seen)
        tests.append(msgspec.structs.replace(record, blob=f"blob{number}"))
        lists[BlobId(f"blob{number}")] = data
    compared = compare(before.tests, after.tests, unstable=["r1"])
    told = CheckResult(
        id="c", command="c", expected_exit=0, exit=0, ok=True, tests=tests[1], compared=compared,
        before=Baseline(exit=1, ok=False, tests=tests[0]),
    )  # fmt: skip
    return told, lists


def test_what_follows_from_the_stored_lists_holds() -> None:
    told, lists = by_name()
    assert told.compared is not None
    assert (told.compared.mended.names, told.compared.unstable.names) == (["a"], ["r1"])
    assert names_hold(told, [], lists) is None


@pytest.mark.parametrize("lie", ["fewer lost", "more passed", "another list", "no list", "ok"])
def test_what_does_not_follow_from_the_stored_lists_is_found(lie: str) -> None:
    told, lists = by_name()
    compared, tests = told.compared, told.tests
    assert compared is not None and tests is not None
    change = msgspec.structs.replace
    match lie:
        case "fewer lost":
            told = change(told, compared=change(compared, unstable=Named()))
        case "more passed":
            told = change(told, tests=change(tests, passed=9))
        case "another list":
            lists[BlobId("blob1")] = b"passed\ta\n"
        case "no list":
            lists[BlobId("blob1")] = b"?"
        case _:
            told = change(told, compared=change(compared, lost=Named(1, ["b (gone)"])))
    assert names_hold(told, [], lists) is not None


def test_a_check_without_names_says_nothing_that_could_be_wrong() -> None:
    told = CheckResult(
        id="c", command="c", expected_exit=0, exit=0, ok=True, tests=TestsSeen(known_by="count")
    )
    assert names_hold(told, [], {}) is None
