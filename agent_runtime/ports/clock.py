"""The port for wall time."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Wall time for the log; waiting is `anyio.sleep`, which tests move."""

    def now_us(self) -> int:
        """Microseconds since 1970, may jump back; the log takes max(now, previous)."""
