"""One event of every stored type with every field set, and its golden file.

`python -m tests.loop.samples` writes the golden files that are missing. It never changes one: a
stored form that is released is read for ever.
"""

from collections.abc import Mapping
from pathlib import Path

from agent_runtime.loop import codec
from agent_runtime.loop import events as e
from agent_runtime.messages import ModelChoice, ModelUsage, ToolUse
from agent_runtime.types import (
    ArtifactSpec,
    Effect,
    Once,
    Phase,
    PreparedEnvironment,
    PublishSpec,
    Row,
    ServiceReady,
    ServiceSpec,
    Status,
    Strategy,
    TaskId,
)
from agent_runtime.verdicts import Named, TestsCompared, TestsSeen
from tests.loop.harness import step, task

GOLDEN = Path(__file__).parent.parent / "golden"
TASK = TaskId("task_golden")
_SPEC = task(
    step(
        "a",
        "shell",
        args={"command": "true"},
        retry=1,
        when="steps.b.ok",
        needs=["b"],
        expect={"exit": 0, "contains": "x"},
        effect="read",
        timeout_seconds=1.5,
        alternative={"tool": "look", "args": {"n": 1}},
        fallback="c",
    ),
    protect=["tests/**"],
    artifacts=[ArtifactSpec(path="dist/*.whl", required=True)],
    labels={"team": "parsers"},
    priority=7,
)

SAMPLES: Mapping[str, e.AnyEvent] = {
    type(event).__name__: event
    for event in (
        e.TaskSubmitted(spec=_SPEC, submitted_by="me", loop_version=1),
        e.LeaseTaken(epoch=2, owner="pid 1 on host"),
        e.Interrupted(reason="stopped by its owner"),
        e.WorkspaceOpened(
            path="/w", mount="/workspace", base_commit="c0", base_tree="t0", branch="b",
            carried=["a.py"], notes=["shallow"], sandbox="bubblewrap",
            limits={"memory": "2,048 MiB, cgroups v2"},
        ),
        e.EnvironmentPrepared(
            environment=PreparedEnvironment(
                source="the task", key="k0", python="/w/.venv", python_source="its setup",
                mounted=[".venv"], copied=["build"], home=True, path=["~/.local/bin"],
                env={"A": "1"},
                services=[ServiceSpec(id="db", command=["db"], ready=ServiceReady(port=5432))],
            ),
            cached=True, seconds=1.5, output_blob="b", notes=["left out"],
        ),
        e.InitiationFailed(kind="transient", message="locked"),
        e.RequirementsAnalyzed(facts={"languages": ["Python"]}, protected=["conftest.py"]),
        e.ToolsDiscovered(
            tools=[e.DiscoveredTool(name="look", toolbelt="extra", where="worker")],
            visible=["look"], effects={"a": Effect.READ}, problems=["no such tool"],
        ),
        e.ToolbeltActivated(toolbelt="extra", tools=["look"]),
        e.ToolbeltFailed(toolbelt="extra", message="no"),
        e.PreparationFailed(step_id="a", kind="denied", message="no", paths=["x"]),
        e.ConditionFalse(step_id="a"),
        e.CallReturned(
            call_id="a.1", ok=False, output="ü", exit=1, kind="failed", output_blob="ff",
            output_bytes=2, tree_after="t2", changed=["a.py"], paths=["p"], data={"n": 1.5},
            sandbox="container",
        ),
        e.CallLost(call_id="a.1", reason="timeout", message="late"),
        e.CallResolved(call_id="a.1", resolution="unknown", message="who knows"),
        e.EgressObserved(
            entries=[
                e.EgressEntry(
                    kind="closed", host="a.org", port=443, source="a.1", method="CONNECT",
                    address="192.0.2.1", via="proxy:3128", reason="idle", count=2, bytes_sent=3,
                    bytes_received=4,
                )
            ],
            left_out=5, bytes_sent_left_out=6, bytes_received_left_out=7, mark=8,
        ),
        e.TimerFired(timer="retry:a:9"),
        e.ModelReplied(
            step_id="a", turn=1, text="hm",
            calls=[
                ToolUse(
                    id="u1", name="look", arguments={"n": 1}, raw='{"n": 1}', effect=Effect.READ
                )
            ],
            stop="calls", usage=ModelUsage(input=9, cached=3, cache_written=2, output=4),
            usd=0.5, model="m-1", cached=True, blocks=[{"type": "text"}], provider="p", by="me",
            seconds=1.5,
        ),
        e.BrainFound(
            kind="model",
            models=[
                ModelChoice(
                    name="m", provider="p", context_tokens=9, output_tokens_max=8,
                    input_usd_per_mtok=1.0, output_usd_per_mtok=2.0, priced=False,
                )
            ],
            why="the task", offers=["a key"],
        ),
        e.ModelFailed(
            step_id="a", turn=1, error="rate", message="no", retry_after_seconds=2.5,
            usage=ModelUsage(input=1), usd=0.1,
        ),
        e.VerificationEnded(
            ok=False, tree="t2", base_tree="t0",
            checks=[
                e.CheckResult(
                    id="ok", command=["true"], expected_exit=0, exit=1, ok=False, passed=1, ran=3,
                    min_passed=2, output="o", output_blob="ff", reason="exit 1",
                    before=e.Baseline(
                        exit=2, ok=False, passed=0, ran=2, reason="exit 2",
                        tests=TestsSeen(known_by="count"),
                    ),
                    flaky=True, countered=["tests/a.py::test_a"], origin="self_chosen",
                    tests=TestsSeen(
                        known_by="report", runner="pytest", passed=1, failed=2, errors=3,
                        skipped=4, not_run=5, ids_sha256="aa", blob="bb",
                    ),
                    compared=TestsCompared(
                        lost=Named(1, ["a::l (gone)"]), broken=Named(1, ["a::b"]),
                        mended=Named(1, ["a::m"]), added=Named(1, ["a::n"]),
                        unstable=Named(2, ["a::u", "a::v"]),
                    ),
                )
            ],
            protected_changed=["conftest.py"], patch_blob="ee", patch_bytes=3, changed=["a.py"],
            message="no", grade="proven", suspects=["a.py names pytest"],
            sandbox="container",
        ),
        e.WorkKept(
            tree="t3",
            artifacts=[e.Artifact(path="dist/a.whl", bytes=9, sha256="aa", executable=True)],
            missing=["htmlcov"], left_out=["dist/b: a link"],
        ),
        e.CleanedUp(problems=["busy"]),
        e.PublicationRequested(
            by="me",
            publish=PublishSpec(push="https://h/x", branch="b", pr="ready", base="m", title="t"),
        ),
        e.PublicationPrepared(
            url="https://h/x.git", branch="b", base="m", base_commit="c0", commit="c1", tree="t2",
            verification=e.VerificationEnded(
                ok=True, tree="t2", base_tree="t1", checks=[], protected_changed=[],
                patch_blob="ee", patch_bytes=3, changed=["a.py"],
            ),
        ),
        e.PublicationDone(what="pull_request", found=True, url="https://h/x/1", number=1),
        e.PublicationFailed(
            what="push", kind="transient", message="502", retry_after_seconds=1.5, moved=True
        ),
        e.CancelRequested(by="me", reason="late"),
        e.PauseRequested(by="me"),
        e.ResumeRequested(by="me", model="m"),
        e.CallRequested(
            step_id="c1", tool="look", arguments={"n": 1}, effect=Effect.READ, by="me"
        ),
        e.CallWithdrawn(step_id="c1", by="me", reason="no"),
        e.Steered(by="me", message="hurry", once=Once("k", "0" * 64)),
        e.TaskChanged(by="me", labels={"team": "a"}, priority=7),
        e.Continued(by="me", message="and the docs", spec=_SPEC, once=Once("k", "0" * 64)),
        e.Forked(
            parent="task_0", at=9, by="me", replaced=["model"], spec=_SPEC,
            brain=e.BrainFound(kind="model", models=[ModelChoice(name="m")]), path="/w2",
            notes=["no commits"], once=Once("k", "0" * 64),
        ),
        e.ApprovalDecided(
            approval_id="a1", decision="deny", by="me", message="no", scope="task",
            arguments={"n": 2},
        ),
        e.PhaseEntered(phase=Phase.EXECUTION, previous=Phase.PLANNING),
        e.PlanAdopted(steps=_SPEC.plan.steps if _SPEC.plan else [], source="given", attempt=1,
            objectives=_SPEC.objectives, requirements=["it works"],
        ),
        e.CallIntended(
            step_id="a", call_id="a.1", attempt=1, tool="shell", arguments={"command": "true"},
            effect=Effect.ONCE, tree_before="t0", approval_id="a1", turn=1,
        ),
        e.ApprovalRequested(
            approval_id="a1", step_id="a", subject="call", tool="shell", arguments={"n": 1},
            digest="dd", tree_before="t0", expires_at_us=5, question="May it?", rule="*",
            preview="+new",
        ),
        e.ApprovalExpired(approval_id="a1"),
        e.StepEvaluated(
            step_id="a", verdict="failed", toolbelt="extra", kind="failed", reason="no"
        ),
        e.RecoveryChosen(
            step_id="a", strategy=Strategy.RETRY, kind="failed", reason="no", delay_ms=100
        ),
        e.StepSucceeded(step_id="a"),
        e.StepFailed(step_id="a", kind="failed", reason="no", fallback="c"),
        e.StepSkipped(step_id="a", reason="its condition was false", satisfied=True),
        e.EffectUnknown(call_id="a.1", step_id="a", tool="shell", message="look"),
        e.WorkerRestarted(reason="killed"),
        e.ModelCallStarted(
            step_id="a", turn=1, model="m", reserved_tokens=8000, reserved_usd=0.1,
            output_tokens_max=4000, prompt="abc",
        ),
        e.HistoryCompacted(level="outputs", tokens_before=9, tokens_after=3),
        e.ModelCallSettled(step_id="a", turn=1, tokens=8000, usd=0.1),
        e.BudgetExhausted(limit="usd", used=3.0, allowed=2.5),
        e.VerificationStarted(attempt=1),
        e.ReplanRequested(reason="no"),
        e.TaskConcluded(status=Status.UNVERIFIED, reason="no"),
        e.PublicationIntended(what="push"),
        e.PublicationEnded(ok=False, reason="no"),
        e.TaskEnded(status=Status.UNVERIFIED, reason="no"),
    )
}  # fmt: skip


def row(event: e.AnyEvent) -> Row:
    """The event as the first row of a log."""
    return codec.encode(TASK, [event], after=0, head=codec.GENESIS, at_us=7)[0]


def golden_path(name: str, schema: int) -> Path:
    return GOLDEN / f"{name}.{schema}.json"


if __name__ == "__main__":
    for name, event in SAMPLES.items():
        path = golden_path(name, event.schema)
        if not path.exists():
            path.write_bytes(row(event).data + b"\n")
            print(path)
