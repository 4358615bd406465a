"""An address: the SDK's streamable HTTP over a client that bounds what is read, while it is read.

Headers and tokens go to the server's own origin only: the SDK follows no redirection elsewhere, and
client credentials go to the one authorization server that the operator named.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final, cast

import anyio
import httpx2
import msgspec
from mcp.client._transport import TransportStreams
from mcp.client.auth import TokenStorage
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken

from agent_runtime.remote_servers import RemoteServer, filled
from agent_runtime_mcp.client.guard import Guard

Auth = httpx2.Auth

STREAM_FACTOR: Final = 8
"""So many times the longest message may come on one stream at once."""
STREAM_SECONDS: Final = 10.0
"""In which a stream gets room for one more."""
CONNECT_SECONDS: Final = 10.0
SILENCE_SECONDS: Final = 3600.0
"""Without a byte; each call has a deadline of its own."""
NOT_READ: Final = frozenset((400, 401, 403, 404, 405, 406, 413, 415, 421, 429))
"""Who answers so has not begun."""


@asynccontextmanager
async def reached(
    server: RemoteServer,
    secrets: Mapping[str, str],
    guard: Guard,
    *,
    auth: httpx2.Auth | None = None,
) -> AsyncIterator[TransportStreams]:
    """The server at its address. `auth` stands in place of what the declaration says.

    Raises:
        httpx2.HTTPError, ExceptionGroup: it cannot be reached, also later on.
    """
    headers = {key: filled(value, secrets) for key, value in server.headers.items()}
    if server.bearer:
        headers["Authorization"] = f"Bearer {filled(server.bearer, secrets)}"
    client = httpx2.AsyncClient(
        headers={**headers, "accept-encoding": "identity"},
        auth=auth or _auth(server, secrets),
        transport=Bounded(httpx2.AsyncHTTPTransport(), guard, server.result_bytes),
        mounts=_proxies(guard, server.result_bytes),
        timeout=httpx2.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
        trust_env=False,  # a .netrc is not for strangers
    )
    async with (
        client,
        streamable_http_client(
            server.url, http_client=client, max_sse_event_size=server.result_bytes
        ) as streams,
    ):
        yield streams


def _proxies(guard: Guard, message_bytes_max: int) -> dict[str, httpx2.AsyncBaseTransport | None]:
    """The company's proxies, as the environment names them."""
    from httpx2._utils import get_environment_proxies

    return {
        pattern: None
        if proxy is None
        else Bounded(httpx2.AsyncHTTPTransport(proxy=httpx2.Proxy(proxy)), guard, message_bytes_max)
        for pattern, proxy in get_environment_proxies().items()
    }


def _auth(server: RemoteServer, secrets: Mapping[str, str]) -> httpx2.Auth | None:
    if server.oauth is None:
        return None
    oauth = server.oauth
    return ClientCredentialsOAuthProvider(
        server_url=server.url,
        storage=Tokens(),
        client_id=filled(oauth.client_id, secrets),
        client_secret=filled(oauth.client_secret, secrets),
        token_endpoint_auth_method=oauth.method,
        scope=oauth.scope or None,
        issuer=oauth.issuer,
    )


class Tokens(TokenStorage):
    """Tokens of one connection: in memory only, another one is a request away."""

    def __init__(self) -> None:
        self._tokens: OAuthToken | None = None
        self._client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        """The newest."""
        return self._tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        """Keep them."""
        self._tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        """Who we are there."""
        return self._client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        """Keep it."""
        self._client = client_info


class Bounded(httpx2.AsyncBaseTransport):
    """Counts what comes, says what never went out, and refuses what unpacks to more."""

    def __init__(
        self, inner: httpx2.AsyncBaseTransport, guard: Guard, message_bytes_max: int
    ) -> None:
        self._inner, self._guard, self._bytes_max = inner, guard, message_bytes_max

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """See `httpx2.AsyncBaseTransport`."""
        try:
            response = await self._inner.handle_async_request(request)
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            if (id_ := _request_id(request)) is not None:
                self._guard.unsent.add(id_)
            raise
        if response.status_code in NOT_READ and (id_ := _request_id(request)) is not None:
            self._guard.refused[id_] = response.status_code
        encoding = response.headers.get("content-encoding", "identity")
        if encoding != "identity":
            await response.aclose()
            self._guard.cut(f"it packs its answers ({encoding[:40]!r}), which nobody asked for")
            raise httpx2.ReadError("a packed answer")
        stream = cast(httpx2.AsyncByteStream, response.stream)
        events = response.headers.get("content-type", "").startswith("text/event-stream")
        return httpx2.Response(
            response.status_code,
            headers=response.headers,
            stream=_Counted(stream, self._guard, self._bytes_max, events=events),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """Close the inner one."""
        await self._inner.aclose()


class _Counted(httpx2.AsyncByteStream):
    """One answer's bytes; those of a stream of events may go on for ever, but not fast."""

    def __init__(
        self, inner: httpx2.AsyncByteStream, guard: Guard, bytes_max: int, *, events: bool
    ) -> None:
        self._inner, self._guard, self._bytes_max = inner, guard, bytes_max
        self._capacity = float(bytes_max * STREAM_FACTOR if events else bytes_max)
        self._refill = bytes_max / STREAM_SECONDS if events else 0.0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        room, at = self._capacity, anyio.current_time()
        async for data in self._inner:
            now = anyio.current_time()
            room = min(self._capacity, room + (now - at) * self._refill) - len(data)
            at = now
            if room < 0:
                self._guard.cut(f"it sent a message of more than {self._bytes_max:,} bytes")
                raise httpx2.ReadError("an answer that is too long")
            yield data

    async def aclose(self) -> None:
        await self._inner.aclose()


def _request_id(request: httpx2.Request) -> str | int | None:
    """Of the JSON-RPC request that a POST carries."""
    try:
        body = msgspec.json.decode(request.content)
    except (msgspec.DecodeError, httpx2.RequestNotRead):
        return None
    id_ = body.get("id") if isinstance(body, dict) else None
    return id_ if isinstance(id_, str | int) else None
