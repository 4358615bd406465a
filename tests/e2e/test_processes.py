"""Several processes on one store: right answers, no lock error, and no task driven twice.

A tool in the daemon writes a line outside for every run of it, so that a second run shows.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
import termios
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent_runtime.app import open_runtime
from agent_runtime.cli.follow import _Watch
from agent_runtime.cli.views import JsonView
from agent_runtime.errors import Conflict
from agent_runtime.runtime import Runtime
from agent_runtime.settings import load_settings
from agent_runtime.taskfile import read_task_file
from agent_runtime.types import Phase, TaskId
from tests.cli.helpers import SECONDS_MAX, Cli, Started
from tests.e2e.conftest import chain, git

PLUGIN = Path(__file__).parent.parent / "crash" / "plugin"
ROOT = Path(__file__).parent.parent.parent
ORDINARY_UID = 12345
Rows = list[dict[str, Any]]


@dataclass
class Many(Cli):
    """The command line, many times on one store, with the tools whose effects are outside."""

    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *arguments: str) -> Started:
        started = super().start(*arguments)
        self.started.append(started.process)
        return started

    def run(self, path: Path, *options: str) -> tuple[Started, str]:
        """A running `run --json` and its task."""
        running = self.start("run", str(path), "--json", *options)
        return running, str(running.wait_for_event("TaskSubmitted")["task_id"])

    def log(self, task_id: str) -> Rows:
        """All events of a task; read from the file, for a process takes most of a second."""
        db = sqlite3.connect(f"file:{self.state / 'store.db'}?mode=ro", uri=True)
        try:
            found = db.execute(
                "SELECT type, data FROM events WHERE task_id = ? ORDER BY seq", (task_id,)
            ).fetchall()
        finally:
            db.close()
        return [{"type": kind, "data": json.loads(data)} for kind, data in found]

    def effects(self) -> Counter[str]:
        """How often each (task, call) outside happened, by idempotency key."""
        path = self.home / "effects.txt"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return Counter(line.split()[-1] for line in lines)

    def drive_all(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A process of `tests.e2e.drivers`."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.drivers", *arguments],
            cwd=self.home,
            env={**self.environment(), "PYTHONPATH": os.pathsep.join([str(ROOT), str(PLUGIN)])},
            stdout=subprocess.PIPE,
        )
        self.started.append(process)
        return process


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Many]:
    many = Many(
        tmp_path,
        {
            "AGENT_RUNTIME_PLUGINS": "outside-effects",
            "PYTHONPATH": str(PLUGIN),
            "OUTSIDE_EFFECTS": str(tmp_path / "effects.txt"),
        },
    )
    yield many
    for process in many.started:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    where = tmp_path / "repo"
    where.mkdir()
    (where / "lines.txt").write_text("first\n", encoding="utf-8")
    git(where, "init", "-q")
    git(where, "add", "-A")
    git(where, "commit", "-qm", "one")
    if os.getuid() == 0:  # in place, the sandbox's user is the directory's owner, never root
        subprocess.run(["chown", "-R", f"{ORDINARY_UID}:{ORDINARY_UID}", where], check=True)
    return where


Write = Callable[..., Path]


@pytest.fixture
def task(tmp_path: Path, repo: Path) -> Write:
    """Writes a task of these steps, one after the other."""

    def write(*steps: dict[str, Any], **more: Any) -> Path:
        path = tmp_path / f"task-{len(list(tmp_path.glob('task-*')))}.json"
        policy = {
            "tools": ["pay_once", "outlast"],
            "unknown_effect": "continue",
            **more.pop("policy", {}),
        }
        whole = {
            "goal": "Share the store",
            "workspace": {"repo": str(repo), **more.pop("workspace", {})},
            "plan": {"steps": chain(steps)},
            "objectives": [{"id": "fine", "check": {"command": "true"}}],
            "policy": policy,
            **more,
        }
        path.write_text(json.dumps(whole), encoding="utf-8")
        return path

    return write


PAY = {"id": "pay", "tool": "pay_once"}
PAY_AGAIN = {"id": "pay_again", "tool": "pay_once"}
ASK_FOR_SHELL = {"approvals": {"shell": "ask"}}


def shell(command: str, id: str = "work") -> dict[str, Any]:
    return {"id": id, "tool": "shell", "args": {"command": command}}


def writes_until(flag: str) -> dict[str, Any]:
    """Writes half of a line, waits for a file in the workspace, and writes the other half."""
    wait = f"while [ ! -e {flag} ]; do sleep 0.02; done"
    return shell(f"printf x >> lines.txt; {wait}; rm {flag}; echo x >> lines.txt")


WORK = shell("echo x >> lines.txt")
LONG = shell("printf x >> lines.txt; sleep 30; echo x >> lines.txt")


def wait_for_shell(driver: Started) -> None:
    """Until the intent of a shell call is stored; plans name the tool, too."""
    driver.wait_for(lambda line: '"type":"CallIntended"' in line and '"tool":"shell"' in line)


def epochs(rows: Rows) -> list[int]:
    return [row["data"]["epoch"] for row in rows if row["type"] == "LeaseTaken"]


def count(rows: Rows, kind: str) -> int:
    return sum(row["type"] == kind for row in rows)


def assert_driven_by_one(rows: Rows) -> None:
    """Owners follow one another, and no call has two results."""
    assert epochs(rows) == list(range(1, len(epochs(rows)) + 1))
    results = Counter(row["data"]["call_id"] for row in rows if row["type"] == "CallReturned")
    assert set(results.values()) <= {1}, results


def ended(rows: Rows) -> str:
    assert rows[-1]["type"] == "TaskEnded", rows[-1]
    return str(rows[-1]["data"]["status"])


# ---- answers, and drivers that die -------------------------------------------------------


def test_an_answer_to_a_killed_driver_is_used_by_exactly_one_of_two_resumes(
    cli: Many, task: Write
) -> None:
    """DESIGN 5: approvals are durable; a restart asks neither again nor twice."""
    driver, task_id = cli.run(task(PAY, WORK, PAY_AGAIN, policy=ASK_FOR_SHELL))
    driver.wait_for_event("ApprovalRequested")
    driver.signal(signal.SIGKILL)
    assert driver.finish().code == -signal.SIGKILL
    answered = cli("approve", task_id)
    assert answered.code == 0 and "nobody drives" in answered.err
    both = [cli.start("resume", task_id, "--json").finish for _ in range(2)]
    codes = sorted(finish().code for finish in both)
    assert codes == [0, 6]
    rows = cli.log(task_id)
    assert ended(rows) == "succeeded" and epochs(rows) == [1, 2]
    assert count(rows, "ApprovalRequested") == count(rows, "ApprovalDecided") == 1
    assert_driven_by_one(rows)
    assert len(cli.effects()) == 2 and set(cli.effects().values()) == {1}


@pytest.mark.long
def test_of_several_answers_at_once_one_counts_and_the_others_are_told(
    cli: Many, task: Write
) -> None:
    """DESIGN 5: an approval is single use."""
    driver, task_id = cli.run(task(WORK, policy=ASK_FOR_SHELL), "--wait-seconds", "60")
    driver.wait_for_event("ApprovalRequested")
    verbs = ["approve", "deny", "approve"]
    answers = [cli.start(verb, task_id) for verb in verbs]
    done = [answer.finish() for answer in answers]
    assert sorted(each.code == 0 for each in done) == [False, False, True], done
    for each in done:
        assert each.code in (0, 5, 6) and "lock" not in each.err, each
    [won] = [verb for verb, each in zip(verbs, done, strict=True) if each.code == 0]
    assert driver.finish().code == (0 if won == "approve" else 1)
    rows = cli.log(task_id)
    assert count(rows, "ApprovalDecided") == 1
    assert_driven_by_one(rows)


@pytest.mark.long
def test_a_stopped_driver_keeps_its_task_and_goes_on_with_it(cli: Many, task: Write) -> None:
    """DESIGN 5: a lease is dead exactly when its owner's lock is free, whatever the clock says."""
    driver, task_id = cli.run(task(PAY, writes_until("go"), PAY_AGAIN))
    wait_for_shell(driver)
    follower = cli.start("logs", "-f", task_id)
    follower.wait_for("CallIntended")
    driver.signal(signal.SIGSTOP)
    refused = cli("resume", task_id)
    assert refused.code == 6 and f"pid {driver.process.pid}" in refused.err
    [listed] = cli("ps", "--json").json()
    assert listed["status"] == "running" and f"pid {driver.process.pid}" in listed["owner"]
    assert cli("steer", task_id, "still there?").code == 0
    work = cli.state / "workspaces" / task_id / "work"
    (work / "go").touch()  # the call ends while nobody can hear of it
    driver.signal(signal.SIGCONT)
    assert driver.finish().code == 0
    assert "TaskEnded" in follower.finish().out.splitlines()[-1]
    rows = cli.log(task_id)
    assert ended(rows) == "succeeded" and epochs(rows) == [1] and count(rows, "Steered") == 1
    assert_driven_by_one(rows)
    assert len(cli.effects()) == 2 and set(cli.effects().values()) == {1}


@pytest.mark.long
def test_a_cancel_that_waits_for_a_stopped_driver_carries_it_out_when_that_is_killed(
    cli: Many, task: Write
) -> None:
    """Stop means stop, whoever is left to do it."""
    driver, task_id = cli.run(task(PAY, LONG))
    wait_for_shell(driver)
    driver.signal(signal.SIGSTOP)
    cancel = cli.start("cancel", task_id)
    follower = cli.start("logs", "-f", task_id)
    follower.wait_for("CancelRequested")
    driver.signal(signal.SIGKILL)
    cancelled = cancel.finish()
    assert cancelled.code == 0 and "cancelled" in cancelled.out, cancelled
    assert follower.finish().code == 0
    rows = cli.log(task_id)
    assert ended(rows) == "cancelled" and epochs(rows) == [1, 2]
    assert [r["data"]["resolution"] for r in rows if r["type"] == "CallResolved"] == ["dropped"]
    assert not (cli.state / "workspaces" / task_id / "work").exists()


# ---- signals and terminals ---------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_hangup_during_a_graceful_stop_does_not_kill(
    cli: Many, task: Write, number: signal.Signals
) -> None:
    """A service manager sends SIGHUP after SIGTERM, and a closing terminal sends it twice."""
    driver, task_id = cli.run(task(PAY, LONG))
    wait_for_shell(driver)
    driver.signal(number)
    assert driver.process.stderr is not None
    assert driver.process.stderr.readline().startswith(b"stopping")
    driver.signal(signal.SIGHUP)
    stopped = driver.finish()
    assert stopped.code == 130, stopped
    assert stopped.lines()[-2]["type"] == "Interrupted"
    assert f"resume with: agent-runtime resume {task_id[-8:]}" in stopped.err


@pytest.mark.long
def test_a_second_ctrl_c_kills_at_once_and_what_may_have_happened_is_told(
    cli: Many, task: Write
) -> None:
    """Nothing stored is lost by it: a `once` effect is not repeated but reported."""
    driver, task_id = cli.run(task({"id": "last", "tool": "outlast"}, PAY))
    driver.wait_for_event("CallIntended")
    deadline = time.monotonic() + SECONDS_MAX
    while not cli.effects() and time.monotonic() < deadline:
        time.sleep(0.01)
    while driver.process.poll() is None and time.monotonic() < deadline:
        driver.signal(signal.SIGINT)
        time.sleep(0.1)
    killed = driver.finish()
    assert killed.code == -signal.SIGINT, killed
    assert (
        f"killed, what is stored is not lost; resume with: agent-runtime resume {task_id[-8:]}"
        in (killed.err)
    )
    done = cli("resume", task_id, "--json")
    assert done.code == 0, done
    [unknown] = done.lines()[-1]["unknown_effects"]
    assert unknown["tool"] == "outlast"
    assert len(cli.effects()) == 2 and set(cli.effects().values()) == {1}


def on_a_terminal(cli: Many, *arguments: str) -> tuple[subprocess.Popen[bytes], int]:
    """The command line as the leader of a session on a terminal; the terminal's other end."""
    ours, theirs = pty.openpty()

    def lead() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    process = subprocess.Popen(
        [sys.executable, "-m", "agent_runtime", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**cli.environment(), "TERM": "xterm"},
        cwd=cli.home,
        preexec_fn=lead,
    )
    os.close(theirs)
    cli.started.append(process)
    return process, ours


def read_until(terminal: int, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        try:
            seen += os.read(terminal, 4096)
        except OSError:  # its last process has gone
            raise AssertionError(f"{text!r} did not come: {seen!r}") from None
    return seen


def last_task(cli: Many) -> str:
    return str(cli("ps", "--json", "-n", "1").json()[0]["task_id"])


def test_ctrl_c_on_a_terminal_reaches_the_driver_and_nothing_in_its_sandbox(
    cli: Many, task: Write
) -> None:
    """A terminal signals the whole foreground group; only the driver decides what that means."""
    process, terminal = on_a_terminal(cli, "run", str(task(LONG)))
    read_until(terminal, b"work: shell")
    os.write(terminal, b"\x03")
    read_until(terminal, b"resume with: agent-runtime resume")
    assert process.wait(SECONDS_MAX) == 130
    os.close(terminal)
    rows = cli.log(last_task(cli))
    assert rows[-1]["type"] == "Interrupted"
    assert count(rows, "CallLost") == count(rows, "CallReturned") == 0


def test_a_terminal_that_is_closed_stops_gracefully_what_waits_on_it(
    cli: Many, task: Write
) -> None:
    process, terminal = on_a_terminal(cli, "run", str(task(WORK, policy=ASK_FOR_SHELL)))
    read_until(terminal, b"waits for a decision")
    os.close(terminal)
    assert process.wait(SECONDS_MAX) == 130
    assert cli.log(last_task(cli))[-1]["type"] == "Interrupted"


def test_a_terminal_that_is_gone_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """With SIGHUP ignored (nohup), the wait for a y or n took a whole processor."""
    ours, theirs = pty.openpty()
    os.close(ours)
    runtime: Any = None

    async def answer() -> None:
        with anyio.fail_after(SECONDS_MAX):
            await _Watch(runtime, TaskId("task_x"), JsonView(), None, None).answer()

    with os.fdopen(theirs) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        anyio.run(answer)


# ---- one checkout, one store -------------------------------------------------------------


@pytest.mark.long
def test_in_place_tasks_of_one_checkout_wait_for_each_other_and_for_no_dead_one(
    cli: Many, task: Write, repo: Path
) -> None:
    """DESIGN 5: one task owns a workspace; another waits."""
    place = {"in_place": True}
    alone = "mkdir busy || exit 9; echo {} >> lines.txt; sleep 0.1; rmdir busy"
    holder, held_id = cli.run(task(writes_until("never"), workspace=place))
    holder.wait_for_event("CallIntended")
    waiting = [cli.run(task(shell(alone.format(name)), workspace=place)) for name in "ab"]
    given_up, given_up_id = cli.run(task(shell(alone.format("c")), workspace=place))
    for each, _ in (*waiting, (given_up, given_up_id)):
        each.wait_for('"phase":"task_initiation"')
    cancelled = cli("cancel", given_up_id)
    assert cancelled.code == 0 and given_up.finish().code == 1, cancelled
    opened = [count(cli.log(task_id), "WorkspaceOpened") for _, task_id in waiting]
    assert opened == [0, 0]
    holder.signal(signal.SIGKILL)
    holder.finish()
    for each, task_id in waiting:
        assert each.finish().code == 0
        assert_driven_by_one(cli.log(task_id))
    # The dead task's half line is there: in place, nothing is ever rolled back.
    lines = (repo / "lines.txt").read_text(encoding="utf-8").split()
    assert lines in (["first", "xa", "b"], ["first", "xb", "a"])
    done = cli("resume", held_id, "--json")
    assert done.code == 0, done
    assert [each["tool"] for each in done.lines()[-1]["unknown_effects"]] == ["shell"]


@pytest.mark.long
def test_four_processes_meet_a_locked_store_and_wait_without_an_error(
    cli: Many, task: Write
) -> None:
    """No lock error within 5 s: a write waits for another's transaction."""
    first = cli("run", str(task(WORK, policy=ASK_FOR_SHELL)), "--json", "--wait-seconds", "0")
    task_id = first.lines()[0]["task_id"]
    path = task(PAY, WORK)
    db = sqlite3.connect(cli.state / "store.db", isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    try:
        started = [
            cli.start("run", str(path), "--json"),
            cli.start("run", str(path), "--json"),
            cli.start("approve", task_id),
            cli.start("steer", task_id, "go on"),
        ]
        # Readers are not held up; when this one is through, the others have begun to wait. On a
        # slow machine they shall not wait for longer than the store promises to.
        reader = cli.start("ps", "--json")
        with suppress(subprocess.TimeoutExpired):
            reader.process.wait(3)
    finally:
        db.execute("ROLLBACK")
        db.close()
    assert reader.finish().code == 0
    for each in started:
        done = each.finish()
        assert done.code == 0 and "lock" not in done.err, done
    assert len(cli.effects()) == 2 and set(cli.effects().values()) == {1}
    assert cli("resume", task_id).code == 0


@asynccontextmanager
async def runtime_of(cli: Many, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Runtime]:
    """A runtime in this process on the same store: one more process."""
    for name, value in cli.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(str(PLUGIN))
    async with open_runtime(load_settings({})) as runtime:
        yield runtime


async def submit_all(runtime: Runtime, paths: Sequence[Path]) -> list[TaskId]:
    specs = [read_task_file(str(path), repo=None) for path in paths]
    return [await runtime.submit(spec, submitted_by="test") for spec in specs]


@pytest.mark.long
def test_four_processes_share_sixteen_tasks_and_outlive_one_that_is_killed(
    cli: Many, task: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No task is driven twice, and none is lost with its process."""
    paths = [task(PAY, WORK, PAY_AGAIN) for _ in range(16)]

    async def through() -> list[TaskId]:
        async with runtime_of(cli, monkeypatch) as runtime:
            return await submit_all(runtime, paths)

    task_ids = anyio.run(through)
    drivers = [cli.drive_all() for _ in range(4)]
    for driver in drivers:
        assert driver.stdout is not None and driver.stdout.readline() == b"open\n"
    deadline = time.monotonic() + SECONDS_MAX
    while len(cli.effects()) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    drivers[0].kill()
    for driver in drivers[1:]:
        assert driver.wait(SECONDS_MAX) == 0
    assert cli.drive_all().wait(SECONDS_MAX) == 0  # for what was claimed until the very end

    async def judge() -> None:
        async with runtime_of(cli, monkeypatch) as runtime:
            unknown = 0
            for task_id in task_ids:
                state = await runtime.state(task_id)
                kinds = Counter(row.type for row in await runtime.rows(task_id))
                assert state.ended and kinds["LeaseTaken"] == state.epoch <= 2
                assert (await runtime.verify(task_id)).ok
                unknown += len(state.unknown)
            assert 32 - unknown <= len(cli.effects()) <= 32

    anyio.run(judge)
    assert set(cli.effects().values()) == {1}


PHASES = [phase for phase in Phase if phase is not Phase.IDLE]


@pytest.mark.long
def test_a_cancel_from_another_process_is_right_in_every_phase(
    cli: Many, task: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first terminal decision in the log wins; a later cancel is refused as a conflict."""
    flaky = shell("test -e again || { touch again; exit 3; }", "flaky") | {"retry": 1}
    status = {"id": "status", "tool": "git_status"}
    paths = [task(PAY, status, flaky, WORK) for _ in PHASES]

    async def through() -> None:
        async with runtime_of(cli, monkeypatch) as runtime:
            task_ids = await submit_all(runtime, paths)
            phases = dict(zip(task_ids, PHASES, strict=True))
            driver = cli.drive_all(*(f"{name}={phase.value}" for name, phase in phases.items()))
            assert driver.stdout is not None
            held = {driver.stdout.readline() for _ in ("open", *PHASES)} - {b"open\n"}
            assert held == {f"held {task_id}\n".encode() for task_id in task_ids}
            seqs = {}
            for task_id, phase in phases.items():
                state = await runtime.state(task_id)
                rows = await runtime.rows(task_id)
                assert f'"phase":"{phase.value}"'.encode() in b"".join(row.data for row in rows)
                if phase is Phase.STATE_CLEANUP:
                    with pytest.raises(Conflict, match="is over: succeeded"):
                        await runtime.cancel(task_id, by="test")
                else:
                    seqs[task_id] = (await runtime.cancel(task_id, by="test")).seq
            (cli.home / "release").touch()
            assert await anyio.to_thread.run_sync(driver.wait, SECONDS_MAX) == 0
            for task_id, phase in phases.items():
                state = await runtime.state(task_id)
                wanted = "succeeded" if phase is Phase.STATE_CLEANUP else "cancelled"
                assert state.conclusion is not None and state.ended
                assert (phase, state.conclusion.status) == (phase, wanted)
                assert (await runtime.verify(task_id)).ok
                after = await runtime.rows(task_id, seqs.get(task_id, state.seq))
                assert "CallIntended" not in {row.type for row in after}, phase
                assert not (cli.state / "workspaces" / task_id / "work").exists()

    anyio.run(through)
    assert set(cli.effects().values()) == {1}
