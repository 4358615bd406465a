"""Events to stored rows and back: names, schema numbers, upcasters, the hash chain.

Hashes are over the stored bytes and are never computed from a re-encoded event. A chain alone does
not see a cut tail: the head hash also stands in the task's row and in the certificate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast, get_args

import msgspec

from agent_runtime.errors import CorruptLog
from agent_runtime.loop import events as e
from agent_runtime.types import Json, Row, TaskId

GENESIS = "0" * 64
"""`prev_hash` of a log's first row."""

EVENT_TYPES: Mapping[str, type[e.Event]] = {
    kind.__name__: kind for kind in get_args(e.InputEvent) + get_args(e.DecisionEvent)
}
INPUT_TYPES = frozenset(kind.__name__ for kind in get_args(e.InputEvent))

T = TypeVar("T")
Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
UPCASTERS: Mapping[tuple[str, int], Upcaster] = {}
"""(type, old schema) -> function from that stored form to the next one. Empty: all are at 1."""

_encode = msgspec.json.Encoder().encode
_DECODERS = {name: msgspec.json.Decoder(kind).decode for name, kind in EVENT_TYPES.items()}


def row_hash(
    prev_hash: str, task_id: str, seq: int, kind: str, schema: int, at_us: int, data: bytes
) -> str:
    """SHA-256 over the previous hash and every stored column, each with its length."""
    head = f"{prev_hash}\n{task_id}\n{seq}\n{kind}\n{schema}\n{at_us}\n{len(data)}\n"
    return hashlib.sha256(head.encode() + data).hexdigest()


def encode(
    task_id: TaskId, events: Sequence[e.AnyEvent], *, after: int, head: str, at_us: int
) -> list[Row]:
    """Rows for `events` behind number `after`, whose hash is `head` (`GENESIS` for none)."""
    rows = []
    for seq, event in enumerate(events, after + 1):
        kind, data = type(event).__name__, _encode(event)
        digest = row_hash(head, task_id, seq, kind, event.schema, at_us, data)
        rows.append(Row(task_id, seq, kind, event.schema, at_us, data, head, digest))
        head = digest
    return rows


def copied(rows: Sequence[Row], task_id: TaskId) -> list[Row]:
    """The same events, byte for byte, as the beginning of another task's log."""
    made: list[Row] = []
    head = GENESIS
    for row in rows:
        digest = row_hash(head, task_id, row.seq, row.type, row.schema, row.at_us, row.data)
        made.append(msgspec.structs.replace(row, task_id=task_id, prev_hash=head, hash=digest))
        head = digest
    return made


def storable(outcome: T) -> T:
    """`outcome` with everything replaced that no log can hold.

    A plug-in may hand over an object that is no JSON, a file's name may be no Unicode (it comes
    with lone surrogates): neither may end the task whose call has returned it.
    """
    plain = msgspec.to_builtins(outcome, str_keys=True, enc_hook=repr)
    return msgspec.convert(_unicode(plain), type(outcome))


def _unicode(value: Json) -> Json:
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case dict():
            return {_unicode(key): _unicode(item) for key, item in value.items()}
        case list() | tuple():
            return [_unicode(item) for item in value]
        case _:
            return value


def decode(row: Row) -> e.AnyEvent:
    """The event of a row, brought up to its newest schema.

    Raises:
        CorruptLog: unknown type, a schema newer than ours, or bytes that are no such event.
    """
    kind = EVENT_TYPES.get(row.type)
    if kind is None or row.schema > kind.schema:
        raise CorruptLog(
            f"event {row.seq} of {row.task_id!r} is a {row.type!r} of schema {row.schema}, which "
            "this version does not know; use the version that wrote it, or a newer one",
            task_id=row.task_id,
            seq=row.seq,
        )
    try:
        if row.schema == kind.schema:
            return cast(e.AnyEvent, _DECODERS[row.type](row.data))
        fields = msgspec.json.decode(row.data)
        for schema in range(row.schema, kind.schema):
            fields = UPCASTERS[row.type, schema](fields)
        return cast(e.AnyEvent, msgspec.convert(fields, kind))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptLog(
            f"event {row.seq} of {row.task_id!r} is no readable {row.type!r}: {error}",
            task_id=row.task_id,
            seq=row.seq,
        ) from error


def check_chain(
    rows: Iterable[Row], *, task_id: TaskId, after: int = 0, head: str = GENESIS
) -> str:
    """Check numbers and hashes of rows that follow `after`; return the last hash.

    Raises:
        CorruptLog: naming the first row that is not what was written.
    """
    seq = after
    for row in rows:
        seq += 1
        if row.seq != seq or row.task_id != task_id:
            raise CorruptLog(
                f"event {seq} of {task_id!r} is missing (found {row.seq})",
                task_id=task_id,
                seq=seq,
            )
        digest = row_hash(
            row.prev_hash, row.task_id, row.seq, row.type, row.schema, row.at_us, row.data
        )
        if row.prev_hash != head or digest != row.hash:
            raise CorruptLog(
                f"event {seq} of {task_id!r} is not what was written: its hash does not match",
                task_id=task_id,
                seq=seq,
            )
        head = row.hash
    return head
