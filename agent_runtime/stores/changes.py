"""Who waits for a write: a count of changes, and an event for those who have seen them all."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from time import monotonic

import anyio
import anyio.lowlevel

QUIET_SECONDS = 0.5
QUIET_FACTOR = 5
"""So much less often is looked after so long a quiet: a daemon that does nothing should cost
nothing."""


class Changes:
    """Wakes waiters of one event loop.

    A waiter that loops misses nothing: what changed since its task's previous `wait` returned ends
    the next one at once. Its first `wait` misses what was announced before the call, but not what
    another process wrote and nobody has noticed yet. It may also return for nothing: what was
    announced is found once more by the next poll.
    """

    def __init__(self, poll: Callable[[], bool] | None = None, poll_seconds: float = 0.01) -> None:
        """`poll` says whether something changed that nobody announced (another process).

        A waiter wants it asked every `poll_seconds`, and less often when nothing has changed for a
        while. Many waiters together ask twice as often at most: with a busy writer beside it, a
        look at the file keeps the event loop from going on.
        """
        self._count = 0
        self._changed: anyio.Event | None = None
        self._poll = poll
        self._poll_seconds = poll_seconds
        self._quiet_from = 0.0
        """When nothing will have changed for a while."""
        self._asked_at = 0.0

    def announce(self) -> None:
        """Something was written. Call it on the event loop."""
        self._count += 1
        if self._poll is not None:
            self._quiet_from = monotonic() + QUIET_SECONDS
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def wait(self, seconds_max: float) -> None:
        """Return after the next change, or after `seconds_max`."""
        await anyio.lowlevel.checkpoint()
        last = _seen.get()
        seen = last[1] if last is not None and last[0] is self else self._count
        self._ask()
        with anyio.move_on_after(seconds_max):
            while self._count == seen:
                await self._next()
        _seen.set((self, self._count))

    async def _next(self) -> None:
        if self._changed is None:
            self._changed = anyio.Event()
        if self._poll is None:
            await self._changed.wait()
            return
        is_quiet = monotonic() > self._quiet_from
        with anyio.move_on_after(self._poll_seconds * (QUIET_FACTOR if is_quiet else 1)):
            await self._changed.wait()
        self._ask()

    def _ask(self) -> None:
        if self._poll is None or (now := monotonic()) < self._asked_at + self._poll_seconds / 2:
            return
        self._asked_at = now
        if self._poll():
            self.announce()


_seen: ContextVar[tuple[Changes, int] | None] = ContextVar("_seen", default=None)
"""What this task knew when its last `wait` returned. Without it, a write between a reader's look
and its `wait` would be noticed `seconds_max` late."""
