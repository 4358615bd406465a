"""Whether what was proven still holds: log, blobs, trees, files, claims, and the checks again."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from agent_runtime.certificate import (
    VerifyReport,
    blobs_named,
    certificate_of,
    claims_hold,
    earlier_ends,
    lists_of,
    names_hold,
)
from agent_runtime.errors import AgentRuntimeError, Conflict, CorruptLog, NotFound
from agent_runtime.loop import events as e
from agent_runtime.loop.hands import furnished
from agent_runtime.loop.state import State
from agent_runtime.ports.verifier import CheckOutcome
from agent_runtime.ports.workspaces import ArtifactLimits
from agent_runtime.result_files import RunFiles
from agent_runtime.tasks.reads import Reads
from agent_runtime.types import BlobId, Row, TaskId, TreeId
from agent_runtime.verdicts import differing, few, read_stored

_Fault = Callable[[str], VerifyReport]


class Proofs(Reads):
    """Compares what is stored with itself, and with what is seen when it is run again."""

    async def verify(self, task_id: TaskId) -> VerifyReport:
        """Check offline that a task's log, blobs, trees and claims are what was written.

        Raises:
            NotFound: no such task.
        """
        summary = await self.ports.store.summary(task_id)

        def fault(message: str, seq: int | None = None) -> VerifyReport:
            return VerifyReport(ok=False, task_id=task_id, seq=seq, fault=message)

        try:
            state, rows, events = await self._load(task_id)
        except CorruptLog as error:
            return fault(str(error), error.seq)
        except AssertionError as error:
            return fault(f"the log does not fold: {error}")
        last = rows[-1] if rows else None
        if last is None or (last.seq, last.hash) != (summary.seq, summary.head_hash):
            at = last.seq if last else 0
            return fault(
                f"the log of {task_id!r} ends at event {at}, and its head should be event "
                f"{summary.seq}: the tail was cut or the head changed",
                at + 1,
            )
        for seq, blob_id in blobs_named(events):
            try:
                await self.ports.store.get_blob(blob_id)
            except (CorruptLog, NotFound) as error:
                return fault(f"event {seq} of {task_id!r} names a blob: {error}", seq)
        runs = [*earlier_ends(state, rows, events), (state, rows)]
        for at_end, _ in runs:
            if broken := claims_hold(at_end):
                return fault(broken, at_end.seq)
        if path := await self._files.changed(task_id, await self._run_files(runs)):
            return fault(
                f"the file {path!r} is not what the log says; the log itself is whole: "
                f"`agent-runtime diff {task_id}` prints its patch"
            )
        if state.kept is not None and (broken := await self._artifacts_changed(task_id, state)):
            return fault(broken)
        if state.verification is None or not state.verification.tree:
            return VerifyReport(ok=True, task_id=task_id)
        may_lose = {o.id: o.check.may_lose for o in state.task.objectives}
        for check in state.verification.checks:
            lists = {blob: await self.ports.store.get_blob(blob) for blob in lists_of(check)}
            if broken := names_hold(check, may_lose.get(check.id, ()), lists):
                return fault(broken, state.seq)
        patch = await self.ports.store.get_blob(BlobId(state.verification.patch_blob))
        return await self._verify_trees(task_id, state.verification, patch, fault)

    async def check_again(self, task_id: TaskId) -> VerifyReport:
        """As `verify`, and then every check again, in new sandboxes on the stored trees.

        Raises:
            NotFound: no such task, or nothing of it was verified.
            Conflict: it has not ended.
            SandboxUnavailable: nothing can be run here.
            WorkspaceError: its trees cannot be exported.
        """
        report = await self.verify(task_id)
        state = await self.state(task_id)
        found = state.verification
        if not report.ok:
            return report
        if not state.ended:
            raise Conflict(f"task {task_id!r} has not ended: its checks are still to be run")
        if found is None or not found.tree:
            raise NotFound(f"task {task_id!r} has no checks to run again: nothing was verified")
        again = await self.ports.verifier.verify(
            task_id,
            objectives=state.task.objectives,
            base=TreeId(found.base_tree),
            tree=TreeId(found.tree),
            protected=state.protected,
            sandbox=self.ports.sandbox,
            furnished=partial(furnished, state, self.ports),
        )
        notes = list(report.notes)
        for told, seen in zip(found.checks, again.checks, strict=True):
            if names := await self._came_out_differently(told, seen):
                notes.append(
                    f"check {told.id!r}: {len(names)} tests came out differently, run again: "
                    f"{few(names, len(names))}"
                )
            if told.ok != seen.ok:
                flaky = "; it is flaky" if told.flaky or seen.flaky else ""
                return VerifyReport(
                    ok=False,
                    task_id=task_id,
                    fault=f"check {told.id!r} ended {_verdict(told.ok, told.reason)}, "
                    f"and run again {_verdict(seen.ok, seen.reason)}{flaky}",
                    notes=notes,
                )
        return msgspec.structs.replace(report, notes=notes)

    async def _run_files(self, runs: Sequence[tuple[State, Sequence[Row]]]) -> list[RunFiles]:
        """What the result files of each run that has ended should hold."""
        files = []
        for state, rows in runs:
            certificate, found = certificate_of(state, rows), state.verification
            if state.ended and certificate is not None and found is not None:
                patch = await self.ports.store.get_blob(BlobId(found.patch_blob))
                number = 0 if state is runs[-1][0] else state.run
                files.append(RunFiles(number, patch, certificate))
        return files

    async def _artifacts_changed(self, task_id: TaskId, state: State) -> str:
        """Why the artifacts are not those that the log names; empty if they are."""
        kept = state.kept
        if kept is None or not kept.artifacts:
            return ""
        paths = [_literal(artifact.path) for artifact in kept.artifacts]
        everything = ArtifactLimits(files=len(paths), bytes=1 << 62)
        try:
            found = await self.ports.workspaces.find(
                task_id, TreeId(kept.tree), paths, limits=everything
            )
        except (AgentRuntimeError, OSError) as error:
            return f"the artifacts of {task_id!r} cannot be read: {error}"
        there = {file.path: file.sha256 for file in found.files}
        for artifact in kept.artifacts:
            if there.get(artifact.path) != artifact.sha256:
                return f"the artifact {artifact.path!r} of {task_id!r} is not what was kept"
        return ""

    async def _came_out_differently(self, told: e.CheckResult, seen: CheckOutcome) -> list[str]:
        """Tests by name, after the work."""
        if told.tests is None or not told.tests.blob:
            return []
        stored = read_stored(await self.ports.store.get_blob(BlobId(told.tests.blob)))
        return sorted(differing(stored, seen.seen.tests))

    async def _verify_trees(
        self, task_id: TaskId, found: e.VerificationEnded, stored: bytes, fault: _Fault
    ) -> VerifyReport:
        """Is the stored patch really the difference between the trees that were checked?"""
        try:
            made = await self.ports.workspaces.patch(
                task_id, TreeId(found.base_tree), TreeId(found.tree)
            )
        except (AgentRuntimeError, OSError) as error:
            return fault(f"the trees of {task_id!r} cannot be read: {error}")
        if made != stored:
            return fault(f"the patch of {task_id!r} is not the difference of its trees")
        return VerifyReport(ok=True, task_id=task_id)


def _literal(path: str) -> str:
    """The glob that means this very path."""
    return re.sub(r"([\\*?\[])", r"\\\1", path)


def _verdict(ok: bool, reason: str) -> str:
    return "well" if ok else f"badly ({reason})"
