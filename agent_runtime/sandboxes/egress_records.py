"""What left a sandbox, a JSON line each: `<state_dir>/results/<owner>/egress.jsonl`.

The record of the moment: a line is there before a connection is made, whatever happens to the
daemon then, and the log takes it over from here if it must. Lines are added, never changed. It is
bounded: a sandbox that asks for a million hosts is not to fill the disk.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

import msgspec

from agent_runtime.ports.egress import EgressRecord
from agent_runtime.result_files import EGRESS, ResultFiles

log = logging.getLogger(__name__)

FILE_BYTES_MAX: Final = 8 << 20
"""Of one owner, some 30,000 lines; what comes later is in the log only."""
_KINDS: Final = frozenset({"opened", "closed", "refused", "failed"})


class RecordFile:
    """Opened with the first record: a task that never goes out leaves no file."""

    def __init__(self, state_dir: str, owner_id: str) -> None:
        self.path = _path(state_dir, owner_id)
        self._owner_id = owner_id
        self._fd = -1
        self._is_full = self._is_torn = False

    def write(self, record: EgressRecord) -> EgressRecord:
        """Add a line; the record with its `mark`. Raises `OSError`."""
        if self._is_full:
            return record
        if self._fd < 0:
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(self.path, flags, 0o600)
        values = {key: value for key, value in asdict(record).items() if value and key != "mark"}
        if os.fstat(self._fd).st_size >= FILE_BYTES_MAX:
            self._is_full = True
            why = f"{FILE_BYTES_MAX} bytes: what follows is in the log only"
            self._add({"kind": "full", "reason": why})
            return record
        mark = self._add(values)
        log.info("egress of %s: %s", self._owner_id, json.dumps(values))
        return replace(record, mark=mark)

    def _add(self, values: dict[str, object]) -> int:
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"at": at, **values}).encode() + b"\n"
        if self._is_torn:
            line = b"\n" + line
        # One write: processes that add at the same time do not mix their lines.
        written = os.write(self._fd, line)
        self._is_torn = written < len(line)
        if self._is_torn:
            raise OSError("the disk is full")
        return os.lseek(self._fd, 0, os.SEEK_CUR)

    def close(self) -> None:
        """No more records. Safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._is_full = True


class EgressFiles:
    """Implements `ports.EgressFiles` over the files of one state directory."""

    def __init__(self, state_dir: str) -> None:
        self._state_dir = state_dir

    def after(self, owner_id: str, mark: int) -> list[EgressRecord]:
        """See `ports.EgressFiles`. A line that was torn by a full disk is left out."""
        records = []
        with suppress(OSError), open(_path(self._state_dir, owner_id), "rb") as file:
            file.seek(mark)
            for line in file:
                mark += len(line)
                if line.endswith(b"\n") and (record := _record(line, mark)) is not None:
                    records.append(record)
        return records


def _path(state_dir: str, owner_id: str) -> str:
    return os.path.join(ResultFiles(state_dir).directory(quote(owner_id, safe="") or "%"), EGRESS)


def _record(line: bytes, mark: int) -> EgressRecord | None:
    try:
        record = msgspec.json.decode(line, type=EgressRecord)
    except msgspec.MsgspecError:
        log.warning("a line of an egress record cannot be read: %r", line[:200])
        return None
    return replace(record, mark=mark) if record.kind in _KINDS else None
