"""The record of who decided what: its entries, and the chain that shows what was changed later.

Each entry's hash covers its number, its stored bytes and the hash before it. The chain does not
show that its end was cut: for that, keep a `hash` elsewhere now and then, and compare.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

ZERO: Final = "0" * 64
"""Before the first entry."""

DETAIL_CHARS_MAX: Final = 500

FORGET: Final = "audit.forget"
"""The action of the entry that tells which entries are forgotten, before they are: `target` is the
number of the last of them."""

Outcome = Literal["done", "refused"]


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One decision, or several alike within a minute."""

    at_us: int
    by: str
    """As in events: `key:ci`, `jwt:alice`, `token:local`; `none:` before anybody was known."""
    action: str
    """Noun and verb: `task.submit`, `approval.approve`, `key.revoke`, `auth.refuse`."""
    target: str = ""
    """What it was done to: a task, a key."""
    targets: tuple[str, ...] = ()
    """Of several alike, each."""
    outcome: Outcome = "done"
    detail: str = ""
    peer: str = ""
    """The address that asked; empty for the command line."""
    key_id: str = ""
    count: int = 1
    """How many alike this entry stands for; `at_us` is of the first."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """An entry as it is stored."""

    seq: int
    entry: Entry
    prev_hash: str
    hash: str


def encode(entry: Entry) -> bytes:
    return _ENCODER.encode(entry)


def decode(data: bytes) -> Entry:
    return _DECODER.decode(data)


def link(prev_hash: str, seq: int, data: bytes) -> str:
    """The hash of entry `seq`, stored as `data`, after the one with `prev_hash`."""
    return hashlib.sha256(f"{prev_hash}\n{seq}\n".encode() + data).hexdigest()


def chain(
    prev_hash: str, first_seq: int, datas: Iterable[bytes]
) -> list[tuple[int, bytes, str, str]]:
    """`(seq, data, prev_hash, hash)` of each of `datas`, in order."""
    links = []
    for seq, data in enumerate(datas, first_seq):
        hash_ = link(prev_hash, seq, data)
        links.append((seq, data, prev_hash, hash_))
        prev_hash = hash_
    return links


def at_us(data: bytes) -> int:
    """When a stored entry's decision was made."""
    return _MOMENT_DECODER.decode(data).at_us


def fault_in(links: Iterable[tuple[int, bytes, str, str]], forgotten: int = 0) -> int | None:
    """The number of the first entry that is not what was written; None if all are.

    What stood before the first one given must have been forgotten: entries up to number
    `forgotten` may have been.
    """
    before: tuple[int, str] | None = None
    for seq, data, prev_hash, hash_ in links:
        if before is None and seq - 1 > forgotten:
            return seq
        if before is not None and (seq, prev_hash) != (before[0] + 1, before[1]):
            return seq
        if link(prev_hash, seq, data) != hash_:
            return seq
        before = (seq, hash_)
    return None


class _Moment(msgspec.Struct, frozen=True):
    at_us: int


_ENCODER = msgspec.json.Encoder()
_MOMENT_DECODER = msgspec.json.Decoder(_Moment)
_DECODER = msgspec.json.Decoder(Entry)
