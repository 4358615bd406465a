"""Running one program that is handed a message: no shell, little environment, and an end."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

import anyio

SECONDS_MAX: Final = 30.0
OUTPUT_BYTES_MAX: Final = 4 << 10
READ_SECONDS: Final = 1.0
"""For what it printed last, once it has ended."""
_PASSED_ON: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "XDG_RUNTIME_DIR", "DISPLAY")
"""The daemon's other variables may be secrets."""


class NotRun(Exception):
    """The program is not there, failed or had no end; says what it printed."""


async def run(
    words: Sequence[str], body: bytes, environ: Mapping[str, str], *, seconds: float = SECONDS_MAX
) -> None:
    """Hand `body` to the program on its standard input, and wait for its end.

    Everything that it started in its own process group ends with it.

    Raises:
        NotRun: its exit code was not 0.
    """
    passed = {name: environ[name] for name in _PASSED_ON if name in environ}
    try:
        process = await anyio.open_process(
            list(words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=passed, start_new_session=True,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise NotRun(f"{words[0]!r} cannot be run: {why}") from None
    printed = bytearray()
    try:
        with anyio.fail_after(seconds):
            async with anyio.create_task_group() as tg:
                tg.start_soon(_feed, process, body)
                tg.start_soon(_read, process, printed)
                code = await process.wait()
                # What it left behind, also elsewhere, may hold its output open.
                _kill(process.pid)
                tg.cancel_scope.deadline = anyio.current_time() + READ_SECONDS
    except TimeoutError:
        raise NotRun(f"{words[0]!r} had no end within {seconds:g} s") from None
    finally:
        _kill(process.pid)
        with anyio.CancelScope(shield=True), anyio.move_on_after(5):
            await process.aclose()
    if code:
        said = printed.decode("utf-8", "replace").strip()
        raise NotRun(f"{words[0]!r} ended with {code}{f': {said[-300:]}' if said else ''}")


async def _feed(process: anyio.abc.Process, body: bytes) -> None:
    assert process.stdin is not None
    # It need not read it.
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
        await process.stdin.send(body)
        await process.stdin.aclose()


async def _read(process: anyio.abc.Process, printed: bytearray) -> None:
    assert process.stdout is not None
    with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
        async for part in process.stdout:
            printed += part
            del printed[:-OUTPUT_BYTES_MAX]


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
