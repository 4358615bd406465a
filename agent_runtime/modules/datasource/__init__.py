"""Datasource: authoritative data, read-only; each answer says where it is from and how old it is.

Reading order: `declarations` (what may be declared), `fetching` (HTTP documents), `handing` (how
the operator's sources reach the sandbox; runs in the daemon), `sources` (all that a call can see),
`tables` and `databases` (SQL over them), `documents` (JSON and text), `answers` (what the brain is
shown). What parses data and runs a query runs in the worker.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agent_runtime.modules.datasource.tools import list_datasources, query_datasource

if TYPE_CHECKING:  # the worker imports this file: every import here costs its start
    from agent_runtime.modules.datasource.handing import Handing
    from agent_runtime.modules.sharing import Refreshing
    from agent_runtime.ports.modules import ModuleContext
    from agent_runtime.ports.tools import Tool


def tools() -> Sequence[Tool]:
    """What the worker imports."""
    return [list_datasources, query_datasource]


class DatasourceModule:
    """Contributes the two tools, and keeps copies of the operator's sources while it lives."""

    name = "datasource"
    description = "Authoritative data (CSV, JSON, SQLite, HTTP documents) with provenance and age."
    source = "agent_runtime.modules.datasource:tools"

    def __init__(self) -> None:
        self._handing: Handing | None = None
        self._refreshing: Refreshing | None = None

    def tools(self) -> Sequence[Tool]:
        """The tools, made in the worker too."""
        return tools()

    async def initialize(self, context: ModuleContext) -> None:
        """Copy the operator's sources to where the sandboxes see them, and keep the copies new."""
        from agent_runtime.modules.datasource.handing import Handing, declared_in
        from agent_runtime.modules.sharing import Refreshing

        declared = declared_in(context.settings)
        if context.shared_dir:
            self._handing = Handing(declared, os.path.join(context.shared_dir, self.name))
            self._refreshing = Refreshing()
            await self._refreshing.start(self._handing.refresh)

    async def cleanup(self) -> None:
        """Look no more; the copies stay for the next task."""
        if self._refreshing is not None:
            await self._refreshing.stop()

    async def health(self) -> str | None:
        """Which sources cannot be read just now."""
        faults = self._handing.faults() if self._handing is not None else {}
        return "; ".join(f"source {name!r}: {why}" for name, why in faults.items()) or None
