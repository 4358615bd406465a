"""The short way of a stream: bytes that many readers get alike are written to each at once.

What goes the usual way wakes a task for each reader and passes every layer of the application,
which costs more than the kernel takes for sending it. The server puts a `Line` into the scope of
what may last, as `scope["line"]`; a stream may use it once it has begun to answer. Under another
server there is none, and everything goes the usual way.
"""

from __future__ import annotations

from typing import Final, Protocol

STREAMS: Final = "/events"
"""How paths end whose answers may last."""


class Line(Protocol):
    """The connection that one stream is being sent on."""

    def write(self, chunk: bytes) -> bool:
        """Send what `chunked` made; False: nothing was sent, and it must go the usual way."""
        ...


def chunked(body: bytes) -> bytes:
    """A chunk of a body (RFC 9112, 7.1); `body` must not be empty."""
    return b"%x\r\n%b\r\n" % (len(body), body)
