"""One conversation: lines of a client on one side, requests to the daemon on the other.

The thread that reads decides where a message goes. Each request has a thread of its own, so that a
slow call holds nobody up; notifications and answers to questions go one after the other. A request
whose connection breaks is asked again, with the key that says it is the same one: a daemon that has
done it already gives the answer and does nothing. The client notices a restart as a slow answer.

Ends when stdin ends, and also when nobody can read stdout any more: of a client that is killed,
another process may have inherited one of the two.
"""

from __future__ import annotations

import json
import os
import select
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Final, NoReturn
from urllib.parse import urlencode

from agent_runtime.client.patience import PATIENCE_SECONDS, Failure, Patience
from agent_runtime.client.places import Place
from agent_runtime.client.sse import Frames
from agent_runtime.errors import AgentRuntimeError
from agent_runtime_mcp.front import headers
from agent_runtime_mcp.front.daemons import Away, Daemons
from agent_runtime_mcp.front.http import Answer, Connection, Link, Lost
from agent_runtime_mcp.front.session import Questions, Remembered, Session
from agent_runtime_mcp.front.words import (
    ACKNOWLEDGED,
    AWAY,
    CANCELLED,
    HEADER_MISMATCH,
    INITIALIZED,
    INTERNAL,
    INVALID_REQUEST,
    LISTEN,
    META_KEY,
    META_SUBSCRIPTION,
    PARSE_ERROR,
    READS,
    Message,
    dumped,
    error,
    notification,
    section,
)

READ_BYTES: Final = 1 << 16
MESSAGE_BYTES_MAX: Final = 16 << 20
"""The daemon takes no more in one request."""
LINE_BYTES_MAX: Final = 32 << 20
"""A client that sends more in one line is not speaking this protocol."""
REQUESTS_MAX: Final = 128
"""In flight at a time, each with a thread and a connection."""
GOODBYE_SECONDS: Final = 1.5
"""For requests of a client that has only closed its side: `echo … | agent-runtime mcp tools`."""
CANCEL_SECONDS: Final = 5.0
"""For a server to end a call that was cancelled."""
PAGES_MAX: Final = 100
AGAIN_MAX: Final = 5

_JSON: Final = {
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
    "User-Agent": "agent-runtime-mcp",
}


class _Again(Exception):
    """What was asked must be asked once more, without waiting; the way is free now."""


class _Busy(Exception):
    """The daemon takes nothing just now."""

    def __init__(self, reason: str, retry_after: str | None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


@dataclass(slots=True)
class _Call:
    """A request of the client that has no answer yet."""

    message: Message
    is_stateless: bool
    tries: int = 0
    connection: Connection | None = None
    is_cancelled: bool = False
    is_followed: bool = False
    """Of `subscriptions/listen`: has the client heard that it is followed?"""
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def wire_id(self) -> Any:
        """Asked again it is a new request, so it has a new id."""
        return f"{self.message['id']}~{self.tries}" if self.tries else self.message["id"]


class Relay:
    """The messages of one client."""

    def __init__(
        self,
        daemons: Daemons,
        name: str,
        query: Mapping[str, str],
        *,
        source: int = 0,
        sink: int = 1,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """`patience_seconds`: how long a request waits for a daemon that is gone."""
        self._daemons = daemons
        self._path = f"/mcp/{name}" + (f"?{urlencode(query)}" if query else "")
        self._name = name
        self._source, self._sink = source, sink
        self._patience_seconds = patience_seconds
        self._link: Link | None = None
        self._calls: dict[Any, _Call] = {}
        self._lock = threading.Lock()
        """Of what all threads share: calls and the link."""
        self._writing = threading.Lock()
        self._session: Session | None = None
        self._opening = threading.Lock()
        """Only one opens a session again."""
        self._remembered = Remembered()
        self._questions = Questions()
        self._opened = threading.Event()
        """Unset while `initialize` is on its way, and `_initialized` while the client's word is that
        it is done: what comes after them waits."""
        self._opened.set()
        self._initialized = threading.Event()
        self._initialized.set()
        self._outgoing: SimpleQueue[Message] = SimpleQueue()
        self._marked: dict[str, dict[headers.Path, str]] = {}

    # ---- the client's side ---------------------------------------------------------------

    def run(self) -> None:
        """Carry messages until the client has gone."""
        _thread(self._send_in_order)
        parts: list[bytes] = []
        size = 0
        poll = select.poll()
        poll.register(self._source, select.POLLIN)
        if self._sink != self._source:
            poll.register(self._sink, 0)
        while True:
            events = dict(poll.poll())
            if events.get(self._sink, 0) & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
                return
            if self._source not in events:
                continue
            data = os.read(self._source, READ_BYTES)
            if not data:
                break
            *lines, rest = data.split(b"\n")
            for line in lines:
                self._take(b"".join((*parts, line)))
                parts, size = [], 0
            parts.append(rest)
            size += len(rest)
            if size > LINE_BYTES_MAX:
                self._write(error(None, INVALID_REQUEST, f"a message of over {size} bytes"))
                return
        self._take(b"".join(parts))
        self._finish()

    def _finish(self) -> None:
        """The client will say no more, but may still listen."""
        deadline = time.monotonic() + GOODBYE_SECONDS
        poll = select.poll()
        poll.register(self._sink, 0)
        while (left := deadline - time.monotonic()) > 0:
            with self._lock:
                waiting = [c for c in self._calls.values() if c.message["method"] != LISTEN]
            if not waiting or poll.poll(0):
                return
            waiting[0].ended.wait(min(left, 0.05))

    def close(self) -> None:
        """End what is in flight, and the session."""
        with self._lock:
            calls = list(self._calls.values())
        for call in calls:
            self._cancel(call)
        session, link = self._session, self._link
        if session is None or not session.session_id or link is None:
            return

        def end() -> None:
            with suppress(Lost):
                Connection(link.place).ask("DELETE", self._path, session.headers)

        _thread(end).join(GOODBYE_SECONDS)

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            message = json.loads(line, parse_constant=_no_number)
        except (ValueError, RecursionError):
            self._write(error(None, PARSE_ERROR, "this line is no JSON"))
            return
        if not isinstance(message, dict):
            self._write(error(None, INVALID_REQUEST, "a line is one message, an object"))
        elif not isinstance(message.get("method"), str):
            self._outgoing.put(message)
        elif "id" not in message:
            self._notified(message)
        elif not isinstance(message["id"], (str, int)) or isinstance(message["id"], bool):
            self._write(error(None, INVALID_REQUEST, "the id of a request is a text or a number"))
        else:
            self._requested(message, len(line))

    def _requested(self, message: Message, size: int) -> None:
        request_id = message["id"]
        is_stateless = bool(headers.version_of(message))
        if message["method"] == "ping" and not is_stateless:
            # It asks whether the other end of the pipe lives.
            self._write({"jsonrpc": "2.0", "id": request_id, "result": {}})
            return
        fault = ""
        if size > MESSAGE_BYTES_MAX:
            fault = f"the request has {size} bytes; the daemon takes {MESSAGE_BYTES_MAX}"
        with self._lock:
            if request_id in self._calls:
                fault = f"the id {request_id!r} is in use; a request needs one of its own"
            elif len(self._calls) >= REQUESTS_MAX:
                fault = f"{REQUESTS_MAX} requests are in flight; wait for one of them to end"
            elif not fault:
                call = self._calls[request_id] = _Call(message, is_stateless)
        if fault:
            self._write(error(request_id, INVALID_REQUEST, fault))
            return
        if message["method"] not in READS:
            _give_key(message)
        if message["method"] == "initialize":
            self._opened.clear()
            self._initialized.set()
        _thread(self._serve, call)

    def _notified(self, message: Message) -> None:
        method = message["method"]
        if method == INITIALIZED:
            self._remembered.initialized = message
            self._initialized.clear()
        elif method == CANCELLED:
            call = self._calls.get(section(message, "params").get("requestId"))
            if call is None:
                return  # it has its answer
            if call.is_stateless:
                # There, a stream that is closed says so.
                self._cancel(call)
                return
        self._outgoing.put(message)

    def _cancel(self, call: _Call) -> None:
        call.is_cancelled = True
        if (connection := call.connection) is not None:
            connection.close()

    def _write(self, message: Message | bytes) -> None:
        data = (message if isinstance(message, bytes) else dumped(message)) + b"\n"
        with self._writing, suppress(BrokenPipeError):
            sent = os.write(self._sink, data)
            while sent < len(data):
                sent += os.write(self._sink, data[sent:])

    # ---- requests ------------------------------------------------------------------------

    def _serve(self, call: _Call) -> None:
        """Until the client has an answer, or has said that it wants none."""
        try:
            failed = self._asked(call)
        except Exception as defect:  # noqa: BLE001 - the border of a request, and it is told
            failed = error(call.message["id"], INTERNAL, f"{type(defect).__name__}: {defect}")
        if failed is not None and not call.is_cancelled:
            self._end(call, failed)
        self._ended(call)
        if call.message["method"] == "initialize":
            self._opened.set()

    def _ended(self, call: _Call) -> None:
        with self._lock:
            if self._calls.get(call.message["id"]) is call:
                del self._calls[call.message["id"]]
        call.ended.set()

    def _end(self, call: _Call, message: Message | bytes) -> None:
        """The answer. Its id is free before the client can use it again."""
        self._ended(call)
        self._write(message)

    def _asked(self, call: _Call) -> Message | None:
        """None: it was answered; else what the client gets instead."""
        patience = Patience(self._patience_seconds, again=True)
        if not call.is_stateless and call.message["method"] != "initialize":
            self._opened.wait(self._patience_seconds)
            self._initialized.wait(self._patience_seconds)
        opened_again = 0
        while not call.is_cancelled:
            wait: float | None = 0.0
            reason = ""
            try:
                return self._ask_once(call)
            except _Again:
                opened_again += 1
                if opened_again > AGAIN_MAX:
                    reason, wait = "the daemon forgets at once what it was told", None
            except Lost as lost:
                reason = str(lost)
                self._forget_link()
                wait = patience.wait(Failure.LOST, time.monotonic())
            except Away as away:
                reason = str(away)
                wait = patience.wait(Failure.LOST, time.monotonic()) if away.may_come else None
            except AgentRuntimeError as fault:
                reason, wait = str(fault), None
            except _Busy as busy:
                reason = str(busy)
                wait = patience.wait(Failure.BUSY, time.monotonic(), busy.retry_after)
            if wait is None:
                return error(call.message["id"], AWAY, reason)
            if wait and reason and patience.tries == 1:
                _say(f"{reason}; trying again")
            call.tries += 1
            call.ended.wait(wait)
        return None

    def _ask_once(self, call: _Call) -> Message | None:
        link = self._linked()
        session = None
        if call.is_stateless:
            name = section(call.message, "params").get("name")
            marked = self._marked.get(str(name), {}) if _is_call(call.message) else {}
            sent = headers.stateless(call.message, marked)
        elif call.message["method"] == "initialize":
            sent = {}
        else:
            session = self._session
            sent = session.headers if session is not None else {}
        connection = link.take()
        call.connection = connection
        if call.is_cancelled:
            connection.drop()
            return None
        try:
            body = dumped({**call.message, "id": call.wire_id})
            answer = connection.ask("POST", self._path, {**_JSON, **sent}, body)
            return self._answered(call, answer, session)
        finally:
            call.connection = None
            link.give(connection)

    def _answered(self, call: _Call, answer: Answer, session: Session | None) -> Message | None:
        if answer.status == 404 and session is not None and session.session_id:
            self._open_again(session)
            raise _Again
        if answer.status < 400 and answer.kind == "text/event-stream":
            for message, raw in _messages(answer):
                if self._is_answer(call, message):
                    return self._complete(call, message, raw, answer)
                if call.is_stateless:
                    self._pass_on(call, message, raw)
                else:
                    self._said(message, raw, session)
            raise Lost("the daemon ended the answer before it was complete")
        body = answer.body()
        if answer.status in (502, 503) or (
            answer.status == 429 and "retry-after" in answer.headers
        ):
            raise _Busy(f"the daemon takes nothing now: {_problem(answer, body)}",
                        answer.headers.get("retry-after"))  # fmt: skip
        try:
            message = json.loads(body)
        except (ValueError, RecursionError):
            message = None
        if isinstance(message, dict) and message.get("jsonrpc") == "2.0":
            if call.is_stateless and _is_call(call.message) and _is_mismatch(message):
                self._learn_marks(call)
            return self._complete(call, message, body, answer)
        if answer.status == 401 and self._has_new_token():
            raise _Again
        return error(call.message["id"], INTERNAL, self._refused(answer, body))

    def _is_answer(self, call: _Call, message: Message) -> bool:
        return "method" not in message and message.get("id") == call.wire_id

    def _complete(
        self, call: _Call, message: Message, raw: bytes, answer: Answer
    ) -> Message | None:
        request_id = call.message["id"]
        if call.message["method"] == "initialize" and not call.is_stateless:
            result = section(message, "result")
            if result:
                session_id = answer.headers.get("mcp-session-id", "")
                self._remembered = Remembered(
                    initialize=call.message, offers=section(result, "capabilities")
                )
                self._session = Session(session_id, str(result.get("protocolVersion", "")))
        elif not call.is_stateless:
            self._remembered.note(call.message, message)
        if call.message["method"] == "tools/list":
            self._marked |= headers.marked_in(section(message, "result").get("tools") or ())
        if call.is_cancelled:
            return None
        if message.get("id") != request_id or call.tries:
            raw = dumped(self._renamed(call, {**message, "id": request_id}))
        elif b"\n" in raw:
            raw = dumped(message)
        self._end(call, raw)
        return None

    # ---- the stateless wire --------------------------------------------------------------

    def _pass_on(self, call: _Call, message: Message, raw: bytes) -> None:
        """What comes before the answer."""
        if call.is_cancelled:
            return
        if call.message["method"] == LISTEN and message.get("method") == ACKNOWLEDGED:
            if call.is_followed:
                # It knows that; what it does not know is what happened meanwhile.
                for missed in _missed(call):
                    self._write(missed)
                return
            call.is_followed = True
        self._write(dumped(self._renamed(call, message)) if call.tries else raw)

    def _renamed(self, call: _Call, message: Message) -> Message:
        """A subscription is known by its request's id: that which the client gave it."""
        for part in ("params", "result"):
            meta = section(message, part, "_meta")
            if META_SUBSCRIPTION in meta and meta[META_SUBSCRIPTION] == call.wire_id:
                meta[META_SUBSCRIPTION] = call.message["id"]
        return message

    def _learn_marks(self, call: _Call) -> None:
        """A tool wants arguments in headers: ask which, and call it once more."""
        name = str(section(call.message, "params").get("name"))
        if name in self._marked:
            return
        self._marked[name] = {}
        meta = section(call.message, "params", "_meta")
        params: Message = {"_meta": {k: v for k, v in meta.items() if k != "progressToken"}}
        for page in range(PAGES_MAX):
            asked = {
                "jsonrpc": "2.0", "id": f"tools~{page}", "method": "tools/list", "params": params,
            }  # fmt: skip
            result = section(self._ask_aside(asked, headers.stateless(asked, {}))[0], "result")
            self._marked |= headers.marked_in(result.get("tools") or ())
            cursor = result.get("nextCursor")
            if not isinstance(cursor, str) or self._marked[name]:
                break
            params = {**params, "cursor": cursor}
        if self._marked[name]:
            raise _Again

    # ---- the wires with sessions ---------------------------------------------------------

    def _said(self, message: Message, raw: bytes, session: Session | None) -> None:
        """A notification or a question of the server."""
        if session is not None and "method" in message:
            if "id" in message:
                self._write(self._questions.take(message, session))
                return
            if message["method"] == CANCELLED:
                taken_back = self._questions.cancelled(message, session)
                if taken_back is not None:
                    self._write(taken_back)
                return
        if "method" in message:
            self._write(raw)

    def _send_in_order(self) -> None:
        """Notifications and answers of the client."""
        while True:
            message = self._outgoing.get()
            is_first = message.get("method") == INITIALIZED
            if is_first:
                self._opened.wait(self._patience_seconds)
            try:
                self._send(message)
            except (Lost, Away, AgentRuntimeError) as failure:
                _say(f"not sent: {failure}")
            except Exception as defect:  # noqa: BLE001 - the border of a message, and it is told
                _say(f"not sent: {type(defect).__name__}: {defect}")
            if is_first:
                self._initialized.set()
                if (session := self._session) is not None and session.session_id:
                    _thread(self._listen, session)

    def _send(self, message: Message) -> None:
        """One message that gets no answer. What belongs to a session that is gone goes with it."""
        session = self._session
        call: _Call | None = None
        if "method" not in message:
            answer = self._questions.answered(message, session)
            if answer is None:
                return
            message = answer
        elif message["method"] == CANCELLED:
            call = self._calls.get(section(message, "params").get("requestId"))
            if call is None:
                return
            call.is_cancelled = True
            if call.connection is None:
                return
            message = {
                **message, "params": {**section(message, "params"), "requestId": call.wire_id},
            }  # fmt: skip
        if session is None:
            return
        patience = Patience(self._patience_seconds, again=True)
        while session is self._session:
            try:
                _, answered = self._ask_aside(message, session.headers)
                if answered.status == 404 and message.get("method") == INITIALIZED:
                    self._open_again(session)
                break
            except Lost:
                self._forget_link()
                wait = patience.wait(Failure.LOST, time.monotonic())
                if wait is None:
                    raise
                time.sleep(wait)
        if call is not None and not call.ended.wait(CANCEL_SECONDS):
            self._cancel(call)

    def _open_again(self, old: Session) -> None:
        """A session like the one that the daemon does not know any more.

        Raises:
            Lost: try again later.
        """
        with self._opening:
            first = self._remembered.initialize
            if self._session is not old or first is None:
                return
            sent, answer = self._ask_aside({**first, "id": "initialize~"}, {})
            result = section(sent, "result")
            version = str(result.get("protocolVersion", ""))
            if version != old.version:
                said = section(sent, "error").get("message") or f"it speaks {version!r} now"
                raise Away(
                    f"the daemon was restarted and does not go on with {old.version!r}: {said}; "
                    "restart this connection in your client",
                    may_come=False,
                )
            session = Session(answer.headers.get("mcp-session-id", ""), version)
            said = self._remembered.initialized or notification(INITIALIZED)
            self._ask_aside(said, session.headers)
            for number, each in enumerate(self._remembered.again()):
                self._ask_aside({**each, "id": f"again~{number}"}, session.headers)
            self._session = session
        for message in (*self._questions.forget(old), *self._remembered.missed()):
            self._write(message)
        _thread(self._listen, session)

    def _listen(self, session: Session) -> None:
        """Whatever the server says by itself, for as long as the session is the one in force."""
        patience = Patience(float("inf"), again=True)
        while session is self._session:
            place = self._place_now()
            with suppress(Lost, Away):
                if place is None:
                    raise Lost("there is none")
                connection = Connection(place)
                try:
                    accept = {"Accept": "text/event-stream", **session.headers}
                    answer = connection.ask("GET", self._path, accept)
                    if answer.status == 404:
                        self._open_again(session)
                        return
                    if answer.status == 200:
                        patience.rest()
                        for message, raw in _messages(answer):
                            self._said(message, raw, session)
                    elif answer.status in (405, 409):
                        return  # it says nothing by itself, or to somebody else
                finally:
                    connection.drop()
            time.sleep(patience.wait(Failure.LOST, time.monotonic()) or 1.0)

    # ---- the daemon's side ---------------------------------------------------------------

    def _ask_aside(
        self, message: Message, sent: Mapping[str, str]
    ) -> tuple[Message, Answer]:  # fmt: skip
        """A request of ours: its response (empty if there is none). `Lost`: as ever."""
        link = self._linked()
        connection = link.take()
        try:
            answer = connection.ask("POST", self._path, {**_JSON, **sent}, dumped(message))
            if answer.status < 400 and answer.kind == "text/event-stream":
                for found, _ in _messages(answer):
                    if "method" not in found and found.get("id") == message.get("id"):
                        return found, answer
                raise Lost("the daemon ended the answer before it was complete")
            body = answer.body()
            try:
                found = json.loads(body) if body else {}
            except ValueError:
                found = {}
            return (found if isinstance(found, dict) else {}), answer
        finally:
            link.give(connection)

    def _linked(self) -> Link:
        with self._lock:
            if self._link is not None:
                return self._link
        place = self._daemons.find()
        with self._lock:
            if self._link is None:
                self._link = Link(place)
            return self._link

    def _forget_link(self) -> None:
        """The daemon may be another one, elsewhere."""
        with self._lock:
            link, self._link = self._link, None
        if link is not None:
            link.drop()

    def _place_now(self) -> Place | None:
        """Where a daemon is, without starting one: nobody has asked for anything."""
        try:
            return self._daemons.look()
        except AgentRuntimeError:
            return None

    def _has_new_token(self) -> bool:
        with self._lock:
            before = self._link.place if self._link is not None else None
        now = self._place_now()
        if before is None or now is None or now.token == before.token:
            return False
        self._forget_link()
        return True

    def _refused(self, answer: Answer, body: bytes) -> str:
        if answer.status == 404:
            return f"the daemon serves no /mcp/{self._name}: {_problem(answer, body)}"
        return _problem(answer, body)


def _messages(answer: Answer) -> Iterator[tuple[Message, bytes]]:
    """Of a stream: each as it is, and as one line."""
    frames = Frames()
    for part in answer.parts():
        for frame in frames.feed(part):
            if not frame.data or frame.event not in ("", "message"):
                continue
            try:
                message = json.loads(frame.data)
            except (ValueError, RecursionError):
                continue
            if isinstance(message, dict):
                is_line = b"\n" not in frame.data
                yield message, frame.data if is_line else dumped(message)


def _missed(call: _Call) -> list[Message]:
    """Of a subscription that was cut: everything in it may have changed."""
    wanted = section(call.message, "params", "notifications")
    meta = {META_SUBSCRIPTION: call.message["id"]}
    found = [
        notification(f"notifications/{name}/list_changed", {"_meta": meta})
        for name in ("tools", "resources", "prompts")
        if wanted.get(f"{name}ListChanged")
    ]
    uris = wanted.get("resourceSubscriptions")
    return found + [
        notification("notifications/resources/updated", {"uri": uri, "_meta": meta})
        for uri in (uris if isinstance(uris, list) else ())
    ]


def _give_key(message: Message) -> None:
    """So that the daemon knows the request when it comes again."""
    params = message.setdefault("params", {})
    if not isinstance(params, dict):
        return
    meta = params.setdefault("_meta", {})
    if isinstance(meta, dict):
        meta.setdefault(META_KEY, os.urandom(16).hex())


def _is_call(message: Message) -> bool:
    return message["method"] == "tools/call"


def _is_mismatch(message: Message) -> bool:
    return section(message, "error").get("code") == HEADER_MISMATCH


def _problem(answer: Answer, body: bytes) -> str:
    """What an answer says that is no JSON-RPC (RFC 9457, mostly)."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = {}
    said = [str(found[name]) for name in ("title", "detail") if found.get(name)] if (
        isinstance(found, dict)
    ) else []  # fmt: skip
    return f"HTTP {answer.status}" + (f", {': '.join(said)}" if said else "")


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _say(text: str) -> None:
    """To whoever looks at the client's logs."""
    with suppress(OSError):
        sys.stderr.write(f"agent-runtime mcp: {text}\n")
        sys.stderr.flush()


def _thread(run: Any, *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=run, args=arguments, daemon=True)
    thread.start()
    return thread
