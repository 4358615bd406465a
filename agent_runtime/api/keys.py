"""API keys over HTTP, and the audit record: who may ask, and who did what."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from agent_runtime.access.audit import Record
from agent_runtime.access.keys import Key, NewKey
from agent_runtime.access.opening import Access
from agent_runtime.api.answers import Answer, Reply, json_answer
from agent_runtime.api.guard import peer_of
from agent_runtime.api.operations import Request, operation
from agent_runtime.api.views import AuditPage, AuditView, KeyPage, KeyView, NewKeyView, moment
from agent_runtime.errors import NotFound, StoreUnavailable

RoleName = Literal["viewer", "operator", "approver", "admin"]
ScopeName = Literal[
    "tasks:read", "tasks:write", "approvals:decide", "tools:admin", "keys:admin", "audit:read"
]
"""Both as in `access.callers`; a test compares them."""
_NAME = Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")
_COUNT = Meta(ge=0, le=2**53)


class KeyWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a key is to be. A role, scopes, or both together; with neither, a viewer's."""

    name: Annotated[str, _NAME]
    role: RoleName | None = None
    scopes: Annotated[list[ScopeName], Meta(max_length=32)] = []
    expires_seconds: Annotated[float, Meta(gt=0, le=100 * 366 * 86_400)] | None = None
    """From now on; null: never."""
    rate: Annotated[float, Meta(ge=0.001, le=1_000_000)] | None = None
    """Requests a second; null: the setting `rate_limit`."""
    burst: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    """Requests at once; null: twice the rate."""
    usd_day: Annotated[float, Meta(ge=0, le=1e9)] | None = None
    tokens_day: Annotated[int, _COUNT] | None = None
    tasks_day: Annotated[int, _COUNT] | None = None


class KeysQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which keys."""

    limit: Annotated[int, Meta(ge=1, le=500)] = 50
    cursor: Annotated[str, Meta(max_length=64)] = ""
    """`next_cursor` of the page before."""
    revoked: bool = False
    """Those that were revoked, too."""


class AuditQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which entries. All filters must fit."""

    limit: Annotated[int, Meta(ge=1, le=500)] = 50
    cursor: Annotated[str, Meta(pattern=r"^[0-9]{0,18}$")] = ""
    """`next_cursor` of the page before."""
    by: Annotated[str, Meta(max_length=300)] = ""
    action: Annotated[str, Meta(max_length=64)] = ""


@operation(
    "POST", "/v1/keys", answers={201: NewKeyView}, scope="keys:admin", errors=(409, 503),
    body=KeyWish, recorded=True,
)  # fmt: skip
async def create_key(request: Request[KeyWish, None]) -> Reply:
    """Make an API key. Its secret is told here and never again.

    A key cannot be given scopes that its maker has not.
    """
    wish = request.body
    role = wish.role or ("" if wish.scopes else "viewer")
    fields = msgspec.structs.asdict(wish) | {"role": role, "scopes": tuple(wish.scopes)}
    key, secret = await _access(request).desk.make(
        NewKey(**fields), caller=request.caller, peer=peer_of(request.scope)
    )
    location = b"/v1/keys/" + key.key_id.encode()
    headers = ((b"location", location), (b"cache-control", b"no-store"))
    return json_answer(NewKeyView(secret=secret, key=_view(key)), 201, headers)


@operation(
    "GET", "/v1/keys", answers={200: KeyPage}, scope="keys:admin", query=KeysQuery, errors=(503,)
)  # fmt: skip
async def list_keys(request: Request[None, KeysQuery]) -> Reply:
    """List keys; their secrets are known to nobody here."""
    query = request.query
    found = await _access(request).store.keys(
        after=query.cursor, limit=query.limit + 1, with_revoked=query.revoked
    )
    page = found[: query.limit]
    more = len(found) > len(page)
    return json_answer(KeyPage([_view(key) for key in page], page[-1].key_id if more else None))


@operation("GET", "/v1/keys/{key_id}", answers={200: KeyView}, scope="keys:admin", errors=(404,))
async def get_key(request: Request[None, None]) -> Reply:
    """Look at a key that is not revoked."""
    return json_answer(_view(await _in_force(request)))


@operation(
    "DELETE", "/v1/keys/{key_id}", answers={204: None}, scope="keys:admin", errors=(404, 503),
    recorded=True,
)  # fmt: skip
async def revoke_key(request: Request[None, None]) -> Reply:
    """Revoke a key for good. The list still has it with `revoked=true`.

    No request that comes after the answer is let in by it; streams that it opened end at their
    next sign of life.
    """
    key = await _in_force(request)
    await _access(request).desk.revoke(
        key.key_id, caller=request.caller, peer=peer_of(request.scope)
    )
    return Answer(204)


@operation(
    "GET", "/v1/audit", answers={200: AuditPage}, scope="audit:read", query=AuditQuery,
    errors=(503,),
)  # fmt: skip
async def list_audit(request: Request[None, AuditQuery]) -> Reply:
    """Read who decided what, the newest first.

    Each entry's `hash` covers its number, its content and the hash before it.
    """
    query, access = request.query, _access(request)
    await access.auditor.flush()
    found = await access.store.audit(
        before=int(query.cursor) if query.cursor else None,
        limit=query.limit + 1,
        by=query.by,
        action=query.action,
    )
    page = found[: query.limit]
    more = len(found) > len(page)
    return json_answer(
        AuditPage([_entry(each) for each in page], str(page[-1].seq) if more else None)
    )


OPERATIONS = (create_key, list_keys, get_key, revoke_key, list_audit)


def _access(request: Request[Any, Any]) -> Access:
    access = request.daemon.access
    if access is None:
        raise StoreUnavailable("this server keeps no keys")
    return access


async def _in_force(request: Request[Any, Any]) -> Key:
    key = await _access(request).store.key(request.path["key_id"])
    if key.revoked_at_us:
        raise NotFound(f"the key {key.key_id!r} is revoked")
    return key


def _view(key: Key) -> KeyView:
    return KeyView(
        id=key.key_id,
        name=key.name,
        role=key.role,
        scopes=list(key.scopes),
        created_at=moment(key.made_at_us),
        created_by=key.made_by,
        expires_at=_moment(key.expires_at_us),
        revoked_at=_moment(key.revoked_at_us),
        revoked_by=key.revoked_by,
        last_used_at=_moment(key.used_at_us),
        rate=key.rate,
        burst=key.burst,
        usd_day=key.usd_day,
        tokens_day=key.tokens_day,
        tasks_day=key.tasks_day,
    )


def _entry(record: Record) -> AuditView:
    entry = record.entry
    return AuditView(
        seq=record.seq,
        at=moment(entry.at_us),
        by=entry.by,
        action=entry.action,
        outcome=entry.outcome,
        target=entry.target,
        targets=list(entry.targets),
        detail=entry.detail,
        peer=entry.peer,
        key_id=entry.key_id,
        count=entry.count,
        prev_hash=record.prev_hash,
        hash=record.hash,
    )


def _moment(at_us: int) -> str | None:
    return moment(at_us) if at_us else None
