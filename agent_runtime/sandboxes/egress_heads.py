"""What a client in the sandbox asks the egress proxy for, and what it is answered. Pure.

Strict on purpose: whatever two programs could read in two ways is refused, for the proxy and the
server behind it must see the same request (RFC 9112, sections 3.2 and 6.3). Hop-by-hop headers end
here (RFC 9110, section 7.6.1), and Host is made from the target, never from what the client said.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from agent_runtime.egress_rules import BadHost, target_of

HEAD_BYTES_MAX: Final = 32 << 10
HEADERS_MAX: Final = 100
BODY_DIGITS_MAX: Final = 15
TOKEN_USER: Final = "sandbox"

METHOD_CHARS_MAX: Final = 32

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_VERSION = re.compile(r"HTTP/1\.[01]\Z")
_HOP_BY_HOP: Final = frozenset(
    "connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    "upgrade host".split()
)
_REASONS: Final = {
    400: "Bad Request", 403: "Forbidden", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Gateway Timeout",
}  # fmt: skip


class BadRequest(ValueError):
    """No request that could be passed on; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A request's head. `path` and what follows are of plain HTTP only, not of CONNECT."""

    method: str
    host: str
    port: int
    path: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    """What is passed on, in order."""
    body_bytes: int | None = 0
    """None: chunked."""
    authorization: str = ""
    """What the client says to the proxy itself."""

    @property
    def is_tunnel(self) -> bool:
        """Is it a CONNECT?"""
        return self.method == "CONNECT"

    def has_token(self, token: str) -> bool:
        """Does the client know the token? As a password, for clients know nothing else."""
        scheme, _, text = self.authorization.partition(" ")
        try:
            said = base64.b64decode(text.strip(), validate=True)
        except ValueError:
            return False
        wanted = f"{TOKEN_USER}:{token}".encode()
        return scheme.lower() == "basic" and hmac.compare_digest(said, wanted)

    @property
    def authority(self) -> str:
        """Host and port as a Host header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 80 and not self.is_tunnel else f"{host}:{self.port}"

    def forwarded(self, *, absolute: bool = False, authorization: str = "") -> bytes:
        """The head for the server, or, `absolute`, for the company's own proxy."""
        target = f"http://{self.authority}{self.path}" if absolute else self.path
        lines = [f"{self.method} {target} HTTP/1.1", f"Host: {self.authority}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if authorization:
            lines.append(f"Proxy-Authorization: {authorization}")
        lines.append("Connection: close")
        return _encoded(lines)


def parse_head(data: bytes) -> Head:
    """A head without the empty line that ends it.

    Raises:
        BadRequest: it is none; says why.
    """
    text = data.decode("latin-1")
    if re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", text) or re.search(
        r"\r(?!\n)|(?<!\r)\n", text
    ):
        raise BadRequest("a control character in the head of the request")
    line, *rest = text.split("\r\n")
    words = line.split(" ")
    if len(words) != 3 or not _TOKEN.match(words[0]) or not _VERSION.match(words[2]):
        raise BadRequest("the first line is no HTTP/1.1 request")
    method, target, _ = words
    if len(method) > METHOD_CHARS_MAX:
        raise BadRequest(f"a method of more than {METHOD_CHARS_MAX} characters")
    headers = list(_headers(rest))
    authorization = next((value for _, value in _of(headers, "proxy-authorization")), "")
    try:
        if method == "CONNECT":
            host, port = target_of(target)
            return Head(method=method, host=host, port=port, authorization=authorization)
        host, port, path = _absolute(target)
    except BadHost as error:
        raise BadRequest(f"the target of the request: {error}") from None
    named = {name for _, value in _of(headers, "connection") for name in _words(value)}
    dropped = _HOP_BY_HOP | (named - {"content-length", "transfer-encoding"})
    return Head(
        method=method, host=host, port=port, path=path,
        headers=tuple(pair for pair in headers if pair[0].lower() not in dropped),
        body_bytes=_body(headers), authorization=authorization,
    )  # fmt: skip


def established() -> bytes:
    """The answer to a CONNECT that goes through."""
    return b"HTTP/1.1 200 Connection established\r\n\r\n"


def unauthorized() -> bytes:
    """The answer to a client without the token: it may have one, and was not asked yet."""
    return _encoded(
        [
            "HTTP/1.1 407 Proxy Authentication Required",
            'Proxy-Authenticate: Basic realm="agent-runtime"',
            "Content-Length: 0",
            "Connection: close",
        ]
    )


def answer(status: int, short: str, text: str) -> bytes:
    """A refusal: `short` goes into the first line, which is all that many clients show."""
    body = (text.rstrip("\n") + "\n").encode()
    phrase = re.sub(r"[^ -~]", "?", short)[:200] or _REASONS[status]
    lines = [
        f"HTTP/1.1 {status} {_REASONS[status]}: {phrase}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "X-Agent-Runtime-Egress: refused",
        "Connection: close",
    ]
    return _encoded(lines) + body


def _encoded(lines: list[str]) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")


def _absolute(target: str) -> tuple[str, int, str]:
    scheme, found, rest = target.partition("://")
    if not found:
        raise BadRequest("the target must be a whole URL: this is a proxy, not the server itself")
    if scheme.lower() != "http":
        raise BadRequest(
            f"a {scheme[:20]!r} address goes through CONNECT, only http:// is forwarded"
        )
    cut = re.search(r"[/?#]", rest)
    authority, path = (rest[: cut.start()], rest[cut.start() :]) if cut else (rest, "/")
    if "#" in path or "\\" in target:
        raise BadRequest("the target of the request has a fragment or a backslash")
    host, port = target_of(authority, default_port=80)
    return host, port, path if path.startswith("/") else f"/{path}"


def _headers(lines: list[str]) -> Iterator[tuple[str, str]]:
    if len(lines) > HEADERS_MAX:
        raise BadRequest(f"more than {HEADERS_MAX} headers")
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not _TOKEN.match(name):
            raise BadRequest("a line of the head is no header")
        yield name, value.strip(" \t")


def _body(headers: list[tuple[str, str]]) -> int | None:
    lengths = _of(headers, "content-length")
    codings = _of(headers, "transfer-encoding")
    if codings:
        if lengths or len(codings) > 1 or codings[0][1].lower() != "chunked":
            raise BadRequest("the body must have one length: chunked, or Content-Length")
        return None
    if not lengths:
        return 0
    value = lengths[0][1]
    if len(lengths) > 1 or not re.match(rf"[0-9]{{1,{BODY_DIGITS_MAX}}}\Z", value):
        raise BadRequest("Content-Length must be one number")
    return int(value)


def _of(headers: list[tuple[str, str]], wanted: str) -> list[tuple[str, str]]:
    return [pair for pair in headers if pair[0].lower() == wanted]


def _words(value: str) -> list[str]:
    return [word.strip().lower() for word in value.split(",")]
