"""What the suites have in common: a task of which the right and some wrong answers are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Arguments = dict[str, Any] | str
"""Of a call; a text is what the wire carries in their place, and no JSON object."""


@dataclass(frozen=True, slots=True)
class Move:
    """One answer of the oracle: some words, and calls that belong to one turn."""

    text: str
    calls: tuple[tuple[str, Arguments], ...] = ()


Script = Sequence[Move]
"""Answers by turn. Behind its end the oracle has nothing to add."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A case on the disk."""

    repo: Path
    python: Path
    """The environment that its tests run in."""
    scripts: Mapping[str, Script]
    """Name of an answer -> how a model would come to give it."""


@dataclass(frozen=True, slots=True)
class Case:
    """A task. Only the answer `gold` is right."""

    suite: str
    name: str
    goal: str
    command: str
    """What decides: fails before the work, and passes after the right one."""
    protect: tuple[str, ...]
    answers: tuple[str, ...]
    prepare: Callable[[Path], Prepared]
    """Make its repository below a directory that is there. Blocks."""

    @property
    def marker(self) -> str:
        """By which the oracle knows the task: a part of its goal."""
        return f"[eval {self.suite} {self.name}]"

    def task(self, prepared: Prepared, model: str, **more: Any) -> dict[str, Any]:
        """As in a task file."""
        return {
            "goal": f"{self.goal} {self.marker}",
            "workspace": {"repo": str(prepared.repo)},
            "environment": {"python": str(prepared.python)},
            "model": model,
            "objectives": [{"id": "tests", "check": {"command": self.command}}],
            "protect": list(self.protect),
            **more,
        }


def worked_out(
    reads: Sequence[tuple[str, Arguments]], patch: str, command: str, said: str
) -> Script:
    """How a competent model goes about it: look at several things at once, change, run, say so."""
    return (
        Move("Let me look at the code and at its tests.", tuple(reads)),
        Move("I know what to change.", (("apply_patch", {"patch": patch}),)),
        Move("Now the tests.", (("shell", {"command": command}),)),
        Move(said),
    )
