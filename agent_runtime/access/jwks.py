"""The public keys of an issuer: from a URL or a file, kept, and looked for again when they rotate.

Only keys that can sign and cannot be shared count: RSA of 2048 bits or more, elliptic curves,
Edwards curves. A symmetric key in a set is ignored, whoever put it there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import anyio
import httpx2
import msgspec
from anyio import to_thread
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

from agent_runtime.errors import AgentRuntimeError

FRESH_SECONDS: Final = 900.0
"""After which the set is fetched again by the next token that must be verified."""
AGAIN_SECONDS: Final = 30.0
"""Between two fetches, whatever strangers name: an unknown key id asks for one."""
FETCH_SECONDS_MAX: Final = 10.0
SET_BYTES_MAX: Final = 1 << 20
KEYS_MAX: Final = 100
RSA_BITS_MIN: Final = 2048

_KINDS: Final[Mapping[str, type[RSAKey] | type[ECKey] | type[OKPKey]]] = {
    "RSA": RSAKey,
    "EC": ECKey,
    "OKP": OKPKey,
}

log = logging.getLogger(__name__)


class IssuerUnavailable(AgentRuntimeError):
    """The issuer's keys cannot be had now: try again."""

    exit_code = 7


class Jwks:
    """Finds keys by id."""

    def __init__(
        self, fetch: Callable[[], Awaitable[bytes]], *, monotonic: Callable[[], float]
    ) -> None:
        """`fetch` gets the set as JSON; it raises `IssuerUnavailable`, or what a file raises."""
        self._fetch = fetch
        self._monotonic = monotonic
        self._lock = anyio.Lock()
        self._keys: list[tuple[str, str, Key]] = []
        """Id, algorithm (either may be empty), key."""
        self._fetched_at: float | None = None
        self._tried_at = float("-inf")

    async def find(self, key_id: str | None, algorithm: str) -> Sequence[Key]:
        """Keys that a signature by `algorithm` may be from; those of `key_id` if one is named.

        Raises:
            IssuerUnavailable: there is no set yet, and none can be had.
        """
        if self._fetched_at is None or self._monotonic() - self._fetched_at > FRESH_SECONDS:
            await self._refresh()
        found = self._fitting(key_id, algorithm)
        if not found:
            await self._refresh()
            found = self._fitting(key_id, algorithm)
        return found

    def _fitting(self, key_id: str | None, algorithm: str) -> list[Key]:
        return [
            key
            for own_id, own_algorithm, key in self._keys
            if (key_id is None or own_id == key_id) and own_algorithm in ("", algorithm)
        ]

    async def _refresh(self) -> None:
        asked_at = self._monotonic()
        async with self._lock:
            now = self._monotonic()
            # Somebody else may have fetched it while this one waited.
            if self._tried_at < asked_at and now - self._tried_at >= AGAIN_SECONDS:
                self._tried_at = now
                try:
                    self._keys = parse(await self._fetch())
                    self._fetched_at = self._monotonic()
                except (IssuerUnavailable, OSError) as error:
                    # The keys that are known still count, and the next one tries again.
                    log.warning("the keys of the JWT issuer cannot be had: %s", error)
        if self._fetched_at is None:
            raise IssuerUnavailable("the keys of the JWT issuer cannot be had now: try again")


def parse(data: bytes) -> list[tuple[str, str, Key]]:
    """The usable keys of a JWK set (RFC 7517): id, algorithm, key.

    Raises:
        IssuerUnavailable: it is no such set.
    """
    try:
        document = msgspec.json.decode(data)
        listed = document["keys"][:KEYS_MAX]
    except (msgspec.MsgspecError, UnicodeDecodeError, TypeError, KeyError):
        raise IssuerUnavailable("what the issuer sent is no JSON Web Key Set") from None
    return [found for each in listed if (found := _usable(each)) is not None]


def _usable(each: Any) -> tuple[str, str, Key] | None:
    kind = _KINDS.get(each.get("kty", "")) if isinstance(each, dict) else None
    if kind is None or each.get("use", "sig") != "sig":
        return None
    if kind is RSAKey and len(str(each.get("n", ""))) * 6 < RSA_BITS_MIN:
        log.warning("an RSA key of the JWT issuer has fewer than %d bits: ignored", RSA_BITS_MIN)
        return None
    # Only what makes it public: a set that tells its private keys must not make us able to sign.
    public = {name: each[name] for name in ("kty", "n", "e", "crv", "x", "y") if name in each}
    try:
        key = kind.import_key(public)
        key.get_op_key("verify")
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    return str(each.get("kid", "")), str(each.get("alg", "")), key


def fetch_from(source: str) -> Callable[[], Awaitable[bytes]]:
    """How to get the set at `source`: a URL or the path of a file."""
    if not source.startswith(("https://", "http://")):
        return lambda: to_thread.run_sync(_read, os.path.expanduser(source))

    async def fetch() -> bytes:
        try:
            with anyio.fail_after(FETCH_SECONDS_MAX):
                # Redirections are not followed: who answers for the issuer is in the settings.
                async with httpx2.AsyncClient(timeout=FETCH_SECONDS_MAX) as client:
                    async with client.stream("GET", source) as response:
                        if response.status_code != 200:
                            raise IssuerUnavailable(f"{source} answered {response.status_code}")
                        data = b""
                        async for part in response.aiter_bytes():
                            data += part
                            if len(data) > SET_BYTES_MAX:
                                raise IssuerUnavailable(f"{source} sent more than 1 MiB")
                        return data
        except (httpx2.HTTPError, TimeoutError) as error:
            told = str(error) or type(error).__name__
            raise IssuerUnavailable(f"{source} cannot be read: {told}") from None

    return fetch


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(SET_BYTES_MAX + 1)
