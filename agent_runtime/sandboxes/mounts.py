"""What a sandbox sees of the host: bubblewrap's options for one `SandboxSpec`.

Pure but for looking at the file system. Mounts are ordered by depth, so that whatever lies inside
something else is mounted later. Sources that a dropped user might not reach are given to the
launcher by number (see `becoming._stage`); what lies below the workspace is looked up by bubblewrap
itself, as the sandbox's user, for an agent may have put a link there.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from agent_runtime.errors import SandboxUnavailable
from agent_runtime.ports.sandbox import SandboxSpec
from agent_runtime.sandboxes.becoming import Source
from agent_runtime.sandboxes.egress import Outlet
from agent_runtime.sandboxes.egress_company import PORT, sandbox_variables
from agent_runtime.sandboxes.interpreters import (
    SYSTEM_DIRECTORIES,
    Bind,
    interpreter_binds,
    is_below,
    is_system,
    is_visible,
    own_interpreter,
    venv_binds,
)

HOME: Final = "/home/agent"
"""HOME inside, unless the workspace is mounted there or above."""
RUNTIME: Final = "/run/agent-runtime"
"""Where the worker's own code is inside: never on a PATH."""
SOCKET: Final = f"{RUNTIME}/egress.sock"
RELAY: Final = f"{RUNTIME}/relay.py"
SERVICES: Final = f"{RUNTIME}/services.py"
SERVICES_VARIABLE: Final = "AGENT_RUNTIME_SERVICES"
CA_BUNDLE: Final = f"{RUNTIME}/ca-bundle.pem"
CA_EXTRA: Final = f"{RUNTIME}/ca-extra.pem"
"""The way out, where there is one."""
SHM_BYTES: Final = 64 << 20
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
WRITABLE_IN_NODE_MODULES: Final = (".cache", ".vite", ".vite-temp")
"""Where tools keep caches, if there is such a directory: the rest is read-only."""
_HERE: Final = os.path.dirname(os.path.abspath(__file__))

_ETC: Final = (
    *("alternatives", "ca-certificates.conf", "crypto-policies", "fonts", "gai.conf"),
    *("java", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "mime.types"),
    *("nsswitch.conf", "os-release", "pki/ca-trust", "pki/tls", "protocols", "services"),
    *("ssl/cert.pem", "ssl/certs", "ssl/openssl.cnf", "timezone"),
)
"""What toolchains read below /etc. Not passwd and group (ours), never keys: no ssl/private."""
_ETC_PREFIXES: Final = ("java-", "python3", "perl")
_FORBIDDEN: Final = ("/proc", "/dev", "/sys", "/etc", RUNTIME)
_FORBIDDEN_EXACTLY: Final = ("/", "/run", "/tmp", "/var", "/var/tmp", *SYSTEM_DIRECTORIES)
_ALONE: Final = ("-I", "-S", "-B")
"""How Python runs with its standard library only."""
_DISTRIBUTIONS: Final = ("agent_runtime", "agent_runtime_tools")


@dataclass(slots=True)
class Mounts:
    """Options for bubblewrap, and the host paths they name by number."""

    home: str
    """HOME inside."""
    sources: list[str] = field(default_factory=list)
    options: list[Source] = field(default_factory=list)
    _placed: list[tuple[str, list[Source]]] = field(default_factory=list)

    def source(self, path: str) -> int:
        """The number of a host path, made reachable for the sandbox's user."""
        if path not in self.sources:
            self.sources.append(path)
        return self.sources.index(path)

    def place(self, destination: str, *options: Source) -> None:
        """Mount something; the destination decides the order."""
        self._placed.append((destination, list(options)))

    def finish(self) -> None:
        """Put the mounts in order: parents before what is inside them."""
        self._placed.sort(key=lambda item: item[0].rstrip("/").count("/"))
        for _, options in self._placed:
            self.options += options


def variables(spec: SandboxSpec, home: str, outlet: Outlet | None = None) -> dict[str, str]:
    """The whole environment of what runs inside."""
    network = {}
    if outlet is not None:
        network = sandbox_variables(
            ca_bundle=CA_BUNDLE if outlet.ca_bundle else "",
            ca_extra=CA_EXTRA if outlet.ca_extra else "",
        )
    places = [os.path.join(spec.python, "bin")] if spec.python else []
    places += [inside(place, spec, home) for place in spec.path]
    if spec.base_python:
        places.append(os.path.dirname(own_interpreter()))
    path = ":".join([*places, PATH])
    return {
        "PATH": path,
        "HOME": home,
        "LANG": "C.UTF-8",
        "TMPDIR": "/tmp",
        "USER": "agent",
        "LOGNAME": "agent",
        "PYTHONDONTWRITEBYTECODE": "1",
        **({"VIRTUAL_ENV": spec.python} if spec.python and not is_system(spec.python) else {}),
        **network,
        **spec.env,
    }


def mounts(spec: SandboxSpec, *, worker: bool, outlet: Outlet | None = None) -> Mounts:
    """Everything that `spec` says, with `worker` the code that a worker needs, and the way out.

    Raises:
        SandboxUnavailable: the spec asks for what no sandbox can give; the message says what.
    """
    check(spec)
    plan = Mounts(home=home_of(spec))
    _system(plan)
    tmp = str(spec.limits.tmp_bytes)
    if spec.tmp:
        plan.place("/tmp", "--bind", plan.source(os.path.realpath(spec.tmp)), "/tmp")
    else:
        plan.place("/tmp", "--size", tmp, "--perms", "1777", "--tmpfs", "/tmp")
    if spec.home:
        plan.place(plan.home, "--bind", plan.source(os.path.realpath(spec.home)), plan.home)
    else:
        plan.place(plan.home, "--size", tmp, "--perms", "0755", "--tmpfs", plan.home)
    workspace = plan.source(os.path.realpath(spec.workspace))
    plan.place(spec.mount, "--bind", workspace, spec.mount)
    shown = {inside(layer.path, spec, plan.home): layer.source for layer in spec.layers}
    if spec.python and spec.python not in shown:
        _read_only(plan, venv_binds(spec.python), spec)
    for place, source in shown.items():
        _layer(plan, source, place, spec)
    if worker:
        for source, destination in worker_binds(spec.plugin_paths):
            plan.place(destination, "--ro-bind", plan.source(source), destination)
    if outlet is not None:
        _outlet(plan, outlet)
    if spec.services:
        plan.place(SERVICES, "--ro-bind", plan.source(os.path.join(_HERE, "services.py")), SERVICES)
    if worker or outlet is not None or spec.services or spec.base_python:
        _read_only(plan, interpreter_binds(own_interpreter()), spec)
    for path in spec.read_only_paths:
        relative = _relative(spec, path)
        if os.path.lexists(os.path.join(spec.workspace, relative)):
            destination = os.path.join(spec.mount, relative)
            plan.place(destination, "--ro-bind", [workspace, relative], destination)
    plan.finish()
    plan.options += ["--remount-ro", "/dev", "--remount-ro", "/"]
    return plan


def preceded(command: Sequence[str], spec: SandboxSpec, outlet: Outlet | None) -> list[str]:
    """A command with what runs first: the relay, then the services; each becomes the next."""
    argv = list(command)
    if spec.services:
        argv = [own_interpreter(), *_ALONE, SERVICES, *argv]
    if outlet is not None:
        argv = [own_interpreter(), *_ALONE, RELAY, SOCKET, str(PORT), *argv]
    return argv


def services_variable(
    spec: SandboxSpec,
    env: Mapping[str, str] = {},
    *,
    seconds: float | None = None,
    logs: str = "",
) -> dict[str, str]:
    """What `services.py` reads, if there are any: JSON.

    A variable, for a command line is readable by every user of the host, and `env` may hold
    secrets: it is for the services, where the command itself has none. `seconds` is what services
    and command have together, `logs` a directory for what they print.
    """
    if not spec.services:
        return {}
    services = msgspec.to_builtins(list(spec.services))
    said = {"env": dict(env), "services": services, "seconds": seconds, "logs": logs}
    return {SERVICES_VARIABLE: json.dumps(said)}


def inside(path: str, spec: SandboxSpec, home: str) -> str:
    """Where a `Layer.path` is inside."""
    if path.startswith("~/"):
        return os.path.join(home, path[2:])
    return os.path.join(spec.mount, path)


def check(spec: SandboxSpec) -> None:
    """Refuse what would hide the system or leave the workspace."""
    mount = spec.mount
    if not os.path.isabs(mount) or os.path.normpath(mount) != mount:
        raise SandboxUnavailable(f"the mount {mount!r} must be an absolute, normalised path")
    if mount in _FORBIDDEN_EXACTLY or any(is_below(mount, path) for path in _FORBIDDEN):
        raise SandboxUnavailable(
            f"a workspace cannot be mounted at {mount!r}: the sandbox needs that place itself; "
            "move the repository to another directory"
        )
    for name, value in spec.env.items():
        if not name or "=" in name or "\0" in name + value:
            raise SandboxUnavailable(
                f"{name!r} cannot be the name of a variable, or its value has a zero byte"
            )
    places = (mount, spec.workspace, spec.home or "", spec.python or "", *spec.read_only_paths)
    if any("\0" in place for place in (*places, *spec.plugin_paths)):
        raise SandboxUnavailable(f"a path has a zero byte: {places!r}")
    for path in (spec.workspace, *((spec.home,) if spec.home else ())):
        if not os.path.isdir(path):
            raise SandboxUnavailable(f"the directory {path!r} does not exist")


def home_of(spec: SandboxSpec) -> str:
    """Where HOME is inside."""
    return HOME if not is_below(HOME, spec.mount) else "/var/home/agent"


def worker_binds(plugin_paths: Sequence[str]) -> list[tuple[str, str]]:
    """The worker's code: single packages, never the checkout they lie in, and site-packages."""
    binds = []
    for number, path in enumerate(_site_directories()):
        binds.append((path, f"{RUNTIME}/site/{number}"))
    for name in _DISTRIBUTIONS:
        found = importlib.util.find_spec(name)
        places = list(found.submodule_search_locations or []) if found else []
        binds += [(place, f"{RUNTIME}/packages/{name}") for place in places[:1]]
    for number, path in enumerate(plugin_paths):
        path = os.path.abspath(path)
        name = os.path.basename(path)
        if os.path.isfile(path) or os.path.isfile(os.path.join(path, "__init__.py")):
            binds.append((path, f"{RUNTIME}/packages/{name}"))
        elif os.path.isdir(path):
            binds.append((path, f"{RUNTIME}/plugins/{number}"))
        else:
            raise SandboxUnavailable(f"the plug-in path {path!r} does not exist")
    return binds


def worker_directories(binds: Sequence[tuple[str, str]]) -> list[str]:
    """What goes on the worker's `sys.path`: our packages first, what they need last."""
    plugins = [place for _, place in binds if place.startswith(f"{RUNTIME}/plugins/")]
    sites = [place for _, place in binds if place.startswith(f"{RUNTIME}/site/")]
    return [f"{RUNTIME}/packages", *plugins, *sites]


def _site_directories() -> list[str]:
    return [
        path
        for path in sys.path
        if os.path.basename(path) in ("site-packages", "dist-packages") and os.path.isdir(path)
    ]


def _system(plan: Mounts) -> None:
    for path in SYSTEM_DIRECTORIES:
        if os.path.islink(path):
            plan.place(path, "--symlink", os.readlink(path), path)
        elif os.path.isdir(path):
            plan.place(path, "--ro-bind", path, path)
    for name in etc_names():
        path = os.path.join("/etc", name)
        if os.path.exists(path):
            plan.place(path, "--ro-bind", path, path)
    for name in ("passwd", "group", "hosts"):
        path = os.path.join("/etc", name)
        plan.place(path, "--ro-bind", plan.source(os.path.join(_HERE, "etc", name)), path)
    plan.place("/proc", "--proc", "/proc")
    plan.place("/dev", "--dev", "/dev")
    plan.place("/dev/shm", "--size", str(SHM_BYTES), "--perms", "1777", "--tmpfs", "/dev/shm")
    for path in ("/etc", "/run", "/var"):
        plan.place(path, "--perms", "0755", "--dir", path)
    plan.place("/var/tmp", "--symlink", "/tmp", "/var/tmp")


def _outlet(plan: Mounts, outlet: Outlet) -> None:
    # A read-only mount does not keep a socket from being connected to.
    for source, destination in (
        (outlet.socket, SOCKET),
        (os.path.join(_HERE, "relay.py"), RELAY),
        (outlet.ca_bundle, CA_BUNDLE),
        (outlet.ca_extra, CA_EXTRA),
    ):
        if source:
            plan.place(destination, "--ro-bind", plan.source(source), destination)


def etc_names() -> list[str]:
    """What toolchains read below /etc, on this machine."""
    found = [name for name in sorted(os.listdir("/etc")) if name.startswith(_ETC_PREFIXES)]
    return [*_ETC, *found]


def _read_only(plan: Mounts, binds: Sequence[Bind], spec: SandboxSpec) -> None:
    """Bind read-only, also on top of the workspace.

    A venv below the mount that is not in the workspace (a clone has none) needs an empty directory
    there, which bubblewrap makes and nobody removes: git does not see it.
    """
    for bind in binds:
        if bind.destination == spec.mount or is_visible(bind.destination):
            continue
        source: Source
        if is_below(bind.destination, spec.mount):
            relative = os.path.relpath(bind.destination, spec.mount)
            inside = os.path.join(spec.workspace, relative)
            if os.path.realpath(inside) != os.path.join(os.path.realpath(spec.workspace), relative):
                continue  # a link: it leads to the venv's real place, which is bound too
            same = os.path.lexists(inside) and os.path.samefile(inside, bind.source)
            source = (
                [plan.source(os.path.realpath(spec.workspace)), relative]
                if same
                else (plan.source(bind.source))
            )
        else:
            source = plan.source(bind.source)
        plan.place(bind.destination, "--ro-bind", source, bind.destination)


def _layer(plan: Mounts, source: str, place: str, spec: SandboxSpec) -> None:
    """Something of the environment, and for a venv the interpreter it stands on."""
    if is_visible(place):
        return
    if is_below(place, spec.mount):
        relative = os.path.relpath(place, spec.mount)
        real = os.path.join(os.path.realpath(spec.workspace), relative)
        if os.path.realpath(real) != real:
            raise SandboxUnavailable(
                f"{relative!r} in the workspace is, or leads through, a symbolic link; its "
                "environment belongs there: remove the link"
            )
    plan.place(place, "--ro-bind", plan.source(os.path.realpath(source)), place)
    if os.path.isfile(os.path.join(source, "pyvenv.cfg")):
        binds = venv_binds(source)
        own = (os.path.abspath(source), os.path.realpath(source))
        _read_only(plan, [bind for bind in binds if bind.destination not in own], spec)
    if os.path.basename(place) == "node_modules":
        for name in WRITABLE_IN_NODE_MODULES:
            there = os.path.join(source, name)
            if os.path.isdir(there) and not os.path.islink(there):
                cache = os.path.join(place, name)
                size = str(spec.limits.tmp_bytes)
                plan.place(cache, "--size", size, "--perms", "1777", "--tmpfs", cache)


def _relative(spec: SandboxSpec, path: str) -> str:
    """A read-only path below the workspace, named relative, as on the host, or as inside."""
    for root in (spec.workspace, spec.mount):
        if os.path.isabs(path) and is_below(os.path.normpath(path), os.path.normpath(root)):
            path = os.path.relpath(path, root)
    relative = os.path.normpath(path)
    real = os.path.join(os.path.realpath(spec.workspace), relative)
    if os.path.isabs(relative) or relative.split("/")[0] in ("..", "."):
        raise SandboxUnavailable(f"the read-only path {path!r} is not below {spec.workspace!r}")
    if os.path.realpath(real) != real:
        raise SandboxUnavailable(
            f"{real!r} must stay read-only, but is a symbolic link, which a sandbox could replace; "
            "work on a clone instead of in place"
        )
    return relative
