"""What code inside a bubblewrap sandbox tries, one of each class, and the proof that it fails.

Verdicts come from the host's side where they can: canary files, listeners, processes.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import pty
import signal
import socket
import stat
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from agent_runtime.ports import SandboxSpec
from agent_runtime.sandboxes.bubblewrap import BubblewrapSandbox
from agent_runtime.sandboxes.container import ContainerSandbox
from agent_runtime.sandboxes.unsafe import UnsafeSandbox
from tests.sandboxes.support import (
    MOUNT,
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
    pytest.mark.skipif(sys.platform != "linux", reason="bubblewrap needs Linux"),
]
ROOT = Path(__file__).parents[2]

Confining = BubblewrapSandbox | ContainerSandbox

PRELUDE = """
import ctypes, errno, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def syscall(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a
                                                   for a in arguments))
    return "ok" if result >= 0 else errno.errorcode[ctypes.get_errno()]
"""


@pytest.fixture
def spec(tmp_path: Path) -> SandboxSpec:
    return make_spec(tmp_path)


@pytest.fixture(params=["bubblewrap", "container"])
def confining(request: pytest.FixtureRequest, tmp_path: Path) -> Confining:
    """Each kind that confines, for what all of them promise."""
    sandbox = make_sandbox(request.param, tmp_path / "state")
    assert not isinstance(sandbox, UnsafeSandbox)
    return sandbox


async def inside(sandbox: Confining, spec: SandboxSpec, code: str) -> str:
    result = await sandbox.execute(spec, ["python3", "-c", PRELUDE + code], deadline_seconds=30)
    assert result.exit == 0, result
    return result.output.decode().strip()


async def test_no_file_of_the_host_can_be_read_or_written(
    bubblewrap: BubblewrapSandbox, spec: SandboxSpec, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("canary")
    secret.chmod(0o666)
    code = f"""
got = []
paths = [{str(secret)!r}, "/etc/shadow", "/root/.bashrc", "/proc/1/root{secret}"]
os.symlink({str(secret)!r}, "link")
for path in [*paths, "link", "../" * 40 + {str(secret)!r}[1:]]:
    for mode in ("r", "a"):
        try: open(path, mode).write("x") if mode == "a" else got.append(open(path).read())
        except OSError: pass
for place in ("/", "/usr/bin", "/etc", "/home", "/run", "/dev", "/run/agent-runtime", "/var"):
    try: open(place + "/new", "w"); got.append(place)
    except OSError: pass
print(got)
"""
    assert await inside(bubblewrap, spec, code) == "[]"
    assert secret.read_text() == "canary"


async def test_the_kernel_gives_nothing_that_a_tool_has_no_use_for(
    confining: Confining, spec: SandboxSpec
) -> None:
    """Asked with arguments that would do something, were they allowed."""
    if platform.machine() != "x86_64":
        pytest.skip("syscall numbers of x86_64; the other filter is tested in test_seccomp")
    code = """
calls = {"unshare": (272, 0x10000000), "mount": (165, b"n", b"mnt", b"tmpfs", 0, None),
         "chroot": (161, b"."), "keyctl": (250, 0, -3, 0), "io_uring": (425, 4, b"x" * 120),
         "bpf": (321, 0, b"x" * 72, 72), "userfaultfd": (323, 1), "ptrace": (101, 16, 1, 0, 0),
         "setns": (308, 0, 0),
         "clone3": (435, struct.pack("<8Q", 0x10000000, 0, 0, 0, 17, 0, 0, 0), 64),
         "openat2": (437, -100, b".", b"x" * 24, 24), "clone": (56, 0x10000011, 0, 0, 0, 0),
         "open_tree_attr": (467, -100, b".", 0, 0, 0)}
print({syscall(*arguments) for arguments in calls.values()})
families = ((40, 1, 0), (17, 3, 3), (38, 5, 0), (2, 3, 1), (16, 3, 12), (44, 3, 0))
for family, kind, protocol in families:
    try: socket.socket(family, kind, protocol); print("socket", family)
    except OSError: pass
lines = open("/proc/self/status").read().splitlines()
status = dict(line.split(":\\t") for line in lines if ":\\t" in line)
print(status["CapEff"], status["CapBnd"], status["NoNewPrivs"], status["Seccomp"])
"""
    answers, status = (await inside(confining, spec, code)).splitlines()
    assert answers in ("{'EPERM', 'ENOSYS'}", "{'ENOSYS', 'EPERM'}")
    assert status == "0000000000000000 0000000000000000 1 2"


async def test_foreign_syscalls_kill(confining: Confining, spec: SandboxSpec) -> None:
    """The x32 ABI has numbers of its own, which no rule names."""
    if platform.machine() != "x86_64":
        pytest.skip("x32 is of x86_64")
    code = PRELUDE + "print(syscall(0x40000000 | 39))"
    result = await confining.execute(spec, ["python3", "-c", code], deadline_seconds=20)
    assert result.exit == 128 + signal.SIGSYS


async def test_no_file_becomes_setuid(confining: Confining, spec: SandboxSpec) -> None:
    script = (
        "cp /bin/sh a; chmod 4755 a; chmod 2755 a; install -m 6755 /bin/sh b; "
        "python3 -c \"import os; os.close(os.open('c', os.O_CREAT | os.O_WRONLY, 0o6755))\"; true"
    )
    await confining.execute(spec, ["sh", "-c", script], deadline_seconds=20)
    for path in Path(spec.workspace).iterdir():
        assert path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID) == 0, path


async def test_ordinary_work_is_allowed(bubblewrap: BubblewrapSandbox, spec: SandboxSpec) -> None:
    """A filter that breaks tools is no use."""
    code = """
import multiprocessing, sqlite3, subprocess, tempfile, threading
os.chmod("f", 0o755) if open("f", "w").close() is None else 0
multiprocessing.Lock().acquire()
sqlite3.connect("db").execute("create table t(a)")
a, b = socket.socketpair(); a.send(b"x")
server = socket.create_server(("127.0.0.1", 0)); socket.create_connection(server.getsockname())
thread = threading.Thread(target=print, args=("thread",)); thread.start(); thread.join()
print(socket.if_nameindex(), subprocess.run(["true"]).returncode)
print(os.getuid(), os.path.expanduser("~"), tempfile.gettempdir())
"""
    lines = (await inside(bubblewrap, spec, code)).splitlines()
    assert lines[0] == "thread" and lines[1].startswith("[(1, 'lo')")
    assert lines[2].split() == ["1000", "/home/agent", "/tmp"]


@pytest.fixture
def listeners(tmp_path: Path) -> Iterator[tuple[int, str, list[socket.socket]]]:
    """A port, an abstract and a path name on the host, and who was reached."""
    tcp = socket.create_server(("127.0.0.1", 0))
    name = f"abstract-{os.getpid()}"
    abstract, path = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    abstract.bind("\0" + name)
    path.bind(str(tmp_path / "socket"))
    sockets = [tcp, abstract, path]
    for one in sockets:
        one.listen()
        one.setblocking(False)
    yield tcp.getsockname()[1], name, sockets
    for one in sockets:
        one.close()


async def test_no_network_reaches_the_host(
    bubblewrap: BubblewrapSandbox,
    spec: SandboxSpec,
    tmp_path: Path,
    listeners: tuple[int, str, list[socket.socket]],
) -> None:
    port, name, sockets = listeners
    code = f"""
path = {str(tmp_path / "socket")!r}
for family, address in ((2, ("127.0.0.1", {port})), (1, "\\0{name}"), (1, path)):
    try: socket.socket(family).connect(address); print("reached", address)
    except OSError: pass
"""
    assert await inside(bubblewrap, spec, code) == ""
    for one in sockets:
        with pytest.raises(BlockingIOError):
            one.accept()


async def test_processes_of_the_host_are_out_of_reach(
    bubblewrap: BubblewrapSandbox, spec: SandboxSpec
) -> None:
    with subprocess.Popen(["sleep", "60"]) as victim:
        code = f"""
try: os.kill({victim.pid}, 9)
except OSError: pass
print(sorted(int(n) for n in os.listdir("/proc") if n.isdigit())[:2])
"""
        shown = await inside(bubblewrap, spec, code)
        assert victim.poll() is None
        victim.kill()
    assert shown.startswith("[1, 2]")


async def test_no_descriptor_is_inherited(
    confining: Confining, spec: SandboxSpec, tmp_path: Path
) -> None:
    leak = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(leak, True)
    try:
        code = "print([n for n in range(3, 256) if os.path.exists(f'/proc/self/fd/{n}')])"
        fresh = new_sandbox(confining.name, tmp_path / "fresh")
        assert not isinstance(fresh, UnsafeSandbox)
        assert await inside(fresh, spec, code) == "[]"
        assert await inside(confining, spec, code) == "[]"
    finally:
        os.close(leak)


async def test_commands_cannot_touch_the_worker_that_runs_them(
    confining: Confining, spec: SandboxSpec
) -> None:
    """They have its uid: only not being dumpable keeps its memory and its stream to itself."""
    session = await confining.open(spec)
    command = (
        "for p in /proc/[0-9]*; do "
        "tr '\\0' ' ' < $p/cmdline | grep -q '^[^ ]*python[^ ]* -I -S' || continue; "
        "(: > $p/mem) 2>&1; head -c1 $p/fd/0 2>&1; head -c1 $p/environ 2>&1; done; echo end"
    )
    try:
        result = await session.call(
            info("shell"), call("shell", command=command), deadline_seconds=20
        )
    finally:
        await session.close()
    lines = (result.raw or b"").decode().splitlines()
    assert lines[-1] == "end" and len(lines) >= 4
    # Without a namespace other workers of this machine are seen, too, and how they end.
    refusals = [line for line in lines[:-1] if "No such" not in line]
    assert len(refusals) >= 3 and all("ermission denied" in line for line in refusals), lines


async def test_what_it_writes_never_belongs_to_root(
    bubblewrap: BubblewrapSandbox, spec: SandboxSpec
) -> None:
    await bubblewrap.execute(spec, ["sh", "-c", "echo x > made"], deadline_seconds=20)
    assert (Path(spec.workspace) / "made").stat().st_uid != 0


# ---- the caller's terminal and process group -----------------------------------------------------


def attached(sandbox: Confining, tmp_path: Path, *argv: str) -> list[str]:
    (tmp_path / "workspace").mkdir(exist_ok=True)
    return [
        *(sys.executable, "-m", "tests.sandboxes.daemon_process", sandbox.name),
        *(str(tmp_path / "state"), str(tmp_path / "workspace"), "-", "attached", *argv),
    ]


async def test_attached_passes_all_three_streams_and_the_exit_code(
    confining: Confining, tmp_path: Path
) -> None:
    result = await anyio.run_process(
        attached(confining, tmp_path, "sh", "-c", "cat; echo err >&2; exit 9"),
        input=b"in\n",
        check=False,
        cwd=ROOT,
    )
    assert (result.returncode, result.stdout, result.stderr) == (9, b"in\n", b"err\n")


async def test_nothing_is_typed_into_the_callers_terminal(
    confining: Confining, tmp_path: Path
) -> None:
    """TIOCSTI, also with rubbish in the high bits (CVE-2019-10063)."""
    code = (
        "import ctypes\nlibc = ctypes.CDLL(None)\n"
        "for request in (0x5412, 0x5412 | 1 << 32):\n"
        "  libc.ioctl(0, ctypes.c_ulong(request), ctypes.create_string_buffer(b'X'))\n"
        "try: open('/dev/tty')\n"
        "except OSError as error: print('no terminal', flush=True)\n"
    )
    master, slave = pty.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    try:
        attributes = termios.tcgetattr(slave)
        attributes[3] &= ~(termios.ECHO | termios.ICANON)
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        with subprocess.Popen(
            attached(confining, tmp_path, "python3", "-c", code),
            stdin=slave,
            stdout=subprocess.PIPE,
            preexec_fn=take_terminal,
            cwd=ROOT,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.read() == b"no terminal\n"
        pushed = int.from_bytes(fcntl.ioctl(slave, termios.FIONREAD, b"\0" * 4), sys.byteorder)
        assert pushed == 0
    finally:
        os.close(master)
        os.close(slave)


async def test_kill_9_of_the_callers_process_group_ends_the_sandbox(
    confining: Confining, tmp_path: Path
) -> None:
    name = f"group-{os.getpid()}"
    script = f"(exec setsid sh -c 'sleep 600; true' {name}) & echo ready; sleep 600"
    with subprocess.Popen(
        attached(confining, tmp_path, "sh", "-c", script),
        stdout=subprocess.PIPE,
        start_new_session=True,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        await until(lambda: processes_with(name))
        os.killpg(process.pid, signal.SIGKILL)
        await until(lambda: not processes_with(name))


# ---- what a root daemon gives away ---------------------------------------------------------------


async def test_the_hosts_view_of_a_finished_sandbox_is_unchanged(
    bubblewrap: BubblewrapSandbox, spec: SandboxSpec
) -> None:
    before = Path("/proc/self/mountinfo").read_bytes()
    await bubblewrap.execute(spec, ["true"], deadline_seconds=20)
    assert Path("/proc/self/mountinfo").read_bytes() == before


async def test_read_only_paths_stay_and_cannot_be_replaced(
    bubblewrap: BubblewrapSandbox, tmp_path: Path
) -> None:
    spec = make_spec(tmp_path, read_only_paths=(".git",))
    hooks = Path(spec.workspace) / ".git" / "hooks"
    hooks.mkdir(parents=True)
    script = "echo x > .git/hooks/pre-commit; mv .git .old; rm -rf .git; ls .git; touch other"
    result = await bubblewrap.execute(spec, ["sh", "-c", script], deadline_seconds=20)
    assert b"hooks" in result.output and list(hooks.iterdir()) == []
    assert sorted(path.name for path in Path(spec.workspace).iterdir()) == [".git", "other"]


async def test_a_workspace_can_be_mounted_where_its_repository_is(
    bubblewrap: BubblewrapSandbox, tmp_path: Path
) -> None:
    """Below /tmp, below /root, below the place of HOME: parents are made inside."""
    for mount in (str(tmp_path / "repo"), "/root/code/x", "/home/agent/x", "/home/agent", "/opt/x"):
        spec = make_spec(tmp_path, mount=mount)
        result = await bubblewrap.execute(
            spec, ["sh", "-c", 'touch x && pwd && touch "$HOME/y"'], deadline_seconds=20
        )
        assert (result.exit, result.output.decode().strip()) == (0, mount)


async def test_a_venv_of_the_workspace_comes_first_and_is_read_only(
    bubblewrap: BubblewrapSandbox, tmp_path: Path
) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", workspace / ".venv"], check=True)
    for mount in (str(workspace), MOUNT):
        spec = make_spec(tmp_path, mount=mount, python=str(workspace / ".venv"))
        result = await bubblewrap.execute(
            spec,
            ["sh", "-c", "python3 -c 'import sys, json; print(sys.prefix)'; touch $VIRTUAL_ENV/x"],
            deadline_seconds=20,
        )
        assert result.output.decode().splitlines()[0] == str(workspace / ".venv"), result
    assert not (workspace / ".venv" / "x").exists()


async def test_a_worker_works_without_any_venv(
    bubblewrap: BubblewrapSandbox, tmp_path: Path
) -> None:
    session = await bubblewrap.open(make_spec(tmp_path, python=None))
    try:
        result = await session.call(info("where"), call("where"), deadline_seconds=20)
    finally:
        await session.close()
    assert result.data["env"]["PATH"].startswith("/usr/local/sbin:")
    assert "VIRTUAL_ENV" not in result.data["env"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs sandboxes as somebody else")
async def test_root_never_chowns_a_users_own_directory(
    bubblewrap: BubblewrapSandbox, tmp_path: Path
) -> None:
    from agent_runtime.errors import SandboxUnavailable

    spec = make_spec(tmp_path, chown=False)
    os.chmod(spec.workspace, 0o755)
    with pytest.raises(SandboxUnavailable, match=r"may not write .* chown -R 64"):
        await bubblewrap.execute(spec, ["true"], deadline_seconds=20)
    with pytest.raises(SandboxUnavailable, match=r"may not write .* chown -R 64"):
        await bubblewrap.open(spec)
    assert os.stat(spec.workspace).st_uid == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
async def test_giving_a_workspace_away_follows_no_link(
    bubblewrap: BubblewrapSandbox, tmp_path: Path
) -> None:
    """A chown through a link, soft or hard, would give away somebody else's file."""
    spec, outside = make_spec(tmp_path), tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("x")
    workspace = Path(spec.workspace)
    (workspace / "deep").mkdir()
    (workspace / "deep" / "soft").symlink_to(outside / "file")
    (workspace / "directory").symlink_to(outside)
    os.link(outside / "file", workspace / "hard")
    (workspace / "deep" / "own").write_text("x")
    result = await bubblewrap.execute(
        spec, ["sh", "-c", "id -u; echo y > deep/own && rm hard"], deadline_seconds=20
    )
    assert (result.exit, result.output) == (0, b"1000\n")
    assert os.stat(outside).st_uid == 0 and os.stat(outside / "file").st_uid == 0
    assert os.stat(workspace / "deep" / "own").st_uid != 0


async def test_the_probe_names_what_it_found(bubblewrap: BubblewrapSandbox) -> None:
    probe = await bubblewrap.probe()
    assert probe.ok and os.access(probe.detail, os.X_OK)
    assert json.dumps(probe.name) == '"bubblewrap"'
