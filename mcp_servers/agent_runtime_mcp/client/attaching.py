"""Which task of a server's own a call has become: written before the call, and when it is known.

A later process finds the id under the call's idempotency key, and asks for the result again. A call
that was sent and whose id nobody knows cannot be made again. Files are pruned by age, never by use:
a result that was not stored in the log is asked for once more.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

DAYS_KEPT: Final = 30


@dataclass(frozen=True, slots=True)
class Sent:
    """A call that was made. `task_id` is empty while no id is known."""

    task_id: str = ""


class Calls:
    """The files, below one directory."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def find(self, key: str) -> Sent | None:
        """What is known of a call; None: it was never sent."""
        try:
            with open(self._path(key), encoding="utf-8") as file:
                return Sent(str(json.load(file)["task_id"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return Sent()

    def write(self, key: str, sent: Sent) -> None:
        """Durable when it returns."""
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        path = self._path(key)
        temporary = f"{path}.{os.getpid()}.tmp"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump({"key": key, "task_id": sent.task_id}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        directory = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def forget(self, key: str) -> None:
        """It was not sent after all."""
        with suppress(FileNotFoundError):
            os.remove(self._path(key))

    def prune(self) -> None:
        """Remove what is older than any task is kept."""
        now_seconds = datetime.now(UTC).timestamp()
        with suppress(FileNotFoundError):
            for entry in os.scandir(self._directory):
                with suppress(FileNotFoundError):
                    if entry.stat().st_mtime < now_seconds - DAYS_KEPT * 86_400:
                        os.remove(entry.path)

    def _path(self, key: str) -> str:
        return os.path.join(self._directory, hashlib.sha256(key.encode()).hexdigest() + ".json")
