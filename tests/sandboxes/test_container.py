"""The sandbox without namespaces: what it keeps from the runtime, and when it refuses to be one."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from agent_runtime.errors import SandboxUnavailable
from agent_runtime.ports import EgressRecord, ExecResult, Layer, SandboxSpec
from agent_runtime.sandboxes import container as module
from agent_runtime.sandboxes import landlock, marks, narrowing, records, surroundings
from agent_runtime.sandboxes.container import ContainerSandbox
from agent_runtime.sandboxes.surroundings import Boundary
from agent_runtime.settings import ENV_PREFIX, Settings
from agent_runtime.types import ServiceReady, ServiceSpec
from tests.sandboxes.support import (
    call,
    info,
    make_sandbox,
    make_spec,
    new_container,
    processes_with,
    until,
)
from tests.sandboxes.web import ADDRESS, serving

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="local sandboxes need Linux"),
]
IS_ROOT = os.geteuid() == 0
NEEDS_LANDLOCK_NETWORK = pytest.mark.skipif(
    sys.platform != "linux" or landlock.abi() < landlock.NETWORK_ABI,
    reason="connections are kept by Landlock's fourth ABI",
)


@pytest.fixture
def container(tmp_path: Path) -> ContainerSandbox:
    sandbox = make_sandbox("container", tmp_path / "state")
    assert isinstance(sandbox, ContainerSandbox)
    return sandbox


@pytest.fixture
def spec(tmp_path: Path) -> SandboxSpec:
    return make_spec(tmp_path)


async def sh(sandbox: ContainerSandbox, spec: SandboxSpec, script: str) -> ExecResult:
    return await sandbox.execute(spec, ["sh", "-c", script], deadline_seconds=30)


async def python(sandbox: ContainerSandbox, spec: SandboxSpec, code: str) -> str:
    """What a program inside prints."""
    result = await sandbox.execute(spec, ["python3", "-c", code], deadline_seconds=30)
    assert result.exit == 0, result
    return result.output.decode().strip()


# ---- files and processes ---------------------------------------------------------------------


async def test_neither_the_runtimes_state_nor_secrets_can_be_read_or_written(
    container: ContainerSandbox, spec: SandboxSpec, tmp_path: Path
) -> None:
    """Whoever it runs as; readable by everybody is not readable from inside."""
    secrets = [tmp_path / "state" / "store.db", tmp_path / "secret"]
    for path in secrets:
        path.write_text("canary")
        path.chmod(0o666)
    code = f"""
import os
got = []
paths = [*{[str(path) for path in secrets]!r}, "/etc/shadow", "/etc/sudoers",
         "/proc/{os.getpid()}/environ", "/proc/{os.getpid()}/root/{secrets[0]}"]
for number, path in enumerate(paths):
    os.symlink(path, f"link-{{number}}")
    try: os.link(path, f"hard-{{number}}"); got.append("linked " + path)
    except OSError: pass
    for name in (path, f"link-{{number}}", "../" * 40 + path[1:]):
        for mode in ("r", "a", "r+"):
            try: open(name, mode).read(1); got.append(mode + name)
            except OSError: pass
for place in ("/", "/usr/bin", "/etc", "/tmp", "/var/tmp", "/root", "/run", {str(tmp_path)!r}):
    try: open(place + "/new", "w"); got.append(place)
    except OSError: pass
try: os.truncate(paths[0], 0); got.append("truncated")
except OSError: pass
print(got)
"""
    assert await python(container, spec, code) == "[]"
    assert [path.read_text() for path in secrets] == ["canary", "canary"]


async def test_workspace_home_and_a_temporary_directory_of_its_own_can_be_written(
    container: ContainerSandbox, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    spec = make_spec(tmp_path, home=str(home))
    script = (
        'mkdir a b && echo x > a/f && mv a/f b/g && ln b/g h && echo "$TMPDIR" && '
        'echo x > "$TMPDIR/t" && echo y > "$HOME/h" && mktemp && chmod 0 "$TMPDIR"'
    )
    result = await sh(container, spec, script)
    assert result.exit == 0, result
    own = result.output.decode().split()[0]
    assert os.path.basename(os.path.dirname(own)).startswith("agent-runtime-")
    assert not os.path.exists(os.path.dirname(own)), "it goes with the sandbox"
    assert (home / "h").read_text() == "y\n"


async def test_directories_that_the_installation_names_can_be_written(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o777)
    sandbox = new_container(tmp_path / "state", writable=(str(shared),))
    assert (await sh(sandbox, make_spec(tmp_path), f"echo x > {shared}/x")).exit == 0
    other = new_container(tmp_path / "state")
    assert (await sh(other, make_spec(tmp_path), f"echo x > {shared}/y")).exit != 0


async def test_processes_of_others_are_seen_but_out_of_reach(
    container: ContainerSandbox, spec: SandboxSpec
) -> None:
    if landlock.abi() < landlock.SCOPES_ABI and not IS_ROOT:
        pytest.skip("signals to the own user's processes are kept by Landlock's sixth ABI")
    with subprocess.Popen(["sleep", "60"]) as victim:
        code = f"""
import os
import resource
limit = lambda: resource.prlimit({victim.pid}, resource.RLIMIT_CPU, (1, 1))
for what in (lambda: os.kill({victim.pid}, 9), limit, lambda: open("/proc/{victim.pid}/mem", "r+b"),
             lambda: os.readlink("/proc/{victim.pid}/fd/0"),
             lambda: os.readlink("/proc/{victim.pid}/cwd")):
    try: what(); print("reached")
    except OSError: pass
"""
        shown = await python(container, spec, code)
        assert victim.poll() is None
        victim.kill()
    assert shown == ""


async def test_toolchains_are_shown_where_they_are_and_nothing_elsewhere(
    container: ContainerSandbox, tmp_path: Path
) -> None:
    chain = tmp_path / "chain"
    chain.mkdir()
    (chain / "greet").write_text("#!/bin/sh\necho hello\n")
    (chain / "greet").chmod(0o755)
    layer = Layer(str(chain), str(chain))
    spec = make_spec(tmp_path, layers=(layer,), path=(str(chain),))
    result = await sh(container, spec, f"greet; touch {chain}/x")
    assert result.output.startswith(b"hello\n") and result.exit != 0
    elsewhere = make_spec(tmp_path, layers=(Layer(str(chain), ".venv"),))
    with pytest.raises(SandboxUnavailable, match=r"no mounts to show '\.venv'"):
        await sh(container, elsewhere, "true")


async def test_services_run_beside_the_command(container: ContainerSandbox, tmp_path: Path) -> None:
    """Closed as it is, they are reached by a socket with a path."""
    code = (
        "import socket; s = socket.socket(socket.AF_UNIX); s.bind('here'); s.listen(); "
        "s.accept()[0].send(b'served')"
    )
    service = ServiceSpec(
        id="s", command=["python3", "-c", code], ready=ServiceReady(command="test -S here")
    )
    spec = make_spec(tmp_path, services=(service,))
    ask = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('here'); print(s.recv(9))"
    assert await python(container, spec, ask) == "b'served'"


async def test_a_workspace_that_holds_the_runtimes_state_is_refused(tmp_path: Path) -> None:
    sandbox = new_container(tmp_path / "workspace" / "state")
    with pytest.raises(SandboxUnavailable, match=r"own state .* lies in the workspace"):
        await sh(sandbox, make_spec(tmp_path), "true")


async def test_what_closed_itself_is_removed_all_the_same(
    container: ContainerSandbox, spec: SandboxSpec
) -> None:
    before = set(Path(tempfile.gettempdir()).glob(f"agent-runtime-{os.getpid()}-*"))
    script = 'cd "$TMPDIR" && mkdir -p a/b/c && touch a/b/c/d && chmod 0 a/b a'
    assert (await sh(container, spec, script)).exit == 0
    after = set(Path(tempfile.gettempdir()).glob(f"agent-runtime-{os.getpid()}-*"))
    assert after == before and os.stat(tempfile.gettempdir()).st_mode & 0o7777 == 0o1777


async def test_a_task_that_works_in_place_is_refused(
    container: ContainerSandbox, tmp_path: Path
) -> None:
    """Nothing inside a directory that may be written can be kept read-only without a mount."""
    (tmp_path / "workspace" / ".git").mkdir(parents=True)
    spec = make_spec(tmp_path, read_only_paths=(".git",))
    with pytest.raises(SandboxUnavailable, match=r"cannot keep \.git read-only.*in_place"):
        await sh(container, spec, "true")


async def test_a_process_that_hides_is_found_when_everybody_who_knew_it_is_dead(
    container: ContainerSandbox, spec: SandboxSpec, tmp_path: Path
) -> None:
    """No namespace, no group, no variable and no parent tell of it: its mark does."""
    name = f"hidden-{os.getpid()}"
    code = f"""
import ctypes, os, resource
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        try: resource.setrlimit(resource.RLIMIT_RTTIME, (1, 1)); print("unmarked", flush=True)
        except (OSError, ValueError): pass
        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
        os.execve("/bin/sh", ["sh", "-c", "sleep 600; true", {name!r}], {{}})
    os._exit(0)
os.wait()
import time; time.sleep(600)
"""
    place = Path(records.directory(str(tmp_path / "state"), "task_1"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(
            lambda: container.execute(spec, ["python3", "-c", code], deadline_seconds=60)
        )
        await until(lambda: processes_with(name))
        (path,) = place.glob("*.json")
        record = json.loads(path.read_text())
        copy = place / "copy.json"
        # As a later process finds it: its daemon is gone, and of its processes only the mark tells.
        copy.write_text(json.dumps({**record, "daemon": [1, 1], "processes": [], "tag": ""}))
        assert set(processes_with(name)) <= set(marks.bearers(record["mark"]))
        assert await records.reap(str(tmp_path / "state"), "task_1") == 1
        assert processes_with(name) == []
        assert not os.path.exists(record["scratch"])
        tasks.cancel_scope.cancel()


# ---- the network -----------------------------------------------------------------------------


async def test_closed_means_that_there_are_no_sockets_of_the_internet(
    container: ContainerSandbox, spec: SandboxSpec
) -> None:
    code = """
import socket
for family in (socket.AF_INET, socket.AF_INET6):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_STREAM | socket.SOCK_NONBLOCK):
        try: socket.socket(family, kind); print(family, kind)
        except PermissionError: pass
pair = socket.socketpair(); pair[0].send(b"x"); socket.socket(socket.AF_UNIX)
"""
    assert await python(container, spec, code) == ""


@NEEDS_LANDLOCK_NETWORK
async def test_a_task_reaches_what_it_may_through_its_proxy_and_nothing_past_it(
    container: ContainerSandbox, tmp_path: Path
) -> None:
    (tmp_path / "hello").write_text("hello from outside", encoding="utf-8")
    heard: list[EgressRecord] = []
    with serving(tmp_path) as (server, port):
        spec = make_spec(
            tmp_path, network="restricted", egress=(f"{ADDRESS}:{port}",), egress_heard=heard.append
        )
        url = f"http://{ADDRESS}:{port}/hello"
        get = f"import urllib.request as u; print(u.urlopen({url!r}).read().decode())"
        assert await python(container, spec, get) == "hello from outside"
        seen = len(server.seen)
        past = f"""
import os, socket
address = ({ADDRESS!r}, {port})
def attempt(what, f):
    try: f(); print("reached by", what)
    except OSError: pass
attempt("connect", lambda: socket.create_connection(address, 5))
attempt("fast open", lambda: socket.socket().sendto(b"GET /", 0x20000000, address))
attempt("fast open 2", lambda: socket.socket().sendmsg([b"GET /"], [], 0x20000000, address))
attempt("datagram", lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", address))
attempt("mptcp", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262).connect(address))
attempt("sctp", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132).connect(address))
attempt("listening", lambda: socket.create_server(("127.0.0.1", 0)))
"""
        assert await python(container, spec, past) == ""
        assert len(server.seen) == seen
    assert [record.kind for record in heard] == ["opened", "closed"]


@NEEDS_LANDLOCK_NETWORK
async def test_the_proxy_serves_only_who_knows_the_sandboxs_token(
    container: ContainerSandbox, tmp_path: Path
) -> None:
    """Its port is open to every process of the container."""
    heard: list[EgressRecord] = []
    (tmp_path / "hello").write_text("hello", encoding="utf-8")
    with serving(tmp_path) as (server, port):
        rules = (f"{ADDRESS}:{port}",)
        spec = make_spec(tmp_path, network="restricted", egress=rules, egress_heard=heard.append)
        code = f"""
import os, socket
from urllib.parse import urlsplit
proxy = urlsplit(os.environ["http_proxy"])
for more in ("", "Proxy-Authorization: Basic c2FuZGJveDp3cm9uZw==\\r\\n"):
    with socket.create_connection((proxy.hostname, proxy.port)) as s:
        head = "GET http://{ADDRESS}:{port}/hello HTTP/1.1\\r\\nHost: x\\r\\n"
        s.sendall((head + more + "\\r\\n").encode())
        print(s.recv(1000).split(b"\\r\\n")[0].decode())
"""
        shown = (await python(container, spec, code)).splitlines()
        assert shown == ["HTTP/1.1 407 Proxy Authentication Required"] * 2
        assert server.seen == [] and heard == []
        # curl, as git does, asks without it first and then again.
        curl = f"curl -sS --proxy-anyauth http://{ADDRESS}:{port}/hello"
        result = await sh(container, spec, curl)
        assert (result.exit, result.output) == (0, b"hello")


@NEEDS_LANDLOCK_NETWORK
async def test_other_addresses_at_the_proxys_port_are_reached_and_doctor_says_so(
    container: ContainerSandbox, tmp_path: Path
) -> None:
    """Not what one wants: whoever closes it takes the words out of the probe and the docs."""
    spec = make_spec(tmp_path, network="restricted", egress=("example.com:443",))
    code = f"""
import os, socket
from urllib.parse import urlsplit
port = urlsplit(os.environ["http_proxy"]).port
for place in (port, port - 1):
    try: socket.create_connection(({ADDRESS!r}, place), 5)
    except OSError as error: print(type(error).__name__)
listening = socket.socket()
listening.listen()
print(listening.getsockname()[1] > 0)
"""
    # Nobody listens there: that it is refused by the host shows that the kernel let it out.
    shown = await python(container, spec, code)
    assert shown.split() == ["ConnectionRefusedError", "PermissionError", "True"]
    said = (await container.probe()).detail
    assert "other hosts at the number of its proxy's port, and listening" in said


async def test_shared_leaves_the_containers_network_as_it_is(tmp_path: Path) -> None:
    sandbox = new_container(tmp_path / "state", network="shared")
    probe = await sandbox.probe()
    if not probe.ok:
        pytest.skip(probe.detail)
    assert "network of the container is shared" in probe.detail
    code = """
import socket
server = socket.create_server(("127.0.0.1", 0))
print(len(socket.create_connection(server.getsockname()).getpeername()))
"""
    assert await python(sandbox, make_spec(tmp_path), code) == "2"


async def test_a_kernel_that_cannot_keep_connections_refuses_them(
    container: ContainerSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "_landlock", min(3, landlock.abi()))
    spec = make_spec(tmp_path, network="restricted", egress=("example.org",))
    with pytest.raises(SandboxUnavailable, match=r"ABI 4 .*CONTAINER_NETWORK=shared"):
        await sh(container, spec, "true")


# ---- one task at a time ----------------------------------------------------------------------


async def test_a_second_task_waits_until_the_first_ones_sandboxes_are_gone(tmp_path: Path) -> None:
    """Also another process's: here two adapters stand for two daemons."""
    first, second = new_container(tmp_path / "state"), new_container(tmp_path / "state")
    session = await first.open(make_spec(tmp_path, owner_id="task_1"))
    # The same task does not wait for itself.
    mine = make_spec(tmp_path, owner_id="task_1")
    assert (await sh(first, mine, "true")).exit == 0
    ended: list[str] = []

    async def other() -> None:
        result = await second.execute(
            make_spec(tmp_path, owner_id="task_2"), ["true"], deadline_seconds=5
        )
        ended.append(f"second: {result.exit}")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        result = await session.call(info("nap"), call("nap", seconds=0.5), deadline_seconds=20)
        ended.append(f"first: {result.output}")
        await session.close()
    assert ended == ["first: slept", "second: 0"]


async def test_a_sandbox_that_does_not_start_gives_its_turn_back(
    container: ContainerSandbox, tmp_path: Path
) -> None:
    absent = make_spec(tmp_path, owner_id="task_1", workspace=str(tmp_path / "absent"))
    with pytest.raises(SandboxUnavailable, match="absent"):
        await container.open(absent)
    with anyio.fail_after(20):
        assert (await sh(container, make_spec(tmp_path, owner_id="task_2"), "true")).exit == 0


async def test_a_turn_outlives_a_killed_daemon_until_its_keeper_is_done(tmp_path: Path) -> None:
    name = f"turn-{os.getpid()}"
    (tmp_path / "workspace").mkdir()
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.sandboxes.daemon_process", "container"),
            *(str(tmp_path / "state"), str(tmp_path / "workspace"), name, "execute"),
        ],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
    ) as daemon:
        await until(lambda: [pid for pid in processes_with(name) if pid != daemon.pid])
        daemon.kill()
    second = new_container(tmp_path / "state")
    with anyio.fail_after(20):
        spec = make_spec(tmp_path, owner_id="task_2")
        result = await second.execute(spec, ["ps", "-eo", "args"], deadline_seconds=10)
    assert name not in result.output.decode()


async def test_whoever_takes_a_turn_first_ends_what_killed_daemons_and_keepers_left(
    tmp_path: Path,
) -> None:
    """Nobody holds the turn then, and the processes of the earlier task may still run."""
    name = f"left-{os.getpid()}"
    place = Path(records.directory(str(tmp_path / "state"), "task_1"))
    first = new_container(tmp_path / "state")
    spec = make_spec(tmp_path, owner_id="task_1")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sh, first, spec, f"setsid sh -c 'sleep 600; true' {name} & wait")
        await until(lambda: processes_with(name))
        (path,) = place.glob("*.json")
        record = json.loads(path.read_text())
        other = tmp_path / "state" / "sandboxes" / "task_0"
        other.mkdir()
        # Both are as after a restart: who wrote the one is dead, and the other's container is gone.
        dead = {**record, "daemon": [1, 1], "processes": []}
        (other / "dead.json").write_text(json.dumps(dead))
        elsewhere = {**dead, "pid_namespace": "pid:[1]", "mark": 0, "groups": [], "scratch": ""}
        (other / "elsewhere.json").write_text(json.dumps(elsewhere))
        # Its turn is another one's: it waits for nobody.
        boundary = Boundary(declared=True, name=socket.gethostname())
        second = ContainerSandbox(str(tmp_path / "state"), boundary, turns=name)
        spec = make_spec(tmp_path, owner_id="task_2")
        result = await second.execute(spec, ["ps", "-eo", "args"], deadline_seconds=10)
        assert result.exit == 0 and name not in result.output.decode()
        assert [each.name for each in other.iterdir()] == ["elsewhere.json"]
        tasks.cancel_scope.cancel()


def test_what_marks_unprotected_processes_is_no_setting_of_a_runtime_among_them() -> None:
    assert records.TAG_VARIABLE.removeprefix(ENV_PREFIX).lower() not in Settings.model_fields


# ---- users -----------------------------------------------------------------------------------


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that every user may pass."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        os.chmod(name, 0o711)
        yield Path(name)


@pytest.mark.skipif(not IS_ROOT, reason="only root can be somebody else")
async def test_root_gives_each_task_a_user_where_he_can_get_there(
    open_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "own_interpreter", lambda: "/usr/bin/env")
    if surroundings.missing_capabilities() or surroundings.unreachable(module.__file__, 9, 9):
        pytest.skip("root cannot be another user who reads this package")
    sandbox = new_container(open_place / "state")
    spec = make_spec(open_place, python=None)
    result = await sh(sandbox, spec, 'id -u; echo x > made; cat "$HOME/../../x"; echo $HOME')
    uid = os.stat(Path(spec.workspace) / "made").st_uid
    assert result.output.decode().split("\n")[0] == str(uid) and uid >= 64000


@pytest.mark.skipif(not IS_ROOT, reason="only root can be somebody else")
async def test_another_user_is_not_taken_where_he_could_not_pass(
    container: ContainerSandbox, spec: SandboxSpec, tmp_path: Path
) -> None:
    """pytest's directory is root's own: tools stay root, without any of root's power."""
    result = await sh(container, spec, "id -u; grep -E '^(Cap|NoNew)' /proc/self/status")
    uid, *lines = result.output.decode().splitlines()
    assert uid == "0"
    held = dict(line.split(":\t") for line in lines)
    assert held.pop("NoNewPrivs") == "1" and set(held.values()) == {"0" * 16}
    assert "another one could not pass" in (await container.probe()).detail


async def test_without_landlock_and_without_another_user_it_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the daemon may read, its own user's tools could."""
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    probe = await new_container(tmp_path / "state").probe()
    assert not probe.ok
    assert "no Landlock here" in probe.detail and "lsm=landlock" in probe.remedy


@pytest.mark.skipif(not IS_ROOT, reason="only root can be somebody else")
async def test_without_landlock_another_user_must_not_read_the_state(
    open_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    monkeypatch.setattr(module, "own_interpreter", lambda: "/usr/bin/env")
    if surroundings.missing_capabilities() or surroundings.unreachable(module.__file__, 9, 9):
        pytest.skip("root cannot be another user who reads this package")
    state = open_place / "state"
    state.mkdir(mode=0o711)
    sandbox = new_container(state)
    spec = make_spec(open_place, python=None)
    (state / "store.db").write_text("x")
    (state / "results").mkdir(mode=0o755)
    script = f"ls {state}; ls {state}/results; cat {state}/store.db; touch {state}/results/x"
    result = await sh(sandbox, spec, script)
    assert result.output.count(b"ermission denied") == 4, result


# ---- when it is the boundary -----------------------------------------------------------------


HOST = socket.gethostname()


@pytest.mark.parametrize(
    ("boundary", "found", "why", "way_out"),
    [
        (Boundary(), ["/.dockerenv"], "nobody declared", "AGENT_RUNTIME_SANDBOX=container"),
        (Boundary(), [], "nobody declared", "AGENT_RUNTIME_SANDBOX=container"),
        (Boundary(declared=True), [], "nothing shows", f"AGENT_RUNTIME_CONTAINER_NAME={HOST}"),
        (Boundary(declared=True, name="x"), ["/.dockerenv"], "container_name is 'x'", "run it"),
        (Boundary(declared=True, name="x"), [], "container_name is 'x'", "run it"),
    ],
)
def test_it_refuses_to_be_the_boundary_unless_it_was_declared(
    boundary: Boundary, found: list[str], why: str, way_out: str
) -> None:
    refusal = surroundings.refuse(boundary, found)
    assert refusal is not None and why in refusal[0] and way_out in refusal[1]


def test_it_is_the_boundary_where_it_was_declared_and_is_one() -> None:
    assert surroundings.refuse(Boundary(declared=True), ["/.dockerenv"]) is None
    assert surroundings.refuse(Boundary(declared=True, name=HOST), []) is None


def test_a_container_is_known_by_its_marks(tmp_path: Path) -> None:
    assert surroundings.container_marks({}, str(tmp_path)) == []
    assert surroundings.container_marks({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, str(tmp_path)) == [
        "$KUBERNETES_SERVICE_HOST"
    ]
    (tmp_path / "proc/1").mkdir(parents=True)
    (tmp_path / "proc/1/cgroup").write_text("0::/kubepods/besteffort/pod1")
    (tmp_path / ".dockerenv").touch()
    assert surroundings.container_marks({}, str(tmp_path)) == [
        "/.dockerenv",
        "/proc/1/cgroup names kubepods",
    ]


async def test_a_probe_without_a_declaration_says_what_would_help(tmp_path: Path) -> None:
    sandbox = ContainerSandbox(str(tmp_path / "state"), Boundary())
    probe = await sandbox.probe()
    assert not probe.ok and "nobody declared" in probe.detail
    with pytest.raises(SandboxUnavailable, match="AGENT_RUNTIME_SANDBOX=container"):
        await sandbox.execute(make_spec(tmp_path), ["true"], deadline_seconds=5)
    assert not (tmp_path / "state").exists()


def test_who_may_pass_is_read_from_owner_and_mode(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b"
    place.mkdir(parents=True)
    (tmp_path / "a").chmod(0o710)
    owner = os.stat(place).st_uid
    assert surroundings.unreachable(str(place), owner, 1) is None
    assert surroundings.unreachable(str(place), owner + 70000, 70000) is not None


# ---- the second filter -----------------------------------------------------------------------


@pytest.mark.parametrize("machine", sorted(narrowing.NUMBERS))
def test_the_numbers_of_system_calls_are_the_kernels(machine: str) -> None:
    import pyseccomp

    arch = {"x86_64": pyseccomp.Arch.X86_64, "aarch64": pyseccomp.Arch.AARCH64}[machine]
    for name, number in narrowing.NUMBERS[machine].items():
        assert pyseccomp.resolve_syscall(arch, name) == number, name
    for network in ("any", "tcp", "none"):
        denied = narrowing.rules(network=network, truncate=True)
        assert len(narrowing.program(denied, machine)) % 8 == 0


async def test_files_are_not_cut_by_name_where_landlock_does_not_look(
    container: ContainerSandbox, spec: SandboxSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first two ABIs. A file that is open for writing can be cut as ever."""
    if landlock.abi() < 1:
        pytest.skip("no Landlock")
    monkeypatch.setattr(container, "_landlock", min(2, landlock.abi()))
    code = """
import os
open("f", "w").write("text")
try: os.truncate("f", 1); print("cut")
except PermissionError: pass
with open("f", "r+") as file: file.truncate(2)
print(open("f").read())
"""
    assert await python(container, spec, code) == "te"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of x86_64")
async def test_what_was_given_up_stays_given_up(
    container: ContainerSandbox, spec: SandboxSpec
) -> None:
    code = """
import ctypes, os, resource, signal
libc = ctypes.CDLL(None, use_errno=True)
got = []
mark = resource.getrlimit(resource.RLIMIT_RTTIME)
for value in ((1, 1), (resource.RLIM_INFINITY,) * 2):
    for set in (lambda: resource.setrlimit(resource.RLIMIT_RTTIME, value),
                lambda: resource.prlimit(0, resource.RLIMIT_RTTIME, value)):
        try: set(); got.append(value)
        except (OSError, ValueError): pass
assert resource.getrlimit(resource.RLIMIT_RTTIME) == mark
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
for f in (os.setuid, os.setgid):
    try: f(4242); got.append(f)
    except OSError: pass
print(got, os.path.exists("/usr/bin/su") and oct(os.stat("/usr/bin/su").st_mode & 0o4000))
"""
    shown = await python(container, spec, code)
    assert shown.startswith("[] "), shown
