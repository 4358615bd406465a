"""A second seccomp filter, made for one sandbox: what the shipped one cannot know beforehand.

It holds for the `container` kind, which has no namespaces: whether there are connections at all,
that the mark of a sandbox's processes stays (`marks`), that other processes keep their limits and
priorities. Written as a program of the classic BPF by hand, for users need not have libseccomp.
Nothing but the standard library: see `launcher`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from agent_runtime.sandboxes.kernel import check, libc

PR_SET_NO_NEW_PRIVS: Final = 38
PR_SET_SECCOMP: Final = 22
_MODE_FILTER: Final = 2

NUMBERS: Final = {
    "x86_64": {
        "socket": 41, "sendto": 44, "sendmsg": 46, "sendmmsg": 307, "truncate": 76,
        "setrlimit": 160, "prlimit64": 302, "setpriority": 141, "ioprio_set": 251,
        "sched_setparam": 142, "sched_setscheduler": 144, "sched_setaffinity": 203,
        "sched_setattr": 314,
    },
    "aarch64": {
        "socket": 198, "sendto": 206, "sendmsg": 211, "sendmmsg": 269, "truncate": 45,
        "setrlimit": 164, "prlimit64": 261, "setpriority": 140, "ioprio_set": 30,
        "sched_setparam": 118, "sched_setscheduler": 119, "sched_setaffinity": 122,
        "sched_setattr": 274,
    },
}  # fmt: skip
_ARCHITECTURE: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_AF_INET, _AF_INET6, _SOCK_STREAM, _TCP = 2, 10, 1, 6
_MSG_FASTOPEN: Final = 0x20000000
RLIMIT_RTTIME: Final = 15
_PRIO_USER, _IOPRIO_WHO_USER = 2, 3
_LOAD, _AND, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER_OFFSET, _ARCH_OFFSET, _ARGUMENTS_OFFSET = 0, 4, 16
_LOW: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Is:
    """Half of an argument, masked, is (or is not) a value."""

    argument: int
    value: int
    mask: int = _LOW
    equal: bool = True
    high: bool = False


@dataclass(frozen=True, slots=True)
class Deny:
    """A system call that fails with `code` if all its conditions hold."""

    name: str
    code: int
    conditions: tuple[Is, ...] = ()


def rules(*, network: str, truncate: bool) -> list[Deny]:
    """What is denied.

    `network`: `any` leaves it alone; `tcp` allows TCP sockets only, for Landlock to decide where
    they lead; `none` allows no sockets of the internet. With `truncate` files are not to be cut by
    name, which the first two ABIs of Landlock do not see.
    """
    mark = Is(1, RLIMIT_RTTIME)
    others = Is(0, 0, equal=False)
    denied = [
        Deny("setrlimit", errno.EPERM, (Is(0, RLIMIT_RTTIME),)),
        # Asking is allowed: then the third argument, a pointer, is null.
        Deny("prlimit64", errno.EPERM, (mark, Is(2, 0, equal=False))),
        Deny("prlimit64", errno.EPERM, (mark, Is(2, 0, equal=False, high=True))),
        # Nor is another process of the same user to be limited, such as the runtime.
        Deny("prlimit64", errno.EPERM, (others, Is(2, 0, equal=False))),
        Deny("prlimit64", errno.EPERM, (others, Is(2, 0, equal=False, high=True))),
        # Nor to be made slow: by its number, or as one of the user's. Zero is whoever asks.
        Deny("setpriority", errno.EPERM, (Is(1, 0, equal=False),)),
        Deny("setpriority", errno.EPERM, (Is(0, _PRIO_USER),)),
        Deny("ioprio_set", errno.EPERM, (Is(1, 0, equal=False),)),
        Deny("ioprio_set", errno.EPERM, (Is(0, _IOPRIO_WHO_USER),)),
        Deny("sched_setparam", errno.EPERM, (others,)),
        Deny("sched_setscheduler", errno.EPERM, (others,)),
        Deny("sched_setaffinity", errno.EPERM, (others,)),
        Deny("sched_setattr", errno.EPERM, (others,)),
    ]
    if truncate:
        denied.append(Deny("truncate", errno.EACCES))
    for family in (_AF_INET, _AF_INET6):
        ours = Is(0, family)
        match network:
            case "none":
                denied.append(Deny("socket", errno.EACCES, (ours,)))
            case "tcp":
                stream = Is(1, _SOCK_STREAM, 0xF, equal=False)
                # Not MPTCP nor SCTP, which Landlock does not look at.
                other = (Is(2, 0, equal=False), Is(2, _TCP, equal=False))
                denied.append(Deny("socket", errno.EACCES, (ours, stream)))
                denied.append(Deny("socket", errno.EPROTONOSUPPORT, (ours, *other)))
    if network == "tcp":
        # Fast open connects while it sends, past Landlock's check of `connect`.
        for name, flags in (("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3)):
            open_too = Is(flags, _MSG_FASTOPEN, _MSG_FASTOPEN)
            denied.append(Deny(name, errno.EOPNOTSUPP, (open_too,)))
    return denied


def machine(name: str | None = None) -> str:
    """This processor (or `name`), as the tables here call it."""
    low = (name or platform.machine()).lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(low, low)


def program(denied: Sequence[Deny], of: str | None = None) -> bytes:
    """The compiled filter. Another ABI than the processor's own is left to the shipped filter."""
    name = machine(of)
    code = [(_LOAD, 0, 0, _ARCH_OFFSET), (_JUMP_IF_EQUAL, 1, 0, _ARCHITECTURE[name]),
            (_RETURN, 0, 0, _ALLOW)]  # fmt: skip
    for rule in denied:
        code += _compiled(rule, NUMBERS[name][rule.name])
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _compiled(rule: Deny, number: int) -> Iterator[tuple[int, int, int, int]]:
    tests = [Is(-1, number), *rule.conditions]
    left = 3 * len(tests) + 1
    for test in tests:
        offset = _NUMBER_OFFSET
        if test.argument >= 0:
            offset = _ARGUMENTS_OFFSET + 8 * test.argument + (4 if test.high else 0)
        left -= 3
        yield _LOAD, 0, 0, offset
        yield _AND, 0, 0, test.mask
        yield (
            (_JUMP_IF_EQUAL, 0, left, test.value)
            if test.equal
            else (_JUMP_IF_EQUAL, left, 0, test.value)
        )
    yield _RETURN, 0, 0, _ERRNO | rule.code


def forbid_new_privileges() -> None:
    """No program that is started from here on gains anything: setuid bits mean nothing."""
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def load(filter_: bytes) -> None:
    """Put a compiled filter on this process, for good."""

    class Program(ctypes.Structure):
        _fields_ = [("count", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    buffer = ctypes.create_string_buffer(filter_, len(filter_))
    found = Program(len(filter_) // 8, ctypes.addressof(buffer))
    check(
        libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(_MODE_FILTER), ctypes.byref(found), 0, 0),
        "a seccomp filter",
    )


def read(path: str) -> bytes:
    """A compiled filter from a file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        return file.read()
