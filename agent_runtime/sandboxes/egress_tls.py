"""What a client says first inside a tunnel: is it TLS, and for which server? Pure.

Only a ClientHello is read (RFC 8446, section 4.1.2), for the name that it asks for (SNI, RFC 6066,
section 3). It may come in any number of pieces and of records; whatever cannot be read to its end
is refused by the caller, never passed on unseen. With Encrypted Client Hello the outer name is the
one that is seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agent_runtime.egress_rules import BadHost, host_of

HELLO_BYTES_MAX: Final = 64 << 10
"""Of a whole hello with its record headers; those of today have up to 2 KB."""
UNRECOGNIZED_NAME: Final = bytes((21, 3, 1, 0, 2, 2, 112))
"""A fatal alert that clients show as "unrecognized name" (RFC 6066, section 3)."""

_HANDSHAKE: Final = 22
_SERVER_NAME: Final = 0
_RECORD_BYTES_MAX: Final = 1 << 14


class BadHello(ValueError):
    """It begins as TLS and is none that could be judged; says why."""


@dataclass(frozen=True, slots=True)
class Opening:
    """How a tunnel begins. `server_name` is normalised, and empty if none is asked for."""

    is_tls: bool
    server_name: str = ""


class Look:
    """Reads the first bytes as they come, each of them once: they may come one by one."""

    def __init__(self) -> None:
        self.seen = bytearray()
        self._at = 0
        """Where the next record begins."""
        self._message = bytearray()
        """The first handshake message, as far as it is there."""

    def feed(self, data: bytes) -> Opening | None:
        """What it is; None if it takes more bytes to know.

        Raises:
            BadHello: it is TLS, and broken, too long, or its name is no host's.
        """
        self.seen += data
        if bytes(self.seen[:1]) not in (b"", b"\x16") or bytes(self.seen[1:2]) not in (
            b"",
            b"\x03",
        ):
            return Opening(is_tls=False)
        self._take_records()
        message = self._message
        if bytes(message[:1]) not in (b"", b"\x01"):
            raise BadHello("does not begin with a hello")
        end = 4 + int.from_bytes(message[1:4])
        is_whole = self._is_whole()
        if end > HELLO_BYTES_MAX or (len(self.seen) > HELLO_BYTES_MAX and not is_whole):
            raise BadHello(f"has more than {HELLO_BYTES_MAX} bytes")
        if not is_whole:
            return None
        try:
            return Opening(is_tls=True, server_name=_server_name(_Reader(bytes(message[4:end]))))
        except BadHost as error:
            raise BadHello(f"asks for a server whose name {error}") from None

    def _take_records(self) -> None:
        data = self.seen
        while len(data) - self._at >= 5:
            count = int.from_bytes(data[self._at + 3 : self._at + 5])
            is_one = data[self._at] == _HANDSHAKE and data[self._at + 1] == 3
            if self._is_whole():
                return  # what follows the hello is nobody's business
            if not is_one or not 0 < count <= _RECORD_BYTES_MAX:
                raise BadHello("is broken off by something else")
            if len(data) - self._at < 5 + count:
                return
            self._message += data[self._at + 5 : self._at + 5 + count]
            self._at += 5 + count

    def _is_whole(self) -> bool:
        message = self._message
        return len(message) >= 4 and len(message) >= 4 + int.from_bytes(message[1:4])


def _server_name(hello: _Reader) -> str:
    hello.take(2 + 32)  # version, random
    hello.vector(1)  # session id
    hello.vector(2)  # cipher suites
    hello.vector(1)  # compression methods
    if not hello.left:
        return ""
    extensions = _Reader(hello.vector(2))
    names: list[bytes] = []
    seen: set[int] = set()
    while extensions.left:
        kind, body = int.from_bytes(extensions.take(2)), extensions.vector(2)
        if kind in seen:
            raise BadHello("says something twice")
        seen.add(kind)
        if kind == _SERVER_NAME:
            entries = _Reader(_Reader(body).vector(2))
            while entries.left:
                if entries.take(1) != b"\0":
                    raise BadHello("asks for a server by something else than a name")
                names.append(entries.vector(2))
    if len(names) > 1:
        raise BadHello("asks for several servers")
    return host_of(names[0].decode("latin-1")) if names else ""


class _Reader:
    """Takes parts off the front. `BadHello` where there are too few bytes."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise BadHello("is cut off")
        self._at += count
        return self._data[self._at - count : self._at]

    def vector(self, length_bytes: int) -> bytes:
        return self.take(int.from_bytes(self.take(length_bytes)))
