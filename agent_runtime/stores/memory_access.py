"""Keys and the audit record without a disk: the reference for the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile

import anyio.lowlevel
import msgspec

from agent_runtime.access.audit import FORGET, ZERO, Entry, Record, chain, decode, encode, fault_in
from agent_runtime.access.audit import at_us as moment
from agent_runtime.access.keys import Key
from agent_runtime.errors import Conflict, NotFound


class SharedAccess:
    """What several `MemoryAccess` have in common: the "file"."""

    def __init__(self) -> None:
        self.keys: dict[str, Key] = {}
        self.links: list[tuple[int, bytes, str, str]] = []
        self.revision = 0


class MemoryAccess:
    """Implements `access.ports.AccessStore` for one "process"."""

    def __init__(self, shared: SharedAccess | None = None) -> None:
        self._shared = shared if shared is not None else SharedAccess()

    async def add_key(self, key: Key, entry: Entry) -> None:
        await anyio.lowlevel.checkpoint()
        keys = self._shared.keys
        taken = any(each.name == key.name and not each.revoked_at_us for each in keys.values())
        if taken or key.key_id in keys:
            raise name_taken(key.name)
        keys[key.key_id] = key
        self._shared.revision += 1
        self._add([entry])

    async def key(self, key_id: str) -> Key:
        await anyio.lowlevel.checkpoint()
        return self._key(key_id)

    async def keys(
        self, *, after: str = "", limit: int = 100, with_revoked: bool = True
    ) -> list[Key]:
        await anyio.lowlevel.checkpoint()
        return [
            key
            for key_id, key in sorted(self._shared.keys.items())
            if key_id > after and (with_revoked or not key.revoked_at_us)
        ][:limit]

    async def revoke_key(self, key_id: str, *, at_us: int, by: str, entry: Entry) -> Key:
        await anyio.lowlevel.checkpoint()
        key = self._key(key_id)
        if not key.revoked_at_us:
            key = msgspec.structs.replace(key, revoked_at_us=at_us, revoked_by=by)
            self._shared.keys[key_id] = key
            self._shared.revision += 1
            self._add([entry])
        return key

    async def mark_used(self, used_at_us: Mapping[str, int]) -> None:
        await anyio.lowlevel.checkpoint()
        for key_id, at_us in used_at_us.items():
            key = self._shared.keys.get(key_id)
            if key is not None and key.used_at_us < at_us:
                self._shared.keys[key_id] = msgspec.structs.replace(key, used_at_us=at_us)

    def revision(self) -> int:
        return self._shared.revision

    async def record(self, entries: Sequence[Entry]) -> None:
        await anyio.lowlevel.checkpoint()
        self._add(entries)

    async def audit(
        self, *, before: int | None = None, limit: int = 100, by: str = "", action: str = ""
    ) -> list[Record]:
        await anyio.lowlevel.checkpoint()
        found = (
            Record(seq=seq, entry=decode(data), prev_hash=prev_hash, hash=hash_)
            for seq, data, prev_hash, hash_ in reversed(self._shared.links)
            if before is None or seq < before
        )
        return [
            record
            for record in found
            if (not by or record.entry.by == by) and (not action or record.entry.action == action)
        ][:limit]

    async def audit_fault(self) -> int | None:
        await anyio.lowlevel.checkpoint()
        entries = (decode(data) for _, data, _, _ in self._shared.links)
        forgotten = (int(entry.target) for entry in entries if entry.action == FORGET)
        return fault_in(self._shared.links, max(forgotten, default=0))

    async def audit_before(self, at_us: int) -> range:
        await anyio.lowlevel.checkpoint()
        links = self._shared.links
        first = links[0][0] if links else 0
        older = takewhile(lambda link: moment(link[1]) < at_us, links[:-1])
        return range(first, first + sum(1 for _ in older))

    async def forget_audit(self, through: int, *, limit: int) -> int:
        await anyio.lowlevel.checkpoint()
        links = self._shared.links
        count = min(limit, sum(link[0] <= through for link in links[:-1]))
        del links[:count]
        return count

    def _key(self, key_id: str) -> Key:
        try:
            return self._shared.keys[key_id]
        except KeyError:
            raise no_key(key_id) from None

    def _add(self, entries: Sequence[Entry]) -> None:
        links = self._shared.links
        seq, prev_hash = (links[-1][0], links[-1][3]) if links else (0, ZERO)
        links += chain(prev_hash, seq + 1, map(encode, entries))


def no_key(key_id: str) -> NotFound:
    return NotFound(f"there is no key {key_id!r} in this store")


def name_taken(name: str) -> Conflict:
    return Conflict(f"a key called {name!r} exists: revoke it first, or use another name")
