"""Putting access together for a server: its gate, its record, its desk."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from agent_runtime.access.auditor import Auditor
from agent_runtime.access.desk import Desk
from agent_runtime.access.gate import Gate, Verifier
from agent_runtime.access.ports import AccessStore
from agent_runtime.access.token import TokenFile
from agent_runtime.errors import ConfigError
from agent_runtime.settings import Settings, state_dir


@dataclass(frozen=True, slots=True)
class Access:
    """What a server asks: who may pass, what is recorded, who gives keys out."""

    store: AccessStore
    gate: Gate
    auditor: Auditor
    desk: Desk

    async def run(self) -> None:
        """Write the record, until it is cancelled; `store` must be open for longer."""
        await self.auditor.run(self.gate)


def make_access(settings: Settings, store: AccessStore, *, now_us: Callable[[], int]) -> Access:
    """Everything that `api.guard` needs; makes the local token if there is none.

    Raises:
        ConfigError: the token's file is not safe, or the JWT settings are not complete.
    """
    gate = Gate(
        store,
        now_us=now_us,
        monotonic=time.monotonic,
        token_hash=TokenFile(state_dir(settings)).hash,
        jwts=_verifier(settings),
        rate=settings.rate_limit,
    )
    auditor = Auditor(store, now_us=now_us)
    return Access(store, gate, auditor, Desk(store, auditor, now_us=now_us, gate=gate))


def _verifier(settings: Settings) -> Verifier | None:
    named = {
        "jwt_issuer": settings.jwt_issuer,
        "jwt_audience": settings.jwt_audience,
        "jwt_jwks": settings.jwt_jwks,
    }
    if not any(named.values()):
        return None
    if missing := [name for name, value in named.items() if not value]:
        raise ConfigError(f"JWTs need {', '.join(named)}; {', '.join(missing)} is not set")
    # Here, because it costs 100 ms, and few have an issuer.
    from agent_runtime.access.jwks import Jwks, fetch_from
    from agent_runtime.access.jwts import JwtVerifier, Rules

    assert settings.jwt_issuer and settings.jwt_audience and settings.jwt_jwks
    rules = Rules(
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        algorithms=settings.jwt_algorithms,
        leeway_seconds=settings.jwt_leeway_seconds,
        claim=settings.jwt_claim,
        roles=settings.jwt_roles,
    )
    keys = Jwks(fetch_from(settings.jwt_jwks), monotonic=time.monotonic)
    return JwtVerifier(rules, keys)
