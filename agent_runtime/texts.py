"""Bytes as text and back, without changing a byte that nobody edited.

UTF-8 is the rule. A byte order mark says UTF-16 or UTF-32. Other bytes are read as Latin-1, where
each byte is one character, so that an edit elsewhere in the file keeps them. A NUL byte means that
the file is binary.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import Final

from agent_runtime.errors import ToolRefused

SNIFFED_BYTES: Final = 8192
# The longer marks first: UTF-32's little-endian one starts with UTF-16's.
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@dataclass(frozen=True, slots=True)
class Text:
    """A decoded file; `encode` of its own text gives the file's bytes."""

    text: str
    encoding: str
    mark: bytes

    @property
    def newline(self) -> str:
        """`\\r\\n` if every line ends so, else `\\n`: what a new line should end with."""
        ends = self.text.count("\n")
        return "\r\n" if ends and self.text.count("\r\n") == ends else "\n"

    def encode(self, text: str, path: str) -> bytes:
        """Raises `ToolRefused` for a character that the file's encoding does not have."""
        try:
            return self.mark + text.encode(self.encoding)
        except UnicodeEncodeError as error:
            raise ToolRefused(
                f"{shown(path)!r} is read as {self.encoding}, which cannot write "
                f"{text[error.start]!r}; convert the file to UTF-8 first"
            ) from None


def mark_of(head: bytes) -> tuple[bytes, str]:
    """The byte order mark at the start of a file and its encoding; (b"", "utf-8") without one."""
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return mark, encoding
    return b"", "utf-8"


def is_binary(head: bytes) -> bool:
    """Does this start like a file that is no text? Git's rule: a NUL byte early on."""
    return not mark_of(head)[1].startswith(("utf-16", "utf-32")) and b"\0" in head[:SNIFFED_BYTES]


def refuse_binary(path: str, bytes_count: int) -> ToolRefused:
    """The error for a binary file, naming it and its size."""
    return ToolRefused(
        f"{shown(path)!r} is a binary file of {bytes_count:,} bytes; look at it with shell "
        "(file, xxd, python)"
    )


def decode(content: bytes, path: str) -> Text:
    """Raises `ToolRefused` if it is binary."""
    mark, encoding = mark_of(content)
    if is_binary(content):
        raise refuse_binary(path, len(content))
    body = content[len(mark) :]
    try:
        return Text(body.decode(encoding), encoding, mark)
    except UnicodeDecodeError:
        if encoding != "utf-8":
            raise refuse_binary(path, len(content)) from None
        return Text(content.decode("latin-1"), "latin-1", b"")


def shown(path: str) -> str:
    """A path for people and JSON: what cannot be printed is written as an escape."""
    if path.isprintable():
        return path
    return "".join(char if char.isprintable() else _escaped(char) for char in path)


def _escaped(char: str) -> str:
    # A byte that is no UTF-8 is a lone surrogate in Python; people know it as \xff.
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()
