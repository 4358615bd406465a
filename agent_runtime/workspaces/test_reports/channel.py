"""The way of a test runner's report out of the sandbox: pipes in a directory of its own.

A sandbox sees that directory read-only and can write to the pipes in it, not read from them: what
was told is with the runtime at once and cannot be taken back or written anew. It proves no more
than that: code under test runs in its runner's process, and can tell whatever the runner can.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final

import anyio
import anyio.to_thread

PIPES: Final = ("pytest", "jest")
BYTES_MAX: Final = 64 << 20
"""Of one runner's report. What is more is read and thrown away, and the report is no good."""
_INSIDE: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "inside")
_METADATA: Final = "Metadata-Version: 2.1\nName: agent-runtime-reporting\nVersion: 1.0\n"
_ENTRY_POINT: Final = "[pytest11]\nagent_runtime_reporting = agent_runtime_reporting\n"


class Channel:
    """Where the runners of one check tell. `directory` is made by `opened`, and left behind."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._told: dict[str, bytearray] = {name: bytearray() for name in PIPES}

    @property
    def told(self) -> dict[str, bytes]:
        """All that came through the pipe of each runner; at most one byte above `BYTES_MAX`."""
        return {name: bytes(data) for name, data in self._told.items()}

    def variables(self, given: Mapping[str, str]) -> dict[str, str]:
        """What makes runners report, beside the variables that a command gets anyway.

        All of it is soft: a runner that is not told to, or by an older version, runs as ever.
        """
        preload = os.path.join(self.directory, "jest_preload.cjs").replace('"', '\\"')
        return {
            **given,
            "PYTHONPATH": _after(os.path.join(self.directory, "python"), given, "PYTHONPATH", ":"),
            "NODE_OPTIONS": _before(given, "NODE_OPTIONS", f'--require "{preload}"'),
            # Names of passed tests are printed only so; `-json` would change `go list`, too.
            "GOFLAGS": _before(given, "GOFLAGS", "-v"),
        }

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Make the pipes and listen to them. On exit everything that was written has been read."""
        pipes = await anyio.to_thread.run_sync(_make, self.directory)
        failure: Exception | None = None
        try:
            async with anyio.create_task_group() as listeners:
                for name, fd in pipes.items():
                    listeners.start_soon(self._listen, name, fd)
                try:
                    yield
                except Exception as error:  # noqa: BLE001 - raised below: here it would be a group
                    failure = error
                listeners.cancel_scope.cancel()
            if failure is not None:
                raise failure
            for name, fd in pipes.items():
                while self._read(name, fd):
                    pass
        finally:
            for fd in pipes.values():
                os.close(fd)

    async def _listen(self, name: str, fd: int) -> None:
        while True:
            await anyio.wait_readable(fd)
            self._read(name, fd)

    def _read(self, name: str, fd: int) -> bool:
        try:
            data = os.read(fd, 1 << 20)
        except BlockingIOError:
            return False
        told = self._told[name]
        told += data[: max(0, BYTES_MAX + 1 - len(told))]
        return True


def _make(directory: str) -> dict[str, int]:
    """The directory with all that runners need; its pipes, open."""
    os.mkdir(directory, 0o755)
    python = os.path.join(directory, "python")
    metadata = os.path.join(python, "agent_runtime_reporting-1.0.dist-info")
    os.makedirs(metadata)
    for name, target in (
        ("agent_runtime_reporting.py", python),
        ("jest_preload.cjs", directory),
    ):
        with open(os.path.join(_INSIDE, name), encoding="utf-8") as file:
            _write(os.path.join(target, name), file.read())
    _write(os.path.join(metadata, "METADATA"), _METADATA)
    _write(os.path.join(metadata, "entry_points.txt"), _ENTRY_POINT)
    for place in (directory, python, metadata):
        os.chmod(place, 0o755)
    pipes: dict[str, int] = {}
    try:
        for name in PIPES:
            path = os.path.join(directory, name)
            os.mkfifo(path)
            # For reading and writing: then nobody who opens it waits, and there is no end of file.
            pipes[name] = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            os.chmod(path, 0o222)
    except BaseException:
        for fd in pipes.values():
            with suppress(OSError):
                os.close(fd)
        raise
    return pipes


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, 0o644)


def _after(value: str, given: Mapping[str, str], name: str, between: str) -> str:
    return f"{value}{between}{given[name]}" if given.get(name) else value


def _before(given: Mapping[str, str], name: str, value: str) -> str:
    return f"{given[name]} {value}" if given.get(name) else value
