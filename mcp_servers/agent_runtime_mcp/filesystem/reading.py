"""The tools that read files: whole, in part, several at once, and what is no text.

A result has a bound; what is beyond it is told, with how to read on. Small files are read on the
short way, without a thread: from the page cache 10 KB take less than handing them over would.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from agent_runtime import texts
from agent_runtime_mcp.definitions import ToolAnswer
from agent_runtime_mcp.filesystem.calls import Call, answer
from agent_runtime_mcp.filesystem.places import open_regular
from agent_runtime_mcp.filesystem.refusals import Refused, Turn
from agent_runtime_mcp.filesystem.staging import WHOLE_BYTES_MAX

if TYPE_CHECKING:
    from agent_runtime.types import Json
    from agent_runtime_mcp.filesystem.roots import Roots

READ_BYTES_MAX: Final = 1 << 20
"""Of one file, in one answer."""
TOGETHER_BYTES_MAX: Final = 4 << 20
"""Of all files, in one answer."""
TOGETHER_FILES_MAX: Final = 500
MEDIA_BYTES_MAX: Final = 16 << 20
_WIDE_BYTES_MAX: Final = 16 << 20
_CHUNK_BYTES: Final = 1 << 18
_LATIN: Final = "[not UTF-8: every byte is shown as one Latin-1 character]"

MIME_TYPES: Final = {
    ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif",
    ".webp": "image/webp", ".bmp": "image/bmp", ".svg": "image/svg+xml", ".avif": "image/avif",
    ".mp3": "audio/mpeg", ".wav": "audio/wav", ".ogg": "audio/ogg", ".flac": "audio/flac",
    ".m4a": "audio/mp4", ".pdf": "application/pdf", ".zip": "application/zip",
}  # fmt: skip


def read_text_file(call: Call) -> ToolAnswer:
    """A text file, or the part that is asked for."""
    path = call.text("path")
    if len(call.arguments) > 1:
        return _read_part(call, path)
    descriptor, found = open_regular(call.roots, path)
    try:
        size = found.st_size
        if size > READ_BYTES_MAX:
            call.turn.takes_bytes(READ_BYTES_MAX)
            return _shown(_Text(descriptor, path).piece(0, READ_BYTES_MAX))
        call.turn.takes_bytes(size)
        content = os.read(descriptor, size + 1)
        if len(content) != size or b"\0" in content[: texts.SNIFFED_BYTES]:
            # It grows, lies in /proc, or is no UTF-8.
            return _shown(_Text(descriptor, path).piece(0, READ_BYTES_MAX))
    finally:
        os.close(descriptor)
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return _shown(_Text.of(content, path).piece(0, READ_BYTES_MAX))
    return answer(text.removeprefix("\ufeff"))


def _read_part(call: Call, path: str) -> ToolAnswer:
    given = call.arguments
    head, tail = call.count("head"), call.count("tail")
    if head and tail:
        raise Refused("Cannot specify both head and tail parameters simultaneously")
    lines = "start" in given or "end" in given
    if (head > 0) + (tail > 0) + lines + ("offset" in given) > 1:
        raise Refused("use only one of head, tail, start and end (lines), offset (bytes)")
    start, end = call.count("start", 1, least=1), call.count("end", 1 << 53, least=1)
    if end < start:
        raise Refused(f"end ({end:,}) is before start ({start:,}); lines count from 1")
    with_hash = call.flag("hash")
    descriptor, found = open_regular(call.roots, path)
    try:
        text = _Text(descriptor, path)
        if head:
            piece = text.head(head, call.turn)
        elif tail:
            piece = text.tail(tail, call.turn)
        elif lines:
            piece = text.lines(start, end, call.turn)
        else:
            call.turn.takes_bytes(min(found.st_size, READ_BYTES_MAX))
            piece = text.piece(call.count("offset"), READ_BYTES_MAX)
        if with_hash:
            call.turn.takes_bytes(found.st_size)
        more = {"sha256": digest(descriptor, path)} if with_hash else {}
    finally:
        os.close(descriptor)
    return _shown(piece, more)


def read_multiple_files(call: Call) -> ToolAnswer:
    """Several files; one that cannot be read does not spoil the others."""
    paths = call.texts("paths", most=TOGETHER_FILES_MAX)
    if not paths:
        raise Refused("paths: name at least one file")
    call.turn.takes_entries(10 * len(paths))
    room, results = TOGETHER_BYTES_MAX, []
    for path in paths:
        if room <= 0 or call.turn.stopped:
            results.append(
                f"{path}: Error - not read: the files before it fill the answer "
                f"({TOGETHER_BYTES_MAX:,} bytes); ask for it alone"
            )
            continue
        try:
            piece = beginning(call.roots, path, min(room, READ_BYTES_MAX), call.turn)
        except Refused as refused:
            results.append(f"{path}: Error - {refused}")
            continue
        room -= len(piece.text)
        results.append(f"{path}:\n{piece.text}\n" + (f"{piece.note}\n" if piece.note else ""))
    return answer("\n---\n".join(results))


def read_media_file(call: Call) -> ToolAnswer:
    """An image, a sound, or any other file, in base64."""
    import base64

    path = call.text("path")
    content = read_bytes(call.roots, path, MEDIA_BYTES_MAX, call.turn)
    mime = mime_type(path)
    data = base64.b64encode(content).decode()
    block: dict[str, Json]
    if mime.startswith(("image/", "audio/")):
        block = {"type": mime[:5], "data": data, "mimeType": mime}
    else:
        root, relative = call.roots.find(path)
        uri = file_uri(os.path.join(root.path, relative))
        block = {"type": "resource", "resource": {"uri": uri, "mimeType": mime, "blob": data}}
    return ToolAnswer([block], {"content": [block]})


def read_bytes(roots: Roots, path: str, bytes_max: int, turn: Turn) -> bytes:
    """A regular file's content. Raises `Refused`, also above `bytes_max`."""
    descriptor, found = open_regular(roots, path)
    try:
        turn.takes_bytes(found.st_size)
        if found.st_size <= bytes_max:
            content = _read(descriptor, 0, bytes_max + 1)
            if len(content) <= bytes_max:
                return content
        raise Refused(
            f"{path!r} has {found.st_size:,} bytes; at most {bytes_max:,} are given in one "
            "answer; the lines of a text are read with read_text_file and start, end or offset"
        )
    finally:
        os.close(descriptor)


def beginning(roots: Roots, path: str, bytes_max: int, turn: Turn) -> Piece:
    """A text file from its start. Raises `Refused`."""
    descriptor, found = open_regular(roots, path)
    try:
        turn.takes_bytes(min(found.st_size, bytes_max))
        return _Text(descriptor, path).piece(0, bytes_max)
    finally:
        os.close(descriptor)


def digest(descriptor: int, path: str) -> str:
    """SHA-256 of an open file, in hex. Raises `Refused`: it is too large."""
    import hashlib

    done, at = hashlib.sha256(), 0
    while chunk := os.pread(descriptor, _CHUNK_BYTES, at):
        done.update(chunk)
        at += len(chunk)
        if at > WHOLE_BYTES_MAX:
            raise Refused(f"{path!r}: only files up to {WHOLE_BYTES_MAX:,} bytes get a hash")
    return done.hexdigest()


def mime_type(path: str) -> str:
    """By the name's ending, as clients expect it; they can show only some."""
    return MIME_TYPES.get(os.path.splitext(path)[1].lower(), "application/octet-stream")


def file_uri(path: str) -> str:
    """An absolute path as `file://` address."""
    from urllib.parse import quote_from_bytes

    return "file://" + quote_from_bytes(os.fsencode(path))


class Piece:
    """A part of a text, what is to be known about it, and where it goes on."""

    __slots__ = ("next_offset", "note", "text")

    def __init__(self, text: str, note: str = "", next_offset: int | None = None) -> None:
        self.text = text
        self.note = note
        self.next_offset = next_offset


def _shown(piece: Piece, more: dict[str, str] | None = None) -> ToolAnswer:
    extra: dict[str, Json] = dict(more or {})
    note = piece.note
    if piece.next_offset is not None:
        extra |= {"truncated": True, "next_offset": piece.next_offset}
    if more:
        note = "\n".join([*([note] if note else []), f"[sha256 {more['sha256']}]"])
    return answer(piece.text, note, **extra)


class _Text:
    """A text file, open. Offsets count its bytes, or what they are as UTF-8 if it is UTF-16."""

    def __init__(self, descriptor: int, path: str) -> None:
        """Raises `Refused`: it is binary."""
        start = os.pread(descriptor, texts.SNIFFED_BYTES, 0)
        self._descriptor = descriptor
        self._path = path
        self._size = os.fstat(descriptor).st_size
        self._content: bytes | None = None
        if texts.is_binary(start):
            raise self._binary()
        mark, encoding = texts.mark_of(start)
        if encoding != "utf-8":
            self._content = self._narrow(mark, encoding)
            self._size = len(self._content)

    @classmethod
    def of(cls, content: bytes, path: str) -> _Text:
        """One that has been read. Raises `Refused`: it is binary."""
        text = cls.__new__(cls)
        text._path, text._content, text._size = path, content, len(content)
        mark, encoding = texts.mark_of(content)
        if encoding != "utf-8":
            text._content = text._decoded(content[len(mark) :], encoding)
            text._size = len(text._content)
        return text

    def piece(self, offset: int, bytes_max: int, *, line: int | None = None) -> Piece:
        """From an offset on; `line` is the number of the line there, where it is known."""
        content = self._fetch(offset, bytes_max + 1)
        if offset and offset >= self._size and not content:
            raise Refused(f"{self._path!r} has {self._size:,} bytes; offset is {offset:,}")
        if len(content) <= bytes_max:
            return self._piece(content, offset, cut=False)
        content = content[:bytes_max]
        if (end := content.rfind(b"\n") + 1) > bytes_max // 2:
            content = content[:end]
        if offset == 0:
            line = 1
        after = None
        if line is not None and content.endswith(b"\n"):
            after = line + content.count(b"\n")
        return self._piece(content, offset, cut=True, line=after)

    def head(self, count: int, turn: Turn) -> Piece:
        """The first lines, without the last one's end."""
        content = b""
        while content.count(b"\n") < count and len(content) <= READ_BYTES_MAX:
            turn.takes_bytes(len(content))
            more = self._fetch(len(content), min(_CHUNK_BYTES, 4096 + 3 * len(content)))
            if not more:
                break
            content += more
        lines = content.split(b"\n", count)
        if len(lines) > count:
            content = b"\n".join(lines[:count])
        if len(content) > READ_BYTES_MAX:
            return self.piece(0, READ_BYTES_MAX)
        return self._piece(content.removesuffix(b"\n"), 0, cut=False)

    def tail(self, count: int, turn: Turn) -> Piece:
        """The last lines, without the last one's end."""
        content, at = b"", self._size
        while at and content.count(b"\n") <= count and len(content) < READ_BYTES_MAX:
            turn.takes_bytes(len(content))
            step = min(_CHUNK_BYTES, 4096 + 3 * len(content), at)
            at -= step
            content = self._fetch(at, step) + content
        content = content.removesuffix(b"\n")
        lines = content.rsplit(b"\n", count)
        kept = b"\n".join(lines[-count:]) if len(lines) > count else content
        if len(kept) > READ_BYTES_MAX or (at and len(lines) <= count):
            kept = kept[-READ_BYTES_MAX:]
            begin = self._size - len(kept)
            piece = self._piece(kept, begin, cut=False)
            piece.note = "\n".join(
                [
                    f"[{self._path} has {self._size:,} bytes; only the last {len(kept):,} of these "
                    "lines are shown: read before them with offset]",
                    *([piece.note] if piece.note else []),
                ]
            )
            return piece
        return self._piece(kept, at + (len(lines) > count), cut=False)

    def lines(self, start: int, end: int, turn: Turn) -> Piece:
        """Lines by number, from 1, both included, with their ends."""
        at, before = 0, 0
        while before < start - 1 and not turn.stopped:
            turn.takes_bytes(at)
            chunk = self._fetch(at, _CHUNK_BYTES)
            if not chunk:
                raise self._shorter(before + (at > 0 and self._fetch(at - 1, 1) != b"\n"), start)
            wanted = start - 1 - before
            if (found := chunk.count(b"\n")) < wanted:
                before += found
                at += len(chunk)
                continue
            at += len(chunk) - len(chunk.split(b"\n", wanted)[-1])
            before = start - 1
        turn.takes_bytes(min(self._size - at, READ_BYTES_MAX))
        content = self._fetch(at, READ_BYTES_MAX + 1)
        if not content and start > 1:
            raise self._shorter(start - 1, start)
        wanted = end - start + 1
        if content.count(b"\n") < wanted:
            return self.piece(at, READ_BYTES_MAX, line=start)
        lines = content.split(b"\n", wanted)
        content = content[: len(content) - len(lines[-1])]
        return self._piece(content, at, cut=False)

    def _piece(self, content: bytes, offset: int, *, cut: bool, line: int | None = None) -> Piece:
        try:
            text, taken = _utf8(content, offset, cut=cut)
            notes = []
        except UnicodeDecodeError:
            text, taken = content.decode("latin-1"), len(content)
            notes = [_LATIN]
        if offset == 0:
            text = text.removeprefix("\ufeff")
        if not cut:
            return Piece(text, "\n".join(notes))
        after = offset + taken
        next_line = "" if line is None else f" (or start={line}, the next line)"
        notes.insert(
            0,
            f"[{self._path} has {self._size:,} bytes; shown are {offset:,} to {after:,}: read on "
            f"with offset={after}{next_line}]",
        )
        return Piece(text, "\n".join(notes), after)

    def _fetch(self, offset: int, count: int) -> bytes:
        if self._content is not None:
            return self._content[offset : offset + count]
        return _read(self._descriptor, offset, count)

    def _narrow(self, mark: bytes, encoding: str) -> bytes:
        if self._size > _WIDE_BYTES_MAX:
            raise Refused(
                f"{self._path!r} is {encoding} text of {self._size:,} bytes; only up to "
                f"{_WIDE_BYTES_MAX:,} of that are read: convert it to UTF-8"
            )
        return self._decoded(_read(self._descriptor, len(mark), _WIDE_BYTES_MAX), encoding)

    def _decoded(self, content: bytes, encoding: str) -> bytes:
        try:
            return content.decode(encoding).encode()
        except UnicodeError:
            raise self._binary() from None

    def _shorter(self, lines: int, start: int) -> Refused:
        return Refused(f"{self._path!r} has {lines:,} lines; start is {start:,}")

    def _binary(self) -> Refused:
        return Refused(
            f"{self._path!r} is a binary file of {self._size:,} bytes, not text; read it with "
            "read_media_file"
        )


def _utf8(content: bytes, offset: int, *, cut: bool) -> tuple[str, int]:
    """Text, and how many bytes it stands for; half a character at a cut is left for later."""
    import codecs

    skipped = 0
    if offset:
        # An offset may point into a character: what is left of it is not shown.
        while skipped < 3 and content[skipped : skipped + 1] and content[skipped] & 0xC0 == 0x80:
            skipped += 1
    text, taken = codecs.utf_8_decode(content[skipped:], "strict", not cut)
    return text, taken + skipped


def _read(descriptor: int, offset: int, count: int) -> bytes:
    """`count` bytes, fewer at the end of the file only."""
    pieces = []
    while count > 0 and (piece := os.pread(descriptor, min(count, 1 << 20), offset)):
        pieces.append(piece)
        offset += len(piece)
        count -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
