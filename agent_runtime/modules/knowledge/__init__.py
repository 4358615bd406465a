"""Knowledge: best practices that come with the runtime, the user's notes, the repository's own.

Reading order: `markdown` (sections and their lines), `queries` (what may be asked), `shelves`
(which documents there are), `index` (full text), `answers` (what the brain is shown), `folders`
(how the user's folders reach the sandbox). The tools run in the worker: what they parse is other
people's text, and the sandbox is the place for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack

from agent_runtime.modules.knowledge.tools import read_knowledge, search_knowledge
from agent_runtime.ports import ModuleContext, Tool


def tools() -> Sequence[Tool]:
    """What the worker imports."""
    return [search_knowledge, read_knowledge]


class KnowledgeModule:
    """Contributes the two tools, and hands the user's folders to the sandboxes while it lives."""

    name = "knowledge"
    description = "Best practices, your notes, the repository's notes and skills; searched, cited."
    source = "agent_runtime.modules.knowledge:tools"

    def __init__(self) -> None:
        self._stack = AsyncExitStack()

    def tools(self) -> Sequence[Tool]:
        """The tools, made in the worker too."""
        return tools()

    async def initialize(self, context: ModuleContext) -> None:
        """Nothing to start."""

    async def cleanup(self) -> None:
        """Nothing to stop."""

    async def health(self) -> str | None:
        """Always well."""
        return None
