"""The shipped filters, run on paper: both processors, on any machine."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from agent_runtime.sandboxes.seccomp import FILTERS, filter_path

ALLOW, KILL = 0x7FFF0000, 0x80000000
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
NUMBERS = {
    "x86_64": {
        "read": 0, "ioctl": 16, "socket": 41, "clone": 56, "ptrace": 101, "openat": 257,
        "fchmodat": 268, "mount": 165, "unshare": 272, "keyctl": 250, "bpf": 321, "mknodat": 259,
        "process_vm_writev": 311, "personality": 135,
    },
    "aarch64": {
        "read": 63, "ioctl": 29, "socket": 198, "clone": 220, "ptrace": 117, "openat": 56,
        "fchmodat": 53, "mount": 40, "unshare": 97, "keyctl": 219, "bpf": 280, "mknodat": 33,
        "process_vm_writev": 271, "personality": 92,
    },
}  # fmt: skip
NEWER = {
    "io_uring_setup": 425, "open_tree": 428, "fsopen": 430, "clone3": 435, "openat2": 437,
    "pidfd_getfd": 438, "faccessat2": 439, "fchmodat2": 452, "statmount": 457, "listmount": 458,
    "lsm_set_self_attr": 460, "open_tree_attr": 467,
}  # fmt: skip
"""One number on every processor."""


def run(program: bytes, number: int, arch: int, *arguments: int) -> int:
    """Classic BPF as the kernel runs it for seccomp."""
    padded = [*arguments, *([0] * (6 - len(arguments)))]
    data = struct.pack("<iIQ6Q", number, arch, 0, *padded)
    code: list[tuple[int, int, int, int]] = [
        struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)
    ]
    accumulator, place = 0, 0
    while True:
        operation, if_true, if_false, k = code[place]
        place += 1
        match operation:
            case 0x20:
                accumulator = int.from_bytes(data[k : k + 4], "little")
            case 0x54:
                accumulator &= k
            case 0x05:
                place += k
            case 0x15:
                place += if_true if accumulator == k else if_false
            case 0x25:
                place += if_true if accumulator > k else if_false
            case 0x35:
                place += if_true if accumulator >= k else if_false
            case 0x45:
                place += if_true if accumulator & k else if_false
            case 0x06:
                return k
            case _:
                raise AssertionError(hex(operation))


@pytest.fixture(params=sorted(ARCHITECTURES))
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def answer(machine: str, name: str, *arguments: int) -> int | str:
    """allow, kill, or the number of the error."""
    path = filter_path(machine)
    assert path is not None
    number = {**NEWER, **NUMBERS[machine]}[name]
    result = run(Path(path).read_bytes(), number, ARCHITECTURES[machine], *arguments)
    if result == ALLOW:
        return "allow"
    return "kill" if result == KILL else result & 0xFFFF


CREAT, TMPFILE = 0o100, 0o20200000
GARBAGE = 1 << 32


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("read", (0, 0, 0), "allow"),
        ("faccessat2", (), "allow"),
        ("personality", (0xFFFFFFFF,), "allow"),
        ("clone", (0x003D0F00,), "allow"),
        ("clone", (17,), "allow"),
        ("clone", (0x10000011,), errno.EPERM),
        ("clone", (0x00020011,), errno.EPERM),
        ("clone", (0x91,), errno.EPERM),
        ("clone3", (), errno.ENOSYS),
        ("openat2", (), errno.ENOSYS),
        ("unshare", (0,), errno.EPERM),
        ("mount", (), errno.EPERM),
        ("ptrace", (), errno.EPERM),
        ("keyctl", (), errno.EPERM),
        ("bpf", (), errno.EPERM),
        ("io_uring_setup", (), errno.EPERM),
        ("pidfd_getfd", (), errno.EPERM),
        ("open_tree", (), errno.EPERM),
        ("fsopen", (), errno.EPERM),
        ("process_vm_writev", (), errno.EPERM),
        ("statmount", (), errno.EPERM),
        ("listmount", (), errno.EPERM),
        ("lsm_set_self_attr", (), errno.EPERM),
        ("open_tree_attr", (), errno.EPERM),
        ("ioctl", (0, 0x5401), "allow"),
        ("ioctl", (0, 0x5412), errno.EPERM),
        ("ioctl", (0, 0x5412 | GARBAGE), errno.EPERM),
        ("ioctl", (0, 0x541C), errno.EPERM),
        ("socket", (1, 1, 0), "allow"),
        ("socket", (2, 0o2000001, 0), "allow"),
        ("socket", (10, 2, 0), "allow"),
        ("socket", (16, 3, 0), "allow"),
        ("socket", (16, 3, 12), errno.EPROTONOSUPPORT),
        ("socket", (16 | GARBAGE, 3, 12), errno.EPROTONOSUPPORT),
        ("socket", (17, 3, 0), errno.EAFNOSUPPORT),
        ("socket", (40, 1, 0), errno.EAFNOSUPPORT),
        ("socket", (40 | GARBAGE, 1, 0), errno.EAFNOSUPPORT),
        ("socket", (38, 5, 0), errno.EAFNOSUPPORT),
        ("socket", (200, 1, 0), errno.EAFNOSUPPORT),
        ("fchmodat", (0, 0, 0o755), "allow"),
        ("fchmodat", (0, 0, 0o4755), errno.EPERM),
        ("fchmodat", (0, 0, 0o2755), errno.EPERM),
        ("fchmodat2", (0, 0, 0o6755, 0), errno.EPERM),
        ("mknodat", (0, 0, 0o104755), errno.EPERM),
        ("openat", (0, 0, CREAT, 0o644), "allow"),
        ("openat", (0, 0, 0, 0o4755), "allow"),
        ("openat", (0, 0, CREAT, 0o4755), errno.EPERM),
        ("openat", (0, 0, TMPFILE, 0o2755), errno.EPERM),
    ],
)
def test_the_filter_answers(
    machine: str, name: str, arguments: tuple[int, ...], expected: int | str
) -> None:
    assert answer(machine, name, *arguments) == expected


def test_another_abi_kills(machine: str) -> None:
    """i386 on x86_64, arm on aarch64, and x32, which has the same architecture word."""
    program = (Path(FILTERS) / f"{machine}.bpf").read_bytes()
    for arch in (
        0x40000003,
        0x40000028,
        ARCHITECTURES["aarch64" if machine == "x86_64" else "x86_64"],
    ):
        assert run(program, 0, arch) == KILL
    if machine == "x86_64":
        assert run(program, 0x40000000 | 39, ARCHITECTURES[machine]) == KILL


def test_the_shipped_filters_are_what_the_tool_builds(machine: str, tmp_path: Path) -> None:
    """Whoever changes the rules must build again. Needs libseccomp, which a developer has."""
    try:
        from agent_runtime.sandboxes import seccomp_build
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"libseccomp is not installed: {error}")
    shipped = (Path(FILTERS) / f"{machine}.bpf").read_bytes()
    built = tmp_path / "built.bpf"
    seccomp_build.write(machine, str(built))
    assert built.read_bytes() == shipped


def test_other_processors_have_none() -> None:
    assert filter_path("s390x") is None
    assert os.path.basename(filter_path("AMD64") or "") == "x86_64.bpf"
