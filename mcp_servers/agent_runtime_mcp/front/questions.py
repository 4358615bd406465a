"""What the server has asked the client, under ids that stay different over restarts.

A new session counts from the beginning again: an answer to a question of an old one must not reach
another question.
"""

from __future__ import annotations

import threading
from itertools import count
from typing import Any, Generic, TypeVar

from agent_runtime_mcp.front.words import CANCELLED, Message, notification, section

SessionT = TypeVar("SessionT")


class Questions(Generic[SessionT]):
    """Those that have no answer yet. Used by every thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = count(1)
        self._open: dict[str, tuple[SessionT, Any]] = {}

    def take(self, question: Message, session: SessionT) -> Message:
        """As the client gets it."""
        name = f"agent-runtime-{next(self._count)}"
        with self._lock:
            self._open[name] = session, question["id"]
        return {**question, "id": name}

    def cancelled(self, message: Message, session: SessionT) -> Message | None:
        """A server's `cancelled` as the client gets it; None: it was answered."""
        wanted = section(message, "params").get("requestId")
        with self._lock:
            name = next(
                (
                    each
                    for each, (asker, number) in self._open.items()
                    if asker is session and number == wanted
                ),
                None,
            )
            if name is None:
                return None
            del self._open[name]
        return {**message, "params": {**section(message, "params"), "requestId": name}}

    def answered(self, answer: Message, session: SessionT) -> Message | None:
        """An answer as the server gets it; None: nobody waits for it any more."""
        with self._lock:
            asked = self._open.pop(str(answer.get("id")), None)
        if asked is None or asked[0] is not session:
            return None
        return {**answer, "id": asked[1]}

    def forget(self, session: SessionT) -> list[Message]:
        """Take back what an ended session has asked."""
        with self._lock:
            gone = [name for name, asked in self._open.items() if asked[0] is session]
            for name in gone:
                del self._open[name]
        reason = "the daemon was restarted"
        return [notification(CANCELLED, {"requestId": name, "reason": reason}) for name in gone]
