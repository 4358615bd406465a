"""The tools that change something: one file or directory a call, wholly or not at all.

Whoever changes a name holds its lock from the look at what is there to the end. What was read for
an edit is looked at again just before the new content takes its place, so that a program that takes
no lock does not lose what it wrote: the edit is made anew on that, or refused.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from typing import TYPE_CHECKING, Final

from agent_runtime.file_kinds import kind
from agent_runtime_mcp.definitions import ToolAnswer
from agent_runtime_mcp.filesystem import kernel
from agent_runtime_mcp.filesystem.calls import Call, answer
from agent_runtime_mcp.filesystem.places import Missing, Place, open_regular, refusal
from agent_runtime_mcp.filesystem.refusals import Refused, Turn, of_os
from agent_runtime_mcp.filesystem.staging import (
    Changed,
    Staged,
    existing,
    whole,
)

if TYPE_CHECKING:
    from agent_runtime.types import Json

EDITS_MAX: Final = 1_000
DIFF_CHARS_MAX: Final = 1 << 20
_EXPLAINED: Final = 4
"""Telling what comes near a text that is not there costs as much as so many entries a line."""
_TRIES_MAX: Final = 5
_CHUNK_BYTES: Final = 1 << 20


def write_file(call: Call) -> ToolAnswer:
    """The whole content of a file, new or in place of an old one."""
    path, expected = call.text("path"), call.expected_hash()
    content = _encoded(call.text("content"), "content")
    call.turn.takes_bytes(len(content))
    with _place(call, path) as place:
        if place.missing and expected:
            raise Missing(f"ENOENT: {path!r} does not exist, and expected_hash is not empty")
        try:
            place.make_parents()
            with call.locks.hold(call.turn, place):
                _put(place, content, expected, call.turn)
        except Changed:
            raise Refused(
                f"{path!r} was written by somebody else at the same time: nothing was changed; "
                "read it again"
            ) from None
        except OSError as error:
            raise refusal(error, path) from None
    return answer(f"Successfully wrote to {path}", sha256=_digest(content))


def _put(place: Place, content: bytes, expected: str | None, turn: Turn) -> None:
    old = existing(place)
    if expected is not None:
        _check_hash(place, expected, whole(place, turn)[0] if old is not None else None)
    with Staged(place, old) as staged:
        staged.write(content)
        if expected is None:
            staged.replace()
        else:
            staged.replace_if(old)


def edit_file(call: Call) -> ToolAnswer:
    """Pieces of a text file, each there exactly once: all are replaced, or none."""
    path, expected = call.text("path"), call.expected_hash()
    dry_run, edits = call.flag("dryRun"), _edits(call)
    with _place(call, path) as place:
        if place.missing:
            raise refusal(FileNotFoundError(errno.ENOENT, ""), path)
        try:
            with call.locks.hold(call.turn, place):
                for _ in range(_TRIES_MAX):
                    try:
                        diff, after = _edit(place, edits, expected, call.turn, dry_run=dry_run)
                    except Changed:
                        continue
                    return answer(diff, sha256=_digest(after))
        except OSError as error:
            raise refusal(error, path) from None
    raise Refused(f"{path!r} is being written all the time by somebody else: nothing was changed")


def _edit(
    place: Place, edits: list[dict[str, str]], expected: str | None, turn: Turn, *, dry_run: bool
) -> tuple[str, bytes]:
    # Only edits need these.
    from agent_runtime.edits import apply_edits
    from agent_runtime.errors import ToolRefused
    from agent_runtime.texts import decode, is_binary

    path = place.asked
    before, old = whole(place, turn)
    _check_hash(place, expected, before)
    if is_binary(before):
        raise Refused(
            f"{path!r} is a binary file of {len(before):,} bytes: it has no lines to edit"
        )
    try:
        text = decode(before, path)
        if turn.quick and not all(edit["oldText"] in text.text for edit in edits):
            # Other line ends, a piece of an earlier edit, or a mistake that must be explained.
            turn.takes_entries(_EXPLAINED * text.text.count("\n"))
        edited, lines = apply_edits(text.text, edits, path=path, newline=text.newline)
        # Of several edits, all that lies between the first and the last is compared.
        turn.takes_entries(max(lines) - min(lines))
        after = text.encode(edited, path)
    except ToolRefused as refused:
        raise Refused(str(refused)) from None
    diff = _diff(path, text.text, edited)
    if not dry_run:
        with Staged(place, old) as staged:
            staged.write(after)
            staged.replace_if(old)
    return diff, after


def create_directory(call: Call) -> ToolAnswer:
    """A directory and those above it; one that is there already is fine."""
    path = call.text("path")
    with _place(call, path) as place:
        try:
            found = place.stat()
            if found is None:
                place.make_parents()
                try:
                    os.mkdir(place.name, dir_fd=place.parent)
                except FileExistsError:
                    found = place.stat()
            if found is not None and not stat.S_ISDIR(found.st_mode):
                raise Refused(f"EEXIST: {path!r} is a {kind(found.st_mode)} already")
        except OSError as error:
            raise refusal(error, path) from None
    return answer(f"Successfully created directory {path}")


def move_file(call: Call) -> ToolAnswer:
    """A file or directory to another name, where nothing is."""
    source, destination = call.text("source"), call.text("destination")
    with (
        _place(call, source, follow=False) as old,
        _place(call, destination, follow=False) as new,
    ):
        found = _movable(old, "moved")
        _must_be_free(new)
        try:
            new.make_parents()
            with call.locks.hold(call.turn, old, new):
                kernel.rename_exclusive(
                    old.parent, old.name, new.parent, new.name,
                    is_directory=stat.S_ISDIR(found.st_mode),
                )  # fmt: skip
        except FileExistsError:
            raise Refused(f"Destination already exists: {destination}") from None
        except OSError as error:
            raise _not_moved(error, source, destination) from None
    return answer(f"Successfully moved {source} to {destination}")


def copy_file(call: Call) -> ToolAnswer:
    """A file to another name, where nothing is, with its mode."""
    source, destination = call.text("source"), call.text("destination")
    descriptor, found = open_regular(call.roots, source)
    try:
        call.turn.takes_bytes(found.st_size)
        with _place(call, destination, follow=False) as new:
            _must_be_free(new)
            try:
                new.make_parents()
                with (
                    call.locks.hold(call.turn, new),
                    Staged(new, found, keep_owner=False) as staged,
                ):
                    while chunk := os.read(descriptor, _CHUNK_BYTES):
                        staged.write(chunk)
                        if call.turn.stopped:
                            raise Refused("stopped: nothing was copied")
                    staged.create()
            except FileExistsError:
                raise Refused(f"Destination already exists: {destination}") from None
            except OSError as error:
                raise refusal(error, destination) from None
    finally:
        os.close(descriptor)
    return answer(f"Successfully copied {source} to {destination}")


def delete_file(call: Call) -> ToolAnswer:
    """A file, a link (not what it leads to), or an empty directory."""
    path, expected = call.text("path"), call.expected_hash()
    with _place(call, path, follow=False) as place:
        found = _movable(place, "deleted")
        try:
            with call.locks.hold(call.turn, place):
                if expected is not None:
                    _check_hash(place, expected, whole(place, call.turn)[0])
                if stat.S_ISDIR(found.st_mode):
                    os.rmdir(place.name, dir_fd=place.parent)
                else:
                    os.unlink(place.name, dir_fd=place.parent)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise Refused(
                    f"ENOTEMPTY: {path!r} is a directory with something in it; delete that first"
                ) from None
            raise refusal(error, path) from None
    return answer(f"Successfully deleted {path}")


def _place(call: Call, path: str, *, follow: bool = True) -> Place:
    return Place(call.roots, path, follow=follow)


def _edits(call: Call) -> list[dict[str, str]]:
    given = call.arguments.get("edits")
    if not isinstance(given, (list, tuple)) or not 0 < len(given) <= EDITS_MAX:
        raise Refused(f"edits must be a list of 1 to {EDITS_MAX:,} {{oldText, newText}}")
    edits = []
    for number, edit in enumerate(given, start=1):
        one: dict[str, Json] = edit if isinstance(edit, dict) else {}
        old, new = one.get("oldText"), one.get("newText")
        if not isinstance(old, str) or not isinstance(new, str):
            raise Refused(f"edit {number} of {len(given)} must have oldText and newText, strings")
        _encoded(new, f"newText of edit {number}")
        edits.append({"oldText": old, "newText": new})
    return edits


def _encoded(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise Refused(
            f"{what} holds half a character (a lone surrogate) at {error.start:,}: it cannot be "
            "written as UTF-8"
        ) from None


def _check_hash(place: Place, expected: str | None, content: bytes | None) -> None:
    """Raises `Refused` unless the content (None: nothing is there) is what was expected."""
    if expected is None:
        return
    if content is None:
        if expected:
            raise Missing(
                f"ENOENT: {place.asked!r} does not exist any more; expected_hash is {expected}"
            )
    elif not expected:
        raise Refused(f"EEXIST: {place.asked!r} already exists, and expected_hash is empty")
    elif (actual := _digest(content)) != expected:
        raise Refused(
            f"{place.asked!r} has changed since it was read: expected_hash is {expected}, the file "
            f"has {actual}; read it again"
        )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _movable(place: Place, what: str) -> os.stat_result:
    found = place.stat()
    if found is None:
        raise refusal(FileNotFoundError(errno.ENOENT, ""), place.asked)
    if place.is_root:
        raise Refused(f"{place.asked!r} is an allowed directory itself: it cannot be {what}")
    return found


def _must_be_free(place: Place) -> None:
    if (found := place.stat()) is not None:
        raise Refused(f"Destination already exists: {place.asked} (a {kind(found.st_mode)})")


def _not_moved(error: OSError, source: str, destination: str) -> Refused:
    if error.errno == errno.EXDEV:
        return Refused(
            f"EXDEV: {source!r} and {destination!r} lie on different file systems: use copy_file "
            "and delete_file"
        )
    if error.errno == errno.EINVAL:
        return Refused(f"EINVAL: {destination!r} lies inside of {source!r}")
    return Refused(of_os(error, f"{source} -> {destination}"))


def _diff(path: str, before: str, after: str) -> str:
    """As the TypeScript server prints it: a block of Markdown, line ends shown as LF."""
    from agent_runtime import differences

    old, new = (differences.lines(text.replace("\r\n", "\n")) for text in (before, after))
    body = differences.body(old, new)
    if len(body) > DIFF_CHARS_MAX:
        body = body[:DIFF_CHARS_MAX] + "\n[the rest of the difference is not shown]\n"
    fence = "```"
    while fence in body:
        fence += "`"
    line = "=" * 67
    return (
        f"{fence}diff\nIndex: {path}\n{line}\n--- {path}\toriginal\n+++ {path}\tmodified\n{body}"
        f"{fence}\n\n"
    )
