"""Until something happens to a task: waits that tell how far it is, and ask who may be asked.

Many clients cut a call after 60 seconds, so no wait is longer than 50, and each tells its progress.
What is waited for is in the log: a call that was cut is made again, and nothing is lost.
"""

from __future__ import annotations

from typing import Final

import anyio

from agent_runtime.api.daemon import Daemon
from agent_runtime.api.intake import settled
from agent_runtime.types import TaskId, TaskSummary
from agent_runtime_mcp.definitions import Asked
from agent_runtime_mcp.runtime.approvals import Asking

WAIT_SECONDS_MAX: Final = 50
TOLD_SECONDS_MIN: Final = 1.0
"""Between two notes of progress."""


class Progress:
    """Tells one client how far a wait is; the numbers only grow, as the protocol wants it."""

    def __init__(self, asked: Asked, seconds: float) -> None:
        self._asked = asked
        self._total = seconds
        self._began = anyio.current_time()
        self._told = -TOLD_SECONDS_MIN

    async def tell(self, message: str) -> None:
        """Now, unless something was told a moment ago."""
        passed = anyio.current_time() - self._began
        if passed - self._told >= TOLD_SECONDS_MIN:
            self._told = passed
            await self._asked.progress(round(passed, 3), self._total, message)

    async def of(self, summary: TaskSummary) -> None:
        """Where a task stands."""
        where = f"{summary.status}, {summary.phase}" if summary.phase else summary.status
        await self.tell(f"{summary.task_id}: {where}, event {summary.seq}")


async def at_rest(
    daemon: Daemon, asking: Asking | None, task_id: TaskId, seconds: float, asked: Asked
) -> TaskSummary:
    """The task when it has ended or waits for somebody, or after `seconds`.

    If it waits for an approval that this client's person may give, they are asked, and the wait
    goes on with what they said. A request may end with that and come again from its start: None
    for `asking`, if what was done before would then be done twice.

    Raises:
        NotFound: there is no such task.
    """
    progress = Progress(asked, seconds)
    ends = anyio.current_time() + seconds
    while True:
        summary = await daemon.runtime.summary(task_id)
        left = ends - anyio.current_time()
        if left > 0:
            summary = await settled(daemon, summary, left, seen=progress.of)
        if asking is None or seconds <= 0 or not await asking.decided(summary, asked):
            return summary
