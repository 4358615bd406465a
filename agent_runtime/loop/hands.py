"""What a task holds while it is driven: its worker, the toolbelts it activated.

The worker is started when the first call needs it, and never before the sandbox of an earlier owner
is proven dead.
"""

from __future__ import annotations

from dataclasses import replace
from types import TracebackType

import anyio

from agent_runtime.errors import AgentRuntimeError, WorkspaceError
from agent_runtime.loop.events import WorkspaceOpened
from agent_runtime.loop.journal import Journal
from agent_runtime.loop.state import State
from agent_runtime.ports import Ports, SandboxSession, SandboxSpec
from agent_runtime.resources import limited

CLOSE_SECONDS_MAX = 20.0
"""Bound of ending a sandbox when the driver itself is being cancelled."""


class Hands:
    """One driver's hold on the world; an async context manager."""

    def __init__(self, journal: Journal, ports: Ports) -> None:
        self.ports = ports
        self.lease = journal.lease
        self._journal = journal
        self._session: SandboxSession | None = None
        self._lock = anyio.Lock()
        self._toolbelts: set[str] = set()
        self._toolbelts_lock = anyio.Lock()

    @property
    def state(self) -> State:
        """The task's newest state."""
        return self._journal.state

    async def __aenter__(self) -> Hands:
        state = self.state
        if state.epoch > 1 and state.workspace is not None and state.workspace.path:
            await self.ports.sandbox.reap(state.task_id)
            if state.conclusion is None and state.task.workspace is not None:
                # It is there; this takes the directory's lock again and tidies after a kill.
                try:
                    await self.ports.workspaces.open(self.lease.task_id, state.task.workspace)
                except OSError as error:
                    raise WorkspaceError(
                        f"the working copy cannot be taken over: {error}"
                    ) from error
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with anyio.move_on_after(CLOSE_SECONDS_MAX, shield=True):
            await self.end_worker()
            for toolbelt in sorted(self._toolbelts):
                await self.ports.toolbox.deactivate(toolbelt)
            self._toolbelts.clear()

    async def worker(self) -> SandboxSession:
        """The task's live worker, started if there is none. Raises `SandboxUnavailable`."""
        async with self._lock:
            if self._session is None:
                self._session = await self.ports.sandbox.open(await self._spec())
            return self._session

    async def end_worker(self) -> None:
        """SIGKILL everything of the task's sandbox; on return it is dead."""
        async with self._lock:
            session, self._session = self._session, None
            if session is not None:
                await session.close()

    async def _spec(self) -> SandboxSpec:
        """What the task's worker sees. A task without a workspace sees an empty directory."""
        workspace = self._workspace
        home = await self.ports.workspaces.scratch(self.lease.task_id)
        spec = self.check_spec(workspace.path or home)
        # Checks stay without: what decides must not hang on what a server answers.
        policy = self.state.task.policy
        spec = replace(spec, network=policy.network, egress=tuple(policy.egress))
        if not workspace.path:
            return spec
        in_place = self.in_place
        return replace(
            spec,
            home=home,
            read_only_paths=(".git",) if in_place else (),
            chown=not in_place,
        )

    def check_spec(self, checkout: str) -> SandboxSpec:
        """What a check sees: see the function of this name."""
        return check_spec(self.state, self.ports, checkout)

    @property
    def in_place(self) -> bool:
        """Does the task work in the user's own directory, which is never rolled back?"""
        return self.state.task.workspace is not None and self.state.task.workspace.in_place

    @property
    def _workspace(self) -> WorkspaceOpened:
        assert self.state.workspace is not None
        return self.state.workspace

    async def use_toolbelt(self, toolbelt: str) -> list[str]:
        """Make sure that a toolbelt lives in this process; return its tools' names."""
        async with self._toolbelts_lock:
            if toolbelt in self._toolbelts or toolbelt == "standard":
                return []
            names = await self.ports.toolbox.activate(toolbelt)
            self._toolbelts.add(toolbelt)
            return list(names)

    async def clean_up(self) -> list[str]:
        """End every process of the task, remove its working copy; what went wrong, in words."""
        problems: list[str] = []
        task_id = self.lease.task_id
        try:
            await self.end_worker()
            if self.state.workspace is not None and self.state.workspace.path:
                await self.ports.sandbox.reap(task_id)
        except (AgentRuntimeError, OSError) as error:
            problems.append(f"ending the sandbox: {error}")
        for toolbelt in sorted(self._toolbelts):
            try:
                await self.ports.toolbox.deactivate(toolbelt)
            except (AgentRuntimeError, OSError) as error:
                problems.append(f"toolbelt {toolbelt!r}: {error}")
        self._toolbelts.clear()
        if self.state.task.workspace is not None:
            try:
                await self.ports.workspaces.close(task_id)
            except (AgentRuntimeError, OSError) as error:
                problems.append(f"removing the working copy: {error}")
        return problems


def check_spec(state: State, ports: Ports, checkout: str) -> SandboxSpec:
    """What a check sees: a clean checkout where the workspace was, and a fresh HOME."""
    workspace = state.workspace
    assert workspace is not None
    return SandboxSpec(
        owner_id=state.task_id,
        workspace=checkout,
        mount=workspace.mount or "/workspace",
        python=workspace.python or None,
        env=state.task.environment.env,
        plugin_paths=ports.plugin_paths,
        limits=limited(ports.sandbox_limits, state.task.environment.resources),
    )
