"""Server-sent events out of bytes, as the WHATWG's specification reads them. Pure.

Only what models send is kept: the event's name and its data. An id, a retry and comments are
read over.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `name` is empty where the server gives none."""

    name: str
    data: str


class Events:
    """Feed it bytes as they come, cut anywhere, and take whole events."""

    def __init__(self) -> None:
        self._buffer = b""
        self._first = True
        self._name = ""
        self._data: list[str] = []

    def feed(self, data: bytes) -> list[Event]:
        """The events that end in `data`."""
        self._buffer += data
        if self._first and len(self._buffer) >= len(_BOM):
            self._first = False
            self._buffer = self._buffer.removeprefix(_BOM)
        # A CR at the end may be the first half of a CRLF.
        whole = len(self._buffer) - self._buffer.endswith(b"\r")
        events, start = [], 0
        for end in _LINE_END.finditer(self._buffer, 0, whole):
            events += self._line(self._buffer[start : end.start()])
            start = end.end()
        self._buffer = self._buffer[start:]
        return events

    def close(self) -> list[Event]:
        """The event that the stream ended in, if its data had come.

        The specification drops it; several servers leave out the last empty line.
        """
        last = self._line(self._buffer.removesuffix(b"\r")) if self._buffer else []
        self._buffer = b""
        return [*last, *self._line(b"")]

    def _line(self, line: bytes) -> list[Event]:
        if not line:
            event = Event(self._name, "\n".join(self._data))
            there = bool(self._data)
            self._name, self._data = "", []
            return [event] if there else []
        field, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        return []
