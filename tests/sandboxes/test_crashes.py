"""Kill it anywhere: no process is left, and `reap` proves it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_runtime.errors import SandboxUnavailable, WorkerLost
from agent_runtime.sandboxes import kernel, launcher, records
from tests.sandboxes.support import (
    call,
    info,
    make_sandbox,
    make_spec,
    new_sandbox,
    processes_with,
    until,
)

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="local sandboxes need Linux"),
]

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["bubblewrap", "container", "unsafe"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    make_sandbox(request.param, tmp_path / "probe")
    return str(request.param)


class Daemon:
    """A daemon process and what it started."""

    def __init__(self, kind: str, tmp_path: Path, how: str) -> None:
        (tmp_path / "workspace").mkdir(exist_ok=True)
        self.name = f"crash-{os.getpid()}-{kind}-{how}"
        self.records = tmp_path / "state" / "sandboxes" / "task_1"
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.sandboxes.daemon_process", kind),
                *(str(tmp_path / "state"), str(tmp_path / "workspace"), self.name, how),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"busy\n"

    def alive(self) -> list[int]:
        """What runs in the sandbox (the daemon's own command line has the name, too)."""
        return [pid for pid in processes_with(self.name) if pid != self.process.pid]

    def recorded(self) -> list[tuple[int, int]]:
        found = []
        for path in self.records.glob("*.json"):
            found += [tuple(item) for item in json.loads(path.read_text())["processes"]]
        return found


@pytest.fixture
def daemons() -> Iterator[list[Daemon]]:
    started: list[Daemon] = []
    yield started
    for daemon in started:
        daemon.process.kill()
        daemon.process.wait()
        assert daemon.process.stdout is not None
        daemon.process.stdout.close()


@pytest.mark.parametrize("how", ["call", "execute"])
async def test_kill_9_of_the_daemon_leaves_nothing(
    kind: str, how: str, tmp_path: Path, daemons: list[Daemon]
) -> None:
    daemon = Daemon(kind, tmp_path, how)
    daemons.append(daemon)
    await until(lambda: daemon.alive() and len(daemon.recorded()) == 3)
    recorded = daemon.recorded()
    daemon.process.kill()
    await until(lambda: not daemon.alive())
    await until(lambda: not any(kernel.start_time(pid) == at for pid, at in recorded))
    await until(lambda: not daemon.records.exists())
    assert await records.reap(str(tmp_path / "state"), "task_1") == 0


async def test_kill_9_of_daemon_and_keeper_at_once_is_reaped(
    kind: str, tmp_path: Path, daemons: list[Daemon]
) -> None:
    """The worst case: nobody is left to clean up but a later process."""
    daemon = Daemon(kind, tmp_path, "call")
    daemons.append(daemon)
    await until(lambda: daemon.alive() and len(daemon.recorded()) == 3)
    recorded = daemon.recorded()
    keeper = recorded[0][0]
    os.kill(daemon.process.pid, signal.SIGSTOP)
    os.kill(keeper, signal.SIGKILL)
    daemon.process.kill()
    daemon.process.wait()
    sandbox = new_sandbox(kind, tmp_path / "state")
    assert await sandbox.reap("task_1") == 1
    assert daemon.alive() == []
    assert not any(kernel.start_time(pid) == at for pid, at in recorded)
    assert not daemon.records.exists()
    assert await sandbox.reap("task_1") == 0


async def test_a_killed_keeper_is_worker_lost_and_everything_is_dead(
    kind: str, tmp_path: Path
) -> None:
    sandbox = new_sandbox(kind, tmp_path / "state")
    session = await sandbox.open(make_spec(tmp_path))
    (record,) = (tmp_path / "state" / "sandboxes" / "task_1").glob("*.json")
    processes = [tuple(item) for item in json.loads(record.read_text())["processes"]]
    os.kill(processes[0][0], signal.SIGKILL)
    with pytest.raises(WorkerLost):
        await session.call(info("nap"), call("nap", seconds=60), deadline_seconds=60)
    await session.close()
    assert not any(kernel.start_time(pid) == started for pid, started in processes)
    assert not record.exists()


async def test_a_killed_launcher_is_started_again(kind: str, tmp_path: Path) -> None:
    sandbox = new_sandbox(kind, tmp_path / "state")
    spec = make_spec(tmp_path)
    assert (await sandbox.execute(spec, ["true"], deadline_seconds=20)).exit == 0
    ours = [pid for pid in processes_with(launcher.__file__) if _parent(pid) == os.getpid()]
    assert ours
    for pid in ours:
        os.kill(pid, signal.SIGKILL)
    await until(lambda: not any(kernel.start_time(pid) for pid in ours))
    assert (await sandbox.execute(spec, ["true"], deadline_seconds=20)).exit == 0


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1].split()[1])
    except OSError:
        return 0


async def test_a_state_directory_that_cannot_be_written_is_named(kind: str, tmp_path: Path) -> None:
    """Nothing runs that a later process could not find."""
    (tmp_path / "state").write_text("not a directory", encoding="utf-8")
    sandbox = new_sandbox(kind, tmp_path / "state")
    with pytest.raises(SandboxUnavailable, match="state"):
        await sandbox.open(make_spec(tmp_path))


async def test_a_record_of_another_boot_is_forgotten(tmp_path: Path) -> None:
    """Its pids are somebody else's now."""
    place = Path(records.directory(str(tmp_path), "a/b"))
    place.mkdir(parents=True)
    own = [os.getpid(), kernel.start_time(os.getpid())]
    record = {"boot": "another", "pid_namespace": "", "tag": "", "daemon": [1, 1]}
    (place / "1.json").write_text(json.dumps({**record, "processes": [own]}))
    (place / "2.json").write_text("{half")
    (place / "3.json.new").write_text("{half")
    assert await records.reap(str(tmp_path), "a/b") == 2
    assert not list(place.glob("*.json"))


async def test_a_pid_that_was_used_again_is_not_killed(tmp_path: Path) -> None:
    place = Path(records.directory(str(tmp_path), "task_1"))
    place.mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as bystander:
        record = {
            "boot": Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
            "pid_namespace": os.readlink("/proc/self/ns/pid"),
            "tag": "",
            "daemon": [bystander.pid, 1],
            "processes": [[bystander.pid, kernel.start_time(bystander.pid) - 1]],
        }
        (place / "1.json").write_text(json.dumps(record))
        assert await records.reap(str(tmp_path), "task_1") == 1
        assert bystander.poll() is None
        bystander.kill()


def test_owners_ids_are_one_file_name() -> None:
    assert os.path.dirname(records.directory("/s", "../../etc")) == "/s/sandboxes"
    assert records.directory("/s", "") != "/s/sandboxes/"
