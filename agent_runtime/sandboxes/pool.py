"""Workers that start before anybody asks for them, each for one spec.

A worker sees one task's workspace from its first moment on, by mounts that only bubblewrap makes:
it cannot be kept for whoever comes next, and so nothing of one task can be seen by the next one.
What can be had before is time: a task's worker starts while the task is analysed and planned, and
is handed out, started, to the `open` with an equal spec. Nothing waits in the background: a start
is asked for, and only the hand-out hears the answer.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Protocol, runtime_checkable

from agent_runtime.errors import AgentRuntimeError, SandboxUnavailable
from agent_runtime.ports.sandbox import Sandbox, SandboxSession, SandboxSpec


class Starting(Protocol):
    """A worker that was asked for."""

    async def ready(self) -> SandboxSession:
        """Wait for it. `SandboxUnavailable` if it does not come; it is dead then."""

    async def close(self) -> None:
        """It is not wanted any more; on return it is dead."""


@runtime_checkable
class Starts(Protocol):
    """A sandbox whose workers can be asked for without waiting."""

    async def start(self, spec: SandboxSpec) -> Starting:
        """Ask for a worker, within milliseconds."""


class Pool:
    """At most `spares_max` workers that nobody has called yet, one for each owner."""

    def __init__(self, spares_max: int) -> None:
        self._spares_max = spares_max
        self._spares: dict[str, tuple[SandboxSpec, Starting]] = {}

    async def prestart(self, sandbox: Sandbox, spec: SandboxSpec) -> None:
        """Start a worker for `spec`, if there is room and none yet. A failure is `open`'s to tell.

        Only a sandbox that `Starts` has spares.
        """
        full = len(self._spares) >= self._spares_max
        if full or spec.owner_id in self._spares or not isinstance(sandbox, Starts):
            return
        with suppress(SandboxUnavailable, OSError):
            self._spares[spec.owner_id] = (spec, await sandbox.start(spec))

    async def open(self, sandbox: Sandbox, spec: SandboxSpec) -> SandboxSession:
        """The spare for this very spec, else a new worker. Raises as `Sandbox.open`."""
        had = self._spares.pop(spec.owner_id, None)
        if had is not None and _said(had[0]) == _said(spec):
            with suppress(SandboxUnavailable):  # it died while it waited: try again
                return await had[1].ready()
        elif had is not None:
            await had[1].close()
        return await sandbox.open(spec)

    async def discard(self, owner_id: str) -> None:
        """End the spare of an owner, if it has one; on return it is dead."""
        had = self._spares.pop(owner_id, None)
        if had is not None:
            with suppress(AgentRuntimeError):
                await had[1].close()


def _said(spec: SandboxSpec) -> SandboxSpec:
    """What decides what a sandbox is. Who hears of its connections is each sandbox's own, and the
    spare has its own already; its owner discards it with whoever that was.
    """
    return replace(spec, egress_heard=None, egress_redacted=None)
