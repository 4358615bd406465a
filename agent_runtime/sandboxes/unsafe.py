"""No sandbox at all, for `--unsafe-no-sandbox`: chosen by name, never fallen back to.

The same launcher, worker, limits, deadlines and deaths, but on the host: every file the daemon may
touch, the network, the same user. There are no mounts, so a call's workspace and HOME are rewritten
from where a sandbox would show them to where they are.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

import anyio.to_thread

from agent_runtime.errors import SandboxUnavailable
from agent_runtime.ports.sandbox import ExecResult, Probe, SandboxSpec
from agent_runtime.sandboxes import bubblewrap, cgroups, mounts, records
from agent_runtime.sandboxes.launching import Launch, Launcher
from agent_runtime.sandboxes.session import WorkerSession, moved

_WRAPPER: Final = ("/bin/sh", "-c", 'exec "$@"', "sh")


class UnsafeSandbox:
    """Implements `ports.Sandbox` without one."""

    def __init__(self, state_dir: str) -> None:
        self._state_dir = os.path.abspath(state_dir)
        self._launcher = Launcher(self._state_dir)

    @property
    def name(self) -> str:
        """What to call it everywhere: it is not a sandbox."""
        return "unsafe-no-sandbox"

    async def probe(self) -> Probe:
        """It always works, and says what it is."""
        places = await anyio.to_thread.run_sync(cgroups.here)
        return Probe(
            True,
            self.name,
            "tools run without any sandbox, as the user of this process",
            can_mount=False,
            limits=cgroups.means(places),
        )

    async def open(self, spec: SandboxSpec) -> WorkerSession:
        """See `ports.Sandbox.open`."""
        return await (await self.start(spec)).ready()

    async def start(self, spec: SandboxSpec) -> bubblewrap.StartingWorker:
        """Ask for a worker; see `pool.Starts`."""
        binds = mounts.worker_binds(spec.plugin_paths)
        directories: list[str] = []
        package = ""
        for source, destination in binds:
            if destination == f"{mounts.RUNTIME}/packages/agent_runtime":
                package = source
            is_package = destination.startswith(f"{mounts.RUNTIME}/packages/")
            directories.append(os.path.dirname(source) if is_package else source)
        env = variables(spec)
        launch = self._launch(spec, bubblewrap.worker_command(directories, package), {})
        rewrite = moved(
            mount=spec.mount,
            workspace=spec.workspace,
            inner_home=mounts.home_of(spec),
            home=spec.home or "",
        )
        return await bubblewrap.start_worker(self._launcher, launch, spec, env, rewrite=rewrite)

    async def execute(
        self, spec: SandboxSpec, argv: Sequence[str], *, deadline_seconds: float
    ) -> ExecResult:
        """See `ports.Sandbox.execute`."""
        launch = self._launch(spec, (*_WRAPPER, *argv), variables(spec))
        return await bubblewrap.run_captured(
            self._launcher, launch, spec, deadline_seconds=deadline_seconds
        )

    async def run_attached(
        self,
        spec: SandboxSpec,
        argv: Sequence[str],
        *,
        deadline_seconds: float | None = None,
        stdio: bubblewrap.Stdio = bubblewrap.OWN,
    ) -> int:
        """Run one command on this process's own stdin, stdout and stderr; return its exit code."""
        launch = self._launch(spec, (*_WRAPPER, *argv), variables(spec))
        return await bubblewrap.run_attached(
            self._launcher, launch, spec, deadline_seconds=deadline_seconds, stdio=stdio
        )

    async def reap(self, owner_id: str) -> int:
        """See `ports.Sandbox.reap`."""
        return await records.reap(self._state_dir, owner_id)

    def _launch(self, spec: SandboxSpec, command: Sequence[str], env: dict[str, str]) -> Launch:
        if spec.services:
            raise SandboxUnavailable(
                "environment.services run in the task's sandbox, beside nobody else's; without one "
                "they would take the ports of this machine: start them yourself and leave them out"
            )
        if not os.path.isdir(spec.workspace):
            raise SandboxUnavailable(f"the directory {spec.workspace!r} does not exist")
        return Launch(
            kind="plain",
            command=command,
            workspace=os.path.realpath(spec.workspace),
            limits=spec.limits,
            env={"PATH": os.environ.get("PATH", mounts.PATH), **env},
        )


def variables(spec: SandboxSpec) -> dict[str, str]:
    """As inside a sandbox, but with our own PATH: there is nothing else to find tools by."""
    path = os.environ.get("PATH", mounts.PATH)
    if spec.python:
        path = f"{os.path.join(spec.python, 'bin')}:{path}"
    env = mounts.variables(spec, spec.home or "")
    del env["USER"], env["LOGNAME"]
    return {**env, "PATH": spec.env.get("PATH", path)}
