"""System calls that Python has no function for: `openat2`, `renameat2` and `statx`.

They come by ctypes. Where the kernel (or a seccomp filter) has no `openat2`, `has_openat2` says so,
and `steps` takes its place; the other two have fallbacks here.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct
import sys
from typing import Any, Final

O_PATH: Final = getattr(os, "O_PATH", 0)
DIRECTORY_FLAGS: Final = os.O_DIRECTORY | os.O_CLOEXEC | O_PATH

# linux/openat2.h
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_NO_SYMLINKS: Final = 0x04
_RESOLVE_BENEATH: Final = 0x08
# The same number on every architecture: calls after 424 share one table.
_SYS_OPENAT2: Final = 437
_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_RENAME_NOREPLACE: Final = 1
_STATX_BTIME: Final = 0x800
_AGAIN_MAX: Final = 16
"""A rename somewhere beside makes the kernel unsure about `..` in a link: it asks to try again."""


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


_C: Final = _libc()
if _C is not None:
    _syscall: Any = _C.syscall
    _syscall.restype = ctypes.c_long
    _syscall.argtypes = (
        *(ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t),
    )


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_HOWS: Final[dict[tuple[int, bool], tuple[_How, int]]] = {}
"""The kernel only reads them: one for each kind of call serves all threads."""


def open_beneath(directory: int, path: bytes, flags: int, *, links: bool = True) -> int:
    """Open what lies at `path` below a directory; neither `..` nor a link can lead out of it.

    `path` holds no NUL byte. Without `links`, none is followed at all.

    Raises:
        OSError: EXDEV, a link leads out; ELOOP, there is a link, or too many; EAGAIN, it keeps
            changing; as `open(2)` otherwise.
    """
    known = _HOWS.get((flags, links))
    if known is None:
        resolve = _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS
        how = _How(flags | os.O_CLOEXEC, 0, resolve | (0 if links else _RESOLVE_NO_SYMLINKS))
        known = _HOWS[(flags, links)] = (how, ctypes.addressof(how))
    for _ in range(_AGAIN_MAX):
        descriptor: int = _syscall(_SYS_OPENAT2, directory, path, known[1], 24)
        if descriptor >= 0:
            return descriptor
        number = ctypes.get_errno()
        if number not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(number, os.strerror(number), os.fsdecode(path))


@functools.cache
def has_openat2() -> bool:
    """Older kernels answer ENOSYS, older container runtimes EPERM."""
    if _C is None:
        return False
    try:
        os.close(open_beneath(_AT_FDCWD, b".", DIRECTORY_FLAGS))
    except OSError:
        return False
    return True


def rename_exclusive(
    source_directory: int, source: str, directory: int, name: str, *, is_directory: bool
) -> None:
    """Rename, unless something has the new name: then nothing happens.

    Raises:
        FileExistsError: something has it.
        OSError: as `rename(2)`.
    """
    if hasattr(_C, "renameat2"):
        names = os.fsencode(source), os.fsencode(name)
        done = _C.renameat2(source_directory, names[0], directory, names[1], _RENAME_NOREPLACE)
        if done == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.ENOSYS, errno.EINVAL, errno.EPERM):
            raise OSError(number, os.strerror(number), name)
    _rename_in_two_steps(source_directory, source, directory, name, is_directory=is_directory)


def _rename_in_two_steps(
    source_directory: int, source: str, directory: int, name: str, *, is_directory: bool
) -> None:
    """For file systems that cannot do it at once: a hard link is as exclusive, for files."""
    if not is_directory:
        try:
            os.link(
                source, name,
                src_dir_fd=source_directory, dst_dir_fd=directory, follow_symlinks=False,
            )  # fmt: skip
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
                raise
        else:
            os.unlink(source, dir_fd=source_directory)
            return
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(source, name, src_dir_fd=source_directory, dst_dir_fd=directory)
        return
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)


def born(descriptor: int) -> float | None:
    """When an open file was made, in seconds since 1970; None where that is not kept."""
    if not hasattr(_C, "statx"):
        return None
    told = ctypes.create_string_buffer(256)
    if _C.statx(descriptor, b"", _AT_EMPTY_PATH, _STATX_BTIME, told) != 0:
        return None
    if not struct.unpack_from("I", told, 0)[0] & _STATX_BTIME:
        return None
    seconds, nanoseconds = struct.unpack_from("qI", told, 80)
    return float(seconds + nanoseconds / 1e9)
