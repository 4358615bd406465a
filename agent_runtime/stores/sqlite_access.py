"""Keys and the audit record in the store's own file.

They are written by the store's one writer, so that a decision and its record wait for the same
commit as the tasks of that moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import apsw
import msgspec

from agent_runtime.access.audit import FORGET, ZERO, Entry, Record, chain, decode, encode, fault_in
from agent_runtime.access.audit import at_us as moment
from agent_runtime.access.keys import Key
from agent_runtime.stores.memory_access import name_taken, no_key
from agent_runtime.stores.sqlite import SqliteStore
from agent_runtime.stores.sqlite_writes import Write

_UNKNOWN = -1
"""A revision that no store has."""


class SqliteAccess:
    """Implements `access.ports.AccessStore` on an open store, and ends with it."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._version = _UNKNOWN
        self._revision = _UNKNOWN

    async def add_key(self, key: Key, entry: Entry) -> None:
        await self._store.write(_AddKey(key, entry))

    async def key(self, key_id: str) -> Key:
        return await self._store.read(lambda db: _key(db, key_id))

    async def keys(
        self, *, after: str = "", limit: int = 100, with_revoked: bool = True
    ) -> list[Key]:
        found = await self._store.read(
            lambda db: db.execute(
                """SELECT data, used_at_us FROM access_keys
                WHERE key_id > ? AND (revoked_at_us = 0 OR ?) ORDER BY key_id LIMIT ?""",
                (after, int(with_revoked), limit),
            ).fetchall()
        )
        return [_to_key(*columns) for columns in found]

    async def revoke_key(self, key_id: str, *, at_us: int, by: str, entry: Entry) -> Key:
        return await self._store.write(_RevokeKey(key_id, at_us, by, entry))

    async def mark_used(self, used_at_us: Mapping[str, int]) -> None:
        if used_at_us:
            await self._store.write(_MarkUsed(used_at_us))

    def revision(self) -> int:
        # The file's version changes with every task, too: only then is the table looked at.
        version = self._store.version()
        if version != self._version:
            self._revision = self._store.peek(_revision)
            self._version = version
        return self._revision

    async def record(self, entries: Sequence[Entry]) -> None:
        if entries:
            await self._store.write(_Record(entries))

    async def audit(
        self, *, before: int | None = None, limit: int = 100, by: str = "", action: str = ""
    ) -> list[Record]:
        conditions, values = ["true"], list[object]()
        if before is not None:
            conditions.append("seq < ?")
            values.append(before)
        for column, value in (("by", by), ("action", action)):
            if value:
                conditions.append(f'"{column}" = ?')
                values.append(value)
        query = f"""SELECT seq, data, prev_hash, hash FROM audit
            WHERE {" AND ".join(conditions)} ORDER BY seq DESC LIMIT ?"""
        found: list[Any] = await self._store.read(
            # A filter may have to look at everything.
            lambda db: db.execute(query, (*values, limit)).fetchall(),
            far=bool(by or action),
        )
        return [
            Record(seq=seq, entry=decode(data), prev_hash=prev_hash, hash=hash_)
            for seq, data, prev_hash, hash_ in found
        ]

    async def audit_fault(self) -> int | None:
        return await self._store.read(_fault, far=True)

    async def audit_before(self, at_us: int) -> range:
        return await self._store.read(lambda db: _before(db, at_us), far=True)

    async def forget_audit(self, through: int, *, limit: int) -> int:
        return await self._store.write(_Forget(through, limit))


def _revision(db: apsw.Connection) -> int:
    found: Any = db.execute("SELECT revision FROM access_state").get
    return int(found)


def _key(db: apsw.Connection, key_id: str) -> Key:
    found = db.execute(
        "SELECT data, used_at_us FROM access_keys WHERE key_id = ?", (key_id,)
    ).fetchone()
    if found is None:
        raise no_key(key_id)
    return _to_key(*found)


def _to_key(data: Any, used_at_us: Any) -> Key:
    return msgspec.structs.replace(msgspec.json.decode(data, type=Key), used_at_us=used_at_us)


def _fault(db: apsw.Connection) -> int | None:
    last: tuple[Any, ...] = (0, b"", "", ZERO)

    def links(found: Any) -> Iterator[Any]:
        nonlocal last
        for link in found:
            last = link
            yield link

    # One transaction, so that the head is the head of these.
    with db:
        head = db.execute("SELECT audit_seq, audit_hash FROM access_state").fetchone()
        found = db.execute("SELECT seq, data, prev_hash, hash FROM audit ORDER BY seq")
        fault = fault_in(links(found), _forgotten(db))
    if fault is None and (last[0], last[3]) != head:
        return int(last[0]) + 1  # its end was cut
    return fault


def _forgotten(db: apsw.Connection) -> int:
    told = db.execute("SELECT data FROM audit WHERE action = ?", (FORGET,))
    return max((int(decode(data).target) for (data,) in cast(Any, told)), default=0)


def _before(db: apsw.Connection, at_us: int) -> range:
    first = count = 0
    with db:
        head: Any = db.execute("SELECT audit_seq FROM access_state").get
        found: Any = db.execute("SELECT seq, data FROM audit WHERE seq < ? ORDER BY seq", (head,))
        for seq, data in found:
            if moment(data) >= at_us:
                break
            first, count = first or seq, count + 1
    return range(first, first + count)


# ---- writing -----------------------------------------------------------------------------


class _AddKey(Write[None]):
    def __init__(self, key: Key, entry: Entry) -> None:
        super().__init__()
        self._key, self._entry = key, entry

    def run(self, db: apsw.Connection) -> None:
        key = self._key
        taken = db.execute(
            "SELECT 1 FROM access_keys WHERE (name = ? AND revoked_at_us = 0) OR key_id = ?",
            (key.name, key.key_id),
        )
        if taken.fetchone() is not None:
            raise name_taken(key.name)
        db.execute(
            "INSERT INTO access_keys (key_id, name, revoked_at_us, used_at_us, data)"
            " VALUES (?, ?, 0, 0, ?)",
            (key.key_id, key.name, msgspec.json.encode(key)),
        )
        db.execute("UPDATE access_state SET revision = revision + 1")
        _add(db, [self._entry])


class _RevokeKey(Write[Key]):
    def __init__(self, key_id: str, at_us: int, by: str, entry: Entry) -> None:
        super().__init__()
        self._key_id, self._at_us, self._by, self._entry = key_id, at_us, by, entry

    def run(self, db: apsw.Connection) -> Key:
        key = _key(db, self._key_id)
        if key.revoked_at_us:
            return key
        key = msgspec.structs.replace(key, revoked_at_us=self._at_us, revoked_by=self._by)
        db.execute(
            "UPDATE access_keys SET revoked_at_us = ?, data = ? WHERE key_id = ?",
            (key.revoked_at_us, msgspec.json.encode(key), key.key_id),
        )
        db.execute("UPDATE access_state SET revision = revision + 1")
        _add(db, [self._entry])
        return key


class _MarkUsed(Write[None]):
    def __init__(self, used_at_us: Mapping[str, int]) -> None:
        super().__init__()
        self._used_at_us = dict(used_at_us)

    def run(self, db: apsw.Connection) -> None:
        db.execute(
            """UPDATE access_keys SET used_at_us = used.value FROM json_each(?) AS used
            WHERE used.key = key_id AND used.value > used_at_us""",
            (msgspec.json.encode(self._used_at_us).decode(),),
        )


class _Record(Write[None]):
    def __init__(self, entries: Sequence[Entry]) -> None:
        super().__init__()
        self._entries = list(entries)
        self.data_bytes = 512 * len(self._entries)

    def run(self, db: apsw.Connection) -> None:
        _add(db, self._entries)


class _Forget(Write[int]):
    def __init__(self, through: int, limit: int) -> None:
        super().__init__()
        self._through, self._limit = through, limit

    def run(self, db: apsw.Connection) -> int:
        # Of a range: the numbers have no holes.
        db.execute(
            """DELETE FROM audit WHERE seq <= ?1 AND seq < (SELECT min(seq) FROM audit) + ?2
            AND seq < (SELECT audit_seq FROM access_state)""",
            (self._through, self._limit),
        )
        return db.changes()


def _add(db: apsw.Connection, entries: Sequence[Entry]) -> None:
    found: Any = db.execute("SELECT audit_seq, audit_hash FROM access_state").fetchone()
    seq, prev_hash = found
    links = chain(prev_hash, seq + 1, map(encode, entries))
    db.executemany(
        'INSERT INTO audit (seq, "by", action, data, prev_hash, hash) VALUES (?, ?, ?, ?, ?, ?)',
        [
            (seq, entry.by, entry.action, data, prev_hash, hash_)
            for entry, (seq, data, prev_hash, hash_) in zip(entries, links, strict=True)
        ],
    )
    db.execute(
        "UPDATE access_state SET audit_seq = ?, audit_hash = ?", (links[-1][0], links[-1][3])
    )
