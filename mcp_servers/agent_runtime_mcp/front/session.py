"""A session of the older revisions, and what must be said again when its daemon has gone.

A daemon that was restarted knows no session. The client is not told: the session is opened again
with what the client said the first time, documents are followed again, and since nobody knows what
changed in between, the client hears that everything it follows may have.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from agent_runtime.client.patience import Failure, Patience
from agent_runtime.errors import AgentRuntimeError
from agent_runtime_mcp.front.daemons import Away
from agent_runtime_mcp.front.http import Answer, Connection, Lost
from agent_runtime_mcp.front.questions import Questions
from agent_runtime_mcp.front.way import Way, messages
from agent_runtime_mcp.front.words import (
    CANCELLED,
    INITIALIZED,
    Message,
    notification,
    section,
)

_LISTS: Final = ("tools", "resources", "prompts")


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """As the daemon knows it. Each opening gives another one."""

    session_id: str
    version: str

    @property
    def headers(self) -> dict[str, str]:
        """Of every message in it."""
        found = {"Mcp-Session-Id": self.session_id} if self.session_id else {}
        return {**found, "MCP-Protocol-Version": self.version} if self.version else found


@dataclass(slots=True)
class Remembered:
    """What the client has said that holds for the whole session."""

    initialize: Message
    offers: Message
    """Capabilities that the server told the client."""
    initialized: Message | None = None
    level: Message | None = None
    followed: dict[str, Message] = field(default_factory=dict)
    """`resources/subscribe`, by address."""

    def note(self, request: Message, response: Message) -> None:
        """A request that went well."""
        method = request["method"]
        if "result" not in response:
            return
        uri = str(section(request, "params").get("uri"))
        if method == "logging/setLevel":
            self.level = request
        elif method == "resources/subscribe":
            self.followed[uri] = request
        elif method == "resources/unsubscribe":
            self.followed.pop(uri, None)

    def again(self) -> list[Message]:
        """What a new session must be told, after it is open."""
        return [*([self.level] if self.level else []), *self.followed.values()]

    def missed(self) -> list[Message]:
        """What the client must hear of the time in which nobody listened for it."""
        changed = [
            notification(f"notifications/{name}/list_changed")
            for name in _LISTS
            if section(self.offers, name).get("listChanged")
        ]
        return changed + [
            notification("notifications/resources/updated", {"uri": uri}) for uri in self.followed
        ]


class Sessions:
    """The client's one session, which may be several of the daemon's, one after the other."""

    def __init__(self, way: Way, tell: Callable[[Message | bytes], None]) -> None:
        """`tell` brings a message to the client."""
        self._way = way
        self._tell = tell
        self._opening = threading.Lock()
        """Only one opens it again."""
        self._remembered: Remembered | None = None
        self._questions = Questions[Session]()
        self.now: Session | None = None
        """The one in force; None: none was opened yet."""

    def opened(self, request: Message, response: Message, answer: Answer) -> None:
        """The client has got one."""
        result = section(response, "result")
        if result:
            self._remembered = Remembered(request, section(result, "capabilities"))
            self.now = Session(
                answer.headers.get("mcp-session-id", ""), str(result.get("protocolVersion", ""))
            )

    def note(self, request: Message, response: Message) -> None:
        """A request of the client that was answered."""
        if self._remembered is not None:
            self._remembered.note(request, response)

    def close(self, held: Sequence[object]) -> None:
        """It is over, and so are these requests: of a session, a stream that ends ends nothing."""
        session = self.now
        if session is None or not session.session_id:
            return
        with suppress(Lost, Away, AgentRuntimeError):
            for wire_id in held:
                params = {"requestId": wire_id, "reason": "the client has gone"}
                self._way.ask(notification(CANCELLED, params), session.headers)
        self._way.end(session.headers)

    # ---- what the server says ------------------------------------------------------------

    def said(self, message: Message, raw: bytes, session: Session | None) -> None:
        """A notification or a question of the server, for the client."""
        if "method" not in message:
            return
        if session is not None and "id" in message:
            self._tell(self._questions.take(message, session))
        elif session is not None and message["method"] == CANCELLED:
            taken_back = self._questions.cancelled(message, session)
            if taken_back is not None:
                self._tell(taken_back)
        else:
            self._tell(raw)

    def listen(self, session: Session) -> None:
        """Whatever the server says by itself, for as long as the session is the one in force."""
        patience = Patience(float("inf"), again=True)
        while session is self.now:
            place = self._way.look()
            with suppress(Lost, Away):
                if place is None:
                    raise Lost("there is no daemon now")
                connection = Connection(place)
                try:
                    accept = {"Accept": "text/event-stream", **session.headers}
                    answer = connection.ask("GET", self._way.path, accept)
                    if answer.status == 404:
                        self.open_again(session)
                        return
                    if answer.status in (405, 409):
                        return  # it says nothing by itself, or to somebody else
                    if answer.status == 200:
                        patience.rest()
                        for message, raw in messages(answer):
                            self.said(message, raw, session)
                finally:
                    connection.drop()
            time.sleep(patience.wait(Failure.LOST, time.monotonic()) or 1.0)

    # ---- what the client says ------------------------------------------------------------

    def send(self, message: Message, patience: Patience) -> None:
        """One message that gets no answer. What belongs to a session that is gone goes with it.

        Raises:
            Lost, Away, UsageError, ConfigError: it did not arrive.
        """
        session = self.now
        if session is None:
            return
        if "method" not in message:
            answer = self._questions.answered(message, session)
            if answer is None:
                return
            message = answer
        is_first = message.get("method") == INITIALIZED
        if is_first and self._remembered is not None:
            self._remembered.initialized = message
        while session is self.now:
            try:
                _, answered = self._way.ask(message, session.headers)
                if answered.status == 404 and session.session_id:
                    self.open_again(session)
                break
            except Lost:
                self._way.forget()
                wait = patience.wait(Failure.LOST, time.monotonic())
                if wait is None:
                    raise
                time.sleep(wait)
        if is_first and session is self.now and session.session_id:
            in_thread(self.listen, session)

    def open_again(self, old: Session) -> None:
        """Have a session like the one that the daemon does not know any more.

        Raises:
            Lost, Away, UsageError, ConfigError: there is no daemon now, or it does not want to.
        """
        with self._opening:
            said = self._remembered
            if self.now is not old or said is None:
                return  # somebody else has
            opening = {**said.initialize, "id": "initialize~"}
            response, answer = self._way.ask(opening, {})
            version = str(section(response, "result").get("protocolVersion", ""))
            if answer.status >= 500:
                raise Lost("the daemon takes nothing now")
            if version != old.version:
                why = section(response, "error").get("message") or f"it speaks {version!r} now"
                raise Away(
                    f"the daemon was restarted and does not go on with {old.version!r}: {why}; "
                    "restart this connection in your client",
                    may_come=False,
                )
            session = Session(answer.headers.get("mcp-session-id", ""), version)
            self._way.ask(said.initialized or notification(INITIALIZED), session.headers)
            for number, each in enumerate(said.again()):
                self._way.ask({**each, "id": f"again~{number}"}, session.headers)
            self.now = session
        for message in (*self._questions.forget(old), *said.missed()):
            self._tell(message)
        if session.session_id:
            in_thread(self.listen, session)


def in_thread(run: Callable[..., None], *arguments: object) -> threading.Thread:
    """Start something that must not keep the process."""
    thread = threading.Thread(target=run, args=arguments, daemon=True)
    thread.start()
    return thread
