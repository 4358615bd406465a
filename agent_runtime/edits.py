"""Replacing text that must be there exactly once; pure.

In a file whose lines all end with CRLF, a line end in an edit means CRLF: a brain writes LF.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from agent_runtime.errors import ToolRefused

NEAR_LINES_MAX: Final = 3
_NEAR_SEARCHED_LINES_MAX: Final = 20_000
_LONE_LF: Final = re.compile(r"(?<!\r)\n")


def apply_edits(
    text: str, edits: Sequence[Mapping[str, str]], *, path: str, newline: str
) -> tuple[str, list[int]]:
    """The text after all edits, one after the other, and the line where each one was made.

    Raises:
        ToolRefused: an `oldText` is not there exactly once at its turn; says how often, and where
            it is, or which lines come near.
    """
    lines = []
    for number, edit in enumerate(edits, start=1):
        old, new = (_ends(edit[key], newline) for key in ("oldText", "newText"))
        label = f"edit {number} of {len(edits)} in {path!r}"
        if not old:
            raise ToolRefused(f"{label}: oldText is empty; use write_file to replace a whole file")
        at = _only_match(text, old, label=label)
        if at is None and newline == "\n" and "\r\n" in text:
            # A file of mixed line ends: the lines that are meant may be the other kind.
            old, new = _ends(old, "\r\n"), _ends(new, "\r\n")
            at = _only_match(text, old, label=label)
        if at is None:
            raise ToolRefused(f"{label}: oldText is not in the file. {_near_misses(text, old)}")
        lines.append(_line_of(text, at))
        text = text[:at] + new + text[at + len(old) :]
    return text, lines


def _only_match(text: str, old: str, *, label: str) -> int | None:
    places = list(_matches(text, old, count_max=6))
    if len(places) > 1:
        shown = ", ".join(str(_line_of(text, at)) for at in places[:5])
        count = sum(1 for _ in _matches(text, old, count_max=10_000))
        raise ToolRefused(
            f"{label}: oldText matches {count} times (lines {shown}{', …' if count > 5 else ''}); "
            "take in more of the lines around it until it matches once"
        )
    return places[0] if places else None


def _matches(text: str, old: str, *, count_max: int) -> Iterator[int]:
    """Where `old` starts; overlapping matches count, because either could be meant."""
    at = -1
    for _ in range(count_max):
        at = text.find(old, at + 1)
        if at == -1:
            return
        yield at


def _near_misses(text: str, old: str) -> str:
    """What the writer may have had in mind: the same lines spaced otherwise, else similar ones."""
    lines = text.split("\n")[:_NEAR_SEARCHED_LINES_MAX]
    wanted = [line.split() for line in old.strip("\r\n").split("\n")]
    words = [line.split() for line in lines]
    for start in range(len(lines) - len(wanted) + 1):
        if words[start] == wanted[0] and words[start : start + len(wanted)] == wanted:
            return (
                f"Line {start + 1} matches but for white space: {_quoted(lines[start])}; "
                "copy the text exactly, indentation included"
            )
    first = next((line for line in old.split("\n") if line.strip()), old)
    near = _similar(first, lines)
    if not near:
        return "No line comes near it: read the file again"
    return "Nearest lines: " + "; ".join(f"{n}: {_quoted(lines[n - 1])}" for n in near)


def _similar(line: str, lines: Sequence[str]) -> list[int]:
    # difflib costs milliseconds to import, and only a failed edit needs it.
    import difflib

    numbers: dict[str, int] = {}
    for number, candidate in enumerate(lines, start=1):
        numbers.setdefault(candidate.strip()[:200], number)
    found = difflib.get_close_matches(line.strip()[:200], numbers, n=NEAR_LINES_MAX, cutoff=0.6)
    return [numbers[candidate] for candidate in found]


def _quoted(line: str) -> str:
    return repr(line if len(line) <= 120 else line[:120] + "…")


def _line_of(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _ends(text: str, newline: str) -> str:
    return _LONE_LF.sub("\r\n", text) if newline == "\r\n" else text
