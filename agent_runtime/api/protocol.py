"""uvicorn's HTTP protocol with what it leaves to a proxy: heads that never end, and their number.

A daemon must stand without a proxy before it, and one line of netcat must not cost it a connection
for ever. A head has a time and a size; connections have a number, and beyond it those that wait
for a request, or do not read their answer, make room (`lobby`).
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - a protocol of uvicorn's, which knows nothing else
import logging
from collections.abc import Coroutine
from typing import Any, Final

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from agent_runtime.api.answers import Answer
from agent_runtime.api.lines import STREAMS
from agent_runtime.api.lobby import Lobby, connections_max
from agent_runtime.api.short_way import Plain, ShortWay

HEAD_SECONDS_MAX: Final = 15.0
"""For a request's head, from its first byte; and for the first byte of a connection."""
HEAD_BYTES_MAX: Final = 64 << 10
LAST_BODY_SECONDS: Final = 3.0
"""So long is a body awaited when the server ends."""
PLAIN_BODY_SECONDS: Final = 0.2
"""So long may a body be on its way, and its request still be plain."""
LINGER_SECONDS: Final = 1.0
LINGERING_MAX: Final = 64
"""Connections that may be there beyond the number, until they have read that they are refused."""

STALL_SECONDS: Final = 5.0
"""After which a client that has taken nothing of its answer counts as one that waits."""

log = logging.getLogger(__name__)

_STRANGERS: Final = (httptools.HttpParserError, UnicodeDecodeError)
"""Of a URL that is none."""


class CycleLine:
    """A `lines.Line` of a request of uvicorn's."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._write = cycle.transport.write

    def write(self, chunk: bytes) -> bool:
        """See `lines.Line`."""
        cycle = self._cycle
        if cycle.disconnected or cycle.flow.write_paused or not cycle.chunked_encoding:
            return False
        if cycle.transport.is_closing():
            return False
        self._write(chunk)
        return True


class _Silent:
    """An event that nobody waits for."""

    def set(self) -> None:
        pass


class PlainCycle:
    """A request on the short way, as far as uvicorn looks at its own `RequestResponseCycle`."""

    __slots__ = ("disconnected", "keep_alive", "response_complete")
    message_event = _Silent()
    more_body = False
    response_started = False

    def __init__(self) -> None:
        self.disconnected = self.response_complete = False
        self.keep_alive = True


class GuardedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self, *args: Any, lobby: Lobby, short_way: ShortWay | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._lobby = lobby
        self._short_way = short_way
        self._plain: Plain | None = None
        """A head that may go the short way, while its body comes."""
        self._plain_body = b""
        self._hurrying: asyncio.TimerHandle | None = None
        """Ends the wait for that body."""
        self._head_since: float | None = None
        """When the head that is coming began; None: none is."""
        self._head_bytes = 0
        self._idle_since = 0.0
        """When the last answer was written."""
        self._looking: asyncio.TimerHandle | None = None
        self._stalling: asyncio.TimerHandle | None = None
        """Looks whether the client still reads; None: all that was written is on its way."""
        self._is_refused = False
        """Nothing more is read."""
        self._answering: RequestResponseCycle | PlainCycle | None = None
        """What is being answered, or was last; `cycle` is the newest, which may be behind it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody is there."""
        super().connection_made(transport)
        beyond = len(self.connections) - connections_max()
        if beyond > 0 and not self._lobby.make_room():
            if beyond > LINGERING_MAX:
                self.transport.abort()
            else:
                self._refuse(503, "Service Unavailable", "all connections are in use", b"2")
            return
        self._lobby.enter(self)
        self._head_since = self.loop.time()
        self._looking = self.loop.call_later(HEAD_SECONDS_MAX, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is there any more."""
        self._lobby.leave(self)
        self._forget_plain()
        self._stop_looking()
        self._stop_stalling()
        self._tell_gone()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _tell_gone(self) -> None:
        """To the application its client has gone: it hears so, and nothing of it is written."""
        # uvicorn tells the newest only: what it stands behind would write to nobody for ever.
        self.pipeline.clear()
        cycle = self._answering
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()

    def _stop_looking(self) -> None:
        self._head_since = None
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def data_received(self, data: bytes) -> None:
        """Some bytes of a request."""
        if self._is_refused:
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                if self._answering is not None and not self._answering.response_complete:
                    self.send_400_response("a WebSocket cannot stand behind another request")
                    return
                self._stop_looking()
                self.handle_websocket_upgrade()
        except httptools.HttpParserError as error:
            cause = error.__context__  # what one of our callbacks raised
            if cause is None or isinstance(cause, _STRANGERS):
                # Not a line in the log for each: a stranger's to cause.
                log.debug("a request is malformed")
            else:
                log.error("a request failed by a defect", exc_info=cause)
            self._forget_plain()
            self.send_400_response("the request is malformed")
            return
        if self._plain is not None and self._hurrying is None:
            self._hurrying = self.loop.call_later(PLAIN_BODY_SECONDS, self._go_long_way)
        if self._head_since is not None:  # a head is still coming
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse(431, "Request Header Fields Too Large", "the head has too many bytes")

    def on_message_begin(self) -> None:
        """A head begins."""
        self._head_since = self.loop.time()
        self._head_bytes = 0
        self.url, self.headers, self.expect_100_continue = b"", [], False

    def on_headers_complete(self) -> None:
        """A head has come whole."""
        self._lobby.leave(self)
        self._head_since = None
        self._plain = self._look_for_short_way()
        if self._plain is None:
            self._begin_long_way()

    def _look_for_short_way(self) -> Plain | None:
        parser = self.parser
        if self._short_way is None or self.flow.write_paused or self.transport.is_closing():
            return None
        if self.cycle is not None and not self.cycle.response_complete:
            return None  # it stands behind another one
        if parser.get_http_version() != "1.1" or not parser.should_keep_alive():
            return None
        return self._short_way.plain(parser.get_method().decode(), self.url, self.headers)

    def on_body(self, body: bytes) -> None:
        """A part of a body, or all of it."""
        if self._plain is not None:
            self._plain_body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request has come whole."""
        plain, short_way = self._plain, self._short_way
        if plain is not None and short_way is not None:
            coming = short_way.answer(
                plain, self._plain_body, client=self.client, scheme=self.scheme or "http"
            )
            if coming is not None:
                self._forget_plain()
                self._start_short_way(short_way, coming)
                return
            self._go_long_way()
        super().on_message_complete()

    def _start_short_way(self, short_way: ShortWay, coming: Coroutine[Any, Any, Answer]) -> None:
        cycle: Any = PlainCycle()
        self.cycle = self._answering = cycle
        task = self.loop.create_task(self._answer(short_way, cycle, coming))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    async def _answer(
        self, short_way: ShortWay, cycle: PlainCycle, coming: Coroutine[Any, Any, Answer]
    ) -> None:
        try:
            answer = await coming
            closes = not cycle.keep_alive
            written = short_way.written(answer, self.server_state.default_headers, closes=closes)
        except Exception:  # the border of a request
            log.exception("an answer failed by a defect")
            self.transport.close()
            return
        except BaseException:  # the server ends
            self.transport.close()
            raise
        if cycle.disconnected:
            return
        for part in written:
            self.transport.write(part)
        cycle.response_complete = True
        if closes:
            self.transport.close()
        self.on_response_complete()

    def _forget_plain(self) -> bytes:
        body, self._plain, self._plain_body = self._plain_body, None, b""
        if self._hurrying is not None:
            self._hurrying.cancel()
            self._hurrying = None
        return body

    def _go_long_way(self) -> None:
        body = self._forget_plain()
        self._begin_long_way()
        if body:
            super().on_body(body)

    def shutdown(self) -> None:
        """The server ends: no further request is taken, and this one is answered if it has come."""
        if self._plain is not None:
            self._go_long_way()
        super().shutdown()
        if self.transport.is_closing():
            self._stop_looking()
            self._looking = self.loop.call_later(LINGER_SECONDS, self._stop_lingering)
        elif self.cycle.more_body:
            self._stop_looking()
            self._looking = self.loop.call_later(LAST_BODY_SECONDS, self._end_without_body)

    def _stop_lingering(self) -> None:
        # Over TLS, closing waits half a minute for the client to say so as well, and whoever keeps
        # a connection for later does not listen.
        if not self.transport.get_write_buffer_size():
            self.transport.abort()

    def _end_without_body(self) -> None:
        if self.cycle.more_body and not self.cycle.response_complete:
            detail = "the daemon ends, and the body did not come in time"
            self._refuse(503, "Service Unavailable", detail, b"2")

    def _begin_long_way(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()  # makes a scope
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        super().on_headers_complete()
        # Its task has not begun yet. A WebSocket has no cycle: here may be the one before it.
        cycle: Any = self.cycle
        if not isinstance(cycle, RequestResponseCycle) or cycle.scope is not self.scope:
            return
        if self.scope["path"].endswith(STREAMS):
            self.scope["line"] = CycleLine(cycle)  # type: ignore[typeddict-unknown-key]

    def on_response_complete(self) -> None:
        """It waits for the next request, if that is not there yet."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_since = self.loop.time()
        if self.cycle.response_complete and self._stalling is None:
            self._lobby.enter(self)

    def pause_writing(self) -> None:
        """The client does not read as quickly as it is written to."""
        super().pause_writing()
        self._look_at_reading(None)

    def resume_writing(self) -> None:
        """It has nearly everything."""
        super().resume_writing()
        self._stop_stalling()
        if self.cycle is not None and self.cycle.response_complete and self.parser is not None:
            self._lobby.enter(self)
        else:
            self._lobby.leave(self)

    def _look_at_reading(self, before_bytes: int | None) -> None:
        """Whoever asks and never reads would keep a connection for ever."""
        left_bytes = self.transport.get_write_buffer_size()
        if before_bytes is not None and left_bytes >= before_bytes:
            self._lobby.enter(self)
        else:
            self._lobby.leave(self)
        self._stalling = self.loop.call_later(STALL_SECONDS, self._look_at_reading, left_bytes)

    def _stop_stalling(self) -> None:
        if self._stalling is not None:
            self._stalling.cancel()
            self._stalling = None

    def dismiss(self) -> None:
        """Others need the connection."""
        self._stop_looking()
        if self._stalling is not None:
            self.transport.abort()  # closing would wait for the client to read
            return
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._looking = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def _look(self) -> None:
        """One timer a connection, not one a request."""
        since, now = self._head_since, self.loop.time()
        left = HEAD_SECONDS_MAX  # what begins from now on need not be looked at before
        if since is not None:
            left = since + HEAD_SECONDS_MAX - now
        elif self._is_idle():
            left = min(left, self._idle_since + self.timeout_keep_alive - now)
        if left > 0:
            self._looking = self.loop.call_later(left, self._look)
        elif since is not None:
            self._refuse(408, "Request Timeout", "the head of the request did not come in time")
        else:
            self.transport.close()

    def _is_idle(self) -> bool:
        return self.cycle is not None and self.cycle.response_complete and self._plain is None

    def send_400_response(self, msg: str) -> None:
        """As every other refusal: a problem."""
        self._refuse(400, "Bad Request", msg)

    def _refuse(self, status: int, phrase: str, detail: str, retry_after: bytes = b"") -> None:
        if self.transport.is_closing():
            return
        self._lobby.leave(self)
        self._stop_looking()
        self._is_refused = True
        answering = self._answering
        if answering is not None and not answering.response_complete:
            if not answering.more_body:
                # What cannot be read stands behind a request that has come whole: the connection
                # ends with that one's answer, into which nothing may be written.
                self.pipeline.clear()
                answering.keep_alive = False
                return
            self._tell_gone()
            if answering.response_started:
                self.transport.close()
                return
        kind = "overloaded" if status == 503 else "malformed"
        body = msgspec.json.encode(
            {"type": f"/problems/{kind}", "title": phrase, "status": status, "detail": detail}
        )
        head = (
            f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/problem+json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n"
        ).encode() + (b"retry-after: %b\r\n" % retry_after if retry_after else b"")
        self.transport.write(head + b"\r\n" + body)
        # Closing at once would reset the connection while data come, and the answer with it
        # (RFC 9112, 9.6).
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._looking = self.loop.call_later(LINGER_SECONDS, self.transport.close)
        else:
            self.transport.close()
            self._looking = self.loop.call_later(LINGER_SECONDS, self._stop_lingering)
