"""Which control groups a sandbox gets: where they can be had here, and what is written into them.

A group is made, joined and removed by the sandbox's keeper in `launcher`; this file only decides.
Version 2 has one tree, where a directory offers to its children what its `cgroup.subtree_control`
says, and must not hold processes itself. Version 1 has a tree for each controller and no such rule.
A machine may have both, each with some of the controllers.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final

from agent_runtime.ports.sandbox import SandboxLimits
from agent_runtime.sandboxes import groups as kernel_groups

CONTROLLERS: Final = ("memory", "cpu", "pids")
PREFIX: Final = kernel_groups.GROUP_PREFIX
MEMORY_BYTES_DEFAULT: Final = 2 << 30
"""Of a sandbox whose limit nobody named."""
CPU_SHARE_DEFAULT: Final = 0.7
"""Of the machine: what is left keeps the daemon and a terminal alive."""
OWN_PIDS: Final = 8
"""Bubblewrap's own processes are in the group, too."""
_PERIOD_US: Final = 100_000
_QUOTA_US_MIN: Final = 1_000
"""The kernel refuses less."""
_LEAF: Final = f"{PREFIX}daemon"


@dataclass(frozen=True, slots=True)
class Place:
    """Where groups for one controller are made."""

    version: int
    base: str


@dataclass(frozen=True, slots=True)
class Places:
    """What was found: by controller a place, or the reason why there is none."""

    found: Mapping[str, Place] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    freezer: Place | None = None
    """Where a sandbox can be made to stand still."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted hierarchy. `root` is the group in it that is mounted at `point`."""

    version: int
    point: str
    root: str
    controllers: tuple[str, ...]
    read_only: bool


_lock = threading.Lock()


def here() -> Places:
    """What this process can have, tried out once; blocks for some milliseconds."""
    with _lock:
        return _here()


@lru_cache(maxsize=1)
def _here() -> Places:
    places = find("/proc/self", split=True)
    if places.found:
        kernel_groups.sweep(bases(places))
        said = _try(places)
        if said and places.freezer is not None:
            places = replace(places, freezer=None)
            said = _try(places)
        if said:
            return Places(reasons=dict.fromkeys(CONTROLLERS, said))
    return places


def bases(places: Places) -> list[str]:
    """The directories in which each sandbox has a group."""
    freezers = {places.freezer.base} if places.freezer else set[str]()
    return sorted({place.base for place in places.found.values()} | freezers)


def find(proc: str, *, split: bool = False) -> Places:
    """Look for places below the mounts that `proc`'s `mountinfo` and `cgroup` name.

    With `split` a delegated group that holds this process only is made ready: the process moves to
    a leaf of it, as version 2 demands.
    """
    mounted = mounts(_text(os.path.join(proc, "mountinfo")))
    own = own_paths(_text(os.path.join(proc, "cgroup")))
    found: dict[str, Place] = {}
    reasons: dict[str, str] = {}
    for controller in CONTROLLERS:
        reasons[controller] = f"no cgroup hierarchy with the controller {controller!r} is mounted"
        for mount in mounted:
            if mount.version == 1 and controller in mount.controllers:
                base = _directory(mount, own.get(controller, "/"))
                said = _unusable(mount, base)
                if not said:
                    found[controller] = Place(1, base)
                    break
                reasons[controller] = said
    unified = next((mount for mount in mounted if mount.version == 2), None)
    if unified is not None:
        _find_unified(unified, _directory(unified, own.get("", "/")), found, reasons, split=split)
    missing = {name: text for name, text in reasons.items() if name not in found}
    return Places(found, missing, _freezer(mounted, own, found))


def _freezer(
    mounted: Sequence[Mount], own: Mapping[str, str], found: Mapping[str, Place]
) -> Place | None:
    """Version 2 is better, for what is frozen there can be killed; it needs no controller."""
    if not found:
        return None
    second = [place for place in found.values() if place.version == 2]
    if second:
        return second[0]
    for version, name in ((2, ""), (1, "freezer")):
        for mount in mounted:
            if mount.version == version and (version == 2 or name in mount.controllers):
                base = _directory(mount, own.get(name, "/"))
                if not _unusable(mount, base):
                    return Place(version, base)
    return None


def _find_unified(
    mount: Mount, own: str, found: dict[str, Place], reasons: dict[str, str], *, split: bool
) -> None:
    wanted = [
        controller
        for controller in CONTROLLERS
        if controller not in found
        and controller in _words(os.path.join(mount.point, "cgroup.controllers"))
    ]
    if not wanted:
        return
    if split and not mount.read_only:
        with suppress(OSError):
            _split(mount, own, wanted)
    best, offered = "", frozenset[str]()
    directory = own
    while True:
        usable = not _unusable(mount, directory)
        offers = _words(os.path.join(directory, "cgroup.subtree_control")) & set(wanted)
        if usable and len(offers) > len(offered):
            best, offered = directory, offers
        if directory == mount.point or not directory.startswith(mount.point):
            break
        directory = os.path.dirname(directory)
    for controller in wanted:
        if controller in offered:
            found[controller] = Place(2, best)
        else:
            said = _unusable(mount, own)
            reasons[controller] = said or (
                f"no group from {own!r} upwards hands the controller {controller!r} down"
            )


def _split(mount: Mount, own: str, wanted: Sequence[str]) -> None:
    """Make an own, delegated group ready for children: its processes move to a leaf."""
    if _unusable(mount, own) or not set(wanted) <= _words(f"{own}/cgroup.controllers"):
        return
    if own != mount.point and not _is_delegated(own):
        return  # somebody else, systemd mostly, is the only one who may write here
    if set(wanted) <= _words(f"{own}/cgroup.subtree_control"):
        return
    # More than once: a process that is forked meanwhile is still in the old place.
    for _ in range(3):
        with suppress(OSError):
            processes = kernel_groups.members(own)
            if not all(_is_ours(pid) for pid in processes):
                return
            os.makedirs(f"{own}/{_LEAF}", exist_ok=True)
            for pid in processes:
                kernel_groups.write(f"{own}/{_LEAF}/cgroup.procs", str(pid))
            kernel_groups.write(
                f"{own}/cgroup.subtree_control", " ".join(f"+{name}" for name in wanted)
            )
            return


def groups(places: Places, limits: SandboxLimits) -> list[kernel_groups.Group]:
    """The limits of one sandbox, for the launcher: in which base, what is written into which file.

    A file whose name ends with `?` is written if the kernel has it: swap is not counted everywhere.
    """
    memory = limits.memory_bytes or MEMORY_BYTES_DEFAULT
    made: dict[str, kernel_groups.Group] = {}
    for controller in CONTROLLERS:
        place = places.found.get(controller)
        if place is None:
            continue
        values = made.setdefault(place.base, {"base": place.base, "values": []})["values"]
        match controller, place.version:
            case "memory", 2:
                values += [["memory.max", str(memory)], ["memory.swap.max?", "0"]]
            case "memory", _:
                values += [
                    ["memory.limit_in_bytes", str(memory)],
                    ["memory.memsw.limit_in_bytes?", str(memory)],
                    ["memory.swappiness?", "0"],
                ]
            case "cpu", 2:
                values.append(["cpu.max", f"{_quota_us(limits)} {_PERIOD_US}"])
            case "cpu", _:
                # A child's quota above its parent's is an error, in version 1 only.
                quota = min([_quota_us(limits), *_quotas_above(place.base)])
                values += [["cpu.cfs_period_us", str(_PERIOD_US)], ["cpu.cfs_quota_us", str(quota)]]
            case _:
                values.append(["pids.max", str(limits.processes + OWN_PIDS)])
    return list(made.values())


def cpus(limits: SandboxLimits) -> float:
    """How many processors' time a sandbox gets where that can be limited."""
    return limits.cpus or CPU_SHARE_DEFAULT * len(os.sched_getaffinity(0))


_INSTEAD: Final[Mapping[str, str]] = {
    "memory": "not limited as a whole (of each process, if named)",
    "cpu": "not limited",
    "pids": "by rlimit",
}
_RESOURCES: Final[Mapping[str, str]] = {"memory": "memory", "cpu": "cpus", "pids": "processes"}


def means(places: Places) -> dict[str, str]:
    """By what each of a task's resources is limited here, in words."""
    return {
        resource: f"cgroups v{places.found[controller].version}"
        if controller in places.found
        else _INSTEAD[controller]
        for controller, resource in _RESOURCES.items()
    }


def instead(controller: str) -> str:
    """What there is without the controller."""
    return _INSTEAD[controller]


def oom_note(kills: int, limits: SandboxLimits) -> str:
    """What to tell about processes that the kernel killed for their memory."""
    memory = limits.memory_bytes or MEMORY_BYTES_DEFAULT
    which = "a process of it" if kills == 1 else f"{kills} of its processes"
    return (
        f"the sandbox reached its memory limit of {memory / (1 << 20):,.0f} MiB, and the kernel "
        f"killed {which} (out of memory); environment.resources.memory in the task file, or the "
        "setting sandbox_memory_bytes, allows more"
    )


def remedy() -> str:
    """What would give this process the controllers that it lacks."""
    if os.geteuid() == 0:
        return (
            "memory, processor time and processes are limited as a whole where cgroups can be "
            "written: in a container, mount /sys/fs/cgroup writable and start agent-runtime as the "
            "container's only process; under systemd, start it as a service with Delegate=yes"
        )
    return (
        "start agent-runtime in a group that was delegated to this user: with systemd and cgroups "
        "v2, systemd-run --user --scope -p Delegate=yes -- agent-runtime …, or as a service with "
        "Delegate=yes; else root makes one in each hierarchy and gives it to this user"
    )


# ---- reading what the kernel says ----------------------------------------------------------------


def mounts(text: str) -> list[Mount]:
    """The cgroup hierarchies in a `mountinfo` (proc_pid_mountinfo(5))."""
    found = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, kinds = left.split(), right.split()
        if len(fields) < 6 or len(kinds) < 3 or kinds[0] not in ("cgroup", "cgroup2"):
            continue
        options = kinds[2].split(",")
        found.append(
            Mount(
                version=2 if kinds[0] == "cgroup2" else 1,
                point=_unescaped(fields[4]),
                root=_unescaped(fields[3]),
                controllers=tuple(options) if kinds[0] == "cgroup" else (),
                read_only="ro" in fields[5].split(",") or "ro" in options,
            )
        )
    return found


def own_paths(text: str) -> dict[str, str]:
    """Controller to own group in a `/proc/PID/cgroup`; version 2 has the empty name."""
    found = {}
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            found[name] = path
    return found


def _directory(mount: Mount, path: str) -> str:
    """The directory of a group; the mount itself if the group is not below it."""
    root = mount.root.rstrip("/")
    if path.startswith("/..") or (root and path != root and not path.startswith(root + "/")):
        return mount.point
    return os.path.join(mount.point, path.removeprefix(root).lstrip("/")).rstrip("/")


def _unusable(mount: Mount, directory: str) -> str:
    if mount.read_only:
        return f"{mount.point!r} is mounted read-only"
    if not os.path.isdir(directory):
        return f"{directory!r} does not exist"
    files = (directory, os.path.join(directory, "cgroup.procs"))
    if not all(os.access(path, os.W_OK) for path in files):
        return f"uid {os.geteuid()} may not write to {directory!r}"
    return ""


def _is_delegated(directory: str) -> bool:
    """Does systemd leave this group to us? It says so in an attribute (`Delegate=`)."""
    for name in ("trusted.delegate", "user.delegate"):
        with suppress(OSError):
            if os.getxattr(directory, name) == b"1":
                return True
    return False


def _is_ours(pid: int) -> bool:
    """Is it this process or a descendant of it?"""
    while pid > 1 and pid != os.getpid():
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                pid = int(file.read().rsplit(b")", 1)[1].split()[1])
        except (OSError, IndexError):
            return True  # it has ended
    return pid == os.getpid()


def _quota_us(limits: SandboxLimits) -> int:
    return max(int(cpus(limits) * _PERIOD_US), _QUOTA_US_MIN)


def _quotas_above(base: str) -> list[int]:
    """The quotas, for our period, of a version 1 group and of those above it."""
    found = []
    directory = base
    while os.path.exists(os.path.join(directory, "cpu.cfs_quota_us")):
        with suppress(OSError, ValueError):
            quota = int(_text(os.path.join(directory, "cpu.cfs_quota_us")))
            period = int(_text(os.path.join(directory, "cpu.cfs_period_us")))
            if quota > 0:
                found.append(quota * _PERIOD_US // period)
        directory = os.path.dirname(directory)
    return found


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def _words(path: str) -> frozenset[str]:
    return frozenset(_text(path).split())


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


# ---- trying it out -------------------------------------------------------------------------------


def _try(places: Places) -> str:
    """Make the groups, put a process into them, remove them; what went wrong, or nothing."""
    paths = [os.path.join(base, kernel_groups.group_name()) for base in bases(places)]
    ours, theirs = os.pipe()
    pid = 0
    try:
        pid = os.posix_spawn("/bin/sh", ["sh", "-c", "read x"], {},
                             file_actions=[(os.POSIX_SPAWN_DUP2, ours, 0)])  # fmt: skip
        for path in paths:
            os.mkdir(path)
        for group in groups(places, SandboxLimits()):
            path = os.path.join(group["base"], kernel_groups.group_name())
            kernel_groups.limit_group(path, group["values"])
        kernel_groups.join_groups(paths, pid)
    except OSError as error:
        return f"{error.filename or 'a group'}: {error.strerror}"
    finally:
        os.close(ours)
        os.close(theirs)
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        kernel_groups.remove_groups(paths)
    return ""
