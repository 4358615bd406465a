"""A header becomes a caller: the local token, API keys, JWTs, and what was found out before.

`known` is the way of nearly every request, a hash and a look into a table; `admit` is the way of
the first one. What is kept is forgotten when a key is made or revoked, here at once, by another
process after `LOOK_SECONDS`, and when it expires.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from agent_runtime.access import key_texts, keys
from agent_runtime.access.buckets import Bucket
from agent_runtime.access.callers import ROLES, Caller
from agent_runtime.access.ports import AccessStore
from agent_runtime.errors import AgentRuntimeError, NotFound

LOOK_SECONDS: Final = 0.05
"""How long a key that another process revokes may still be believed. A look takes 3 us."""

USED_SECONDS: Final = 60.0
"""How often a key's last use is noted."""

KNOWN_MAX: Final = 10_000
"""Callers that are kept in mind, some 500 bytes each; beyond, all are found out again."""

TOKEN_CHARS_MAX: Final = 16_384
"""Of a JWT; servers take no longer headers anyway."""

ADMIN: Final = Caller("local", ROLES["admin"], "token")

Reason = Literal["missing", "malformed", "unknown", "revoked", "expired", "invalid"]


class Refused(AgentRuntimeError):
    """These credentials do not count. The message is for the one who sent them."""

    exit_code = 4

    def __init__(self, reason: Reason, message: str, *, key_id: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.key_id = key_id


@dataclass(slots=True)
class Known:
    """What is kept of credentials that count."""

    caller: Caller
    until_us: int
    """0: for ever."""
    bucket: Bucket | None
    """None: no bound."""
    used_at_us: int = 0


class Verifier(Protocol):
    """Judges bearer tokens that are not ours: JWTs."""

    async def verify(self, token: str, now_us: int) -> tuple[Caller, int]:
        """Who it stands for, and until when (us since 1970). Raises `Refused`."""


class Gate:
    """Knows who may pass. One for a process, used on its event loop."""

    def __init__(
        self,
        store: AccessStore,
        *,
        now_us: Callable[[], int],
        monotonic: Callable[[], float],
        token_hash: Callable[[], str] = lambda: "",
        jwts: Verifier | None = None,
        rate: float | None = None,
    ) -> None:
        """`token_hash` tells of the local token (empty: there is none) and is asked often;
        `rate` is of callers that have none of their own."""
        self._store = store
        self._now_us = now_us
        self._monotonic = monotonic
        self._token_hash = token_hash
        self._jwts = jwts
        self._rate = rate
        self._known: dict[bytes, Known] = {}
        self._buckets: dict[str, Bucket] = {}
        """By caller: a second token of a subject, or a key found out again, gets no new bucket."""
        self._used: dict[str, int] = {}
        self._revision: tuple[int, str] | None = None
        self._looked_at = float("-inf")

    def known(self, authorization: bytes) -> Known | None:
        """Who sent this header, if that was found out before and still counts."""
        now = self._monotonic()
        if now - self._looked_at > LOOK_SECONDS:
            self._look(now)
        found = self._known.get(hashlib.sha256(authorization).digest())
        if found is None:
            return None
        now_us = self._now_us()
        if found.until_us and now_us >= found.until_us:
            return None
        if now_us - found.used_at_us > USED_SECONDS * 1e6:
            self._note_use(found, now_us)
        return found

    async def admit(self, authorization: bytes) -> Known:
        """Find out who sent this header.

        Raises:
            Refused: nobody who counts.
            StoreUnavailable, StoreBroken: nobody can say now.
        """
        revision = self._now_revision()
        token = _bearer(authorization)
        if token.startswith(key_texts.PREFIX):
            found = await self._admit_key(token)
        elif self._jwts is None:
            raise Refused("unknown", "this is no key of this server: keys begin with ark_")
        else:
            caller, until_us = await self._jwts.verify(token, self._now_us())
            found = Known(caller, until_us, self._bucket(caller.by, self._rate, None))
        # A key may have been revoked while it was read.
        if self._now_revision() == revision:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known[hashlib.sha256(authorization).digest()] = found
        self._note_use(found, self._now_us())
        return found

    def forget(self) -> None:
        """Find out everything again: a key was revoked."""
        self._known.clear()

    def take_used(self) -> dict[str, int]:
        """Last uses of keys since the last call, for the store."""
        used, self._used = self._used, {}
        return used

    # ---- finding out -----------------------------------------------------------------------

    async def _admit_key(self, text: str) -> Known:
        key_id = key_texts.id_in(text)
        if not key_id:
            raise Refused("malformed", "a key has the form ark_<id>_<secret>: was it cut?")
        if key_id == key_texts.LOCAL_ID:
            if not hmac.compare_digest(keys.digest(text), self._token_hash()):
                raise Refused("unknown", "this is not the token of this server's state directory")
            return Known(ADMIN, 0, None)
        try:
            key = await self._store.key(key_id)
        except NotFound:
            raise Refused("unknown", "there is no such key") from None
        if not key.matches(text):
            # The same words as above: an id alone tells nothing.
            raise Refused("unknown", "there is no such key", key_id=key_id)
        if fault := key.fault(self._now_us()):
            reason: Reason = "revoked" if fault == "revoked" else "expired"
            raise Refused(reason, f"this key is {fault}: ask for another", key_id=key_id)
        bucket = self._bucket(key_id, key.rate or self._rate, key.burst)
        return Known(key.caller(), key.expires_at_us, bucket)

    def _bucket(self, name: str, rate: float | None, burst: int | None) -> Bucket | None:
        if rate is None:
            return None
        burst = burst or max(1, round(2 * rate))
        bucket = self._buckets.get(name)
        if bucket is None or (bucket.rate, bucket.burst) != (rate, burst):
            now = self._monotonic()
            if len(self._buckets) >= KNOWN_MAX:
                self._buckets = {
                    name: each for name, each in self._buckets.items() if not each.is_full(now)
                }
            bucket = self._buckets[name] = Bucket(rate, burst, now)
        return bucket

    def _look(self, now: float) -> None:
        self._looked_at = now
        try:
            revision = self._now_revision()
        except AgentRuntimeError:
            # Nobody can say whether a key still counts. `admit` tells what is wrong.
            self._known.clear()
            self._revision = None
            return
        if revision != self._revision:
            self._known.clear()
            self._revision = revision

    def _now_revision(self) -> tuple[int, str]:
        return self._store.revision(), self._token_hash()

    def _note_use(self, found: Known, now_us: int) -> None:
        found.used_at_us = now_us
        if found.caller.key_id:
            self._used[found.caller.key_id] = now_us


def _bearer(authorization: bytes) -> str:
    scheme, _, token = authorization.partition(b" ")
    if scheme.lower() != b"bearer":
        raise Refused("malformed", "say `Authorization: Bearer KEY`")
    token = token.strip()
    if not token or len(token) > TOKEN_CHARS_MAX or not token.isascii() or b" " in token:
        raise Refused("malformed", "say `Authorization: Bearer KEY`, with one key")
    return token.decode("ascii")
