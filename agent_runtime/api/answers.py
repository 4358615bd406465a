"""What an operation answers with: a whole body, or something that sends for itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = tuple[tuple[bytes, bytes], ...]
"""Names in lower case."""

JSON = b"application/json"

_encode = msgspec.json.Encoder().encode


class Answer(msgspec.Struct, frozen=True):
    """A status and a body that is known as a whole."""

    status: int
    body: bytes = b""
    headers: Headers = ()
    media_type: bytes = JSON

    def fields(self) -> list[tuple[bytes, bytes]]:
        """Its headers, with those that say what its body is."""
        fields = [*self.headers]
        if self.status not in (204, 304):
            fields.append((b"content-length", b"%d" % len(self.body)))
            fields.append((b"content-type", self.media_type))
        return fields

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, as ASGI has it."""
        head = {"type": "http.response.start", "status": self.status, "headers": self.fields()}
        await send(head)
        await send({"type": "http.response.body", "body": self.body})


Reply = Callable[[Scope, Receive, Send], Awaitable[None]]
"""An `Answer`, or a stream."""


def json_answer(value: object, status: int = 200, headers: Headers = ()) -> Answer:
    """`value` (Structs too) as a JSON body."""
    return Answer(status, _encode(value), headers)


def text_answer(text: str, media_type: str = "text/plain") -> Answer:
    """Text in UTF-8."""
    return Answer(200, text.encode("utf-8", "replace"), (), f"{media_type}; charset=utf-8".encode())
