"""The contract of `ports.Sandbox`: every kind, also the one that is none, keeps it."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import anyio
import pytest

from agent_runtime.errors import (
    DeadlineExceeded,
    PreviewFailed,
    SandboxUnavailable,
    UsageError,
    WorkerLost,
)
from agent_runtime.ports import Sandbox, SandboxLimits, SandboxSession, SandboxSpec
from agent_runtime.sandboxes import cgroups
from tests.sandboxes.support import (
    MOUNT,
    AnySandbox,
    call,
    info,
    make_sandbox,
    make_spec,
    processes_with,
    until,
)

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="local sandboxes need Linux"),
]


@pytest.fixture
def anyio_backend() -> str:
    """Real processes live in real time."""
    return "asyncio"


@pytest.fixture(params=["bubblewrap", "container", "unsafe"])
def sandbox(request: pytest.FixtureRequest, tmp_path: Path) -> AnySandbox:
    return make_sandbox(request.param, tmp_path / "state")


@pytest.fixture
def spec(tmp_path: Path) -> SandboxSpec:
    return make_spec(tmp_path)


@pytest.fixture
async def session(sandbox: Sandbox, spec: SandboxSpec) -> AsyncIterator[SandboxSession]:
    session = await sandbox.open(spec)
    yield session
    await session.close()


# ---- calls -----------------------------------------------------------------------------------


async def test_both_kinds_fit_the_port(sandbox: Sandbox) -> None:
    probe = await sandbox.probe()
    assert probe.ok and probe.name == sandbox.name


async def test_a_tool_runs_in_the_worker_and_answers(session: SandboxSession) -> None:
    arguments: dict[str, Any] = {"text": "grüß\n", "n": 3, "f": 0.5, "deep": [{"a": None}]}
    result = await session.call(info("echo"), call("echo", **arguments), deadline_seconds=10)
    assert (result.ok, result.output, result.data) == (True, "grüß\n", arguments)


async def test_a_tool_that_needs_no_loop_gets_none(session: SandboxSession) -> None:
    result = await session.call(info("cheap"), call("cheap"), deadline_seconds=10)
    assert result.ok and len(result.output) == 500


async def test_a_preview_is_what_the_tool_says_and_runs_nothing(session: SandboxSession) -> None:
    async def preview(name: str, how: str = "") -> str:
        return await session.preview(info(name), call(name, how=how), deadline_seconds=10)

    assert (await preview("foreseen", "one line")).startswith("+one line in ")
    assert await preview("foreseen_cheaply") == "+blocking"
    assert await preview("echo") == "", "it has none"
    assert await preview("foreseen", "odd") == "caf\\udce9"
    assert "bytes left out" in await preview("foreseen", "large")
    with pytest.raises(PreviewFailed, match="the call would be refused: 'a' is protected"):
        await preview("foreseen", "refused")
    with pytest.raises(PreviewFailed, match="ValueError: the tool has a fault"):
        await preview("foreseen", "broken")
    with pytest.raises(PreviewFailed, match="makes no tool 'absent'"):
        await preview("absent")


async def test_a_preview_that_takes_too_long_ends_nothing_but_the_waiting(
    session: SandboxSession,
) -> None:
    """A background process of the task must not die of a question."""
    with pytest.raises(PreviewFailed, match=r"not made within 0.1 s"):
        await session.preview(info("foreseen"), call("foreseen", how="late"), deadline_seconds=0.1)
    result = await session.call(info("echo"), call("echo", text="alive"), deadline_seconds=10)
    assert result.output == "alive"


async def test_a_worker_that_dies_of_a_preview_is_lost(session: SandboxSession) -> None:
    with pytest.raises(WorkerLost):
        await session.preview(info("foreseen"), call("foreseen", how="die"), deadline_seconds=10)


async def test_calls_overlap_even_when_tools_block(session: SandboxSession) -> None:
    """A blocking tool holds up nobody: each call has its own thread."""
    answers: list[str] = []

    async def one(name: str, **arguments: Any) -> None:
        result = await session.call(info(name), call(name, **arguments), deadline_seconds=20)
        answers.append(result.output)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: one("block", seconds=1.0))
        tasks.start_soon(lambda: one("nap", seconds=1.0))
        await anyio.sleep(0.1)
        tasks.start_soon(lambda: one("echo", text="quick"))
    assert answers[0] == "quick" and sorted(answers[1:]) == ["blocked", "slept"]


async def test_a_hundred_calls_at_once_all_get_their_own_answer(session: SandboxSession) -> None:
    answers: dict[int, str] = {}

    async def one(number: int) -> None:
        result = await session.call(
            info("echo"), call("echo", text=str(number) * 1000), deadline_seconds=30
        )
        answers[number] = result.output

    async with anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(one, number)
    assert answers == {number: str(number) * 1000 for number in range(100)}


async def test_a_refusal_is_data_with_its_paths(session: SandboxSession) -> None:
    result = await session.call(info("refuse"), call("refuse"), deadline_seconds=10)
    assert (result.ok, result.kind, result.paths) == (False, "refused", ("conftest.py",))


@pytest.mark.parametrize(
    ("tool", "words"),
    [
        ("fail", "ValueError: the tool has a fault"),
        ("no_json", "object is no JSON value"),
        ("no_result", "returned str, no ToolResult"),
        ("no_kind", "Invalid enum value 'weird'"),
        ("no_text", "Expected `str`, got `int` - at `$.output`"),
        ("absent", "makes no tool 'absent'"),
    ],
)
async def test_a_broken_tool_is_an_internal_failure_with_a_short_traceback(
    session: SandboxSession, tool: str, words: str
) -> None:
    result = await session.call(info(tool), call(tool), deadline_seconds=10)
    assert (result.ok, result.kind) == (False, "internal")
    assert words in result.output and len(result.output) < 5000


async def test_a_module_that_cannot_be_imported_is_named(session: SandboxSession) -> None:
    result = await session.call(
        info("x", source="no_such_module:tools"), call("x"), deadline_seconds=10
    )
    assert result.kind == "internal" and "no_such_module" in result.output


async def test_what_a_tool_prints_never_reaches_the_stream(session: SandboxSession) -> None:
    for _ in range(2):
        result = await session.call(info("chatter"), call("chatter"), deadline_seconds=10)
        assert result.output == "quiet"


async def test_a_large_result_is_cut_to_head_and_tail(session: SandboxSession) -> None:
    """`limits.output_bytes` is 1 MiB here."""
    result = await session.call(info("large"), call("large", bytes=5 << 20), deadline_seconds=30)
    raw = result.raw or b""
    assert result.output.startswith("hx") and result.output.endswith("xt")
    assert len(result.output) <= 1 << 20 and "bytes left out" in result.output
    assert raw.startswith(b"hx") and raw.endswith(b"xt") and len(raw) <= 1 << 20


async def test_file_names_that_are_no_unicode_come_back_escaped(session: SandboxSession) -> None:
    result = await session.call(info("odd"), call("odd"), deadline_seconds=10)
    assert (result.ok, result.output) == (True, "name \\udcff")
    assert result.data == {"key": ["\\udcfe"]} and result.paths == ("\\udcfd",)


async def test_arguments_that_are_no_json_are_refused_before_they_are_sent(
    session: SandboxSession,
) -> None:
    for value in (object(), 1 << 80, "\udcff"):
        result = await session.call(info("echo"), call("echo", text=value), deadline_seconds=10)
        assert (result.ok, result.kind) == (False, "bad_input")
    frozen = call("echo", text="x", more=MappingProxyType({"a": 1}))
    result = await session.call(info("echo"), frozen, deadline_seconds=10)
    assert result.data["more"] == {"a": 1}


async def test_a_cancelled_call_leaves_the_session_usable(session: SandboxSession) -> None:
    with anyio.move_on_after(0.2) as scope:
        await session.call(info("nap"), call("nap", seconds=30), deadline_seconds=60)
    assert scope.cancelled_caught
    big = "y" * 3_000_000
    with anyio.move_on_after(0.0):
        await session.call(info("echo"), call("echo", text=big), deadline_seconds=60)
    result = await session.call(info("echo"), call("echo", text="still"), deadline_seconds=10)
    assert result.output == "still"


async def test_commands_see_the_sandboxs_variables_and_not_the_daemons(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAEMON_API_KEY", "secret-value")
    session = await sandbox.open(make_spec(tmp_path, env={"PROJECT": "ours"}))
    try:
        result = await session.call(info("where"), call("where"), deadline_seconds=10)
        shown = await session.call(
            info("shell"), call("shell", command="env; cat /proc/*/environ"), deadline_seconds=10
        )
    finally:
        await session.close()
    env = result.data["env"]
    assert env["PROJECT"] == "ours" and "DAEMON_API_KEY" not in env
    assert env["PATH"].startswith(os.path.join(sys.prefix, "bin") + ":")
    assert result.data["home"] == env["HOME"] != ""
    assert b"PROJECT=ours" in (shown.raw or b"")
    if sandbox.name != "unsafe-no-sandbox":
        assert b"secret-value" not in (shown.raw or b"")


async def test_the_working_directory_is_the_workspace(
    sandbox: Sandbox, session: SandboxSession, spec: SandboxSpec
) -> None:
    result = await session.call(info("where"), call("where"), deadline_seconds=10)
    inside = MOUNT if sandbox.name == "bubblewrap" else spec.workspace
    assert (result.data["cwd"], result.data["workspace"]) == (inside, inside)
    assert spec.workspace not in result.data["path"] and "" not in result.data["path"]


# ---- deadlines and deaths ------------------------------------------------------------------------


async def test_a_deadline_kills_everything_also_what_has_detached(
    sandbox: Sandbox, spec: SandboxSpec
) -> None:
    """Our contract: after the error, every process of the sandbox is dead."""
    session = await sandbox.open(spec)
    name, lost = f"detached-{os.getpid()}", []

    async def other() -> None:
        try:
            await session.call(info("nap"), call("nap", seconds=60), deadline_seconds=60)
        except WorkerLost as error:
            lost.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        with pytest.raises(DeadlineExceeded, match=r"'detach' had no result within 1\.5 s"):
            await session.call(info("detach"), call("detach", name=name), deadline_seconds=1.5)
        assert processes_with(name) == []
    assert len(lost) == 1
    with pytest.raises(WorkerLost):
        await session.call(info("echo"), call("echo", text="x"), deadline_seconds=5)
    await session.close()


async def test_a_dead_worker_is_lost_for_every_call_in_flight(
    sandbox: Sandbox, spec: SandboxSpec
) -> None:
    session = await sandbox.open(spec)
    lost: list[str] = []

    async def one(name: str, **arguments: Any) -> None:
        with pytest.raises(WorkerLost):
            await session.call(info(name), call(name, **arguments), deadline_seconds=30)
        lost.append(name)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: one("nap", seconds=60))
        tasks.start_soon(lambda: one("block", seconds=60))
        await anyio.sleep(0.3)
        tasks.start_soon(lambda: one("die"))
    assert sorted(lost) == ["block", "die", "nap"]


async def test_kill_9_of_the_worker_in_mid_call_is_worker_lost(
    sandbox: Sandbox, spec: SandboxSpec, tmp_path: Path
) -> None:
    session = await sandbox.open(spec)
    name = f"orphan-{os.getpid()}"

    async def kill() -> None:
        await until(lambda: processes_with(name))
        os.kill(worker_of(tmp_path / "state"), signal.SIGKILL)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kill)
        with pytest.raises(WorkerLost):
            await session.call(info("detach"), call("detach", name=name), deadline_seconds=30)
    assert processes_with(name) == []


def worker_of(state_dir: Path) -> int:
    """The worker of the only sandbox there is: the recorded inner process, or its child."""
    (record,) = (state_dir / "sandboxes" / "task_1").glob("*.json")
    inner = int(json.loads(record.read_bytes())["processes"][-1][0])
    children = Path(f"/proc/{inner}/task/{inner}/children").read_bytes().split()
    outer = b"--args" in Path(f"/proc/{inner}/cmdline").read_bytes().split(b"\0")
    return int(children[0]) if outer else inner


async def test_closing_ends_all_calls_and_may_be_repeated(
    sandbox: Sandbox, spec: SandboxSpec
) -> None:
    session = await sandbox.open(spec)
    name = f"closed-{os.getpid()}"

    async def one() -> None:
        with pytest.raises(WorkerLost):
            await session.call(info("detach"), call("detach", name=name), deadline_seconds=30)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one)
        await until(lambda: processes_with(name))
        tasks.start_soon(session.close)
        tasks.start_soon(session.close)
    await session.close()
    assert processes_with(name) == []


async def test_a_cancelled_owner_still_leaves_nothing(sandbox: Sandbox, spec: SandboxSpec) -> None:
    """Cleanup that awaits is shielded: cancellation cannot leave processes."""
    name = f"cancelled-{os.getpid()}"
    with anyio.CancelScope() as scope:
        session = await sandbox.open(spec)
        try:
            async with anyio.create_task_group() as tasks:

                async def stop() -> None:
                    await until(lambda: processes_with(name))
                    scope.cancel()

                tasks.start_soon(stop)
                await session.call(info("detach"), call("detach", name=name), deadline_seconds=30)
        finally:
            await session.close()
    assert scope.cancelled_caught and processes_with(name) == []


# ---- execute -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["no-such-command"], 127),
        (["/etc/passwd"], 126),
        (["sh", "-c", "kill -TERM $$"], 143),
        (["sh", "-c", "kill -KILL $$"], 137),
    ],
)
async def test_exit_codes_follow_shells(
    sandbox: Sandbox, spec: SandboxSpec, argv: list[str], code: int
) -> None:
    result = await sandbox.execute(spec, argv, deadline_seconds=20)
    assert (result.exit, result.timed_out) == (code, False)


async def test_argv_arrives_verbatim(sandbox: Sandbox, spec: SandboxSpec) -> None:
    odd = ["a b", "", "'\"$(id)`", "-n", "--", "zeile\nzwei", "ü", "*", "\\"]
    code = "import sys; sys.stdout.buffer.write('|'.join(sys.argv[1:]).encode())"
    result = await sandbox.execute(spec, ["python3", "-c", code, *odd], deadline_seconds=20)
    assert (result.exit, result.output) == (0, "|".join(odd).encode())


async def test_output_is_merged_in_order_and_binary_safe(
    sandbox: Sandbox, spec: SandboxSpec
) -> None:
    script = "printf 'one\\n'; printf 'two\\n' >&2; printf '\\000\\377\\n'"
    result = await sandbox.execute(spec, ["sh", "-c", script], deadline_seconds=20)
    assert (result.output, result.output_bytes) == (b"one\ntwo\n\x00\xff\n", 11)


async def test_a_flood_is_read_counted_and_cut(sandbox: Sandbox, spec: SandboxSpec) -> None:
    """100 MB must neither block the command nor fill the daemon."""
    script = "echo first; head -c 100000000 /dev/zero; echo last"
    result = await sandbox.execute(spec, ["sh", "-c", script], deadline_seconds=60)
    assert result.exit == 0 and result.output_bytes == 100_000_000 + len("first\nlast\n")
    assert result.output.startswith(b"first\n") and result.output.endswith(b"last\n")
    assert len(result.output) <= spec.limits.output_bytes and b"bytes left out" in result.output


async def test_a_deadline_is_124_and_keeps_what_was_said(
    sandbox: Sandbox, spec: SandboxSpec
) -> None:
    name = f"late-{os.getpid()}"
    script = f"echo said; (exec setsid sh -c 'exec sleep 600' {name} &) ; sleep 600"
    with anyio.fail_after(20):
        result = await sandbox.execute(spec, ["sh", "-c", script], deadline_seconds=1.0)
    assert (result.exit, result.timed_out, result.output) == (124, True, b"said\n")
    assert processes_with(name) == []


async def test_what_a_command_leaves_behind_dies_with_it(
    sandbox: Sandbox, spec: SandboxSpec
) -> None:
    """Also when it holds the output open: nobody waits for it."""
    code = (
        "import os,sys\n"
        "if os.fork() == 0:\n"
        "  os.setsid()\n"
        "  if os.fork() == 0: os.execvp('sleep', [sys.argv[1], '600'])\n"
        "  os._exit(0)\n"
        "os.wait(); print('done')"
    )
    name = f"left-{os.getpid()}"
    with anyio.fail_after(20):
        result = await sandbox.execute(spec, ["python3", "-c", code, name], deadline_seconds=15)
    assert (result.exit, result.output) == (0, b"done\n")
    assert [pid for pid in processes_with(name) if pid != os.getpid()] == []


async def test_writes_to_the_workspace_stay_and_home_is_elsewhere(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    spec = make_spec(tmp_path, home=str(home))
    script = 'pwd > here; echo "$HOME" > there; echo kept > "$HOME/note"'
    assert (await sandbox.execute(spec, ["sh", "-c", script], deadline_seconds=20)).exit == 0
    workspace = Path(spec.workspace)
    assert sorted(path.name for path in workspace.iterdir()) == ["here", "there"]
    assert (home / "note").read_text() == "kept\n"


async def test_without_a_home_there_is_one_that_nobody_keeps(
    sandbox: Sandbox, spec: SandboxSpec, tmp_path: Path
) -> None:
    script = 'echo x > "$HOME/x" && echo "$HOME"'
    result = await sandbox.execute(spec, ["sh", "-c", script], deadline_seconds=20)
    assert result.exit == 0
    assert not any(path.suffix == ".home" for path in (tmp_path / "state").rglob("*"))


async def test_a_cancelled_command_is_dead(sandbox: Sandbox, spec: SandboxSpec) -> None:
    name = f"stopped-{os.getpid()}"
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:

            async def stop() -> None:
                await until(lambda: processes_with(name))
                scope.cancel()

            tasks.start_soon(stop)
            await sandbox.execute(spec, ["sh", "-c", "sleep 600; true", name], deadline_seconds=600)
    assert scope.cancelled_caught and processes_with(name) == []


async def test_limits_hold(sandbox: Sandbox, tmp_path: Path) -> None:
    limits = SandboxLimits(file_bytes=1 << 20, open_files=64, memory_bytes=512 << 20)
    spec = make_spec(tmp_path, limits=limits)
    code = (
        "import os,resource,signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try: open('big','wb').write(b'x' * (2 << 20)); print('file')\n"
        "except OSError: pass\n"
        "try: [os.dup(1) for _ in range(100)]; print('files')\n"
        "except OSError: pass\n"
    )
    if "memory" not in cgroups.here().found:  # else see tests/sandboxes/test_cgroups.py
        code += "try: bytearray(1 << 30); print('memory')\nexcept MemoryError: pass\n"
    result = await sandbox.execute(spec, ["python3", "-c", code], deadline_seconds=20)
    assert (result.exit, result.output) == (0, b"")


async def test_a_workspace_that_does_not_exist_is_named(sandbox: Sandbox, tmp_path: Path) -> None:
    spec = make_spec(tmp_path, workspace=str(tmp_path / "absent"))
    with pytest.raises(SandboxUnavailable, match="absent"):
        await sandbox.execute(spec, ["true"], deadline_seconds=10)
    with pytest.raises(SandboxUnavailable, match="absent"):
        await sandbox.open(spec)


async def test_a_worker_that_cannot_start_says_why(sandbox: Sandbox, tmp_path: Path) -> None:
    spec = make_spec(tmp_path, limits=SandboxLimits(memory_bytes=4 << 20))
    with pytest.raises(SandboxUnavailable, match="did not start"):
        await sandbox.open(spec)


# ---- templates -----------------------------------------------------------------------------------


async def test_templates_are_filled_and_whole_expressions_keep_their_type(
    session: SandboxSession,
) -> None:
    variables: dict[str, Any] = {
        "steps": {"fix": {"output": "ok\n", "exit": 0, "data": [1, {"a": True}]}, "items": 5},
        "name": "x",
        "evil": "it's; $(true) `x`",
    }
    template = {
        "whole": "{{ steps.fix.exit }}",
        "nested": ["{{ steps['fix'].data }}", "exit={{ steps.fix.exit }}\n"],
        "items": "{{ steps.items }}",
        "filter": "{{ steps.fix.data | length }}",
        "lazy": "{{ range(3) | map('string') }}",
        "none": "{{ none }}",
        "quoted": "echo {{ evil | quote }}",
        "untouched": [1, None, True, "plain", "${#array[@]} %}", "a } }"],
        "raw": "{% raw %}\n-{{ a |\n+{% endraw %}\n{% endraw %}\n",
    }
    assert await session.render(template, variables, deadline_seconds=10) == {
        "whole": 0,
        "nested": [[1, {"a": True}], "exit=0\n"],
        "items": 5,
        "filter": 2,
        "lazy": ["0", "1", "2"],
        "none": None,
        "quoted": """echo 'it'"'"'s; $(true) `x`'""",
        "untouched": [1, None, True, "plain", "${#array[@]} %}", "a } }"],
        "raw": "-{{ a |\n+{% endraw %}\n",
    }


@pytest.mark.parametrize("sandbox", ["bubblewrap", "unsafe"], indirect=True)
@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ stpes.fix }}", "'stpes' is undefined; defined are: name, steps"),
        ("{{ steps.fxi.exit }}", "'fxi' is not defined there; there are: fix"),
        ("x {{ steps.fxi }}", "'fxi' is not defined there; there are: fix"),
        ("{{ [steps.fxi] }}", "'fxi' is not defined there; there are: fix"),
        ("{% if name %}x{% endif %}", "only expressions"),
        ("{# note #}{{ name }}", "only expressions"),
        ("{{ name", "not valid"),
        ("{{ name | nofilter }}", "not valid"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ name.__class__.__mro__ }}", "unsafe"),
        ("{{ cycler('a') }}", "'cycler' is undefined"),
        ("{{ 'a' * 10**9 }}", "too large|memory"),
        ("{{ range(10**9) | list }}", "too large|too big|fails"),
        ("{{ 999999999 ** 99999999 }}", "took more than|too large|memory"),
        ("{{ 2 ** 99 }}", "serialize"),
        ("{{ ('a' * 3000000) }}", "larger than"),
    ],
)
async def test_a_bad_template_is_a_usage_error_and_the_worker_lives_on(
    session: SandboxSession, template: str, words: str
) -> None:
    variables = {"steps": {"fix": {"exit": 0}}, "name": "x"}
    with anyio.fail_after(12), pytest.raises(UsageError, match=words):
        await session.render({"a": [template]}, variables, deadline_seconds=10)
    assert await session.render("{{ name }}", variables, deadline_seconds=10) == "x"
    result = await session.call(info("echo"), call("echo", text="here"), deadline_seconds=10)
    assert result.output == "here"


# ---- what is left ----------------------------------------------------------------------------


async def test_nothing_is_recorded_once_it_is_over(
    sandbox: Sandbox, spec: SandboxSpec, tmp_path: Path
) -> None:
    session = await sandbox.open(spec)
    assert len(list((tmp_path / "state" / "sandboxes" / "task_1").glob("*.json"))) == 1
    await session.close()
    await sandbox.execute(spec, ["true"], deadline_seconds=20)
    assert list((tmp_path / "state").rglob("*.json*")) == []
    assert await sandbox.reap("task_1") == 0


async def test_reap_spares_the_living(sandbox: Sandbox, session: SandboxSession) -> None:
    """It is for what an earlier, dead process left; ours is alive."""
    assert await sandbox.reap("task_1") == 0
    result = await session.call(info("echo"), call("echo", text="alive"), deadline_seconds=10)
    assert result.output == "alive"
