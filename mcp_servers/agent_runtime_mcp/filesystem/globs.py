"""Patterns of paths, as clients of filesystem servers write them; pure.

`*` and `?` stay inside a part of a path, `**` is any number of parts, `[a-z]` and `[!a-z]` are
sets, `{a,b}` is either, `\\` takes the meaning away. Hidden files are like any others. The
expressions made here cannot take long on a hostile pattern: what stands before a further star is
never tried again (atomic groups), which changes no answer, because the first fit leaves most room.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from agent_runtime_mcp.filesystem.refusals import Refused

PATTERN_CHARS_MAX: Final = 1_000
CHOICES_MAX: Final = 64
_PARTS: Final = "(?:[^/]+/)"


def compiled(patterns: Sequence[str]) -> re.Pattern[str] | None:
    """One expression for `fullmatch` against paths without a leading slash; None of no pattern.

    Raises:
        Refused: a pattern is too long, absolute, or stands for too many.
    """
    if not patterns:
        return None
    return re.compile("|".join(expression(pattern) for pattern in patterns), re.DOTALL)


def expression(pattern: str) -> str:
    """The expression of one pattern. Raises as `compiled`."""
    if len(pattern) > PATTERN_CHARS_MAX:
        raise Refused(
            f"a pattern has at most {PATTERN_CHARS_MAX:,} characters; got {len(pattern):,}"
        )
    if pattern.startswith("/"):
        raise Refused(f"{pattern!r}: a pattern is relative to `path`, such as '**/*.py'")
    while pattern.startswith("./"):
        pattern = pattern[2:]
    return "|".join(f"(?:{_path(choice)})" for choice in _choices(pattern))


def left_out(patterns: Sequence[str], *, anywhere: bool) -> Callable[[str], bool] | None:
    """Is a path left out? None: none is. Raises as `compiled`.

    `anywhere`: a pattern without a star fits at every depth, as a name in a tree would.
    """
    wide = [f"**/{pattern}" for pattern in patterns if anywhere and "*" not in pattern]
    found = compiled([*patterns, *wide])
    return None if found is None else lambda path: found.fullmatch(path) is not None


def _choices(pattern: str) -> list[str]:
    """`*.{py,pyi}` as `*.py` and `*.pyi`; braces do not nest."""
    done, waiting = [], [pattern]
    while waiting:
        this = waiting.pop()
        found = re.search(r"(?<!\\)\{([^{}]*,[^{}]*)\}", this)
        if found is None:
            done.append(this)
        else:
            head, tail = this[: found.start()], this[found.end() :]
            waiting += [f"{head}{choice}{tail}" for choice in found[1].split(",")]
        if len(done) + len(waiting) > CHOICES_MAX:
            raise Refused(f"{pattern!r} stands for more than {CHOICES_MAX} patterns")
    return done


def _path(pattern: str) -> str:
    runs: list[list[str]] = [[]]
    for part in pattern.rstrip("/").split("/"):
        if part != "**":
            runs[-1].append(_part(part))
        elif runs[-1] or len(runs) == 1:
            runs.append([])
    first, *rest = runs
    out = "/".join(first)
    if not rest:
        return out
    if first:
        out += "/"
    *middle, last = rest
    out += "".join(f"(?>{_PARTS}*?{'/'.join(run)}/)" for run in middle)
    return out + (f"{_PARTS}*{'/'.join(last)}" if last else ".+")


def _part(part: str) -> str:
    pieces = _pieces(part)
    *before, last = pieces
    if not before:
        return last
    first, *middle = before
    return first + "".join(f"(?>[^/]*?{piece})" for piece in middle) + f"[^/]*{last}"


def _pieces(part: str) -> list[str]:
    """What stands between stars."""
    pieces, at = [""], 0
    while at < len(part):
        char = part[at]
        at += 1
        if char == "*":
            if pieces[-1] or len(pieces) == 1:
                pieces.append("")
        elif char == "?":
            pieces[-1] += "[^/]"
        elif char == "[" and (end := _end_of_set(part, at)) > at:
            pieces[-1] += _set(part[at:end])
            at = end + 1
        elif char == "\\" and at < len(part):
            pieces[-1] += re.escape(part[at])
            at += 1
        else:
            pieces[-1] += re.escape(char)
    return pieces


def _end_of_set(part: str, at: int) -> int:
    # A bracket that comes first is one of the set.
    return part.find("]", at + 2 if part[at : at + 1] in ("!", "^") else at + 1)


def _set(inside: str) -> str:
    negated = inside[0] in "!^"
    chars = inside[1:] if negated else inside
    out, at = "", 0
    while at < len(chars):
        if chars[at + 1 : at + 2] == "-" and at + 2 < len(chars):
            low, high = chars[at], chars[at + 2]
            if low <= high:
                out += f"{re.escape(low)}-{re.escape(high)}"
            at += 3
        else:
            out += re.escape(chars[at])
            at += 1
    if not out:
        return "[^/]" if negated else "(?!)"
    return f"(?!/)[{'^' if negated else ''}{out}]"
