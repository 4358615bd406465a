"""One conversation: lines of a client on one side, requests to the daemon on the other.

The thread that reads decides where a message goes. Each request has a thread of its own, so that a
slow call holds nobody up; notifications and answers to questions go one after the other. A request
whose connection breaks is asked again, with the key that says it is the same one: a daemon that has
done it already gives the answer and does nothing. The client notices a restart as a slow answer.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Final, NoReturn

from agent_runtime.client.patience import PATIENCE_SECONDS, Failure, Patience
from agent_runtime.errors import AgentRuntimeError
from agent_runtime_mcp.front import headers
from agent_runtime_mcp.front.daemons import Away, Daemons
from agent_runtime_mcp.front.http import Answer, Connection, Lost
from agent_runtime_mcp.front.pipes import Pipes, say
from agent_runtime_mcp.front.session import Session, Sessions, in_thread
from agent_runtime_mcp.front.way import Way, messages, parsed, problem
from agent_runtime_mcp.front.words import (
    ACKNOWLEDGED,
    AWAY,
    CANCELLED,
    FRONT_KEYS,
    HEADER_MISMATCH,
    HOW_TO_SIGN_IN,
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

MESSAGE_BYTES_MAX: Final = 16 << 20
"""The daemon takes no more in one request."""
REQUESTS_MAX: Final = 256
"""In flight at a time, each with a thread and a connection."""
GOODBYE_SECONDS: Final = 1.5
"""For requests of a client that has only closed its side: `echo … | agent-runtime mcp tools`."""
CANCEL_SECONDS: Final = 5.0
"""For a server to end a call that was cancelled."""
PAGES_MAX: Final = 100
AGAIN_MAX: Final = 5


class _Again(Exception):
    """What was asked must be asked once more, without waiting; the way is free now."""


class _Busy(Exception):
    """The daemon takes nothing just now."""

    def __init__(self, reason: str, retry_after: str | None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


@dataclass(slots=True, eq=False)
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
    def method(self) -> str:
        return str(self.message["method"])

    @property
    def opens(self) -> bool:
        """Is it the beginning of a session?"""
        return self.method == "initialize" and not self.is_stateless

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
        self._pipes = Pipes(source, sink)
        self._way = Way(daemons, name, query)
        self._patience_seconds = patience_seconds
        self._calls: dict[Any, _Call] = {}
        self._unwritten: set[_Call] = set()
        """Those whose answer is there and was not given to the client yet."""
        self._lock = threading.Lock()
        """Of `_calls` and `_unwritten`."""
        self._sessions = Sessions(self._way, self._pipes.write)
        # Unset while `initialize` is on its way, and while the client's word is that it is done:
        # what comes after them waits.
        self._opened, self._initialized = threading.Event(), threading.Event()
        self._opened.set()
        self._initialized.set()
        self._outgoing: SimpleQueue[Message] = SimpleQueue()
        self._marked: dict[str, dict[headers.Path, str]] = {}

    # ---- what the client says ------------------------------------------------------------

    def run(self) -> None:
        """Carry messages until the client has gone."""
        in_thread(self._send_in_order)
        for line in self._pipes.lines():
            self._take(line)
        # It will say no more, but may still listen.
        deadline = time.monotonic() + GOODBYE_SECONDS
        while (left := deadline - time.monotonic()) > 0 and self._pipes.is_heard():
            with self._lock:
                waiting = [each for each in self._calls.values() if each.method != LISTEN]
                waiting += self._unwritten
            if not waiting:
                return
            waiting[0].ended.wait(min(left, 0.05))
        if left <= 0:
            say(f"ended with {len(waiting)} requests unanswered: the client closed its side")

    def close(self) -> None:
        """End what is in flight, and the session."""
        with self._lock:
            calls = list(self._calls.values())
        for call in calls:
            _cancel(call)
        held = [each.wire_id for each in calls if not each.is_stateless]
        in_thread(self._sessions.close, held).join(GOODBYE_SECONDS)

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            message = json.loads(line, parse_constant=_no_number)
        except (ValueError, RecursionError):
            self._pipes.write(error(None, PARSE_ERROR, "this line is no JSON"))
            return
        if not isinstance(message, dict):
            self._pipes.write(error(None, INVALID_REQUEST, "a line is one message, an object"))
        elif not isinstance(message.get("method"), str):
            self._outgoing.put(message)
        elif "id" not in message:
            self._notified(message)
        elif not isinstance(message["id"], (str, int)) or isinstance(message["id"], bool):
            text = "the id of a request is a text or a number"
            self._pipes.write(error(None, INVALID_REQUEST, text))
        else:
            self._requested(message, len(line))

    def _requested(self, message: Message, size: int) -> None:
        request_id = message["id"]
        call = _Call(message, bool(headers.version_of(message)))
        if call.method == "ping" and not call.is_stateless:
            # It asks whether the other end of the pipe lives.
            self._pipes.write({"jsonrpc": "2.0", "id": request_id, "result": {}})
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
                self._calls[request_id] = call
        if fault:
            self._pipes.write(error(request_id, INVALID_REQUEST, fault))
            return
        if call.method not in READS:
            _give_key(message)
        if call.opens:
            self._opened.clear()
            self._initialized.set()
        in_thread(self._serve, call)

    def _notified(self, message: Message) -> None:
        if message["method"] == INITIALIZED:
            self._initialized.clear()
        elif message["method"] == CANCELLED:
            request_id = section(message, "params").get("requestId")
            call = self._calls.get(request_id) if isinstance(request_id, (str, int)) else None
            if call is None:
                return  # it has its answer, or never was
            if call.is_stateless:
                _cancel(call)  # there, a stream that is closed says so
                return
            in_thread(self._cancel_in_session, call, message)
            return
        self._outgoing.put(message)

    def _cancel_in_session(self, call: _Call, message: Message) -> None:
        call.is_cancelled = True
        if call.connection is None:
            return
        params = {**section(message, "params"), "requestId": call.wire_id}
        self._send({**message, "params": params})
        if not call.ended.wait(CANCEL_SECONDS):
            _cancel(call)

    def _send_in_order(self) -> None:
        """Notifications and answers of the client."""
        while True:
            message = self._outgoing.get()
            is_first = message.get("method") == INITIALIZED
            if is_first:
                self._opened.wait(self._patience_seconds)
            self._send(message)
            if is_first:
                self._initialized.set()

    def _send(self, message: Message) -> None:
        try:
            self._sessions.send(message, Patience(self._patience_seconds, again=True))
        except (Lost, Away, AgentRuntimeError) as failure:
            say(f"a message was not sent: {failure}")
        except Exception as defect:  # noqa: BLE001 - the border of a message, and it is told
            say(f"a message was not sent: {type(defect).__name__}: {defect}")

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
        if call.opens:
            self._opened.set()

    def _asked(self, call: _Call) -> Message | None:
        """None: it was answered; else what the client gets instead."""
        patience = Patience(self._patience_seconds, again=True)
        if not call.is_stateless and not call.opens:
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
                self._way.forget()
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
            if wait and patience.tries == 1 and not call.is_cancelled:
                say(f"{reason}; trying again")
            call.tries += 1
            call.ended.wait(wait)
        return None

    def _ask_once(self, call: _Call) -> Message | None:
        link = self._way.link()
        session = None
        sent: dict[str, str] = {}
        if call.is_stateless:
            name = str(section(call.message, "params").get("name"))
            is_call = call.method == "tools/call"
            sent = headers.stateless(call.message, self._marked.get(name, {}) if is_call else {})
        elif not call.opens and (session := self._sessions.now) is not None:
            sent = session.headers
        connection = link.take()
        call.connection = connection
        if call.is_cancelled:
            connection.drop()
            return None
        try:
            answer = self._way.post(connection, {**call.message, "id": call.wire_id}, sent)
            return self._answered(call, answer, session)
        finally:
            call.connection = None
            link.give(connection)

    def _answered(self, call: _Call, answer: Answer, session: Session | None) -> Message | None:
        if answer.status == 404 and session is not None and session.session_id:
            self._sessions.open_again(session)
            raise _Again
        if answer.status < 400 and answer.kind == "text/event-stream":
            for message, raw in messages(answer):
                if "method" not in message and message.get("id") == call.wire_id:
                    self._complete(call, message, raw, answer)
                    return None
                if call.is_stateless:
                    self._pass_on(call, message, raw)
                else:
                    self._sessions.said(message, raw, session)
            raise Lost("the daemon ended the answer before it was complete")
        body = answer.body()
        retry_after = answer.headers.get("retry-after")
        if answer.status in (502, 503) or (answer.status == 429 and retry_after):
            raise _Busy(f"the daemon takes nothing now: {problem(answer, body)}", retry_after)
        found = parsed(body)
        if found is not None and found.get("jsonrpc") == "2.0":
            if call.is_stateless and section(found, "error").get("code") == HEADER_MISMATCH:
                self._learn_marks(call)
            self._complete(call, found, body, answer)
            return None
        if answer.status == 401 and self._way.has_new_token():
            raise _Again
        said = problem(answer, body)
        if answer.status == 401:
            said = f"{said}; {HOW_TO_SIGN_IN}"
        elif answer.status == 404:
            said = f"the daemon serves no /mcp/{self._way.name}: {said}"
        return error(call.message["id"], INTERNAL, said)

    def _complete(self, call: _Call, message: Message, raw: bytes, answer: Answer) -> None:
        """The answer is there."""
        if call.opens:
            self._sessions.opened(call.message, message, answer)
        elif not call.is_stateless:
            self._sessions.note(call.message, message)
        elif call.method == "tools/list":
            self._marked |= headers.marked_in(section(message, "result").get("tools"))
        if call.is_cancelled:
            return
        request_id = call.message["id"]
        if message.get("id") != request_id or call.tries:
            raw = dumped(_renamed(call, {**message, "id": request_id}))
        elif b"\n" in raw:
            raw = dumped(message)
        self._end(call, raw)

    def _end(self, call: _Call, message: Message | bytes) -> None:
        """The answer. Its id is free before the client can use it again."""
        with self._lock:
            self._unwritten.add(call)
            self._free(call)
        self._pipes.write(message)
        self._ended(call)

    def _ended(self, call: _Call) -> None:
        with self._lock:
            self._unwritten.discard(call)
            self._free(call)
        call.ended.set()

    def _free(self, call: _Call) -> None:
        if self._calls.get(call.message["id"]) is call:
            del self._calls[call.message["id"]]

    # ---- the stateless wire --------------------------------------------------------------

    def _pass_on(self, call: _Call, message: Message, raw: bytes) -> None:
        """What comes before the answer."""
        if call.is_cancelled:
            return
        if call.method == LISTEN and message.get("method") == ACKNOWLEDGED:
            if call.is_followed:
                # It knows that; what it does not know is what happened meanwhile.
                for missed in _missed(call):
                    self._pipes.write(missed)
                return
            call.is_followed = True
        self._pipes.write(dumped(_renamed(call, message)) if call.tries else raw)

    def _learn_marks(self, call: _Call) -> None:
        """A tool wants arguments in headers: ask which; `_Again` if it does."""
        name = str(section(call.message, "params").get("name"))
        if call.method != "tools/call" or name in self._marked:
            return
        meta = section(call.message, "params", "_meta")
        params: Message = {"_meta": {k: v for k, v in meta.items() if k != "progressToken"}}
        for page in range(PAGES_MAX):
            asked: Message = {"jsonrpc": "2.0", "id": f"tools~{page}", "method": "tools/list"}
            asked["params"] = params
            result = section(self._way.ask(asked, headers.stateless(asked, {}))[0], "result")
            self._marked |= headers.marked_in(result.get("tools"))
            cursor = result.get("nextCursor")
            if name in self._marked or not isinstance(cursor, str):
                break
            params = {**params, "cursor": cursor}
        if self._marked.setdefault(name, {}):
            raise _Again


def _cancel(call: _Call) -> None:
    call.is_cancelled = True
    if (connection := call.connection) is not None:
        connection.close()


def _renamed(call: _Call, message: Message) -> Message:
    """A subscription is known by its request's id: that which the client gave it."""
    for part in ("params", "result"):
        meta = section(message, part, "_meta")
        if META_SUBSCRIPTION in meta and meta[META_SUBSCRIPTION] == call.wire_id:
            meta[META_SUBSCRIPTION] = call.message["id"]
    return message


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
    meta = params.setdefault("_meta", {}) if isinstance(params, dict) else None
    if isinstance(meta, dict):
        meta.setdefault(META_KEY, f"{FRONT_KEYS}{os.urandom(16).hex()}")


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")
