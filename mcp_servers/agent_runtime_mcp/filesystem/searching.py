"""The tools that find: files by their path, lines by a regular expression.

Paths are matched here: the expressions of `globs` cannot take long. An expression of a client can,
and Python cannot interrupt one: `grep` runs in a process of its own, with a deadline.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

import msgspec

import agent_runtime
from agent_runtime.file_kinds import kind
from agent_runtime.texts import shown
from agent_runtime_mcp.definitions import ToolAnswer
from agent_runtime_mcp.filesystem import globs
from agent_runtime_mcp.filesystem.calls import Call, answer
from agent_runtime_mcp.filesystem.listing import PATTERNS_MAX
from agent_runtime_mcp.filesystem.places import LISTING, LOOKING, Place, opened
from agent_runtime_mcp.filesystem.refusals import NotNow, Refused, Turn
from agent_runtime_mcp.filesystem.walking import Walk

if TYPE_CHECKING:
    import subprocess

    from agent_runtime.types import Json

FOUND_MAX: Final = 1_000
LIMIT_MAX: Final = 10_000
GREP_MAX: Final = 200
GREP_SECONDS_MAX: Final = 20.0
GREP_CHARS_MAX: Final = 1 << 20
CONTEXT_MAX: Final = 50
_SCAN: Final = os.path.join(os.path.dirname(agent_runtime.__file__), "scan.py")
_LOOK_SECONDS: Final = 0.1


def search_files(call: Call) -> ToolAnswer:
    """Paths that fit a pattern, directories among them."""
    path, pattern = call.text("path"), call.text("pattern")
    limit = call.count("limit", FOUND_MAX, least=1, most=LIMIT_MAX)
    excluded = call.texts("excludePatterns", most=PATTERNS_MAX)
    wanted = globs.compiled([pattern])
    assert wanted is not None
    above = _above(call, path)
    walk = Walk(call.roots, path, call.turn, leave=globs.left_out(excluded, anywhere=False))
    paths: list[str] = []
    full = False
    try:
        for found in walk.run():
            if wanted.fullmatch(found.path):
                if len(paths) == limit:
                    full = True
                    break
                paths.append(shown(above + found.path))
    finally:
        walk.close()
    notes = walk.notes
    if full:
        notes.insert(0, f"[only the first {limit:,} are shown: narrow the pattern or the path]")
    more = {"truncated": True} if notes else {}
    return answer("\n".join(paths) or "No matches found", "\n".join(notes), **more)


def grep(call: Call) -> ToolAnswer:
    """Lines of text files, as `path:line:text`."""
    if call.turn.quick and not call.turn.seconds_max:
        raise NotNow
    limit = call.count("limit", GREP_MAX, least=1, most=LIMIT_MAX)
    files = call.text("glob", "")
    request = {
        "mode": "grep",
        "regex": call.text("pattern"),
        "context": call.count("context", most=CONTEXT_MAX),
        "ignore_case": call.flag("ignoreCase"),
        "files": globs.expression(files if "/" in files else f"**/{files}") if files else "",
        "exclude": _anywhere(call.texts("excludePatterns", most=PATTERNS_MAX)),
        "directories": False,
        "seconds": int(GREP_SECONDS_MAX) + 1,
    }
    paths = [call.text("path")] if "path" in call.arguments else _all(call)
    lines: list[str] = []
    notes: list[str] = []
    left = limit
    for path in paths:
        found = _searched(call, path, {**request, "limit": left})
        lines += found.lines
        notes += found.notes
        left -= found.hits
        if left <= 0 or found.full:
            notes.append(f"[only the first {limit:,} matches are shown: narrow pattern or path]")
            break
    text, cut = _bounded(lines)
    if cut:
        notes.insert(0, f"[{cut:,} more lines are not shown: narrow the pattern or the path]")
    more = {"truncated": True} if notes else {}
    return answer(text or "No matches found", "\n".join(dict.fromkeys(notes)), **more)


class _Searched:
    """What one search brought."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.notes: list[str] = []
        self.hits = 0
        self.full = False


def _searched(call: Call, path: str, request: dict[str, Json]) -> _Searched:
    """Search below a directory, or in one file."""
    looked = opened(call.roots, path, LOOKING)
    try:
        mode = os.fstat(looked).st_mode
    finally:
        os.close(looked)
    if stat.S_ISDIR(mode):
        directory = opened(call.roots, path, LISTING)
        above, name = _above(call, path), ""
    elif stat.S_ISREG(mode):
        with Place(call.roots, path) as place:
            directory = os.open(".", LISTING, dir_fd=place.parent)
            above = os.path.join(place.root.path, place.below, "")
            name = place.name
    else:
        raise Refused(f"{path!r} is a {kind(mode)}, not a file or directory")
    try:
        return _run(call.turn, directory, above, {**request, "name": name})
    finally:
        os.close(directory)


def _run(turn: Turn, directory: int, above: str, request: dict[str, Json]) -> _Searched:
    # Costs milliseconds to import, and most servers are never asked.
    import subprocess
    import sys

    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-X", "utf8", _SCAN, str(directory)],
        cwd="/",
        env={"LANG": "C.UTF-8"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(directory,),
        start_new_session=True,
    ) as process:
        try:
            told, errors, in_time = _waited(process, msgspec.json.encode(request) + b"\n", turn)
        finally:
            process.kill()
    if in_time and process.returncode != 0:
        raise Refused(f"the search process failed: {errors.decode(errors='replace')[-500:]}")
    searched = _Searched()
    last = None
    for line in told.splitlines():
        try:
            record = msgspec.json.decode(line)
        except msgspec.DecodeError:
            # The line that it was writing when it was killed.
            break
        last = _taken(searched, record, above, request, last)
    if not in_time:
        searched.notes.append(
            f"[stopped after {GREP_SECONDS_MAX:g} s, not everything was searched: narrow the path, "
            "or simplify the pattern (one such as (a+)+ can take for ever)]"
        )
    return searched


def _waited(
    process: subprocess.Popen[bytes], request: bytes, turn: Turn
) -> tuple[bytes, bytes, bool]:
    """Output, errors, and whether it ended by itself."""
    import subprocess

    to_send: bytes | None = request
    looks = int((turn.seconds_max if turn.quick else GREP_SECONDS_MAX) / _LOOK_SECONDS)
    for look in range(looks + 1):
        if look == looks and turn.quick:
            raise NotNow
        if look == looks or turn.stopped:
            process.kill()
        try:
            told, errors = process.communicate(to_send, timeout=_LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            to_send = None
            continue
        return told, errors, not (look == looks or turn.stopped)
    told, errors = process.communicate()
    return told, errors, False


def _taken(
    searched: _Searched, record: dict[str, Json], above: str, request: dict[str, Json],
    last: tuple[str, int] | None,
) -> tuple[str, int] | None:  # fmt: skip
    if "error" in record:
        raise Refused(f"pattern {request['regex'][:200]!r}: {record['error']}")
    if "full" in record:
        searched.full = True
    elif "done" in record:
        if skipped := record["skipped"]:
            names = ", ".join(map(repr, skipped[:5]))
            searched.notes.append(f"[not searched: {names}{', …' if len(skipped) > 5 else ''}]")
    else:
        here = (record["path"], record["line"])
        if request["context"] and last is not None and here != (last[0], last[1] + 1):
            searched.lines.append("--")
        mark = ":" if record["hit"] else "-"
        path = shown(above + record["path"])
        searched.lines.append(f"{path}{mark}{record['line']}{mark}{record['text']}")
        searched.hits += record["hit"]
        return here
    return last


def _above(call: Call, path: str) -> str:
    """What stands before a path from there, so that it can be used in the next call."""
    root, relative = call.roots.find(path)
    return os.path.join(root.path, relative, "")


def _all(call: Call) -> list[str]:
    paths = [root.path for root in call.roots.roots]
    if not paths:
        call.roots.find("/")
    return paths


def _anywhere(patterns: list[str]) -> str:
    wide = [f"**/{pattern}" for pattern in patterns if "*" not in pattern]
    return "|".join(globs.expression(pattern) for pattern in (*patterns, *wide))


def _bounded(lines: list[str]) -> tuple[str, int]:
    room, kept = GREP_CHARS_MAX, 0
    for line in lines:
        room -= len(line) + 1
        if room < 0:
            break
        kept += 1
    return "\n".join(lines[:kept]), len(lines) - kept
