from __future__ import annotations

import ast
import os
import sys
from pathlib import Path

import anyio
import pytest

from agent_runtime.types import ToolCall
from agent_runtime_tools import python
from tests.tools.conftest import Workbench

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("blocking", [False, True])
async def test_variables_live_from_call_to_call(use: Workbench, blocking: bool) -> None:
    use.blocking = blocking
    first = await use("python", code="import math\ndef area(r):\n    return math.pi * r\nx = 2")
    assert (first.ok, first.output, first.data["value"]) == (True, "", None)
    second = await use("python", code="print('r =', x)\nround(area(x), 2)")
    assert (second.output, second.data["value"]) == ("r = 2\n6.28", "6.28")
    assert (await use("python", code="_")).data["value"] == "6.28"


async def test_what_children_print_is_there_in_order(use: Workbench) -> None:
    code = "import subprocess, sys\nprint(1)\nsys.stdout.flush()\nsubprocess.run(['echo', '2'])\n"
    result = await use("python", code=code + "print(3, file=sys.stderr)\nNone")
    assert result.output == "1\n2\n3\n"


async def test_an_exception_shows_its_traceback_and_keeps_the_variables(use: Workbench) -> None:
    await use("python", code="kept = 1\ndef f():\n    return 1 / 0")
    result = await use("python", code="f()")
    assert (result.ok, result.kind, result.data["error"]) == (False, "failed", "ZeroDivisionError")
    lines = result.output.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1] == '  File "<call 2>", line 1, in <module>'
    assert "    return 1 / 0" in lines
    assert (await use("python", code="kept")).output == "1"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("1 +", "SyntaxError"),
        ("exit(3)", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("def f(): f()\nf()", "RecursionError"),
        ("class A:\n    def __repr__(self): raise ValueError('no')\nA()", "ValueError"),
        ("class E(Exception):\n    def __str__(self): raise ValueError\nraise E", "E"),
        ("x = '\0'", "null bytes"),
        ("input()", "EOFError"),
    ],
)
async def test_code_that_fails_does_not_end_the_interpreter(
    use: Workbench, code: str, error: str
) -> None:
    await use("python", code="alive = 'yes'")
    result = await use("python", code=code)
    assert (result.ok, result.kind) == (False, "failed")
    assert error in result.output or error in str(result.data["error"])
    assert (await use("python", code="alive")).output == "'yes'"


async def test_a_time_out_kills_it_and_the_next_call_says_that_it_was_restarted(
    use: Workbench,
) -> None:
    await use("python", code="x = 1")
    late = await use(
        "python", code="print('on', flush=True)\nwhile True: pass", timeout_seconds=0.4
    )
    assert (late.ok, late.kind, late.exit) == (False, "timeout", 124)
    assert late.output == "on\n[timed out after 0.4 s: the interpreter was killed]"
    after = await use("python", code="'x' in globals()")
    assert after.output.startswith("[the interpreter was restarted (it was killed at its time")
    assert after.data["value"] == "False"
    assert (await use("python", code="1")).output == "1"


async def test_an_interpreter_that_ends_itself_is_reported_and_restarted(use: Workbench) -> None:
    ended = await use("python", code="import os\nprint('bye', flush=True)\nos._exit(7)")
    assert (ended.ok, ended.exit) == (False, 7)
    assert ended.output == "bye\n[the interpreter ended with code 7]"
    killed = await use("python", code="import os\nos.kill(os.getpid(), 9)")
    assert (killed.output.splitlines()[-1], killed.exit) == (
        "[the interpreter ended with code 137]",
        137,
    )


async def test_a_flood_is_bounded_and_a_long_value_is_cut(use: Workbench) -> None:
    flood = await use("python", code="print('x' * 20_000_000)\n'y' * 50_000")
    assert flood.ok
    assert len(flood.output) <= 10_000
    assert flood.data["output_bytes"] == 20_000_001
    assert flood.raw is not None and len(flood.raw) < 9 << 20
    assert len(flood.data["value"]) == 50_002


async def test_a_long_program_is_taken(use: Workbench) -> None:
    code = "total = 0\n" + "total += 1\n" * 8_000 + "total"
    assert (await use("python", code=code)).output == "8000"


async def test_it_is_the_tasks_python_and_not_the_workers(use: Workbench, tmp_path: Path) -> None:
    fake = tmp_path / "bin/python3"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\nTHE_TASKS=yes exec {sys.executable} "$@"\n', "utf-8")
    fake.chmod(0o755)
    use.env["PATH"] = str(fake.parent)
    assert (await use("python", code="import os; os.environ['THE_TASKS']")).output == "'yes'"


async def test_without_a_python_on_the_path_it_says_what_to_do(use: Workbench) -> None:
    use.env["PATH"] = "/nowhere"
    result = await use("python", code="1")
    assert result.kind == "refused"
    assert "environment.python" in result.output


async def test_a_module_of_the_workspace_does_not_break_the_driver(use: Workbench) -> None:
    for name in ("json", "ast", "types", "traceback", "linecache"):
        use.write(f"{name}.py", "raise SystemExit('not yours')\n")
    use.write("mine.py", "value = 5\n")
    assert (await use("python", code="import mine\nmine.value")).output == "5"


async def test_code_that_writes_to_the_drivers_channel_loses_its_interpreter(
    use: Workbench,
) -> None:
    junk = "import os\ndef junk(fd):\n    try: os.write(fd, b'junk\\n')\n    except OSError: pass\n"
    code = junk + "for fd in range(3, 256): junk(fd)"
    assert not (await use("python", code=code)).ok
    assert "was restarted" in (await use("python", code="2")).output


async def test_the_driver_is_read_by_old_pythons(use: Workbench) -> None:
    """The task's interpreter may be years older than the runtime's."""
    ast.parse(Path(python.DRIVER).read_text("utf-8"), feature_version=(3, 8))


async def test_a_background_process_does_not_hold_a_call_up(use: Workbench) -> None:
    code = "import subprocess\np = subprocess.Popen(['sleep', '300'])\np.pid"
    with anyio.fail_after(5):
        started = await use("python", code=code)
        assert (await use("python", code="p.kill(), p.wait()")).ok
    assert started.data["value"].isdigit()


async def test_a_cancelled_call_kills_the_interpreter(use: Workbench) -> None:
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tg:
            code = "open('started', 'w').close()\nwhile True: pass"
            tg.start_soon(lambda: use("python", code=code))
            while not (use.workspace / "started").exists():
                await anyio.lowlevel.checkpoint()
            tg.cancel_scope.cancel()
        result = await use("python", code="3")
    assert "was restarted" in result.output and result.data["value"] == "3"


async def test_closing_leaves_no_process_and_no_descriptor(use: Workbench) -> None:
    before = len(os.listdir("/proc/self/fd"))
    interpreter = python.Interpreter()
    call = ToolCall(
        call_id="c",
        tool="python",
        arguments={"code": "import os\nos.getpid()"},
        workspace=str(use.workspace),
        env=use.env,
    )
    result = await anyio.to_thread.run_sync(interpreter.run, call)
    pid = int(result.data["value"])
    interpreter.close()
    assert not Path(f"/proc/{pid}").exists()
    assert len(os.listdir("/proc/self/fd")) == before
