"""Notices that the wall clock was moved: by a person, by a late NTP, by a virtual machine's host.

The log's times never go back whatever the clock does, and no lease knows one. What a jump can hurt
is what is decided by age: approvals expire, ended tasks are forgotten. So it is said aloud, and
nothing is forgotten for a while. Sleeping is no jump: boot time goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

STEP_SECONDS: Final = 5.0
"""NTP slews less than a millisecond a second; what steps by more was set."""
STEADY_SECONDS: Final = 30.0
"""Without another step, after which work is taken again."""
DOUBT_SECONDS: Final = 3600.0
"""After a step nothing is forgotten for so long: time for a person to look."""


class ClockWatch:
    """Look at it every second or so."""

    def __init__(self, wall: Callable[[], float], steady: Callable[[], float]) -> None:
        """Both in seconds."""
        self._wall = wall
        self._steady = steady
        self._offset = wall() - steady()
        self._stepped_at: float | None = None
        self._step = 0.0

    def look(self) -> str:
        """What is wrong, or empty."""
        now = self._steady()
        offset = self._wall() - now
        step, self._offset = offset - self._offset, offset
        if abs(step) > STEP_SECONDS:
            self._stepped_at, self._step = now, step
        if self._stepped_at is None or now - self._stepped_at > STEADY_SECONDS:
            return ""
        return (
            f"the clock of this machine jumped by {self._step:+.0f} s; work is taken again when it "
            f"has been steady for {STEADY_SECONDS:.0f} s"
        )

    @property
    def is_trusted(self) -> bool:
        """Whether ages can be believed: no step within the last hour."""
        return self._stepped_at is None or self._steady() - self._stepped_at > DOUBT_SECONDS


def of_this_machine() -> ClockWatch:
    """Its wall clock beside one that nobody sets, and that goes on while the machine sleeps."""
    steady = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return ClockWatch(
        lambda: time.clock_gettime(time.CLOCK_REALTIME), lambda: time.clock_gettime(steady)
    )
