"""The port for repositories that come over the wire."""

from __future__ import annotations

from collections.abc import AsyncIterable, Collection
from typing import Protocol


class Uploads(Protocol):
    """Repositories that came over the wire, by their content."""

    async def receive(self, chunks: AsyncIterable[bytes]) -> str:
        """Take in a git bundle; the name that `workspace.repo` may have then.

        Raises:
            UsageError: it is no bundle that a task could work on, or too large; nothing is kept.
        """

    async def unused(self, named: Collection[str], before: float) -> list[str]:
        """Uploads that no task of `named` works on and that nobody has sent since `before`."""

    async def remove(self, name: str) -> None:
        """Remove one. Safe to repeat."""
