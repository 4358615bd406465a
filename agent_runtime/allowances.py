"""What each submitter may still use today: tasks, tokens, money, from midnight to midnight UTC.

The store knows what was used, across restarts and processes, and counts a model's turn at its
reservation until the answer settles it. Here is only what is on its way into the store. A task that
runs is not stopped when its submitter's day is used up: its own limits bound it, so a day's bound
is passed by at most what the running tasks may use.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from agent_runtime.access.callers import UNBOUNDED, DayBudget
from agent_runtime.errors import AllowanceSpent
from agent_runtime.ports.clock import Clock
from agent_runtime.ports.store import Store
from agent_runtime.types import Spent

FRESH_SECONDS: Final = 1.0
"""So old may be what the store said: tokens and money of turns that began since are missing."""
SUBMITTERS_KEPT: Final = 10_000
_DAY_US: Final = 86_400_000_000


@dataclass(slots=True)
class _Day:
    """One submitter's day."""

    day: int
    spent: Spent
    read_at: float
    counted: int = 0
    """Of `taken`, those that `spent` has for certain."""
    taken: int = 0
    """Tasks that were stored by this process, as far as it remembers the day."""
    coming: int = 0
    """Tasks that are being stored."""


class Allowances:
    """Compares what was used with what a key may use."""

    def __init__(self, store: Store, clock: Clock, monotonic: Callable[[], float]) -> None:
        self._store, self._clock, self._monotonic = store, clock, monotonic
        self._days: dict[str, _Day] = {}

    @asynccontextmanager
    async def taking(
        self, submitted_by: str, budget: DayBudget, tasks: int = 1
    ) -> AsyncIterator[None]:
        """While `tasks` are being stored. Several at once never pass the bound together.

        Raises:
            AllowanceSpent: it is used up; nothing is to be stored.
        """
        if budget == UNBOUNDED:
            yield
            return
        today = await self._today(submitted_by)
        try:
            self._require(submitted_by, budget, today, tasks)
        except AllowanceSpent:
            # A repetition is counted as if it were new, until the store is asked again.
            today.read_at = float("-inf")
            today = await self._today(submitted_by)
            self._require(submitted_by, budget, today, tasks)
        today.coming += tasks
        try:
            yield
            today.taken += tasks
        finally:
            today.coming -= tasks

    async def require(self, submitted_by: str, budget: DayBudget) -> None:
        """For what makes no new task and uses tokens all the same. `AllowanceSpent` as above."""
        if budget != UNBOUNDED:
            self._require(submitted_by, budget, await self._today(submitted_by), 0)

    async def used(self, submitted_by: str) -> Spent:
        """What was used today."""
        now_us = self._clock.now_us()
        return await self._store.spent(submitted_by, now_us // _DAY_US)

    async def _today(self, submitted_by: str) -> _Day:
        day = self._clock.now_us() // _DAY_US
        known, now = self._days.get(submitted_by), self._monotonic()
        if known is not None and known.day == day and now - known.read_at < FRESH_SECONDS:
            return known
        # What is stored while the store is read may be in its answer or not: it counts on.
        before = known.taken if known is not None and known.day == day else 0
        spent = await self._store.spent(submitted_by, day)
        known = self._days.get(submitted_by)
        if known is None or known.day != day:
            known = _Day(day, spent, now)
            self._days.pop(submitted_by, None)
            self._days[submitted_by] = known
            if len(self._days) > SUBMITTERS_KEPT:
                del self._days[next(iter(self._days))]
        if before >= known.counted:  # else somebody has read it later, and was faster
            known.spent, known.read_at, known.counted = spent, now, before
        return known

    def _require(self, submitted_by: str, budget: DayBudget, today: _Day, tasks: int) -> None:
        used_tasks = today.spent.tasks + today.taken - today.counted + today.coming
        used: tuple[tuple[str, float, float | None, float], ...] = (
            ("tasks", used_tasks, budget.tasks, tasks),
            ("tokens", today.spent.tokens, budget.tokens, 1),
            ("usd", round(today.spent.microusd / 1e6, 6), budget.usd, 1e-6),
        )
        for name, number, allowed, more in used:
            if allowed is not None and number + more > allowed:
                raise AllowanceSpent(
                    name,
                    submitted_by=submitted_by,
                    used=number,
                    allowed=allowed,
                    resets_at_us=(today.day + 1) * _DAY_US,
                    now_us=self._clock.now_us(),
                )
