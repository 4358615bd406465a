"""Which files a patch changes and by how much, read from its text alone.

For patches as the private store makes them (`git diff-tree -p --binary --no-renames`). Lines of a
hunk are counted off, so that a file's content is never read as the header of another file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

_HUNK = re.compile(rb"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")
_LITERAL = re.compile(rb"literal (\d+)\Z")
_START = b"diff --git "


@dataclass(slots=True)
class FileChange:
    """One file of a patch. `path` spells what is no UTF-8 as `\\xff`."""

    path: str
    kind: Literal["added", "deleted", "changed"] = "changed"
    added: int = 0
    """Lines, as `removed`."""
    removed: int = 0
    binary: bool = False
    bytes: int | None = None
    """Of a binary file's new content, where the patch says so."""


def file_changes(patch: bytes) -> list[FileChange]:
    """Every file of `patch`, in its order."""
    found: list[FileChange] = []
    old = new = 0
    """Lines of the present hunk that are still to come."""
    for line in patch.split(b"\n"):
        if old > 0 or new > 0:
            sign = line[:1]
            if sign != b"\\":
                old -= sign in (b" ", b"-")
                new -= sign in (b" ", b"+")
                found[-1].added += sign == b"+"
                found[-1].removed += sign == b"-"
        elif line.startswith(_START):
            found.append(FileChange(_path(line.removeprefix(_START))))
        elif found and (hunk := _HUNK.match(line)):
            old, new = (1 if count is None else int(count) for count in hunk.groups())
        elif found:
            _header(found[-1], line)
    return found


def _header(change: FileChange, line: bytes) -> None:
    if line.startswith(b"new file mode "):
        change.kind = "added"
    elif line.startswith(b"deleted file mode "):
        change.kind = "deleted"
    elif line == b"GIT binary patch":
        change.binary = True
    elif change.binary and change.bytes is None and (size := _LITERAL.match(line)):
        change.bytes = int(size[1])


def _path(names: bytes) -> str:
    """`a/X b/X` or `"a/X" "b/X"`: without renames both halves are of one length."""
    name = names[: (len(names) - 1) // 2]
    if name.startswith(b'"'):
        # git's quoting is that of C, which Python's escapes include.
        name = name[1:-1].decode("unicode_escape").encode("latin-1")
    return name.removeprefix(b"a/").decode("utf-8", "backslashreplace")
