"""Ended tasks go by age and by size; what is kept still verifies, and room comes back."""

import logging
import os
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import anyio
import msgspec
import pytest

from agent_runtime import retention
from agent_runtime.access.audit import Entry
from agent_runtime.errors import StoreUnavailable
from agent_runtime.loop.submission import submit
from agent_runtime.loop.supervisor import Supervisor
from agent_runtime.result_files import PATCH
from agent_runtime.retention import Policy
from agent_runtime.runtime import Runtime
from agent_runtime.stores.sqlite import SqliteStore
from agent_runtime.stores.sqlite_access import SqliteAccess
from agent_runtime.types import TaskId, WorkspaceSpec
from agent_runtime.workspaces.uploads import LocalUploads, make_bundle
from bench.ours.world import playbook, ports
from tests.cli.conftest import make_repository

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def heard(agent: str, number: int) -> None:
    return None


@pytest.fixture
async def runtime(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Runtime]:
    store = await SqliteStore.open(tmp_path / "store.db")
    yield Runtime(ports(store, heard), state_dir=str(tmp_path))
    await store.close()


async def finished(runtime: Runtime, count: int) -> list[str]:
    """Drive so many tasks to their end; their ids, those that ended first before the others."""
    for _ in range(count):
        await submit(playbook(2), runtime.ports.store, runtime.ports.clock, submitted_by="me")
    await Supervisor(runtime.ports).run_all()
    found = await runtime.ports.store.ended(1 << 62, limit=count)
    assert len(found) == count
    return [task.task_id for task in found]


async def kept(runtime: Runtime) -> set[str]:
    return {task.task_id for task in await runtime.tasks(limit=100_000)}


async def test_by_age_what_ended_long_ago_goes_and_nothing_else(runtime: Runtime) -> None:
    await finished(runtime, 3)
    waiting = await submit(
        msgspec.structs.replace(playbook(1), plan=None, model=None),
        runtime.ports.store, runtime.ports.clock, submitted_by="me",
    )  # fmt: skip
    later = runtime.retention(Policy(days=1), pause_seconds=0)
    assert (await later.sweep()).forgotten == []
    now = runtime.retention(Policy(days=0), pause_seconds=0)
    assert len((await now.sweep(dry_run=True)).forgotten) == 3
    assert len(await kept(runtime)) == 4
    assert len((await now.sweep()).forgotten) == 3
    assert await kept(runtime) == {waiting}


async def forgets_by_size(runtime: Runtime, directory: Path, count: int) -> tuple[float, float]:
    """Half of `count` tasks go, the older half; returns seconds and the longest pause of a loop."""
    store = runtime.ports.store
    ended = await finished(runtime, count)
    for task_id in ended[: count // 10]:
        place = directory / "results" / task_id
        place.mkdir(parents=True)
        (place / PATCH).write_bytes(bytes(8192))
    files = sum(entry.stat().st_blocks * 512 for entry in (directory / "results").rglob("*"))
    before_bytes = await store.kept_bytes() + files
    policy = Policy(days=1, bytes_max=before_bytes // 2)
    planned = await runtime.retention(policy, pause_seconds=0).sweep(dry_run=True)
    longest, begun = 0.0, time.monotonic()

    async def watch() -> None:
        nonlocal longest
        while True:
            at = time.monotonic()
            await anyio.sleep(0.001)
            longest = max(longest, time.monotonic() - at - 0.001)

    async with anyio.create_task_group() as tg:
        tg.start_soon(watch)
        swept = await runtime.retention(policy, pause_seconds=0).sweep()
        seconds = time.monotonic() - begun
        tg.cancel_scope.cancel()
    gone = [task.task_id for task in swept.forgotten]
    assert swept.problems == []
    assert gone == ended[: len(gone)], "the oldest"
    assert count * 0.3 < len(gone) < count * 0.7
    assert abs(len(planned.forgotten) - len(gone)) < count * 0.2, "a dry run tells about as many"
    assert await store.kept_bytes() <= policy.bytes_max if policy.bytes_max else False
    assert await kept(runtime) == set(ended[len(gone) :])
    for task_id in ended[len(gone) :]:
        report = await runtime.verify(TaskId(task_id))
        assert report.ok, report.fault
    assert swept.given_back_bytes > before_bytes // 4
    return seconds, longest


async def test_by_size_the_oldest_go_and_the_file_shrinks(runtime: Runtime, tmp_path: Path) -> None:
    await forgets_by_size(runtime, tmp_path, 120)
    await runtime.ports.store.close()
    assert not os.path.exists(tmp_path / "store.db-wal"), "closed: the file is all there is"
    free = (tmp_path / "store.db").stat().st_size
    again = await SqliteStore.open(tmp_path / "store.db")
    assert free - await again.kept_bytes() < 64 << 10
    await again.close()


async def test_one_that_cannot_be_forgotten_keeps_no_other(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = await finished(runtime, 3)
    forget = runtime.forget

    async def stuck(task_id: TaskId) -> None:
        if task_id == ended[0]:
            raise OSError("busy")
        await forget(task_id)

    monkeypatch.setattr(runtime, "forget", stuck)
    swept = await runtime.retention(Policy(days=0), pause_seconds=0).sweep()
    assert swept.problems == [f"{ended[0]}: busy"]
    assert await kept(runtime) == {ended[0]}


async def test_what_a_sweep_has_forgotten_is_told_although_its_rest_failed(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Found in review: the daemon's log named only what went wrong."""
    await finished(runtime, 2)
    old = runtime.retention(Policy(days=0), pause_seconds=0)

    async def broken(bytes_max: int) -> int:
        raise StoreUnavailable("the disk is full")

    monkeypatch.setattr(runtime.ports.store, "give_back", broken)
    monkeypatch.setattr(retention, "SWEEP_SECONDS", 0.0)
    caplog.set_level(logging.INFO)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(old.run)
        with anyio.fail_after(30):
            while "forgot 2 ended tasks" not in caplog.text:
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    assert "ended early: the disk is full" in caplog.text


async def test_sent_repositories_go_with_the_last_task_that_works_on_them(
    runtime: Runtime, tmp_path: Path
) -> None:
    """A daemon does it by itself: nobody else looks after its disk. Nothing just sent goes."""
    uploads = LocalUploads(str(tmp_path))
    make_bundle(str(make_repository(tmp_path / "repo")), str(tmp_path / "bundle"))

    async def read() -> AsyncIterator[bytes]:
        yield (tmp_path / "bundle").read_bytes()

    name = await uploads.receive(read())
    swept = runtime.ports.clock.now_us()
    runtime.ports = replace(runtime.ports, uploads=uploads)
    spec = msgspec.structs.replace(playbook(1), workspace=WorkspaceSpec(repo=name))
    await submit(spec, runtime.ports.store, runtime.ports.clock, submitted_by="me")
    old = (swept / 1e6 - 7200,) * 2
    os.utime(tmp_path / "uploads" / name.removeprefix("upload:") / "received", old)
    retention = runtime.retention(Policy(days=0, upload_hours=1), pause_seconds=0)
    assert (await retention.sweep()).uploads == [], "a task works on it"
    await Supervisor(runtime.ports).run_all()
    found = await retention.sweep()
    assert len(found.forgotten) == 1 and found.uploads == [name] and found.problems == []
    assert os.listdir(tmp_path / "uploads") == [".git-home"]
    await uploads.receive(read())
    assert (await retention.sweep()).uploads == [], "just sent"


async def test_what_publishing_keeps_counts_however_deep_it_is(
    runtime: Runtime, tmp_path: Path
) -> None:
    """Every file of an ended task is in the sum of `retention_bytes`."""
    ended = await finished(runtime, 2)
    place = tmp_path / "publishing" / ended[0]
    place.mkdir(parents=True)
    (place / "pack").write_bytes(bytes(4 << 20))
    deep = tmp_path / "results" / ended[0]
    deep.mkdir(parents=True)
    levels = [f"{deep}{'/d' * depth}" for depth in range(1, 1100)]
    for level in levels:
        os.mkdir(level)
    policy = Policy(days=1, bytes_max=await runtime.ports.store.kept_bytes() + (2 << 20))
    swept = await runtime.retention(policy, pause_seconds=0).sweep(dry_run=True)
    assert ended[0] in [task.task_id for task in swept.forgotten]
    for level in reversed(levels):
        os.rmdir(level)


async def test_old_entries_of_the_audit_record_go_and_the_record_says_so(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BITE_ENTRIES", 40)
    store = runtime.ports.store
    assert isinstance(store, SqliteStore)
    access, now_us = SqliteAccess(store), runtime.ports.clock.now_us()
    ages = [9.5] * 100 + [4.5] * 7  # of seven days, as whole days are counted
    entries = [
        Entry(at_us=now_us - int(days * 86_400_000_000), by="key:ci", action="task.submit")
        for days in ages
    ]
    await access.record(entries)
    week = runtime.retention(Policy(days=1, audit_days=7), audit=access, pause_seconds=0)
    assert (await week.sweep(dry_run=True)).audit_entries == 100
    assert len(await access.audit(limit=1000)) == 107, "a dry run touches nothing"
    assert (await week.sweep()).audit_entries == 100
    told, *left = await access.audit(limit=1000)
    assert [record.seq for record in left] == list(range(107, 100, -1))
    assert (told.entry.action, told.entry.target, told.entry.count) == ("audit.forget", "100", 100)
    assert await access.audit_fault() is None
    assert (await week.sweep()).audit_entries == 0
    assert len(await access.audit(limit=1000)) == 8, "and nothing is said where nothing goes"


@pytest.mark.long
async def test_of_ten_thousand_tasks_what_is_kept_verifies_and_room_comes_back(
    runtime: Runtime, tmp_path: Path
) -> None:
    """By size; every one that is kept still verifies, and nobody waits long."""
    seconds, longest = await forgets_by_size(runtime, tmp_path, 10_000)
    print(f"5,000 tasks forgotten in {seconds:.1f} s; longest pause {longest * 1000:.0f} ms")
