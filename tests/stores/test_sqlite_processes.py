"""Several processes on one file, and processes that are killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from agent_runtime.errors import LeaseHeld
from agent_runtime.stores.sqlite import SqliteStore
from tests.contracts.logs import TASK, create

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "store.db"


class Processes:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.all: list[subprocess.Popen[str]] = []

    def start(self, *words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.stores.sqlite_process", str(self._path), *words],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self.all.append(process)
        return process


@pytest.fixture
def processes(path: Path) -> Iterator[Processes]:
    processes = Processes(path)
    yield processes
    for process in processes.all:
        process.kill()
        process.communicate()


def lines_until_end(process: subprocess.Popen[str]) -> list[str]:
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return output.split()


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


async def test_a_lease_outlives_no_kill_9_and_dies_of_nothing_less(
    path: Path, processes: Processes
) -> None:
    """DESIGN section 5: no time-to-live; a stopped process keeps its lease, a dead one never."""
    store = await SqliteStore.open(path)
    await create(store, TASK)
    owner = processes.start("claim", TASK)
    assert [read_line(owner), read_line(owner)] == ["open", "1"]
    assert await store.owner(TASK) == f"pid {owner.pid} on {os.uname().nodename}"
    owner.send_signal(signal.SIGSTOP)
    with pytest.raises(LeaseHeld, match=f"pid {owner.pid}"):
        await store.claim(TASK)
    assert await store.ready(now_us=0) == []
    owner.kill()
    owner.wait()
    assert await store.owner(TASK) is None
    assert [task.task_id for task in await store.ready(now_us=0)] == [TASK]
    assert (await store.claim(TASK)).epoch == 2
    assert len(os.listdir(path.parent / "owners")) == 1
    await store.close()


async def test_processes_append_to_one_log_without_a_hole_or_an_error(
    path: Path, processes: Processes
) -> None:
    store = await SqliteStore.open(path)
    await create(store, TASK)
    writers = [processes.start("append", TASK, "40", text) for text in "abc"]
    numbers = [
        int(line) for writer in writers for line in (lines_until_end(writer)) if line != "open"
    ]
    assert sorted(numbers) == list(range(2, 122))
    assert [row.seq for row in await store.load(TASK)] == list(range(1, 122))
    await store.close()


async def test_what_was_answered_before_kill_9_is_there(path: Path, processes: Processes) -> None:
    store = await SqliteStore.open(path)
    await create(store, TASK)
    await store.close()
    writer = processes.start("append", TASK, "1000000", "x")
    assert read_line(writer) == "open"
    for _ in range(50):
        answered = int(read_line(writer))
    writer.kill()
    writer.wait()
    store = await SqliteStore.open(path)
    numbers = [row.seq for row in await store.load(TASK)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= answered
    await store.close()


async def test_processes_that_make_the_store_at_once_share_it(
    path: Path, processes: Processes
) -> None:
    started = [processes.start("create", f"task_{number}") for number in range(4)]
    for process in started:
        assert lines_until_end(process) == ["open"]
    store = await SqliteStore.open(path)
    assert len(await store.tasks()) == 4
    await store.close()


async def test_another_processs_write_wakes_a_waiter(path: Path, processes: Processes) -> None:
    store = await SqliteStore.open(path)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tg:
            tg.start_soon(store.wait_changed, 3600)
            await anyio.wait_all_tasks_blocked()
            processes.start("create", TASK)
    assert await store.heads([TASK]) == {TASK: 1}
    await store.close()
