"""The one HTTP client of all models: connections, deadlines, sizes, and faults of transport.

It is opened by the first request and closed with the router. Proxies and the company's certificates
come from the environment (`HTTPS_PROXY`, `NO_PROXY`, `SSL_CERT_FILE`). Redirections are never
followed, because a key would go along, and nothing is ever sent twice.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import anyio
import httpx2

from agent_runtime import __version__
from agent_runtime.models.faults import Failed, refused
from agent_runtime.models.sse import Event, Events

ANSWER_BYTES_MAX: Final = 10 << 20
_ERROR_BYTES_MAX: Final = 64 << 10
_DRAIN_SECONDS: Final = 1.0
"""For the end of a stream after its finish marker: read whole, the connection is used again."""
CONNECTIONS_MAX: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long each wait may be, in seconds."""

    connect: float = 10.0
    silence: float = 600.0
    """Without a byte while nothing is streamed: all of the thinking."""
    silence_streamed: float = 120.0
    """Without a byte of a stream: providers send a sign of life every few seconds."""
    whole: float = 1800.0
    """Of one request, whatever comes."""


class Http:
    """Requests to providers."""

    def __init__(self, patience: Patience = Patience()) -> None:
        self.patience = patience
        self._client: httpx2.AsyncClient | None = None

    @asynccontextmanager
    async def exchange(
        self, place: str, url: str, headers: Mapping[str, str], body: bytes | None, *,
        streamed: bool = False, silence_seconds: float | None = None,
    ) -> AsyncIterator[Exchange]:  # fmt: skip
        """Send a request (a GET without a `body`), and hold its good answer while it is read.

        Raises:
            Failed: there is none; also whatever fails while it is read.
        """
        silence = silence_seconds or (
            self.patience.silence_streamed if streamed else self.patience.silence
        )
        answered = False
        try:
            with anyio.fail_after(self.patience.whole):
                request = self._opened().build_request(
                    "GET" if body is None else "POST", url, content=body,
                    headers={**_HEADERS, **headers},
                    timeout=httpx2.Timeout(silence, connect=min(self.patience.connect, silence)),
                )  # fmt: skip
                response = await self._opened().send(request, stream=True)
                answered = True
                try:
                    if response.status_code != 200:
                        said = await _beginning(response)
                        raise refused(place, response.status_code, response.headers, said)
                    yield Exchange(place, response)
                finally:
                    with anyio.CancelScope(shield=True), anyio.move_on_after(_DRAIN_SECONDS):
                        await response.aclose()
        except TimeoutError:
            raise Failed(
                "transport", f"{place}: no whole answer within {self.patience.whole:g} s"
            ) from None
        except httpx2.ConnectTimeout:
            raise Failed(
                "transport", f"{place}: no connection within {self.patience.connect:g} s; {_PROXY}"
            ) from None
        except httpx2.TimeoutException:
            raise Failed("transport", f"{place}: nothing came for {silence:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError) as error:
            if answered:
                raise Failed("truncated", f"{place}: the answer was cut: {_why(error)}") from None
            raise Failed("transport", f"{place}: {_no_connection(error)}") from None

    async def close(self) -> None:
        """Close every connection; the next request opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _opened(self) -> httpx2.AsyncClient:
        if self._client is None:
            for name in ("httpx2", "httpcore2"):
                # They log the headers of answers, in which a server may repeat a key.
                logging.getLogger(name).setLevel(logging.WARNING)
            self._client = httpx2.AsyncClient(
                follow_redirects=False,
                # No proxy leads to this machine's own servers.
                mounts={f"all://{host}": None for host in ("127.0.0.1", "localhost", "[::1]")},
                limits=httpx2.Limits(
                    max_connections=CONNECTIONS_MAX, max_keepalive_connections=100
                ),
            )
        return self._client


class Exchange:
    """A good answer that is still to be read, as a whole or as events."""

    def __init__(self, place: str, response: httpx2.Response) -> None:
        self._place = place
        self._response = response
        self.bytes_read = 0

    @property
    def is_stream(self) -> bool:
        """Are there events? Not every server does what was asked."""
        return "event-stream" in self._response.headers.get("content-type", "")

    async def whole(self) -> bytes:
        """All of it, at most `ANSWER_BYTES_MAX`."""
        pieces: list[bytes] = []

        def keep(piece: bytes) -> bool:
            pieces.append(piece)
            return False

        await self._read(keep)
        return b"".join(pieces)

    async def events(self, take: Callable[[Event], bool]) -> None:
        """Call `take` with each event as it comes, until it says that this was the last one."""
        parser = Events()
        ended = False

        def feed(piece: bytes) -> bool:
            nonlocal ended
            ended = any(take(event) for event in parser.feed(piece))
            return ended

        await self._read(feed)
        if not ended:
            any(take(event) for event in parser.close())

    async def _read(self, use: Callable[[bytes], bool]) -> None:
        async with aclosing(self._response.aiter_bytes()) as pieces:
            async for piece in pieces:
                self.bytes_read += len(piece)
                if self.bytes_read > ANSWER_BYTES_MAX:
                    raise Failed(
                        "too_large",
                        f"{self._place}: the answer is larger than {ANSWER_BYTES_MAX >> 20} MiB, "
                        "and was thrown away",
                    )
                if use(piece):
                    with anyio.move_on_after(_DRAIN_SECONDS), suppress(httpx2.HTTPError):
                        async for _ in pieces:
                            pass
                    return


_HEADERS: Final = {
    "user-agent": f"agent-runtime/{__version__}",
    "content-type": "application/json",
    "accept": "application/json",
    # Compressed, a small answer could unpack to one that no memory holds.
    "accept-encoding": "identity",
}
_PROXY: Final = "behind a proxy, set HTTPS_PROXY"


async def _beginning(response: httpx2.Response) -> bytes:
    """Of an error's body: what is worth telling."""
    said = b""
    try:
        async for piece in response.aiter_bytes():
            said += piece
            if len(said) > _ERROR_BYTES_MAX:
                break
    except httpx2.HTTPError:
        pass  # the status tells enough
    return said[:_ERROR_BYTES_MAX]


def _no_connection(error: Exception) -> str:
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"its certificate is not trusted ({cause.verify_message}); if it is your "
                "company's, set SSL_CERT_FILE to a file that holds the company's certificates"
            )
        if isinstance(cause, ssl.SSLError):
            return f"no TLS connection ({cause.reason or cause}); is https the right scheme?"
        if isinstance(cause, ConnectionRefusedError):
            return "nothing listens there (connection refused); is the server started?"
    if isinstance(error, httpx2.ProxyError):
        return f"the proxy refuses the connection: {_why(error)}; see HTTPS_PROXY and NO_PROXY"
    if isinstance(error, httpx2.UnsupportedProtocol | httpx2.InvalidURL):
        return f"the address cannot be used: {_why(error)}"
    return f"no connection: {_why(error)}; {_PROXY}"


def _causes(error: BaseException | None) -> list[BaseException]:
    """The error and what led to it, groups of attempts included."""
    found: list[BaseException] = []
    pending = [error]
    while pending:
        cause = pending.pop(0)
        if cause is None or cause in found:
            continue
        found.append(cause)
        if isinstance(cause, BaseExceptionGroup):
            pending += cause.exceptions
        pending += [cause.__cause__, cause.__context__]
    return found


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__
