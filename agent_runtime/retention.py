"""What is forgotten, and when: ended tasks by age and by size, in bites that hold nobody up.

The daemon sweeps now and then, and `gc` once. By age: whatever ended `days` ago. By size: while the
store and the files of ended tasks take more than `bytes_max`, whatever ended first. A task is
forgotten as a whole, in one transaction; what is kept is not touched, so it verifies as before.
Sent repositories that no task works on go too, and old entries of the audit record: an entry of its
own says which, before they are gone. Afterwards free room goes back to the disk, a little
at a time.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import anyio
import anyio.to_thread

from agent_runtime.access.audit import FORGET, Entry
from agent_runtime.access.ports import AccessStore
from agent_runtime.errors import AgentRuntimeError
from agent_runtime.ports.clock import Clock
from agent_runtime.ports.store import Store
from agent_runtime.ports.uploads import Uploads
from agent_runtime.types import TaskId, TaskSummary

log = logging.getLogger(__name__)

SWEEP_SECONDS: Final = 600.0
"""Between two sweeps of a daemon; the first comes after one pause."""
PAUSE_SECONDS: Final = 0.02
"""After each task: others write in between. 10,000 tasks take some minutes."""
BITE_TASKS: Final = 50
PAGE_TASKS: Final = 500
BITE_ENTRIES: Final = 500
"""Of the audit record, in one write: some milliseconds."""
BITE_BYTES: Final = 1 << 20
"""Given back to the disk in one write: a millisecond or two."""
BY: Final = "runtime:retention"
"""Who forgets entries of the audit record: a setting, not a caller."""
_DAY_US: Final = 86_400_000_000
_NEVER_US: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Policy:
    """What is kept."""

    days: float
    bytes_max: int | None = None
    """The store and the files of ended tasks together; None: no bound."""
    upload_hours: float = 24.0
    """How long a sent repository stays that no task works on."""
    audit_days: float = 365.0
    """Of the audit record. Entries go by whole days (UTC), so that the record is not full of
    entries about what was forgotten."""


@dataclass(slots=True)
class Swept:
    """What a sweep came to."""

    forgotten: list[TaskSummary] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    given_back_bytes: int = 0
    uploads: list[str] = field(default_factory=list)
    audit_entries: int = 0
    """Of the audit record that were removed; in a dry run, that would be."""


class Retention:
    """Applies a policy to one store and the files beside it."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        policy: Policy,
        *,
        state_dir: str,
        forget: Callable[[TaskId], Awaitable[None]],
        uploads: Uploads | None = None,
        audit: AccessStore | None = None,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        """`forget` removes one ended task and everything of it."""
        self._store, self._clock, self._policy = store, clock, policy
        families = ("workspaces", "results", "publishing")
        self._places = [os.path.join(state_dir, family) for family in families]
        self._forget = forget
        self._uploads = uploads
        self._audit = audit
        self._pause_seconds = pause_seconds
        self.may_sweep: Callable[[], bool] = lambda: True
        """Asked before each sweep of `run`: whether ages can be believed."""

    async def run(self) -> None:
        """Sweep now and then, until cancelled."""
        while True:
            await anyio.sleep(SWEEP_SECONDS)
            if not self.may_sweep():
                log.warning("the clock was set: nothing is forgotten until it has been steady")
                continue
            swept = Swept()
            try:
                await self.sweep(into=swept)
            except AgentRuntimeError as error:
                log.warning("a sweep of what is old ended early: %s", error)
            finally:
                _tell(swept)  # what is gone is told, whatever went wrong behind it

    async def sweep(self, *, dry_run: bool = False, into: Swept | None = None) -> Swept:
        """Forget everything that the policy does not keep. What cannot be removed is told.

        A dry run only says which tasks that would be; by size, about which. `into` is filled as it
        goes, so that it tells what is gone although this raises.
        """
        swept = Swept() if into is None else into
        before_us = self._clock.now_us() - int(self._policy.days * _DAY_US)
        last: TaskSummary | None = None
        spared_bytes = 0  # of a dry run, which leaves everything where it is
        async for task in self._oldest(before_us + 1, None):
            last = task
            spared_bytes += await self._let_go(task, swept, dry_run=dry_run)
        if self._policy.bytes_max is not None:
            files_bytes = await self._files_bytes() - spared_bytes
            async for task in self._oldest(_NEVER_US, last):
                if await self._store.kept_bytes() + files_bytes <= self._policy.bytes_max:
                    break
                files_bytes -= await anyio.to_thread.run_sync(self._bytes_of, task.task_id)
                files_bytes -= await self._let_go(task, swept, dry_run=dry_run, files=False)
        await self._let_uploads_go(swept, dry_run=dry_run)
        await self._let_audit_go(swept, dry_run=dry_run)
        if not dry_run:
            await self._give_back(swept)
        return swept

    async def _let_uploads_go(self, swept: Swept, *, dry_run: bool) -> None:
        """Remove sent repositories that only forgotten tasks work on, and nobody has just sent."""
        if self._uploads is None:
            return
        before = self._clock.now_us() / 1e6 - self._policy.upload_hours * 3600
        if not await self._uploads.unused((), before):
            return  # without a look at every task
        forgotten = {task.task_id for task in swept.forgotten}
        named: set[str] = set()
        page: TaskId | None = None
        while tasks := await self._store.tasks(before=page, limit=PAGE_TASKS):
            named |= {task.repo for task in tasks if task.task_id not in forgotten}
            page = TaskId(tasks[-1].task_id)
        for name in await self._uploads.unused(named, before):
            try:
                if not dry_run:
                    await self._uploads.remove(name)
            except (AgentRuntimeError, OSError) as error:
                swept.problems.append(f"{name}: {error}")
            else:
                swept.uploads.append(name)

    async def _let_audit_go(self, swept: Swept, *, dry_run: bool) -> None:
        """Remove the oldest entries of the audit record; the record itself says which."""
        if self._audit is None:
            return
        now_us = self._clock.now_us()
        before_us = now_us - int(self._policy.audit_days * _DAY_US)
        old = await self._audit.audit_before(before_us - before_us % _DAY_US)
        if dry_run or not old:
            swept.audit_entries = len(old)
            return
        # Announced before: after a crash the record shows that its beginning may have gone.
        told = Entry(
            at_us=now_us, by=BY, action=FORGET, target=str(old[-1]), count=len(old),
            detail=f"entries {old[0]} to {old[-1]} are older than {self._policy.audit_days:g} days",
        )  # fmt: skip
        await self._audit.record([told])
        while removed := await self._audit.forget_audit(old[-1], limit=BITE_ENTRIES):
            swept.audit_entries += removed
            await anyio.sleep(self._pause_seconds)

    async def _let_go(
        self, task: TaskSummary, swept: Swept, *, dry_run: bool, files: bool = True
    ) -> int:
        """Forget it; in a dry run say about how many bytes its log has, and its files if asked."""
        if dry_run:
            swept.forgotten.append(task)
            rows = await self._store.load(TaskId(task.task_id))
            own_bytes = sum(len(row.data) + _ROW_BYTES for row in rows)
            if files:
                own_bytes += await anyio.to_thread.run_sync(self._bytes_of, task.task_id)
            return own_bytes
        try:
            await self._forget(TaskId(task.task_id))
        except (AgentRuntimeError, OSError) as error:
            swept.problems.append(f"{task.task_id}: {error}")
        else:
            swept.forgotten.append(task)
            await anyio.sleep(self._pause_seconds)
        return 0

    async def _oldest(
        self, before_us: int, after: TaskSummary | None
    ) -> AsyncIterator[TaskSummary]:
        """Ended tasks, the oldest first; each once, forgotten meanwhile or not."""
        while page := await self._store.ended(before_us, after=after, limit=BITE_TASKS):
            for task in page:
                yield task
            after = page[-1]

    async def _files_bytes(self) -> int:
        """Of all ended tasks."""
        total = 0
        async for task in self._oldest(_NEVER_US, None):
            total += await anyio.to_thread.run_sync(self._bytes_of, task.task_id)
        return total

    def _bytes_of(self, task_id: str) -> int:
        return sum(_disk_bytes(os.path.join(place, task_id)) for place in self._places)

    async def _give_back(self, swept: Swept) -> None:
        while returned := await self._store.give_back(BITE_BYTES):
            swept.given_back_bytes += returned
            await anyio.sleep(self._pause_seconds)


def _tell(swept: Swept) -> None:
    if swept.forgotten:
        log.info(
            "forgot %d ended tasks, %d MiB went back to the disk",
            len(swept.forgotten), swept.given_back_bytes >> 20,
        )  # fmt: skip
    if swept.uploads:
        log.info("removed %d uploads that no task works on", len(swept.uploads))
    if swept.audit_entries:
        log.info("forgot %d entries of the audit record", swept.audit_entries)
    for problem in swept.problems:
        log.warning("not removed: %s", problem)


_ROW_BYTES = 400
"""Of an event in the store besides its data: hashes, names and its place in two indexes."""


def _disk_bytes(path: str) -> int:
    """What a directory takes on the disk; 0 if it is not there."""
    total, pending = 0, [path]
    # No recursion: how deep it is was up to an agent.
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    try:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(entry.path)
                    except OSError:
                        pass  # it went meanwhile
        except OSError:
            pass
    return total
