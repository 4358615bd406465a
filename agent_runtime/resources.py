"""How much a task's sandboxes may take: from `environment.resources` to a sandbox's limits.

What is not named is the installation's (settings) or the sandbox's own default. Which limits can be
enforced depends on the machine: see `sandboxes.cgroups`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from agent_runtime.ports.sandbox import SandboxCeiling, SandboxLimits
from agent_runtime.ports.workspaces import DiskQuota
from agent_runtime.types import ResourcesSpec

UNITS: Final[Mapping[str, int]] = {
    "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
}  # fmt: skip
MEMORY_BYTES_MIN: Final = 64 << 20
MEMORY_BYTES_MAX: Final = 1 << 50
DISK_BYTES_MIN: Final = 64 << 20
DISK_BYTES_MAX: Final = 1 << 43
"""8 TiB: what a file of a common file system may have."""
INODES_MIN: Final = 1_000
INODES_MAX: Final = 1 << 30
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]+)\Z")


def size_bytes(text: str) -> int | None:
    """The bytes of a size such as `2GiB` or `1.5 GB`; None if it is none."""
    match = _SIZE.match(text)
    if match is None or match[2] not in UNITS or len(match[1]) > 20:
        return None
    return int(float(match[1]) * UNITS[match[2]])


def limited(limits: SandboxLimits, resources: ResourcesSpec | None) -> SandboxLimits:
    """`limits`, with what the task names in the place of the installation's."""
    if resources is None:
        return limits
    if resources.memory is not None:
        limits = replace(limits, memory_bytes=size_bytes(resources.memory))
    if resources.cpus is not None:
        limits = replace(limits, cpus=resources.cpus)
    if resources.processes is not None:
        limits = replace(limits, processes=resources.processes)
    if resources.disk is not None:
        # The installation's count of files was meant for its own size.
        limits = replace(limits, disk_bytes=size_bytes(resources.disk), inodes=None)
    if resources.inodes is not None:
        limits = replace(limits, inodes=resources.inodes)
    return limits


def bounded(limits: SandboxLimits, ceiling: SandboxCeiling) -> SandboxLimits:
    """`limits` with nothing above the ceiling; what was not limited, is at it."""
    wanted: dict[str, Any] = {
        name: most if (value := getattr(limits, name)) is None else min(value, most)
        for name, most in ceiling.named()
    }
    return replace(limits, **wanted)


def above(resources: ResourcesSpec | None, ceiling: SandboxCeiling) -> list[str]:
    """What a task names that this installation does not allow, each with the way out."""
    if resources is None:
        return []
    asked = limited(SandboxLimits(processes=0), resources)
    return [
        f"environment.resources.{_KEYS[name]}: {_shown(name, value)} is more than this "
        f"installation allows ({_shown(name, most)}, the setting sandbox_{name}_max); ask for at "
        "most that, or leave it out"
        for name, most in ceiling.named()
        if (value := getattr(asked, name)) is not None and value > most
    ]


def described(limits: SandboxLimits) -> dict[str, str]:
    """The limits by the names of `environment.resources`, for people."""
    return {
        key: "its default" if (value := getattr(limits, name)) is None else _shown(name, value)
        for name, key in _KEYS.items()
    }


_KEYS: Final[Mapping[str, str]] = {
    "memory_bytes": "memory", "cpus": "cpus", "processes": "processes", "disk_bytes": "disk",
    "inodes": "inodes",
}  # fmt: skip


def _shown(name: str, value: float) -> str:
    return f"{value / (1 << 20):,.0f} MiB" if name.endswith("_bytes") else f"{value:,g}"


def disk_quota(limits: SandboxLimits) -> DiskQuota | None:
    """What the task's files may take; None: not limited."""
    if limits.disk_bytes is None:
        return None
    return DiskQuota(bytes=limits.disk_bytes, inodes=limits.inodes)
