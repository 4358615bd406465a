"""Build the seccomp filters that are shipped: `python -m agent_runtime.sandboxes.seccomp_build`.

A development tool: it needs `pyseccomp` and libseccomp, which users need not have. Everything is
allowed but what is listed here: what asks the kernel for more power than a tool has any use for.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import Any, Final

import pyseccomp

from agent_runtime.sandboxes.seccomp import FILTERS

DENIED: Final = """
acct add_key adjtimex bpf chroot clock_adjtime clock_settime create_module delete_module
fanotify_init finit_module fsconfig fsmount fsopen fspick get_kernel_syms init_module io_uring_enter
io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl
lookup_dcookie mbind migrate_pages mount mount_setattr move_mount move_pages
name_to_handle_at nfsservctl open_by_handle_at open_tree perf_event_open pidfd_getfd
pivot_root process_madvise process_vm_readv process_vm_writev ptrace query_module quotactl
quotactl_fd reboot request_key set_mempolicy set_mempolicy_home_node setdomainname sethostname setns
settimeofday stime swapoff swapon sysfs _sysctl syslog umount umount2 unshare uselib
userfaultfd ustat vhangup vm86 vm86old vmsplice
""".split()
"""EPERM. Kernel modules, mounts, namespaces, keys, other processes, the clock, io_uring, bpf."""

UNKNOWN_TO_THE_C_LIBRARY: Final = ("clone3", "openat2")
"""ENOSYS: their arguments lie behind a pointer, where no filter looks; callers fall back."""

NEWER_NUMBERS: Final = (457, 458, 460, 467)
"""statmount, listmount, lsm_set_self_attr, open_tree_attr: denied, but newer than some libseccomp.
The numbers are the same on every processor."""

NAMESPACE_FLAGS: Final = (
    *(0x80, 0x00020000, 0x02000000, 0x04000000, 0x08000000),
    *(0x10000000, 0x20000000, 0x40000000),
)
AF_NETLINK: Final = 16
SOCKET_FAMILIES: Final = (1, 2, 10, AF_NETLINK)
"""AF_UNIX, AF_INET, AF_INET6, and of netlink only NETLINK_ROUTE, which `getifaddrs` needs."""
O_CREAT, O_TMPFILE = 0o100, 0o20000000
SET_ID_BITS: Final = (0o4000, 0o2000)
TIOCSTI, TIOCLINUX = 0x5412, 0x541C

LOAD, JUMP, JUMP_IF_EQUAL, RETURN = 0x20, 0x05, 0x15, 0x06
RETURN_ERRNO: Final = 0x00050000
NUMBER_OFFSET, ARCH_OFFSET = 0, 4
AUDIT_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_ARCHITECTURES: Final = {"x86_64": "X86_64", "aarch64": "AARCH64"}


def build(machine: str) -> Any:
    """The filter of one processor; a syscall of another ABI (i386, x32, arm) kills the process."""
    rules = pyseccomp.SyscallFilter(defaction=pyseccomp.ALLOW)
    rules.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)
    wanted = getattr(pyseccomp.Arch, _ARCHITECTURES[machine])
    if pyseccomp.system_arch() != wanted:
        rules.add_arch(wanted)
        rules.remove_arch(pyseccomp.system_arch())
    for name in DENIED:
        _add(rules, errno.EPERM, name)
    for name in UNKNOWN_TO_THE_C_LIBRARY:
        _add(rules, errno.ENOSYS, name)
    for flag in NAMESPACE_FLAGS:
        _add(rules, errno.EPERM, "clone", _bits(0, flag))
    # The kernel looks at the low 32 bits of a request only; so must we (CVE-2019-10063).
    for request in (TIOCSTI, TIOCLINUX):
        _add(
            rules, errno.EPERM, "ioctl", pyseccomp.Arg(1, pyseccomp.MASKED_EQ, 0xFFFFFFFF, request)
        )
    _sockets(rules)
    _set_id_bits(rules)
    return rules


def _sockets(rules: Any) -> None:
    low = 0xFFFFFFFF
    for family in range(64):
        if family not in SOCKET_FAMILIES:
            family_is = pyseccomp.Arg(0, pyseccomp.MASKED_EQ, low, family)
            _add(rules, errno.EAFNOSUPPORT, "socket", family_is)
    for bit in range(6, 32):
        _add(rules, errno.EAFNOSUPPORT, "socket", _bits(0, 1 << bit))
    netlink = pyseccomp.Arg(0, pyseccomp.MASKED_EQ, low, AF_NETLINK)
    for bit in range(32):
        _add(rules, errno.EPROTONOSUPPORT, "socket", netlink, _bits(2, 1 << bit))


def _set_id_bits(rules: Any) -> None:
    """No file of the workspace becomes setuid: outside it would run as the sandbox's user."""
    for bit in SET_ID_BITS:
        for name, mode in (("chmod", 1), ("fchmod", 1), ("fchmodat", 2), ("fchmodat2", 2),
                           ("creat", 1), ("mknod", 1), ("mknodat", 2)):  # fmt: skip
            _add(rules, errno.EPERM, name, _bits(mode, bit))
        for flag in (O_CREAT, O_TMPFILE):  # without them the mode is whatever the register holds
            _add(rules, errno.EPERM, "open", _bits(1, flag), _bits(2, bit))
            _add(rules, errno.EPERM, "openat", _bits(2, flag), _bits(3, bit))


def _bits(argument: int, bits: int) -> Any:
    return pyseccomp.Arg(argument, pyseccomp.MASKED_EQ, bits, bits)


def _add(rules: Any, code: int, name: str, *arguments: Any) -> None:
    rules.add_rule(pyseccomp.ERRNO(code), name, *arguments)


def _newer(machine: str) -> bytes:
    """Instructions put in front: the numbers that libseccomp cannot name."""
    count = len(NEWER_NUMBERS)
    program = [
        (LOAD, 0, 0, ARCH_OFFSET),
        (JUMP_IF_EQUAL, 0, count + 3, AUDIT_ARCH[machine]),  # another ABI: left to libseccomp
        (LOAD, 0, 0, NUMBER_OFFSET),
        *((JUMP_IF_EQUAL, count - place, 0, n) for place, n in enumerate(NEWER_NUMBERS)),
        (JUMP, 0, 0, 1),
        (RETURN, 0, 0, RETURN_ERRNO | errno.EPERM),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def write(machine: str, path: str) -> None:
    """Build the filter of one processor and put it in a file."""
    with open(path, "wb") as file:
        file.write(_newer(machine))
        file.flush()
        build(machine).export_bpf(file)


def main() -> None:
    """Write every filter."""
    os.makedirs(FILTERS, exist_ok=True)
    for machine in _ARCHITECTURES:
        write(machine, os.path.join(FILTERS, f"{machine}.bpf"))


if __name__ == "__main__":
    main()
