"""What a call would change, as a unified diff for whoever must allow it. Nothing is written here.

Close to what git prints: people read it, no program applies it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from agent_runtime.errors import ToolRefused
from agent_runtime.texts import decode, shown

CONTEXT_LINES: Final = 3
COMPARED_LINES_MAX: Final = 3_000
"""Of what is left between the first and the last difference: more is shown as taken out and put in,
because comparing takes time that grows with the square."""


def difference(path: str, before: bytes | None, after: bytes | None) -> str:
    """One file's change; None where there is no file."""
    if before == after:
        return f"{shown(path)} stays as it is\n"
    old_name = "/dev/null" if before is None else f"a/{shown(path)}"
    new_name = "/dev/null" if after is None else f"b/{shown(path)}"
    try:
        old = [] if before is None else lines(decode(before, path).text)
        new = [] if after is None else lines(decode(after, path).text)
    except ToolRefused:
        sizes = " to ".join(
            "nothing" if content is None else f"{len(content):,} bytes"
            for content in (before, after)
        )
        return f"{shown(path)}: a binary file, from {sizes}\n"
    if not old and not new:
        what = "an empty file is made" if before is None else "an empty file is deleted"
        return f"{shown(path)}: {what}\n"
    return f"--- {old_name}\n+++ {new_name}\n{body(old, new)}"


def body(old: Sequence[str], new: Sequence[str]) -> str:
    """The hunks of two texts that were cut into lines by `lines`."""
    return "".join(_marked(line) for line in _hunks(old, new))


def lines(text: str) -> list[str]:
    """A text's lines, each with its end; the last one may have none."""
    # Not `splitlines`, which ends a line at a form feed, too.
    *ended, rest = text.split("\n")
    return [f"{line}\n" for line in ended] + ([rest] if rest else [])


def _hunks(old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    """Lines of a unified diff, each with its line end. Only what lies between is compared."""
    shorter = min(len(old), len(new))
    start = next((n for n in range(shorter) if old[n] != new[n]), shorter)
    rest = shorter - start
    end = next((n for n in range(rest) if old[-1 - n] != new[-1 - n]), rest)
    left, right = old[start : len(old) - end], new[start : len(new) - end]
    if max(len(left), len(right)) > COMPARED_LINES_MAX:
        yield _head(start, len(left), start, len(right))
        yield from (f"-{line}" for line in left)
        yield from (f"+{line}" for line in right)
        return
    # difflib costs milliseconds to import, and only a preview needs it.
    import difflib

    lead, tail = min(CONTEXT_LINES, start), min(CONTEXT_LINES, end)
    first = start - lead
    matcher = difflib.SequenceMatcher(
        None, old[first : len(old) - end + tail], new[first : len(new) - end + tail], autojunk=False
    )
    for group in matcher.get_grouped_opcodes(CONTEXT_LINES):
        old_at, new_at = first + group[0][1], first + group[0][3]
        yield _head(old_at, first + group[-1][2] - old_at, new_at, first + group[-1][4] - new_at)
        for tag, i1, i2, j1, j2 in group:
            if tag == "equal":
                yield from (f" {line}" for line in old[first + i1 : first + i2])
                continue
            yield from (f"-{line}" for line in old[first + i1 : first + i2])
            yield from (f"+{line}" for line in new[first + j1 : first + j2])


def _head(old_at: int, old_count: int, new_at: int, new_count: int) -> str:
    return f"@@ -{_range(old_at, old_count)} +{_range(new_at, new_count)} @@\n"


def _range(at: int, count: int) -> str:
    # Of no lines, the one before them is named: POSIX, diff -u.
    start = at + 1 if count else at
    return f"{start}" if count == 1 else f"{start},{count}"


def _marked(line: str) -> str:
    return line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
