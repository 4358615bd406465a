"""What goes wrong on the way to the oracle: the same for the same seed, task and turn. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench.evals.cases import Move, Script

Fault = Literal["rate", "overload", "cut", "hang up"]
"""429 with a retry-after, 529, a body that ends too early, a connection without an answer."""

RETRY_AFTER_SECONDS = 1
IN_A_ROW_MAX = 2
"""Of one turn: the third try, which is the last one, gets its answer."""
_WEIGHTS: Sequence[tuple[Fault | None, int]] = (
    (None, 80), ("rate", 7), ("overload", 4), ("cut", 6), ("hang up", 3),
)  # fmt: skip
_JUNK_AMONG_TASKS = 0.25


@dataclass(frozen=True, slots=True)
class Trouble:
    """Deterministic by its seed."""

    seed: int

    def fault(self, key: str, turn: int, attempt: int) -> Fault | None:
        """What happens to this attempt (from 0) of a turn."""
        if attempt >= IN_A_ROW_MAX:
            return None
        faults, weights = zip(*_WEIGHTS, strict=True)
        [fault] = self._chance(f"{key} {turn} {attempt}").choices(faults, weights)
        return fault

    def script(self, key: str, script: Script) -> Script:
        """For some tasks with a call whose arguments are junk before the one that is meant."""
        chance = self._chance(key)
        calling = [number for number, move in enumerate(script) if move.calls]
        if not calling or chance.random() >= _JUNK_AMONG_TASKS:
            return script
        at = chance.choice(calling)
        name, arguments = script[at].calls[0]
        junk = str(arguments)[:20] if chance.random() < 0.5 else dict.fromkeys(arguments, 7)
        return (*script[:at], Move("", ((name, junk),)), *script[at:])

    def _chance(self, what: str) -> random.Random:
        return random.Random(f"{self.seed} {what}")
