"""As much of HTTP/1.1 as a client of one address needs, on plain sockets.

The standard library's client costs as long to import as all the rest of the front, and cannot be
told to look after the other side while it waits. Any thread may `close` a connection that another
one waits for.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Final

from agent_runtime.client.places import Place

CONNECT_SECONDS: Final = 10.0
SILENCE_SECONDS: Final = 30.0
"""Without a byte, after which it is asked whether the daemon lives. A call may last longer."""
LIVES_SECONDS: Final = 10.0
IDLE_MAX: Final = 8
"""Connections that are kept for the next requests."""
HEAD_BYTES_MAX: Final = 1 << 16
READ_BYTES: Final = 1 << 16


class Lost(Exception):
    """No answer: there is no connection, or it broke. Whether the request was done is unknown."""


class Answer:
    """What came back. The body is read once, by `parts` or `body`."""

    def __init__(self, connection: Connection, status: int, headers: dict[str, str]) -> None:
        self.status = status
        self.headers = headers
        """Names in small letters."""
        self._connection = connection

    @property
    def kind(self) -> str:
        """The media type, without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def body(self) -> bytes:
        """All of it. `Lost`: it ended early."""
        return b"".join(self.parts())

    def parts(self) -> Iterator[bytes]:
        """As it comes. `Lost`: it ended early."""
        connection, headers = self._connection, self.headers
        if self.status in (204, 304):
            length: int | None = 0
        elif headers.get("transfer-encoding", "").lower() == "chunked":
            yield from connection.chunks()
            length = 0
        else:
            text = headers.get("content-length", "")
            length = int(text) if text.isascii() and text.isdigit() else None
        if length is None:
            yield from connection.rest()
        elif length:
            yield from connection.some(length)
        connection.is_free = length is not None and headers.get("connection", "").lower() != "close"


class Connection:
    """To one daemon; one request at a time."""

    def __init__(self, place: Place) -> None:
        """Raises `Lost`: nothing listens there."""
        parts = place.parts
        host, port = parts.hostname or "", parts.port
        self.place = place
        self.is_free = False
        """Has its answer been read, so that it can be asked again?"""
        self._prefix = parts.path
        self._host = parts.netloc
        self._rest = b""
        self._sock: socket.socket
        try:
            self._sock = socket.create_connection(
                (host, port or (443 if parts.scheme == "https" else 80)), CONNECT_SECONDS
            )
            if parts.scheme == "https":
                import ssl  # most daemons are on this machine

                context = ssl.create_default_context()
                self._sock = context.wrap_socket(self._sock, server_hostname=host)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            raise Lost(f"{place.url} cannot be reached: {error}") from None
        self._sock.settimeout(SILENCE_SECONDS)

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Answer:
        """Send a request; returns when the answer begins. `Lost`: none came."""
        self.is_free = False
        sent = {"Host": self._host, **headers}
        if self.place.token:
            sent["Authorization"] = f"Bearer {self.place.token}"
        if body is not None:
            sent["Content-Length"] = str(len(body))
        lines = [f"{method} {self._prefix}{path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in sent.items()]
        head = "\r\n".join(lines).encode("ascii", "replace") + b"\r\n\r\n"
        try:
            self._sock.sendall(head + body if body is not None else head)
        except OSError as error:
            raise Lost(f"the connection to the daemon broke: {error}") from None
        while True:
            status, found = self._head()
            if status >= 200:
                return Answer(self, status, found)

    def close(self) -> None:
        """Whoever waits for it hears that it is `Lost`."""
        with suppress(OSError):
            # Of a plain socket, also under TLS: nothing must be said, only the waiting must end.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def drop(self) -> None:
        """It is not used any more, by nobody."""
        with suppress(OSError):
            self._sock.close()

    def is_stale(self) -> bool:
        """Has the other side ended it, or said something that nobody asked?"""
        try:
            return bool(self._rest) or bool(select.select([self._sock], [], [], 0)[0])
        except (OSError, ValueError):
            return True

    def chunks(self) -> Iterator[bytes]:
        """A body in pieces that say their sizes (RFC 9112, 7.1)."""
        while True:
            try:
                size = int(self._line().partition(b";")[0], 16)
            except ValueError:
                raise Lost("the daemon's answer is no HTTP") from None
            if size == 0:
                while self._line():
                    pass
                return
            yield from self.some(size)
            self._line()

    def some(self, size: int) -> Iterator[bytes]:
        """So many bytes."""
        while size:
            if not self._rest:
                self._rest = self._read()
            part, self._rest = self._rest[:size], self._rest[size:]
            size -= len(part)
            yield part

    def rest(self) -> Iterator[bytes]:
        """Until the other side ends it: then it was all, or the daemon has died; nobody knows."""
        if self._rest:
            yield self._rest
        self._rest = b""
        with suppress(Lost):
            while True:
                yield self._read()

    def _head(self) -> tuple[int, dict[str, str]]:
        words = self._line().split(None, 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
            raise Lost("the daemon's answer is no HTTP")
        headers: dict[str, str] = {}
        while line := self._line():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        return int(words[1]), headers

    def _line(self) -> bytes:
        while (end := self._rest.find(b"\n")) < 0:
            if len(self._rest) > HEAD_BYTES_MAX:
                raise Lost("the daemon's answer is no HTTP")
            self._rest += self._read()
        line, self._rest = self._rest[:end], self._rest[end + 1 :]
        return line.removesuffix(b"\r")

    def _read(self) -> bytes:
        while True:
            try:
                data = self._sock.recv(READ_BYTES)
            except TimeoutError:
                if not _lives(self.place):
                    raise Lost("the daemon says nothing any more") from None
                continue
            except OSError as error:
                raise Lost(f"the connection to the daemon broke: {error}") from None
            if not data:
                raise Lost("the daemon ended the connection")
            return data


class Link:
    """Connections to one daemon, each kept for the next request."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._idle: list[Connection] = []

    def take(self) -> Connection:
        """One that is free; `give` it back. `Lost`: nothing listens there."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_stale():
                return connection
            connection.drop()
        return Connection(self.place)

    def give(self, connection: Connection) -> None:
        """It is not needed now."""
        if connection.is_free and len(self._idle) < IDLE_MAX:
            self._idle.append(connection)
        else:
            connection.drop()

    def drop(self) -> None:
        """None is kept: the daemon is another one now."""
        while self._idle:
            self._idle.pop().drop()


def _lives(place: Place) -> bool:
    """Does it answer at all, on a connection of its own?"""
    try:
        connection = Connection(place)
    except Lost:
        return False
    try:
        connection._sock.settimeout(LIVES_SECONDS)
        head = f"GET {connection._prefix}/livez HTTP/1.1\r\nHost: {connection._host}\r\n\r\n"
        connection._sock.sendall(head.encode("ascii", "replace"))
        return bool(connection._sock.recv(1))
    except OSError:
        return False
    finally:
        connection.drop()
