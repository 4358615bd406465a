"""What one of a repository's files says about its environment."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent_runtime.types import Command


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """`notes` name what was not understood or cannot be done here."""

    setup: tuple[Command, ...] = ()
    maintenance: tuple[Command, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
