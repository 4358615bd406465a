"""Tools that the loop itself answers: no plug-in makes them, and no worker or daemon runs them.

Pure data. What they look for is in `ranking` and in the task's own log.
"""

from __future__ import annotations

from typing import Final

from agent_runtime.types import Effect, ToolInfo

FIND_TOOLS: Final = ToolInfo(
    name="find_tools",
    description=(
        "Search for tools that you do not see yet: databases, cloud, issues, documents and more. "
        "What fits is yours from your next turn on."
    ),
    parameters={
        "type": "object",
        "properties": {
            "query": {
                "type": "string",
                "maxLength": 500,
                "description": "What you want to do, in a few words.",
            }
        },
        "required": ["query"],
        "additionalProperties": False,
    },
    toolbelt="standard",
    where="daemon",
)

RECALL: Final = ToolInfo(
    name="recall",
    description="Read again what was cut or cleared from this conversation.",
    parameters={
        "type": "object",
        "properties": {
            "ref": {
                "type": "string",
                "maxLength": 200,
                "description": "As the note in its place says.",
            },
            "start": {
                "type": "integer",
                "minimum": 0,
                "description": "First character; default 0.",
            },
        },
        "required": ["ref"],
        "additionalProperties": False,
    },
    toolbelt="standard",
    where="daemon",
)

NATIVE: Final = (FIND_TOOLS, RECALL)
"""All of them, sorted by name."""
NAMES: Final = frozenset(info.name for info in NATIVE)
"""No plug-in may give its tool one of these."""
EFFECT: Final = Effect.READ
"""Of every one of them: they look at what is there and change nothing."""


def find(name: str) -> ToolInfo | None:
    """The native tool of that name, or None."""
    return next((info for info in NATIVE if info.name == name), None)
