"""Bearer tokens of an issuer: JWTs that are signed (RFC 7519), and what their claims allow here.

Which algorithms count is a setting of this side: what a token says of itself picks among them and
never adds one. `none` and symmetric algorithms cannot be named at all.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning

from agent_runtime.access.callers import ROLES, SCOPES, Caller
from agent_runtime.access.gate import Refused
from agent_runtime.access.jwks import FRESH_SECONDS, Jwks

CANDIDATES_MAX: Final = 8
"""Keys that are tried for a token that names none."""

_SUBJECT: Final = re.compile(r"[\x21-\x7e\u00a1-\ud7ff]{1,200}")
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/at+jwt"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a token must say, and what it then allows."""

    issuer: str
    audience: str
    algorithms: Collection[str] = ("RS256", "ES256", "EdDSA", "Ed25519")
    leeway_seconds: float = 30.0
    claim: str = "scope"
    """Where scopes or the names in `roles` stand: a claim, or a path with dots."""
    roles: Mapping[str, str] = field(default_factory=dict)
    """What the claim may say -> a role of ours."""


class JwtVerifier:
    """Implements `gate.Verifier`."""

    def __init__(self, rules: Rules, keys: Jwks) -> None:
        self._rules = rules
        self._keys = keys
        self._registry = jws.JWSRegistry(algorithms=list(rules.algorithms))

    async def verify(self, token: str, now_us: int) -> tuple[Caller, int]:
        """Who it stands for, and until when that may be believed (us since 1970).

        Raises:
            Refused: it does not count.
            IssuerUnavailable: nobody can say now.
        """
        try:
            read = jws.extract_compact(token.encode(), registry=self._registry)
            header = read.headers()
        except (JoseError, ValueError, TypeError) as error:
            raise Refused("malformed", "this is neither a key nor a JWT") from error
        algorithm, key_id = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._rules.algorithms:
            allowed = ", ".join(self._rules.algorithms)
            raise _invalid(f"it is not signed by one of {allowed}")
        if header.keys() & {"crit", "b64"} or not isinstance(key_id, str | None):
            raise _invalid("its header asks for what is not done here")
        if str(header.get("typ", "jwt")).lower() not in _TYPES:
            raise _invalid("it is no JWT for access")
        keys = await self._keys.find(key_id, algorithm)
        if not any(self._is_signed(read, key) for key in keys[:CANDIDATES_MAX]):
            raise _invalid("its signature is not the issuer's")
        try:
            claims = msgspec.json.decode(read.payload or b"", type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise _invalid("its claims are no JSON object") from None
        return judge(claims, self._rules, now_us)

    def _is_signed(self, read: jws.CompactSignature, key: Any) -> bool:
        try:
            # That EdDSA has a newer name (RFC 9864) is the issuer's business.
            with warnings.catch_warnings(category=SecurityWarning, action="ignore"):
                return jws.validate_compact(read, key, registry=self._registry)
        except (JoseError, ValueError, TypeError):
            return False  # a key of another kind


def judge(claims: Mapping[str, Any], rules: Rules, now_us: int) -> tuple[Caller, int]:
    """Who these signed claims stand for, and until when. Raises `Refused`."""
    if claims.get("iss") != rules.issuer:
        raise _invalid("it is from another issuer")
    audience = claims.get("aud")
    if rules.audience not in (audience if isinstance(audience, list) else [audience]):
        raise _invalid("it is for another audience")
    now, leeway = now_us / 1e6, rules.leeway_seconds
    expires = _moment(claims, "exp")
    if expires is None:
        raise _invalid("it does not expire (exp)")
    if now >= expires + leeway:
        raise Refused("expired", "this JWT is expired: get another")
    for name in ("nbf", "iat"):
        moment = _moment(claims, name)
        if moment is not None and moment > now + leeway:
            raise _invalid(f"it is not valid yet ({name})")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not _SUBJECT.fullmatch(subject):
        raise _invalid("it names no subject (sub) of up to 200 letters without spaces")
    # Verified again now and then: the issuer may have taken its key back.
    until = min(expires + leeway, now + FRESH_SECONDS)
    return Caller(subject, scopes_of(claims, rules), "jwt"), int(until * 1e6)


def scopes_of(claims: Mapping[str, Any], rules: Rules) -> frozenset[str]:
    """What the claims allow. Scopes of ours count as they are, everything else by `rules.roles`.

    A role's own name is nothing special: another system's `admin` is not ours.
    """
    said: Any = claims.get(rules.claim)
    if said is None:
        said = claims
        for part in rules.claim.split("."):
            said = said.get(part) if isinstance(said, dict) else None
    words = said.split() if isinstance(said, str) else said if isinstance(said, list) else []
    found = {word for word in words if isinstance(word, str)}
    scopes = found & SCOPES.keys()
    for word in found & rules.roles.keys():
        scopes |= ROLES[rules.roles[word]]
    return frozenset(scopes)


def _moment(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _invalid(f"its {name} is no number")
    if not math.isfinite(value) or abs(value) > 1e12:
        raise _invalid(f"its {name} is no moment")
    return float(value)


def _invalid(why: str) -> Refused:
    return Refused("invalid", f"this JWT does not count: {why}")
