from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent_runtime.cli.run import read_spec
from agent_runtime.errors import UsageError
from agent_runtime.loop import codec
from agent_runtime.workspaces import quota
from tests.cli.conftest import FIX, Fixed, WriteTask, git
from tests.cli.helpers import SECONDS_MAX, UNSAFE, Cli
from tests.workspaces.test_quota import backing_files


def waits_for(flag: Path) -> str:
    """A shell command that runs until a file outside of the workspace exists."""
    return f"while [ ! -e {flag} ]; do sleep 0.02; done; echo done > out.txt"


def test_json_lines_are_the_rows_of_the_log_and_the_last_one_is_the_result(fixed: Fixed) -> None:
    """DESIGN, "JSON": one stored event a line, exactly the log's row; last line the result."""
    *events, result = (json.loads(line) for line in fixed.out.splitlines())
    assert [row["seq"] for row in events] == list(range(1, len(events) + 1))
    assert set(events[0]) == {
        "task_id", "seq", "type", "schema", "at_us", "data", "prev_hash", "hash",
    }  # fmt: skip
    assert events[0]["type"] == "TaskSubmitted" and events[-1]["type"] == "TaskEnded"
    assert result["type"] == "result" and result["status"] == "succeeded"
    patch = Path(result["patch"]).read_bytes()
    assert b"+    return a + b" in patch and Path(result["certificate"]).is_file()
    assert result["failed_checks"] == result["unknown_effects"] == result["protected_files"] == []


def test_json_lines_hold_the_stored_bytes_that_the_hashes_are_over(fixed: Fixed) -> None:
    """Our contract: whoever keeps the lines can check the chain without the store."""
    head = codec.GENESIS
    for line in fixed.out.splitlines()[:-1]:
        row = json.loads(line)
        start = line.index('"data":') + len('"data":')
        data = line[start : line.index(',"prev_hash":', start)]
        text = (
            f"{head}\n{row['task_id']}\n{row['seq']}\n{row['type']}\n{row['schema']}\n"
            f"{row['at_us']}\n{len(data.encode())}\n{data}"
        )
        assert row["prev_hash"] == head
        head = hashlib.sha256(text.encode()).hexdigest()
        assert row["hash"] == head


@pytest.mark.long
def test_the_id_comes_first_and_the_way_to_the_result_last(cli: Cli, repository: Path) -> None:
    (cli.home / "task.yaml").write_text(FIX, encoding="utf-8")
    done = cli("run", "task.yaml", UNSAFE)
    assert done.code == 0, done
    first, *_ = lines = done.out.splitlines()
    assert first.startswith("task_")
    assert "succeeded: every check passed" in lines
    assert any(line.startswith("  check adds: ok, exit 0") for line in lines)
    assert any("changed      calc.py" in line for line in lines)
    assert [line.split()[1] for line in lines[-3:]] == ["diff", "apply", "verify"]
    assert git(repository, "status", "--porcelain") == ""


def test_a_failed_task_ends_with_1_and_says_why_once(cli: Cli, shell_task: WriteTask) -> None:
    done = cli("run", str(shell_task("exit 3")), UNSAFE)
    assert done.code == 1
    assert "  ! try: failed\n" in done.out and "abort" not in done.out
    assert done.out.count("failed (failed): exit 3") == 1


@pytest.mark.long
def test_a_wrong_task_file_is_a_usage_error_and_stores_nothing(cli: Cli, repository: Path) -> None:
    (cli.home / "task.yaml").write_text(FIX.replace("goal:", "gaol:"), encoding="utf-8")
    done = cli("run", "task.yaml", "--json", UNSAFE)
    assert done.code == 2
    assert done.err.startswith("error: ") and "gaol" in done.err
    assert done.lines()[-1] == {
        "type": "error", "error": "UsageError", "message": done.err.removeprefix("error: ").strip(),
        "exit": 2,
    }  # fmt: skip
    assert cli("ps", "--json").json() == []


def test_a_task_file_comes_from_standard_input(cli: Cli, repository: Path) -> None:
    done = cli("run", "-", UNSAFE, stdin=FIX)
    assert done.code == 0, done


@pytest.mark.long
def test_a_goal_without_a_brain_waits_with_9_and_says_what_can_be_done(
    cli: Cli, repository: Path
) -> None:
    """Exit code 9: waiting for a person or a model."""
    done = cli("run", "Make the tests pass", "--json", UNSAFE, cwd=repository)
    assert done.code == 9, done
    assert done.lines()[-1]["status"] == "waiting" and done.lines()[-1]["reason"] == "brain"
    assert "waiting for a brain" in done.err and "`plan`" in done.err
    [task] = cli("ps", "--json").json()
    assert task["repo"] == str(repository)


def test_a_task_file_comes_from_a_pipe_and_a_directory_is_no_goal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found as a user: `run <(make)` and `run .` made tasks of the goals `/dev/fd/63` and `.`"""
    monkeypatch.chdir(tmp_path)
    reads, writes = os.pipe()
    os.write(writes, b"goal: Mend it\nworkspace: {repo: ./repo}\n")
    os.close(writes)
    try:
        spec = read_spec(f"/dev/fd/{reads}", None)
    finally:
        os.close(reads)
    assert spec.goal == "Mend it" and spec.workspace is not None
    assert spec.workspace.repo == str(tmp_path / "repo")
    with pytest.raises(UsageError, match=r"'\.' is a directory.* --repo \."):
        read_spec(".", None)


@pytest.mark.long
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_output_for_which_there_is_no_room_is_no_defect(cli: Cli) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "agent_runtime", "ps", "--json"],
            stdout=full, stderr=subprocess.PIPE, env=cli.environment(), text=True,
        )  # fmt: skip
    assert done.returncode == 7, done
    assert done.stderr.startswith("error: the output cannot be written: No space left on device")


def test_attach_to_no_task_ends_with_5(cli: Cli) -> None:
    """Found as a user: it was called a defect."""
    done = cli("attach", "deadbeef")
    assert done.code == 5 and "no task is called 'deadbeef'" in done.err


def test_a_goal_outside_of_a_checkout_asks_for_a_repository(cli: Cli) -> None:
    done = cli("run", "Make the tests pass")
    assert done.code == 2 and "--repo" in done.err


@pytest.mark.long
def test_ctrl_c_stops_gracefully_and_resume_goes_on(
    cli: Cli, shell_task: WriteTask, tmp_path: Path
) -> None:
    """Exit code 130: detached. Nothing accepted is lost."""
    flag = tmp_path / "flag"
    path = shell_task(waits_for(flag))
    running = cli.start("run", str(path), "--json", UNSAFE)
    running.wait_for_event("CallIntended")
    running.signal(signal.SIGINT)
    stopped = running.finish()
    assert stopped.code == 130, stopped
    *_, interrupted, result = stopped.lines()
    assert interrupted["type"] == "Interrupted" and result["status"] == "running"
    task_id = result["task_id"]
    assert f"agent-runtime resume {task_id[-8:]}" in stopped.err

    listed = cli("ps")
    assert "interrupted" in listed.out and "resume" in listed.err
    flag.touch()
    done = cli("resume", task_id[-8:], "--json", UNSAFE)
    assert done.code == 0, done
    first, *rows, _ = done.lines()
    assert (first["type"], first["seq"]) == ("LeaseTaken", interrupted["seq"] + 1), "only news"
    announced = [row for row in rows if row["type"] == "CallIntended"]
    assert not announced, "the same call runs again, it is not announced as another attempt"


def test_resume_says_where_the_task_stood_and_then_only_what_is_new(
    cli: Cli, shell_task: WriteTask
) -> None:
    """The whole history again would hide what is going on now; `logs` has it."""
    path = str(shell_task("true", "policy: {approvals: {shell: ask}}\n"))
    waited = cli("run", path, "--wait-seconds", "0", UNSAFE)
    assert waited.code == 9, waited
    name = waited.out.splitlines()[0][-8:]
    again = cli("resume", name, "--wait-seconds", "0", UNSAFE)
    assert again.code == 9, again
    stood, asked, approve, *_ = again.out.splitlines()
    assert stood.startswith(f"{name} goes on after event "), again.out
    assert stood.endswith(", working, 0 of 1 steps ended")
    assert "waits for a decision" in asked and f"approve {name}" in approve
    assert "submitted by" in waited.out and "submitted by" not in again.out
    assert cli("approve", name).code == 0
    done = cli("resume", name, UNSAFE)
    assert done.code == 0 and "submitted by" not in done.out and "succeeded" in done.out


def test_sigterm_stops_as_gracefully(cli: Cli, shell_task: WriteTask, tmp_path: Path) -> None:
    running = cli.start("run", str(shell_task(waits_for(tmp_path / "flag"))), "--json", UNSAFE)
    running.wait_for_event("CallIntended")
    running.signal(signal.SIGTERM)
    stopped = running.finish()
    assert stopped.code == 130 and stopped.lines()[-2]["type"] == "Interrupted"


@pytest.mark.long
def test_a_closed_pipe_stops_as_gracefully(cli: Cli, shell_task: WriteTask, tmp_path: Path) -> None:
    """`run | head -1` must not leave a driver that nobody sees."""
    path = shell_task(waits_for(tmp_path / "flag"))
    with subprocess.Popen(
        [sys.executable, "-m", "agent_runtime", "run", str(path), UNSAFE],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=cli.environment(),
        cwd=cli.home,
    ) as running:
        assert running.stdout is not None and running.stderr is not None
        task_id = running.stdout.readline().decode().strip()
        running.stdout.close()
        assert cli("steer", task_id, "say something").code == 0
        assert running.wait(SECONDS_MAX) == 130
        assert b"resume with" in running.stderr.read()
    assert cli("logs", task_id, "--types", "Interrupted").out


@pytest.mark.long
def test_a_killed_run_is_shown_as_interrupted_and_can_be_resumed(
    cli: Cli, shell_task: WriteTask, tmp_path: Path
) -> None:
    """Kill it anywhere."""
    flag = tmp_path / "flag"
    running = cli.start("run", str(shell_task(waits_for(flag))), "--json", UNSAFE)
    task_id = running.wait_for_event("CallIntended")["task_id"]
    running.signal(signal.SIGKILL)
    assert running.finish().code == -signal.SIGKILL
    shown = cli("show", task_id, "--json").json()
    assert shown["interrupted"] and shown["owner"] is None
    flag.touch()
    done = cli("resume", task_id, UNSAFE)
    assert done.code == 0, done


@pytest.mark.long
def test_a_task_that_is_driven_cannot_be_driven_twice(
    cli: Cli, shell_task: WriteTask, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    running = cli.start("run", str(shell_task(waits_for(flag))), "--json", UNSAFE)
    task_id = running.wait_for_event("CallIntended")["task_id"]
    refused = cli("resume", task_id, UNSAFE)
    assert refused.code == 6 and f"pid {running.process.pid}" in refused.err
    following = cli.start("logs", "-f", task_id)
    following.wait_for("CallIntended")
    flag.touch()
    assert running.finish().code == 0
    followed = following.finish()
    assert followed.code == 0 and "TaskEnded" in followed.out.splitlines()[-1]
    ended = cli("resume", task_id, UNSAFE)
    assert ended.code == 6 and "succeeded" in ended.err


def test_pause_freezes_the_call_and_resume_goes_on_with_it(
    cli: Cli, shell_task: WriteTask, tmp_path: Path
) -> None:
    """The command counts its own steps, and would end within one of them."""
    flag, count = tmp_path / "flag", tmp_path / "count"
    counting = f"while ! test -e {flag}; do echo >> {count}; sleep 0.02; done"
    running = cli.start("run", str(shell_task(counting)), "--json", UNSAFE)
    task_id = running.wait_for_event("CallIntended")["task_id"]
    _wait_until(count.exists)
    assert cli("pause", task_id).code == 0
    running.wait_for_event("PauseRequested")
    _wait_until(lambda: _stands_still(count))
    flag.touch()
    assert cli("ps", "--json").json()[0]["status"] == "paused"
    assert running.process.poll() is None
    on = cli("resume", task_id, UNSAFE)
    assert on.code == 0 and "goes on in" in on.err
    assert running.finish().code == 0


def _wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def _stands_still(file: Path) -> bool:
    """Ten times as long as the writer waits between two lines."""
    before = file.stat().st_size
    time.sleep(0.2)
    return file.stat().st_size == before


@pytest.mark.long
def test_a_pause_between_calls_ends_run_with_9(
    cli: Cli, shell_task: WriteTask, tmp_path: Path
) -> None:
    running = cli.start("run", str(shell_task(waits_for(tmp_path / "flag"))), "--json", UNSAFE)
    task_id = running.wait_for_event("CallIntended")["task_id"]
    running.signal(signal.SIGINT)
    running.finish()
    assert cli("pause", task_id).code == 0
    (tmp_path / "flag").touch()
    assert cli("ps", "--json").json()[0]["status"] == "paused"
    assert cli("resume", task_id, UNSAFE).code == 0


@pytest.mark.long
def test_cancel_ends_a_task_that_nobody_drives(
    cli: Cli, shell_task: WriteTask, tmp_path: Path
) -> None:
    running = cli.start("run", str(shell_task(waits_for(tmp_path / "flag"))), "--json", UNSAFE)
    task_id = running.wait_for_event("CallIntended")["task_id"]
    running.signal(signal.SIGINT)
    running.finish()
    asked = cli("cancel", task_id, "--no-wait")
    assert asked.code == 0 and "resume" in asked.err
    done = cli("cancel", task_id, "--reason", "enough")
    assert done.code == 0 and "cancelled" in done.out, done
    assert cli("cancel", task_id).code == 6


def test_cancel_ends_a_task_that_another_process_drives(
    cli: Cli, shell_task: WriteTask, tmp_path: Path
) -> None:
    """Stop means stop; `run` then ends with 1."""
    running = cli.start("run", str(shell_task(waits_for(tmp_path / "flag"))), "--json", UNSAFE)
    task_id = running.wait_for_event("CallIntended")["task_id"]
    done = cli("cancel", task_id)
    assert done.code == 0 and "cancelled" in done.out, done
    assert running.finish().code == 1


def test_more_resources_than_the_operator_allows_are_refused_before_anything_is_stored(
    cli: Cli, shell_task: WriteTask
) -> None:
    path = shell_task("true", "environment: {resources: {memory: 4GiB}}\n")
    cli.env["AGENT_RUNTIME_SANDBOX_MEMORY_BYTES_MAX"] = str(1 << 30)
    refused = cli("run", str(path), UNSAFE)
    assert refused.code == 2 and "sandbox_memory_bytes_max" in refused.err, refused
    assert cli("ps", "--json").json() == []


@pytest.mark.long
def test_a_disk_quota_outlives_a_kill_and_goes_with_the_task(
    cli: Cli, shell_task: WriteTask, tmp_path: Path
) -> None:
    state = cli.state
    if reason := quota.unavailable(str(state / "workspaces")):
        pytest.skip(f"no disk quotas here: {reason}")
    flag = tmp_path / "flag"
    fill = "dd if=/dev/zero of=$HOME/zeros bs=1M count=200 2>&1; test $? = 1"
    path = shell_task(f"{waits_for(flag)}; {fill}", "environment: {resources: {disk: 64MiB}}\n")
    running = cli.start("run", str(path), "--json", UNSAFE)
    task_id = running.wait_for_event("CallIntended")["task_id"]
    running.process.kill()
    running.finish()
    disk = state / "workspaces" / task_id / "disk"
    assert disk.is_mount()
    flag.touch()
    done = cli("resume", task_id, UNSAFE)
    assert done.code == 0, done
    assert not disk.exists() and backing_files(state) == []
    shown = cli("show", task_id, "--json").json()
    assert shown["workspace"]["sandbox"] == "unsafe-no-sandbox"
    limits = shown["workspace"]["limits"]
    assert limits["disk"].startswith("a disk of its own (ext4 in a file), 64 MiB")
    assert f"disk: {limits['disk']}" in cli("show", task_id).out
    assert f"disk: {limits['disk']}" in cli("report", task_id).out
