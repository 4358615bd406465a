"""The files of a task: its patch, its certificate, what left it, under the state directory.

They are copies for people and programs; the log and its blobs are what counts. `verify` tells when
a copy is no longer what the log says.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

import anyio
import msgspec

PATCH, CERTIFICATE, EGRESS = "patch.diff", "certificate.json", "egress.jsonl"
Certificate = dict[str, Any]


class ResultFiles:
    """`<state_dir>/results/<task id>/`, a directory that only its owner may look into."""

    def __init__(self, state_dir: str) -> None:
        self._root = os.path.join(state_dir, "results")

    def directory(self, task_id: str) -> str:
        """Where the files of a task are or would be."""
        return os.path.join(self._root, task_id)

    async def write(self, task_id: str, patch: bytes, certificate: Certificate) -> tuple[str, str]:
        """Write both; their paths. Raises `OSError`, and leaves no half file."""
        text = msgspec.json.format(msgspec.json.encode(certificate), indent=2) + b"\n"
        directory = self.directory(task_id)
        await anyio.to_thread.run_sync(_write, directory, {PATCH: patch, CERTIFICATE: text})
        return os.path.join(directory, PATCH), os.path.join(directory, CERTIFICATE)

    async def changed(self, task_id: str, patch: bytes, certificate: Certificate) -> str | None:
        """The path of a copy that is not what it should be, or None. A missing one is none."""
        return await anyio.to_thread.run_sync(_changed, self.directory(task_id), patch, certificate)

    async def remove(self, task_id: str) -> None:
        """Remove all of them that are there."""
        await anyio.to_thread.run_sync(_remove, self.directory(task_id))


def _write(directory: str, files: dict[str, bytes]) -> None:
    os.makedirs(directory, mode=0o700, exist_ok=True)
    for name, data in files.items():
        partial = os.path.join(directory, f".{name}.{os.getpid()}")
        try:
            with open(partial, "wb") as file:
                file.write(data)
            os.replace(partial, os.path.join(directory, name))
        except OSError:
            with suppress(OSError):
                os.unlink(partial)
            raise


def _changed(directory: str, patch: bytes, certificate: Certificate) -> str | None:
    path = os.path.join(directory, PATCH)
    if (found := _read(path)) is not None and found != patch:
        return path
    path = os.path.join(directory, CERTIFICATE)
    if (found := _read(path)) is not None:
        try:
            # Another version of the runtime may look at it than the one that wrote it.
            same = msgspec.json.decode(found) | {"runtime": ""} == certificate | {"runtime": ""}
        except (msgspec.DecodeError, TypeError):
            same = False
        return None if same else path
    return None


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _remove(directory: str) -> None:
    for name in (PATCH, CERTIFICATE, EGRESS):
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, name))
    if os.path.isdir(directory):
        os.rmdir(directory)
