"""Process 1 of a container: orphans are reaped, signals arrive, the exit code is the daemon's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import pytest

SECONDS_MAX = 30
PRELUDE = "from agent_runtime.first_process import leave_the_first\nleave_the_first()\n"
NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
MAY = sys.platform == "linux" and (
    shutil.which("unshare") is not None
    and subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode == 0
)

pytestmark = pytest.mark.skipif(not MAY, reason="a process 1 of one's own takes root on Linux")


def first(code: str) -> subprocess.Popen[str]:
    """A program that is process 1 of its namespace."""
    command = [*NAMESPACE, sys.executable, "-c", PRELUDE + code]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_orphans_are_reaped_and_the_exit_code_is_the_childs() -> None:
    code = f"""
import os, pathlib, sys, time
assert os.getpid() != 1 and os.getppid() == 1
reader, writer = os.pipe()
if os.fork() == 0:                      # a child that leaves a grandchild behind
    if os.fork() == 0:
        os.write(writer, str(os.getpid()).encode())
        os._exit(0)
    os._exit(0)
os.wait()
orphan = pathlib.Path("/proc", os.read(reader, 20).decode())
end = time.monotonic() + {SECONDS_MAX}
while orphan.exists() and time.monotonic() < end:
    time.sleep(0.01)
print(orphan.exists())
sys.exit(7)
"""
    with first(code) as process:
        out, _ = process.communicate(timeout=2 * SECONDS_MAX)
    assert (out, process.returncode) == ("False\n", 7)


def test_a_signal_to_process_1_ends_a_child_that_does_not_handle_it() -> None:
    """`docker stop` while the daemon still starts. The kernel keeps signals from a process 1 that
    has no handler, so that without it the stop would take until the SIGKILL."""
    with first("import time\nprint('up', flush=True)\ntime.sleep(600)") as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        os.kill(_child_of(process.pid), 15)
        assert process.wait(SECONDS_MAX) == 128 + 15


def _child_of(pid: int) -> int:
    """Process 1 of the namespace, as it is called outside."""
    end = time.monotonic() + SECONDS_MAX
    while time.monotonic() < end:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            if found := file.read().split():
                return int(found[0])
        time.sleep(0.01)
    raise AssertionError(f"{pid} has no child")


def test_any_other_process_goes_on_as_it_is() -> None:
    code = f"import os\nbefore = os.getpid()\n{PRELUDE}print(before == os.getpid())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "True\n", done
