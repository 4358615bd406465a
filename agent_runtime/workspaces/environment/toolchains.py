"""Which of the host's programs a sandbox sees beyond the system's directories, read-only.

By default Rust's, as rustup installs it for the daemon's user, and Go's below /usr/local; the
setting `toolchains` names more.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from agent_runtime.ports.sandbox import Layer

SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_GO: Final = "/usr/local/go/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchains:
    """`path` are directories for PATH, in order."""

    layers: tuple[Layer, ...] = ()
    path: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)

    def has(self, tool: str) -> bool:
        """Will a command of this name be found inside?"""
        found = shutil.which(tool, path=os.pathsep.join((*self.path, SYSTEM_PATH)))
        return found is not None


def toolchains(environ: Mapping[str, str], named: Sequence[str]) -> Toolchains:
    """What is there now; a directory that does not exist is left out."""
    layers: list[Layer] = []
    path: list[str] = []
    env: dict[str, str] = {}
    for directory in named:
        if not os.path.isdir(directory):
            continue
        layers.append(Layer(directory, directory))
        programs = os.path.join(directory, "bin")
        path.append(programs if os.path.isdir(programs) else directory)
    home = environ.get("HOME", "")
    cargo = environ.get("CARGO_HOME") or os.path.join(home, ".cargo")
    rustup = environ.get("RUSTUP_HOME") or os.path.join(home, ".rustup")
    # Not the whole of CARGO_HOME: it may hold a registry's token.
    programs = os.path.join(cargo, "bin")
    chains = os.path.join(rustup, "toolchains")
    if os.path.isfile(os.path.join(programs, "rustup")) and os.path.isdir(chains):
        layers += [Layer(programs, programs), Layer(rustup, rustup)]
        path.append(programs)
        env["RUSTUP_HOME"] = rustup
    if os.path.isdir(_GO):
        path.append(_GO)
    return Toolchains(layers=tuple(layers), path=tuple(path), env=env)
