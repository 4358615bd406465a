from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio
import pytest

from agent_runtime.types import Effect, EffectPolicy
from agent_runtime_tools import shell
from tests.tools.conftest import Workbench

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("blocking", [False, True])
async def test_output_has_both_streams_in_order_and_the_exit_code_of_the_shell(
    use: Workbench, blocking: bool
) -> None:
    use.blocking = blocking
    result = await use("shell", command="echo out; echo err >&2; echo out again; exit 3")
    assert (result.ok, result.exit, result.kind) == (False, 3, "failed")
    assert result.output == "out\nerr\nout again\n"


async def test_a_list_is_run_as_it_is_without_a_shell(use: Workbench) -> None:
    result = await use("shell", command=["printf", "%s", "$HOME; `x` *"])
    assert (result.ok, result.output) == (True, "$HOME; `x` *")


@pytest.mark.parametrize(
    ("command", "exit_code"),
    [
        ("kill -9 $$", 137),
        ("kill -TERM $$", 143),
        ("no-such-program", 127),
        (["no-such-program"], 127),
        (["/"], 126),
    ],
)
async def test_exit_codes_are_a_shells(
    use: Workbench, command: str | list[str], exit_code: int
) -> None:
    for use.blocking in (False, True):
        result = await use("shell", command=command)
        assert (result.ok, result.exit) == (False, exit_code)


async def test_it_runs_in_the_asked_directory_of_the_workspace_and_nowhere_else(
    use: Workbench, tmp_path: Path
) -> None:
    (use.workspace / "sub").mkdir()
    (use.workspace / "out").symlink_to(tmp_path)
    assert (await use("shell", command="pwd", cwd="sub")).output == f"{use.workspace}/sub\n"
    for cwd in ("..", "/", "out", "sub/../..", "missing", f"{use.workspace}-2"):
        assert (await use("shell", command="pwd", cwd=cwd)).kind == "refused"


async def test_it_sees_the_calls_environment_and_not_the_workers(
    use: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKER_SECRET", "hush")
    use.env["GIVEN"] = "yes"
    result = await use("shell", command="env; read -r line || echo no input")
    assert "GIVEN=yes\n" in result.output
    assert "WORKER_SECRET" not in result.output
    assert result.output.endswith("no input\n")


async def test_a_path_variable_is_there_even_if_the_call_has_none(use: Workbench) -> None:
    use.env.clear()
    assert (await use("shell", command="ls / > /dev/null")).ok


async def test_a_time_out_kills_the_command_with_detached_children_and_keeps_the_output(
    use: Workbench,
) -> None:
    """Stop means stop: also for a child that has left the session."""
    result = await use(
        "shell",
        command="echo started; setsid sleep 300 & echo $! > child; sleep 300",
        timeout_seconds=0.5,
    )
    assert (result.ok, result.exit, result.kind) == (False, 124, "timeout")
    assert result.output.startswith("started\n[timed out after 0.5 s")
    assert _is_dead(int(use.read("child")))


async def test_a_command_that_ignores_signals_ends_at_its_time_out(use: Workbench) -> None:
    result = await use("shell", command="trap '' TERM INT; sleep 300", timeout_seconds=0.2)
    assert result.exit == 124


async def test_a_background_child_that_holds_the_output_does_not_hang_the_call(
    use: Workbench,
) -> None:
    with anyio.fail_after(5):
        result = await use("shell", command="sleep 300 & echo $! > child; echo done")
    assert result.ok
    assert result.output.startswith("done\n[a background process still holds the output")
    pid = int(use.read("child"))
    assert not _is_dead(pid)
    os.kill(pid, 9)


async def test_a_cancelled_call_kills_its_command(use: Workbench) -> None:
    async def wait_for_start() -> None:
        while not (use.workspace / "child").exists() or not use.read("child"):
            await anyio.lowlevel.checkpoint()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tg:
            tg.start_soon(lambda: use("shell", command="echo $$ > child; exec sleep 300"))
            await wait_for_start()
            tg.cancel_scope.cancel()
        pid = int(use.read("child"))
        while not _is_dead(pid):
            await anyio.lowlevel.checkpoint()


async def test_long_output_is_cut_in_its_middle_and_whole_in_raw(use: Workbench) -> None:
    result = await use("shell", command="seq 1 20000")
    assert len(result.output) <= 10_000
    assert result.output.startswith("1\n2\n")
    assert result.output.endswith("19999\n20000\n")
    assert "line ends cut …]" in result.output
    assert result.raw == "".join(f"{n}\n" for n in range(1, 20001)).encode()


async def test_a_flood_is_read_to_its_end_counted_and_bounded(use: Workbench) -> None:
    result = await use("shell", command="head -c 30000000 /dev/zero | tr '\\0' x; echo end")
    assert result.ok
    assert result.raw is not None
    assert len(result.raw) < (8 << 20) + 200
    assert result.raw.endswith(b"xend\n")
    assert b" of 30,000,004 bytes cut" in result.raw
    assert result.data["output_bytes"] == 30_000_004


async def test_output_that_is_not_utf8_is_shown_with_replacements_and_exact_in_raw(
    use: Workbench,
) -> None:
    result = await use("shell", command="printf 'caf\\351\\n'")
    assert (result.output, result.raw) == ("caf�\n", b"caf\xe9\n")


async def test_a_nul_character_is_refused(use: Workbench) -> None:
    assert (await use("shell", command="echo \0")).kind == "refused"


async def test_many_calls_leave_no_descriptor_open(use: Workbench) -> None:
    await use("shell", command="true")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        await use("shell", command=[sys.executable, "-S", "-c", "print(1)"])
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("policy", "effect"),
    [
        (EffectPolicy(), Effect.WORKSPACE),
        (EffectPolicy(network="allowed"), Effect.ONCE),
        (EffectPolicy(network="allowed", stated=Effect.READ), Effect.READ),
    ],
)
async def test_its_effect_is_what_it_can_reach_unless_the_author_states_it(
    policy: EffectPolicy, effect: Effect
) -> None:
    """DESIGN, effect ledger."""
    assert shell.shell.effect({"command": "true"}, policy) == effect


def _is_dead(pid: int) -> bool:
    """Gone, or a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
