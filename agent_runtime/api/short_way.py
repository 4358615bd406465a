"""The short way of a plain request: from its parsed head to its operation, past ASGI.

Each layer that stands around an operation (`Idling`, `Measured`, `Guard`, `Dispatch`, uvicorn's
cycle) wraps what it passes on, and together they cost more than a submission's own work. Here the
same parts are asked in a row: most requests are for an operation that answers with a whole body,
come with their body, and have nothing about them that anybody would look at twice. Whatever is
unusual gets None here and goes the long way, which decides alone what becomes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

from agent_runtime.api.answers import Answer, Scope
from agent_runtime.api.dispatch import Dispatch
from agent_runtime.api.guard import Guard
from agent_runtime.api.idling import Idling
from agent_runtime.api.lines import STREAMS
from agent_runtime.api.metrics import Metrics
from agent_runtime.api.operations import Endpoint, Prepared

Header = tuple[bytes, bytes]

_PLAIN: Final = frozenset(
    (
        *(b"host", b"authorization", b"user-agent", b"connection"),
        *(b"accept", b"accept-encoding", b"accept-language"),
        *(b"content-type", b"content-length"),
        *(b"idempotency-key", b"if-match", b"if-none-match", b"prefer"),
    )
)
"""What a plain request may say about itself: nothing else is known not to need a closer look."""


BODY_BYTES_MAX: Final = 256 << 10
"""Larger ones are worth the long way, and come in many parts."""
_COPIED_BYTES: Final = 64 << 10
"""Smaller bodies are sent with their heads: a copy costs less than a call of the kernel."""
_DIGITS_MAX: Final = 18
"""As the guard has it."""


class Plain(msgspec.Struct, frozen=True):
    """A request's head that may go the short way."""

    method: str
    path: str
    query: bytes
    headers: Sequence[Header]
    found: Mapping[bytes, bytes]
    """The same, by their names."""
    endpoint: Endpoint
    prepared: Prepared
    parameters: Mapping[str, str]


class ShortWay:
    """One for a server."""

    def __init__(
        self,
        guard: Guard,
        dispatch: Dispatch,
        *,
        metrics: Metrics,
        idling: Idling,
        monotonic: Callable[[], float],
    ) -> None:
        self._guard = guard
        self._dispatch = dispatch
        self._metrics = metrics
        self._idling = idling
        self._monotonic = monotonic
        self._common: tuple[Sequence[Header], bytes] = ((), b"")
        """Headers of all answers, and how they are written."""

    def plain(self, method: str, url: bytes, headers: Sequence[Header]) -> Plain | None:
        """The head, if it is plain. `headers` in lower case; nothing is decided yet."""
        found = dict(headers)
        if len(found) != len(headers) or not _PLAIN.issuperset(found):
            return None
        target, _, query = url.partition(b"?")
        if not url.isascii() or b"%" in target or b"#" in url or not url.startswith(b"/v1/"):
            return None
        path = target.decode()
        place = self._dispatch.find(path)
        if place is None or path.endswith(STREAMS) or method == "HEAD":
            return None
        endpoint, parameters = place
        if not isinstance(endpoint, Endpoint):
            return None
        prepared = endpoint.prepared(method)
        if prepared is None or prepared.operation.streamed or not prepared.operation.scope:
            return None
        length = found.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > _DIGITS_MAX:
            return None  # the parser takes blanks behind it, and zeros before it
        if int(length) > min(BODY_BYTES_MAX, prepared.operation.body_bytes_max):
            return None
        return Plain(method, path, query, headers, found, endpoint, prepared, parameters)

    def answer(
        self, plain: Plain, body: bytes, *, client: tuple[str, int] | None, scheme: str
    ) -> Coroutine[Any, Any, Answer] | None:
        """What will answer it; None: it has to go the long way after all."""
        caller = self._guard.lets_in(plain.query, plain.found)
        if caller is None:
            return None
        scope: Scope = {
            "type": "http",
            "method": plain.method,
            "path": plain.path,
            "query_string": plain.query,
            "headers": plain.headers,
            "client": client,
            "scheme": scheme,
            "caller": caller,
            "path_params": plain.parameters,
        }
        return self._answer(plain, scope, body)

    async def _answer(self, plain: Plain, scope: Scope, body: bytes) -> Answer:
        begun = self._monotonic()
        status = 499  # as `Measured` has it
        self._idling.enter()
        try:
            answer = await plain.endpoint.reply(plain.prepared, scope, whole=body)
            assert isinstance(answer, Answer), f"{plain.prepared.name} answers with a stream"
            status = answer.status
            return answer
        finally:
            self._idling.leave()
            self._metrics.observe(
                plain.method, plain.prepared.name, status, self._monotonic() - begun
            )

    def written(
        self, answer: Answer, common: Sequence[Header], *, closes: bool
    ) -> tuple[bytes, ...]:
        """An answer as HTTP/1.1 has it, a large body (a bundle) as a part of its own.

        `common`: the server's own headers, a date among them.
        """
        if common is not self._common[0]:
            self._common = (common, b"".join([b"%b: %b\r\n" % header for header in common]))
        fields = answer.fields()
        if closes and (b"connection", b"close") not in fields:
            fields.append((b"connection", b"close"))
        text = b"".join([b"%b: %b\r\n" % field for field in fields])
        # None of ours may end a line: what a caller sent would stand in the head as its own.
        assert text.count(b"\n") == len(fields) == text.count(b"\r")
        head = b"%b%b%b\r\n" % (_STATUS_LINES[answer.status], self._common[1], text)
        return (head + answer.body,) if len(answer.body) < _COPIED_BYTES else (head, answer.body)


_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
