"""A provider that says what the test tells it to, byte by byte, over a real socket."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.sandboxes.web import ADDRESS


@dataclass
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


@dataclass
class Reply:
    """What is written; then the connection is closed, or held open until the test is over."""

    data: bytes
    hold: bool = False
    repeat: int = 1
    """How often `data` is written: large answers need no large test."""


@dataclass
class Provider:
    """The server. Replies are used in their order; the last one again and again."""

    url: str
    replies: list[Reply] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def say(self, *replies: Reply) -> None:
        self.replies[:] = replies

    @property
    def bodies(self) -> list[Any]:
        return [asked.body for asked in self.asked]


def answer(
    body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None, length: int = 0
) -> Reply:
    """A whole answer: JSON, or bytes as they are. `length`: what it pretends to have besides."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {
        "content-type": "application/json",
        "content-length": str(len(data) + length),
        **(headers or {}),
    }
    return Reply(_head(status, named) + data)


def stream(
    events: Sequence[Any], *, done: bool = True, whole: bool = True, hold: bool = False
) -> Reply:
    """An answer in events. `done`: with OpenAI's last line; `whole`: ended as HTTP wants it."""
    pieces = [
        each
        if isinstance(each, bytes)
        else (f"event: {each['type']}\n" if "type" in each else "").encode()
        + b"data: " + json.dumps(each).encode() + b"\n\n"
        for each in events
    ]  # fmt: skip
    if done:
        pieces.append(b"data: [DONE]\n\n")
    data = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    head = _head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
    return Reply(head + data + (b"0\r\n\r\n" if whole and not hold else b""), hold=hold)


@contextmanager
def provider(certificate: Path | None = None) -> Iterator[Provider]:
    """A provider on a port of its own; with `make_certificate`'s over TLS, at its address."""
    host = ADDRESS if certificate else "127.0.0.1"
    listener = socket.create_server((host, 0))
    scheme = "https" if certificate else "http"
    served = Provider(f"{scheme}://{host}:{listener.getsockname()[1]}")
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    thread = threading.Thread(target=_accept, args=(listener, served, context), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        served.over.set()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def _accept(listener: socket.socket, served: Provider, context: ssl.SSLContext | None) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(connection, served, context), daemon=True).start()


def _serve(connection: socket.socket, served: Provider, context: ssl.SSLContext | None) -> None:
    with suppress(OSError), connection:
        if context is not None:
            connection = context.wrap_socket(connection, server_side=True)
        with connection, connection.makefile("rb") as lines:
            line = lines.readline().decode("latin-1")
            if "HTTP/" not in line:
                connection.sendall(_head(400, {}))
                return
            method, path, _ = line.split(" ", 2)
            headers: dict[str, str] = {}
            while (header := lines.readline().decode().strip()) != "":
                name, _, value = header.partition(":")
                headers[name.lower()] = value.strip()
            if headers.get("transfer-encoding") == "chunked":
                raw = b""
                while size := int(lines.readline(), 16):
                    raw += lines.read(size)
                    lines.readline()
            else:
                raw = lines.read(int(headers.get("content-length", "0")))
            served.asked.append(Asked(method, path, headers, raw))
            reply = served.replies.pop(0) if len(served.replies) > 1 else served.replies[0]
            for _ in range(reply.repeat):
                connection.sendall(reply.data)
            if reply.hold:
                served.over.wait(30)


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Said", "connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
