"""What comes back to the core: facts that are stored as they are, and two that are not.

Most outcomes of an action are input events themselves. A prepared call is only an announcement
until `decide` has looked at the newest state, and waking up says nothing but "look again".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent_runtime.loop import events as e
from agent_runtime.types import Effect, Json


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPrepared:
    """A call is ready to be intended; nothing was changed yet. A stale one is dropped."""

    step_id: str
    call_id: str
    tool: str
    arguments: Mapping[str, Json]
    effect: Effect
    tree_before: str = ""
    preview: str = ""
    """What it would change, if a person is to be asked; for people only."""


@dataclass(frozen=True, slots=True)
class BrainLooked:
    """Who thinks is known, for a task that named `model`: it may have been given another since."""

    found: e.BrainFound
    model: str | None


@dataclass(frozen=True, slots=True)
class Woken:
    """The log may hold new facts: decide what follows from them."""


Outcome = e.InputEvent | CallPrepared | BrainLooked | Woken
