"""Whether one more task may be taken in: refused before memory grows, never after.

What is looked at: writes that wait for the disk, tasks that wait for a driver, and this process's
memory. The first is exact; the others are sampled by `run`, which the daemon keeps going. The check
itself is a handful of comparisons. Room on the disk is the daemon's own watch (`api.server`).
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio

from agent_runtime.errors import AgentRuntimeError, Overloaded
from agent_runtime.ports.store import Store
from agent_runtime.types import Status

log = logging.getLogger(__name__)

WRITES_MAX: Final = 20_000
"""Writes that wait: two seconds of them, or some 100 MB."""
WRITE_BYTES_MAX: Final = 256 << 20
PENDING_MAX: Final = 100_000
"""Tasks that wait for their first driver. Each is 2 KB of rows and no memory."""
MEMORY_SHARE: Final = 0.8
"""Of what the container or the machine has, unless a number is given."""
SAMPLE_SECONDS: Final = 1.0
COUNT_EVERY: Final = 5
"""Tasks are counted with every fifth sample: with 100,000 rows that takes 5 ms, in a thread."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Beyond any of these, no new task is taken in."""

    writes: int = WRITES_MAX
    write_bytes: int = WRITE_BYTES_MAX
    pending: int = PENDING_MAX
    memory_bytes: int | None = None
    """None: `MEMORY_SHARE` of what there is."""


class Admission:
    """Says no in time. `require` is called before a task is stored, on the event loop."""

    def __init__(self, store: Store, bounds: Bounds) -> None:
        self._store = store
        self._bounds = bounds
        self._backlog = store.backlog()
        self._memory_bytes_max = bounds.memory_bytes or int(MEMORY_SHARE * _memory_of_machine())
        self.pending = 0
        """Tasks that wait for a driver: when they were counted last, and what came since."""
        self.memory_bytes = 0
        """Of this process, when it was looked at last."""

    def require(self, tasks: int = 1) -> None:
        """Room for so many more.

        Raises:
            Overloaded: there is none; nothing was stored.
        """
        bounds, backlog = self._bounds, self._backlog
        if backlog.writes >= bounds.writes or backlog.bytes >= bounds.write_bytes:
            raise Overloaded(
                f"{backlog.writes} writes ({backlog.bytes >> 20} MiB) wait for the disk, and at "
                f"most {bounds.writes} ({bounds.write_bytes >> 20} MiB) may: try again in a moment",
                retry_after_seconds=1,
            )
        if self.pending + tasks > bounds.pending:
            raise Overloaded(
                f"{self.pending} tasks wait to be driven, and at most {bounds.pending} may (setting"
                " pending_tasks_max): try again when some have begun",
                retry_after_seconds=10,
            )
        if self.memory_bytes > self._memory_bytes_max:
            raise Overloaded(
                f"the daemon uses {self.memory_bytes >> 20} MiB of memory, and above "
                f"{self._memory_bytes_max >> 20} MiB it takes no new task (setting "
                "memory_bytes_max): try again when some have ended",
                retry_after_seconds=30,
            )
        self.pending += tasks

    def give_back(self, tasks: int) -> None:
        """So many of those that there was room for were not stored, or had been before."""
        self.pending = max(0, self.pending - tasks)

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        looks = 0
        while True:
            self.memory_bytes = _memory_of_process()
            if looks % COUNT_EVERY == 0:
                try:
                    counts = await self._store.counts()
                    self.pending = counts.get(Status.PENDING, 0)
                except AgentRuntimeError as error:
                    log.warning("cannot count the tasks: %s", error)
            looks += 1
            await anyio.sleep(SAMPLE_SECONDS)


def _memory_of_process() -> int:
    """Resident bytes; 0 where /proc has no answer."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _memory_of_machine() -> int:
    """What this process can have at most: its container's limit, else the machine's memory."""
    found = [1 << 62]
    try:
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError, AttributeError):
        pass  # no POSIX
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            found.append(int(Path(path).read_text(encoding="ascii")))
        except (OSError, ValueError):
            pass  # no such hierarchy, or "max"
    return min(found)
