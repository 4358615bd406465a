"""A place like a container without user namespaces, for a command to run in.

`docker_like.py [--user UID] [--caps docker|users|none] [--no-landlock] [--pod DIR…] -- COMMAND…`.
The seccomp filter refuses what Docker's default profile refuses to who has no CAP_SYS_ADMIN, with
the same errors, and Landlock as a kernel without it. `--caps docker` leaves root the capabilities
that Docker leaves it, `users` those that being other users takes, `none` none. With `--pod` the
root is read-only but for the directories named, and there is no /dev/shm: a mount namespace made
beforehand, as a container runtime makes it.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import platform
import struct
import subprocess
import sys

import pyseccomp

REFUSED = (
    "acct add_key bpf clock_adjtime clock_settime create_module delete_module fanotify_init "
    "finit_module fsconfig fsmount fsopen fspick get_mempolicy init_module io_uring_enter "
    "io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl "
    "lookup_dcookie mbind mount mount_setattr move_mount move_pages name_to_handle_at "
    "open_by_handle_at open_tree perf_event_open pidfd_getfd pivot_root process_madvise quotactl "
    "reboot request_key set_mempolicy setdomainname sethostname setns settimeofday swapoff swapon "
    "syslog umount2 unshare userfaultfd vhangup"
).split()
"""By Docker's default profile, for want of CAP_SYS_ADMIN and its like."""
NAMESPACES = 0x7E020000
DOCKER_CAPABILITIES = (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31)
USERS_CAPABILITIES = (0, 1, 3, 5, 6, 7)
LANDLOCK = ("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self")
_CAPSET = {"x86_64": 126, "aarch64": 91}
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    arguments = sys.argv[1:]
    split = arguments.index("--")
    parser = argparse.ArgumentParser()
    parser.add_argument("--user", type=int)
    parser.add_argument("--caps", choices=["all", "docker", "users", "none"], default="docker")
    parser.add_argument("--no-landlock", action="store_true")
    parser.add_argument("--pod", action="append", default=[])
    options = parser.parse_args(arguments[:split])
    if options.pod:
        make_pod(options.pod)
    kept = {
        "all": tuple(range(64)),
        "docker": DOCKER_CAPABILITIES,
        "users": USERS_CAPABILITIES,
        "none": (),
    }[options.caps]
    if os.geteuid() == 0:
        for number in set(range(64)) - set(kept):
            _libc.prctl(24, number, 0, 0, 0)
        if options.user is not None:
            os.setgroups([])
            os.setresgid(options.user, options.user, options.user)
            os.setresuid(options.user, options.user, options.user)
        else:
            keep(kept)
    refuse(LANDLOCK if options.no_landlock else ())
    command = arguments[split + 1 :]
    os.execvp(command[0], command)


def keep(numbers: tuple[int, ...]) -> None:
    """Exactly these capabilities of those there are."""
    with open("/proc/self/status", encoding="ascii") as file:
        has = next(int(line.split()[1], 16) for line in file if line.startswith("CapPrm"))
    mask = sum(1 << number for number in numbers) & has
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = struct.pack("=6I", low, low, 0, high, high, 0)
    header = struct.pack("=Ii", 0x20080522, 0)
    if _libc.syscall(_CAPSET[platform.machine()], header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def refuse(unknown: tuple[str, ...]) -> None:
    """Docker's default, as far as it concerns us, and calls that this kernel is not to know.

    It comes with no_new_privs, in pods as here.
    """
    rules = pyseccomp.SyscallFilter(defaction=pyseccomp.ALLOW)
    for name in REFUSED:
        rules.add_rule(pyseccomp.ERRNO(errno.EPERM), name)
    for name in ("clone3", *unknown):
        rules.add_rule(pyseccomp.ERRNO(errno.ENOSYS), name)
    for bit in range(32):
        if NAMESPACES >> bit & 1:
            flag = 1 << bit
            flagged = pyseccomp.Arg(0, pyseccomp.MASKED_EQ, flag, flag)
            rules.add_rule(pyseccomp.ERRNO(errno.EPERM), "clone", flagged)
    rules.load()


def make_pod(writable: list[str]) -> None:
    """A mount namespace with a read-only root, no /dev/shm, and some writable places."""
    if _libc.unshare(0x00020000) != 0:  # CLONE_NEWNS
        raise OSError(ctypes.get_errno(), "unshare")
    for command in (
        ["mount", "--make-rprivate", "/"],
        *(["mount", "--bind", place, place] for place in writable),
        ["mount", "-o", "remount,bind,ro", "/"],
        ["umount", "/dev/shm"],
    ):
        subprocess.run(command, check=command[0] == "mount", capture_output=True)
    if os.path.isdir("/dev/shm") and os.access("/dev/shm", os.W_OK):
        subprocess.run(["mount", "-o", "ro,size=4k", "-t", "tmpfs", "none", "/dev/shm"], check=True)


if __name__ == "__main__":
    main()
