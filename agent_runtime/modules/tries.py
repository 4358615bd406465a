"""Asking memory: two tries 100 ms apart, and then what is known from before, or nothing.

What an agent can look up helps it and decides nothing, so a source that fails must not stop a task.
Whoever falls back says so in its answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

TRIES: Final = 2
PAUSE_SECONDS: Final = 0.1


def twice(
    ask: Callable[[], T],
    *,
    errors: type[Exception] | tuple[type[Exception], ...],
    wait: Callable[[float], None] = time.sleep,
) -> T | Exception:
    """What `ask` returns, or the last of its errors after two tries. Blocks."""
    failure: Exception | None = None
    for attempt in range(TRIES):
        if attempt:
            wait(PAUSE_SECONDS)
        try:
            return ask()
        except errors as error:
            failure = error
    assert failure is not None
    return failure
