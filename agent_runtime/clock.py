"""The machine's clock, as the `Clock` port wants it."""

from __future__ import annotations

import time


class SystemClock:
    """Wall time."""

    def now_us(self) -> int:
        """Microseconds since 1970; may jump back, which the log evens out."""
        return time.time_ns() // 1000
