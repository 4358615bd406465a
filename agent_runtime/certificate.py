"""What a finished task hands over: result, certificate, and the check that both are what they say.

All of it is a fold of the log; nothing here is stored a second time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import msgspec

from agent_runtime import __version__
from agent_runtime.loop import events as e
from agent_runtime.loop.evolve import fold
from agent_runtime.loop.grades import accepts, grade_of, grade_of_check
from agent_runtime.loop.reached import told
from agent_runtime.loop.state import State, missing_artifacts, status_of
from agent_runtime.types import BlobId, Json, Row, Status, TreeId
from agent_runtime.verdicts import Seen, TestsSeen, Verdict, compare, read_stored, stored

Lists = Mapping[BlobId, bytes]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The last line of `run --json`; `patch` and `certificate` are paths of files."""

    type: str = "result"
    task_id: str
    status: str
    reason: str
    run: int = 1
    """Each `Continued` begins another one."""
    branch: str | None = None
    publication: Json = None
    """Of a task that is published: where to, how far it came, and why no further."""
    patch: str | None = None
    certificate: str | None = None
    artifacts: list[Json] = []
    missing_artifacts: list[str] = []
    failed_checks: list[str] = []
    protected_files: list[str] = []
    unknown_effects: list[Json] = []


class VerifyReport(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a log is what was written; `fault` says what is not, `seq` where."""

    ok: bool
    task_id: str
    seq: int | None = None
    fault: str | None = None
    notes: list[str] = []
    """What is no fault, and worth knowing."""


def result_of(state: State, *, patch: str | None = None, certificate: str | None = None) -> Result:
    """The result of a task as far as it is."""
    status, reason = status_of(state)
    found, kept = state.verification, state.kept
    protected = list(found.protected_changed) if found else []
    for step in state.steps.values():
        if step.result is not None and step.result.kind == "refused":
            protected += [path for path in step.result.paths if path not in protected]
    return Result(
        task_id=state.task_id,
        status=status,
        reason=reason,
        run=state.run,
        branch=_pushed_branch(state),
        publication=_publication(state),
        patch=patch,
        certificate=certificate,
        artifacts=[msgspec.to_builtins(artifact) for artifact in kept.artifacts] if kept else [],
        missing_artifacts=list(kept.missing) if kept else [],
        failed_checks=[c.id for c in found.checks if not c.ok] if found else [],
        protected_files=protected,
        unknown_effects=[
            {"call_id": u.call_id, "tool": u.tool, "message": u.message} for u in state.unknown
        ],
    )


def _pushed_branch(state: State) -> str | None:
    publication = state.publication
    if publication is None or publication.prepared is None or publication.pushed is None:
        return None
    return publication.prepared.branch


def _publication(state: State) -> Json:
    publication = state.publication
    if publication is None:
        return None
    told, ended, opened = publication.prepared, publication.ended, publication.opened
    found = told.verification if told is not None else None
    return {
        "ok": ended is not None and ended.ok,
        "reason": ended.reason if ended is not None else "",
        "url": told.url if told is not None else "",
        "branch": told.branch if told is not None else "",
        "base": told.base if told is not None else "",
        "base_commit": told.base_commit if told is not None else "",
        "commit": told.commit if told is not None else "",
        "verified_again": None
        if found is None
        else {"ok": found.ok, "grade": found.grade, "tree": found.tree},
        "pushed": publication.pushed is not None,
        "pull_request": opened.url if opened is not None else None,
    }


def certificate_of(state: State, rows: Sequence[Row]) -> dict[str, Json] | None:
    """These commands gave these results on this tree; None if nothing was verified.

    `log` binds it to the whole history: a cut or changed log has another head.
    """
    found = state.verification
    if found is None or not found.tree:
        return None
    workspace = state.workspace
    status, reason = status_of(state)
    return {
        "version": 1,
        "task_id": state.task_id,
        "run": state.run,
        **_forked(state),
        "goal": state.task.goal,
        "status": status,
        "reason": reason,
        "grade": found.grade or None,
        "accept": state.task.accept,
        "sandbox": {
            "tools": workspace.sandbox or None if workspace else None,
            "checks": found.sandbox or None,
        },
        "base_commit": workspace.base_commit if workspace else "",
        "base_tree": found.base_tree,
        "tree": found.tree,
        "patch_sha256": found.patch_blob,
        "patch_bytes": found.patch_bytes,
        "changed": found.changed,
        "checks": [
            {
                "id": check.id,
                "command": check.command,
                "exit": check.exit,
                "expected_exit": check.expected_exit,
                "passed": check.passed,
                "ran": check.ran,
                "min_passed": check.min_passed,
                "ok": check.ok,
                "flaky": check.flaky,
                "countered": check.countered,
                "origin": check.origin,
                "grade": grade_of_check(check) or None,
                "evidence": evidence_of(check),
                "tests": _tests(check.tests),
                "compared": None if check.compared is None else msgspec.to_builtins(check.compared),
                "before": None
                if check.before is None
                else {
                    "exit": check.before.exit,
                    "passed": check.before.passed,
                    "ran": check.before.ran,
                    "ok": check.before.ok,
                    "tests": _tests(check.before.tests),
                },
            }
            for check in found.checks
        ],
        "protected": list(state.protected),
        "protected_changed": found.protected_changed,
        "suspects": found.suspects,
        "unknown_effects": [u.call_id for u in state.unknown],
        "egress": {"network": state.task.policy.network, **told(state.reached)},
        "log": {"seq": rows[-1].seq, "head": rows[-1].hash},
        "runtime": __version__,
    }


def evidence_of(check: e.CheckResult) -> str:
    """What a check's verdict stands on, in words."""
    tests = check.tests
    if tests is not None and tests.known_by == "report":
        return f"exit code and tests by name, by {tests.runner}'s own report"
    if tests is not None and tests.known_by == "output":
        return f"exit code and tests by name, as {tests.runner} printed them"
    return "exit code" if check.ran is None else "exit code and test counts"


def _forked(state: State) -> dict[str, Json]:
    """Where it comes from, and what of that was made up; nothing if it is no fork."""
    fork = state.forked
    if fork is None:
        return {}
    return {"forked": {"parent": fork.parent, "at": fork.at, "replaced": list(fork.replaced)}}


def _tests(tests: TestsSeen | None) -> dict[str, Json] | None:
    """All of it, also what is nothing: a certificate is read by programs."""
    if tests is None or not tests.blob:
        return None
    return {name: getattr(tests, name) for name in TestsSeen.__struct_fields__}


def blobs_named(events: Sequence[e.AnyEvent]) -> list[tuple[int, BlobId]]:
    """Every blob that the log names, with the number of the event that does."""
    named: list[tuple[int, BlobId]] = []
    for seq, event in enumerate(events, 1):
        match event:
            case e.CallReturned(output_blob=blob) if blob:
                named.append((seq, BlobId(blob)))
            case e.VerificationEnded(patch_blob=blob):
                lists = [blob_id for check in event.checks for blob_id in lists_of(check)]
                named += [(seq, blob_id) for blob_id in (BlobId(blob), *lists) if blob_id]
            case e.PublicationPrepared(verification=found) if found is not None:
                named += [(seq, blob_id) for _, blob_id in blobs_named([found])]
            case _:
                pass
    return named


def lists_of(check: e.CheckResult) -> list[BlobId]:
    """The blobs with the names of a check's tests, after the work and before it."""
    before = check.before.tests if check.before is not None else None
    return [BlobId(tests.blob) for tests in (check.tests, before) if tests and tests.blob]


def trees_named(events: Sequence[e.AnyEvent]) -> list[TreeId]:
    """The trees that the result is about: base, what was verified, and the last known one."""
    base = last = ""
    verified: list[str] = []
    for event in events:
        match event:
            case e.WorkspaceOpened(base_tree=tree):
                base = tree
            case e.CallReturned(tree_after=tree) | e.WorkKept(tree=tree) if tree:
                last = tree
            case e.VerificationEnded(tree=tree) if tree:
                verified += [event.base_tree, tree]
            case _:
                pass
    return [TreeId(tree) for tree in dict.fromkeys((base, *verified, last)) if tree]


def earlier_ends(
    state: State, rows: Sequence[Row], events: Sequence[e.AnyEvent]
) -> Iterator[tuple[State, Sequence[Row]]]:
    """State and log of a task at the end of each run that was continued since, oldest first."""
    folded, at = State(task_id=state.task_id), 0
    for run in state.earlier:
        pairs = ((event, row.at_us) for event, row in zip(events, rows, strict=True))
        folded = fold(islice(pairs, at, run.ended_seq), folded)
        at = run.ended_seq
        yield folded, rows[:at]


def claims_hold(state: State) -> str | None:
    """Why the terminal status does not follow from the evidence in the log; None if it does."""
    if state.conclusion is None or state.conclusion.status is not Status.SUCCEEDED:
        return None
    found = state.verification
    if found is None or not found.checks or not all(check.ok for check in found.checks):
        return "the task is said to have succeeded, and no verification in the log shows it"
    if missing := missing_artifacts(state):
        return f"the task is said to have succeeded, and it left no {missing[0]!r}"
    if found.suspects:
        return "the task is said to have succeeded, and its work reaches for the test runner"
    if found.protected_changed:
        return "the task is said to have succeeded, and protected files were changed"
    if found.grade and found.grade != grade_of(found.checks):
        return f"the evidence is said to be {found.grade!r}, and the checks do not show it"
    if not accepts(state.task.accept, found.grade):
        return (
            f"the task is said to have succeeded, and its evidence is {found.grade!r}: it accepts "
            f"{state.task.accept!r}"
        )
    return None


def names_hold(check: e.CheckResult, may_lose: Sequence[str], lists: Lists) -> str | None:
    """Why what a check says about its tests does not follow from the stored lists; None if it does.

    `lists` has the blobs of `check` by their ids. Two looks at one tree are not stored: what came
    out differently in them is taken from the log.
    """
    before = check.before.tests if check.before is not None else None
    found: list[Mapping[str, Verdict]] = []
    for tests in (before, check.tests):
        if tests is None or not tests.blob:
            found.append({})
            continue
        try:
            found.append(read_stored(lists[BlobId(tests.blob)]))
        except ValueError as error:
            return f"the tests of check {check.id!r} cannot be read: {error}"
        seen = Seen(known_by=tests.known_by, runner=tests.runner, tests=found[-1])
        if msgspec.structs.replace(tests, blob="") != stored(seen)[0]:
            return f"the numbers of the tests of check {check.id!r} are not those of its list"
    told = check.compared
    if told is None:
        return None
    if check.ok and told.lost.count:
        return f"check {check.id!r} is said to be good, and it lost {told.lost.count} tests"
    if told.unstable.count > len(told.unstable.names):
        return None
    unstable = told.unstable.names
    if compare(found[0], found[1], unstable=unstable, may_lose=may_lose) != told:
        return f"what check {check.id!r} says it lost and mended is not what its lists of tests say"
    return None
