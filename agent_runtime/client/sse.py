"""Server-sent events with their ids, as the WHATWG's specification reads them (9.2). Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Frame:
    """What ends with an empty line. `data` is None where only an id came."""

    id: str
    """The last one up to here, of this frame or of one before."""
    event: str
    data: bytes | None


class Frames:
    """Feed it bytes as they come, cut anywhere, and take whole frames."""

    def __init__(self) -> None:
        self._rest = b""
        self._first = True
        self._id = ""
        self._said_id = False
        self._event = ""
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that end in `data`."""
        text = self._rest + data
        if self._first:
            if len(text) < len(_BOM) and _BOM.startswith(text):
                self._rest = text
                return []
            self._first, text = False, text.removeprefix(_BOM)
        # A CR at the end may be the first half of a CRLF.
        whole = len(text) - text.endswith(b"\r")
        found: list[Frame] = []
        start = 0
        for end in _LINE_END.finditer(text, 0, whole):
            line, start = text[start : end.start()], end.end()
            if line:
                self._field(line)
            elif (frame := self._frame()) is not None:
                found.append(frame)
        self._rest = text[start:]
        return found

    def _frame(self) -> Frame | None:
        frame = None
        if self._data or self._said_id:
            data = b"\n".join(self._data) if self._data else None
            frame = Frame(self._id, self._event, data)
        self._event, self._data, self._said_id = "", [], False
        return frame

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")
        elif name == b"id" and b"\0" not in value:
            self._id, self._said_id = value.decode("utf-8", "replace"), True
