"""Kept calls in the store's own file, written by the store's one writer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apsw
import msgspec

from agent_runtime.kept_calls.records import KeptCall
from agent_runtime.stores.memory_kept_calls import no_call, refuse_too_many
from agent_runtime.stores.sqlite import SqliteStore
from agent_runtime.stores.sqlite_writes import Do

_to_call = msgspec.json.Decoder(KeptCall).decode
_to_bytes = msgspec.json.Encoder().encode


class SqliteKeptCalls:
    """Implements `kept_calls.ports.KeptCallStore` on an open store, and ends with it."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store

    async def add(self, call: KeptCall, *, open_max: int, kept_max: int) -> KeptCall:
        owner = self.store.owners.owner_id
        data = _to_bytes(call)

        def put(db: apsw.Connection) -> KeptCall:
            whose = (call.server, call.caller)
            if call.key:
                query = "SELECT data FROM kept_calls WHERE server = ? AND caller = ? AND key = ?"
                if (known := db.execute(query, (*whose, call.key)).get) is not None:
                    return _to_call(_bytes(known))
            query = """SELECT coalesce(sum(expires_at_us = 0), 0), count(*) FROM kept_calls
                WHERE server = ? AND caller = ?"""
            found: Any = db.execute(query, whose).fetchone()
            open_, kept = found
            refuse_too_many(call, open_=open_, kept=kept, open_max=open_max, kept_max=kept_max)
            values = (call.call_id, *whose, call.key or None, owner, call.expires_at_us, data)
            db.execute("INSERT INTO kept_calls VALUES (?, ?, ?, ?, ?, ?, ?)", values)
            return call

        return await self.store.write(Do(put, len(data)))

    async def call(self, call_id: str) -> KeptCall:
        return await self.store.read(lambda db: _call(db, call_id))

    async def change(self, call_id: str, change: Callable[[KeptCall], KeptCall]) -> KeptCall:
        def put(db: apsw.Connection) -> KeptCall:
            before = _call(db, call_id)
            call = change(before)
            if call != before:
                db.execute(
                    "UPDATE kept_calls SET expires_at_us = ?, data = ? WHERE call_id = ?",
                    (call.expires_at_us, _to_bytes(call), call_id),
                )
            return call

        return await self.store.write(Do(put))

    async def of(
        self, server: str, caller: str, *, before: str = "", limit: int = 100
    ) -> list[KeptCall]:
        query = """SELECT data FROM kept_calls
            WHERE server = ?1 AND caller = ?2 AND (?3 = '' OR call_id < ?3)
            ORDER BY call_id DESC LIMIT ?4"""
        values = (server, caller, before, limit)
        found: Any = await self.store.read(
            lambda db: db.execute(query, values).fetchall(), far=True
        )
        return [_to_call(data) for (data,) in found]

    async def adopt(self, server: str) -> list[KeptCall]:
        owners = self.store.owners

        def dead(db: apsw.Connection) -> list[str]:
            query = "SELECT DISTINCT owner FROM kept_calls WHERE server = ? AND expires_at_us = 0"
            found: Any = db.execute(query, (server,)).fetchall()
            return [each for (each,) in found if not owners.is_alive(each)]

        def take(db: apsw.Connection) -> list[KeptCall]:
            named = msgspec.json.encode(dead(db)).decode()
            query = """UPDATE kept_calls SET owner = ? WHERE server = ? AND expires_at_us = 0
                AND owner IN (SELECT value FROM json_each(?)) RETURNING data"""
            found: Any = db.execute(query, (owners.owner_id, server, named)).fetchall()
            return sorted((_to_call(data) for (data,) in found), key=lambda each: each.call_id)

        # Nearly always there is none, and a write costs a commit.
        if not await self.store.read(dead):
            return []
        return await self.store.write(Do(take))

    async def prune(self, now_us: int, *, limit: int = 500) -> int:
        old = "SELECT call_id FROM kept_calls WHERE expires_at_us BETWEEN 1 AND ? LIMIT ?"
        if await self.store.read(lambda db: db.execute(old, (now_us, 1)).get) is None:
            return 0

        def forget(db: apsw.Connection) -> int:
            db.execute(f"DELETE FROM kept_calls WHERE call_id IN ({old})", (now_us, limit))
            return db.changes()

        return await self.store.write(Do(forget))


def _call(db: apsw.Connection, call_id: str) -> KeptCall:
    found = db.execute("SELECT data FROM kept_calls WHERE call_id = ?", (call_id,)).get
    if found is None:
        raise no_call(call_id)
    return _to_call(_bytes(found))


def _bytes(value: Any) -> bytes:
    assert isinstance(value, bytes)  # the column is a STRICT BLOB
    return value
