"""Where a model is asked, and by which wire."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Wire = Literal["openai", "responses", "anthropic"]
"""Chat completions, OpenAI's responses, Anthropic's messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One provider's address with its key, for one request."""

    wire: Wire
    url: str
    """Without a slash at its end; the wire adds `/chat/completions`, `/responses` or the like."""
    model: str
    """As the provider calls it."""
    key: str = field(default="", repr=False)

    @property
    def provider(self) -> str:
        """See `ModelChoice.provider`."""
        return f"{self.wire}:{self.url}"

    @property
    def bearer(self) -> dict[str, str]:
        """The key as most want it."""
        return {"authorization": f"Bearer {self.key}"} if self.key else {}

    def __str__(self) -> str:
        return f"{self.model!r} at {self.url}"
