"""A daemon in this process, without sockets: a real runtime that drives, and its hub."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent_runtime.access.opening import make_access
from agent_runtime.api.daemon import Daemon, Readiness
from agent_runtime.api.hub import Hub
from agent_runtime.api.metrics import Metrics
from agent_runtime.app import open_access, open_runtime
from agent_runtime.settings import load_settings
from agent_runtime.toolbox import PluginToolbox
from agent_runtime_mcp.runtime import RuntimeServer
from tests.e2e.conftest import git
from tests.mcp.asked import FakeAsked, call


@asynccontextmanager
async def living(
    directory: Path, *, roots: tuple[str, ...] = (), unsafe: bool = True, prompts: str = ""
) -> AsyncIterator[RuntimeServer]:
    """The server on a daemon that drives tasks; its store lies in `directory`."""
    settings = load_settings({"store": f"sqlite:///{directory}/store.db"})
    async with open_runtime(settings, unsafe_no_sandbox=unsafe) as runtime:
        access = make_access(
            settings, open_access(runtime.ports.store), now_us=runtime.ports.clock.now_us
        )
        toolbox = runtime.ports.toolbox
        assert isinstance(toolbox, PluginToolbox)
        daemon = Daemon(
            runtime=runtime, hub=Hub(runtime.ports.store), metrics=Metrics(),
            modules=toolbox.modules.health, state_dir=str(directory), access=access,
            workspace_roots=roots, readiness=Readiness.READY,
        )  # fmt: skip
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(daemon.hub.run)
            tasks.start_soon(access.run)
            tasks.start_soon(runtime.supervisor.run_until_stopped)
            with anyio.fail_after(60):
                yield RuntimeServer(daemon, prompts_folder=prompts)
            tasks.cancel_scope.cancel()


@pytest.fixture
def anyio_backend() -> str:
    """SQLite, git and processes are real."""
    return "asyncio"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RuntimeServer]:
    async with living(tmp_path, roots=(str(tmp_path),)) as made:
        yield made


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    where = tmp_path / "repo"
    where.mkdir()
    git(where, "init", "-q")
    git(where, "commit", "-qm", "one", "--allow-empty")
    return where


async def idle(server: RuntimeServer, asked: FakeAsked | None = None) -> str:
    """A task that waits for a client's first decision; its id."""
    answer = await call(
        server, "submit_task", asked, goal="wait for me", model="client", wait_seconds=20
    )
    task: dict[str, Any] = answer.structured
    assert (task["status"], task["reason"]) == ("waiting", "brain"), task
    return str(task["id"])
