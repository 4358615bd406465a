"""`search_knowledge` and `read_knowledge`: first what there is, then a section, then its files."""

from __future__ import annotations

import functools
import os
import posixpath
from typing import TYPE_CHECKING, Final

from agent_runtime.errors import ToolRefused
from agent_runtime.toolkit import tool
from agent_runtime.types import SHARED_VARIABLE, Effect, ToolCall, ToolResult

if TYPE_CHECKING:  # every import here costs a worker's start
    from agent_runtime.modules.knowledge.index import Index
    from agent_runtime.modules.knowledge.shelves import Shelf

LIMIT: Final = 6
LIMIT_MAX: Final = 20


@tool(
    effect=Effect.READ,
    toolbelt="knowledge",
    parameters={
        "query": {
            "type": "string",
            "maxLength": 2000,
            "description": "Words to look for; without it: all documents and skills.",
        },
        "path": {
            "type": "string",
            "maxLength": 4096,
            "description": "Only repository notes that hold for this file; the nearest wins.",
        },
        "limit": {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX},
    },
)
def search_knowledge(call: ToolCall) -> ToolResult:
    """Search best practices, project conventions (AGENTS.md), skills and the user's handbook.

    Guidelines, such as how to reproduce a bug or test; cited as ref:first-last line.
    """
    from agent_runtime.modules.knowledge import answers

    return answers.search(
        the_index(),
        _shelves(call),
        query=str(call.arguments.get("query", "")),
        path=_relative(call),
        limit=int(call.arguments.get("limit", LIMIT)),
    )


@tool(
    effect=Effect.READ,
    toolbelt="knowledge",
    parameters={
        "ref": {
            "type": "string",
            "minLength": 1,
            "maxLength": 4096,
            "description": "As search_knowledge gives it: repo:AGENTS.md or repo:AGENTS.md:10-40.",
        },
    },
    required=("ref",),
)
def read_knowledge(call: ToolCall) -> ToolResult:
    """Read a document, a skill with the list of its files, or some lines of one."""
    from agent_runtime.modules.knowledge import answers

    return answers.read(the_index(), _shelves(call), str(call.arguments["ref"]))


@functools.cache
def the_index() -> Index:
    """The process's own."""
    from agent_runtime.modules.knowledge.index import Index

    return Index()


def _shelves(call: ToolCall) -> list[Shelf]:
    from agent_runtime.modules.knowledge.shelves import shelves

    # Not `call.env`, which a repository may set: it must not pose as the user.
    shared = os.environ.get(SHARED_VARIABLE, "")
    return shelves(call.workspace, os.path.join(shared, "knowledge") if shared else "")


def _relative(call: ToolCall) -> str | None:
    """The file in question, relative to the repository. Raises `ToolRefused`."""
    asked = call.arguments.get("path")
    if asked is None:
        return None
    path = posixpath.normpath(posixpath.join(call.workspace, asked))
    if path != call.workspace and not path.startswith(call.workspace.rstrip("/") + "/"):
        raise ToolRefused(
            f"{asked!r} is outside the workspace {call.workspace!r}; "
            "paths are relative to it, or absolute below it"
        )
    return path[len(call.workspace) :].lstrip("/")
