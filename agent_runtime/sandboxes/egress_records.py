"""What left a sandbox, a JSON line each: `<state_dir>/results/<owner>/egress.jsonl`.

The file is for people and programs; lines are added, never changed. It is bounded: a sandbox that
asks for a million hosts is not to fill the disk.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

from agent_runtime.ports import EgressRecord
from agent_runtime.results import EGRESS, ResultFiles

log = logging.getLogger(__name__)

LINES_MAX: Final = 20_000
"""Of one sandbox; some 5 MB."""


class RecordFile:
    """Opened with the first record: a task that never goes out leaves no file."""

    def __init__(self, state_dir: str, owner_id: str) -> None:
        directory = ResultFiles(state_dir).directory(quote(owner_id, safe="") or "%")
        self.path = os.path.join(directory, EGRESS)
        self._owner_id = owner_id
        self._fd = -1
        self._lines = 0

    def write(self, record: EgressRecord) -> None:
        """Add a line. Raises `OSError`."""
        self._lines += 1
        if self._lines > LINES_MAX:
            return
        if self._fd < 0:
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(self.path, flags, 0o600)
        values = {key: value for key, value in asdict(record).items() if value not in ("", 0, 0.0)}
        line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), **values}
        if self._lines == LINES_MAX:
            line = {
                "at": line["at"],
                "kind": "full",
                "reason": f"{LINES_MAX} lines: no more follow",
            }
        # One write: processes that add at the same time do not mix their lines.
        os.write(self._fd, json.dumps(line).encode() + b"\n")
        log.info("egress of %s: %s", self._owner_id, json.dumps(values))

    def close(self) -> None:
        """No more records. Safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._lines = LINES_MAX
