"""Landlock: a process gives up files, ports and other processes, for itself and all it starts.

Needs no privilege and no namespace, only `no_new_privs`. What the kernel can do is asked for by
its ABI number (0: nothing), and only that is used. Nothing but the standard library: see
`launcher`. Not covered by any ABI so far: looking at a file's facts (`stat`), changing its mode,
owner and times, and connecting to a unix socket that has a path.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final

from agent_runtime.sandboxes.kernel import check, libc

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""The same numbers on every processor."""
_VERSION: Final = 1
_PATH_BENEATH, _NET_PORT = 1, 2

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE = 1 << 4, 1 << 5
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK = 1 << 6, 1 << 7, 1 << 8, 1 << 9
MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = 1 << 10, 1 << 11, 1 << 12
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_EVERY: Final = ((1, (1 << 13) - 1), (2, REFER), (3, TRUNCATE), (5, IOCTL_DEV))
"""From which ABI on which rights over files can be given up."""
BIND_TCP, CONNECT_TCP = 1, 2
SCOPE_ABSTRACT_SOCKETS, SCOPE_SIGNALS = 1, 2
NETWORK_ABI: Final = 4
SCOPES_ABI: Final = 6

READ: Final = EXECUTE | READ_FILE | READ_DIR
WRITE: Final = (
    READ | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SOCK | MAKE_FIFO
    | MAKE_SYM | REFER | TRUNCATE
)  # fmt: skip
DEVICE: Final = READ_FILE | WRITE_FILE | READ_DIR | TRUNCATE | IOCTL_DEV
_OF_FILES: Final = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
RIGHTS: Final = {"read": READ, "write": WRITE, "device": DEVICE, "list": READ_DIR}


def abi() -> int:
    """What this kernel offers; 0 if it has no Landlock, or a filter forbids to ask."""
    found = libc.syscall(ctypes.c_long(CREATE_RULESET), None, ctypes.c_long(0), _long(_VERSION))
    return max(int(found), 0)


def ruleset(
    rules: Iterable[Sequence[str]], *, version: int, ports: Sequence[int] | None = None
) -> int:
    """A descriptor of everything that stays allowed.

    `rules` are pairs of a right (see `RIGHTS`) and a path with all that is below it; paths that do
    not exist are left out. `ports` are the TCP ports that may be connected to, with none to listen
    on; None leaves the network alone.

    Raises:
        OSError: the kernel refuses, or a path cannot be opened; names it.
    """
    handled = sum(rights for first, rights in _EVERY if version >= first)
    network = BIND_TCP | CONNECT_TCP if ports is not None and version >= NETWORK_ABI else 0
    scoped = SCOPE_ABSTRACT_SOCKETS | SCOPE_SIGNALS if version >= SCOPES_ABI else 0
    # An older kernel knows a shorter structure; what it does not know must be zero or absent.
    known_bytes = 8 if version < NETWORK_ABI else 16 if version < SCOPES_ABI else 24
    attributes = struct.pack("=3Q", handled, network, scoped)[:known_bytes]
    fd = int(
        libc.syscall(_long(CREATE_RULESET), attributes, _long(len(attributes)), ctypes.c_long(0))
    )
    check(min(fd, 0), "a Landlock ruleset")
    os.set_inheritable(fd, False)
    try:
        for right, path in rules:
            _add_path(fd, path, RIGHTS[right] & handled)
        for port in ports or () if network else ():
            _add(fd, _NET_PORT, struct.pack("=2Q", CONNECT_TCP, port), f"port {port}")
    except BaseException:
        os.close(fd)
        raise
    return fd


def restrict(fd: int) -> None:
    """Give up everything else, for good. The thread must have no_new_privs."""
    check(libc.syscall(_long(RESTRICT_SELF), _long(fd), _long(0)), "restricting with Landlock")


def _add_path(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _OF_FILES
        _add(ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, fd), repr(path))
    finally:
        os.close(fd)


def _add(ruleset: int, kind: int, rule: bytes, what: str) -> None:
    result: Any = libc.syscall(_long(ADD_RULE), _long(ruleset), _long(kind), rule, _long(0))
    check(result, f"a Landlock rule for {what}")


def _long(value: int) -> ctypes.c_long:
    return ctypes.c_long(value)
