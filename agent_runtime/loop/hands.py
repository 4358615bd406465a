"""What a task holds while it is driven: its worker, the toolbelts it activated.

The worker is started when the first call needs it, and never before the sandbox of an earlier owner
is proven dead.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import cached_property
from types import TracebackType

import anyio
import anyio.to_thread

from agent_runtime.errors import AgentRuntimeError, WorkspaceError
from agent_runtime.loop.egress import EgressLog
from agent_runtime.loop.events import WorkspaceOpened
from agent_runtime.loop.journal import Journal
from agent_runtime.loop.reached import SETUP
from agent_runtime.loop.state import State
from agent_runtime.ports.environment import Furnishing, Preparation
from agent_runtime.ports.everything import Ports
from agent_runtime.ports.sandbox import Layer, Prestarts, SandboxLimits, SandboxSession, SandboxSpec
from agent_runtime.ports.workspaces import DiskQuota, LeftWork, OpenedWorkspace
from agent_runtime.redaction import Redactor
from agent_runtime.resources import bounded, disk_quota, limited
from agent_runtime.types import SHARED_VARIABLE, PreparedEnvironment, TaskId, TreeId

log = logging.getLogger(__name__)

CLOSE_SECONDS_MAX = 20.0
"""Bound of ending a sandbox when the driver itself is being cancelled."""


class Hands:
    """One driver's hold on the world; an async context manager."""

    def __init__(self, journal: Journal, ports: Ports) -> None:
        self.ports = ports
        self.lease = journal.lease
        self.egress = EgressLog(journal, ports.egress_files)
        self._journal = journal
        journal.held_up = self.hold
        self._session: SandboxSession | None = None
        self._prestarted = False
        self._holds: frozenset[str] = frozenset()
        """Why the sandbox stands still; empty: it does not."""
        self._toolbelts: frozenset[str] = frozenset()
        self._secrets: Mapping[str, str] = {}
        self._redactor: Redactor | None = None

    # Made when they are first needed: a waiting task holds neither, and an unused one is 700 bytes.
    @cached_property
    def _lock(self) -> anyio.Lock:
        return anyio.Lock()

    @cached_property
    def _toolbelts_lock(self) -> anyio.Lock:
        return anyio.Lock()

    @property
    def state(self) -> State:
        """The task's newest state."""
        return self._journal.state

    @property
    def heard(self) -> Callable[[str], None] | None:
        """Gets what a model says as it comes; None: nobody watches just now."""
        listeners = self.ports.listeners
        return listeners.of(self.lease.task_id) if listeners is not None else None

    async def __aenter__(self) -> Hands:
        state = self.state
        resumed = state.epoch > 1 or state.forked is not None
        if resumed and state.workspace is not None and state.workspace.path:
            await self.ports.sandbox.reap(state.task_id)
            if state.opened and state.conclusion is None and state.task.workspace is not None:
                # It is there; this takes the directory's lock again and tidies after a kill.
                try:
                    await self.ports.workspaces.open(
                        self.lease.task_id,
                        state.task.workspace,
                        disk=self.disk,
                        left=self.left,
                    )
                except OSError as error:
                    raise WorkspaceError(
                        f"the working copy cannot be taken over: {error}"
                    ) from error
        if resumed:
            self.egress.pick_up()
            await self.egress.store()
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
            self._toolbelts = frozenset()

    async def worker(self) -> SandboxSession:
        """The task's live worker, started if there is none. Raises `SandboxUnavailable`."""
        async with self._lock:
            if self._session is None:
                self._session = await self.ports.sandbox.open(await self._spec())
                if self._holds:
                    await self._session.freeze()
            return self._session

    async def prestart(self) -> None:
        """Let the worker start now that nobody has to wait for it."""
        sandbox = self.ports.sandbox
        assert isinstance(sandbox, Prestarts)
        try:
            async with self._lock:
                if self._session is None:
                    await sandbox.prestart(await self._spec())
        except (AgentRuntimeError, OSError) as error:
            log.info("no worker was started before it is needed: %s", error)

    def may_prestart(self) -> bool:
        """Is there a working copy, and a sandbox that can? Once only."""
        workspace = self.state.workspace
        if self._prestarted or workspace is None or not workspace.path:
            return False
        self._prestarted = isinstance(self.ports.sandbox, Prestarts)
        return self._prestarted

    async def hold(self, reason: str, held: bool) -> None:
        """Freeze the task's sandbox while any reason holds it; thaw it when the last is gone."""
        stood_still = bool(self._holds)
        self._holds = self._holds | {reason} if held else self._holds - {reason}
        if self._session is not None and stood_still != bool(self._holds):
            await (self._session.freeze() if held else self._session.thaw())

    async def end_worker(self) -> None:
        """SIGKILL everything of the task's sandbox; on return it is dead."""
        async with self._lock:
            session, self._session = self._session, None
            if session is not None:
                await session.close()
            if isinstance(self.ports.sandbox, Prestarts):
                await self.ports.sandbox.discard(self.lease.task_id)

    async def prepare_environment(self) -> Preparation:
        """Set the environment up, or find it; no sandbox of the task may be alive.

        Raises as `ports.Environment.prepare`.
        """
        opened = self._workspace
        return await self.ports.environment.prepare(
            self.lease.task_id,
            self.state.task,
            OpenedWorkspace(
                path=opened.path,
                mount=opened.mount,
                base_commit=opened.base_commit,
                base_tree=TreeId(opened.base_tree),
                branch=opened.branch,
            ),
            self.ports.sandbox,
            limits=self.limits,
            heard=self.egress.hear(SETUP),
        )

    async def redactor(self) -> Redactor:
        """Knows the task's secrets. `WorkspaceError` if one cannot be read just now."""
        await self._read_secrets()
        assert self._redactor is not None
        return self._redactor

    async def granted(self) -> dict[str, str]:
        """Variables of secrets that the tools get. Raises as `redactor`."""
        secrets = await self._read_secrets()
        return {name: secrets[name] for name in self.state.task.policy.secrets}

    async def _read_secrets(self) -> Mapping[str, str]:
        if self._redactor is None:
            task = self.state.task
            if task.policy.secrets or task.environment.secrets:
                read = self.ports.environment.secrets
                self._secrets = await anyio.to_thread.run_sync(read, task)
            self._redactor = Redactor(self._secrets)
        return self._secrets

    async def _spec(self) -> SandboxSpec:
        """What the task's worker sees. A task without a workspace sees an empty directory."""
        workspace = self._workspace
        home = await self.ports.workspaces.scratch(self.lease.task_id, disk=self.disk)
        furnishing = Furnishing()
        if self.state.environment is not None:
            furnishing = await self.ports.environment.furnish(
                self.lease.task_id, self.state.environment
            )
        spec = sandbox_spec(self.state, self.ports, workspace.path or home, furnishing)
        spec = replace(spec, env={**spec.env, **await self.granted()})
        spec = with_shared(spec, self.ports.shared_dir)
        # Checks stay without: what decides must not hang on what a server answers.
        policy = self.state.task.policy
        spec = replace(
            spec,
            network=policy.network,
            egress=tuple(policy.egress),
            egress_heard=self.egress.hear(),
            egress_redacted=(await self.redactor()).text,
        )
        if not workspace.path:
            return spec
        in_place = self.in_place
        return replace(
            spec,
            home=home,
            read_only_paths=(".git",) if in_place else (),
            chown=not in_place,
        )

    @property
    def limits(self) -> SandboxLimits:
        """Of every sandbox of the task."""
        return limits_of(self.state, self.ports)

    @property
    def disk(self) -> DiskQuota | None:
        """What its files may take."""
        return disk_quota(self.limits)

    def furnished(self, checkout: str) -> AbstractAsyncContextManager[SandboxSpec]:
        """What a check sees: see the function of this name."""
        return furnished(self.state, self.ports, checkout)

    @property
    def left(self) -> LeftWork | None:
        """What an earlier run left of the workspace; None in the first, or if it opened none."""
        state = self.state
        if state.run == 1 or state.workspace is None or not state.workspace.path:
            return None
        return LeftWork(
            base_commit=state.workspace.base_commit,
            base_tree=TreeId(state.workspace.base_tree),
            tree=TreeId(state.tree),
        )

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
        if toolbelt == "standard":
            return []
        async with self._toolbelts_lock:
            if toolbelt in self._toolbelts:
                return []
            names = await self.ports.toolbox.activate(toolbelt)
            self._toolbelts |= {toolbelt}
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
        self._toolbelts = frozenset()
        if self.state.task.workspace is not None:
            try:
                await self.ports.workspaces.close(task_id)
            except (AgentRuntimeError, OSError) as error:
                problems.append(f"removing the working copy: {error}")
        return problems


@asynccontextmanager
async def furnished(state: State, ports: Ports, checkout: str) -> AsyncIterator[SandboxSpec]:
    """What a check sees: a clean checkout, and everything else as setup left it."""
    environment = state.environment or PreparedEnvironment()
    async with ports.environment.fresh(TaskId(state.task_id), environment, checkout) as furnishing:
        spec = sandbox_spec(state, ports, checkout, furnishing)
        yield replace(spec, home=furnishing.home)


def sandbox_spec(state: State, ports: Ports, directory: str, furnishing: Furnishing) -> SandboxSpec:
    """What every sandbox of the task has in common; `directory` is where the workspace was."""
    workspace = state.workspace
    assert workspace is not None
    environment = state.environment or PreparedEnvironment(env=state.task.environment.env)
    return SandboxSpec(
        owner_id=state.task_id,
        workspace=directory,
        mount=workspace.mount or "/workspace",
        python=environment.python or None,
        layers=furnishing.layers,
        path=tuple(environment.path),
        services=tuple(environment.services),
        env=environment.env,
        plugin_paths=ports.plugin_paths,
        limits=limits_of(state, ports),
    )


def with_shared(spec: SandboxSpec, shared: str) -> SandboxSpec:
    """What modules hand over, for tools: a check must not hang on what a module knows today."""
    if SHARED_VARIABLE in spec.env:
        # Whoever wrote a task or a repository must not say what the operator declares.
        env = {name: value for name, value in spec.env.items() if name != SHARED_VARIABLE}
        spec = replace(spec, env=env)
    if not shared:
        return spec
    if shared.startswith(f"{spec.mount}/"):
        # Its mount point would have to be made in the working copy.
        log.warning("the state %r lies in the workspace: modules hand nothing over", shared)
        return spec
    return replace(
        spec,
        layers=(*spec.layers, Layer(shared, shared)),
        env={**spec.env, SHARED_VARIABLE: shared},
    )


def limits_of(state: State, ports: Ports) -> SandboxLimits:
    """The installation's limits, with what the task names, and never above the ceiling."""
    wanted = limited(ports.sandbox_limits, state.task.environment.resources)
    return bounded(wanted, ports.sandbox_ceiling)
