"""The tools as clients see them: names, words, schemas, hints; and the function behind each.

The first fourteen have the names, arguments and output of the TypeScript filesystem server, so that
a client may take this one in its place; what is added is optional.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from agent_runtime_mcp.definitions import ToolAnswer
from agent_runtime_mcp.filesystem.calls import Call

if TYPE_CHECKING:
    from agent_runtime.types import Json

Work = Callable[[Call], ToolAnswer]

_READS: Final = {"readOnlyHint": True, "openWorldHint": False}


def _writes(*, idempotent: bool, destructive: bool) -> dict[str, bool]:
    return {
        "readOnlyHint": False,
        "idempotentHint": idempotent,
        "destructiveHint": destructive,
        "openWorldHint": False,
    }


class Tool(NamedTuple):
    """A tool: `module` and its function of the same name do the work, imported when first used."""

    name: str
    title: str
    module: str
    description: str
    properties: Mapping[str, Json]
    required: Sequence[str]
    annotations: Mapping[str, bool]
    output: Mapping[str, Json]
    works_as: str = ""
    """The function, where it is not called like the tool."""


_PATH: Final = {"type": "string"}
_TEXT: Final = {"type": "string"}
_BOOL: Final = {"type": "boolean"}
_EXCLUDE: Final = {"type": "array", "items": {"type": "string"}, "default": []}
_HASH: Final = {
    "type": "string",
    "description": "SHA-256 of the content you read, empty if the file must not exist; "
    "if it differs, nothing is done",
}
_OFFSET: Final = {"type": "number", "description": "Leave out so many entries"}


def _out(**more: Json) -> dict[str, Json]:
    return {
        "type": "object",
        "properties": {"content": _TEXT, "note": _TEXT, **more},
        "required": ["content"],
        "additionalProperties": False,
    }


_PART: Final = {"truncated": _BOOL, "next_offset": {"type": "number"}}
_READ: Final = {
    "path": _PATH,
    "tail": {"type": "number", "description": "Only the last N lines"},
    "head": {"type": "number", "description": "Only the first N lines"},
    "start": {"type": "number", "description": "First line to read, from 1"},
    "end": {"type": "number", "description": "Last line to read"},
    "offset": {"type": "number", "description": "Read from this byte on"},
    "hash": {"type": "boolean", "description": "Tell the file's SHA-256, for expected_hash"},
}
_MEDIA: Final = {
    "type": "object",
    "properties": {
        "content": {
            "type": "array",
            "items": {
                "anyOf": [
                    {
                        "type": "object",
                        "properties": {
                            "type": {"type": "string", "enum": ["image", "audio"]},
                            "data": _TEXT,
                            "mimeType": _TEXT,
                        },
                        "required": ["type", "data", "mimeType"],
                        "additionalProperties": False,
                    },
                    {
                        "type": "object",
                        "properties": {
                            "type": {"type": "string", "const": "resource"},
                            "resource": {
                                "type": "object",
                                "properties": {"uri": _TEXT, "mimeType": _TEXT, "blob": _TEXT},
                                "required": ["uri", "blob"],
                                "additionalProperties": False,
                            },
                        },
                        "required": ["type", "resource"],
                        "additionalProperties": False,
                    },
                ]
            },
        }
    },
    "required": ["content"],
    "additionalProperties": False,
}

TOOLS: Final = (
    Tool(
        "read_file", "Read File (Deprecated)", "reading",
        "Read a file as text. DEPRECATED: use read_text_file.",
        _READ, ["path"], _READS, _out(**_PART, sha256=_TEXT), works_as="read_text_file",
    ),
    Tool(
        "read_text_file", "Read Text File", "reading",
        "Read a text file: all of it, or only its first lines (head), last lines (tail), a range "
        "of lines (start, end), or from a byte on (offset). At most 1 MiB in one answer; the rest "
        "is told with how to read on. A binary file is refused: use read_media_file.",
        _READ, ["path"], _READS, _out(**_PART, sha256=_TEXT),
    ),
    Tool(
        "read_media_file", "Read Media File", "reading",
        "Read an image or sound, or any other file as an embedded resource, in base64. "
        "At most 16 MiB.",
        {"path": _PATH}, ["path"], _READS, _MEDIA,
    ),
    Tool(
        "read_multiple_files", "Read Multiple Files", "reading",
        "Read several text files at once, each with its path before it. One that cannot be read "
        "does not stop the others. At most 4 MiB in one answer.",
        {"paths": {"type": "array", "items": _TEXT, "minItems": 1}}, ["paths"], _READS, _out(),
    ),
    Tool(
        "write_file", "Write File", "changing",
        "Write a whole file, new or in place of an old one, at one stroke; missing directories are "
        "made. For small changes use edit_file.",
        {"path": _PATH, "content": _TEXT, "expected_hash": _HASH}, ["path", "content"],
        _writes(idempotent=True, destructive=True), _out(sha256=_TEXT),
    ),
    Tool(
        "edit_file", "Edit File", "changing",
        "Replace pieces of a text file, in order: all, or none. Each oldText must be in the file "
        "exactly once, white space included. Line ends and mode stay. Returns a diff; with dryRun "
        "nothing is written.",
        {
            "path": _PATH,
            "edits": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "oldText": {
                            "type": "string",
                            "description": "Exact text, with enough around it to be there once",
                        },
                        "newText": _TEXT,
                    },
                    "required": ["oldText", "newText"],
                },
            },
            "dryRun": {"type": "boolean", "default": False, "description": "Only show the diff"},
            "expected_hash": _HASH,
        },
        ["path", "edits"], _writes(idempotent=False, destructive=True), _out(sha256=_TEXT),
    ),
    Tool(
        "create_directory", "Create Directory", "changing",
        "Make a directory and those above it. One that exists already is fine.",
        {"path": _PATH}, ["path"], _writes(idempotent=True, destructive=False), _out(),
    ),
    Tool(
        "list_directory", "List Directory", "listing",
        "List a directory by name, [DIR] or [FILE] before each. At most 5,000 entries in one "
        "answer.",
        {"path": _PATH, "offset": _OFFSET}, ["path"], _READS, _out(**_PART),
    ),
    Tool(
        "list_directory_with_sizes", "List Directory with Sizes", "listing",
        "List a directory with the size of each file, and sums.",
        {
            "path": _PATH,
            "sortBy": {"type": "string", "enum": ["name", "size"], "default": "name"},
            "offset": _OFFSET,
        },
        ["path"], _READS, _out(**_PART),
    ),
    Tool(
        "directory_tree", "Directory Tree", "listing",
        "Everything below a directory as JSON: name, type (file, directory), children. A pattern "
        "without a star leaves out that name at every depth. At most 10,000 entries.",
        {"path": _PATH, "excludePatterns": _EXCLUDE}, ["path"], _READS,
        _out(truncated=_BOOL),
    ),
    Tool(
        "move_file", "Move File", "changing",
        "Move or rename a file or directory. Fails if the destination exists.",
        {"source": _PATH, "destination": _PATH}, ["source", "destination"],
        _writes(idempotent=False, destructive=True), _out(),
    ),
    Tool(
        "search_files", "Search Files", "searching",
        "Find files and directories whose path below `path` fits a pattern: '*.py' there, "
        "'**/*.py' at every depth, '*.{js,ts}'. Returns full paths.",
        {
            "path": _PATH,
            "pattern": _TEXT,
            "excludePatterns": _EXCLUDE,
            "limit": {"type": "number", "description": "Default 1000, at most 10000"},
        },
        ["path", "pattern"], _READS, _out(truncated=_BOOL),
    ),
    Tool(
        "get_file_info", "Get File Info", "listing",
        "Size, times, permissions, type and SHA-256 of a file or directory.",
        {"path": _PATH}, ["path"], _READS, _out(),
    ),
    Tool(
        "list_allowed_directories", "List Allowed Directories", "listing",
        "The directories that can be reached; everything else is refused.",
        {}, [], _READS, _out(),
    ),
    Tool(
        "grep", "Search Text", "searching",
        "Find lines of text files by a regular expression (Python's), as path:line:text. Without "
        "path: everywhere. .git, node_modules and virtual environments are left out.",
        {
            "pattern": _TEXT,
            "path": {"type": "string", "description": "File or directory"},
            "glob": {"type": "string", "description": "Only files that fit, such as *.py"},
            "context": {"type": "number", "description": "Lines around each match"},
            "ignoreCase": _BOOL,
            "excludePatterns": _EXCLUDE,
            "limit": {"type": "number", "description": "Matches; default 200, at most 10000"},
        },
        ["pattern"], _READS, _out(truncated=_BOOL),
    ),
    Tool(
        "copy_file", "Copy File", "changing",
        "Copy a file with its mode. Fails if the destination exists.",
        {"source": _PATH, "destination": _PATH}, ["source", "destination"],
        _writes(idempotent=False, destructive=False), _out(),
    ),
    Tool(
        "delete_file", "Delete File", "changing",
        "Delete a file, a symbolic link, or an empty directory.",
        {"path": _PATH, "expected_hash": _HASH}, ["path"],
        _writes(idempotent=False, destructive=True), _out(),
    ),
)  # fmt: skip


def input_schema(tool: Tool) -> dict[str, Json]:
    """As `tools/list` has it. Unknown arguments are let pass, as the TypeScript server does."""
    schema: dict[str, Json] = {"type": "object", "properties": dict(tool.properties)}
    return {**schema, "required": list(tool.required)} if tool.required else schema


def work_of(tool: Tool) -> Work:
    """The function that does it; a module is imported by its first call."""
    from importlib import import_module

    module = import_module(f"agent_runtime_mcp.filesystem.{tool.module}")
    work: Work = getattr(module, tool.works_as or tool.name)
    return work
