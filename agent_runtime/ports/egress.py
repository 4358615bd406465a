"""What is known of a sandbox's connections, and the port for what sandboxes wrote down of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressRecord:
    """One fact about a connection that a sandbox asked for; `number` tells them apart in a sandbox.

    `kind`: opened (announced before it is made, once for each address that is tried), closed (with
    its bytes), refused (by a rule, with the reason), failed (the other side could not be reached).
    """

    kind: str
    number: int
    method: str = ""
    host: str = ""
    port: int = 0
    address: str = ""
    """What was dialled; empty if nothing was, or if `via` a company's proxy."""
    via: str = ""
    reason: str = ""
    bytes_sent: int = 0
    bytes_received: int = 0
    seconds: float = 0.0
    mark: int = 0
    """Where this record ends in the sandboxes' own one; 0: it is not in there."""


class EgressFiles(Protocol):
    """What the sandboxes of each owner wrote down by themselves, before anybody could store it."""

    def after(self, owner_id: str, mark: int) -> list[EgressRecord]:
        """What follows `mark`, in order; nothing if it cannot be read."""
