"""The image's command as its user, its root read-only, without Docker: a task certifies there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent_runtime.access.binding import check_bind
from agent_runtime.sandboxes import landlock
from agent_runtime.settings import load_settings
from tests.cli.conftest import FIX, make_repository
from tests.deploy import image
from tests.deploy.image import Image

ROOT = Path(__file__).parents[2]
HADOLINT = shutil.which("hadolint", path=os.path.dirname(sys.executable))
MAY = (
    sys.platform == "linux"
    and os.geteuid() == 0
    and subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0
)
needs_a_view = pytest.mark.skipif(not MAY, reason="the view takes a root that may mount")
needs_landlock = pytest.mark.skipif(
    sys.platform != "linux" or landlock.abi() == 0, reason="as an ordinary user it takes Landlock"
)


@pytest.mark.skipif(HADOLINT is None, reason="no wheel of hadolint for this machine")
def test_hadolint_finds_nothing() -> None:
    command = [str(HADOLINT), "--no-color", str(ROOT / "Dockerfile")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_is_built_from_what_is_named() -> None:
    """Nothing of a checkout gets in by accident: keys, stores, virtual environments."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and line[0] != "#"]
    assert rules[0] == "*"
    let_in = {rule[1:] for rule in rules if rule[0] == "!"}
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = {
        word
        for line in text.splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    }
    assert let_in == copied
    assert image.dockerfile().user == f"{image.UID}:{image.UID}"


def test_the_images_own_settings_let_it_listen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`docker run` with a published port and nothing else."""
    words = image.dockerfile().command
    assert words[:3] == ["serve", "--host", "0.0.0.0"]
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "COPY examples/container/config.yaml /etc/agent-runtime/config.yaml" in text
    (tmp_path / "agent-runtime").mkdir()
    shutil.copy(ROOT / "examples/container/config.yaml", tmp_path / "agent-runtime")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    check_bind(words[2], load_settings())


# ---- in such a view --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built() -> Iterator[Image]:
    uv = image.find_uv()
    if uv is None:
        pytest.skip("the image is built by uv")
    # Below /tmp the view has its own directory.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        yield image.build(Path(name), uv)


@pytest.fixture
def work() -> Iterator[list[str]]:
    """A task and its repository, as a volume."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        make_repository(Path(name) / "repo")
        (Path(name) / "task.yaml").write_text(FIX, encoding="utf-8")
        Path(name).chmod(0o755)
        yield ["--ro-bind", name, "/tmp/work"]


@pytest.mark.long
@needs_a_view
@needs_landlock
def test_a_task_certifies_as_the_images_user_below_a_read_only_root(
    built: Image, work: list[str]
) -> None:
    done = built.run("run", "/tmp/work/task.yaml", binds=work)
    assert done.returncode == 0, done
    assert "proven: a check failed before the work" in done.stdout
    assert "the checks ran in container" in done.stdout
    (certificate,) = built.state.rglob("certificate.json")
    said = json.loads(certificate.read_text(encoding="utf-8"))["sandbox"]
    assert said == {"tools": "container", "checks": "container"}
    assert certificate.stat().st_uid == image.UID


@pytest.mark.long
@needs_a_view
def test_a_task_certifies_in_gvisors_overlay_as_a_user_of_its_own(
    built: Image, work: list[str]
) -> None:
    """What the overlay needs of its kernel is here; gVisor itself is not."""
    done = built.run("run", "/tmp/work/task.yaml", binds=work, gvisor=True)
    assert done.returncode == 0, done
    assert "the checks ran in container" in done.stdout
    doctor = built.run("doctor", gvisor=True)
    assert "another user for each task, no Landlock" in doctor.stdout, doctor


@pytest.mark.long
@needs_a_view
def test_restricted_without_landlock_is_refused(built: Image, work: list[str]) -> None:
    """Why the overlay for gVisor is not the base with another class."""
    words = built.view(env=image.POD, binds=work, gvisor=True)
    place = words.index("users")
    words[place : place + 1] = ["none", "--user", str(image.UID)]
    command = [*words, *image.dockerfile().entrypoint, "run", "/tmp/work/task.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 3 and "there is no Landlock here" in done.stderr, done


CLIENT = """
import http.client, json, sys, time, yaml
token = open("/var/lib/agent-runtime/token", encoding="ascii").read().strip()
def ask(method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", 8700, timeout=30)
    headers = {"Authorization": "Bearer " + token, "Content-Type": "application/json"}
    connection.request(method, path, body and json.dumps(body), headers)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())
spec = yaml.safe_load(open("/tmp/work/task.yaml", encoding="utf-8"))
spec["workspace"]["repo"] = "/tmp/work/repo"
status, task = ask("POST", "/v1/tasks", spec)
assert status == 201, (status, task)
end = time.monotonic() + 60
while task["status"] in ("pending", "running") and time.monotonic() < end:
    time.sleep(0.05)
    _, task = ask("GET", "/v1/tasks/" + task["id"])
print(task["status"])
"""


ATTACK = """
import ctypes, os, resource, signal, socket, sys
libc, uid, daemons = ctypes.CDLL(None, use_errno=True), os.getuid(), []
for name in os.listdir("/proc"):
    if name.isdigit() and b"serve" in open(f"/proc/{name}/cmdline", "rb").read().split(bytes(1)):
        daemons.append(int(name))
print("daemons", len(daemons))
ioprio, best_effort = {"x86_64": 251, "aarch64": 30}[os.uname().machine], 2 << 13 | 4
def ask(number, *arguments):
    if libc.syscall(number, *arguments) != 0: raise OSError(ctypes.get_errno(), "refused")
def connect(family, host):
    with socket.socket(family) as one: one.connect((host, 8700))
def group_of(pid):
    # 0: one from outside, which has no number here, and would mean our own.
    os.setpriority(os.PRIO_PGRP, os.getpgid(pid) or 1, 0)
tries = {
    "token": lambda: open("/var/lib/agent-runtime/token"),
    "store": lambda: open("/var/lib/agent-runtime/store.db", "rb"),
    "state": lambda: os.listdir("/var/lib/agent-runtime"),
    "settings": lambda: open("/etc/agent-runtime/config.yaml"),
    "secret": lambda: open("/run/secrets/agent-runtime/KEY"),
    "tmp": lambda: open("/tmp/new", "w"),
    "api": lambda: connect(socket.AF_INET, "127.0.0.1"),
    "api6": lambda: connect(socket.AF_INET6, "::1"),
    "renice all": lambda: os.setpriority(os.PRIO_USER, 0, 0),
    "renice user": lambda: os.setpriority(os.PRIO_USER, uid, 0),
    "disks": lambda: ask(ioprio, 3, uid, best_effort),
}
for pid in daemons:
    tries |= {
        f"environ {pid}": lambda pid=pid: open(f"/proc/{pid}/environ", "rb").read(),
        f"memory {pid}": lambda pid=pid: open(f"/proc/{pid}/mem", "rb"),
        f"descriptor {pid}": lambda pid=pid: os.readlink(f"/proc/{pid}/fd/0"),
        f"limit {pid}": lambda pid=pid: resource.prlimit(pid, resource.RLIMIT_CPU, (9, 9)),
        f"renice {pid}": lambda pid=pid: os.setpriority(os.PRIO_PROCESS, pid, 0),
        f"group {pid}": lambda pid=pid: group_of(pid),
        f"affinity {pid}": lambda pid=pid: os.sched_setaffinity(pid, {0}),
        f"scheduler {pid}": lambda pid=pid: os.sched_setscheduler(
            pid, os.SCHED_BATCH, os.sched_param(0)),
        f"parameters {pid}": lambda pid=pid: os.sched_setparam(pid, os.sched_param(0)),
        f"disk {pid}": lambda pid=pid: ask(ioprio, 1, pid, best_effort),
    }
    if SCOPES:
        tries[f"signal {pid}"] = lambda pid=pid: os.kill(pid, signal.SIGCONT)
for name, what in tries.items():
    try: what(); print("reached", name)
    except OSError: pass
os.setpriority(os.PRIO_PROCESS, 0, 5)          # its own it may change
os.sched_setaffinity(0, os.sched_getaffinity(0))
"""


@contextmanager
def served(built: Image, binds: Sequence[str], **env: str) -> Iterator[tuple[int, list[str]]]:
    """The image's command, listening; its process 1, and the words that put a command beside it."""
    said = image.dockerfile()
    variables = {**image.POD, **env}
    words = built.view(env=variables, binds=binds, gvisor=False)
    with subprocess.Popen(
        [*words, *said.entrypoint, *said.command], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert "serves at http://0.0.0.0:8700" in line, line + process.stderr.read()
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            first = int(children.read_text(encoding="ascii").split()[0])
            inside = [
                *("nsenter", "--target", str(first), "--all", "--root", "--wd"),
                *("--setuid", str(image.UID), "--setgid", str(image.UID), "/usr/bin/env", "-i"),
                *(f"{name}={value}" for name, value in {**said.env, **variables}.items()),
            ]
            yield first, inside
            os.kill(first, signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()


@pytest.mark.long
@needs_a_view
@needs_landlock
def test_the_images_command_serves_is_healthy_certifies_and_ends_in_good_order(
    built: Image, work: list[str]
) -> None:
    """As process 1, with the Dockerfile's own health check."""
    with served(built, work, AGENT_RUNTIME_WORKSPACE_ROOTS="/tmp/work") as (_, inside):
        health = [*inside, *image.dockerfile().health]
        done = subprocess.run(health, capture_output=True, timeout=60)
        assert done.returncode == 0, done
        client = subprocess.run(
            [*inside, "python3", "-c", CLIENT], capture_output=True, text=True, timeout=120
        )
        assert client.stdout == "succeeded\n", client


@pytest.mark.long
@needs_a_view
@needs_landlock
def test_what_runs_in_the_pods_sandbox_does_not_reach_the_daemon(built: Image) -> None:
    """Tool and daemon are one user in one container there."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        secret = Path(name) / "KEY"
        secret.write_text("canary", encoding="utf-8")
        os.chown(secret, 0, image.UID)
        secret.chmod(0o440)
        Path(name).chmod(0o755)
        code = f"SCOPES = {landlock.abi() >= landlock.SCOPES_ABI}\n{ATTACK}"
        with served(built, ["--ro-bind", name, "/run/secrets/agent-runtime"]) as (_, inside):
            script = 'mkdir /tmp/ws && exec agent-runtime sandbox exec --workspace /tmp/ws -- "$@"'
            done = subprocess.run(
                [*inside, "sh", "-c", script, "sh", "python3", "-c", code],
                capture_output=True,
                text=True,
                timeout=120,
            )
    assert (done.stdout, done.stderr) == ("daemons 2\n", "")
