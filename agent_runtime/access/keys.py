"""API keys: `ark_<id>_<secret>`, what is stored of one, and whether it still counts.

The secret has 256 bits of chance, so one SHA-256 is enough: a slow hash protects what people can
guess. The whole text is hashed, and only the hash is stored.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from typing import Final

import msgspec

from agent_runtime.access.callers import ROLES, SCOPES, Caller, DayBudget, unknown_scopes
from agent_runtime.access.key_texts import text_of
from agent_runtime.errors import UsageError

ID_CHARS: Final = 10
_ID_LETTERS: Final = "abcdefghijkmnpqrstuvwxyz23456789"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")

RATE_MIN: Final = 0.001
RATE_MAX: Final = 1_000_000.0
EXPIRES_SECONDS_MAX: Final = 100 * 366 * 86_400.0


class Key(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is stored of a key. Times are microseconds since 1970; 0: never."""

    key_id: str
    name: str
    """Unique among those that are not revoked."""
    secret_hash: str
    """SHA-256 of the whole key, in hexadecimal."""
    scopes: tuple[str, ...]
    role: str = ""
    """As it was asked for; `scopes` decide."""
    made_at_us: int
    made_by: str
    expires_at_us: int = 0
    revoked_at_us: int = 0
    revoked_by: str = ""
    used_at_us: int = 0
    """Rounded to a minute or so: a request does not write."""
    rate: float | None = None
    """Requests a second; None: the setting `rate_limit`."""
    burst: int | None = None
    """How many at once; None: twice the rate."""
    usd_day: float | None = None
    tokens_day: int | None = None
    tasks_day: int | None = None

    def caller(self) -> Caller:
        budget = DayBudget(self.usd_day, self.tokens_day, self.tasks_day)
        return Caller(self.name, frozenset(self.scopes), "key", self.key_id, budget)

    def fault(self, now_us: int) -> str:
        """Why it does not count now; empty if it does."""
        if self.revoked_at_us:
            return "revoked"
        if self.expires_at_us and now_us >= self.expires_at_us:
            return "expired"
        return ""

    def matches(self, text: str) -> bool:
        """Whether `text` is this key, in a time that does not depend on where they differ."""
        return hmac.compare_digest(digest(text), self.secret_hash)


class NewKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What somebody wants a key to be. A role, scopes, or both together."""

    name: str
    role: str = ""
    scopes: tuple[str, ...] = ()
    expires_seconds: float | None = None
    """From now on; None: never."""
    rate: float | None = None
    burst: int | None = None
    usd_day: float | None = None
    tokens_day: int | None = None
    tasks_day: int | None = None


def checked(wish: NewKey) -> frozenset[str]:
    """The scopes that `wish` asks for.

    Raises:
        UsageError: something about it cannot be; the message starts with the field's name.
    """
    if not _NAME.fullmatch(wish.name):
        raise UsageError(
            f"name: {wish.name!r} cannot name a key: a letter or digit, then up to 63 of "
            "letters, digits and . _ @ -"
        )
    if wish.role and wish.role not in ROLES:
        raise UsageError(f"role: {wish.role!r} is none of {', '.join(ROLES)}")
    if unknown := unknown_scopes(wish.scopes):
        raise UsageError(f"scopes: {unknown[0]!r} is none of {', '.join(SCOPES)}")
    scopes = ROLES.get(wish.role, frozenset()) | frozenset(wish.scopes)
    if not scopes:
        raise UsageError(
            f"role: a key needs a role ({', '.join(ROLES)}) or scopes ({', '.join(SCOPES)})"
        )
    for name, value, least, most in (
        ("expires_seconds", wish.expires_seconds, 0.0, EXPIRES_SECONDS_MAX),
        ("rate", wish.rate, RATE_MIN, RATE_MAX),
        ("burst", wish.burst, 1, RATE_MAX),
    ):
        if value is not None and not least <= value <= most:
            raise UsageError(f"{name}: must be from {least:g} to {most:g}, got {value:g}")
    for name, value in (
        ("usd_day", wish.usd_day),
        ("tokens_day", wish.tokens_day),
        ("tasks_day", wish.tasks_day),
    ):
        if value is not None and not 0 <= value <= 2**53:
            raise UsageError(f"{name}: must be 0 or more and at most 2^53, got {value:g}")
    return scopes


def make(wish: NewKey, *, by: str, now_us: int, choose: Callable[[str], str]) -> tuple[Key, str]:
    """A key as it is stored, and its text, which nobody can get again.

    `choose` takes one letter of a text by chance that cannot be foreseen.

    Raises:
        UsageError: as `checked`.
    """
    scopes = checked(wish)
    key_id = "".join(choose(_ID_LETTERS) for _ in range(ID_CHARS))
    text = text_of(key_id, choose)
    expires_at_us = 0
    if wish.expires_seconds is not None:
        expires_at_us = now_us + int(wish.expires_seconds * 1e6)
    key = Key(
        key_id=key_id,
        name=wish.name,
        secret_hash=digest(text),
        scopes=tuple(scope for scope in SCOPES if scope in scopes),
        role=wish.role,
        made_at_us=now_us,
        made_by=by,
        expires_at_us=expires_at_us,
        rate=wish.rate,
        burst=wish.burst,
        usd_day=wish.usd_day,
        tokens_day=wish.tokens_day,
        tasks_day=wish.tasks_day,
    )
    return key, text


def digest(text: str) -> str:
    """What is stored of a key's text."""
    return hashlib.sha256(text.encode()).hexdigest()
