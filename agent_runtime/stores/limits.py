"""What no store takes: checked before a write is queued, so that nobody else's write suffers.

A wrong numbering or a wrong blob id is a bug of the caller and an `assert`; too many bytes are an
operating error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from agent_runtime.errors import UsageError
from agent_runtime.types import BlobId, Row, Seq, Snapshot, TaskId, TaskSummary

APPEND_BYTES_MAX = 64 << 20
"""Event data of one append. Large texts belong into blobs."""

SNAPSHOT_BYTES_MAX = 64 << 20
"""One folded state: what is larger is no faster to load than its log."""

BLOB_BYTES_MAX = 1 << 30
"""One blob: it passes through memory as a whole and is stored in one transaction."""


def check_rows(task_id: TaskId, expected: Seq, rows: Sequence[Row], summary: TaskSummary) -> None:
    """Refuse rows that no log can hold."""
    assert rows, "an append needs at least one row"
    if len(rows) == 1 and _is_well(rows[0], task_id, expected, summary):
        return  # every submission, in a third of the time
    assert [row.seq for row in rows] == list(range(expected + 1, expected + 1 + len(rows))), (
        f"rows of task {task_id!r} must be numbered from {expected + 1} without holes"
    )
    assert all(row.task_id == task_id for row in rows), f"a row is not of task {task_id!r}"
    last = rows[-1]
    assert (summary.task_id, summary.seq, summary.head_hash) == (task_id, last.seq, last.hash), (
        f"the summary must be that of task {task_id!r} at event {last.seq}"
    )
    data_bytes = sum(len(row.data) for row in rows)
    if data_bytes > APPEND_BYTES_MAX:
        raise UsageError(
            f"events {rows[0].seq} to {last.seq} of task {task_id!r} hold {data_bytes} bytes;"
            f" one append takes at most {APPEND_BYTES_MAX}: put large texts into blobs"
        )


def _is_well(row: Row, task_id: TaskId, expected: Seq, summary: TaskSummary) -> bool:
    return (
        row.seq == expected + 1 == summary.seq
        and row.task_id == task_id == summary.task_id
        and row.hash == summary.head_hash
        and len(row.data) <= APPEND_BYTES_MAX
    )


def check_blobs(blobs: Mapping[BlobId, bytes]) -> None:
    """Refuse blobs that are too large or do not match their id."""
    for blob_id, data in blobs.items():
        content_id = identify(data)
        assert content_id == blob_id, f"blob {blob_id!r} has the content of {content_id!r}"


def fits(snapshot: Snapshot | None) -> bool:
    """Is there one, and does a store take it?"""
    return snapshot is not None and len(snapshot.data) <= SNAPSHOT_BYTES_MAX


_DAY_MS = 86_400_000


def first_id_of_day(day: int) -> str:
    """No task of that day (since 1970, UTC) has a smaller id: each begins with its time in ms."""
    return f"task_{day * _DAY_MS:012x}"


def day_of(task_id: str) -> int | None:
    """The day on which a task was made; None: its id does not say."""
    try:
        return int(task_id.removeprefix("task_")[:12], 16) // _DAY_MS
    except ValueError:
        return None


def identify(data: bytes) -> BlobId:
    """The content's SHA-256. `UsageError` if no store takes that much."""
    if len(data) > BLOB_BYTES_MAX:
        raise UsageError(
            f"a blob of {len(data)} bytes is too large: a store takes at most {BLOB_BYTES_MAX};"
            " keep such content in the workspace and store its path"
        )
    return digest(data)


def digest(data: bytes) -> BlobId:
    return BlobId(hashlib.sha256(data).hexdigest())
