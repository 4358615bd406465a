"""The searcher of `grep` and `glob`: a script of its own, so that it can be killed.

Tools start it in the sandbox, the filesystem server starts it beside itself.

A regular expression can take for ever, and Python cannot interrupt one in a thread: the search
runs in a process with a deadline. The request is a line of JSON on standard input, every result is
a line on standard output. It imports only what starts fast. Links are not followed; what was a
directory when it was listed is opened as one, or left out.
"""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import sys
from collections import deque

# Importing typing costs a search a quarter of its start; type checkers know this name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

DEPTH_MAX = 200
"""Every level keeps a directory open."""
LINE_BYTES_MAX = 1 << 20
SHOWN_CHARS_MAX = 300
OUTPUT_CHARS_MAX = 4 << 20
SKIPPED_NAMES = frozenset({".git", "node_modules", "__pycache__"})


class Full(Exception):
    """Enough has been found."""


class Output:
    """Results as lines, until there are enough."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._chars_left = OUTPUT_CHARS_MAX

    def found(self, record: dict[str, Any]) -> None:
        """Write one result; `Full` if it would be one too many."""
        if self._left == 0 or self._chars_left <= 0:
            raise Full
        self._left -= 1
        self.beside(record)

    def beside(self, record: dict[str, Any]) -> None:
        """Write a line of context."""
        self._chars_left -= tell(record)


class Entry:
    """A name in an open directory; `path` is relative to where the search began."""

    __slots__ = ("directory", "is_file", "name", "path")

    def __init__(self, directory: int, name: str, path: str, *, is_file: bool) -> None:
        self.directory = directory
        self.name = name
        self.path = path
        self.is_file = is_file


def main() -> None:
    """Answer one request; the descriptor of the directory to search is the argument."""
    # What was found must be out when the process is killed.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    request = json.loads(sys.stdin.readline())
    # Whoever started it ends it in time. Where that was killed, no pattern may run on for ever;
    # 0: it may, because what it runs in has an end.
    signal.alarm(request["seconds"])
    skipped: list[str] = []
    try:
        pattern = re.compile(request["regex"], re.IGNORECASE if request["ignore_case"] else 0)
    except (re.error, RecursionError, OverflowError) as error:
        tell({"error": str(error)})
        return
    output = Output(request["limit"])
    excluded = re.compile(request["exclude"], re.DOTALL) if request["exclude"] else None
    wanted = re.compile(request["files"], re.DOTALL) if request["files"] else None
    start = int(sys.argv[1])
    if name := request["name"]:
        entries = iter([Entry(start, name, name, is_file=True)])
    else:
        top = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=start)
        entries = walk(top, "", skipped, excluded, directories=request["directories"])
    try:
        for entry in entries:
            if wanted is not None and not wanted.fullmatch(entry.path):
                continue
            if request["mode"] == "glob":
                output.found({"path": spelled(entry.path)})
            elif entry.is_file:
                grep(entry, pattern, request["context"], output)
    except Full:
        tell({"full": True})
    tell({"skipped": skipped[:20], "done": True})


def walk(
    directory: int,
    prefix: str,
    skipped: list[str],
    excluded: re.Pattern[str] | None,
    *,
    directories: bool,
) -> Iterator[Entry]:
    """Everything below but directories, in order; only directories if they are asked for.

    What is excluded by its path is left out, a directory with everything in it.

    Closes `directory`.
    """
    try:
        with os.scandir(directory) as entries:
            listed = sorted((entry.name, _mode(entry)) for entry in entries)
        for name, mode in listed:
            path = prefix + name
            if excluded is not None and excluded.fullmatch(path):
                continue
            if not stat.S_ISDIR(mode):
                if not directories:
                    yield Entry(directory, name, path, is_file=stat.S_ISREG(mode))
            elif (below := _enter(directory, name)) is None:
                if name != ".git":
                    skipped.append(spelled(path))
            elif path.count("/") >= DEPTH_MAX:
                os.close(below)
                skipped.append(spelled(path))
            else:
                if directories:
                    yield Entry(directory, name, path, is_file=False)
                yield from walk(below, path + "/", skipped, excluded, directories=directories)
    finally:
        os.close(directory)


def grep(entry: Entry, pattern: re.Pattern[str], context: int, output: Output) -> None:
    """Tell every line of a file that the pattern is found in, with the lines around it."""
    before: deque[tuple[int, str]] = deque(maxlen=context)
    after = 0
    path = spelled(entry.path)
    for number, line in lines_of(entry):
        if match := pattern.search(line):
            for earlier, text in before:
                output.beside(_line(path, earlier, text, hit=False))
            start = max(0, match.start() - SHOWN_CHARS_MAX // 2)
            text = ("…" if start else "") + line[start:]
            output.found(_line(path, number, text, hit=True))
            before.clear()
            after = context
        elif after:
            output.beside(_line(path, number, line, hit=False))
            after -= 1
        elif context:
            before.append((number, line))


def _line(path: str, number: int, text: str, *, hit: bool) -> dict[str, Any]:
    cut = text if len(text) <= SHOWN_CHARS_MAX else text[:SHOWN_CHARS_MAX] + "…"
    return {"path": path, "line": number, "text": cut, "hit": hit}


def lines_of(entry: Entry) -> Iterator[tuple[int, str]]:
    """Numbered lines of a text file, without their ends; nothing of any other file."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
        descriptor = os.open(entry.name, flags, dir_fd=entry.directory)
    except OSError:
        return
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) or b"\0" in file.peek(8192)[:8192]:
            return
        number = 1
        while line := file.readline(LINE_BYTES_MAX):
            yield number, line.decode("utf-8", "replace").rstrip("\r\n")
            number += line.endswith(b"\n")


def spelled(path: str) -> str:
    """A path as text that JSON can hold: bytes that are no UTF-8 become escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def tell(record: dict[str, Any]) -> int:
    """Write one line; returns its length."""
    return sys.stdout.write(json.dumps(record) + "\n")


def _mode(entry: os.DirEntry[str]) -> int:
    try:
        if entry.is_symlink():
            return stat.S_IFLNK
        if entry.is_dir(follow_symlinks=False):
            return stat.S_IFDIR
        return stat.S_IFREG if entry.is_file(follow_symlinks=False) else stat.S_IFIFO
    except OSError:
        return 0


def _enter(directory: int, name: str) -> int | None:
    """A directory that is worth searching, opened; None for what others keep there."""
    if name in SKIPPED_NAMES:
        return None
    try:
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    except OSError:
        return None
    try:
        os.stat("pyvenv.cfg", dir_fd=below, follow_symlinks=False)
    except OSError:
        return below
    os.close(below)
    return None


if __name__ == "__main__":
    main()
