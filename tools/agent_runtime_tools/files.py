"""Tools that read and change files of the workspace.

Where a path leads is decided in `_places`, what may be written in `_contents.check_writable`. Every
change is made at one stroke, or not at all.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent_runtime import texts
from agent_runtime.differences import difference
from agent_runtime.edits import apply_edits
from agent_runtime.errors import ToolRefused
from agent_runtime.file_kinds import kind
from agent_runtime.texts import shown
from agent_runtime.toolkit import tool
from agent_runtime.types import Effect, Json, ToolCall, ToolResult
from agent_runtime_tools import _contents
from agent_runtime_tools._patching import apply_patch
from agent_runtime_tools._places import Place
from agent_runtime_tools._reading import read_file
from agent_runtime_tools._results import os_errors_as_results

if TYPE_CHECKING:  # every import here costs a worker's start
    from agent_runtime.ports import Tool

_CHUNK_BYTES = 1 << 20


def _path(description: str) -> Json:
    return {"type": "string", "minLength": 1, "description": description}


def tools() -> Sequence[Tool]:
    """The entry point."""
    return [
        read_file,
        write_file,
        create_file,
        edit_file,
        apply_patch,
        move_file,
        copy_file,
        delete_file,
    ]


def _preview_write(call: ToolCall) -> str:
    content = call.arguments["content"].encode()
    with Place(call.workspace, call.arguments["path"]) as place:
        mode = _contents.existing_mode(place)
        guarded = _contents.guarded_content(place, place)
        _contents.check_writable(call, place, before=guarded, after=content)
        found = place.stat()
        if found is not None and found.st_size > _contents.WHOLE_BYTES_MAX:
            sizes = f"{found.st_size:,} bytes are replaced by {len(content):,}"
            return f"{shown(place.path)}: {sizes}\n"
        before = None if mode is None else _contents.read_whole(place)[0]
        return difference(place.path, before, content)


@tool(
    effect=Effect.WORKSPACE,
    parameters={
        "path": _path("The file; missing directories are made."),
        "content": {"type": "string", "description": "The whole new content."},
    },
    required=("path", "content"),
    preview=_preview_write,
)
@os_errors_as_results
def write_file(call: ToolCall) -> ToolResult:
    """Write a whole file, new or in place of an old one; for small changes use edit_file."""
    content = call.arguments["content"].encode()
    with Place(call.workspace, call.arguments["path"]) as place:
        mode = _contents.existing_mode(place)
        before = _contents.guarded_content(place, place)
        _contents.check_writable(call, place, before=before, after=content)
        _contents.replace(place, content, mode=mode)
    return _written("created" if mode is None else "replaced", place.path, content)


def _preview_create(call: ToolCall) -> str:
    content = call.arguments["content"].encode()
    with Place(call.workspace, call.arguments["path"], follow=False) as place:
        _contents.check_writable(call, place, before=b"", after=content)
        _contents.must_be_free(place)
        return difference(place.path, None, content)


@tool(
    effect=Effect.WORKSPACE,
    parameters={
        "path": _path("The new file; missing directories are made."),
        "content": {"type": "string", "description": "Its content."},
    },
    required=("path", "content"),
    preview=_preview_create,
)
@os_errors_as_results
def create_file(call: ToolCall) -> ToolResult:
    """Write a new file; fails if anything is there already."""
    content = call.arguments["content"].encode()
    with Place(call.workspace, call.arguments["path"], follow=False) as place:
        _contents.check_writable(call, place, before=b"", after=content)
        _contents.must_be_free(place)
        _contents.create(place, content)
    return _written("created", place.path, content)


@dataclass(frozen=True, slots=True)
class _Edited:
    """A file as it was and as the edits make it."""

    before: bytes
    after: bytes
    mode: int
    lines: list[int]


def _edited(call: ToolCall, place: Place) -> _Edited:
    """Everything of an edit but the writing. Raises `ToolRefused`."""
    before, mode = _contents.read_whole(place)
    # Before anything is said about its text: a protected file is not worth a second try.
    _contents.check_writable(call, place, before=before, after=before)
    _check_hash(place.path, before, call.arguments.get("expected_hash"))
    text = texts.decode(before, place.path)
    edited, lines = apply_edits(
        text.text, call.arguments["edits"], path=shown(place.path), newline=text.newline
    )
    after = text.encode(edited, place.path)
    _contents.check_writable(call, place, before=before, after=after)
    return _Edited(before, after, mode, lines)


def _preview_edit(call: ToolCall) -> str:
    with Place(call.workspace, call.arguments["path"]) as place:
        edited = _edited(call, place)
        return difference(place.path, edited.before, edited.after)


@tool(
    effect=Effect.WORKSPACE,
    parameters={
        "path": _path("The file to edit."),
        "edits": {
            "type": "array",
            "minItems": 1,
            "description": "Made in order: all, or none.",
            "items": {
                "type": "object",
                "properties": {
                    "oldText": {
                        "type": "string",
                        "minLength": 1,
                        "description": "Exact text, with enough around it to be there only once.",
                    },
                    "newText": {"type": "string"},
                },
                "required": ["oldText", "newText"],
                "additionalProperties": False,
            },
        },
        "expected_hash": {
            "type": "string",
            "minLength": 64,
            "maxLength": 64,
            "description": "SHA-256 of what you read; else refused.",
        },
    },
    required=("path", "edits"),
    preview=_preview_edit,
)
@os_errors_as_results
def edit_file(call: ToolCall) -> ToolResult:
    """Replace pieces of a text file."""
    # Line ends, byte order mark and mode stay as they are.
    with Place(call.workspace, call.arguments["path"]) as place:
        edited = _edited(call, place)
        _contents.replace(place, edited.after, mode=edited.mode)
    where = ", ".join(map(str, edited.lines))
    return _written(f"edited (line {where})", place.path, edited.after)


def _checked_move(call: ToolCall, source: Place, destination: Place) -> int:
    """Everything of a move but the move; how many names it takes along. Raises `ToolRefused`."""
    found = _must_exist(source)
    if source.name == ".":
        raise ToolRefused(f"{shown(source.asked)!r}: name the directory itself")
    count = 0
    for below in _tree_below(source) if stat.S_ISDIR(found.st_mode) else [""]:
        _check_moved(call, source.path + below, destination.path + below)
        count += 1
    _contents.must_be_free(destination)
    return count


def _preview_move(call: ToolCall) -> str:
    with (
        Place(call.workspace, call.arguments["source"], follow=False) as source,
        Place(call.workspace, call.arguments["destination"], follow=False) as destination,
    ):
        count = _checked_move(call, source, destination)
        told = f"rename from {shown(source.path)}\nrename to {shown(destination.path)}\n"
        return told + (f"a directory with {count - 1:,} names in it\n" if count > 1 else "")


@tool(
    effect=Effect.WORKSPACE,
    parameters={
        "source": _path("The file or directory to move."),
        "destination": _path("Its new path, where nothing is."),
    },
    required=("source", "destination"),
    preview=_preview_move,
)
@os_errors_as_results
def move_file(call: ToolCall) -> ToolResult:
    """Move or rename a file or a directory."""
    with (
        Place(call.workspace, call.arguments["source"], follow=False) as source,
        Place(call.workspace, call.arguments["destination"], follow=False) as destination,
    ):
        _checked_move(call, source, destination)
        destination.make_parents()
        os.rename(
            source.name,
            destination.name,
            src_dir_fd=source.parent,
            dst_dir_fd=destination.parent,
        )
    return _moved("moved", source.path, destination.path)


def _preview_copy(call: ToolCall) -> str:
    with (
        Place(call.workspace, call.arguments["source"]) as source,
        Place(call.workspace, call.arguments["destination"], follow=False) as destination,
    ):
        after = _contents.guarded_content(source, destination)
        _contents.check_writable(call, destination, before=b"", after=after)
        descriptor, found = _contents.open_file(source)
        os.close(descriptor)
        _contents.must_be_free(destination)
        names = f"copy from {shown(source.path)}\ncopy to {shown(destination.path)}\n"
        return f"{names}{found.st_size:,} bytes\n"


@tool(
    effect=Effect.WORKSPACE,
    parameters={
        "source": _path("The file to copy."),
        "destination": _path("Path of the copy, where nothing is."),
    },
    required=("source", "destination"),
    preview=_preview_copy,
)
@os_errors_as_results
def copy_file(call: ToolCall) -> ToolResult:
    """Copy a file with its mode."""
    with (
        Place(call.workspace, call.arguments["source"]) as source,
        Place(call.workspace, call.arguments["destination"], follow=False) as destination,
    ):
        after = _contents.guarded_content(source, destination)
        _contents.check_writable(call, destination, before=b"", after=after)
        descriptor, found = _contents.open_file(source)
        with os.fdopen(descriptor, "rb") as file:
            _contents.must_be_free(destination)
            staged = _contents.Staged(destination, mode=stat.S_IMODE(found.st_mode))
            try:
                while chunk := file.read(_CHUNK_BYTES):
                    staged.write(chunk)
                staged.create()
            finally:
                staged.close()
    return _moved("copied", source.path, destination.path)


def _preview_delete(call: ToolCall) -> str:
    with Place(call.workspace, call.arguments["path"], follow=False) as place:
        found = _must_be_deletable(place)
        guarded = _contents.guarded_content(place, place)
        _contents.check_writable(call, place, before=guarded, after=b"")
        if stat.S_ISREG(found.st_mode) and found.st_size <= _contents.WHOLE_BYTES_MAX:
            return difference(place.path, _contents.read_whole(place)[0], None)
        what = f"a {kind(found.st_mode)}"
        if stat.S_ISLNK(found.st_mode):
            what += f" to {shown(os.readlink(place.name, dir_fd=place.parent))}"
        return f"{shown(place.path)}: {what} of {found.st_size:,} bytes is deleted\n"


@tool(
    effect=Effect.WORKSPACE,
    parameters={"path": _path("The file; of a symbolic link, the link.")},
    required=("path",),
    preview=_preview_delete,
)
@os_errors_as_results
def delete_file(call: ToolCall) -> ToolResult:
    """Delete a file. Directories are not deleted: use shell."""
    with Place(call.workspace, call.arguments["path"], follow=False) as place:
        _must_be_deletable(place)
        before = _contents.guarded_content(place, place)
        _contents.check_writable(call, place, before=before, after=b"")
        os.unlink(place.name, dir_fd=place.parent)
    return ToolResult(
        ok=True, output=f"deleted {shown(place.path)}", data={"path": shown(place.path)}
    )


def _check_moved(call: ToolCall, source: str, destination: str) -> None:
    """A move takes a file away here and makes one there: both must be allowed."""
    with (
        Place(call.workspace, source, follow=False) as old,
        Place(call.workspace, destination, follow=False) as new,
    ):
        content = _contents.guarded_content(old, old, new)
        _contents.check_writable(call, old, before=content, after=b"")
        _contents.check_writable(call, new, before=b"", after=content)


def _tree_below(place: Place) -> Iterator[str]:
    """The directory and everything in it, as "", "/a", "/a/b"; links are not followed."""
    yield ""
    top = place.open(os.O_RDONLY | os.O_DIRECTORY)
    try:
        for root, directories, files, _ in os.fwalk(".", dir_fd=top):
            for name in (*directories, *files):
                yield f"{root[1:]}/{name}"
    finally:
        os.close(top)


def _must_be_deletable(place: Place) -> os.stat_result:
    found = _must_exist(place)
    if stat.S_ISDIR(found.st_mode):
        raise ToolRefused(f"{shown(place.path)!r} is a directory; delete it with shell")
    return found


def _must_exist(place: Place) -> os.stat_result:
    found = place.stat()
    if found is None:
        raise FileNotFoundError(2, os.strerror(2), place.path)
    return found


def _check_hash(path: str, content: bytes, expected: str | None) -> None:
    actual = _contents.digest(content)
    if expected is not None and expected.lower() != actual:
        raise ToolRefused(
            f"{shown(path)!r} has changed since you read it: expected_hash is {expected}, the file "
            f"has {actual}; read it again"
        )


def _written(what: str, path: str, content: bytes) -> ToolResult:
    return ToolResult(
        ok=True,
        output=f"{what} {shown(path)}: {len(content):,} bytes",
        data={
            "path": shown(path),
            "bytes": len(content),
            "sha256": _contents.digest(content),
        },
    )


def _moved(what: str, source: str, destination: str) -> ToolResult:
    return ToolResult(
        ok=True,
        output=f"{what} {shown(source)} to {shown(destination)}",
        data={"source": shown(source), "destination": shown(destination)},
    )
