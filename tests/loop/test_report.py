"""What a report tells of a task that did not go smoothly."""

import re

import msgspec
import pytest

from agent_runtime.loop import events as e
from agent_runtime.loop.evolve import fold
from agent_runtime.loop.state import State
from agent_runtime.report import Quote, Report, report_of
from agent_runtime.report_page import html_of, markdown_of
from agent_runtime.types import Effect, ToolResult
from agent_runtime.verdicts import Named, TestsCompared, TestsSeen
from tests.loop.harness import FOREVER, NO, TASK, Bench, Script, step, task

pytestmark = pytest.mark.anyio


def reported(bench: Bench) -> Report:
    return report_of(bench.state(), bench.rows(), bench.events(), b"")


def section(report: Report, title: str) -> list[str]:
    """The lines of one section, quotes in angle marks."""
    [found] = [part for part in report.sections if part.title == title]
    return [
        "".join(f"<{part.text}>" if isinstance(part, Quote) else part for part in item)
        for item in found.items
    ]


async def test_recovery_and_what_stood_in_for_a_failed_step_are_told() -> None:
    bench = Bench(Script("flaky", answers=[NO, NO]), Script("plain"))
    bench.scripts["plain"].answers.append(ToolResult(ok=False, output="no way", kind="failed"))
    await bench.run(task(step("a", "flaky", retry=1, fallback="b"), step("b", "plain"),
                         step("c", "plain", needs=["b"])))  # fmt: skip
    report = reported(bench)
    assert section(report, "Why: the plan") == [
        "step <a>: failed, tool <flaky>, 2 attempts",
        "step <b>: failed, tool <plain>",
        "step <c>: skipped, tool <plain>",
    ]
    assert section(report, "What did not go as planned") == [
        "recovery of step <a>: retry, because <exit 1: no>",
        "recovery of step <a>: fallback, because <exit 1: no>",
        "step <a> failed: <exit 1: no>; in its place <b>",
        "recovery of step <b>: abort, because <no way>",
        "step <b> failed: <no way>",
        "step <c> was skipped: <the task is aborted>",
    ]


async def test_who_decided_what_and_when_is_told() -> None:
    bench = Bench(Script("pay", Effect.ONCE))
    await bench.submit(task(step("a", "pay", args={}), policy={"approvals": {"pay": "ask"}}))
    await bench.drive_and_die(10)
    await bench.say(e.Steered(by="eve", message="be\n# quick"))
    await bench.say(
        e.ApprovalDecided(approval_id="a1", decision="approve", by="me`", message="why not")
    )
    await bench.drive()
    report = reported(bench)
    told = [line.split(": ", 1)[1] for line in section(report, "Approvals and messages")]
    assert told == [
        "<eve> said <be # quick>",
        "<me`> approved the call <pay> <{}>, saying <why not>",
    ]
    assert "`` me` `` approved" in markdown_of(report)
    assert "tools that ran outside of the sandbox: <pay>" in section(report, "Not checked")
    assert len(section(report, "Network")) == 2


@pytest.mark.parametrize(
    ("tools", "call", "checks", "shown", "warning"),
    [
        ("bubblewrap", "", "bubblewrap", "<bubblewrap>", ""),
        ("bubblewrap", "container", "container", "<bubblewrap, container>", "their boundary"),
        ("", "", "unsafe-no-sandbox", "<unsafe-no-sandbox>", "no sandbox was used"),
    ],
)
async def test_the_sandbox_is_told_and_what_it_does_not_promise(
    tools: str, call: str, checks: str, shown: str, warning: str
) -> None:
    bench = Bench(Script("plain"))
    await bench.run(task(step("a", "plain")))
    kinds = {"WorkspaceOpened": tools, "CallReturned": call, "VerificationEnded": checks}
    events = [
        msgspec.structs.replace(event, sandbox=kinds[type(event).__name__])
        if isinstance(event, e.WorkspaceOpened | e.CallReturned | e.VerificationEnded)
        else event
        for event in bench.events()
    ]
    state = fold(((event, 0) for event in events), State(task_id=TASK))
    report = report_of(state, bench.rows(), events, b"")
    assert f"sandbox of tools and checks: {shown}" in section(report, "Result")
    lines = section(report, "Not checked")
    assert any(warning in line for line in lines) if warning else True
    assert any("their boundary" in line for line in lines) == ("container" in (call, checks))
    assert any("no sandbox was used" in line for line in lines) == (checks == "unsafe-no-sandbox")


async def test_an_approval_that_came_too_late_is_told_as_a_no() -> None:
    bench = Bench(Script("pay", Effect.ONCE))
    policy = {"approvals": {"pay": "ask"}, "approval_seconds": 100.0}
    await bench.submit(task(step("a", "pay"), policy=policy))
    await bench.drive_and_die(10)
    bench.clock.offset_us += 1_000_000_000
    await bench.say(e.ApprovalDecided(approval_id="a1", decision="approve", by="me"))
    [told] = section(reported(bench), "Approvals and messages")
    assert told.endswith("<me> approved the call <pay> <{}>, too late: it counted as a no")


async def test_an_unknown_effect_and_the_owner_that_died_are_told() -> None:
    bench = Bench(Script("act", Effect.ONCE, [FOREVER]))
    await bench.submit(task(step("a", "act"), policy={"unknown_effect": "continue"}))
    await bench.drive_and_die(10)
    await bench.drive()
    report = reported(bench)
    [told] = section(report, "Unknown effects")
    assert told.startswith("call <a.1> of tool <act>: <")
    assert [part.warns for part in report.sections if part.title == "Unknown effects"] == [True]
    why = section(report, "What did not go as planned")
    assert "driven on by owner number <2>" in why
    assert "call <a.1> had no result: nobody can tell whether it happened" in why


async def test_a_task_without_objectives_or_an_end_says_so() -> None:
    bench = Bench(Script("plain"), Script("slow", answers=[FOREVER]))
    await bench.submit(task(step("a", "plain"), step("b", "slow"), objectives=[]))
    await bench.drive_and_die(10)
    report = report_of(bench.state(), bench.rows(), bench.events(), None)
    assert not report.good and report.status == "running"
    assert section(report, "Checks") == ["none"]
    unchecked = section(report, "Not checked")
    assert "the task has no objectives: nothing says when it is done" in unchecked
    assert "nothing was verified: no check ran on the result" in unchecked
    assert any("has not ended" in line for line in section(report, "Result"))


async def test_what_a_check_does_not_prove_is_told() -> None:
    bench = Bench(Script("plain"))
    await bench.run(task(step("a", "plain")))
    check = e.CheckResult(
        id="t", command=["pytest", "a b"], expected_exit=0, exit=0, ok=True, passed=3, ran=4,
        before=e.Baseline(exit=1, ok=False, passed=2), flaky=True,
    )  # fmt: skip
    bare = e.CheckResult(id="u", command="true", expected_exit=0, exit=0, ok=True)
    found = e.VerificationEnded(
        ok=True, tree="t2", base_tree="t0", checks=[check, bare], protected_changed=["conftest.py"],
        patch_blob="ee", patch_bytes=3, changed=[], grade="regression_only",
        suspects=["a.py: <os._exit>"],
    )  # fmt: skip
    state = msgspec.structs.replace(bench.state(), verification=found)
    report = report_of(state, bench.rows(), bench.events(), b"")
    assert section(report, "Checks")[:3] == [
        "check <t>: ok, before the work: exit 1 (expected 0), 2 passed; after: exit 0, 3 passed of"
        " 4 that ran; FLAKY: on the same tree it ends now well and now not, or fails for other"
        " tests; command <pytest 'a b'>",
        "check <u>: ok, before the work: not run; after: exit 0; command <true>",
        "grade: <regression_only>",
    ]
    assert section(report, "Not checked")[:10] == [
        "what these checks said before the work: there is no baseline: <u>",
        "whether the work mends anything: no given check surely failed before it",
        "whether these checks notice a test that fails: no counter-check: <t>",
        "flaky checks prove little, whatever they said: <t>",
        "whether these checks pass every time: they ran once on the result: <t, u>",
        "how many tests ran, only the exit code counted: <u>",
        "which tests ran, they were counted and not named: <t>",
        "whether fewer tests ran than before the work, no min_passed: <t>",
        "protected files were changed, and checks ran without that: <conftest.py>",
        "the work reaches for what judges it: <a.py: <os._exit>>",
    ]


async def test_what_became_of_single_tests_is_told_by_name() -> None:
    bench = Bench(Script("plain"))
    await bench.run(task(step("a", "plain")))
    check = e.CheckResult(
        id="t", command="make test", expected_exit=0, exit=0, ok=False, passed=2, ran=2,
        before=e.Baseline(exit=1, ok=False), origin="self_chosen",
        tests=TestsSeen(known_by="output", runner="go test", passed=2, blob="bb"),
        compared=TestsCompared(
            lost=Named(1, ["x (gone)"]), mended=Named(9, ["a", "b", "c", "d", "e", "f"]),
            unstable=Named(1, ["u"]), added=Named(1, ["n"]), broken=Named(1, ["`b`"]),
        ),
    )  # fmt: skip
    found = e.VerificationEnded(
        ok=False, tree="t2", base_tree="t0", checks=[check], protected_changed=[],
        patch_blob="ee", patch_bytes=3, changed=[],
    )  # fmt: skip
    state = msgspec.structs.replace(bench.state(), verification=found)
    report = report_of(state, bench.rows(), bench.events(), b"")
    assert section(report, "Checks")[1:6] == [
        "tests of <t>, 9 failed before the work and pass now: <a, b, c, d, e and 4 more>",
        "tests of <t>, 1 LOST, gone or without a verdict now: <x (gone)>",
        "tests of <t>, 1 passed before the work and fail now: <`b`>",
        "tests of <t>, 1 UNSTABLE, came out differently in two looks at the same tree: <u>",
        "tests of <t>, 1 were not there before: <n>",
    ]
    unchecked = section(report, "Not checked")
    assert "whether tests are what was printed, no runner reported them: <t>" in unchecked
    assert any("right ones" in line and "<t>" in line for line in unchecked)


async def test_a_report_is_a_page_however_long_the_log() -> None:
    """A task may have hundreds of steps, and a name any length."""
    bench = Bench(Script("plain"))
    await bench.run(task(*(step(f"s{n}", "plain") for n in range(200))))
    bench_report = reported(bench)
    told = section(bench_report, "Why: the plan")
    assert len(told) == 51 and told[-1] == "and 150 more"
    assert len(html_of(bench_report)) < 50_000


@pytest.mark.parametrize("text", ["`", "``", "a`b``c", " a ", "\\`", "|", "<b>", "&lt;"])
def test_a_span_holds_its_text_whatever_that_is(text: str) -> None:
    """CommonMark 6.1: a span ends at the first run of backticks that is as long as its own."""
    page = markdown_of(Report(text, "failed", False, Quote("g"), ()))
    span = page.splitlines()[0].removeprefix("# ").removesuffix(": failed")
    found = re.fullmatch(r"(`+)(.*[^`])\1", span)
    assert found is not None
    fence, body = found.groups()
    assert not re.search(f"(?<!`){fence}(?!`)", body)
    if body[0] == body[-1] == " ":
        body = body[1:-1]
    assert body == text
