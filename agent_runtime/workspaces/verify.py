"""The runtime's own proof: the objectives' checks on a clean checkout, each in a new sandbox.

What is checked is what the task hands over: base plus its diff, with protected files as in base.
Every check gets an export of its own, so no check sees what another one left. A protected file that
the task changed makes the verification fail, whatever the checks say.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import anyio
import anyio.to_thread

from agent_runtime import protect
from agent_runtime.errors import WorkspaceError
from agent_runtime.ports.sandbox import Layer, Sandbox, SandboxSpec
from agent_runtime.ports.verifier import CheckOutcome, Furnished, Verification
from agent_runtime.ports.workspaces import Workspaces
from agent_runtime.tampering import SOURCES, reaches_for_runner
from agent_runtime.types import Check, Objective, TaskId, TreeId
from agent_runtime.verdicts import Seen, bad, compare, differing, few
from agent_runtime.workspaces.counter import WhichTest, all_tests, failures, spoil, unnoticed
from agent_runtime.workspaces.counts import count_tests, says_failed
from agent_runtime.workspaces.test_reports import Channel, seen_in
from agent_runtime.workspaces.test_reports.places import Places

OUTPUT_CHARS_MAX = 10_000
"""Of a check's output in its record: half from the head, half from the tail."""

DISCARD_SECONDS_MAX = 60.0
"""Bound of removing a checkout when the verification itself is being cancelled."""

COUNTERED_MAX = 50
"""Tests that the record of one check names."""

_BLIND = "so the code under test decides, and not its tests"

_UNREADABLE = b"\0"
"""No TOML and no JSON: guarded sections compare as changed."""


class Verifier:
    """The `Verifier` port: runs objectives. All processes of the task must be dead."""

    def __init__(self, workspaces: Workspaces) -> None:
        self._workspaces = workspaces

    async def verify(
        self,
        task_id: TaskId,
        *,
        objectives: Sequence[Objective],
        base: TreeId,
        tree: TreeId,
        protected: Sequence[str],
        sandbox: Sandbox,
        furnished: Furnished,
    ) -> Verification:
        """Check `tree` against `base`. Without objectives only the protected files decide.

        `furnished` puts the environment around a checkout, as setup left it. Every check runs on
        the base as well, the baseline: tests that came to a verdict there must do so after the
        work.

        Raises:
            WorkspaceError: a tree is unknown, or two exports differ.
            SandboxUnavailable: nothing can be run here.
        """
        changed, suspects = await self._forbidden(task_id, base, tree, protected)
        held: set[TreeId] = set()

        async def run(
            objective: Objective,
            which: TreeId,
            spoiling: Sequence[WhichTest] | None = None,
            spoiled: list[WhichTest] | None = None,
        ) -> CheckOutcome:
            path, exported = await self._workspaces.export(
                task_id, which, base=base, protected=protected
            )
            if which == tree:
                held.add(exported)
            try:
                if spoiled is not None:
                    spoiled += await anyio.to_thread.run_sync(_spoil, path, spoiling)
                async with furnished(path) as spec:
                    return await run_check(objective, sandbox, spec, f"{path}.report")
            finally:
                with anyio.move_on_after(DISCARD_SECONDS_MAX, shield=True):
                    await self._workspaces.discard(path)
                    await self._workspaces.discard(f"{path}.report")

        checks = []
        for objective in objectives:
            check = await _judged(objective, partial(run, objective), base=base, tree=tree)
            if tree != base:
                check = await _countered(check, partial(run, objective), base=base, tree=tree)
            checks.append(check)
        if not held:
            path, exported = await self._workspaces.export(
                task_id, tree, base=base, protected=protected
            )
            await self._workspaces.discard(path)
            held.add(exported)
        if len(held) != 1:
            raise WorkspaceError(
                f"clean checkouts of tree {tree} came out differently: {', '.join(sorted(held))}"
            )
        return Verification(
            tree=held.pop(),
            checks=tuple(checks),
            protected_changed=changed,
            suspects=suspects,
            ok=not changed and not suspects and all(check.ok for check in checks),
        )

    async def _forbidden(
        self, task_id: TaskId, base: TreeId, tree: TreeId, protected: Sequence[str]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Protected files that are changed, and sources that reach for the test runner."""
        changes = [
            change
            for change in await self._workspaces.changes(task_id, base, tree)
            if not (change.kind == "A" and protect.is_cache(change.path))
        ]
        found = {c.path for c in changes if protect.matches(c.path, protected)}
        looked_at = [
            change
            for change in changes
            if change.path not in found
            and (protect.has_guarded_sections(change.path) or change.path.endswith(SOURCES))
        ]
        suspects: list[str] = []
        if looked_at:
            before = await self._workspaces.contents(task_id, base, [c.path for c in looked_at])
            after = await self._workspaces.contents(task_id, tree, [c.path for c in looked_at])
            for change in looked_at:
                old = b"" if change.kind == "A" else before[change.path]
                new = b"" if change.kind == "D" else after[change.path]
                # What cannot be read as a file, as when a link took its place, counts as changed.
                old = _UNREADABLE if old is None else old
                new = _UNREADABLE * 2 if new is None else new
                if protect.forbids(change.path, protected, before=old, after=new):
                    found.add(change.path)
                elif name := reaches_for_runner(change.path, old, new):
                    if not protect.is_released(change.path, protected):
                        suspects.append(f"{change.path} names {name}")
        return tuple(sorted(found)), tuple(suspects)


async def _judged(
    objective: Objective,
    run: Callable[[TreeId], Awaitable[CheckOutcome]],
    *,
    base: TreeId,
    tree: TreeId,
) -> CheckOutcome:
    """One check on the work and on the base.

    A bad end is looked at twice: on the base it would be taken for a bug that was mended. So is the
    base where tests of it are missed: those that come and go by themselves are not lost.
    """
    may_lose = objective.check.may_lose
    after = await run(tree)
    if tree == base:
        return replace(after, before=after)
    before = await run(base)
    check = _compared(after, before, may_lose=may_lose)
    if after.ok and check.ok and before.ok:
        return check
    if not after.ok:
        again = await run(tree)
        unstable = _differing(after, again)
        return replace(
            _compared(after, before, may_lose=may_lose, unstable=unstable), flaky=again.ok
        )
    again = await run(base)
    unstable = _differing(before, again)
    flaky = before.ok != again.ok or _failed_by_turns(before, again)
    return replace(_compared(after, before, may_lose=may_lose, unstable=unstable), flaky=flaky)


class _Run(Protocol):
    """Runs one check, with these tests (None: all) made to fail; adds what that were."""

    async def __call__(
        self, which: TreeId, spoiling: Sequence[WhichTest] | None, spoiled: list[WhichTest]
    ) -> CheckOutcome: ...


async def _countered(check: CheckOutcome, run: _Run, *, base: TreeId, tree: TreeId) -> CheckOutcome:
    """A good check must be no longer good when the tests that turned are made to fail."""
    before = check.before
    if not check.ok or before is None:
        return check
    spoiled: list[WhichTest] = []
    missed: list[WhichTest] = []
    turned = [] if before.ok else failures(f"{_said(before)}\n{before.output}")
    if turned:
        again = await run(tree, turned, spoiled)
        missed = unnoticed(spoiled, _said(again), ok=again.ok)
    elif before.ok and check.ran:
        # Nothing turned: then all of them. What the base does not notice either says nothing, as
        # with doctests.
        again = await run(tree, None, spoiled)
        if again.ok and spoiled and not (await run(base, None, [])).ok:
            missed = spoiled
        elif again.ok:
            return check
    if not spoiled:
        return check
    if missed:
        reason = f"does not notice these tests being made to fail: {_names(missed)}; {_BLIND}"
        return replace(check, ok=False, reason=reason)
    return replace(check, countered=tuple(str(test) for test in spoiled[:COUNTERED_MAX]))


def _said(check: CheckOutcome) -> str:
    """What failed, in pytest's words: from its report where there is one."""
    if check.seen.known_by != "report":
        return check.output
    failed = sorted(bad(check.seen.tests))
    return "".join(f"FAILED {name}\n" for name in failed) + f"{len(failed)} failed"


def _spoil(checkout: str, tests: Sequence[WhichTest] | None) -> list[WhichTest]:
    return spoil(checkout, all_tests(checkout) if tests is None else tests)


def _differing(first: CheckOutcome, second: CheckOutcome) -> set[str]:
    """The tests that came out differently in two looks at one tree."""
    if first.seen.tests and second.seen.tests:
        return differing(first.seen.tests, second.seen.tests)
    return set()


def _failed_by_turns(first: CheckOutcome, second: CheckOutcome) -> bool:
    """Did both looks fail, and no test in both of them? Then none of them surely fails."""
    failed, failed_again = bad(first.seen.tests), bad(second.seen.tests)
    return bool(failed and failed_again and not failed & failed_again)


async def run_check(
    objective: Objective, sandbox: Sandbox, spec: SandboxSpec, directory: str
) -> CheckOutcome:
    """One check in one sandbox; `directory` is made for what its test runners report."""
    check = objective.check
    argv = ["/bin/sh", "-c", check.command] if isinstance(check.command, str) else check.command
    channel = Channel(directory)
    # Where it is on the host: a kind of sandbox without mounts has it there, too.
    spec = replace(
        spec,
        env=channel.variables(spec.env),
        layers=(*spec.layers, Layer(source=directory, path=directory)),
    )
    async with channel.opened():
        started = anyio.current_time()
        result = await sandbox.execute(spec, argv, deadline_seconds=check.timeout_seconds)
        seconds = anyio.current_time() - started
    output = result.output.decode("utf-8", "replace")
    seen = await anyio.to_thread.run_sync(
        partial(
            seen_in,
            channel.told,
            output,
            whole=result.output_bytes <= len(result.output),
            places=Places((spec.mount, os.path.realpath(spec.workspace), spec.workspace)),
        )
    )
    passed, ran = _counted(seen, output)
    reason = _fault(check, result.exit, passed, timed_out=result.timed_out)
    if not reason and check.exit == 0:
        reason = _told_otherwise(seen, output)
    return CheckOutcome(
        id=objective.id,
        command=check.command,
        exit=result.exit,
        expected_exit=check.exit,
        passed=passed,
        ran=ran,
        min_passed=check.min_passed,
        output=capped(output),
        seconds=seconds,
        ok=not reason,
        reason=reason,
        seen=seen,
        origin=objective.origin,
    )


def _counted(seen: Seen, output: str) -> tuple[int | None, int | None]:
    """How many tests passed, and how many came to a verdict; None where nothing says so."""
    if seen.tests or seen.known_by == "report":
        verdicts = list(seen.tests.values())
        passed = verdicts.count("passed")
        return passed, passed + len(bad(seen.tests))
    counts = count_tests(output)
    return (counts.passed, counts.ran) if counts else (None, None)


def _told_otherwise(seen: Seen, output: str) -> str:
    """What the test runners say about a run that ends well, if they say that it did not."""
    if failed := sorted(bad(seen.tests)):
        return f"exit 0, and its tests failed: {few(failed, len(failed))}"
    if seen.problems:
        return f"exit 0, and {'; '.join(seen.problems[:3])}"
    if says_failed(output):
        return "exit 0, and a summary of its own says that tests failed"
    return ""


def _compared(
    after: CheckOutcome,
    before: CheckOutcome,
    *,
    may_lose: Sequence[str],
    unstable: Collection[str] = (),
) -> CheckOutcome:
    """A check that is good, and has lost tests on the way, is not: skipping is no fix."""
    both = (before.seen.known_by, after.seen.known_by)
    # Names that were reported once must be reported again; printed ones may be garbled.
    if both[0] != "report" and both != ("output", "output"):
        lost = _fewer(after, before) if after.ok else ""
        return replace(after, before=before, ok=after.ok and not lost, reason=lost or after.reason)
    compared = compare(before.seen.tests, after.seen.tests, unstable=unstable, may_lose=may_lose)
    check = replace(after, before=before, compared=compared)
    if not after.ok or not compared.lost.count:
        return check
    return replace(
        check,
        ok=False,
        reason=f"tests_lost: {compared.lost.count} of {len(before.seen.tests)}: "
        f"{few(compared.lost.names, compared.lost.count)}; if that is meant, the check names them "
        "in may_lose",
    )


def _fewer(after: CheckOutcome, before: CheckOutcome) -> str:
    if (before.ran or 0) > (after.ran or 0):
        return (
            f"tests_lost: {after.ran or 0} tests came to a verdict, and {before.ran} before the "
            "work"
        )
    if (before.passed or 0) > (after.passed or 0):
        return f"tests_lost: {after.passed or 0} tests passed, and {before.passed} before the work"
    return ""


def _fault(check: Check, code: int, passed: int | None, *, timed_out: bool) -> str:
    if timed_out:
        return f"no end within {check.timeout_seconds:g} s"
    if code != check.exit:
        return f"exit {code}, expected {check.exit}"
    if check.min_passed is not None:
        if passed is None:
            return f"no summary line says how many passed, expected at least {check.min_passed}"
        if passed < check.min_passed:
            return f"{passed} passed, expected at least {check.min_passed}"
    return ""


def _names(tests: Sequence[WhichTest]) -> str:
    return few([str(test) for test in tests], len(tests))


def capped(text: str) -> str:
    """`text`, or its head and tail and how much is missing between them."""
    if len(text) <= OUTPUT_CHARS_MAX:
        return text
    gap = "\n[… {} characters left out …]\n"
    keep = (OUTPUT_CHARS_MAX - len(gap) - 20) // 2
    return text[:keep] + gap.format(len(text) - 2 * keep) + text[-keep:]
