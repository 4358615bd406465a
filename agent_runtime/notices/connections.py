"""Sending one HTTP request to an address that somebody named: where it may go, and for how long.

A name is looked up for each connection, and the connection goes to the very address that was looked
at: what a name means later is of no use to whoever owns it. Redirections are answers like any other
and are never followed. Proxies and the company's certificates come from the environment
(`HTTPS_PROXY`, `NO_PROXY`, `SSL_CERT_FILE`); behind a proxy it is the proxy that looks names up.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import httpcore2
import httpx2

from agent_runtime import __version__
from agent_runtime.egress_rules import Address, Rules, address_of, host_of
from agent_runtime.notices.answered import Answered, NotSent
from agent_runtime.sandboxes.egress_company import BadProxy, Proxy, company

SECONDS_MAX: Final = 20.0
"""For one try; the specification recommends 15 to 30."""
CONNECT_SECONDS_MAX: Final = 10.0
ANSWER_BYTES_MAX: Final = 64 << 10
"""Of an answer's body, which nobody reads; what is longer costs the connection."""
CONNECTIONS_MAX: Final = 200


class Connections:
    """To whoever is posted to. `rules` None: to wherever the operator says."""

    def __init__(self, rules: Rules | None, environ: Mapping[str, str]) -> None:
        self._rules = rules
        self._environ = environ
        self._pools: dict[Proxy | None, httpcore2.AsyncConnectionPool] = {}
        self._ssl: ssl.SSLContext | None = None

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answered:
        """Post `body`, once.

        Raises:
            NotSent: there is no answer, or its address is one where none may.
        """
        try:
            with anyio.fail_after(SECONDS_MAX):
                return await self._exchange(url, headers, body)
        except TimeoutError:
            raise NotSent(f"no answer within {SECONDS_MAX:g} s") from None
        except httpcore2.ConnectTimeout:
            raise NotSent(f"no connection within {CONNECT_SECONDS_MAX:g} s") from None
        except ssl.SSLError as error:
            raise NotSent(_tls(error)) from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.ProxyError) as error:
            cause = error.__cause__ or error.__context__
            if isinstance(cause, ssl.SSLError):
                raise NotSent(_tls(cause)) from None
            raise NotSent(f"no answer: {type(error).__name__} ({_said(error)})") from None
        except (httpcore2.TimeoutException, httpcore2.UnsupportedProtocol, OSError) as error:
            raise NotSent(f"no answer: {type(error).__name__} ({_said(error)})") from None

    async def close(self) -> None:
        """End every connection."""
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            await pool.aclose()

    async def _exchange(self, url: str, headers: Mapping[str, str], body: bytes) -> Answered:
        pool = await self._pool(url)
        given = {"user-agent": f"agent-runtime/{__version__}", "accept": "*/*", **headers}
        wait = SECONDS_MAX
        timeout = {"connect": CONNECT_SECONDS_MAX, "read": wait, "write": wait, "pool": wait}
        async with pool.stream(
            "POST", url, headers=[(k.encode(), v.encode("latin-1")) for k, v in given.items()],
            content=body, extensions={"timeout": timeout},
        ) as response:  # fmt: skip
            seen = 0
            async for part in response.aiter_stream():
                seen += len(part)
                if seen > ANSWER_BYTES_MAX:
                    break
            return Answered(response.status, _retry_after(response.headers))

    async def _pool(self, url: str) -> httpcore2.AsyncConnectionPool:
        parts = urlsplit(url)
        host, is_tls = host_of(parts.hostname or ""), parts.scheme == "https"
        try:
            proxy = company(self._environ).proxy_for(host, is_tunnel=is_tls)
        except BadProxy as error:
            raise NotSent(str(error)) from None
        if proxy is not None and self._rules is not None:
            # The proxy looks the name up again, and may know names that nobody here does.
            port = parts.port or (443 if is_tls else 80)
            await _allowed(self._rules, host, port, must_be_known=False)
        if proxy not in self._pools:
            self._pools[proxy] = self._opened(proxy)
        return self._pools[proxy]

    def _opened(self, proxy: Proxy | None) -> httpcore2.AsyncConnectionPool:
        # They tell of every request, and an address may be a secret.
        for name in ("httpx2", "httpcore2"):
            logging.getLogger(name).setLevel(logging.WARNING)
        if self._ssl is None:
            self._ssl = httpx2.create_ssl_context()
        bounds: dict[str, Any] = {
            "ssl_context": self._ssl, "max_connections": CONNECTIONS_MAX,
            "max_keepalive_connections": 20, "keepalive_expiry": 15.0,
        }  # fmt: skip
        if proxy is None:
            return httpcore2.AsyncConnectionPool(network_backend=_Dialer(self._rules), **bounds)
        headers = [(b"proxy-authorization", proxy.authorization.encode())]
        return httpcore2.AsyncHTTPProxy(
            proxy_url=f"http://{_bracketed(proxy.host)}:{proxy.port}",
            proxy_headers=headers if proxy.authorization else None, **bounds,
        )  # fmt: skip


class _Dialer(httpcore2.AsyncNetworkBackend):
    """Connects to addresses that were looked at."""

    def __init__(self, rules: Rules | None) -> None:
        self._rules = rules
        self._dial = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        addresses = await _allowed(self._rules, host.strip("[]"), port)
        for at, address in enumerate(addresses):
            try:
                return await self._dial.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if at + 1 == len(addresses):
                    raise
        raise NotSent(f"the name {host!r} has no address")


async def _allowed(
    rules: Rules | None, host: str, port: int, *, must_be_known: bool = True
) -> list[Address]:
    """What `host` means now. If one of its addresses is refused, all are."""
    written = address_of(host)
    if written is not None:
        found = [written]
    else:
        try:
            infos = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            if not must_be_known:
                return []
            raise NotSent(f"the name {host!r} is not known") from None
        told = (address_of(str(info[4][0]).partition("%")[0]) for info in infos)
        found = list(dict.fromkeys(each for each in told if each is not None))
    if rules is not None:
        for address in found:
            if why := rules.refuse_address(address, port):
                way_out = rules.way_out(host, port, address)
                raise NotSent(f"{host!r} leads where none may: {why}; {way_out}")
    return found


def _retry_after(headers: Iterable[tuple[bytes, bytes]]) -> float | None:
    """In seconds; a date (RFC 9110, 10.2.3) is taken against the answer's own `Date`."""
    named = {name.lower(): value.decode("latin-1") for name, value in headers}
    text = named.get(b"retry-after", "").strip()
    if text.isdigit() and len(text) <= 9:
        return float(text)
    try:
        until = parsedate_to_datetime(text)
        now = parsedate_to_datetime(named.get(b"date", ""))
        return max(0.0, (until - now).total_seconds())
    except (TypeError, ValueError):
        return None


def _tls(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({error.verify_message}); if it is your company's, "
            "set SSL_CERT_FILE to a file that holds the company's certificates"
        )
    return f"no TLS connection ({error.reason or 'TLS failed'})"


def _said(error: BaseException) -> str:
    return str(error)[:200] or "no more is known"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
