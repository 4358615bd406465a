"""The tools that look at names: lists, trees, and what is known about one file.

A list holds one name a line; what would break a line is written as an escape. A tree is JSON and
has the names as they are.
"""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime
from typing import Final

import msgspec

from agent_runtime.file_kinds import kind
from agent_runtime.texts import shown
from agent_runtime_mcp.definitions import ToolAnswer
from agent_runtime_mcp.filesystem import globs, kernel
from agent_runtime_mcp.filesystem.calls import Call, answer
from agent_runtime_mcp.filesystem.places import LISTING, LOOKING, open_regular, opened
from agent_runtime_mcp.filesystem.reading import digest
from agent_runtime_mcp.filesystem.refusals import Refused
from agent_runtime_mcp.filesystem.roots import NO_ROOTS
from agent_runtime_mcp.filesystem.staging import WHOLE_BYTES_MAX
from agent_runtime_mcp.filesystem.walking import Walk

ENTRIES_SHOWN_MAX: Final = 5_000
"""Of one directory, in one answer; `offset` goes on."""
TREE_ENTRIES_MAX: Final = 10_000
TREE_LEVELS_MAX: Final = 100
TREE_CHARS_MAX: Final = 4 << 20
PATTERNS_MAX: Final = 100
_UNITS: Final = ("B", "KB", "MB", "GB", "TB")


def list_directory(call: Call) -> ToolAnswer:
    """Names, with [DIR] or [FILE] before each."""
    path, offset = call.text("path"), call.count("offset")
    directory = opened(call.roots, path, LISTING)
    try:
        entries = []
        with os.scandir(directory) as found:
            for entry in found:
                entries.append((entry.name, entry.is_dir(follow_symlinks=False)))
                call.turn.takes_entries(len(entries))
    finally:
        os.close(directory)
    entries.sort()
    lines = [
        f"[DIR] {shown(name)}" if is_directory else f"[FILE] {shown(name)}"
        for name, is_directory in entries[offset : offset + ENTRIES_SHOWN_MAX]
    ]
    return _listed(path, lines, len(entries), offset)


def list_directory_with_sizes(call: Call) -> ToolAnswer:
    """Names and sizes, and what they are together."""
    path, offset = call.text("path"), call.count("offset")
    order = call.text("sortBy", "name")
    if order not in ("name", "size"):
        raise Refused(f"sortBy must be 'name' or 'size'; got {order!r}")
    entries = []
    directory = opened(call.roots, path, LISTING)
    try:
        with os.scandir(directory) as found:
            for entry in found:
                is_directory = entry.is_dir(follow_symlinks=False)
                entries.append((entry.name, is_directory, _size(entry)))
                call.turn.takes_entries(len(entries))
    finally:
        os.close(directory)
    entries.sort(key=lambda one: (-one[2], one[0]) if order == "size" else (0, one[0]))
    lines = [
        f"[DIR] {shown(name):<30} "
        if is_directory
        else f"[FILE] {shown(name):<30} {_spelled(size):>10}"
        for name, is_directory, size in entries[offset : offset + ENTRIES_SHOWN_MAX]
    ]
    files = [size for _, is_directory, size in entries if not is_directory]
    lines += [
        "",
        f"Total: {len(files)} files, {len(entries) - len(files)} directories",
        f"Combined size: {_spelled(sum(files))}",
    ]
    return _listed(path, lines, len(entries), offset)


def directory_tree(call: Call) -> ToolAnswer:
    """Everything below a directory, as JSON."""
    path = call.text("path")
    excluded = call.texts("excludePatterns", most=PATTERNS_MAX)
    leave = globs.left_out(excluded, anywhere=True)
    walk = Walk(call.roots, path, call.turn, leave=leave, levels_max=TREE_LEVELS_MAX)
    try:
        out, full = _tree(walk)
    finally:
        walk.close()
    notes = walk.notes
    if full:
        notes.insert(
            0,
            "[only the first entries are shown: name a directory further down, or exclude some "
            "with excludePatterns]",
        )
    more = {"truncated": True} if notes else {}
    return answer(out, "\n".join(notes), **more)


def get_file_info(call: Call) -> ToolAnswer:
    """What is known about a file or directory besides its content."""
    path = call.text("path")
    descriptor = opened(call.roots, path, LOOKING)
    try:
        found = os.fstat(descriptor)
        created = kernel.born(descriptor)
    finally:
        os.close(descriptor)
    mode = found.st_mode
    told = {
        "size": found.st_size,
        "created": _time(min(found.st_mtime, found.st_ctime) if created is None else created),
        "modified": _time(found.st_mtime),
        "accessed": _time(found.st_atime),
        "isDirectory": str(stat.S_ISDIR(mode)).lower(),
        "isFile": str(stat.S_ISREG(mode)).lower(),
        "permissions": f"{stat.S_IMODE(mode) & 0o777:03o}",
        "type": kind(mode),
        "links": found.st_nlink,
    }
    if stat.S_ISREG(mode) and found.st_size <= WHOLE_BYTES_MAX:
        call.turn.takes_bytes(found.st_size)
        try:
            readable, _ = open_regular(call.roots, path)
        except Refused:
            pass
        else:
            try:
                told["sha256"] = digest(readable, path)
            finally:
                os.close(readable)
    return answer("\n".join(f"{key}: {value}" for key, value in told.items()))


def list_allowed_directories(call: Call) -> ToolAnswer:
    """The roots; one that cannot be used now is named with the reason."""
    lines: list[str] = []
    notes: list[str] = []
    for root in call.roots.roots:
        lines += dict.fromkeys((root.path, root.real))
        if fault := root.fault():
            notes.append(f"[{fault}]")
    notes += [f"[{told}]" for told in call.roots.refused]
    if not lines:
        notes.append(f"[{NO_ROOTS}]")
    return answer("\n".join(["Allowed directories:", *lines]), "\n".join(notes))


def _listed(path: str, lines: list[str], count: int, offset: int) -> ToolAnswer:
    rest = count - offset - ENTRIES_SHOWN_MAX
    if rest <= 0:
        return answer("\n".join(lines))
    following = offset + ENTRIES_SHOWN_MAX
    return answer(
        "\n".join(lines),
        f"[{path} has {count:,} entries; {rest:,} more: read on with offset={following}, or find "
        "some with search_files]",
        truncated=True,
        next_offset=following,
    )


def _tree(walk: Walk) -> tuple[str, bool]:
    """The JSON, two spaces a level, and whether it was cut. Built by lines: depth has no bound."""
    out: list[str] = []
    count, full = 0, False
    previous, room = -1, TREE_CHARS_MAX
    was_directory = False
    for found in walk.run():
        level = found.path.count("/")
        if count == TREE_ENTRIES_MAX or room < 0:
            full = True
            break
        count += 1
        out += _between(previous, level, was_directory)
        pad = "    " * level
        out.append(
            f'{pad}  {{\n{pad}    "name": {_quoted(found.name)},\n{pad}    "type": '
            f'"{"directory" if found.is_directory else "file"}"'
        )
        room -= len(out[-1])
        previous, was_directory = level, found.is_directory
    if previous == -1:
        return "[]", full
    return "[\n" + "".join([*out, *_between(previous, -1, was_directory)]) + "\n]", full


def _between(previous: int, level: int, was_directory: bool) -> list[str]:
    """What stands between an entry and the next one; `level` -1: the end."""
    if previous == -1:
        return []
    pad = "    " * previous
    if level > previous:
        return [f',\n{pad}    "children": [\n']
    out = [f',\n{pad}    "children": []\n{pad}  }}' if was_directory else f"\n{pad}  }}"]
    for upper in range(previous - 1, max(level, 0) - 1, -1):
        pad = "    " * upper
        out.append(f"\n{pad}    ]\n{pad}  }}")
    return [*out, ",\n"] if level >= 0 else out


def _quoted(name: str) -> str:
    try:
        return msgspec.json.encode(name).decode()
    except UnicodeEncodeError:
        return msgspec.json.encode(shown(name)).decode()


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except OSError:
        return 0


def _spelled(size: int) -> str:
    unit, value = 0, float(size)
    while value >= 1024 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    return f"{size} B" if unit == 0 else f"{value:.2f} {_UNITS[unit]}"


def _time(seconds: float) -> str:
    try:
        told = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return f"{seconds:.3f} s since 1970"
    return told.isoformat(timespec="milliseconds").replace("+00:00", "Z")
