"""Is this a container, and may it be the boundary? What the `container` kind asks before all else.

That a container is there only to be the boundary of one task at a time cannot be seen from inside:
somebody must declare it. That it is a container at all is looked for, so that a declaration that
was copied to a laptop does not open the laptop.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

_FILES: Final = (
    "/.dockerenv",
    "/run/.containerenv",
    "/var/run/secrets/kubernetes.io/serviceaccount",
)
_VARIABLES: Final = ("KUBERNETES_SERVICE_HOST", "container")
_GROUPS: Final = ("docker", "kubepods", "containerd", "libpod", "lxc", "garden", "ecs")
NEEDED: Final = {
    "CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "KILL": 5, "SETGID": 6, "SETUID": 7,
}  # fmt: skip
"""The capabilities that a root daemon needs to give each task a user of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """What the installation says about the container that it runs in."""

    declared: bool = False
    """It is there for one task at a time, and may be all that stands around it."""
    name: str | None = None
    """Its host name, where nothing else shows that it is a container."""
    network: Literal["closed", "shared"] = "closed"
    """`shared`: something around the container limits its connections, or nothing needs to."""
    writable: tuple[str, ...] = ()
    """Directories that tools may write besides their own."""


def container_marks(environ: Mapping[str, str] | None = None, root: str = "/") -> list[str]:
    """What shows that this is a container, in words."""
    found = [path for path in _FILES if os.path.exists(os.path.join(root, path.lstrip("/")))]
    variables = os.environ if environ is None else environ
    found += [f"${name}" for name in _VARIABLES if variables.get(name)]
    with suppress(OSError), open(os.path.join(root, "proc/1/cgroup"), encoding="utf-8") as file:
        text = file.read()
        found += [f"/proc/1/cgroup names {name}" for name in _GROUPS if name in text][:1]
    return found


def refuse(boundary: Boundary, marks: list[str]) -> tuple[str, str] | None:
    """Why this container is not the boundary, and the way out; None if it is."""
    if not boundary.declared:
        where = f"; it is a container: {', '.join(marks)}" if marks else ""
        return (
            f"nobody declared that this container is the boundary{where}",
            "if this container is there for one task at a time and holds nothing that a task may "
            "not see, declare it: AGENT_RUNTIME_SANDBOX=container (see docs/sandboxes.md)",
        )
    host = socket.gethostname()
    if boundary.name is not None and boundary.name != host:
        return (
            f"the setting container_name is {boundary.name!r}, and this is {host!r}",
            "run it there, or name this container",
        )
    if not marks and boundary.name is None:
        return (
            "the setting sandbox is 'container', and nothing shows that this is one: no "
            + ", ".join((*_FILES, *(f"${name}" for name in _VARIABLES))),
            "if it is one all the same (a microVM, say), name it: "
            f"AGENT_RUNTIME_CONTAINER_NAME={host}",
        )
    return None


def missing_capabilities() -> list[str]:
    """Of those that root needs to be other users, and to end their processes."""
    with open("/proc/self/status", encoding="ascii") as file:
        effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    return [name for name, number in NEEDED.items() if not effective >> number & 1]


def unreachable(path: str, uid: int, gid: int) -> str | None:
    """The first directory on the way to `path` that a user may not pass; None: he gets there.

    Judged by owner and mode, as for a user without further groups.
    """
    real = os.path.realpath(path)
    parts = real.split("/")
    for count in range(1, len(parts)):
        place = "/".join(parts[:count]) or "/"
        facts = os.stat(place)
        shift = 6 if facts.st_uid == uid else 3 if facts.st_gid == gid else 0
        if not facts.st_mode >> shift & 1:
            return place
    return None
