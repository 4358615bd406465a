"""How a module hands files to the sandboxes: a directory that it fills and they see read-only.

The tools of the built-in modules run in the worker, because what they parse was written by others.
What the operator names in the settings lies outside of the sandbox; the module, in the daemon,
copies it into `ModuleContext.shared_dir`, and a mount shows it to every task's tools at the same
path. So the model's words (a query, a reference, SQL) never reach code that runs outside, tasks
need not be given a daemon's tool by name, and what is not meant for them is not in the directory.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final

import anyio
import anyio.to_thread

REFRESH_SECONDS: Final = 2.0
"""Between two looks at what was handed over, while a task uses the module."""


class Refreshing:
    """Calls a function again and again, in a thread, while a module lives."""

    def __init__(self) -> None:
        self._stack: AsyncExitStack | None = None
        self._tasks: anyio.abc.TaskGroup | None = None

    async def start(self, refresh: Callable[[], None], *, seconds: float = REFRESH_SECONDS) -> None:
        """The first call has returned when this does. `stop` must run in the same task."""

        async def once() -> float:
            begun = anyio.current_time()
            await anyio.to_thread.run_sync(refresh, abandon_on_cancel=True)
            return anyio.current_time() - begun

        took = await once()

        async def again() -> None:
            nonlocal took
            while True:
                # What is much work takes a tenth of the time, however much it is.
                await anyio.sleep(max(seconds, 9 * took))
                took = await once()

        async with AsyncExitStack() as stack:
            self._tasks = await stack.enter_async_context(anyio.create_task_group())
            self._tasks.start_soon(again)
            self._stack = stack.pop_all()

    async def stop(self) -> None:
        """Safe to repeat, and without a start."""
        stack, self._stack = self._stack, None
        if stack is not None:
            assert self._tasks is not None
            self._tasks.cancel_scope.cancel()
            await stack.aclose()


def put(path: str, data: bytes, *, mtime_ns: int | None = None) -> None:
    """Replace a shared file; whoever reads meanwhile has the old one or the new one."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{os.getpid()}.{threading.get_ident()}.part"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            # The sandbox may run as another user, whatever this one's umask says.
            os.fchmod(file.fileno(), 0o644)
        if mtime_ns is not None:
            os.utime(temporary, ns=(mtime_ns, mtime_ns))
        os.replace(temporary, path)
    except BaseException:
        if os.path.lexists(temporary):
            os.unlink(temporary)
        raise


def make_directory(path: str) -> None:
    """A shared directory that every user may enter."""
    os.makedirs(path, exist_ok=True)
    os.chmod(path, 0o755)


def labels(paths: Sequence[str], *, taken: Sequence[str] = ()) -> dict[str, str]:
    """A short name for each directory, from its own: `notes`, `notes-2`."""
    found: dict[str, str] = {}
    for path in dict.fromkeys(paths):
        base = re.sub(r"[^a-z0-9_.-]+", "-", os.path.basename(path.rstrip("/")).lower())
        base = base.strip("-.") or "folder"
        name, number = base, 1
        while name in found or name in taken:
            number += 1
            name = f"{base}-{number}"
        found[name] = path
    return found
