"""A disk of a task's own: an image file with a file system in it, mounted through a loop device.

Only the size of a file system bounds what a task can write, in bytes and in number of files. The
image is sparse and lies in the task's directory, so it outlives this process and the machine's
restart; the mount outlives this process and is made again after a restart. The loop device goes
with its mount (autoclear), whoever unmounts. Needs root with the right to mount, loop devices and
e2fsprogs; `unavailable` tries it out. All functions block.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from typing import Final

from agent_runtime.errors import WorkspaceError
from agent_runtime.ports.workspaces import DiskQuota

MEANS: Final = "a disk of its own (ext4 in a file)"
IMAGE: Final = ".img"
"""What the image of the mount point `x` is called: `x.img`, beside it."""
BYTES_PER_INODE: Final = 16 << 10
"""Where nobody says how many files: as mkfs.ext4 does it."""
INODES_MIN: Final = 1 << 14
_JOURNAL_MIB: Final = ((1 << 30, 16), (0, 4))
_ROOM_BYTES: Final = 64 << 20
_PROGRAM_SECONDS_MAX: Final = 120.0
_MNT_DETACH: Final = 2
_PROGRAMS: Final = ("mkfs.ext4", "mount")
_PATH: Final = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))

_tried: dict[str, str] = {}
_lock = threading.Lock()


def unavailable(directory: str) -> str:
    """Why no quota can be had for what lies below `directory`; empty if it can. Tried once."""
    with _lock:
        if directory not in _tried:
            _tried[directory] = _try(directory)
        return _tried[directory]


def _try(directory: str) -> str:
    if sys.platform != "linux":
        return f"loop devices are Linux's; this is {sys.platform}"
    if os.geteuid() != 0:
        return f"only root may mount; this is uid {os.geteuid()}"
    for program in _PROGRAMS:
        if shutil.which(program, path=_PATH) is None:
            package = "e2fsprogs" if program == "mkfs.ext4" else "util-linux"
            return f"there is no {program}: install the package {package}"
    os.makedirs(directory, mode=0o711, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".quota-", dir=directory) as place:
        point = os.path.join(place, "disk")
        try:
            make(point, DiskQuota(bytes=64 << 20))
        except WorkspaceError as error:
            return str(error)
        finally:
            remove(point)
    return ""


def remedy() -> str:
    """What would give this process quotas."""
    return (
        "disk and inodes are limited where agent-runtime runs as root and may mount: in a "
        "container, give it --privileged (or --cap-add SYS_ADMIN and the devices /dev/loop*), and "
        "install e2fsprogs"
    )


def make(point: str, quota: DiskQuota) -> None:
    """Make the directory `point` a file system of the quota's size; what was there is removed.

    Killed at any moment, it leaves what `remove` takes away.

    Raises:
        WorkspaceError: it cannot be made; the message says why.
    """
    remove(point)
    image, new = point + IMAGE, point + IMAGE + ".new"
    # Never through a link, and nobody else's to read: the directory may be everybody's.
    fd = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        os.truncate(fd, quota.bytes)
    finally:
        os.close(fd)
    journal = next(mib for least, mib in _JOURNAL_MIB if quota.bytes >= least)
    _run(
        *("mkfs.ext4", "-q", "-F", "-m", "0", "-b", "4096", "-N", str(inodes(quota))),
        *("-J", f"size={journal}", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", new),
    )
    os.rename(new, image)
    mount(point)
    with suppress(OSError):
        os.rmdir(os.path.join(point, "lost+found"))


def inodes(quota: DiskQuota) -> int:
    """How many files, directories and links there may be."""
    return quota.inodes or max(quota.bytes // BYTES_PER_INODE, INODES_MIN)


def exists(point: str) -> bool:
    """Has `point` a disk of its own, mounted or not?"""
    return os.path.lexists(point + IMAGE)


def mount(point: str) -> None:
    """Mount the disk of `point`, unless it is mounted already."""
    os.makedirs(point, mode=0o711, exist_ok=True)
    if os.path.ismount(point):
        return
    facts = os.lstat(point + IMAGE)
    if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid():
        raise WorkspaceError(f"{point + IMAGE!r} is not a disk that this user made")
    # Inode tables are left sparse: written out, they would take the room that nobody uses.
    options = "loop,nosuid,nodev,noinit_itable"
    _run("mount", "-t", "ext4", "-o", options, point + IMAGE, point)


def remove(point: str) -> None:
    """Unmount and remove the disk of `point`, and `point` itself. Safe to repeat."""
    if os.path.lexists(point):
        unmount_below(point)
        with suppress(FileNotFoundError):
            os.rmdir(point)
    for name in (point + IMAGE, point + IMAGE + ".new"):
        with suppress(FileNotFoundError):
            os.unlink(name)


def unmount_below(path: str) -> None:
    """Unmount whatever is mounted at `path` or below it, the deepest first."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return
    path = os.path.realpath(path)
    for point in reversed(_mounted()):
        if point == path or point.startswith(path + "/"):
            _unmount(point)


def is_used_up(point: str) -> bool:
    """After "no space left": was it the disk of `point` that had none, and not the machine's?"""
    if not os.path.ismount(point):
        return False
    outside = os.statvfs(os.path.dirname(point))
    return outside.f_bavail * outside.f_frsize > _ROOM_BYTES and outside.f_favail != 0


def full(point: str) -> str:
    """That the disk of `point` is full, and what to do, in words."""
    facts = os.statvfs(point)
    return (
        f"the task's disk quota of {facts.f_blocks * facts.f_frsize / (1 << 20):,.0f} MiB and "
        f"{facts.f_files:,} files is used up by its working copy and its HOME; "
        "environment.resources.disk (and inodes) in the task file, or the settings "
        "sandbox_disk_bytes (and sandbox_inodes), allow more"
    )


def _unmount(point: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    name = os.fsencode(point)
    if libc.umount2(name, 0) != 0 and libc.umount2(name, _MNT_DETACH) != 0:
        number = ctypes.get_errno()
        raise WorkspaceError(f"{point!r} cannot be unmounted: {os.strerror(number)}")


def _mounted() -> list[str]:
    """Mount points in the order in which they were mounted (proc_pid_mountinfo(5))."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = [line.split()[4] for line in file]
    return [re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text) for text in points]


def _run(program: str, *arguments: str) -> None:
    path = shutil.which(program, path=_PATH)
    if path is None:
        raise WorkspaceError(f"there is no {program} for a disk quota")
    try:
        done = subprocess.run(
            [path, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env={"PATH": _PATH, "LC_ALL": "C"},
            timeout=_PROGRAM_SECONDS_MAX,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise WorkspaceError(f"a disk quota cannot be made: {program}: {error}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-500:]
        raise WorkspaceError(f"a disk quota cannot be made: {program}: {said}")
