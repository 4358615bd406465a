"""What a remote call gave, as the brain reads it: text, without secrets, and what was left out."""

from __future__ import annotations

import json
from collections.abc import Sequence

from mcp_types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ReadResourceResult,
    ResourceLink,
    TextContent,
    TextResourceContents,
)

from agent_runtime.toolkit import cap
from agent_runtime.types import Json, ToolResult
from agent_runtime_mcp.client.names import harmless

BLOCKS_MAX = 200
"""Of one result."""


def result_of(answer: CallToolResult, notes: Sequence[str]) -> ToolResult:
    """A tool's answer. `notes` are ours, about the server, and stand first."""
    parts = [_block(block) for block in answer.content[:BLOCKS_MAX]]
    if len(answer.content) > BLOCKS_MAX:
        parts.append(f"[{len(answer.content) - BLOCKS_MAX} blocks more are left out]")
    data: Json = answer.structured_content
    if data is not None and not any(part.strip() for part in parts):
        parts.append(json.dumps(data, ensure_ascii=False))
    text = "\n".join(parts)
    kept = None if len(cap(text)) == len(text) else text.encode("utf-8", "replace")
    return ToolResult(
        ok=not answer.is_error,
        output=cap("\n".join([*notes, text])),
        kind="failed" if answer.is_error else "",
        data=data,
        raw=kept,
    )


def resource_of(answer: ReadResourceResult, notes: Sequence[str]) -> ToolResult:
    """A resource's contents."""
    parts = [_contents(each) for each in answer.contents[:BLOCKS_MAX]]
    text = "\n".join(parts)
    kept = None if len(cap(text)) == len(text) else text.encode("utf-8", "replace")
    return ToolResult(ok=True, output=cap("\n".join([*notes, text])), raw=kept)


def _block(block: object) -> str:
    match block:
        case TextContent(text=text):
            return text
        case ImageContent(data=data, mime_type=kind) | AudioContent(data=data, mime_type=kind):
            return _left_out(block.type, kind, data)
        case EmbeddedResource(resource=resource):
            return _contents(resource)
        case ResourceLink(uri=uri, name=name):
            return f"[resource {harmless(name, 200)}: {harmless(str(uri), 500)}]"
        case _:
            return "[a block of a kind that is not known]"


def _contents(contents: TextResourceContents | BlobResourceContents) -> str:
    if isinstance(contents, TextResourceContents):
        return contents.text
    return _left_out("resource", contents.mime_type or "of no stated kind", contents.blob)


def _left_out(kind: str, mime: str, data: str) -> str:
    # A brain here reads text; the bytes would only fill its window and the log.
    return f"[{kind} {harmless(mime, 80)}, {len(data) * 3 // 4:,} bytes: not text, left out]"
