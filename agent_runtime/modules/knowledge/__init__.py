"""Knowledge: best practices that come with the runtime, the user's notes, the repository's own.

Reading order: `markdown` (sections and their lines), `queries` (what may be asked), `shelves`
(which documents there are), `index` (full text), `answers` (what the brain is shown), `folders`
(how the user's folders reach the sandbox). The tools run in the worker: what they parse is other
people's text, and the sandbox is the place for that.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agent_runtime.modules.knowledge.tools import read_knowledge, search_knowledge

if TYPE_CHECKING:  # the worker imports this file: every import here costs its start
    from agent_runtime.modules.knowledge.folders import Mirror
    from agent_runtime.modules.sharing import Refreshing
    from agent_runtime.ports.modules import ModuleContext
    from agent_runtime.ports.tools import Tool


def tools() -> Sequence[Tool]:
    """What the worker imports."""
    return [search_knowledge, read_knowledge]


class KnowledgeModule:
    """Contributes the two tools, and hands the user's folders to the sandboxes while it lives."""

    name = "knowledge"
    description = "Best practices, your notes, the repository's notes and skills; searched, cited."
    source = "agent_runtime.modules.knowledge:tools"

    def __init__(self) -> None:
        self._mirror: Mirror | None = None
        self._refreshing: Refreshing | None = None

    def tools(self) -> Sequence[Tool]:
        """The tools, made in the worker too."""
        return tools()

    async def initialize(self, context: ModuleContext) -> None:
        """Copy the user's folders to where the sandboxes see them, and keep the copies new."""
        from agent_runtime.modules.knowledge.folders import Mirror, folders_of
        from agent_runtime.modules.sharing import Refreshing

        folders = folders_of(context.settings)
        if folders and context.shared_dir:
            self._mirror = Mirror(folders, os.path.join(context.shared_dir, self.name))
            self._refreshing = Refreshing()
            await self._refreshing.start(self._mirror.refresh)

    async def cleanup(self) -> None:
        """Copy no more; what was copied stays for the next task."""
        if self._refreshing is not None:
            await self._refreshing.stop()

    async def health(self) -> str | None:
        """Which folders cannot be read just now."""
        problems = dict(self._mirror.problems) if self._mirror is not None else {}
        told = [f"the folder {folder!r} cannot be read: {why}" for folder, why in problems.items()]
        return "; ".join(told) or None
