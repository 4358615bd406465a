"""The audit record: what shows that it was changed, and who may not fill or stop it."""

from __future__ import annotations

from pathlib import Path

import anyio
import apsw
import pytest

from agent_runtime.access import auditor as limits
from agent_runtime.access.audit import Entry
from agent_runtime.access.auditor import Auditor
from agent_runtime.access.callers import Caller
from agent_runtime.errors import StoreUnavailable
from agent_runtime.stores.memory_access import MemoryAccess
from agent_runtime.stores.sqlite import SqliteStore
from agent_runtime.stores.sqlite_access import SqliteAccess

pytestmark = pytest.mark.anyio

CI = Caller("ci", frozenset(), "key", "k1")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("SELECT 1", None),
        ("UPDATE audit SET data = replace(data, 'task.submit', 'task.cancel') WHERE seq = 2", 2),
        ("UPDATE audit SET hash = prev_hash WHERE seq = 3", 3),
        ("DELETE FROM audit WHERE seq = 2", 3),
        ("DELETE FROM audit WHERE seq = 4", 4),
        ("DELETE FROM audit", 1),
        ("DELETE FROM audit WHERE seq = 1", 2),  # nothing in the record says so
    ],
)
async def test_a_record_that_was_changed_says_where(
    tmp_path: Path, change: str, fault: int | None
) -> None:
    path = tmp_path / "store.db"
    store = await SqliteStore.open(path)
    access = SqliteAccess(store)
    await access.record([Entry(at_us=n, by="key:ci", action="task.submit") for n in range(4)])
    db = apsw.Connection(str(path))
    # As bytes, like the record itself.
    db.execute(
        change.replace("replace(data,", "CAST(replace(CAST(data AS TEXT),").replace(
            "'task.cancel')", "'task.cancel') AS BLOB)"
        )
    )
    db.close()
    assert await access.audit_fault() == fault
    await store.close()


async def test_what_is_done_alike_within_a_second_is_one_entry() -> None:
    store = MemoryAccess()
    auditor = Auditor(store, now_us=lambda: 7)
    for number in range(250):
        auditor.note(CI, "task.submit", f"task_{number}", peer="::1")
    auditor.note(CI, "task.submit", "task_x", peer="192.0.2.1")
    await auditor.flush()
    entries = [record.entry for record in reversed(await store.audit())]
    assert [entry.count for entry in entries] == [100, 100, 50, 1]
    named = [target for entry in entries for target in (*entry.targets, entry.target) if target]
    assert named == [*(f"task_{number}" for number in range(250)), "task_x"]
    assert {(entry.by, entry.key_id, entry.at_us) for entry in entries} == {("key:ci", "k1", 7)}


async def test_what_could_not_be_written_is_written_later_or_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A disk that is full for an hour costs neither the daemon's memory nor its honesty."""
    monkeypatch.setattr(limits, "PENDING_MAX", 50)

    class Full(MemoryAccess):
        is_full = True

        async def record(self, entries: object) -> None:
            if self.is_full:
                raise StoreUnavailable("full")
            await super().record(entries)  # type: ignore[arg-type]

    store = Full()
    auditor = Auditor(store, now_us=lambda: 7)
    async with anyio.create_task_group() as tg:
        tg.start_soon(auditor.run)
        for number in range(80):
            auditor.note(CI, f"task.{number}", "t")
        await anyio.sleep(10)
        assert await store.audit() == []
        store.is_full = False
        await anyio.sleep(10)
        tg.cancel_scope.cancel()
    entries = [record.entry for record in await store.audit(limit=1000)]
    assert sum(entry.count for entry in entries) == 80
    assert [entry.count for entry in entries if entry.action == "audit.lose"] == [30]


async def test_what_was_noted_is_written_when_it_ends() -> None:
    store = MemoryAccess()
    auditor = Auditor(store, now_us=lambda: 7)
    async with anyio.create_task_group() as tg:
        tg.start_soon(auditor.run)
        await anyio.lowlevel.checkpoint()
        auditor.note(CI, "task.submit", "t")
        auditor.refused("unknown", peer="::1")
        auditor.refused("unknown", peer="::1")
        tg.cancel_scope.cancel()
    entries = [record.entry for record in reversed(await store.audit())]
    assert [(entry.action, entry.count) for entry in entries] == [
        ("auth.refuse", 1),
        ("auth.refuse", 1),
        ("task.submit", 1),
    ]
