"""The image's command as its user, its root read-only, without Docker: a task certifies there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_runtime.sandboxes import landlock
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


@pytest.mark.long
@needs_a_view
@needs_landlock
def test_the_images_command_serves_is_healthy_certifies_and_ends_in_good_order(
    built: Image, work: list[str]
) -> None:
    """As process 1, with the Dockerfile's own health check."""
    said = image.dockerfile()
    env = {**image.POD, "AGENT_RUNTIME_WORKSPACE_ROOTS": "/tmp/work"}
    words = built.view(env=env, binds=work, gvisor=False)
    with subprocess.Popen(
        [*words, *said.entrypoint, *said.command], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert "serves at http://0.0.0.0:8700" in line, line + process.stderr.read()
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            first = children.read_text(encoding="ascii").split()[0]
            inside = [
                *("nsenter", "--target", first, "--all", "--root", "--wd"),
                *("--setuid", str(image.UID), "--setgid", str(image.UID)),
                *("/usr/bin/env", f"PATH={said.env['PATH']}"),
            ]
            health = subprocess.run([*inside, *said.health], capture_output=True, timeout=60)
            assert health.returncode == 0, health
            client = subprocess.run(
                [*inside, "python3", "-c", CLIENT], capture_output=True, text=True, timeout=120
            )
            assert client.stdout == "succeeded\n", client
            os.kill(int(first), signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
