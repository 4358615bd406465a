"""Unified diffs: reading them, and finding where a hunk belongs; pure.

Understands what git and diff(1) write: `a/` and `b/` prefixes, new, deleted, renamed and copied
files, modes, quoted names, missing line ends. A hunk must match exactly, white space included; as
with patch(1) it may lie elsewhere than its header says, and the nearest place is taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from agent_runtime.errors import ToolRefused

_HUNK: Final = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "a": "\a", "b": "\b",
                   "f": "\f", "v": "\v"}  # fmt: skip
_HEADERS: Final = (
    "old mode ", "new mode ", "deleted file mode ", "new file mode ", "copy from ", "copy to ",
    "rename from ", "rename to ", "similarity index ", "dissimilarity index ", "index ",
)  # fmt: skip


@dataclass(slots=True)
class Hunk:
    """Lines with their ends. `old_start` is where the header says that they are, from 1."""

    number: int
    old_start: int
    old: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)


@dataclass(slots=True)
class FileDiff:
    """One file's part. `old` None: the file is new; `new` None: it is deleted."""

    old: str | None
    new: str | None
    copied: bool = False
    executable: bool | None = None
    hunks: list[Hunk] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.new or self.old or "?"


def parse(patch: str) -> list[FileDiff]:
    """The files of a patch, in order; text before, between and after them is skipped.

    Raises:
        ToolRefused: it is no unified diff, or broken; names the line, the file and the hunk.
    """
    diffs = list(_Reader(_split(patch)).diffs())
    if not diffs:
        raise ToolRefused(
            "the patch names no file; it must be a unified diff: '--- a/FILE', '+++ b/FILE', "
            "then '@@ -LINE,COUNT +LINE,COUNT @@' and lines that start with ' ', '-' or '+'"
        )
    return diffs


def apply_hunks(text: str, diff: FileDiff, *, newline: str) -> str:
    """The text with all hunks of one file in place.

    Raises:
        ToolRefused: a hunk does not match; names the file, the hunk and the line that differs.
    """
    lines = _split(text)
    out: list[str] = []
    done, offset = 0, 0
    for hunk in diff.hunks:
        old, new = _with_ends(hunk, newline)
        # By convention a hunk without old lines names the line that it comes after.
        wanted = hunk.old_start - 1 + (not old) + offset
        at = _find(lines, old, wanted=wanted, low=done)
        if at is None:
            raise ToolRefused(_mismatch(lines, old, diff=diff, hunk=hunk, wanted=wanted, low=done))
        offset += at - wanted
        out += lines[done:at]
        out += new
        done = at + len(old)
    out += lines[done:]
    for line in out[:-1]:
        if not line.endswith("\n"):
            raise ToolRefused(
                f"{diff.name!r}: a line without line end would be in the middle: {line[:80]!r}"
            )
    return "".join(out)


def _find(lines: Sequence[str], old: Sequence[str], *, wanted: int, low: int) -> int | None:
    """The nearest place at or after `low` where the lines are, the later one first, as patch(1)."""
    high = len(lines) - len(old)
    if high < low:
        return None
    for distance in range(max(abs(wanted - low), abs(wanted - high)) + 1):
        for at in dict.fromkeys((wanted + distance, wanted - distance)):
            if low <= at <= high and lines[at : at + len(old)] == old:
                return at
    return None


def _mismatch(
    lines: Sequence[str], old: Sequence[str], *, diff: FileDiff, hunk: Hunk, wanted: int, low: int
) -> str:
    label = f"hunk {hunk.number} of {diff.name!r} (line {hunk.old_start})"
    if _find(lines, old, wanted=wanted, low=0) is not None:
        return f"{label} matches only before the hunk ahead of it; hunks must be in order"
    at = min(max(wanted, 0), len(lines))
    for index, line in enumerate(old):
        there = lines[at + index] if at + index < len(lines) else None
        if there != line:
            found = "the end of the file" if there is None else repr(there[:120])
            return f"{label} does not match: line {at + index + 1} is {found}, not {line[:120]!r}"
    return f"{label} does not match"


class _Reader:
    """Goes through the lines of a patch once."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = lines
        self._at = 0

    def diffs(self) -> Iterator[FileDiff]:
        while (line := self._line()) is not None:
            if line.startswith("diff --git "):
                yield self._git_diff()
            elif line.startswith("--- ") and (self._line(1) or "").startswith("+++ "):
                yield self._plain_diff()
            elif line.startswith("@@"):
                raise ToolRefused(
                    f"line {self._at + 1} of the patch: {line.rstrip()[:80]!r} must be "
                    "'@@ -LINE,COUNT +LINE,COUNT @@' below '--- a/FILE' and '+++ b/FILE'"
                )
            else:
                self._at += 1

    def _git_diff(self) -> FileDiff:
        header = (self._line() or "").removeprefix("diff --git ").rstrip("\r\n")
        self._at += 1
        told: dict[str, str] = {}
        while (line := self._line()) is not None and line.startswith(_HEADERS):
            for key in _HEADERS:
                if line.startswith(key):
                    told[key.strip()] = line.removeprefix(key).rstrip("\r\n")
            self._at += 1
        line = self._line() or ""
        if line.startswith(("GIT binary patch", "Binary files ")):
            raise ToolRefused(f"binary patches are not applied: {header!r}; use shell and git")
        if line.startswith("--- ") and (self._line(1) or "").startswith("+++ "):
            diff = self._plain_diff()
        else:
            moved = told.get("rename from", told.get("copy from"))
            name = _name_of_header(header) if moved is None else _unquoted(moved)
            diff = FileDiff(old=name, new=name)
        _take_headers(diff, told, header=header)
        return diff

    def _plain_diff(self) -> FileDiff:
        old = _name((self._line() or "")[4:])
        new = _name((self._line(1) or "")[4:])
        self._at += 2
        if old is None and new is None:
            raise ToolRefused(f"line {self._at} of the patch: both files are /dev/null")
        if all(
            name is None or name.startswith(f"{side}/") for name, side in ((old, "a"), (new, "b"))
        ):
            old, new = (name and name[2:] for name in (old, new))
        diff = FileDiff(old=old, new=new)
        while (line := self._line()) is not None and (match := _HUNK.match(line)):
            diff.hunks.append(self._hunk(match, diff))
        if not diff.hunks and not (line or "").startswith("@@"):
            raise ToolRefused(f"{diff.name!r} has no hunk in the patch (line {self._at})")
        return diff

    def _hunk(self, match: re.Match[str], diff: FileDiff) -> Hunk:
        old_start, old_count, _, new_count = (int(n) if n else None for n in match.groups())
        hunk = Hunk(number=len(diff.hunks) + 1, old_start=old_start or 0)
        old_left = 1 if old_count is None else old_count
        new_left = 1 if new_count is None else new_count
        self._at += 1
        while old_left > 0 or new_left > 0 or (self._line() or "").startswith("\\"):
            line = self._line()
            if line is None or line[:1] not in ("", " ", "-", "+", "\\", "\n", "\r"):
                raise self._miscounted(hunk, diff, old_left=old_left, new_left=new_left)
            self._at += 1
            # Editors and brains strip the blank of an empty context line; patch(1) takes that too.
            sign, body = (" ", line) if line[:1] in ("\n", "\r") else (line[0], line[1:])
            if sign == "\\":
                _drop_line_end(hunk, self._lines[self._at - 2][:1])
                continue
            if not body.endswith("\n"):
                body += "\n"
            if sign in " -":
                hunk.old.append(body)
                old_left -= 1
            if sign in " +":
                hunk.new.append(body)
                new_left -= 1
            if old_left < 0 or new_left < 0:
                raise self._miscounted(hunk, diff, old_left=old_left, new_left=new_left)
        if (line := self._line()) is not None and line[:1] in ("+", "-", " "):
            if not line.startswith(("--- ", "-- ")):
                raise self._miscounted(hunk, diff, old_left=-1, new_left=-1)
        return hunk

    def _miscounted(
        self, hunk: Hunk, diff: FileDiff, *, old_left: int, new_left: int
    ) -> ToolRefused:
        few = "has fewer lines" if max(old_left, new_left) > 0 else "has more lines"
        return ToolRefused(
            f"hunk {hunk.number} of {diff.name!r} {few} than its '@@' line announces "
            f"(line {min(self._at + 1, len(self._lines))} of the patch)"
        )

    def _line(self, ahead: int = 0) -> str | None:
        at = self._at + ahead
        return self._lines[at] if at < len(self._lines) else None


def _take_headers(diff: FileDiff, told: dict[str, str], *, header: str) -> None:
    if "new file mode" in told:
        diff.old = None
    if "deleted file mode" in told:
        diff.new = None
    for verb in ("rename", "copy"):
        if f"{verb} from" in told and f"{verb} to" in told:
            diff.old = _unquoted(told[f"{verb} from"])
            diff.new = _unquoted(told[f"{verb} to"])
            diff.copied = verb == "copy"
    mode = told.get("new file mode", told.get("new mode"))
    for key in ("new file mode", "new mode", "old mode", "deleted file mode"):
        if told.get(key) in ("120000", "160000"):
            what = "symbolic links" if told[key] == "120000" else "submodules"
            raise ToolRefused(f"{what} are not patched: {header!r}; use shell and git")
    if mode is not None:
        diff.executable = mode == "100755"


def _name_of_header(header: str) -> str:
    """`a/X b/X`: the name is not marked off, so it is where both halves agree."""
    if header.startswith('"'):
        first = re.match(r'"(?:[^"\\]|\\.)*"', header)
        if first:
            return _unquoted(first.group()).removeprefix("a/")
    half = len(header) // 2
    old, new = header[:half], header[half + 1 :]
    if old.startswith("a/") and new.startswith("b/") and old[2:] == new[2:]:
        return old[2:]
    if old == new:
        return old
    raise ToolRefused(f"the patch has no '---' and '+++' lines for {header!r}")


def _name(text: str) -> str | None:
    """A name of a `---` or `+++` line: without what follows a tab; None is /dev/null."""
    name = text.rstrip("\r\n")
    if not name.startswith('"'):
        name = name.split("\t", 1)[0]
    name = _unquoted(name)
    return None if name == "/dev/null" else name


def _unquoted(name: str) -> str:
    """Git's C-style quoting undone: `"caf\\303\\251"` is UTF-8 in octal."""
    if not (name.startswith('"') and (end := name.rfind('"')) > 0):
        return name
    out = bytearray()
    for match in re.finditer(r"\\([0-7]{3})|\\(.)|([^\\]+)", name[1:end], re.DOTALL):
        octal, escaped, plain = match.groups()
        if octal:
            out.append(int(octal, 8) & 0xFF)
        else:
            out += (_ESCAPES.get(escaped, escaped) if escaped else plain).encode()
    return out.decode("utf-8", "surrogateescape")


def _drop_line_end(hunk: Hunk, sign: str) -> None:
    r"""`\ No newline at end of file` speaks of the line before it."""
    for signs, side in ((" -", hunk.old), (" +", hunk.new)):
        if sign in signs and side:
            side[-1] = side[-1].removesuffix("\n").removesuffix("\r")


def _with_ends(hunk: Hunk, newline: str) -> tuple[list[str], list[str]]:
    """A hunk that was written with LF fits a file whose lines all end with CRLF."""
    if newline == "\n" or any(line.endswith("\r\n") for line in (*hunk.old, *hunk.new)):
        return hunk.old, hunk.new
    old, new = (
        [line[:-1] + "\r\n" if line.endswith("\n") else line for line in side]
        for side in (hunk.old, hunk.new)
    )
    return old, new


def _split(text: str) -> list[str]:
    """Lines with their ends; only LF ends a line (str.splitlines knows eight more)."""
    lines = text.split("\n")
    last = lines.pop()
    return [line + "\n" for line in lines] + ([last] if last else [])
