"""Questions about many tasks, each cheap with 100,000 of them: an index answers, never a scan.

Which index that is stands in the query (`INDEXED BY`, `CROSS JOIN`): SQLite would guess without
statistics, and a wrong guess shows only when the store is large. `docs/scheduling.md` has figures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import apsw
import msgspec

from agent_runtime.stores.limits import first_id_of_day
from agent_runtime.stores.owners import Owners
from agent_runtime.types import Ready, Spent, Status, TaskId, TaskSummary

_COLUMNS = TaskSummary.__struct_fields__
_FEW = 2000
"""So many rows can be looked at one by one, in a few milliseconds."""


# ---- lists -------------------------------------------------------------------------------


def summary(db: apsw.Connection, task_id: TaskId) -> TaskSummary | None:
    """The projection of one task."""
    columns = db.execute(_SUMMARY, (task_id,)).fetchone()
    return None if columns is None else _to_summary(columns)


def listed(
    db: apsw.Connection,
    *,
    statuses: Sequence[str],
    labels: Mapping[str, str],
    submitted_by: str | None,
    before: TaskId | None,
    limit: int,
) -> list[TaskSummary]:
    """Newest first. A task id sorts by creation, and stays: pages neither skip nor repeat."""
    conditions, values = ["true"], list[object]()
    for key, value in labels.items():
        conditions.append(
            "EXISTS (SELECT 1 FROM task_labels AS l WHERE l.key = ? AND l.value = ?"
            " AND l.task_id = t.task_id)"
        )
        values += [key, value]
    if submitted_by is not None:
        conditions.append("t.submitted_by = ?")
        values.append(submitted_by)
    if before is not None:
        conditions.append("t.task_id < ?")
        values.append(before)
    where = " AND ".join(conditions)
    known = sorted(set(statuses) & set(Status))
    if statuses and not known:
        return []
    narrow = bool(labels) or submitted_by is not None
    if known and (_are_few(db, known) or not (narrow or _MOVING & set(known))):
        # One run of an index for each status; SQLite merges them.
        runs = [
            f"""SELECT * FROM (SELECT {_named("t")} FROM {source} AND {where}
            ORDER BY t.task_id DESC LIMIT ?)"""
            for status in known
            for source in _sources(status)
        ]
        query = " UNION ALL ".join(runs) + " ORDER BY task_id DESC LIMIT ?"
        given = [value for _ in runs for value in (*values, limit)]
        return [_to_summary(columns) for columns in db.execute(query, (*given, limit))]
    if known:
        # Not by an index of theirs: many have it, so going back in time soon finds a page of them.
        where += f" AND +t.status IN ({', '.join('?' * len(known))})"
        values += known
    source = "tasks AS t"
    order = "t.task_id"
    if labels:
        key, value = next(iter(labels.items()))
        source = "task_labels AS first CROSS JOIN tasks AS t ON t.task_id = first.task_id"
        where = f"first.key = ? AND first.value = ? AND {where}"
        values = [key, value, *values]
        order = "first.task_id"
        if before is not None:
            where += " AND first.task_id < ?"
            values.append(before)
    elif submitted_by is not None:
        source += " INDEXED BY tasks_by_submitter"
    query = f"""SELECT {_named("t")} FROM {source} WHERE {where}
        ORDER BY {order} DESC LIMIT ?"""
    return [_to_summary(columns) for columns in db.execute(query, (*values, limit))]


_MOVING: Final = frozenset({Status.PENDING, Status.RUNNING})
_READY = "status IN ('pending', 'running') AND owner = ''"
_SETTLED = "status NOT IN ('pending', 'running')"
"""Conditions of indexes, to the letter: SQLite recognises them by that."""


def _sources(status: str) -> list[str]:
    """Where the tasks of one status are found: tables with an index and a condition."""
    places = [("tasks_by_status", _SETTLED)]
    if status in _MOVING:
        places = [("tasks_ready", _READY), ("tasks_owned", "owner <> ''")]
    return [
        f"tasks AS t INDEXED BY {index} WHERE {condition} AND status = '{Status(status)}'"
        for index, condition in places
    ]


def _are_few(db: apsw.Connection, statuses: Sequence[str]) -> bool:
    runs = [f"SELECT 1 FROM {source}" for status in statuses for source in _sources(status)]
    query = f"SELECT count(*) FROM ({' UNION ALL '.join(runs)} LIMIT ?)"
    return int(db.execute(query, (_FEW,)).get) < _FEW


def ended(
    db: apsw.Connection, before_us: int, after: TaskSummary | None, limit: int
) -> list[TaskSummary]:
    """Ended tasks, those that ended first before the others."""
    at_us, task_id = (0, "") if after is None else (after.updated_at_us, after.task_id)
    found = db.execute(
        f"""SELECT {_named("t")} FROM tasks AS t INDEXED BY tasks_ended
        WHERE status IN ('succeeded', 'unverified', 'failed', 'cancelled')
            AND (updated_at_us, task_id) > (?, ?) AND updated_at_us < ?
        ORDER BY updated_at_us, task_id LIMIT ?""",
        (at_us, task_id, before_us, limit),
    )
    return [_to_summary(columns) for columns in found]


def counts(db: apsw.Connection) -> dict[str, int]:
    """Tasks by status."""
    found = Counter[str]()
    for index, condition in (
        ("tasks_by_status", _SETTLED),
        ("tasks_ready", _READY),
        ("tasks_owned", "owner <> '' AND status IN ('pending', 'running')"),
    ):
        query = f"""SELECT status, count(*) FROM tasks INDEXED BY {index}
            WHERE {condition} GROUP BY status"""
        found.update({str(status): cast(int, number) for status, number in db.execute(query)})
    return dict(found)


def waiting(db: apsw.Connection, task_ids: Sequence[TaskId]) -> dict[TaskId, int]:
    """Those of them that wait, and since when."""
    found = db.execute(
        """SELECT json_group_object(task_id, updated_at_us) FROM tasks
        WHERE task_id IN (SELECT value FROM json_each(?)) AND status = 'waiting'""",
        (_json(task_ids),),
    ).get
    return msgspec.json.decode(found, type=dict[TaskId, int])


def spent(db: apsw.Connection, submitted_by: str, day: int) -> Spent:
    """What one submitter has used up on `day` (days since 1970, UTC)."""
    row = db.execute(
        "SELECT tasks, tokens, microusd FROM spending WHERE submitted_by = ? AND day = ?",
        (submitted_by, day),
    ).fetchone()
    forgotten, tokens, microusd = row or (0, 0, 0)
    here = db.execute(
        """SELECT count(*) FROM tasks INDEXED BY tasks_by_submitter
        WHERE submitted_by = ? AND task_id >= ? AND task_id < ?""",
        (submitted_by, first_id_of_day(day), first_id_of_day(day + 1)),
    ).get
    return Spent(tasks=forgotten + here, tokens=max(tokens, 0), microusd=max(microusd, 0))


def _named(table: str) -> str:
    return ", ".join(f"{table}.{column}" for column in _COLUMNS)


_SUMMARY: Final = f"SELECT {_named('t')} FROM tasks AS t WHERE task_id = ?"


def _to_summary(columns: Sequence[Any]) -> TaskSummary:
    values = dict(zip(_COLUMNS, columns, strict=True))
    values["labels"] = msgspec.json.decode(values["labels"])
    return TaskSummary(**values)


# ---- what may be driven ------------------------------------------------------------------

_BEGUN = """
SELECT json_group_array(
    json_array(task_id, submitted_by, priority, updated_at_us, json('true')))
FROM (
    SELECT * FROM tasks INDEXED BY tasks_owned
    WHERE owner <> '' AND owner IN (SELECT value FROM json_each(?1))
        AND (status IN ('pending', 'running')
            OR status = 'waiting' AND wake_at_us BETWEEN 1 AND ?2)
        AND task_id NOT IN (SELECT value FROM json_each(?3))
    UNION ALL
    SELECT * FROM (
        SELECT * FROM tasks INDEXED BY tasks_due
        WHERE status = 'waiting' AND owner = '' AND wake_at_us > 0 AND wake_at_us <= ?2
            AND task_id NOT IN (SELECT value FROM json_each(?3))
        ORDER BY wake_at_us LIMIT ?4)
    LIMIT ?4
)
"""
"""What a dead process was driving, and whose time has come."""

_QUEUED = f"""
WITH RECURSIVE queue (priority, submitted_by, number) AS (
    SELECT * FROM (
        SELECT priority, submitted_by, 1 FROM tasks INDEXED BY tasks_ready
        WHERE {_READY} ORDER BY priority DESC, submitted_by DESC LIMIT 1)
    UNION ALL
    SELECT next.priority, next.submitted_by, queue.number + 1
    FROM queue CROSS JOIN tasks AS next ON next.rowid = (
        SELECT rowid FROM tasks INDEXED BY tasks_ready
        WHERE {_READY} AND (priority, submitted_by) < (queue.priority, queue.submitted_by)
        ORDER BY priority DESC, submitted_by DESC LIMIT 1)
    WHERE queue.number < ?3
)
SELECT json_group_array(
    json_array(t.task_id, t.submitted_by, t.priority, t.updated_at_us, json('false')))
FROM queue CROSS JOIN tasks AS t ON t.rowid IN (
    SELECT rowid FROM tasks INDEXED BY tasks_ready
    WHERE {_READY} AND priority = queue.priority AND submitted_by = queue.submitted_by
        AND task_id NOT IN (SELECT value FROM json_each(?1))
    ORDER BY task_id LIMIT ?2)
"""
"""A skip scan: from one queue to the next by one look into the index, however long they are."""

QUEUES_MAX = 1000
"""Queues that are looked at in one go: some 5 ms."""


def ready(
    db: apsw.Connection,
    owners: Owners,
    *,
    now_us: int,
    of_each: int,
    limit: int,
    without: Sequence[TaskId],
) -> list[Ready]:
    """See `ports.Store.ready`."""
    named = db.execute("SELECT DISTINCT owner FROM tasks INDEXED BY tasks_owned WHERE owner <> ''")
    dead = [owner for (owner,) in named.fetchall() if not owners.is_alive(str(owner))]
    left_out = _json(without)
    begun = db.execute(_BEGUN, (_json(dead), now_us, left_out, limit)).get
    queued = db.execute(_QUEUED, (left_out, of_each, QUEUES_MAX)).get
    first, then = (msgspec.json.decode(text, type=list[Ready]) for text in (begun, queued))
    return sorted(first, key=lambda task: task.task_id) + sorted(
        then, key=lambda task: (-task.priority, task.task_id)
    )


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
