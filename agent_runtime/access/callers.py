"""Who asks, and what that allows: callers, scopes, and roles, which are sets of scopes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

TASKS_READ: Final = "tasks:read"
TASKS_WRITE: Final = "tasks:write"
APPROVALS_DECIDE: Final = "approvals:decide"
TOOLS_ADMIN: Final = "tools:admin"
KEYS_ADMIN: Final = "keys:admin"
AUDIT_READ: Final = "audit:read"

SCOPES: Final[Mapping[str, str]] = {
    TASKS_READ: "see tasks, their events and results, approvals, tools, modules, models and "
    "figures; replay tasks",
    TASKS_WRITE: "submit, steer, pause, resume, cancel, continue, fork, publish and forget tasks; "
    "send repositories",
    APPROVALS_DECIDE: "approve or deny what tasks ask for",
    TOOLS_ADMIN: "say who is told of events, and whose signed requests make tasks",
    KEYS_ADMIN: "make, list and revoke keys",
    AUDIT_READ: "read the audit record",
}
"""Every scope, and what it allows."""

ROLES: Final[Mapping[str, frozenset[str]]] = {
    "viewer": frozenset({TASKS_READ}),
    "operator": frozenset({TASKS_READ, TASKS_WRITE}),
    "approver": frozenset({TASKS_READ, APPROVALS_DECIDE}),
    "admin": frozenset(SCOPES),
}
"""Who submits work is not who allows what it asks for, unless a key is given both."""

JWT_ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA", "Ed25519"),
)
"""By which a JWT may be signed at most: none of them with a key that both sides share."""

How = Literal["token", "key", "jwt", "cli", "none"]


@dataclass(frozen=True, slots=True)
class DayBudget:
    """What a key may spend between midnights UTC; None: no bound. Scheduling enforces it."""

    usd: float | None = None
    tokens: int | None = None
    tasks: int | None = None


UNBOUNDED: Final = DayBudget()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request, as `scope["caller"]` has it."""

    subject: str
    """Name of the key, subject of the JWT, or `local` for the token of the state directory."""
    scopes: frozenset[str]
    how: How
    key_id: str = ""
    """Of an API key; names may be used again, ids are not."""
    budget: DayBudget = UNBOUNDED

    @property
    def by(self) -> str:
        """As events and the audit record name it: `key:ci`, `jwt:alice@example.org`."""
        return f"{self.how}:{self.subject}"

    def may(self, scope: str) -> bool:
        return scope in self.scopes


NOBODY: Final = Caller("", frozenset(), "none")
"""Who asks for what is open to everybody: nothing was looked at."""


def unknown_scopes(scopes: Iterable[str]) -> list[str]:
    """Those that are no scope, in the order given."""
    return [scope for scope in scopes if scope not in SCOPES]
