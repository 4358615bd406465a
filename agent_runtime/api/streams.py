"""Events of a task, or of all, as they come (SSE), or as a page of JSON, by the Accept header."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Final

import anyio
import msgspec
from msgspec import UNSET, Meta, UnsetType

from agent_runtime.api.answers import Answer, Receive, Reply, Scope, Send, json_answer
from agent_runtime.api.guard import LetIn
from agent_runtime.api.hub import (
    AGAIN_SECONDS,
    EVERYTHING,
    PAGE_EVENTS,
    Encoded,
    Hub,
    StoredEvent,
    Topic,
    stored,
)
from agent_runtime.api.lines import Line
from agent_runtime.api.operations import Refused, Request, operation
from agent_runtime.api.problems import problem
from agent_runtime.api.views import view_of
from agent_runtime.errors import AgentRuntimeError, NotFound
from agent_runtime.loop import events as e
from agent_runtime.loop.codec import EVENT_TYPES
from agent_runtime.types import TERMINAL_STATUSES, TaskId, TaskSummary

RETRY_MS: Final = 2000
"""After which a browser's EventSource comes back."""
OUTPUT_SECONDS: Final = 0.04
"""A model's words are gathered for so long before they are sent."""
OUTPUT_CHARS_MAX: Final = 1 << 16
"""Of words that a slow reader has not taken yet; what is older is dropped: the log has all of it
when the turn is over."""

_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]

_TYPE_NAME: Final = "|".join(EVENT_TYPES)
_TYPE_LIST: Final = rf"^(({_TYPE_NAME})(,({_TYPE_NAME}))*)?$"

_END: Final = e.TaskEnded.__name__

Cursor = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class EventsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which events."""

    after: Cursor | UnsetType = UNSET
    """Only events behind this number; the header Last-Event-ID is the stronger."""
    types: Annotated[str, Meta(pattern=_TYPE_LIST, max_length=2000)] = ""
    """Only events of these types, separated by commas."""
    limit: Annotated[int, Meta(ge=1, le=PAGE_EVENTS)] = 100
    """Of a page of JSON."""


class TaskEventsQuery(EventsQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which events of a task, and what else."""

    snapshot: bool = False
    """Begin with an event `snapshot`: the task as it is, and only what comes after it."""
    output: bool = False
    """Also what a model says, as it comes: events `output` without an id, stored nowhere."""


class PositionedEvent(StoredEvent, frozen=True):
    """An event, and its place among the events of all tasks."""

    position: int


class EventPage(msgspec.Struct, frozen=True):
    """Events in their order. `next` is the `after` of the next page."""

    events: list[StoredEvent]
    next: int


class PositionedEventPage(msgspec.Struct, frozen=True):
    """Events of all tasks in the order in which they were stored."""

    events: list[PositionedEvent]
    next: int


_STREAM_HEADERS = {
    "Last-Event-ID": "number of the last event that was seen: what follows it is sent",
    "Accept": "text/event-stream for a stream, application/json for a page",
}


@operation(
    "GET", "/v1/tasks/{task_id}/events", answers={200: EventPage, 204: None},
    scope="tasks:read", errors=(404,), query=TaskEventsQuery, headers=_STREAM_HEADERS,
)  # fmt: skip
async def task_events(request: Request[None, TaskEventsQuery]) -> Reply:
    """Follow a task, or read its events.

    With `Accept: text/event-stream`, events come as they are stored; `id` is the event's number.
    The stream ends with the task; whoever asks again after that gets 204, so that a browser stops.
    Otherwise a page of JSON.
    """
    task_id, query = TaskId(request.path["task_id"]), request.query
    types = _types(query.types)
    after = _after(request, query.after)
    store = request.daemon.runtime.ports.store
    summary = await store.summary(task_id)
    if not _wants_stream(request):
        page = await store.load(task_id, after, query.limit)
        shown = [stored(row) for row in page if not types or row.type in types]
        return json_answer(EventPage(shown, page[-1].seq if page else after))
    if after > 0 and after == summary.seq and summary.status in TERMINAL_STATUSES:
        return Answer(204)
    if after > summary.seq:
        raise _ahead(after, summary.seq)
    return EventStream(request, task_id, after, types)


@operation(
    "GET", "/v1/events", answers={200: PositionedEventPage}, scope="tasks:read",
    query=EventsQuery, headers=_STREAM_HEADERS,
)  # fmt: skip
async def all_events(request: Request[None, EventsQuery]) -> Reply:
    """Follow all tasks, or read their events in the order in which they were stored.

    The id of an event in the stream is its position. A stream without `after` and without
    Last-Event-ID begins with the next event.
    """
    query, store = request.query, request.daemon.runtime.ports.store
    types = _types(query.types)
    if not _wants_stream(request):
        after = _after(request, query.after)
        found = await store.tail(after, query.limit)
        shown = [
            PositionedEvent(**msgspec.structs.asdict(stored(row)), position=at)
            for at, row in found
            if not types or row.type in types
        ]
        return json_answer(PositionedEventPage(shown, found[-1][0] if found else after))
    newest = await store.position()
    after = _after(request, newest if query.after is UNSET else query.after)
    if after > newest:
        raise _ahead(after, newest)
    return EventStream(request, EVERYTHING, after, types)


def _wants_stream(request: Request[None, Any]) -> bool:
    return "text/event-stream" in (request.header(b"accept") or "")


def _after(request: Request[None, Any], given: int | UnsetType) -> int:
    last = request.header(b"last-event-id")
    if not last:
        return 0 if given is UNSET else given
    if not last.isascii() or not last.isdigit() or len(last) > 18:
        detail = f"the header Last-Event-ID must be the id of an event, a number, got {last!r}"
        raise Refused(problem(422, "invalid-header", "A header is not valid", detail))
    return int(last)


def _ahead(after: int, newest: int) -> Refused:
    detail = f"there is no event {after}: the newest is {newest}; begin with a smaller number"
    return Refused(problem(422, "no-such-event", "The stream cannot begin there", detail))


def _types(text: str) -> frozenset[str]:
    return frozenset(text.split(",")) if text else frozenset()


class EventStream:
    """One follower: a cursor, and a connection."""

    def __init__(
        self, request: Request[None, Any], name: TaskId, cursor: int, types: frozenset[str]
    ) -> None:
        self._daemon = request.daemon
        self._hub: Hub = request.daemon.hub
        self._name = name
        self._cursor = cursor
        self._types = types
        query = request.query
        self._snapshot = isinstance(query, TaskEventsQuery) and query.snapshot
        self._output = isinstance(query, TaskEventsQuery) and query.output

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Until the task ends, the client goes, or the daemon stops."""
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        # The id says where a stream begins that was given no number: who is cut off before the
        # first event comes back to that place.
        await _send(send, b"retry: %d\nid: %d\n\n" % (RETRY_MS, self._cursor))
        async with anyio.create_task_group() as tg:

            async def leave() -> None:
                # uvicorn says nothing to a sender whose client has gone.
                while (await receive())["type"] != "http.disconnect":
                    pass
                tg.cancel_scope.cancel()

            tg.start_soon(leave)
            if self._output:
                tg.start_soon(self._say, send)
            await self._follow(send, scope)
            tg.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b""})

    async def _follow(self, send: Send, scope: Scope) -> None:
        if self._snapshot:
            try:
                summary = await self._daemon.runtime.ports.store.summary(self._name)
            except AgentRuntimeError:
                return  # the reader comes back, and is told why
            self._cursor = summary.seq
            await _send(send, _snapshot(summary))
            if summary.status in TERMINAL_STATUSES:
                return
        with self._hub.follow(self._name) as topic:
            beats = topic.beats
            while not self._hub.is_closed:
                grown = topic.grown
                try:
                    news = await self._hub.news(topic, self._cursor)
                except NotFound:
                    return  # forgotten while somebody looked
                except AgentRuntimeError:
                    # The pump says it. Whoever waited now would pass for one who has seen all.
                    await anyio.sleep(AGAIN_SECONDS)
                    continue
                if news:
                    self._cursor = news[-1].cursor
                    if frames := self._frames(news):
                        await _send(send, frames)
                    # A page may end where a task ended that was continued since.
                    if self._ended(news) and not await self._more(topic):
                        return
                elif topic.beats != beats:
                    beats = topic.beats
                    # An id alone moves the reader's Last-Event-ID over what was filtered out.
                    await _send(send, b": \nid: %d\n\n" % self._cursor)
                else:
                    await self._wait(topic, grown, scope)

    async def _wait(self, topic: Topic, grown: anyio.Event, scope: Scope) -> None:
        """Until there is something to look at. All was seen if `grown` is not set yet."""
        line: Line | None = scope.get("line")
        if line is None or self._types or grown.is_set():
            await grown.wait()
            return
        live = _Live(line, scope.get("let_in"), self._cursor, self._name != EVERYTHING)
        topic.live.add(live)
        try:
            await live.woken.wait()
        finally:
            topic.live.discard(live)
            self._cursor = live.cursor

    def _frames(self, news: list[Encoded]) -> bytes:
        if not self._types:
            return news[0].frame if len(news) == 1 else b"".join([event.frame for event in news])
        return b"".join([event.frame for event in news if event.type in self._types])

    async def _more(self, topic: Topic) -> bool:
        try:
            return bool(await self._hub.news(topic, self._cursor))
        except AgentRuntimeError:
            return False  # the reader comes back, and sees

    def _ended(self, news: Iterable[Encoded]) -> bool:
        """The last of them is an end."""
        *_, last = news
        return self._name != EVERYTHING and last.type == _END

    async def _say(self, send: Send) -> None:
        words: list[str] = []
        said = anyio.Event()

        def hear(text: str) -> None:
            words.append(text)
            said.set()

        stop = self._daemon.runtime.listen(self._name, hear)
        try:
            while True:
                await said.wait()
                await anyio.sleep(OUTPUT_SECONDS)
                said = anyio.Event()
                text = "".join(words)[-OUTPUT_CHARS_MAX:]
                words.clear()
                data = msgspec.json.encode({"text": text})
                await _send(send, b"event: output\ndata: %b\n\n" % data)
        finally:
            stop()


class _Live:
    """A stream while it has seen everything: see `hub.Live`."""

    def __init__(self, line: Line, let_in: LetIn | None, cursor: int, ends: bool) -> None:
        self._line, self._let_in, self._ends = line, let_in, ends
        self.cursor = cursor
        self.woken = anyio.Event()

    def take(self, events: Sequence[Encoded], chunk: bytes) -> bool:
        if events[0].cursor <= self.cursor or not (self._let_in is None or self._let_in.counts()):
            return False
        last = events[-1]
        if (self._ends and last.type == _END) or not self._line.write(chunk):
            return False
        self.cursor = last.cursor
        return True

    def wake(self) -> None:
        self.woken.set()


def _snapshot(summary: TaskSummary) -> bytes:
    data = msgspec.json.encode(view_of(summary))
    return b"id: %d\nevent: snapshot\ndata: %b\n\n" % (summary.seq, data)


async def _send(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
