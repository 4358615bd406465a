"""The compiled seccomp filter of this machine. Built by `seccomp_build` at release time."""

from __future__ import annotations

import os
import platform
from typing import Final

FILTERS: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "filters")
_NAMES: Final = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


def filter_path(machine: str | None = None) -> str | None:
    """The filter for `machine` (default: this one), or None if there is none for its processor."""
    name = _NAMES.get((machine or platform.machine()).lower())
    path = os.path.join(FILTERS, f"{name}.bpf")
    return path if name and os.path.isfile(path) else None
