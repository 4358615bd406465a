"""Which directories an interpreter needs to run inside a sandbox.

A venv is a directory of links: its `python` leads, through any number of links, to an interpreter
that lives elsewhere (pyenv, uv, conda, /opt). What those links and `pyvenv.cfg` name may have been
written by an agent, so that nothing is made visible on their word alone: a prefix must hold
Python's own library, a file must be an executable called `python…`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from agent_runtime.errors import SandboxUnavailable

SYSTEM_DIRECTORIES: Final = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"),
    "/nix/store",
)
"""What every sandbox sees of the host, read-only: its toolchains."""
_LINKS_MAX: Final = 40


@dataclass(frozen=True, slots=True)
class Bind:
    """A host path, made visible read-only."""

    source: str
    destination: str


def is_below(path: str, directory: str) -> bool:
    """Is `path` the directory, or in it? Both absolute and normalised."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def is_visible(path: str) -> bool:
    """Does every sandbox see it anyway?"""
    return any(is_below(path, directory) for directory in SYSTEM_DIRECTORIES)


def venv_binds(venv: str) -> list[Bind]:
    """A venv at its own path, and the interpreter it stands on.

    Raises:
        SandboxUnavailable: it is not a venv; the message says what is missing.
    """
    venv = os.path.abspath(venv)
    if is_system(venv):
        return []  # the system's own Python, as in an image where everything is installed into it
    if not is_venv(venv):
        raise SandboxUnavailable(
            f"environment.python names {venv!r}, which is not a venv (it has no pyvenv.cfg); "
            "name a directory made by 'python -m venv'"
        )
    binds = [Bind(os.path.realpath(venv), place) for place in (venv, os.path.realpath(venv))]
    for name in ("python3", "python"):
        binds += interpreter_binds(os.path.join(venv, "bin", name))
    home = _home(venv)
    if home:
        for name in ("python3", "python"):
            binds += interpreter_binds(os.path.join(home, name))
    return _distinct(binds)


def is_system(path: str) -> bool:
    """Is it the prefix of an installation that every sandbox sees? Not a venv that lies there."""
    return is_visible(path) and not is_venv(path)


def is_venv(path: str) -> bool:
    """Is it one, and not a whole installation?"""
    return os.path.isfile(os.path.join(path, "pyvenv.cfg"))


def own_interpreter() -> str:
    """The interpreter that this process runs on, itself and not a venv's link to it."""
    return str(getattr(sys, "_base_executable", None) or sys.executable)


def interpreter_binds(path: str) -> list[Bind]:
    """What one interpreter needs: the prefix of every place that its links pass through."""
    binds: list[Bind] = []
    for place in _links(path):
        prefix = os.path.dirname(os.path.dirname(place))
        real = os.path.realpath(prefix)
        if os.path.isfile(os.path.join(prefix, "pyvenv.cfg")):
            continue  # the venv itself, bound as one
        if is_visible(real) and is_visible(prefix):
            continue
        if _is_python_prefix(real):
            binds += [Bind(real, prefix), Bind(real, real)]
        elif _is_python(place):
            binds.append(Bind(os.path.realpath(place), place))
    return _distinct(binds)


def _links(path: str) -> Iterator[str]:
    """The path and every link's target on the way to the file."""
    for _ in range(_LINKS_MAX):
        if not os.path.lexists(path):
            return
        yield path
        try:
            target = os.readlink(path)
        except OSError:
            break
        path = os.path.normpath(os.path.join(os.path.dirname(path), target))
    real = os.path.realpath(path)
    if real != path and os.path.exists(real):
        yield real


def _is_python_prefix(prefix: str) -> bool:
    """Python's library is there, and it is nobody's home: that would show everything in it."""
    if is_below(os.path.realpath(os.path.expanduser("~")), prefix) or prefix.count("/") < 2:
        return False
    library = os.path.join(prefix, "lib")
    with suppress(OSError):
        for name in os.listdir(library):
            if name.startswith(("python3", "pypy3")):
                if os.path.isfile(os.path.join(library, name, "os.py")):
                    return True
    return False


def _is_python(path: str) -> bool:
    real = os.path.realpath(path)
    named = os.path.basename(real).startswith(("python", "pypy"))
    return named and os.path.isfile(real) and os.access(real, os.X_OK)


def _home(venv: str) -> str:
    """`home` in pyvenv.cfg: the directory of the interpreter that made the venv."""
    with open(os.path.join(venv, "pyvenv.cfg"), encoding="utf-8", errors="replace") as file:
        for line in file:
            key, _, value = line.partition("=")
            if key.strip().lower() == "home":
                return os.path.normpath(value.strip())
    return ""


def _distinct(binds: list[Bind]) -> list[Bind]:
    """In order, each destination once, and nothing that every sandbox sees anyway."""
    kept: dict[str, Bind] = {}
    for bind in binds:
        if not is_visible(bind.destination):
            kept.setdefault(bind.destination, bind)
    return list(kept.values())
