"""One runtime with the real sandbox for a file of tests, and a checkout for each test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent_runtime.api.daemon import Daemon
from agent_runtime.settings import Settings
from agent_runtime.types import TaskId
from agent_runtime_mcp.definitions import ToolAnswer
from agent_runtime_mcp.tools.server import ToolsServer
from agent_runtime_mcp.wire import META_KEY
from tests.mcp.asked import FakeAsked, call, text_of
from tests.mcp.tools.serving import serving


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Real processes live in real time."""
    return "asyncio"


@dataclass
class Served:
    """The server of one process, and what stands behind it."""

    server: ToolsServer
    daemon: Daemon
    root: Path


@pytest.fixture(scope="module")
async def served(
    anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    root = tmp_path_factory.mktemp("tools")
    settings = Settings(store=f"sqlite:///{root}/state/store.db")
    async with serving(settings, str(root)) as (server, daemon):
        yield Served(server, daemon, root)


@dataclass
class Client:
    """A client whose address names one checkout."""

    served: Served
    repo: Path
    query: dict[str, str]

    def asked(self, key: str = "", **more: Any) -> FakeAsked:
        return Client.Asked(query=self.query, meta={META_KEY: key} if key else {}, **more)

    @dataclass
    class Asked(FakeAsked):
        """A client whose person answers one question after the other."""

        person: list[dict[str, Any]] = field(default_factory=list)

        async def ask(self, questions: Any, *, state: str = "") -> Any:
            if self.person:
                self.says = {"elicitation/create": self.person.pop(0)}
            return await super().ask(questions, state=state)

    async def __call__(
        self, tool: str, arguments: Any, asked: FakeAsked | None = None, *, key: str = ""
    ) -> ToolAnswer:
        with anyio.fail_after(60):
            return await call(self.served.server, tool, asked or self.asked(key), **arguments)

    async def text(self, tool: str, arguments: Any, *, key: str = "") -> str:
        return text_of(await self(tool, arguments, key=key))

    async def session(self) -> TaskId:
        found = await self.served.daemon.runtime.tasks(limit=500)
        ours = [each for each in found if each.repo == str(self.repo)]
        return TaskId(ours[0].task_id)


def checkout(repo: Path) -> Path:
    """A repository with one file, which whoever the sandbox runs as may write to."""
    repo.mkdir()
    (repo / "a.txt").write_text("hello\n")
    # Under root each session is another user, and appends to what one before it has made.
    (repo / "log.txt").touch()
    who = ["-c", "user.name=t", "-c", "user.email=t@example.invalid"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "begin"]):
        subprocess.run(["git", "-C", str(repo), *who, *arguments], check=True)
    for place, _, files in os.walk(repo):
        os.chmod(place, 0o777)
        for name in files:
            os.chmod(os.path.join(place, name), 0o666)
    return repo


@pytest.fixture
def client(served: Served, request: pytest.FixtureRequest) -> Client:
    """Works in place."""
    number = len(list(served.root.glob("repo*")))
    repo = checkout(served.root / f"repo{number}")
    return Client(served, repo, {"workspace": str(repo)})
