"""What is tried again, after how long, and when it is given up. Pure: time is handed in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

FIRST_SECONDS: Final = 0.1
MOST_SECONDS: Final = 2.0
"""Between two tries. A daemon that is started anew is there after a second or two."""
PATIENCE_SECONDS: Final = 30.0
"""For a daemon that does not answer, or takes no work just now."""
STREAM_SECONDS: Final = 600.0
"""For a stream without contact."""
ANSWER_SECONDS: Final = 60.0
"""For an answer, beside what the request itself asks the daemon to wait."""
SILENCE_SECONDS: Final = 45.0
"""Without a byte of a stream, after which its connection counts as lost; a daemon says something
every 15 s."""


class Failure(StrEnum):
    """How a request came to no answer that counts."""

    REFUSED = "refused"
    """No connection: nothing was sent."""
    LOST = "lost"
    """It was sent, and whether it was done nobody knows."""
    BUSY = "busy"
    """The daemon is full, or about to end (429, 503 with Retry-After)."""


_DAYS: Final = "allowance-spent"
"""It is a 429 too, and lasts until midnight."""
_BUSY: Final = frozenset({"store-unavailable", "disk-full", "", "about:blank", "overloaded"})


def is_busy(status: int, kind: str, retry_after: str | None) -> bool:
    """Does an answer ask to come back? A missing sandbox does not mend itself in a second."""
    if status == 429:
        return kind != _DAYS
    return status in (502, 503) and (retry_after is not None or status == 502) and kind in _BUSY


@dataclass(slots=True)
class Patience:
    """Of one request. `again`: it may be sent twice, because the second time changes nothing."""

    seconds: float
    again: bool
    tries: int = 0
    since: float | None = None
    """When the first try failed."""

    def wait(self, failure: Failure, now: float, retry_after: str | None = None) -> float | None:
        """Seconds to wait before the next try; None: it is over."""
        if failure is not Failure.REFUSED and not self.again:
            return None
        if self.since is None:
            self.since = now
        seconds = min(FIRST_SECONDS * 2**self.tries, MOST_SECONDS)
        if retry_after is not None and retry_after.isascii() and retry_after.isdigit():
            seconds = max(seconds, float(retry_after))
        self.tries = min(self.tries + 1, 30)
        return None if now + seconds - self.since > self.seconds else seconds

    def rest(self) -> None:
        """There was contact: a later failure is a first one."""
        self.tries, self.since = 0, None
