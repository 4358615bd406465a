"""What the store on disk promises beyond the port: its file, its locks, its errors."""

import errno
import fcntl
import os
import stat
from collections.abc import AsyncIterator, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import anyio
import apsw
import msgspec
import pytest

from agent_runtime.errors import (
    ConfigError,
    CorruptLog,
    NotFound,
    StoreBroken,
    StoreUnavailable,
)
from agent_runtime.stores.limits import digest
from agent_runtime.stores.sqlite import SqliteStore
from agent_runtime.stores.sqlite_database import APPLICATION_ID, prepare
from agent_runtime.stores.sqlite_log import run_all
from agent_runtime.stores.sqlite_writer import LOOK_UP_BATCHES, AnyWrite
from agent_runtime.types import Seq, TaskId
from tests.contracts.logs import OTHER, TASK, append, create, log, summary_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "store.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(path, busy_seconds=0.2)
    with anyio.fail_after(30):
        yield store
    await store.close()


# ---- the file ----------------------------------------------------------------------------


async def test_only_its_user_may_read_a_new_store(store: SqliteStore, path: Path) -> None:
    await create(store, TASK)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    for file in path.parent.glob("store.db*"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_every_commit_is_synced_to_the_disk(store: SqliteStore) -> None:
    """Our contract: durable when it returns, also after a power cut. FULL is 2."""
    assert store._writer._db.pragma("synchronous") == 2
    assert store._writer._db.pragma("journal_mode") == "wal"


async def test_a_closed_store_leaves_one_file_and_no_owner(store: SqliteStore, path: Path) -> None:
    await create(store, TASK)
    await store.close()
    assert sorted(os.listdir(path.parent)) == ["owners", "store.db"]
    assert os.listdir(path.parent / "owners") == []
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.load(TASK)
    with pytest.raises(StoreUnavailable, match="closed"):
        await append(store, 1)
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.wait_changed(1)


async def test_a_store_from_a_newer_version_is_refused_and_left_alone(
    store: SqliteStore, path: Path
) -> None:
    await store.close()
    with apsw.Connection(str(path)) as db:
        db.pragma("user_version", 999)
    db.close()
    before = path.read_bytes()
    with pytest.raises(StoreBroken, match=r"store\.db.* version 999.* knows \d+: .*--store"):
        await SqliteStore.open(path)
    assert path.read_bytes() == before


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"my notes " * 1000)
    with pytest.raises(StoreBroken, match=r"notes\.txt.* no SQLite database"):
        await SqliteStore.open(path)
    assert path.read_bytes() == b"my notes " * 1000
    assert os.listdir(tmp_path / "owners") == []


async def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "places.sqlite"
    db = apsw.Connection(str(path))
    db.execute("CREATE TABLE places (url)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StoreBroken, match="another program"):
        await SqliteStore.open(path)
    assert path.read_bytes() == before


async def test_a_path_that_cannot_be_a_store_is_a_setting_to_change(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "directory").mkdir()
    for path in (tmp_path / "file" / "store.db", tmp_path / "directory"):
        with pytest.raises(ConfigError, match=f"{path}.*--store"):
            await SqliteStore.open(path)


async def test_two_names_of_one_file_are_one_store(store: SqliteStore, path: Path) -> None:
    """Else each name had its own owners, and a task two drivers."""
    link = path.parent.parent / "link.db"
    link.symlink_to(path)
    await create(store, TASK)
    await store.claim(TASK)
    other = await SqliteStore.open(link)
    assert await other.owner(TASK) is not None
    await other.close()


# ---- locks -------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
async def test_a_file_system_without_locks_is_refused(
    monkeypatch: pytest.MonkeyPatch, path: Path, code: int
) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(ConfigError, match="local file system"):
        await SqliteStore.open(path)
    assert os.listdir(path.parent / "owners") == []


async def test_locks_that_everybody_gets_are_refused(
    monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    """Some network file systems grant every lock."""
    monkeypatch.setattr(fcntl, "flock", lambda fd, operation: None)
    with pytest.raises(ConfigError, match="local file system"):
        await SqliteStore.open(path)


async def test_files_of_dead_owners_are_removed_and_those_of_the_living_stay(
    store: SqliteStore, path: Path
) -> None:
    owners = path.parent / "owners"
    (living,) = os.listdir(owners)
    (owners / "dead").write_text("{}")
    other = await SqliteStore.open(path)
    assert len(os.listdir(owners)) == 2
    await other.close()
    assert os.listdir(owners) == [living]


async def test_an_owner_is_named_by_pid_and_host(store: SqliteStore) -> None:
    await create(store, TASK)
    lease = await store.claim(TASK)
    assert lease.owner == await store.owner(TASK)
    assert lease.owner.startswith(f"pid {os.getpid()} on ")


async def test_a_locked_database_is_unavailable_and_does_not_stop_the_readers(
    store: SqliteStore, path: Path
) -> None:
    await create(store, TASK)
    holder = apsw.Connection(str(path))
    holder.execute("BEGIN IMMEDIATE")
    unavailable: list[StoreUnavailable] = []

    async def write(expected: int) -> None:
        with pytest.raises(StoreUnavailable, match="locked by another process") as caught:
            await append(store, expected)
        unavailable.append(caught.value)

    async with anyio.create_task_group() as tg:
        tg.start_soon(write, 1)
        tg.start_soon(write, 2)
        await anyio.wait_all_tasks_blocked()
        assert await store.load(TASK) == log(TASK, 1, 1)
        assert unavailable == []
    assert unavailable[0] is not unavailable[1]
    holder.execute("ROLLBACK")
    holder.close()
    assert await append(store, 1) == 2


async def test_a_reader_that_meets_a_lock_waits_in_a_thread(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may be recovering the log; the event loop must not wait for it."""

    class Locked:
        def execute(self, *_: object) -> None:
            raise apsw.BusyError("database is locked")

        pragma = execute

    await create(store, TASK)
    with monkeypatch.context() as patch:
        patch.setattr(store, "_near_db", Locked())
        assert await append(store, 1) == 2
        assert await store.load(TASK) == log(TASK, 1, 2)
        await store.wait_changed(3600)


# ---- a full disk, a damaged one ----------------------------------------------------------


async def test_on_a_full_disk_each_writer_is_told_and_later_writes_work_again(path: Path) -> None:
    store = await SqliteStore.open(path, file_bytes_max=400_000)
    for task_id in (TASK, OTHER):
        await create(store, task_id)
    await append(store, 1, task_id=OTHER, blobs=[b"\0" * 200_000])
    told: list[StoreUnavailable] = []

    async def write(task_id: TaskId, expected: int, *blobs: bytes) -> None:
        with pytest.raises(StoreUnavailable, match=r"no room.*try again") as caught:
            await append(store, expected, task_id=task_id, blobs=blobs)
        told.append(caught.value)

    async with anyio.create_task_group() as tg:
        tg.start_soon(write, TASK, 1, b"\1" * 200_000)
        tg.start_soon(write, OTHER, 2)
    assert told[0] is not told[1]
    assert await store.heads([TASK, OTHER]) == {TASK: 1, OTHER: 2}
    with pytest.raises(NotFound):
        await store.get_blob(digest(b"\1" * 200_000))
    await store.delete(OTHER)
    assert await append(store, 1, task_id=TASK, blobs=[b"\1" * 200_000]) == 2
    await store.close()


async def test_a_changed_byte_and_a_cut_tail_are_handed_out_as_they_lie_there(
    store: SqliteStore, path: Path
) -> None:
    """The codec finds them by the hashes; a store that hid them would hide damage."""
    await create(store, TASK)
    await append(store, 1)
    await append(store, 2)
    db = apsw.Connection(str(path))
    db.execute("UPDATE events SET data = CAST('{}' AS BLOB) WHERE seq = 2")
    db.execute("DELETE FROM events WHERE seq = 3")
    db.close()
    first, second = log(TASK, 1, 2)
    assert await store.load(TASK) == [first, msgspec.structs.replace(second, data=b"{}")]
    assert (await store.summary(TASK)).seq == 3


async def test_a_changed_blob_is_found(store: SqliteStore, path: Path) -> None:
    blob_id = await store.put_blob(b"text")
    db = apsw.Connection(str(path))
    db.execute("UPDATE blobs SET data = CAST('tex7' AS BLOB)")
    db.close()
    with pytest.raises(CorruptLog, match=blob_id):
        await store.get_blob(blob_id)


async def test_a_damaged_file_ends_the_process(store: SqliteStore, path: Path) -> None:
    await create(store, TASK)
    await store.close()
    with apsw.Connection(str(path)) as db:
        roots = db.execute("SELECT rootpage FROM sqlite_schema WHERE name IN ('tasks', 'events')")
        pages = [int(str(page)) for (page,) in roots]
    db.close()
    content = bytearray(path.read_bytes())
    for page in pages:
        content[4096 * (page - 1) : 4096 * page] = b"\x5a" * 4096
    path.write_bytes(content)
    damaged = await SqliteStore.open(path)
    with pytest.raises(StoreBroken, match="damaged"):
        await damaged.load(TASK)
    with pytest.raises(StoreBroken, match="damaged"):
        await append(damaged, 1)
    await damaged.close()


async def test_after_a_failed_write_to_the_disk_nothing_is_tried_again(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed fsync nobody knows what is on the disk, and the next one says all is well."""
    await create(store, TASK)

    class FailingOnce:
        def __init__(self, db: apsw.Connection) -> None:
            self._db = db
            self.commits = 0

        def execute(self, sql: str, *values: Any) -> object:
            if sql == "COMMIT":
                self.commits += 1
                raise apsw.IOError("disk I/O error")
            return self._db.execute(sql, *values)

        def __getattr__(self, name: str) -> object:
            return getattr(self._db, name)

    db = FailingOnce(store._writer._db)
    monkeypatch.setattr(store._writer, "_db", db)
    for _ in range(2):
        with pytest.raises(StoreBroken, match="look at the disk"):
            await append(store, 1)
    assert db.commits == 1
    assert await store.load(TASK) == log(TASK, 1, 1)


# ---- the writer --------------------------------------------------------------------------


async def test_a_row_that_the_file_cannot_take_fails_alone(store: SqliteStore) -> None:
    """STRICT refuses a wrong type only in the middle of the transaction."""
    await create(store, TASK)
    await create(store, OTHER)
    rows = [msgspec.structs.replace(log(TASK, 2, 2)[0], schema="one")]
    wrong: list[Exception] = []

    async def write_wrong() -> None:
        with pytest.raises(StoreBroken) as caught:
            await store.append(TASK, Seq(1), rows, epoch=None, summary=summary_of(rows))
        wrong.append(caught.value)

    async with anyio.create_task_group() as tg:
        tg.start_soon(partial(append, store, 1, task_id=OTHER))
        tg.start_soon(write_wrong)
        tg.start_soon(create, store, "task_c")
    assert len(wrong) == 1
    assert await store.heads([TASK, OTHER, TaskId("task_c")]) == {TASK: 1, OTHER: 2, "task_c": 1}


async def test_a_cancelled_writer_does_not_hold_up_the_others(store: SqliteStore) -> None:
    await create(store, TASK)
    for number in range(20):
        async with anyio.create_task_group() as tg:
            tg.start_soon(create, store, f"task_x{number}")
            await anyio.wait_all_tasks_blocked()
            tg.cancel_scope.cancel()
        assert await append(store, number + 1) == number + 2


async def test_many_writers_share_few_commits(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Group commit is what makes a durable log fast: a commit each would be a sync each."""
    delivered: list[int] = []
    deliver = store._writer._deliver

    def count(batch: Sequence[AnyWrite]) -> None:
        delivered.append(len(batch))
        deliver(batch)

    monkeypatch.setattr(store._writer, "_deliver", count)
    async with anyio.create_task_group() as tg:
        for number in range(200):
            tg.start_soon(create, store, f"task_{number}")
    assert sum(delivered) == 200
    assert len(delivered) < 50


async def test_repeated_writes_are_looked_up_at_once_after_the_first(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each that is believed first costs a transaction that is rolled back."""
    look_ups: list[bool] = []

    def note(*args: Any, look_up: bool) -> None:
        look_ups.append(look_up)
        run_all(*args, look_up=look_up)

    monkeypatch.setattr("agent_runtime.stores.sqlite_writer.run_all", note)
    for _ in range(4):
        await create(store, TASK)
    for number in range(LOOK_UP_BATCHES):
        await append(store, 1 + number)
    assert look_ups == [False, False, *[True] * LOOK_UP_BATCHES, False, False, False]


async def test_a_store_that_nobody_closed_can_be_opened_again(path: Path) -> None:
    first = await SqliteStore.open(path)
    await create(first, TASK)
    second = await SqliteStore.open(path)
    assert await second.load(TASK) == log(TASK, 1, 1)
    await second.close()
    await first.close()


async def test_a_store_of_the_first_version_is_brought_up_to_date(path: Path) -> None:
    """Who submitted a task stands in its first event; labels get an index of their own."""
    sql = resources.files("agent_runtime.stores") / "sql"
    prepare(path)
    with apsw.Connection(str(path)) as db:
        db.execute((sql / "001_log.sql").read_text())
        db.pragma("user_version", 1)
        db.pragma("application_id", APPLICATION_ID)
        for task_id, data in (("task_a", b'{"submitted_by":"me"}'), ("task_b", b"damaged")):
            db.execute(
                "INSERT INTO events VALUES (?, 1, 'TaskSubmitted', 1, 1, ?, '', '')",
                (task_id, data),
            )
            db.execute(
                """INSERT INTO tasks VALUES (?, 'pending', 'idle', '', '', 1, '', 1, 1,
                '{"team":"x"}', 5, '', NULL, 0, '')""",
                (task_id,),
            )
    db.close()
    store = await SqliteStore.open(path)
    assert [task.task_id for task in await store.tasks(submitted_by="me")] == ["task_a"]
    assert len(await store.tasks(labels={"team": "x"})) == 2
    assert {task.task_id for task in await store.ready(now_us=0)} == {"task_a", "task_b"}
    await store.close()
