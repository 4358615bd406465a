"""A session of the older revisions, and what must be said again when its daemon has gone.

A daemon that was restarted knows no session. The client is not told: the session is opened again
with what the client said the first time, documents are followed again, and since nobody knows what
changed in between, the client hears that everything it follows may have.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

from agent_runtime_mcp.front.words import CANCELLED, Message, notification, section

_LISTS: Final = ("tools", "resources", "prompts")


@dataclass(frozen=True, slots=True)
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

    initialize: Message | None = None
    initialized: Message | None = None
    level: Message | None = None
    followed: dict[str, Message] = field(default_factory=dict)
    """`resources/subscribe`, by address."""
    offers: Message = field(default_factory=dict)
    """Capabilities the server told the client."""

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


class Questions:
    """What the server has asked the client, under ids that stay different over restarts.

    A new session counts from the beginning again: an answer to a question of an old one must not
    reach another question.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = count(1)
        self._open: dict[str, tuple[Session, Any]] = {}

    def take(self, question: Message, session: Session) -> Message:
        """As the client gets it."""
        name = f"agent-runtime-{next(self._count)}"
        with self._lock:
            self._open[name] = session, question["id"]
        return {**question, "id": name}

    def cancelled(self, message: Message, session: Session) -> Message | None:
        """A server's `cancelled` as the client gets it; None: it was answered."""
        wanted = session, section(message, "params").get("requestId")
        with self._lock:
            name = next((each for each, asked in self._open.items() if asked == wanted), None)
            if name is None:
                return None
            del self._open[name]
        return {**message, "params": {**section(message, "params"), "requestId": name}}

    def answered(self, answer: Message, session: Session | None) -> Message | None:
        """An answer as the server gets it; None: nobody waits for it any more."""
        with self._lock:
            asked = self._open.pop(str(answer.get("id")), None)
        if asked is None or asked[0] is not session:
            return None
        return {**answer, "id": asked[1]}

    def forget(self, session: Session) -> list[Message]:
        """Take back what an ended session has asked."""
        with self._lock:
            gone = [name for name, asked in self._open.items() if asked[0] is session]
            for name in gone:
                del self._open[name]
        reason = "the daemon was restarted"
        return [notification(CANCELLED, {"requestId": name, "reason": reason}) for name in gone]
