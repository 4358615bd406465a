"""Shared by the sandbox tests: both kinds, specs, calls, and a look at the host's processes."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent_runtime.ports import SandboxLimits, SandboxSpec
from agent_runtime.sandboxes.bubblewrap import BubblewrapSandbox
from agent_runtime.sandboxes.container import ContainerSandbox
from agent_runtime.sandboxes.kernel import start_time
from agent_runtime.sandboxes.surroundings import Boundary
from agent_runtime.sandboxes.unsafe import UnsafeSandbox
from agent_runtime.types import ToolCall, ToolInfo
from tests.sandboxes.tools_for_tests import SOURCE

MOUNT = "/srv/project"
TOOLS = str(Path(__file__).with_name("tools_for_tests.py"))

AnySandbox = BubblewrapSandbox | ContainerSandbox | UnsafeSandbox


def make_sandbox(kind: str, state_dir: Path) -> AnySandbox:
    """A sandbox of this kind, or a skip that says why there is none here."""
    sandbox = new_sandbox(kind, state_dir)
    probe = anyio.run(sandbox.probe)
    if not probe.ok:
        pytest.skip(f"no sandbox on this machine: {probe.detail} {probe.remedy}")
    return sandbox


def new_sandbox(kind: str, state_dir: Path) -> AnySandbox:
    """Not probed: for a test that has asked for the kind already."""
    if kind == "unsafe":
        return UnsafeSandbox(str(state_dir))
    if kind == "container":
        return new_container(state_dir)
    return BubblewrapSandbox(str(state_dir))


def new_container(state_dir: Path, **changes: Any) -> ContainerSandbox:
    """This very place is declared, and waits for nobody but its own kind with this state."""
    boundary = Boundary(declared=True, name=socket.gethostname(), **changes)
    return ContainerSandbox(str(state_dir), boundary, turns=f"test-{state_dir}"[-100:])


def make_spec(tmp_path: Path, **changes: Any) -> SandboxSpec:
    workspace = tmp_path / "workspace"
    workspace.mkdir(exist_ok=True)
    values: dict[str, Any] = {
        "owner_id": "task_1",
        "workspace": str(workspace),
        "mount": MOUNT,
        "python": sys.prefix,
        "plugin_paths": (TOOLS,),
        "limits": SandboxLimits(output_bytes=1 << 20),
        **changes,
    }
    return SandboxSpec(**values)


def info(name: str, source: str = SOURCE) -> ToolInfo:
    return ToolInfo(
        name=name, description="", parameters={}, toolbelt="standard", where="worker", source=source
    )


def call(name: str, /, **arguments: Any) -> ToolCall:
    return ToolCall(call_id="s.1", tool=name, arguments=arguments, workspace=MOUNT)


def processes_with(word: str) -> list[int]:
    """Live processes of the host with `word` as a whole argument."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                arguments = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if word.encode() in arguments and start_time(int(entry)):
                found.append(int(entry))
    return found


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Poll what has no event: another process's doings."""
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.01)
