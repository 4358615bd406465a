"""What stands before every request: host, origin, size, credentials, rate. Pure ASGI, one class.

It answers refusals itself and puts `scope["caller"]` on what it lets through; what a caller may do
is decided by the operation that is asked for. The order is from cheap to dear, and nothing that a
caller sent as a credential is ever written anywhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from ipaddress import ip_address, ip_network
from typing import Final, Protocol

import anyio

from agent_runtime.access.callers import NOBODY, Caller
from agent_runtime.access.gate import Gate, Refused
from agent_runtime.api.answers import Message, Receive, Scope, Send
from agent_runtime.api.lines import STREAMS
from agent_runtime.api.problems import problem
from agent_runtime.errors import AgentRuntimeError

App = Callable[[Scope, Receive, Send], Awaitable[None]]

PROBES: Final = frozenset({"/livez", "/readyz"})
"""Asked by whatever address a prober knows, so their Host is not looked at."""

OPEN: Final = PROBES | {"/openapi.json"}
"""Asked without credentials. Nothing can be changed there, by whatever method."""

LOOPBACK_HOSTS: Final = ("localhost", "127.0.0.1", "[::1]")

BODY_BYTES_MAX: Final = 16 << 20
"""Of any body that has no limit of its own; operations say less."""

LET_IN_SECONDS: Final = 1.0
"""How often the credentials of an open stream are looked at, when it has something to say."""

MOUNTED: Final = "/mcp/"
"""Answers below may last too, and clients learn from a refusal where credentials come from."""
METADATA: Final = "/.well-known/oauth-protected-resource"
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_SITES: Final = frozenset({b"same-origin", b"none"})
_ONCE: Final = (
    *(b"host", b"authorization", b"content-length", b"content-type", b"origin"),
    *(b"sec-fetch-site", b"transfer-encoding", b"idempotency-key"),
)
"""Headers that two servers in a row would read differently if they came twice."""
_HOST: Final = re.compile(rb"([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")
_SECRET_QUERY: Final = re.compile(
    rb"ark_[a-z0-9]{1,16}_[A-Za-z0-9]{20}|(?:^|&)(?:access_token|api_?key|apikey|key|token|authorization)=",
    re.IGNORECASE,
)
_HOSTS_MAX: Final = 1000


class Journal(Protocol):
    """Hears of refusals; must neither wait nor fail. `access.auditor` is one."""

    def refused(self, reason: str, *, peer: str, key_id: str = "", by: str = "") -> None: ...


class LetIn:
    """Whose stream it is was looked at; `scope["let_in"]` of what may last."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._looked_at = monotonic()
        self.has_ended = False

    def look(self) -> None:
        """It is being looked at now."""
        self._looked_at = self._monotonic()

    def counts(self) -> bool:
        """Need it not be looked at again?"""
        return self._monotonic() - self._looked_at < LET_IN_SECONDS and not self.has_ended


class Guard:
    """Wraps an ASGI application."""

    def __init__(
        self,
        app: App,
        gate: Gate,
        *,
        monotonic: Callable[[], float],
        journal: Journal | None = None,
        hosts: Iterable[str] = (),
        proxies: Iterable[str] = (),
        body_bytes_max: int = BODY_BYTES_MAX,
        large_bodies: Mapping[str, int] = {},
        open_prefixes: tuple[str, ...] = (),
    ) -> None:
        """
        `hosts`: names beside the loopback ones that requests may be for, with or without a port.
        `proxies`: addresses or networks whose X-Forwarded-For and -Proto are believed.
        `large_bodies`: bytes that bodies for paths with these beginnings may have.
        `open_prefixes`: beginnings of paths that look at credentials of their own (webhooks).
        """
        self._app = app
        self._gate = gate
        self._monotonic = monotonic
        self._journal = journal
        self._hosts = {host.lower().encode() for host in (*LOOPBACK_HOSTS, *hosts)}
        self._hosts_seen: set[bytes] = set()
        self._proxies = [ip_network(proxy, strict=False) for proxy in proxies]
        self._body_bytes_max = body_bytes_max
        self._large_bodies = dict(large_bodies)
        self._open_prefixes = open_prefixes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = scope["headers"]
        found: dict[bytes, bytes] = dict(headers)
        if len(found) != len(headers) and (name := _twice(headers)):
            await self._refuse(scope, send, 400, f"the header {name} stands there twice")
            return
        if self._proxies:
            self._see_through_proxy(scope, found)
        path: str = scope["path"]

        host = found.get(b"host", b"")
        if host not in self._hosts_seen and path not in PROBES and not self._is_ours(host):
            await self._refuse(
                scope,
                send,
                421,
                "the header Host names another server; the setting allowed_hosts says which count",
            )
            return
        is_safe = kind == "http" and scope["method"] in _SAFE
        if not is_safe and _is_cross_site(found, host):
            await self._refuse(
                scope,
                send,
                403,
                "Origin or Sec-Fetch-Site is of another site; programs send neither",
            )
            return
        if (query := scope["query_string"]) and _SECRET_QUERY.search(query):
            await self._refuse(
                scope,
                send,
                400,
                "keys do not belong in an address, where they are written down:"
                " send `Authorization: Bearer KEY`, and revoke this one",
            )
            return

        caller = NOBODY
        if path not in OPEN and not path.startswith(self._open_prefixes or "\0"):
            authorization = found.get(b"authorization")
            if authorization is None:
                await self._refuse_credentials(scope, send, Refused("missing", _MISSING))
                return
            known = self._gate.known(authorization)
            if known is None:
                try:
                    known = await self._gate.admit(authorization)
                except Refused as refused:
                    await self._refuse_credentials(scope, send, refused)
                    return
                except AgentRuntimeError:
                    await self._refuse(
                        scope, send, 503, "keys cannot be looked up now", {b"retry-after": b"1"}
                    )
                    return
            caller = known.caller
            bucket = known.bucket
            if bucket is not None and (wait := bucket.take(self._monotonic())):
                await self._refuse(
                    scope,
                    send,
                    429,
                    f"more than {bucket.rate:g} requests a second; wait {wait:.3f} s",
                    _rate_headers(bucket.rate, bucket.burst, wait),
                    caller=caller,
                )
                return
        scope["caller"] = caller
        lasting = kind == "websocket" or path.endswith(STREAMS) or path.startswith(MOUNTED)
        if lasting and caller is not NOBODY:
            receive, send = self._while_let_in(scope, receive, send, found[b"authorization"])

        length = found.get(b"content-length")
        if length is None and b"transfer-encoding" not in found:
            await self._app(scope, receive, send)
        elif length is None:
            await self._counted(scope, receive, send)
        elif b"transfer-encoding" in found or not length.isdigit() or len(length) > 18:
            # RFC 9112, 6.3: two servers in a row could see two different ends of this body.
            await self._refuse(scope, send, 400, "Content-Length is no length, or not the only one")
        elif int(length) > self._most_bytes(path):
            await self._refuse_large(scope, send)
        else:
            await self._app(scope, receive, send)

    # ---- looking ---------------------------------------------------------------------------

    def lets_in(self, query: bytes, found: Mapping[bytes, bytes]) -> Caller | None:
        """Who asks, if everything about it is known by heart and nothing is to be refused.

        For what needs credentials, and has of all headers that are looked at here no others than
        Host and Authorization. None: ask the guard in full; nothing was taken of anybody's rate.
        """
        if found.get(b"host") not in self._hosts_seen or (query and _SECRET_QUERY.search(query)):
            return None
        authorization = found.get(b"authorization")
        known = None if authorization is None else self._gate.known(authorization)
        if known is None:
            return None
        bucket = known.bucket
        if bucket is not None and bucket.take(self._monotonic()):
            return None
        return known.caller

    def _is_ours(self, host: bytes) -> bool:
        form = _HOST.fullmatch(host)
        if form is None:
            return False
        if form[1].lower() not in self._hosts and host.lower() not in self._hosts:
            return False
        if len(self._hosts_seen) < _HOSTS_MAX:
            self._hosts_seen.add(host)
        return True

    def _see_through_proxy(self, scope: Scope, found: Mapping[bytes, bytes]) -> None:
        """Put the address and scheme that the nearest proxy saw in place of the proxy's own."""
        client = scope.get("client")
        if client is None or not self._is_proxy(client[0]):
            return
        said = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
        # Each proxy adds at the end whom it saw: what stands before a stranger is the stranger's.
        for part in reversed(b",".join(said).decode("latin-1").split(",")):
            address = part.strip()
            try:
                ip_address(address)
            except ValueError:
                break
            scope["client"] = (address, 0)
            if not self._is_proxy(address):
                break
        if found.get(b"x-forwarded-proto", b"").lower() == b"https":
            scope["scheme"] = "https" if scope["type"] == "http" else "wss"

    def _is_proxy(self, address: str) -> bool:
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._proxies)

    def _most_bytes(self, path: str) -> int:
        for beginning, most in self._large_bodies.items():
            if path.startswith(beginning):
                return most
        return self._body_bytes_max

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a body of unknown length through, up to the limit."""
        most, seen, started, refused = self._most_bytes(scope["path"]), 0, False, False

        async def counted() -> Message:
            nonlocal seen, refused
            message = await receive()
            if message["type"] == "http.request" and not refused:
                seen += len(message.get("body", b""))
                if seen > most:
                    refused = True
                    if not started:
                        await self._refuse_large(scope, send)
            # To the application it looks as if the client had gone.
            return {"type": "http.disconnect"} if refused else message

        async def unless_refused(message: Message) -> None:
            nonlocal started
            if not refused:
                started = True
                await send(message)

        try:
            await self._app(scope, counted, unless_refused)
        except Exception:
            # What the application makes of a client that is gone is nobody's business.
            if not refused:
                raise

    def _while_let_in(
        self, scope: Scope, receive: Receive, send: Send, authorization: bytes
    ) -> tuple[Receive, Send]:
        """Let a stream end, to both sides, when its credentials count no more."""
        is_http = scope["type"] == "http"
        let_in = scope["let_in"] = LetIn(self._monotonic)

        async def counts(*, is_order: bool = False) -> bool:
            if let_in.has_ended or (let_in.counts() and not is_order):
                return not let_in.has_ended
            let_in.look()
            try:
                if self._gate.known(authorization) is None:
                    await self._gate.admit(authorization)
            except Refused:
                let_in.has_ended = True
                if is_http:
                    await send({"type": "http.response.body", "body": b""})
                else:
                    await send({"type": "websocket.close", "code": 1008, "reason": "key ended"})
            except AgentRuntimeError:
                pass  # nobody can say just now: what was let in may stay until somebody can
            return not let_in.has_ended

        async def heard() -> Message:
            message = await receive()
            if message["type"] == "websocket.receive":
                # What is said on an open line is a request as any other.
                if not await counts(is_order=True):
                    return {"type": "websocket.disconnect", "code": 1008}
                known = self._gate.known(authorization)
                bucket = known.bucket if known is not None else None
                while bucket is not None and (wait := bucket.take(self._monotonic())):
                    await anyio.sleep(wait)
            return message

        async def said(message: Message) -> None:
            # The head of an answer is younger than the look at its credentials.
            if not message["type"].endswith((".body", ".send")) or await counts():
                await send(message)

        return (receive if is_http else heard), said

    # ---- refusing --------------------------------------------------------------------------

    async def _refuse_credentials(self, scope: Scope, send: Send, refused: Refused) -> None:
        if self._journal is not None:
            peer = peer_of(scope)
            self._journal.refused(refused.reason, peer=peer, key_id=refused.key_id)
        challenge = b'Bearer realm="agent-runtime"'
        if refused.reason != "missing":
            challenge += b', error="invalid_token"'  # RFC 6750, 3.1
        if scope["path"].startswith(MOUNTED):
            place = f"{address_of(scope)}{METADATA}{scope['path']}"
            challenge += f', resource_metadata="{place}"'.encode()  # RFC 9728, 5.1
        await answer(scope, send, 401, str(refused), {b"www-authenticate": challenge})

    async def _refuse_large(self, scope: Scope, send: Send) -> None:
        most = self._most_bytes(scope["path"])
        await self._refuse(scope, send, 413, f"at most {most:,} bytes are taken here")

    async def _refuse(
        self,
        scope: Scope,
        send: Send,
        status: int,
        detail: str,
        headers: Mapping[bytes, bytes] = {},
        *,
        caller: Caller = NOBODY,
    ) -> None:
        if self._journal is not None:
            self._journal.refused(
                _REASONS[status], peer=peer_of(scope), key_id=caller.key_id, by=caller.by
            )
        await answer(scope, send, status, detail, headers)


def address_of(scope: Scope) -> str:
    """How the client reached us, as its Host says; ask only once that has been looked at."""
    host = next((value for name, value in scope["headers"] if name == b"host"), b"localhost")
    return f"{scope.get('scheme', 'http')}://{host.decode('latin-1')}"


def peer_of(scope: Scope) -> str:
    """The address that asks, for the record; proxies that are believed are seen through."""
    client = scope.get("client")
    return str(client[0]) if client else "local"


async def answer(
    scope: Scope, send: Send, status: int, detail: str, headers: Mapping[bytes, bytes] = {}
) -> None:
    """Refuse a request, or a WebSocket that was not accepted yet, with a problem (RFC 9457)."""
    slug, title = _WORDS[status]
    fields = [(b"cache-control", b"no-store"), *headers.items()]
    if scope["type"] == "http" and _has_body(scope):
        # What is left of the body need not be read, nor believed to end where it says.
        fields.append((b"connection", b"close"))
    refusal = problem(status, slug, title, detail, headers=tuple(fields))
    if scope["type"] == "http":
        await refusal(scope, _nothing, send)
    elif "websocket.http.response" in scope.get("extensions", {}):

        async def send_instead(message: Message) -> None:
            await send({**message, "type": f"websocket.{message['type']}"})

        await refusal(scope, _nothing, send_instead)
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": title})


async def _nothing() -> Message:
    raise AssertionError("a refusal reads nothing")


def _has_body(scope: Scope) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )


def _is_cross_site(found: Mapping[bytes, bytes], host: bytes) -> bool:
    """Whether a browser says that another site's page asks. Programs say nothing about it."""
    if found.get(b"sec-fetch-site", b"none") not in _OWN_SITES:
        return True
    origin = found.get(b"origin")
    return origin is not None and origin.lower().partition(b"://")[2] != host.lower()


def _twice(headers: Iterable[tuple[bytes, bytes]]) -> str:
    seen = set()
    for name, _ in headers:
        if name in _ONCE and name in seen:
            return name.decode()
        seen.add(name)
    return ""


def _rate_headers(rate: float, burst: int, wait: float) -> dict[bytes, bytes]:
    # draft-ietf-httpapi-ratelimit-headers: a policy's quota and window; what is left of it.
    seconds = math.ceil(wait)
    return {
        b"retry-after": b"%d" % seconds,
        b"ratelimit-policy": b'"key";q=%d;w=%d' % (burst, math.ceil(burst / rate)),
        b"ratelimit": b'"key";r=0;t=%d' % seconds,
    }


_MISSING: Final = "send `Authorization: Bearer KEY`"
_WORDS: Final = {
    400: ("malformed", "The request is malformed"),
    401: ("unauthorized", "Credentials are missing or do not count"),
    403: ("cross-site", "A page of another site may not ask for this"),
    413: ("too-large", "The body is too large"),
    421: ("misdirected", "This server is not known by that name"),
    429: ("too-many-requests", "Too many requests"),
    503: ("store-unavailable", "The store does not answer"),
}
_REASONS: Final = {
    400: "malformed",
    403: "cross-site",
    413: "large",
    421: "host",
    429: "rate",
    503: "unavailable",
}
