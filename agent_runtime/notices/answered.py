"""What came of one try to post a message."""

from __future__ import annotations

from dataclasses import dataclass


class NotSent(Exception):
    """There is no answer; says why, without the address."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What came back."""

    status: int
    retry_after_seconds: float | None = None
