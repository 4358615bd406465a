"""What a task gives: result, patch, certificate, report, branch, artifacts, and its publication.

The log and its blobs are what counts; files are copies of it (`result_files`).
"""

from __future__ import annotations

import errno

import msgspec

from agent_runtime.certificate import Result, certificate_of, result_of
from agent_runtime.errors import ConfigError, Conflict, DiskFull, NotFound, WorkspaceError
from agent_runtime.loop import events as e
from agent_runtime.loop.journal import append_fact
from agent_runtime.loop.publishing import commit_message
from agent_runtime.loop.state import State, status_of
from agent_runtime.report import Report, report_of
from agent_runtime.tasks.conditions import Only, whatever
from agent_runtime.tasks.fitness import publisher_of
from agent_runtime.tasks.reads import Reads, ends_of, folded
from agent_runtime.types import BlobId, Json, PublishSpec, Status, TaskId, TreeId

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class Results(Reads):
    """What came of tasks, for whoever takes it away."""

    async def result(self, task_id: TaskId) -> Result:
        """What came of a task, with its patch and certificate as files."""
        state, rows, _ = await self._load(task_id)
        patch_path = certificate_path = None
        certificate = certificate_of(state, rows)
        found = state.verification
        await self._files.supersede(task_id, ends_of(state))
        if state.ended and certificate is not None and found is not None:
            patch = await self.ports.store.get_blob(BlobId(found.patch_blob))
            try:
                patch_path, certificate_path = await self._files.write(task_id, patch, certificate)
            except OSError as error:
                kind = DiskFull if error.errno in _NO_ROOM else ConfigError
                raise kind(
                    f"task {task_id!r} has ended as {status_of(state)[0]}, and its result cannot be"
                    f" written to {self._files.directory(task_id)!r}: {error.strerror}; "
                    f"`agent-runtime diff {task_id}` prints the patch"
                ) from error
        return result_of(state, patch=patch_path, certificate=certificate_path)

    async def certificate(self, task_id: TaskId, *, seq: int | None = None) -> dict[str, Json]:
        """The evidence, as it was at event `seq`. `NotFound` if nothing was verified."""
        rows = (await self.ports.store.load(task_id))[:seq]
        state = folded(task_id, rows)[0]
        certificate = certificate_of(state, rows)
        if certificate is None:
            raise NotFound(f"task {task_id!r} has no certificate: nothing of it was verified")
        return certificate

    async def report(self, task_id: TaskId) -> Report:
        """What a reviewer wants to know, as far as the task is. `CorruptLog` as for `state`."""
        state, rows, events = await self._load(task_id)
        found = state.verification
        patch = None
        if found is not None and found.tree:
            patch = await self.ports.store.get_blob(BlobId(found.patch_blob))
        return report_of(state, rows, events, patch)

    async def patch(self, task_id: TaskId) -> bytes:
        """The verified patch of an ended task, else the difference up to the last known tree."""
        state = await self.state(task_id)
        if state.verification is not None and state.verification.patch_blob:
            return await self.ports.store.get_blob(BlobId(state.verification.patch_blob))
        if state.workspace is None or not state.workspace.base_tree:
            return b""
        return await self.ports.workspaces.patch(
            task_id, TreeId(state.workspace.base_tree), TreeId(state.tree)
        )

    async def branch_bundle(self, task_id: TaskId) -> bytes:
        """The task's branch as a git bundle, for a checkout that has the base commit.

        Raises:
            Conflict: it has no result yet, or no workspace.
            WorkspaceError: its versions are gone, or the result does not fit the base alone.
        """
        state = await self.state(task_id)
        workspace = state.workspace
        if not state.ended or workspace is None or not workspace.base_tree:
            raise Conflict(
                f"task {task_id!r} has no branch: "
                + ("it had no workspace" if state.ended else "it has not ended yet")
            )
        return await self.ports.workspaces.branch_bundle(
            task_id,
            await self.patch(task_id),
            base_commit=workspace.base_commit,
            message=commit_message(state),
            at_us=state.created_at_us,
        )

    async def publish(
        self, task_id: TaskId, publish: PublishSpec | None, *, by: str, only: Only = whatever
    ) -> State:
        """Publish the branch of a task that has succeeded, once more or for the first time.

        Durable when it returns; whoever drives tasks does it then. None: as the task's file says.

        Raises:
            Conflict: it has not ended, or not succeeded: nothing is proven.
            UsageError: `publish` cannot be used; nothing was stored.
            ConfigError: this installation cannot publish.
        """
        state = await self.state(task_id)
        wanted = publish or _published_before(state) or state.task.publish or PublishSpec()
        await publisher_of(self.ports).check(msgspec.structs.replace(state.task, publish=wanted))
        _refuse_unproven(state)
        # It tells where the log ended, and that is about to be another place.
        await self._files.outdate(task_id)

        def make(state: State) -> e.OutsideFact:
            only(state.seq)
            _refuse_unproven(state)
            return e.PublicationRequested(by=by, publish=wanted)

        return await append_fact(self.ports.store, self.ports.clock, self.ports.bus, task_id, make)

    async def artifacts(self, task_id: TaskId) -> e.WorkKept | None:
        """What the newest run kept beside its patch; None if it has not come to that."""
        return (await self.state(task_id)).kept

    async def take_artifacts(self, task_id: TaskId, directory: str) -> list[str]:
        """Write the artifacts below `directory`; returns their paths in it.

        Raises:
            NotFound: there are none.
            Conflict: another file is in the way; nothing was written.
            UsageError: `directory` cannot be written.
            WorkspaceError: they are gone.
        """
        kept = await self.artifacts(task_id)
        if kept is None or not kept.artifacts:
            raise NotFound(
                f"task {task_id!r} has kept no artifacts; `artifacts` in its task file names them"
            )
        paths = [artifact.path for artifact in kept.artifacts]
        await self.ports.workspaces.take_out(task_id, TreeId(kept.tree), paths, directory)
        return paths

    async def artifact(self, task_id: TaskId, path: str) -> bytes:
        """One of the artifacts.

        Raises:
            NotFound: no file of this name was kept.
            WorkspaceError: it is gone.
        """
        kept = await self.artifacts(task_id)
        if kept is None or path not in {artifact.path for artifact in kept.artifacts}:
            raise NotFound(f"task {task_id!r} has kept no file {path!r}; its artifacts are listed")
        found = await self.ports.workspaces.contents(task_id, TreeId(kept.tree), [path])
        content = found.get(path)
        if content is None:
            raise WorkspaceError(f"the artifact {path!r} of {task_id!r} is gone, or no file")
        return content


def _refuse_unproven(state: State) -> None:
    status, reason = status_of(state)
    if status is Status.SUCCEEDED:
        return
    if not state.ended:
        raise Conflict(f"task {state.task_id!r} is {status}: only what is proven is published")
    raise Conflict(
        f"task {state.task_id!r} is {status} ({reason}): only what is proven is published; "
        f"`agent-runtime pull {state.task_id}` takes its branch to a checkout"
    )


def _published_before(state: State) -> PublishSpec | None:
    return state.publication.spec if state.publication is not None else None
