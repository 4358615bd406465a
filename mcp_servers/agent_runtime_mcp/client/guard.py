"""What a server may send: between its transport and the SDK, for programs and addresses alike.

Each answer belongs to one question, and comes once; what nobody asked for is counted. A breach cuts
the connection, and its reason stays: `link` decides when to try again. Sizes are bounded where they
are read, in `pipes` and `web`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Final

import anyio
from anyio.streams.memory import MemoryObjectSendStream
from mcp.client._transport import Transport
from mcp.shared._stream_protocols import ReadStream, WriteStream
from mcp.shared.message import SessionMessage
from mcp_types import (
    JSONRPCError,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
)

UNASKED_MAX: Final = 1000
"""Notifications and requests of a server at once."""
UNASKED_PER_SECOND: Final = 100.0
FAULTS_MAX: Final = 20
"""Lines or events that are no messages: some programs greet on their standard output."""
ANSWERED_KEPT: Final = 1000
DETAIL_CHARS_MAX: Final = 200

sent: ContextVar[list[RequestId] | None] = ContextVar("sent", default=None)
"""Collects the ids of the requests that a call makes."""


class Guard:
    """One connection's. `cut` ends it; the first reason stands."""

    def __init__(self) -> None:
        self.reason = ""
        """Why it was cut; empty: it was not."""
        self.modern = False
        """Does it speak the wire of 2026?"""
        self.breach = False
        """Did it break the rules?"""
        self.ended = anyio.Event()
        """Nothing more comes."""
        self.unsent: set[RequestId] = set()
        """Requests that no server has got."""
        self.refused: dict[RequestId, int] = {}
        """Requests that were turned away before anybody read them: the HTTP status."""
        self._open: set[RequestId] = set()
        self._answered: deque[RequestId] = deque(maxlen=ANSWERED_KEPT)
        self._given_up: deque[RequestId] = deque(maxlen=ANSWERED_KEPT)
        self._room = float(UNASKED_MAX)
        self._room_at = anyio.current_time()
        self._faults = 0
        self._on_cut: list[Callable[[], None]] = []

    def cut(self, reason: str, *, breach: bool = True) -> None:
        """End the connection for a reason. It is no breach to die."""
        if not self.reason:
            self.reason, self.breach = reason, breach
        self.ended.set()
        for end in self._on_cut:
            end()

    def on_cut(self, end: Callable[[], None]) -> None:
        """Call this when it is cut; at once if it is."""
        self._on_cut.append(end)
        if self.reason:
            end()

    def no_message(self, detail: str) -> None:
        """Something came that is no message of the protocol."""
        self._faults += 1
        if self._faults > FAULTS_MAX:
            shown = detail[:DETAIL_CHARS_MAX]
            self.cut(f"it sent more than {FAULTS_MAX} times what is no message: {shown!r}")

    @asynccontextmanager
    async def around(
        self, transport: Transport
    ) -> AsyncIterator[tuple[ReadStream[SessionMessage | Exception], WriteStream[SessionMessage]]]:
        """The transport, watched."""
        async with transport as (read, write):
            into, out = anyio.create_memory_object_stream[SessionMessage | Exception](0)
            async with anyio.create_task_group() as tg:
                tg.start_soon(self._pump, read, into)
                try:
                    yield out, _Outgoing(write, self)
                finally:
                    tg.cancel_scope.cancel()
                    out.close()

    async def _pump(
        self,
        read: ReadStream[SessionMessage | Exception],
        into: MemoryObjectSendStream[SessionMessage | Exception],
    ) -> None:
        # Cut, the SDK sees the end of the stream: what it was given before, it has dealt with. What
        # was taken for it is given, too, unless rules were broken: it may be a last answer, and the
        # SDK busy with what came before. Who ends the connection closes the other end of `into`.
        scope, handing = anyio.CancelScope(), anyio.CancelScope()

        def end() -> None:
            scope.cancel()
            if self.breach:
                handing.cancel()

        self.on_cut(end)
        try:
            with scope:
                async with into:
                    async for item in read:
                        if self._passes(item):
                            with anyio.CancelScope(shield=True) as handing:
                                await into.send(item)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        finally:
            self.ended.set()

    def _passes(self, item: SessionMessage | Exception) -> bool:
        if isinstance(item, Exception):
            self.no_message(str(item))
            return False
        match item.message:
            case JSONRPCResponse(id=id_, result=result):
                if self.modern:
                    # Clients must take a result that does not say what it is for a whole one.
                    result.setdefault("resultType", "complete")
                return self._answers(id_)
            case JSONRPCError(id=id_) if id_ is not None:
                return self._answers(id_)
            case JSONRPCRequest() | JSONRPCNotification():
                return self._unasked(item.message.method)
            case _:
                self.no_message("an error that answers nothing")
                return False

    def _answers(self, id_: RequestId) -> bool:
        for each in (id_, _other(id_)):  # the SDK takes "7" for 7
            if each in self._open:
                self._open.discard(each)
                self._answered.append(each)
                return True
            if each in self._given_up:
                self._given_up.remove(each)
                self._answered.append(each)
                return False
            if each in self._answered:
                self.cut(f"it answered request {id_!r} twice")
                return False
        self.no_message(f"an answer to {id_!r}, which nobody has asked")
        return False

    def _unasked(self, method: str) -> bool:
        now = anyio.current_time()
        self._room = min(
            float(UNASKED_MAX), self._room + (now - self._room_at) * UNASKED_PER_SECOND
        )
        self._room_at = now
        self._room -= 1
        if self._room >= 0:
            return True
        self.cut(
            f"it floods: more than {UNASKED_MAX} messages that nobody asked for, "
            f"{method[:DETAIL_CHARS_MAX]!r} the last"
        )
        return False

    def _asks(self, message: object) -> None:
        if isinstance(message, JSONRPCRequest):
            self._open.add(message.id)
            if (ids := sent.get()) is not None:
                ids.append(message.id)

    def took_back(self, id_: RequestId) -> None:
        """Nobody waits for this answer any more; it may come all the same, once."""
        if id_ in self._open:
            self._open.discard(id_)
            self._given_up.append(id_)


class _Outgoing:
    """The way to the server."""

    def __init__(self, write: WriteStream[SessionMessage], guard: Guard) -> None:
        self._write, self._guard = write, guard

    async def send(self, item: SessionMessage, /) -> None:
        self._guard._asks(item.message)
        try:
            await self._write.send(item)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            if isinstance(item.message, JSONRPCRequest):
                self._guard.unsent.add(item.message.id)
            raise

    async def aclose(self) -> None:
        await self._write.aclose()

    async def __aenter__(self) -> _Outgoing:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        await self.aclose()
        return None


def _other(id_: RequestId) -> RequestId:
    """The same number as text, or as a number."""
    if isinstance(id_, int):
        return str(id_)
    return int(id_) if id_.isdecimal() and len(id_) < 16 else id_
