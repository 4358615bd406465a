"""Tools that look around in the workspace: `list_directory`, `glob` and `grep`.

The searching itself is `agent_runtime.scan`, a process with a deadline: no pattern can hold the
worker up.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

import agent_runtime
from agent_runtime.errors import ToolRefused
from agent_runtime.file_kinds import kind
from agent_runtime.protect import glob_regex
from agent_runtime.texts import shown
from agent_runtime.toolkit import OUTPUT_CHARS_MAX, tool
from agent_runtime.types import Effect, Json, ToolCall, ToolResult
from agent_runtime_tools._places import Place
from agent_runtime_tools._processes import Kept, Pump, kill_all, mark
from agent_runtime_tools._results import os_errors_as_results

if TYPE_CHECKING:  # every import here costs a worker's start
    from agent_runtime.ports import Tool

SCAN: Final = os.path.join(os.path.dirname(agent_runtime.__file__), "scan.py")
SEARCH_SECONDS_MAX: Final = 30.0
ENTRIES_MAX: Final = 1_000
PATTERNS_MAX: Final = 64
_NOTES_CHARS: Final = 600

_DIRECTORY: Final[Json] = {
    "type": "string",
    "minLength": 1,
    "description": "Default: the workspace.",
}


def tools() -> Sequence[Tool]:
    """The entry point."""
    return [list_directory, glob, grep]


@tool(effect=Effect.READ, parameters={"path": _DIRECTORY})
@os_errors_as_results
def list_directory(call: ToolCall) -> ToolResult:
    """List a directory: kind, size in bytes and name of each entry."""
    with Place(call.workspace, call.arguments.get("path", ".")) as place:
        _must_be(place, directory=True)
        directory = place.open(os.O_RDONLY | os.O_DIRECTORY)
        try:
            names = sorted(os.listdir(directory))
            entries = [_entry(directory, name) for name in names[:ENTRIES_MAX]]
        finally:
            os.close(directory)
    lines = [f"{entry['kind']:<13} {entry['bytes']:>12,} {entry['name']}" for entry in entries]
    cut = len(names) - len(entries)
    notes = [f"[{cut:,} more entries; use glob to narrow]"] if cut else []
    return _listing(
        lines, notes, data={"entries": entries, "count": len(names), "truncated": bool(cut)}
    )


@tool(
    effect=Effect.READ,
    parameters={
        "pattern": {
            "type": "string",
            "minLength": 1,
            "maxLength": 1000,
            "description": "Such as src/**/*.py or *.{md,txt}; a final / finds directories.",
        },
        "path": _DIRECTORY,
        "limit": {
            "type": "integer",
            "minimum": 1,
            "maximum": 10_000,
            "description": "Default 1000.",
        },
    },
    required=("pattern",),
)
@os_errors_as_results
def glob(call: ToolCall) -> ToolResult:
    """Find files by path; ** crosses directories. Without .git, node_modules and venvs."""
    # Sorted; links to directories are not followed.
    pattern = call.arguments["pattern"]
    limit = call.arguments.get("limit", ENTRIES_MAX)
    found = _scan(
        call,
        {
            "mode": "glob",
            "regex": "",
            "files": _path_regex(pattern.rstrip("/")),
            "directories": pattern.endswith("/"),
            "limit": limit,
        },
    )
    if found.error:
        return found.failure(call)
    slash = "/" if pattern.endswith("/") else ""
    paths = [shown(found.prefix + record["path"]) + slash for record in found.records]
    notes = found.notes(f"only the first {limit:,} paths")
    return _listing(paths, notes, data={"paths": paths, "truncated": not found.complete})


@tool(
    effect=Effect.READ,
    parameters={
        "pattern": {
            "type": "string",
            "minLength": 1,
            "maxLength": 5000,
            "description": "As Python has it.",
        },
        "path": {**_DIRECTORY, "description": "File or directory; default: all."},
        "context": {
            "type": "integer",
            "minimum": 0,
            "maximum": 50,
            "description": "Lines around each match; default 0.",
        },
        "glob": {
            "type": "string",
            "minLength": 1,
            "maxLength": 1000,
            "description": "Only files that fit, such as *.py.",
        },
        "ignore_case": {"type": "boolean", "description": "Default false."},
        "limit": {
            "type": "integer",
            "minimum": 1,
            "maximum": 10_000,
            "description": "Matching lines; default 200.",
        },
    },
    required=("pattern",),
)
@os_errors_as_results
def grep(call: ToolCall) -> ToolResult:
    """Find lines in text files by a regex. Without .git, node_modules and venvs."""
    # As path:line:text, in the order of the paths; links are not followed.
    limit = call.arguments.get("limit", 200)
    files = call.arguments.get("glob")
    found = _scan(
        call,
        {
            "mode": "grep",
            "regex": call.arguments["pattern"],
            "files": _path_regex(files if "/" in files else f"**/{files}") if files else "",
            "directories": False,
            "limit": limit,
            "context": call.arguments.get("context", 0),
            "ignore_case": call.arguments.get("ignore_case", False),
        },
    )
    if found.error:
        return found.failure(call)
    matches = [
        {"path": shown(found.prefix + hit["path"]), "line": hit["line"], "text": hit["text"]}
        for hit in found.records
        if hit["hit"]
    ]
    lines = _grep_lines(found.records, found.prefix)
    notes = found.notes(f"only the first {limit:,} matches")
    if not matches and found.complete:
        notes.insert(0, "[no match]")
    return _listing(
        lines,
        notes,
        data={"matches": matches, "count": len(matches), "truncated": not found.complete},
    )


@dataclass(slots=True)
class _Found:
    """What a search brought. `prefix` makes its paths relative to the workspace."""

    prefix: str
    records: list[dict[str, Json]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    error: str = ""
    full: bool = False
    seconds: float | None = None
    """The deadline, if it ended the search."""

    @property
    def complete(self) -> bool:
        return not self.full and self.seconds is None

    def notes(self, full: str) -> list[str]:
        """What a reader must know about the completeness of the result."""
        notes = []
        if self.full:
            notes.append(f"[{full} are shown: narrow the pattern or the path]")
        if self.seconds is not None:
            notes.append(
                f"[stopped after {self.seconds:g} s, not everything was searched: narrow the path "
                "(very large files take long) or simplify the pattern (one such as (a+)+ can take "
                "for ever)]"
            )
        if self.skipped:
            names = ", ".join(shown(path) for path in self.skipped[:5])
            more = ", …" if len(self.skipped) > 5 else ""
            notes.append(f"[not searched: {names}{more}]"[:300])
        return notes

    def failure(self, call: ToolCall) -> ToolResult:
        return ToolResult(
            ok=False,
            kind="bad_input",
            output=f"{call.tool}: {call.arguments['pattern'][:200]!r}: {self.error}",
        )


def _scan(call: ToolCall, request: Mapping[str, Json]) -> _Found:
    """Search in a process of its own, at most `SEARCH_SECONDS_MAX`."""
    with Place(call.workspace, call.arguments.get("path", ".")) as place:
        mode = _must_be(place, directory=None if request["mode"] == "grep" else True)
        is_file = stat.S_ISREG(mode)
        start = os.dup(place.parent) if is_file else place.open(os.O_RDONLY | os.O_DIRECTORY)
        folder = place.path.rpartition("/")[0] if is_file else place.path
        found = _Found(prefix="" if folder in ("", ".") else folder + "/")
        try:
            told, ended_in_time, seconds = _run(
                call,
                start,
                {
                    "context": 0,
                    "ignore_case": False,
                    "exclude": "",
                    # The sandbox ends with its owner, and may be frozen meanwhile.
                    "seconds": 0,
                    **request,
                    "name": os.fsencode(place.name).decode("utf-8", "replace") if is_file else "",
                },
            )
        finally:
            os.close(start)
    for line in told.splitlines():
        _take(found, line)
    if not ended_in_time:
        found.seconds = seconds
    return found


def _take(found: _Found, line: bytes) -> None:
    try:
        record = msgspec.json.decode(line)
    except msgspec.DecodeError:
        # The line that the process was writing when it was killed.
        return
    if "error" in record:
        found.error = record["error"]
    elif "full" in record:
        found.full = True
    elif "done" in record:
        found.skipped = record["skipped"]
    else:
        found.records.append(record)


def _run(call: ToolCall, start: int, request: Mapping[str, Json]) -> tuple[bytes, bool, float]:
    seconds = min(call.timeout_seconds, SEARCH_SECONDS_MAX)
    env = {"LANG": "C.UTF-8", **mark()}
    output, errors = bytearray(), Kept(1 << 16)
    requests, request_end = os.pipe()
    # A request is shorter than a pipe holds: it is all there before the process starts.
    os.write(request_end, msgspec.json.encode(request) + b"\n")
    os.close(request_end)
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-X", "utf8", SCAN, str(start)],
            cwd="/",
            env=env,
            stdin=requests,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(start,),
            start_new_session=True,
        )
    finally:
        os.close(requests)
    with process:
        assert process.stdout is not None and process.stderr is not None
        pump = Pump(
            process,
            {process.stdout.fileno(): output.extend, process.stderr.fileno(): errors.add},
        )
        in_time = pump.run(deadline=time.monotonic() + seconds) == "exited"
        if not in_time:
            kill_all(process, env)
        pump.linger()
    if in_time and process.returncode != 0:
        raise RuntimeError(f"the search process failed: {errors.content().decode()[-2000:]}")
    return bytes(output), in_time, seconds


def _path_regex(pattern: str) -> str:
    if pattern.startswith("/") or ".." in pattern.split("/"):
        raise ToolRefused(f"{pattern!r}: a glob is relative to `path` and cannot leave it")
    while pattern.startswith("./"):
        pattern = pattern[2:]
    expanded = _expanded(pattern)
    return "|".join(f"(?:{glob_regex(choice).pattern})" for choice in expanded)


def _expanded(pattern: str) -> list[str]:
    """`*.{py,pyi}` as `*.py` and `*.pyi`; braces do not nest."""
    opening = pattern.find("{")
    closing = pattern.find("}", opening)
    if opening == -1 or closing == -1 or "," not in pattern[opening:closing]:
        return [pattern]
    head, tail = pattern[:opening], pattern[closing + 1 :]
    choices = [head + choice for choice in pattern[opening + 1 : closing].split(",")]
    out = [choice + rest for choice in choices for rest in _expanded(tail)]
    if len(out) > PATTERNS_MAX:
        raise ToolRefused(f"{pattern!r} stands for more than {PATTERNS_MAX} patterns")
    return out


def _grep_lines(records: Sequence[Mapping[str, Json]], prefix: str) -> list[str]:
    lines = []
    with_context = any(not record["hit"] for record in records)
    last = None
    for record in records:
        here = (record["path"], record["line"])
        if with_context and last is not None and here != (last[0], last[1] + 1):
            lines.append("--")
        mark = ":" if record["hit"] else "-"
        path = shown(prefix + record["path"])
        lines.append(f"{path}{mark}{record['line']}{mark}{record['text']}")
        last = here
    return lines


def _must_be(place: Place, *, directory: bool | None) -> int:
    """The mode of what is there; a directory, or a regular file unless one is demanded."""
    found = place.stat()
    if found is None:
        raise FileNotFoundError(2, os.strerror(2), place.path)
    mode = found.st_mode
    if stat.S_ISDIR(mode) or (directory is None and stat.S_ISREG(mode)):
        return mode
    what = "a directory" if directory else "a file or directory"
    raise ToolRefused(f"{shown(place.path)!r} is a {kind(mode)}, not {what}")


def _entry(directory: int, name: str) -> dict[str, Json]:
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return {"name": shown(name), "kind": "gone", "bytes": 0}
    entry = {"name": shown(name), "kind": kind(found.st_mode), "bytes": found.st_size}
    if stat.S_ISLNK(found.st_mode):
        entry["target"] = shown(os.readlink(name, dir_fd=directory))
    return entry


def _listing(lines: Sequence[str], notes: list[str], *, data: Json) -> ToolResult:
    """As many lines as a brain is shown, the notes below; the rest is in `raw`."""
    room = OUTPUT_CHARS_MAX - _NOTES_CHARS
    shown_lines: list[str] = []
    for line in lines:
        room -= len(line) + 1
        if room < 0:
            break
        shown_lines.append(line)
    cut = len(lines) - len(shown_lines)
    if cut:
        notes = [f"[{cut:,} more lines are not shown: narrow the pattern or the path]", *notes]
    return ToolResult(
        ok=True,
        output="\n".join([*shown_lines, *notes]),
        data=data,
        raw="\n".join(lines).encode() if cut else None,
    )
