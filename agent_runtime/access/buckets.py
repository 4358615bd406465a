"""How often somebody may ask: a token bucket. Pure: the time comes in from outside."""

from __future__ import annotations


class Bucket:
    """Fills with `rate` a second up to `burst`; each request takes one."""

    __slots__ = ("_at", "_level", "burst", "rate")

    def __init__(self, rate: float, burst: int, now: float) -> None:
        """`now` is in seconds of a clock that never goes back, as in `take`."""
        assert rate > 0 and burst >= 1
        self.rate = rate
        self.burst = burst
        self._level = float(burst)
        self._at = now

    def take(self, now: float) -> float:
        """0.0 if one was taken, else the seconds until there is one."""
        level = self._level + (now - self._at) * self.rate
        self._at = now
        if level > self.burst:
            level = float(self.burst)
        if level < 1.0:
            self._level = level
            return (1.0 - level) / self.rate
        self._level = level - 1.0
        return 0.0

    def is_full(self, now: float) -> bool:
        """Then a new one would be the same, and this one may be forgotten."""
        return self._level + (now - self._at) * self.rate >= self.burst

    def left(self) -> int:
        """Requests that could be made now."""
        return int(self._level)
