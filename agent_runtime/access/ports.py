"""Where keys and the audit record are kept: the port, beside `agent_runtime.ports`.

Its fake is `stores.memory_access`; every adapter runs `tests/contracts/test_access_store.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from agent_runtime.access.audit import Entry, Record
from agent_runtime.access.keys import Key


class AccessStore(Protocol):
    """Keys, and a record that grows at its end. All methods raise as those of `ports.Store`."""

    async def add_key(self, key: Key, entry: Entry) -> None:
        """Keep `key` and record `entry`, both or neither, durable.

        Raises:
            Conflict: a key that is not revoked has this name, or any has this id.
        """

    async def key(self, key_id: str) -> Key:
        """Raises `NotFound` if there is none."""

    async def keys(
        self, *, after: str = "", limit: int = 100, with_revoked: bool = True
    ) -> list[Key]:
        """By id, those behind `after`."""

    async def revoke_key(self, key_id: str, *, at_us: int, by: str, entry: Entry) -> Key:
        """Revoke it for good and record `entry`, both or neither, durable.

        One that is revoked already stays as it is, and nothing is recorded.

        Raises:
            NotFound: no such key.
        """

    async def mark_used(self, used_at_us: Mapping[str, int]) -> None:
        """When keys were last used, by id. A moment before the stored one changes nothing."""

    def revision(self) -> int:
        """Changes with every key that any process makes or revokes.

        Looks and does not wait: a few microseconds. Its value means nothing by itself.
        """

    async def record(self, entries: Sequence[Entry]) -> None:
        """Add `entries` to the record, in order, all or none, durable."""

    async def audit(
        self, *, before: int | None = None, limit: int = 100, by: str = "", action: str = ""
    ) -> list[Record]:
        """Newest first, those numbered below `before`; empty filters take everything."""

    async def audit_before(self, at_us: int) -> range:
        """The numbers of the oldest entries, up to the first of `at_us` or later.

        The newest entry is never among them. Reads no further than that.
        """

    async def forget_audit(self, through: int, *, limit: int) -> int:
        """Remove at most `limit` of the entries numbered up to `through`, the oldest first.

        Returns how many, durable. The newest entry stays. An entry `audit.forget` that names
        `through` must stand in the record before: what went without one is a fault.
        """

    async def audit_fault(self) -> int | None:
        """The number of the first entry that is not what was written, or that its head does not
        know; None if all are. Reads the whole record."""
