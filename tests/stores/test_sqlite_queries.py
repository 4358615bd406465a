"""What lists, counts and looks for work do stays small in a large store: an index answers each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from agent_runtime.stores import sqlite_queries as queries
from agent_runtime.stores.owners import Owners
from agent_runtime.stores.sqlite_database import open_writer, prepare
from agent_runtime.types import TaskId

LISTS: list[dict[str, Any]] = [
    {},
    {"before": TaskId("task_5")},
    {"statuses": ["waiting"]},
    {"statuses": ["waiting", "failed"], "before": TaskId("task_5")},
    {"statuses": ["running"]},
    {"labels": {"a": "b"}, "before": TaskId("task_5")},
    {"labels": {"a": "b", "c": "d"}, "statuses": ["failed"]},
    {"submitted_by": "me", "before": TaskId("task_5")},
    {"submitted_by": "me", "statuses": ["failed"], "labels": {"a": "b"}},
]
NONE: dict[str, Any] = {
    "statuses": (), "labels": {}, "submitted_by": None, "before": None, "limit": 50
}  # fmt: skip


@pytest.fixture
def db(tmp_path: Path) -> apsw.Connection:
    prepare(tmp_path / "store.db")
    return open_writer(tmp_path / "store.db", busy_seconds=1)


def plans(db: apsw.Connection, ask: Callable[[], object]) -> list[str]:
    """How SQLite goes about every statement of `ask`."""
    asked: list[tuple[str, Any]] = []

    def note(_: object, sql: str, values: Any) -> bool:
        asked.append((sql, values))
        return True

    db.exec_trace = note
    try:
        ask()
    finally:
        db.exec_trace = None
    assert asked
    rows = [row for sql, values in asked for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
    return [str(row[3]) for row in rows]


def large(plan: list[str]) -> list[str]:
    """What goes through whole tables, or sorts more than it was asked for."""
    looks = [line for line in plan if line.startswith("SCAN ") and "json_each" not in line]
    return [line for line in looks if "USING" not in line and "CONSTANT" not in line]


@pytest.mark.parametrize("wish", LISTS, ids=str)
def test_a_list_reads_no_more_than_a_page_in_order(
    db: apsw.Connection, wish: dict[str, Any]
) -> None:
    plan = plans(db, lambda: queries.listed(db, **{**NONE, **wish}))
    few = wish.get("statuses") == ["running"]  # two indexes have them, at most 2,000 are sorted
    if len(wish.get("statuses", ())) < 2 and not few:  # of several, a page of each is merged
        assert not [line for line in plan if "TEMP B-TREE" in line], "it reads everything first"
    tables = [line for line in large(plan) if "(subquery" not in line and "SCAN t" in line]
    assert tables == []


def test_looking_for_work_jumps_from_queue_to_queue(db: apsw.Connection, tmp_path: Path) -> None:
    owners = Owners(tmp_path / "owners")
    plan = plans(
        db, lambda: queries.ready(db, owners, now_us=1, of_each=1, limit=1, without=[])
    )  # fmt: skip
    owners.close()
    assert not [line for line in plan if line in ("SCAN tasks", "SCAN t", "SCAN next")]
    assert any("tasks_ready (priority=? AND submitted_by=?)" in line for line in plan)
    assert any("tasks_due (wake_at_us>? AND wake_at_us<?)" in line for line in plan), plan


def test_counts_dues_ends_and_spendings_are_read_from_indexes(db: apsw.Connection) -> None:
    plan = plans(
        db,
        lambda: (
            queries.counts(db),
            queries.ended(db, 1, None, 10),
            queries.spent(db, "me", 20_000),
            queries.waiting(db, [TaskId("task_1")]),
        ),
    )
    assert "SCAN tasks USING COVERING INDEX tasks_by_status" in plan
    assert any("USING COVERING INDEX tasks_ready" in line for line in plan)
    assert not [line for line in plan if "ORDER BY" in line or line == "SCAN tasks"]
