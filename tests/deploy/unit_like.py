"""A command below what a unit takes away: `unit_like.py UNIT UID -- COMMAND…`, as root.

The user, no new privileges, no capability, the filter of system calls and of socket families.
Mounts are left as they are: what of /proc a unit covers is asserted by its test.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import socket
import subprocess
import sys


def settings_of(path: str) -> dict[str, list[str]]:
    """Key -> its values, of all sections; comments and continued lines are not used there."""
    found: dict[str, list[str]] = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            key, mark, value = line.strip().partition("=")
            if mark and not key.startswith("#"):
                found.setdefault(key, []).append(value)
    return found


def calls_of(words: list[str]) -> set[str]:
    """System calls by name; a group as systemd itself has it."""
    names: set[str] = set()
    for word in words:
        if not word.startswith("@"):
            names.add(word)
            continue
        listed = subprocess.run(
            ["systemd-analyze", "syscall-filter", "--no-pager", word],
            capture_output=True,
            text=True,
            check=True,
        )
        lines = [line.strip() for line in listed.stdout.splitlines()[1:]]
        names |= calls_of([line for line in lines if line and not line.startswith("#")])
    return names


def main() -> None:
    import pyseccomp  # who only reads units may have no libseccomp

    unit, uid, _, *command = sys.argv[1:]
    settings = settings_of(unit)
    rules = pyseccomp.SyscallFilter(defaction=pyseccomp.ERRNO(errno.EPERM))
    # @default is always allowed: systemd.exec(5).
    for name in sorted(calls_of(["@default", *settings["SystemCallFilter"][0].split()])):
        if name == "socket":
            for family in settings["RestrictAddressFamilies"][0].split():
                number = getattr(socket, family)
                rules.add_rule(pyseccomp.ALLOW, name, pyseccomp.Arg(0, pyseccomp.EQ, number))
            continue
        try:
            rules.add_rule(pyseccomp.ALLOW, name)
        except (OSError, RuntimeError, ValueError):
            continue  # not of this processor, or newer than libseccomp
    libc = ctypes.CDLL(None, use_errno=True)
    for number in range(64):
        libc.prctl(24, number, 0, 0, 0)  # PR_CAPBSET_DROP
    os.setgroups([])
    os.setresgid(int(uid), int(uid), int(uid))
    os.setresuid(int(uid), int(uid), int(uid))
    rules.load()
    os.execv(shutil.which(command[0]) or command[0], command)


if __name__ == "__main__":
    main()
