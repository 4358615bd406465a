"""Files as resources: listed in pages, read by `file://` address, watched for changes.

Changes are found by looking at the files twice a second (`stat`; so it works on every file system,
and a file that is replaced is noticed like one that is written), a bounded number of them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from agent_runtime import texts
from agent_runtime.errors import ToolRefused
from agent_runtime.texts import shown
from agent_runtime_mcp.definitions import McpFault, Page, ResourceDefinition
from agent_runtime_mcp.filesystem import globs
from agent_runtime_mcp.filesystem.places import LISTING, LOOKING, Missing, opened
from agent_runtime_mcp.filesystem.reading import (
    MEDIA_BYTES_MAX,
    MIME_TYPES,
    READ_BYTES_MAX,
    file_uri,
    mime_type,
    read_bytes,
)
from agent_runtime_mcp.filesystem.refusals import Refused, Turn
from agent_runtime_mcp.filesystem.walking import Walk

if TYPE_CHECKING:
    from agent_runtime.types import Json
    from agent_runtime_mcp.filesystem.roots import Roots

PAGE_FILES: Final = 200
LISTED_FILES_MAX: Final = 2_000
"""Of all pages: who looks for one among more uses search_files."""
WATCHED_MAX: Final = 1_000
"""Addresses of one subscriber."""
LOOK_SECONDS: Final = 0.5
COMPLETIONS_MAX: Final = 100
TEMPLATE: Final = "file:///{+path}"
_LEFT_OUT: Final = (".git", "node_modules", "__pycache__", ".venv", ".agent-runtime-*")
_SOURCES: Final = {".py": "text/x-python", ".md": "text/markdown", ".json": "application/json",
                   ".html": "text/html", ".css": "text/css", ".xml": "application/xml"}  # fmt: skip

Version = tuple[int, ...]


def template() -> ResourceDefinition:
    """Any file below the roots."""
    return ResourceDefinition(
        uri=TEMPLATE,
        name="file",
        title="File",
        description="A file below an allowed directory, by its absolute path.",
        is_template=True,
    )


def page(roots: Roots, cursor: str, turn: Turn) -> Page[ResourceDefinition]:
    """Files in the order of roots and names. Raises `McpFault`: the cursor is none of ours."""
    number, count, after = _cursor(cursor, len(roots.roots))
    items: list[ResourceDefinition] = []
    leave = globs.left_out([f"**/{name}" for name in _LEFT_OUT], anywhere=False)
    for at in range(number, len(roots.roots)):
        root = roots.roots[at]
        try:
            walk = Walk(roots, root.path, turn, leave=leave)
        except Refused:
            continue
        try:
            for found in walk.run(tuple(after.split("/")) if after else ()):
                if not found.is_file:
                    continue
                if len(items) == PAGE_FILES or count + len(items) >= LISTED_FILES_MAX:
                    more = count + len(items) < LISTED_FILES_MAX
                    last = (
                        f"{at}:{count + len(items)}:{_hex(items[-1], root.path)}" if items else ""
                    )
                    return Page(items, last if more else "")
                items.append(_document(os.path.join(root.path, found.path)))
        finally:
            walk.close()
        after = ""
    return Page(items)


def read(roots: Roots, uri: str, turn: Turn) -> list[Mapping[str, Json]]:
    """Text, or base64 of what is none; of a directory, the addresses of what is in it.

    Raises:
        McpFault: it is outside, missing, too large or no file.
    """
    try:
        path = path_of(uri)
        looked = opened(roots, path, LOOKING)
        try:
            mode = os.fstat(looked).st_mode
        finally:
            os.close(looked)
        if stat.S_ISDIR(mode):
            return [{"uri": uri, "mimeType": "inode/directory", "text": _inside(roots, path)}]
        content = read_bytes(roots, path, MEDIA_BYTES_MAX, turn)
        if not texts.is_binary(content) and len(content) > READ_BYTES_MAX:
            raise Refused(
                f"{path!r} is a text of {len(content):,} bytes; a resource has at most "
                f"{READ_BYTES_MAX:,}: use the tool read_text_file with start, end or offset"
            )
    except Refused as refused:
        raise fault(refused, uri) from None
    return [_contents(uri, path, content)]


def fault(refused: Refused, uri: str) -> McpFault:
    """A refusal for who asked for a resource."""
    data = {"uri": uri, "missing": True} if isinstance(refused, Missing) else {"uri": uri}
    return McpFault(McpFault.INVALID_PARAMS, str(refused), data)


def versions(roots: Roots, uris: Sequence[str], *, first: bool) -> dict[str, Version]:
    """What each address leads to now; nothing is `()`.

    Raises:
        McpFault: at the first look, there are too many, or one is outside.
    """
    if len(uris) > WATCHED_MAX:
        raise McpFault(
            McpFault.INVALID_PARAMS,
            f"{len(uris):,} files are watched at once; at most {WATCHED_MAX:,} can be",
        )
    return {uri: _version(roots, uri, first=first) for uri in uris}


def path_of(uri: str) -> str:
    """The path of a `file://` address of this machine. Raises `Refused`."""
    from urllib.parse import unquote_to_bytes, urlsplit

    parts = urlsplit(uri)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not parts.path:
        raise Refused(f"{uri!r} is no file of this machine: it would be file:///absolute/path")
    return os.fsdecode(unquote_to_bytes(parts.path))


def completions(roots: Roots, value: str) -> list[str]:
    """Paths that begin so, for the template's `path`, which has no leading slash."""
    directory, _, start = f"/{value}".rpartition("/")
    found = [root.path for root in roots.roots if root.path.startswith(f"/{value}")]
    try:
        descriptor = opened(roots, directory or "/", LISTING)
    except Refused:
        return [path.lstrip("/") for path in found][:COMPLETIONS_MAX]
    try:
        with os.scandir(descriptor) as entries:
            found += sorted(
                f"{directory}/{entry.name}" + ("/" if entry.is_dir(follow_symlinks=False) else "")
                for entry in entries
                if entry.name.startswith(start)
            )
    finally:
        os.close(descriptor)
    return [path.lstrip("/") for path in found if path.isprintable()][:COMPLETIONS_MAX]


def _document(path: str) -> ResourceDefinition:
    return ResourceDefinition(uri=file_uri(path), name=shown(path), mime_type=_mime(path))


def _contents(uri: str, path: str, content: bytes) -> Mapping[str, Json]:
    if not mime_type(path).startswith(("image/", "audio/")):
        with suppress(ToolRefused):
            text = texts.decode(content, path).text
            return {"uri": uri, "mimeType": _mime(path) or "text/plain", "text": text}
    import base64

    return {"uri": uri, "mimeType": mime_type(path), "blob": base64.b64encode(content).decode()}


def _inside(roots: Roots, path: str) -> str:
    root, relative = roots.find(path)
    descriptor = opened(roots, path, LISTING)
    try:
        names = sorted(os.listdir(descriptor))[:PAGE_FILES]
    finally:
        os.close(descriptor)
    return "\n".join(file_uri(os.path.join(root.path, relative, name)) for name in names)


def _mime(path: str) -> str:
    ending = os.path.splitext(path)[1].lower()
    return _SOURCES.get(ending) or MIME_TYPES.get(ending, "")


def _version(roots: Roots, uri: str, *, first: bool) -> Version:
    try:
        descriptor = opened(roots, path_of(uri), LOOKING)
    except Missing:
        return ()
    except Refused as refused:
        if first:
            raise fault(refused, uri) from None
        return (-1,)
    try:
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _hex(last: ResourceDefinition, root: str) -> str:
    return os.fsencode(os.path.relpath(path_of(last.uri), root)).hex()


def _cursor(cursor: str, roots: int) -> tuple[int, int, str]:
    """Which root, how many files before, and the path of the last one."""
    if not cursor:
        return 0, 0, ""
    try:
        number, count, after = cursor.split(":")
        found = int(number), int(count), os.fsdecode(bytes.fromhex(after))
    except ValueError:
        found = (-1, 0, "")
    if not (0 <= found[0] < roots and found[1] >= 0):
        raise McpFault(McpFault.INVALID_PARAMS, f"{cursor!r} is no cursor of this list")
    return found
