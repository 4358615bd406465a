"""Which sandbox there is here: the first whose probe passes, or a refusal that explains itself."""

from __future__ import annotations

import sys

import anyio.to_thread

from agent_runtime.errors import SandboxUnavailable
from agent_runtime.ports import Probe, Sandbox


async def choose(state_dir: str, *, setting: str | None, unsafe: bool) -> Sandbox:
    """The sandbox to use. `setting` is the path of a bwrap to try first.

    Raises:
        SandboxUnavailable: none works; the message has every probe's reason and remedy.
    """
    if sys.platform != "linux":
        raise SandboxUnavailable(f"{_elsewhere()}. {_LINUX}")
    # Imported here, for they import what only Linux has, and this file is imported everywhere.
    from agent_runtime.sandboxes.bubblewrap import BubblewrapSandbox
    from agent_runtime.sandboxes.unsafe import UnsafeSandbox

    if unsafe:
        return UnsafeSandbox(state_dir)
    sandbox = BubblewrapSandbox(state_dir, setting)
    probe = await sandbox.probe()
    if not probe.ok:
        remedy = f"\n{probe.remedy}" if probe.remedy else ""
        raise SandboxUnavailable(
            f"no sandbox works here, and tools do not run without one.\n"
            f"{probe.name}: {probe.detail}{remedy}\n"
            "To run them unprotected all the same, say so: --unsafe-no-sandbox"
        )
    return sandbox


async def examine(state_dir: str, *, setting: str | None) -> Probe:
    """Whether the sandbox works here, for `doctor`; never an unprotected one."""
    if sys.platform != "linux":
        return Probe(False, "bubblewrap", _elsewhere(), _LINUX)
    # Imported here for the same reason.
    from agent_runtime.sandboxes.bubblewrap import BubblewrapSandbox

    return await BubblewrapSandbox(state_dir, setting).probe()


async def examine_limits() -> Probe:
    """Which limits a sandbox has here as a whole, for `doctor`; `ok` if it has all of them."""
    if sys.platform != "linux":
        return Probe(False, "limits", _elsewhere(), _LINUX)
    # Imported here for the same reason.
    from agent_runtime.sandboxes import cgroups

    places = await anyio.to_thread.run_sync(cgroups.here)
    words = {"memory": "memory", "cpu": "processor time", "pids": "processes"}
    parts = [
        f"{words[name]} by cgroups v{places.found[name].version}"
        for name in cgroups.CONTROLLERS
        if name in places.found
    ]
    parts += [
        f"{words[name]} {cgroups.instead(name)}: {places.reasons[name]}"
        for name in cgroups.CONTROLLERS
        if name in places.reasons
    ]
    remedy = cgroups.remedy() if places.reasons else ""
    return Probe(not places.reasons, "limits", "; ".join(parts), remedy)


_LINUX = "Use a Linux machine, a container or a virtual machine, or a daemon that runs in one"


def _elsewhere() -> str:
    return f"tools run in a local sandbox on Linux only; this is {sys.platform}"
