"""Webhooks, hooks and deliveries in the store's own file, written by the store's one writer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final

import apsw
import msgspec

from agent_runtime.notices.records import (
    HOOKS_MAX,
    WEBHOOKS_MAX,
    Delivery,
    Hook,
    Try,
    Webhook,
)
from agent_runtime.notices.retries import HORIZON_SECONDS
from agent_runtime.stores.memory_notices import (
    fed_meanwhile,
    name_taken,
    no_delivery,
    no_hook,
    no_webhook,
    too_many_hooks,
    too_many_webhooks,
)
from agent_runtime.stores.sqlite import SqliteStore
from agent_runtime.stores.sqlite_writes import Do

_COLUMNS: Final = (
    *("target", "message_id", "type", "body", "made_at_us", "next_at_us", "task_id", "seq"),
    *("state", "attempts", "ended_at_us", "tries"),
)
_LISTED: Final = ", ".join(_COLUMNS)
_ADD: Final = (
    f"INSERT INTO deliveries ({_LISTED}) VALUES ({', '.join('?' * len(_COLUMNS))})"
    " ON CONFLICT (target, message_id) DO NOTHING"
)
_SETTLE: Final = """UPDATE deliveries
    SET next_at_us = ?, state = ?, attempts = ?, ended_at_us = ?, tries = ?
    WHERE target = ? AND message_id = ?"""
_DUE: Final = f"""SELECT {_LISTED} FROM deliveries
    WHERE target = ? AND state = 'pending' AND (next_at_us <= ? OR next_at_us > ?)
    ORDER BY next_at_us LIMIT ?"""

_tries = msgspec.json.Decoder(tuple[Try, ...]).decode
_to_webhook = msgspec.json.Decoder(Webhook).decode
_to_hook = msgspec.json.Decoder(Hook).decode


class SqliteNotices:
    """Implements `notices.ports.NoticeStore` on an open store, and ends with it."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    # ---- webhooks ------------------------------------------------------------------------

    async def add_webhook(self, webhook: Webhook) -> None:
        def add(db: apsw.Connection) -> None:
            if _count(db, "webhooks") >= WEBHOOKS_MAX:
                raise too_many_webhooks()
            values = (webhook.webhook_id, msgspec.json.encode(webhook))
            db.execute("INSERT INTO webhooks VALUES (?, ?)", values)
            _changed(db)

        await self._store.write(Do(add))

    async def webhook(self, webhook_id: str) -> Webhook:
        return await self._store.read(lambda db: _webhook(db, webhook_id))

    async def webhooks(self) -> tuple[int, list[Webhook]]:
        def look(db: apsw.Connection) -> tuple[int, list[Webhook]]:
            with db:  # one transaction: the number belongs to these
                revision, _ = _state(db)
                found = db.execute("SELECT data FROM webhooks ORDER BY webhook_id").fetchall()
            return revision, [_to_webhook(_bytes(data)) for (data,) in found]

        return await self._store.read(look)

    async def change_webhook(
        self, webhook_id: str, change: Callable[[Webhook], Webhook]
    ) -> Webhook:
        def put(db: apsw.Connection) -> Webhook:
            before = _webhook(db, webhook_id)
            webhook = change(before)
            if webhook != before:
                values = (msgspec.json.encode(webhook), webhook_id)
                db.execute("UPDATE webhooks SET data = ? WHERE webhook_id = ?", values)
                _changed(db)
            return webhook

        return await self._store.write(Do(put))

    async def delete_webhook(self, webhook_id: str) -> None:
        def delete(db: apsw.Connection) -> None:
            _webhook(db, webhook_id)
            db.execute("DELETE FROM webhooks WHERE webhook_id = ?", (webhook_id,))
            db.execute("DELETE FROM deliveries WHERE target = ?", (webhook_id,))
            _changed(db)

        await self._store.write(Do(delete))

    # ---- hooks ---------------------------------------------------------------------------

    async def add_hook(self, hook: Hook) -> None:
        def add(db: apsw.Connection) -> None:
            if _count(db, "hooks") >= HOOKS_MAX:
                raise too_many_hooks()
            _require_free(db, hook)
            values = (hook.hook_id, hook.name, msgspec.json.encode(hook))
            db.execute("INSERT INTO hooks VALUES (?, ?, ?)", values)

        await self._store.write(Do(add))

    async def hook(self, hook_id: str) -> Hook:
        return await self._store.read(lambda db: _hook(db, hook_id))

    async def hooks(self) -> list[Hook]:
        found = await self._store.read(
            lambda db: db.execute("SELECT data FROM hooks ORDER BY name").fetchall()
        )
        return [_to_hook(_bytes(data)) for (data,) in found]

    async def change_hook(self, hook_id: str, change: Callable[[Hook], Hook]) -> Hook:
        def put(db: apsw.Connection) -> Hook:
            hook = change(_hook(db, hook_id))
            _require_free(db, hook)
            values = (hook.name, msgspec.json.encode(hook), hook_id)
            db.execute("UPDATE hooks SET name = ?, data = ? WHERE hook_id = ?", values)
            return hook

        return await self._store.write(Do(put))

    async def delete_hook(self, hook_id: str) -> None:
        def delete(db: apsw.Connection) -> None:
            _hook(db, hook_id)
            db.execute("DELETE FROM hooks WHERE hook_id = ?", (hook_id,))

        await self._store.write(Do(delete))

    # ---- what becomes of events ----------------------------------------------------------

    async def join(self, targets: Collection[str], position: int) -> dict[str, int]:
        named = msgspec.json.encode(sorted(targets)).decode()

        def put(db: apsw.Connection) -> dict[str, int]:
            gone = "NOT IN (SELECT value FROM json_each(?))"
            db.execute(
                f"""DELETE FROM deliveries WHERE target {gone}
                AND target IN (SELECT target FROM notice_targets)""",
                (named,),
            )
            db.execute(f"DELETE FROM notice_targets WHERE target {gone}", (named,))
            db.execute(
                """INSERT INTO notice_targets SELECT value, ? FROM json_each(?) WHERE true
                ON CONFLICT DO NOTHING""",
                (position, named),
            )
            found: Any = db.execute("SELECT target, since FROM notice_targets").fetchall()
            return dict(found)

        return await self._store.write(Do(put))

    async def cursor(self) -> int:
        return await self._store.read(lambda db: _state(db)[1])

    async def feed(
        self, *, expected: int, position: int, revision: int, deliveries: Sequence[Delivery]
    ) -> None:
        def put(db: apsw.Connection) -> None:
            if _state(db) != (revision, expected):
                raise fed_meanwhile()
            db.executemany(_ADD, [_values(each) for each in deliveries])
            db.execute("UPDATE notices_state SET position = ?", (position,))

        await self._store.write(Do(put, sum(len(each.body) for each in deliveries)))

    async def add_delivery(self, delivery: Delivery) -> None:
        def add(db: apsw.Connection) -> None:
            db.execute(_ADD, _values(delivery))

        await self._store.write(Do(add))

    # ---- deliveries ----------------------------------------------------------------------

    async def due(self, target: str, *, now_us: int, limit: int) -> list[Delivery]:
        horizon_us = now_us + HORIZON_SECONDS * 1_000_000
        values = (target, now_us, horizon_us, limit)
        found = await self._store.read(lambda db: db.execute(_DUE, values).fetchall())
        return [_to_delivery(columns) for columns in found]

    async def next_due_us(self, target: str, *, now_us: int) -> int | None:
        query = """SELECT min(next_at_us) FROM deliveries
            WHERE target = ? AND state = 'pending' AND next_at_us > ?"""
        found: Any = await self._store.read(lambda db: db.execute(query, (target, now_us)).get)
        return None if found is None else int(found)

    async def settle(self, delivery: Delivery) -> None:
        values = (
            *(delivery.next_at_us, delivery.state, delivery.attempts, delivery.ended_at_us),
            *(msgspec.json.encode(delivery.tries), delivery.target, delivery.message_id),
        )

        def put(db: apsw.Connection) -> None:
            db.execute(_SETTLE, values)

        await self._store.write(Do(put))

    async def delivery(self, target: str, message_id: str) -> Delivery:
        query = f"SELECT {_LISTED} FROM deliveries WHERE target = ? AND message_id = ?"
        found = await self._store.read(
            lambda db: db.execute(query, (target, message_id)).fetchone()
        )
        if found is None:
            raise no_delivery(target, message_id)
        return _to_delivery(found)

    async def deliveries(
        self, target: str, *, state: str = "", before: int | None = None, limit: int = 100
    ) -> list[tuple[int, Delivery]]:
        query = f"""SELECT number, {_LISTED} FROM deliveries
            WHERE target = ?1 AND (?2 = '' OR state = ?2) AND (?3 IS NULL OR number < ?3)
            ORDER BY number DESC LIMIT ?4"""
        values = (target, state, before, limit)
        found: Any = await self._store.read(
            lambda db: db.execute(query, values).fetchall(), far=True
        )
        return [(int(number), _to_delivery(columns)) for number, *columns in found]

    async def pending(self) -> dict[str, int]:
        query = "SELECT target, count(*) FROM deliveries WHERE state = 'pending' GROUP BY target"
        found: Any = await self._store.read(lambda db: db.execute(query).fetchall())
        return dict(found)

    async def prune(self, ended_before_us: int) -> int:
        def forget(db: apsw.Connection) -> int:
            db.execute(
                "DELETE FROM deliveries WHERE state <> 'pending' AND ended_at_us < ?",
                (ended_before_us,),
            )
            return db.changes()

        return await self._store.write(Do(forget))


def _count(db: apsw.Connection, table: str) -> int:
    found: Any = db.execute(f"SELECT count(*) FROM {table}").get
    return int(found)


def _changed(db: apsw.Connection) -> None:
    db.execute("UPDATE notices_state SET revision = revision + 1")


def _state(db: apsw.Connection) -> tuple[int, int]:
    found: Any = db.execute("SELECT revision, position FROM notices_state").fetchone()
    revision, position = found
    return int(revision), int(position)


def _webhook(db: apsw.Connection, webhook_id: str) -> Webhook:
    found = db.execute("SELECT data FROM webhooks WHERE webhook_id = ?", (webhook_id,)).get
    if found is None:
        raise no_webhook(webhook_id)
    return _to_webhook(_bytes(found))


def _hook(db: apsw.Connection, hook_id: str) -> Hook:
    found = db.execute("SELECT data FROM hooks WHERE hook_id = ?", (hook_id,)).get
    if found is None:
        raise no_hook(hook_id)
    return _to_hook(_bytes(found))


def _require_free(db: apsw.Connection, hook: Hook) -> None:
    query = "SELECT 1 FROM hooks WHERE name = ? AND hook_id <> ?"
    if db.execute(query, (hook.name, hook.hook_id)).get is not None:
        raise name_taken(hook.name)


def _bytes(value: Any) -> bytes:
    assert isinstance(value, bytes)  # the column is a STRICT BLOB
    return value


def _values(delivery: Delivery) -> tuple[Any, ...]:
    values = msgspec.structs.asdict(delivery) | {"tries": msgspec.json.encode(delivery.tries)}
    return tuple(values[name] for name in _COLUMNS)


def _to_delivery(columns: Iterable[Any]) -> Delivery:
    values = dict(zip(_COLUMNS, columns, strict=True))
    return Delivery(**{**values, "tries": _tries(values["tries"])})
