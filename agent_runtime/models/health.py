"""A circuit breaker for each provider: who failed again and again is left alone for a while.

It counts overload and failed connections in a row, over all tasks of this process. While it is open
a request is answered at once with an overload and the time that is left; then one request tries.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import anyio

from agent_runtime.ports.model import ModelAnswer, ModelFault

FAULTS_MAX: Final = 5
"""In a row: more than one request's three tries, so that it takes two tasks that fail."""
OPEN_SECONDS: Final = 15.0
OPEN_SECONDS_MAX: Final = 240.0
_COUNTED: Final = frozenset({"overload", "transport"})


@dataclass(slots=True)
class Trial:
    """One request; what came of it is put into `result`."""

    result: ModelAnswer | ModelFault | None = None


class Breaker:
    """Of one provider. Closed (well), open (left alone), half-open (one request tries)."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._faults = 0
        self._open_until = 0.0
        self._open_seconds = OPEN_SECONDS
        self._trying = False

    @property
    def state(self) -> str:
        """`well`, `failing` (some faults), or `left alone`."""
        if self._faults >= FAULTS_MAX:
            return "left alone"
        return "failing" if self._faults else "well"

    def refusal(self) -> ModelFault | None:
        """Why no request may be sent now; None: it may. Nothing is awaited before `trial`."""
        if self._faults < FAULTS_MAX:
            return None
        left = self._open_until - anyio.current_time()
        if left <= 0 and not self._trying:
            return None
        return ModelFault(
            kind="overload",
            message=f"{self._place} failed {self._faults} times in a row and is left alone for now",
            retry_after_seconds=max(left, 1.0),
        )

    @contextmanager
    def trial(self) -> Iterator[Trial]:
        """Around one request. One that was cancelled tells nothing."""
        trial = Trial()
        alone = self._faults >= FAULTS_MAX
        self._trying = self._trying or alone
        try:
            yield trial
        finally:
            if alone:
                self._trying = False
            if trial.result is not None:
                self._learn(trial.result)

    def _learn(self, result: ModelAnswer | ModelFault) -> None:
        if not (isinstance(result, ModelFault) and result.kind in _COUNTED):
            # A refusal, too, comes from a provider that is there.
            self._faults, self._open_seconds = 0, OPEN_SECONDS
            return
        self._faults += 1
        if self._faults >= FAULTS_MAX:
            asked = result.retry_after_seconds or 0.0
            wait = min(max(self._open_seconds, asked), OPEN_SECONDS_MAX)
            self._open_until = anyio.current_time() + wait
            self._open_seconds = min(2 * self._open_seconds, OPEN_SECONDS_MAX)
