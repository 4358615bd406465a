"""One HTTP exchange with what Python brings: through the environment's proxy, within a time limit.

What went wrong is told apart by what the server may have seen: `NotAllowed` and `NotSent` mean
nothing, `NoAnswer` means that nobody knows.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urljoin, urlsplit

from agent_runtime.types import ToolCall

BODY_BYTES_MAX: Final = 8 << 20
_PIECE_BYTES: Final = 1 << 16
_OURS: Final = frozenset(
    "host content-length transfer-encoding connection keep-alive te trailer upgrade".split()
)
"""Headers that the exchange itself decides: who chose them could speak to another host."""
_OF_ONE_ORIGIN: Final = frozenset({"authorization", "cookie", "idempotency-key"})
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_REFUSED: Final = "x-agent-runtime-egress"
"""A header of the egress proxy's own answers."""


class NotAllowed(Exception):
    """The task may not reach this server; says what in the task file would allow it."""


class NotSent(Exception):
    """The server could not be reached: it has seen nothing of the request."""


class NoAnswer(Exception):
    """The request, or a part of it, was sent, and no whole answer came back."""

    def __init__(self, message: str, *, is_timeout: bool = False) -> None:
        super().__init__(message)
        self.is_timeout = is_timeout


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent. `headers` hold everything but what `_OURS` names."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; `url` is where from, after `redirects`."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    is_cut: bool
    url: str
    redirects: tuple[str, ...]
    note: str = ""
    """Why a redirect could not be followed after something was sent that may not be sent twice."""

    def header(self, wanted: str) -> str:
        """A header's first value, empty if it is not there."""
        return next((value for name, value in self.headers if name.lower() == wanted), "")

    def text(self) -> str | None:
        """The body as text; None if it is none."""
        found = re.search(r"charset=[\"']?([\w.-]+)", self.header("content-type"))
        body = self.body
        if self.is_cut:  # in the middle of a character, perhaps
            body = body[: len(body) - 4] + body[len(body) - 4 :].decode(errors="ignore").encode()
        try:
            text = body.decode(found[1] if found else "utf-8")
        except (UnicodeError, LookupError):
            return None
        return None if "\0" in text else text

    def described(self) -> str:
        """The body in words."""
        kind = self.header("content-type").partition(";")[0].strip() or "an unknown type"
        coding = self.header("content-encoding")
        return f"{len(self.body):,} bytes of {kind}" + (f", {coding}" if coding else "")


def request(call: ToolCall, method: str) -> Request:
    """The request that a call asks for. Raises `ValueError`."""
    given: dict[str, str] = dict(call.arguments.get("headers", {}))
    names = {name.lower() for name in given}
    for name, value in given.items():
        if not _TOKEN.match(name) or re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
            raise ValueError(f"the header {name!r} has a character that no header may have")
        if name.lower() in _OURS or name.lower().startswith("proxy-"):
            raise ValueError(f"the header {name!r} follows from the request and cannot be chosen")
        try:
            value.encode("latin-1")
        except UnicodeError:
            raise ValueError(f"the header {name!r} must be in Latin-1") from None
    body = call.arguments.get("body")
    if body is not None and not isinstance(body, str):
        if "content-type" not in names:
            given["Content-Type"] = "application/json"
        body = json.dumps(body)
    if "user-agent" not in names:
        given["User-Agent"] = "agent-runtime"
    if "accept-encoding" not in names:
        given["Accept-Encoding"] = "identity"
    if method not in ("GET", "HEAD", "OPTIONS") and "idempotency-key" not in names:
        given["Idempotency-Key"] = call.idempotency_key or call.call_id
    url = str(call.arguments["url"])
    _place(url)
    return Request(method, url, tuple(given.items()), None if body is None else body.encode())


def exchange(request: Request, *, env: Mapping[str, str], seconds: float, redirects: int) -> Answer:
    """Send it and follow at most so many redirects, all of it within the time.

    Raises:
        NotAllowed, NotSent, NoAnswer: see there.
    """
    deadline = time.monotonic() + seconds
    followed: list[str] = []
    answer: Answer | None = None
    is_safe = request.method in ("GET", "HEAD", "OPTIONS")
    while True:
        try:
            answer = _once(request, env, deadline, seconds)
        except (NotAllowed, NotSent, NoAnswer) as error:
            if answer is None or is_safe:
                raise
            # The first request has been answered: whoever hears "not sent" would send it again.
            note = f"the redirect to {request.url} could not be followed: {error}"
            return replace(answer, redirects=tuple(followed[:-1]), note=note)
        target = answer.header("location")
        if answer.status not in (301, 302, 303, 307, 308) or not target:
            return replace(answer, redirects=tuple(followed))
        try:
            following = _redirected(request, answer.status, urljoin(request.url, target))
        except ValueError:
            following = None
        if following is None or len(followed) >= redirects:
            return replace(answer, redirects=tuple(followed))
        request = following
        followed.append(request.url)


def _redirected(request: Request, status: int, url: str) -> Request | None:
    """The request that a redirect asks for; None for a way back to plain text."""
    old, new = _place(request.url), _place(url)
    if old[0] == "https" and new[0] == "http":
        return None
    headers = request.headers
    if old[:3] != new[:3]:
        headers = tuple(pair for pair in headers if pair[0].lower() not in _OF_ONE_ORIGIN)
    keeps = request.method in ("GET", "HEAD", "OPTIONS")
    if not keeps and (status == 303 or (status in (301, 302) and request.method == "POST")):
        headers = tuple(pair for pair in headers if pair[0].lower() != "content-type")
        return Request("GET", url, headers, None)
    return replace(request, url=url, headers=headers)


def _place(url: str) -> tuple[str, str, int, str]:
    """Scheme, host, port and the path with its query. Raises `ValueError`."""
    if re.search(r"[\x00-\x20\x7f]", url):
        raise ValueError(
            f"the address {url!r} holds a space or a control character; write it as %20"
        )
    if not url.isascii():
        raise ValueError(f"the address {url!r} must be in ASCII: a host as xn--…, a path with %…")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is no http:// or https:// address")
    if parts.username is not None:
        raise ValueError("a user and password in the address end up in logs: use a header")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return parts.scheme, parts.hostname, port, path


# ---- one request -------------------------------------------------------------------------


def _once(request: Request, env: Mapping[str, str], deadline: float, seconds: float) -> Answer:
    scheme, host, port, path = _place(request.url)
    proxy = _proxy(env, scheme, host)
    with _connected(scheme, host, port, proxy, env, deadline, seconds) as stream:
        connection = http.client.HTTPConnection(host, port)
        connection.sock = stream
        if proxy and scheme == "http":
            path = f"http://{_authority(host, port, 80)}{path}"
        try:
            with _watched(stream, deadline) as is_late:
                try:
                    connection.putrequest(request.method, path, skip_host=True,
                                          skip_accept_encoding=True)  # fmt: skip
                    default = 443 if scheme == "https" else 80
                    connection.putheader("Host", _authority(host, port, default))
                    for name, value in request.headers:
                        connection.putheader(name, value)
                    if request.body is not None or request.method in ("POST", "PUT", "PATCH"):
                        connection.putheader("Content-Length", str(len(request.body or b"")))
                    connection.putheader("Connection", "close")
                    connection.endheaders(request.body)
                    response = connection.getresponse()
                    body, is_cut = _body(response)
                except (OSError, http.client.HTTPException) as error:
                    if is_late.is_set() or isinstance(error, TimeoutError):
                        late = f"no whole answer within {seconds:g} s"
                        raise NoAnswer(late, is_timeout=True) from None
                    said = str(error) or type(error).__name__
                    raise NoAnswer(f"the connection broke before a whole answer: {said}") from None
        finally:
            connection.close()
    headers = tuple(response.getheaders())
    answer = Answer(response.status, response.reason, headers, body, is_cut, request.url, ())
    if proxy and answer.header(_REFUSED):
        _refused(answer.status, body)
    return answer


def _body(response: http.client.HTTPResponse) -> tuple[bytes, bool]:
    body = bytearray()
    while len(body) <= BODY_BYTES_MAX:
        piece = response.read(_PIECE_BYTES)
        if not piece:
            if response.length:
                raise http.client.IncompleteRead(bytes(body[-100:]), response.length)
            return bytes(body), False
        body += piece
    return bytes(body[:BODY_BYTES_MAX]), True


@contextmanager
def _connected(
    scheme: str, host: str, port: int, proxy: tuple[str, int] | None,
    env: Mapping[str, str], deadline: float, seconds: float,
) -> Iterator[socket.socket]:  # fmt: skip
    """A stream to the server, or for plain HTTP to the proxy. Closed afterwards."""
    left = max(deadline - time.monotonic(), 0.001)
    try:
        stream = socket.create_connection(proxy or (host, port), timeout=left)
    except OSError as error:
        if proxy is None and not host.startswith("127.") and host not in ("localhost", "::1"):
            raise NotAllowed(_no_network(host, port, error)) from None
        raise NotSent(f"{_authority(host, port, 0)} cannot be reached: {error}") from None
    try:
        stream.settimeout(None)
        if scheme == "https":
            with _watched(stream, deadline) as is_late:
                try:
                    if proxy:
                        _tunnel(stream, host, port)
                    stream = _context(env).wrap_socket(stream, server_hostname=host)
                except OSError as error:
                    if is_late.is_set():
                        raise NotSent(f"no connection within {seconds:g} s") from None
                    raise NotSent(f"no TLS with {host}: {error}") from None
        yield stream
    finally:
        stream.close()


def _tunnel(stream: socket.socket, host: str, port: int) -> None:
    """Ask the proxy for a way to the server; a refusal says why in its body."""
    authority = _authority(host, port, 0)
    stream.sendall(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):  # byte by byte: what follows is the server's
        if not (byte := stream.recv(1)) or len(head) > 1 << 16:
            raise NotSent("the proxy closed the connection")
        head += byte
    line, *rest = head.decode("latin-1").split("\r\n")
    status = int(line.split(" ")[1]) if re.match(r"HTTP/1\.[01] \d{3}", line) else 0
    if status == 200:
        return
    body = bytearray()
    while len(body) < 1 << 16 and (piece := stream.recv(4096)):
        body += piece
    if any(header.lower().startswith(_REFUSED) for header in rest):
        _refused(status, bytes(body))
    raise NotSent(f"the proxy answered {line!r}")


def _refused(status: int, body: bytes) -> None:
    text = body.decode("utf-8", "replace").strip()
    raise (NotSent if status in (502, 503, 504) else NotAllowed)(text)


@contextmanager
def _watched(stream: socket.socket, deadline: float) -> Iterator[threading.Event]:
    """End the stream at the deadline, however slowly the other side goes on; tells if it did."""
    is_late = threading.Event()

    def end() -> None:
        is_late.set()
        with suppress(OSError):
            # The descriptor itself: a TLS socket's own shutdown would wait for its other thread.
            socket.socket.shutdown(stream, socket.SHUT_RDWR)

    timer = threading.Timer(max(deadline - time.monotonic(), 0), end)
    timer.daemon = True
    timer.start()
    try:
        yield is_late
    finally:
        timer.cancel()


def _context(env: Mapping[str, str]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=env.get("SSL_CERT_FILE") or None)


# ---- the way there -----------------------------------------------------------------------


def _proxy(env: Mapping[str, str], scheme: str, host: str) -> tuple[str, int] | None:
    text = next(
        (
            value
            for name in (f"{scheme}_proxy", f"{scheme}_PROXY".upper(), "all_proxy", "ALL_PROXY")
            if (value := env.get(name))
        ),
        "",
    )
    exceptions = (env.get("no_proxy") or env.get("NO_PROXY") or "").split(",")
    names = [entry.strip().lower().lstrip("*.") for entry in exceptions]
    if not text or any(name and (host == name or host.endswith(f".{name}")) for name in names):
        return None
    parts = urlsplit(text if "://" in text else f"http://{text}")
    return (parts.hostname, parts.port or 80) if parts.hostname else None


def _authority(host: str, port: int, default: int) -> str:
    host = f"[{host}]" if ":" in host else host
    return host if port == default else f"{host}:{port}"


def _no_network(host: str, port: int, error: OSError) -> str:
    rule = _authority(host, port, port if port in (80, 443) else 0)
    return (
        f"there is no way to {host} from here ({error}). The sandbox of a task has no network "
        "unless its task file says so: "
        f'policy: {{network: restricted, egress: ["{rule}"]}} would allow this host'
    )
