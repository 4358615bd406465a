"""A sandbox that is chosen when it is first needed: reading a log must not need one."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import anyio

from agent_runtime.ports.sandbox import ExecResult, Probe, Sandbox, SandboxSession, SandboxSpec
from agent_runtime.sandboxes.ladder import choose
from agent_runtime.sandboxes.pool import Pool
from agent_runtime.sandboxes.surroundings import Boundary


class LazySandbox:
    """Implements `ports.Sandbox` by the first rung of the ladder that works here."""

    def __init__(
        self,
        state_dir: str,
        *,
        setting: str | None,
        unsafe: bool,
        spares_max: int = 0,
        boundary: Boundary | None = None,
    ) -> None:
        self._state_dir = os.path.abspath(state_dir)
        self._setting, self._unsafe = setting, unsafe
        self._boundary = boundary
        self._chosen: Sandbox | None = None
        self._lock = anyio.Lock()
        self._pool = Pool(spares_max)

    @property
    def name(self) -> str:
        """Of the chosen one, once there is one."""
        return self._chosen.name if self._chosen else "not chosen yet"

    async def chosen(self) -> Sandbox:
        """The sandbox itself. `SandboxUnavailable` with every probe's reason."""
        async with self._lock:
            if self._chosen is None:
                self._chosen = await choose(
                    self._state_dir,
                    setting=self._setting,
                    unsafe=self._unsafe,
                    boundary=self._boundary,
                )
            return self._chosen

    async def probe(self) -> Probe:
        """Of the chosen one."""
        return await (await self.chosen()).probe()

    async def open(self, spec: SandboxSpec) -> SandboxSession:
        """Start a worker, or hand out the one that was started for this very spec."""
        return await self._pool.open(await self.chosen(), spec)

    async def prestart(self, spec: SandboxSpec) -> None:
        """See `ports.Prestarts`."""
        await self._pool.prestart(await self.chosen(), spec)

    async def discard(self, owner_id: str) -> None:
        """See `ports.Prestarts`."""
        await self._pool.discard(owner_id)

    async def execute(
        self, spec: SandboxSpec, argv: Sequence[str], *, deadline_seconds: float
    ) -> ExecResult:
        """Run one command in a sandbox of its own."""
        return await (await self.chosen()).execute(spec, argv, deadline_seconds=deadline_seconds)

    async def reap(self, owner_id: str) -> int:
        """Kill what an earlier, dead process left, whichever kind it was and is now."""
        if sys.platform != "linux":
            return 0
        # Imported here, for it imports what only Linux has, and this file is imported everywhere.
        from agent_runtime.sandboxes import records

        return await records.reap(self._state_dir, owner_id)
