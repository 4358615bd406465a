"""When a delivery is tried again, and when not. Pure.

The delays are those of the Standard Webhooks specification ("Deliverability and reliability"), ten
tries in three days. Each is lengthened by up to a tenth, so that what failed together is not
repeated together; by how much follows from the message, so that there is no chance in it.
"""

from __future__ import annotations

import hashlib
from typing import Final

DELAYS_SECONDS: Final = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""After the first, second, … try that failed; after the last one a delivery has failed."""
DELAY_SECONDS_MAX: Final = 86_400
"""What a receiver can ask for with Retry-After."""
HORIZON_SECONDS: Final = 2 * DELAY_SECONDS_MAX
"""What is due later than this was written under another clock, and is due now."""
DISABLE_SECONDS: Final = 5 * 86_400
"""A webhook that has taken nothing for so long, of what was tried, is not tried any more."""
OLD_SECRET_SECONDS: Final = 86_400
"""How long a secret that was replaced signs too."""


def delay_seconds(
    message_id: str, attempts: int, *, retry_after_seconds: float | None = None
) -> float | None:
    """How long to wait after `attempts` tries came to nothing; None: that was the last one."""
    if attempts > len(DELAYS_SECONDS):
        return None
    delay = DELAYS_SECONDS[attempts - 1]
    jitter = hashlib.sha256(f"{message_id} {attempts}".encode()).digest()[0] / 2550
    wanted = min(retry_after_seconds or 0.0, DELAY_SECONDS_MAX)
    return max(delay * (1 + jitter), wanted)
