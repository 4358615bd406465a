"""The port for checks: what they are run on, and what was seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from agent_runtime.ports.sandbox import Sandbox, SandboxSpec
from agent_runtime.types import Objective, Origin, TaskId, TreeId
from agent_runtime.verdicts import NOTHING_SEEN, Seen, TestsCompared


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOutcome:
    """One objective's check as it ran. `output` is capped, `raw` is everything that was kept."""

    id: str
    command: str | list[str]
    exit: int
    expected_exit: int
    ok: bool
    reason: str = ""
    """Why it is not ok; empty if it is."""
    passed: int | None = None
    ran: int | None = None
    """Tests that came to a verdict, good or bad; None where the output does not say."""
    min_passed: int | None = None
    output: str = ""
    seconds: float = 0.0
    before: CheckOutcome | None = None
    """The same check on the base, without the work: the baseline."""
    flaky: bool = False
    """On one and the same tree it ended well once and once not, or never for the same tests."""
    countered: tuple[str, ...] = ()
    """Tests that turned good; made to fail once more, they made the check fail: it listens."""
    seen: Seen = NOTHING_SEEN
    """The single tests, as far as they are known."""
    compared: TestsCompared | None = None
    """What became of the tests of `before`; None where their names are not known."""
    origin: Origin = "given"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What the runtime saw on a clean checkout of `tree`, the handed-over tree."""

    ok: bool
    tree: TreeId
    checks: tuple[CheckOutcome, ...]
    protected_changed: tuple[str, ...]
    suspects: tuple[str, ...] = ()
    """Changed sources that reach for the test runner, in words."""


Furnished = Callable[[str], AbstractAsyncContextManager[SandboxSpec]]
"""Puts the environment around a checkout's directory, for as long as one check runs in it."""


class Verifier(Protocol):
    """Runs the objectives' checks, each in a new sandbox on a fresh checkout."""

    async def verify(
        self,
        task_id: TaskId,
        *,
        objectives: Sequence[Objective],
        base: TreeId,
        tree: TreeId,
        protected: Sequence[str],
        sandbox: Sandbox,
        furnished: Furnished,
    ) -> Verification:
        """Export, check, check the base as well, compare."""
