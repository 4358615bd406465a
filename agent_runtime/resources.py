"""How much a task's sandboxes may take: from `environment.resources` to a sandbox's limits.

What is not named is the installation's (settings) or the sandbox's own default. Which limits can be
enforced depends on the machine: see `sandboxes.cgroups`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from agent_runtime.ports import SandboxLimits
from agent_runtime.types import ResourcesSpec

UNITS: Final[Mapping[str, int]] = {
    "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
}  # fmt: skip
MEMORY_BYTES_MIN: Final = 64 << 20
MEMORY_BYTES_MAX: Final = 1 << 50
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
    return limits
