"""The way to the daemon's server: requests to it, wherever the daemon is just now."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlencode

from agent_runtime.client.places import Place
from agent_runtime.client.sse import Frames
from agent_runtime.errors import AgentRuntimeError
from agent_runtime_mcp.front.daemons import Daemons
from agent_runtime_mcp.front.http import Answer, Connection, Link, Lost
from agent_runtime_mcp.front.words import Message, dumped

HEADERS: Final = {
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
    "User-Agent": "agent-runtime-mcp",
}


class Way:
    """To `/mcp/NAME` of the daemon. Used by every thread."""

    def __init__(self, daemons: Daemons, name: str, query: Mapping[str, str]) -> None:
        self.name = name
        self.path = f"/mcp/{name}" + (f"?{urlencode(query)}" if query else "")
        self._daemons = daemons
        self._lock = threading.Lock()
        self._link: Link | None = None

    def link(self) -> Link:
        """To the daemon, which is looked for, or started, if it is not known.

        Raises:
            Away: there is none.
            UsageError, ConfigError: as `Daemons.look`.
        """
        with self._lock:
            if self._link is not None:
                return self._link
        place = self._daemons.find()
        with self._lock:
            if self._link is None:
                self._link = Link(place)
            return self._link

    def forget(self) -> None:
        """The daemon may be another one now, elsewhere."""
        with self._lock:
            link, self._link = self._link, None
        if link is not None:
            link.drop()

    def known(self) -> Place | None:
        """Where the daemon was the last time."""
        with self._lock:
            return self._link.place if self._link is not None else None

    def look(self) -> Place | None:
        """Where a daemon is; none is started: nobody has asked for anything."""
        try:
            return self._daemons.look()
        except AgentRuntimeError:
            return None

    def has_new_token(self) -> bool:
        """After a refusal: is there another token by now? It is used from now on."""
        before, now = self.known(), self.look()
        if before is None or now is None or now.token == before.token:
            return False
        self.forget()
        return True

    def post(self, connection: Connection, message: Message, headers: Mapping[str, str]) -> Answer:
        """Send a message; returns when the answer begins. `Lost`: none came."""
        return connection.ask("POST", self.path, {**HEADERS, **headers}, dumped(message))

    def ask(self, message: Message, headers: Mapping[str, str]) -> tuple[Message, Answer]:
        """A request of our own: its response, empty if there is none.

        Raises:
            Lost, Away, UsageError, ConfigError: there is none, as above.
        """
        link = self.link()
        connection = link.take()
        try:
            answer = self.post(connection, message, headers)
            if answer.status < 400 and answer.kind == "text/event-stream":
                for found, _ in messages(answer):
                    if "method" not in found and found.get("id") == message.get("id"):
                        return found, answer
                raise Lost("the daemon ended the answer before it was complete")
            return parsed(answer.body()) or {}, answer
        finally:
            link.give(connection)

    def end(self, headers: Mapping[str, str]) -> None:
        """Tell the daemon that a session is over, if it hears it."""
        place = self.known()
        if place is not None:
            with suppress(Lost):
                Connection(place).ask("DELETE", self.path, headers)


def messages(answer: Answer) -> Iterator[tuple[Message, bytes]]:
    """Of a stream: each as it is, and as one line."""
    frames = Frames()
    for part in answer.parts():
        for frame in frames.feed(part):
            if not frame.data or frame.event not in ("", "message"):
                continue
            message = parsed(frame.data)
            if message is not None:
                yield message, frame.data if b"\n" not in frame.data else dumped(message)


def parsed(data: bytes) -> Message | None:
    """The object in it; None: there is none."""
    try:
        found: Any = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def problem(answer: Answer, body: bytes) -> str:
    """What an answer says that is no JSON-RPC (RFC 9457, mostly)."""
    found = parsed(body) or {}
    said = [str(found[name]) for name in ("title", "detail") if found.get(name)]
    return f"HTTP {answer.status}" + (f", {': '.join(said)}" if said else "")
