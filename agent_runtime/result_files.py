"""The files of a task: its patch, its certificate, what left it, under the state directory.

They are copies for people and programs; the log and its blobs are what counts. `verify` tells when
a copy is no longer what the log says. When a task is continued, what its earlier run gave gets that
run's number (`certificate.1.json`): the names without a number are always the newest run's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import anyio
import msgspec

PATCH, CERTIFICATE, EGRESS = "patch.diff", "certificate.json", "egress.jsonl"
Certificate = dict[str, Any]
_OF_A_RUN = re.compile(r"patch\.[0-9]+\.diff|certificate\.[0-9]+\.json")


@dataclass(frozen=True, slots=True)
class RunFiles:
    """What the files of one run should hold; `run` is 0 for the newest one, else its number."""

    run: int
    patch: bytes
    certificate: Certificate


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

    async def supersede(self, task_id: str, ends: Sequence[int]) -> None:
        """Give the files of an earlier run its number. `ends` are the last events of these runs.

        Safe to repeat; nothing happens if the files are the newest run's, or none.
        """
        await anyio.to_thread.run_sync(_supersede, self.directory(task_id), ends)

    async def outdate(self, task_id: str) -> None:
        """Remove the certificate, which `write` makes again: its log is about to go on."""
        path = os.path.join(self.directory(task_id), CERTIFICATE)
        with suppress(FileNotFoundError):
            await anyio.to_thread.run_sync(os.unlink, path)

    async def changed(self, task_id: str, runs: Sequence[RunFiles]) -> str | None:
        """The path of a copy that is not what it should be, or None. A missing one is none."""
        return await anyio.to_thread.run_sync(_changed, self.directory(task_id), runs)

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


def _names(run: int) -> tuple[str, str]:
    return (PATCH, CERTIFICATE) if not run else (f"patch.{run}.diff", f"certificate.{run}.json")


def _supersede(directory: str, ends: Sequence[int]) -> None:
    found = _read(os.path.join(directory, CERTIFICATE))
    try:
        end = msgspec.json.decode(found or b"{}")["log"]["seq"]
    except (msgspec.DecodeError, KeyError, TypeError, IndexError):
        return
    if end not in ends:
        return
    # The certificate last: it tells whose files these are, should we be killed in between.
    numbered = _names(list(ends).index(end) + 1)
    for old, new in zip((PATCH, CERTIFICATE), numbered, strict=True):
        with suppress(FileNotFoundError):
            os.replace(os.path.join(directory, old), os.path.join(directory, new))


def _changed(directory: str, runs: Sequence[RunFiles]) -> str | None:
    for expected in runs:
        # Somebody may have been killed before he gave an earlier run's files their number.
        allowed = [expected, *runs] if not expected.run else [expected]
        patch, certificate = (os.path.join(directory, name) for name in _names(expected.run))
        said = _read(certificate)
        if said is not None:
            # The two belong to one run: no patch stands under another one's certificate.
            allowed = [each for each in allowed if _says(said, each.certificate)]
            if not allowed:
                return certificate
        found = _read(patch)
        if found is not None and all(found != each.patch for each in allowed):
            return patch
    return None


def _says(found: bytes, certificate: Certificate) -> bool:
    try:
        # Another version of the runtime may look at it than the one that wrote it.
        return bool(msgspec.json.decode(found) | {"runtime": ""} == certificate | {"runtime": ""})
    except (msgspec.DecodeError, TypeError):
        return False


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _remove(directory: str) -> None:
    if not os.path.isdir(directory):
        return
    for name in os.listdir(directory):
        if name in (PATCH, CERTIFICATE, EGRESS) or _OF_A_RUN.fullmatch(name):
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(directory, name))
    os.rmdir(directory)
