"""What comes in and goes out whole, and what is forgotten: uploads, exported tasks, retention."""

from __future__ import annotations

from collections.abc import AsyncIterable

from agent_runtime.access.ports import AccessStore
from agent_runtime.errors import ConfigError, Conflict
from agent_runtime.retention import Policy, Retention
from agent_runtime.tasks.reads import Reads
from agent_runtime.transfer import Imported, export_task, import_task
from agent_runtime.types import TERMINAL_STATUSES, Seq, TaskId


class Keeping(Reads):
    """What this installation keeps, and for how long."""

    async def upload(self, chunks: AsyncIterable[bytes]) -> str:
        """Take in a repository as a git bundle; what `workspace.repo` of a task may be then.

        Uncommitted edits may be in it, see `workspaces.uploads`. The same one again is kept once.

        Raises:
            UsageError: it is no bundle that a task could work on, or too large; nothing is kept.
            ConfigError: this installation takes none.
        """
        if self.ports.uploads is None:
            raise ConfigError("this installation takes no uploads: let the task name a git URL")
        return await self.ports.uploads.receive(chunks)

    async def export_task(self, task_id: TaskId) -> bytes:
        """An ended task as one file, see `transfer.export_task`."""
        return await export_task(task_id, self.ports.store, self.ports.workspaces)

    async def import_task(self, data: bytes) -> Imported:
        """Take in what `export_task` made, all of it or nothing; see `transfer.import_task`."""
        return await import_task(data, self.ports.store, self.ports.workspaces)

    async def forget(self, task_id: TaskId) -> None:
        """Remove an ended task and everything of it.

        Raises:
            Conflict: it has not ended, or was continued meanwhile; nothing of it was touched.
        """
        summary = await self.ports.store.summary(task_id)
        if summary.status not in TERMINAL_STATUSES:
            raise Conflict(
                f"task {task_id!r} is {summary.status}; only an ended one can be removed: "
                f"`agent-runtime cancel {task_id}` ends it"
            )
        # The row first: it alone says that nobody continues the task. What a kill leaves of the
        # files is a leftover, which `gc` finds.
        await self.ports.store.delete(task_id, expected=Seq(summary.seq))
        if summary.repo:
            await self.ports.workspaces.forget(task_id)
        if self.ports.publisher is not None:
            await self.ports.publisher.forget(task_id)
        await self._files.remove(task_id)

    def retention(
        self, policy: Policy, *, audit: AccessStore | None = None, **more: float
    ) -> Retention:
        """Forgets ended tasks by age and by size, and old entries of `audit`; see `retention`."""
        return Retention(
            self.ports.store,
            self.ports.clock,
            policy,
            state_dir=self._state_dir,
            forget=self.forget,
            uploads=self.ports.uploads,
            audit=audit,
            **more,
        )
