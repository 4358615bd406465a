"""Limits of a sandbox as a whole: real control groups where there are some, and trees of files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent_runtime.errors import SandboxUnavailable, WorkerLost
from agent_runtime.ports import SandboxLimits
from agent_runtime.sandboxes import cgroups, groups, kernel, launcher, records
from agent_runtime.sandboxes.cgroups import Place, Places
from tests.sandboxes.support import (
    AnySandbox,
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
    pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's"),
]

MIB = 1 << 20
SPEND = "b = bytearray(b'x' * (200 << 20))"


def needs(controller: str) -> Places:
    """What there is here, or a skip with the reason."""
    places = cgroups.here()
    if controller not in places.found:
        pytest.skip(f"no cgroups for {controller} here: {places.reasons[controller]}")
    return places


def our_groups() -> list[str]:
    """The groups of sandboxes and of spares below the places of this process."""
    return [
        os.path.join(base, name)
        for base in cgroups.bases(cgroups.here())
        for name in os.listdir(base)
        if name.startswith(cgroups.PREFIX)
    ]


@pytest.fixture(params=["bubblewrap", "unsafe"])
def sandbox(request: pytest.FixtureRequest, tmp_path: Path) -> AnySandbox:
    return make_sandbox(request.param, tmp_path / "state")


# ---- with real groups ----------------------------------------------------------------------------


async def test_memory_is_limited_for_all_processes_together(
    sandbox: AnySandbox, tmp_path: Path
) -> None:
    """Four of 60 MiB are one too many for 200 MiB, though each of them has room."""
    needs("memory")
    spec = make_spec(tmp_path, limits=SandboxLimits(memory_bytes=200 * MIB))
    code = (
        "import os, sys\n"
        "r, w = os.pipe()\n"
        "for _ in range(4):\n"
        "    if os.fork() == 0:\n"
        "        b = bytearray(b'x' * (60 << 20)); os.write(w, b'+'); os.read(0, 1)\n"
        "        import signal; signal.pause()\n"
        "died = os.waitstatus_to_exitcode(os.wait()[1])\n"
        "sys.exit(0 if died == -9 else 1)\n"
    )
    result = await sandbox.execute(spec, ["python3", "-c", code], deadline_seconds=30)
    assert result.exit == 0
    assert b"memory limit of 200 MiB" in result.output and b"out of memory" in result.output


async def test_a_command_killed_for_its_memory_is_told_as_that(
    sandbox: AnySandbox, tmp_path: Path
) -> None:
    needs("memory")
    spec = make_spec(tmp_path, limits=SandboxLimits(memory_bytes=64 * MIB))
    result = await sandbox.execute(spec, ["python3", "-c", SPEND], deadline_seconds=30)
    assert result.exit == 137 and b"environment.resources.memory" in result.output
    assert result.output_bytes == len(result.output)
    quiet = await sandbox.execute(spec, ["sh", "-c", "kill -9 $$"], deadline_seconds=30)
    assert (quiet.exit, quiet.output) == (137, b""), "killed by itself"


async def test_a_tool_whose_worker_was_killed_for_memory_is_told_so(
    sandbox: AnySandbox, tmp_path: Path
) -> None:
    needs("memory")
    spec = make_spec(tmp_path, limits=SandboxLimits(memory_bytes=100 * MIB))
    session = await sandbox.open(spec)
    try:
        with pytest.raises(WorkerLost, match="memory limit of 100 MiB"):
            await session.call(info("spend"), call("spend", mebibytes=300), deadline_seconds=30)
    finally:
        await session.close()


async def test_a_tools_command_killed_for_memory_is_told_once_and_the_worker_lives(
    sandbox: AnySandbox, tmp_path: Path
) -> None:
    needs("memory")
    spec = make_spec(tmp_path, limits=SandboxLimits(memory_bytes=100 * MIB))
    session = await sandbox.open(spec)
    try:
        # The worker would be as good a choice for the kernel, were it not so small.
        command = f'python3 -c "{SPEND}"; exit 7'
        first = await session.call(
            info("shell"), call("shell", command=command), deadline_seconds=30
        )
        assert first.exit == 7 and "memory limit of 100 MiB" in first.output
        assert b"memory limit of 100 MiB" in (first.raw or b"")
        later = await session.call(
            info("shell"), call("shell", command="exit 8"), deadline_seconds=30
        )
        assert later.exit == 8 and "memory" not in later.output
    finally:
        await session.close()


async def test_processor_time_is_limited(sandbox: AnySandbox, tmp_path: Path) -> None:
    """The kernel counts how often it held the sandbox up; the file is inside nobody's reach."""
    needs("cpu")
    spec = make_spec(tmp_path, limits=SandboxLimits(cpus=0.2))
    session = await sandbox.open(spec)
    try:
        (record,) = (tmp_path / "state" / "sandboxes" / "task_1").glob("*.json")
        held_up = [
            Path(path, "cpu.stat")
            for path in records.groups(str(record))
            if Path(path, "cpu.stat").exists()
        ]
        before = _throttled(held_up)
        await session.call(info("burn"), call("burn", seconds=0.3), deadline_seconds=60)
        assert _throttled(held_up) > before
    finally:
        await session.close()


def _throttled(files: list[Path]) -> int:
    lines = [line.split() for file in files for line in file.read_text().splitlines()]
    return sum(int(value) for name, value in lines if name == "nr_throttled")


async def test_every_process_of_a_sandbox_is_in_its_groups(
    sandbox: AnySandbox, tmp_path: Path
) -> None:
    places = needs("pids")
    session = await sandbox.open(make_spec(tmp_path, limits=SandboxLimits(processes=77)))
    try:
        (record,) = (tmp_path / "state" / "sandboxes" / "task_1").glob("*.json")
        paths = records.groups(str(record))
        assert len(paths) == len(cgroups.bases(places))
        recorded = [pid for pid, _ in json.loads(record.read_text())["processes"]]
        for group in paths:
            members = groups.members(group)
            assert set(recorded[1:]) <= set(members) and recorded[0] not in members
        (limit,) = [Path(path, "pids.max") for path in paths if Path(path, "pids.max").exists()]
        assert int(limit.read_text()) == 77 + cgroups.OWN_PIDS
    finally:
        await session.close()
    assert not any(os.path.exists(path) for path in paths)


async def test_no_group_outlives_its_sandbox(sandbox: AnySandbox, tmp_path: Path) -> None:
    needs("memory")
    seen: list[str] = []
    for seconds, command in ((20.0, "true"), (20.0, "exit 3"), (0.5, "sleep 60 & sleep 60")):
        spec = make_spec(tmp_path)
        await sandbox.execute(spec, ["sh", "-c", command], deadline_seconds=seconds)
        seen += our_groups()
    keepers = {path.rsplit("-", 2)[1] for path in seen}
    assert keepers, "of the spares at least"
    await until(lambda: all(_is_kept(path) for path in our_groups()))


async def test_a_killed_spare_is_replaced_and_its_groups_are_removed(
    sandbox: AnySandbox, tmp_path: Path
) -> None:
    needs("memory")
    spec = make_spec(tmp_path)
    assert (await sandbox.execute(spec, ["true"], deadline_seconds=20)).exit == 0
    launchers = [pid for pid in processes_with(launcher.__file__) if _parent(pid) == os.getpid()]
    spares = [pid for pid in processes_with(launcher.__file__) if _parent(pid) in launchers]
    assert spares
    for pid in spares:
        os.kill(pid, signal.SIGKILL)
    await until(lambda: not any(kernel.start_time(pid) for pid in spares))
    assert (await sandbox.execute(spec, ["true"], deadline_seconds=20)).exit == 0
    await until(lambda: all(_is_kept(path) for path in our_groups()))


def _is_kept(path: str) -> bool:
    _, pid, started = path.rsplit("-", 2)
    return kernel.start_time(int(pid)) == int(started) or not os.path.exists(path)


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1].split()[1])
    except OSError:
        return 0


@pytest.fixture(params=["bubblewrap", "unsafe"])
def daemon(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    make_sandbox(request.param, tmp_path / "probe")
    (tmp_path / "workspace").mkdir()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.sandboxes.daemon_process", request.param),
            *(str(tmp_path / "state"), str(tmp_path / "workspace"), f"cg-{os.getpid()}", "call"),
        ],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"busy\n"
    yield request.param, process
    process.kill()
    process.wait()
    process.stdout.close()


async def test_groups_of_a_killed_daemon_its_launcher_and_its_keepers_are_removed(
    daemon: tuple[str, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    """The worst case: all of them at once. The record names the sandbox's, the name the spare's."""
    needs("memory")
    kind, process = daemon
    place = tmp_path / "state" / "sandboxes" / "task_1"

    def recorded() -> list[list[int]]:
        return [json.loads(path.read_text())["processes"] for path in place.glob("*.json")]

    await until(lambda: recorded() and len(recorded()[0]) == 3)
    (record,) = place.glob("*.json")
    paths = records.groups(str(record))
    assert paths and all(os.path.isdir(path) for path in paths)
    (first,) = [pid for pid in processes_with(launcher.__file__) if _parent(pid) == process.pid]
    keepers = [pid for pid in processes_with(launcher.__file__) if _parent(pid) == first]
    spares = [path for path in our_groups() for pid in keepers if f"-{pid}-" in path]
    assert set(paths) < set(spares)
    for pid in (process.pid, first, *keepers):
        os.kill(pid, signal.SIGSTOP)
    for pid in (process.pid, first, *keepers):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    sandbox = new_sandbox(kind, tmp_path / "state")
    assert await sandbox.reap("task_1") == 1
    assert not any(os.path.exists(path) for path in paths)

    def swept() -> bool:
        groups.sweep(cgroups.bases(cgroups.here()))
        return not any(os.path.exists(path) for path in spares)

    await until(swept)


async def test_a_limit_that_cannot_be_set_refuses_the_sandbox(
    sandbox: AnySandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never a sandbox with less than was asked for."""
    needs("memory")
    real = cgroups.groups

    def wrong(places: Places, limits: SandboxLimits) -> list[groups.Group]:
        return [{**group, "values": [["no.such.file", "1"]]} for group in real(places, limits)]

    monkeypatch.setattr(cgroups, "groups", wrong)
    with pytest.raises(SandboxUnavailable, match=r"control group.*no\.such\.file"):
        await sandbox.open(make_spec(tmp_path))
    assert not (tmp_path / "state" / "sandboxes" / "task_1").exists()


# ---- with trees of files -------------------------------------------------------------------------


class Tree:
    """A machine's cgroups, in files: what the kernel would show of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.proc = root / "proc"
        self.proc.mkdir()
        self._mounts: list[str] = []
        self._own: list[str] = []

    def v1(self, controller: str, own: str = "/", *, root: str = "/", options: str = "rw") -> Path:
        point = self.root / controller
        self._mounts.append(
            f"30 20 0:30 {root} {point} {options},nosuid - cgroup cgroup rw,{controller}"
        )
        self._own.append(f"5:{controller}:{own}")
        return self._group(point)

    def v2(self, own: str, controllers: str, *, options: str = "rw") -> Path:
        point = self.root / "unified"
        self._mounts.append(f"31 20 0:31 / {point} {options} shared:9 - cgroup2 cgroup2 rw")
        self._own.append(f"0::{own}")
        made = self._group(point)
        (made / "cgroup.controllers").write_text(controllers)
        return made

    def group(self, path: Path, *, down: str = "", processes: str = "") -> Path:
        made = self._group(path)
        (made / "cgroup.subtree_control").write_text(down)
        (made / "cgroup.procs").write_text(processes)
        return made

    def written(self) -> Path:
        (self.proc / "mountinfo").write_text(
            "\n".join(["1 1 8:1 / / rw - ext4 x rw", *self._mounts])
        )
        (self.proc / "cgroup").write_text("\n".join(self._own) + "\n")
        return self.proc

    def find(self) -> Places:
        return cgroups.find(str(self.written()))

    def _group(self, path: Path) -> Path:
        path.mkdir(parents=True, exist_ok=True)
        (path / "cgroup.procs").touch()
        return path


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_version_1_groups_lie_below_the_own_group_of_each_hierarchy(tree: Tree) -> None:
    tree.group(tree.v1("memory", "/docker/abc") / "docker" / "abc")
    tree.v1("cpu,cpuacct")
    tree.v1("pids", "/docker/abc/x", root="/docker/abc")
    tree.group(tree.root / "pids" / "x")
    assert tree.find().found == {
        "memory": Place(1, str(tree.root / "memory" / "docker" / "abc")),
        "cpu": Place(1, str(tree.root / "cpu,cpuacct")),
        "pids": Place(1, str(tree.root / "pids" / "x")),
    }


def test_version_2_takes_the_nearest_group_that_hands_most_down(tree: Tree) -> None:
    top = tree.v2("/user.slice/session.scope", "cpu memory pids io")
    tree.group(top, down="cpu memory pids io")
    tree.group(top / "user.slice", down="memory pids")
    tree.group(top / "user.slice" / "session.scope", processes="1\n")
    assert tree.find().found == dict.fromkeys(("memory", "cpu", "pids"), Place(2, str(top)))
    tree.group(top / "user.slice", down="memory pids cpu")
    lower = Place(2, str(top / "user.slice"))
    assert tree.find().found == dict.fromkeys(("memory", "cpu", "pids"), lower)


def test_a_machine_may_have_both_versions(tree: Tree) -> None:
    tree.v1("memory")
    top = tree.v2("/", "pids")
    tree.group(top, down="pids")
    assert tree.find() == Places(
        {"memory": Place(1, str(tree.root / "memory")), "pids": Place(2, str(top))},
        {"cpu": "no cgroup hierarchy with the controller 'cpu' is mounted"},
        freezer=Place(2, str(top)),
    )


def test_what_cannot_be_had_has_a_reason(tree: Tree) -> None:
    tree.v1("memory", options="ro")
    top = tree.v2("/", "cpu")
    tree.group(top, down="")
    places = tree.find()
    assert places.found == {}
    assert places.reasons["memory"] == f"'{tree.root}/memory' is mounted read-only"
    assert "hands the controller 'cpu' down" in places.reasons["cpu"]
    assert "is mounted" in places.reasons["pids"]


def test_a_group_that_may_not_be_written_is_passed_over(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ordinary user outside a delegated group (here faked: root may write everything)."""
    top = tree.v2("/a", "cpu memory pids")
    tree.group(top, down="cpu memory pids")
    tree.group(top / "a")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    places = tree.find()
    assert places.found == {} and "may not write to" in places.reasons["memory"]


def test_a_group_of_our_own_is_split_and_nobody_elses(tree: Tree) -> None:
    """Version 2: a group with children that have controllers must not hold processes itself."""
    top = tree.v2("/", "cpu memory pids")
    leaf = tree.group(top / f"{cgroups.PREFIX}daemon")
    tree.group(top, processes=f"{os.getpid()}\n1\n")
    cgroups.find(str(tree.written()), split=True)
    assert (top / "cgroup.subtree_control").read_text() == "", "process 1 is not ours"
    tree.group(top, processes=f"{os.getpid()}\n")
    cgroups.find(str(tree.written()), split=True)
    assert (leaf / "cgroup.procs").read_text() == str(os.getpid())
    assert (top / "cgroup.subtree_control").read_text() == "+memory +cpu +pids"


def test_a_group_that_systemd_did_not_delegate_is_not_split(tree: Tree) -> None:
    own = tree.v2("/a.service", "cpu memory pids") / "a.service"
    tree.group(own, processes=f"{os.getpid()}\n")
    (own / "cgroup.controllers").write_text("cpu memory pids")
    tree.group(own / f"{cgroups.PREFIX}daemon")
    cgroups.find(str(tree.written()), split=True)
    assert (own / "cgroup.subtree_control").read_text() == ""


@pytest.mark.parametrize(
    ("version", "wanted"),
    [
        (2, {"memory.max": "1048576", "memory.swap.max?": "0", "cpu.max": "150000 100000",
             "pids.max": str(40 + cgroups.OWN_PIDS)}),
        (1, {"memory.limit_in_bytes": "1048576", "memory.memsw.limit_in_bytes?": "1048576",
             "memory.swappiness?": "0", "cpu.cfs_period_us": "100000",
             "cpu.cfs_quota_us": "150000", "pids.max": str(40 + cgroups.OWN_PIDS)}),
    ],
)  # fmt: skip
def test_limits_are_written_as_each_version_has_them(
    version: int, wanted: dict[str, str], tmp_path: Path
) -> None:
    places = Places(dict.fromkeys(cgroups.CONTROLLERS, Place(version, str(tmp_path))))
    limits = SandboxLimits(memory_bytes=MIB, cpus=1.5, processes=40)
    (group,) = cgroups.groups(places, limits)
    assert group["base"] == str(tmp_path) and dict(group["values"]) == wanted
    for name in wanted:
        (tmp_path / name.removesuffix("?")).touch()
    groups.limit_group(str(tmp_path), group["values"])
    assert (tmp_path / "pids.max").read_text() == wanted["pids.max"]


def test_a_limit_of_a_kernel_without_swap_is_left_out_and_no_other(tmp_path: Path) -> None:
    groups.limit_group(str(tmp_path), [["memory.swap.max?", "0"]])
    with pytest.raises(OSError, match=r"memory\.max"):
        groups.limit_group(str(tmp_path), [["memory.max", "1"]])
    assert os.listdir(tmp_path) == []


def test_a_quota_of_version_1_is_never_above_those_above_it(tmp_path: Path) -> None:
    """The kernel refuses it; as in a container with --cpus."""
    below = tmp_path / "a"
    below.mkdir()
    for place, quota in ((tmp_path, "50000"), (below, "-1")):
        (place / "cpu.cfs_quota_us").write_text(quota)
        (place / "cpu.cfs_period_us").write_text("50000")
    (group,) = cgroups.groups(Places({"cpu": Place(1, str(below))}), SandboxLimits(cpus=1.5))
    assert dict(group["values"])["cpu.cfs_quota_us"] == "100000"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("memory.events", "low 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 0\n"),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
    ],
)
def test_kills_for_memory_are_counted_in_both_versions(
    name: str, text: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    assert groups.oom_kills([str(tmp_path / "none"), str(tmp_path)]) == 2


def test_the_sweep_takes_empty_groups_of_the_dead_and_nothing_else(tmp_path: Path) -> None:
    own = groups.group_name()
    namespace, pid, started = own.removeprefix(cgroups.PREFIX).split("-")
    dead = f"{cgroups.PREFIX}{namespace}-{pid}-{int(started) + 1}"
    elsewhere = f"{cgroups.PREFIX}1-{pid}-{int(started) + 1}"
    busy = f"{cgroups.PREFIX}{namespace}-{pid}-{int(started) + 2}"
    for name in (own, dead, elsewhere, busy, f"{cgroups.PREFIX}daemon", "system.slice"):
        (tmp_path / name).mkdir()
    (tmp_path / busy / "a process").touch()
    groups.sweep([str(tmp_path), str(tmp_path / "absent")])
    assert set(os.listdir(tmp_path)) == {
        own, elsewhere, busy, f"{cgroups.PREFIX}daemon", "system.slice"
    }  # fmt: skip


def test_a_group_and_what_was_made_below_it_are_removed(tmp_path: Path) -> None:
    group = tmp_path / f"{cgroups.PREFIX}1-2-3"
    (group / "a" / "b").mkdir(parents=True)
    assert groups.remove_groups([str(group), str(tmp_path / f"{cgroups.PREFIX}none")])
    assert os.listdir(tmp_path) == []


def test_a_record_cannot_name_a_directory_that_is_no_group(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps({"groups": ["/srv/data", f"/x/{cgroups.PREFIX}1-2-3"]}))
    assert records.groups(str(path)) == [f"/x/{cgroups.PREFIX}1-2-3"]


def test_defaults_leave_some_of_the_machine() -> None:
    cpus: Callable[[SandboxLimits], float] = cgroups.cpus
    assert 0 < cpus(SandboxLimits()) < len(os.sched_getaffinity(0))
    assert cpus(replace(SandboxLimits(), cpus=1.5)) == 1.5
