"""A reader of a stream, through deaths of the daemon and of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from agent_runtime.client import AsyncClient, Client
from agent_runtime.errors import AgentRuntimeError
from tests.api.daemons import DaemonProcess, serving
from tests.client.daemon import IDLE, client_of, place_of

SECONDS_MAX = 60.0
READER = """
import os, sys
from agent_runtime.client import connect
state_dir, task_id, path = sys.argv[1:]
seen = open(path, "a+b", buffering=0)
seen.seek(0)
after = max(map(int, seen.read().split()), default=0)
for event in connect(state_dir=state_dir).events(task_id, after=after):
    os.write(seen.fileno(), b"%d\\n" % event.seq)
"""


class Reader:
    """A process that writes down the number of each event that it was handed."""

    def __init__(self, daemon: DaemonProcess, task_id: str, path: Path) -> None:
        self._words = [sys.executable, "-c", READER, str(daemon.directory), task_id, str(path)]
        self._path = path
        path.touch()
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._words)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def seen(self) -> list[int]:
        return [int(line) for line in self._path.read_text().split()]

    def wait_for(self, number: int) -> None:
        deadline = time.monotonic() + SECONDS_MAX
        while max(self.seen, default=0) < number:
            assert time.monotonic() < deadline, self.seen[-3:]
            assert self.process.poll() is None
            time.sleep(0.02)


def steer(client: Client, task_id: str) -> int:
    """Something happens to the task; the number of its newest event."""
    with suppress(AgentRuntimeError):
        client.steer(task_id, "Think of something else.")
    return client.get(task_id).seq


def follow_through(daemon: DaemonProcess, deaths: list[str], path: Path) -> None:
    """A reader sees every number once, in order, whoever of the two dies meanwhile."""
    with client_of(daemon) as client:
        task = client.submit(IDLE, wait_seconds=30)
    reader = Reader(daemon, task.id, path)
    newest = task.seq
    for death in deaths:
        reader.wait_for(newest)
        if death == "server":
            daemon.kill()
            daemon.port = 0  # the next one is at another address
            daemon.start()
        else:
            reader.kill()
        with client_of(daemon) as client:
            for _ in range(5):
                newest = steer(client, task.id)
        if death == "reader":
            reader.start()
    with client_of(daemon) as client:
        client.cancel(task.id)
        done = client.wait(task.id)
    assert reader.process.wait(SECONDS_MAX) == 0, "a reader ends with its task"
    assert reader.seen == list(range(1, done.seq + 1))


@pytest.mark.long
def test_no_event_is_lost_or_comes_twice_whoever_is_killed(tmp_path: Path) -> None:
    """Contract: contiguous numbers, no repeats through three SIGKILLs of the server and two of the
    reader."""
    deaths = ["server", "reader", "server", "reader", "server"]
    with serving(tmp_path / "state") as daemon:
        follow_through(daemon, deaths, tmp_path / "seen")


@pytest.mark.long
def test_an_event_loop_s_stream_and_a_submission_outlive_the_daemon(tmp_path: Path) -> None:
    """What was asked while there was no daemon is done by the next one, once."""

    async def main(daemon: DaemonProcess) -> None:
        async with AsyncClient(place_of(daemon)) as client:
            task = await client.submit(IDLE, wait_seconds=30)
            seen: list[int] = []

            async def follow() -> None:
                seen.extend([event.seq async for event in client.events(task.id)])

            async def submit() -> None:
                await client.submit({**IDLE, "labels": {"while": "down"}})

            async with anyio.create_task_group() as tg:
                tg.start_soon(follow)
                await anyio.to_thread.run_sync(daemon.kill)
                tg.start_soon(submit)
                await anyio.to_thread.run_sync(daemon.start)
                await client.cancel(task.id)
                done = await client.wait(task.id, seconds=SECONDS_MAX)
            assert seen == list(range(1, done.seq + 1))
            down = [t.id async for t in client.tasks(labels={"while": "down"})]
            assert len(down) == 1

    with serving(tmp_path / "state") as daemon:
        anyio.run(main, daemon)
