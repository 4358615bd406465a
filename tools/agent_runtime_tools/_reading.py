"""`read_file`: some lines of a file, without loading the rest of it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Final

from agent_runtime import texts
from agent_runtime.errors import ToolRefused
from agent_runtime.texts import shown
from agent_runtime.toolkit import OUTPUT_CHARS_MAX, cap, tool
from agent_runtime.types import Effect, ToolCall, ToolResult
from agent_runtime_tools._contents import WHOLE_BYTES_MAX, open_file
from agent_runtime_tools._places import Place
from agent_runtime_tools._results import os_errors_as_results

RANGE_BYTES_MAX: Final = 8 << 20
"""What one call takes of a file; the rest is for the next call."""
_CHUNK_BYTES = 1 << 20
_NOTE_CHARS = 160


@dataclass(frozen=True, slots=True)
class _Range:
    """Some lines of a file. `lines` and `sha256` are None if the file was not read to its end."""

    content: bytes
    lines: int | None
    sha256: str | None
    cut: bool


@tool(
    effect=Effect.READ,
    parameters={
        "path": {"type": "string", "minLength": 1, "description": "The file."},
        "start": {"type": "integer", "minimum": 1, "description": "First line; default 1."},
        "end": {"type": "integer", "minimum": 1, "description": "Last line; default the last."},
    },
    required=("path",),
)
@os_errors_as_results
def read_file(call: ToolCall) -> ToolResult:
    """Read a text file, or some of its lines.

    Long text is cut at a line, and the result says where to read on.
    """
    start, end = call.arguments.get("start", 1), call.arguments.get("end")
    if end is not None and end < start:
        return ToolResult(
            ok=False, kind="bad_input", output=f"read_file: end {end} is before start {start}"
        )
    with Place(call.workspace, call.arguments["path"]) as place:
        descriptor, found = open_file(place)
        try:
            head = os.pread(descriptor, texts.SNIFFED_BYTES, 0)
            if texts.is_binary(head):
                raise texts.refuse_binary(place.path, found.st_size)
            mark, encoding = texts.mark_of(head)
            if encoding.startswith(("utf-16", "utf-32")):
                taken = _wide_range(descriptor, place.path, start=start, end=end)
            else:
                taken = _range(descriptor, start=start, end=end, bytes_count=found.st_size)
        finally:
            os.close(descriptor)
    if taken.lines is not None and start > max(taken.lines, 1):
        return ToolResult(
            ok=False,
            kind="bad_input",
            output=f"read_file: {shown(place.path)!r} has {taken.lines} lines; start is {start}",
        )
    return _result(place.path, taken, start=start, bytes_count=found.st_size, mark=mark)


def _result(path: str, taken: _Range, *, start: int, bytes_count: int, mark: bytes) -> ToolResult:
    decoded = texts.decode(taken.content, path)
    text = decoded.text
    encoding = texts.mark_of(mark)[1] if mark else decoded.encoding
    note = "" if encoding == "utf-8" else f"[{encoding}, {bytes_count:,} bytes]\n"
    body, count = _whole_lines(text, OUTPUT_CHARS_MAX - len(note))
    whole = body == text
    end = start + count - 1
    truncated = taken.cut or not whole
    if truncated:
        of = f" of {taken.lines}" if taken.lines is not None else ""
        body += f"[lines {start}-{end}{of} shown; read on with start={end + 1}]"
    return ToolResult(
        ok=True,
        output=note + body,
        data={
            "path": shown(path),
            "start": start,
            "end": end,
            "lines": taken.lines,
            "sha256": taken.sha256,
            "truncated": truncated,
            "bytes": bytes_count,
            "encoding": encoding,
            "newline": "crlf" if decoded.newline == "\r\n" else "lf",
        },
        raw=None if whole else text.encode(),
    )


def _whole_lines(text: str, limit: int) -> tuple[str, int]:
    """As many whole lines as fit, and their number; a long first line is cut in its middle."""
    if len(text) <= limit:
        return text, text.count("\n") + (not text.endswith("\n") and bool(text))
    room = limit - _NOTE_CHARS
    if (end := text.rfind("\n", 0, room)) != -1:
        return text[: end + 1], text.count("\n", 0, end + 1)
    return cap(text.partition("\n")[0], room - 1) + "\n", 1


def _range(descriptor: int, *, start: int, end: int | None, bytes_count: int) -> _Range:
    """Take the lines as bytes go by. A huge file is left as soon as they are there."""
    leave_early = bytes_count > WHOLE_BYTES_MAX
    hashed = hashlib.sha256()
    taken = bytearray()
    line, cut, last_byte, position = 1, False, b"\n", 0
    while chunk := os.pread(descriptor, _CHUNK_BYTES, position):
        position += len(chunk)
        if not leave_early:
            hashed.update(chunk)
        first, last = _bounds(chunk, line, start=start, end=end)
        room = RANGE_BYTES_MAX - len(taken)
        cut = cut or last - first > room
        if room > 0:
            taken += chunk[first : min(last, first + room)]
        line += chunk.count(b"\n")
        last_byte = chunk[-1:]
        if leave_early and (cut or (end is not None and line > end)):
            return _Range(_tidied(taken, start, cut=cut), None, None, cut)
    lines = line - 1 + (last_byte != b"\n")
    sha256 = None if leave_early else hashed.hexdigest()
    return _Range(_tidied(taken, start, cut=cut), lines, sha256, cut)


def _bounds(chunk: bytes, line: int, *, start: int, end: int | None) -> tuple[int, int]:
    """Which part of a piece that begins in `line` belongs to lines start..end."""
    first = _offset(chunk, start - line)
    last = len(chunk) if end is None else _offset(chunk, end + 1 - line)
    return first, max(first, last)


def _offset(chunk: bytes, line_ends: int) -> int:
    """Where the line after so many line ends begins; the end of the piece if it has fewer."""
    if line_ends <= 0:
        return 0
    if line_ends > chunk.count(b"\n"):
        return len(chunk)
    at = -1
    for _ in range(line_ends):
        at = chunk.index(b"\n", at + 1)
    return at + 1


def _tidied(taken: bytearray, start: int, *, cut: bool) -> bytes:
    """Without a byte order mark, and without the line, or the character, that was cut in two."""
    content = bytes(taken)
    mark, encoding = texts.mark_of(content)
    if start == 1 and encoding == "utf-8":
        content = content[len(mark) :]
    return content[: content.rfind(b"\n") + 1] or content if cut else content


def _wide_range(descriptor: int, path: str, *, start: int, end: int | None) -> _Range:
    """Lines of a file in UTF-16 or UTF-32, whose line ends are no single bytes."""
    content = os.pread(descriptor, RANGE_BYTES_MAX + 1, 0)
    if len(content) > RANGE_BYTES_MAX:
        raise ToolRefused(f"{shown(path)!r} is too large for its encoding; convert it to UTF-8")
    lines = texts.decode(content, path).text.split("\n")
    count = len(lines) - (lines[-1] == "")
    wanted = "\n".join([*lines, ""][start - 1 : end]) + ("\n" if end and end < count else "")
    return _Range(
        wanted.removesuffix("\n").encode() if end is None else wanted.encode(),
        count,
        hashlib.sha256(content).hexdigest(),
        False,
    )
