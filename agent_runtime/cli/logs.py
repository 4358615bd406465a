"""The runtime's own messages as JSON lines, for programs; `console` has the lines for people."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Final

import msgspec

FIELDS: Final = ("task_id", "target")
"""What a message is about, where its writer says so (`extra=`)."""


class JsonFormatter(logging.Formatter):
    """One object a line; `traceback` only where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """`record` as JSON. `at` is UTC, RFC 3339."""
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        for name in FIELDS:
            if value := getattr(record, name, None):
                line[name] = str(value)
        # A path that is no Unicode must not end the log.
        safe = {key: text.encode("utf-8", "replace").decode() for key, text in line.items()}
        return msgspec.json.encode(safe).decode()
