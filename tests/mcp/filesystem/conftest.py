"""A filesystem server in this process, once as the kernel has it and once without `openat2`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent_runtime.access.callers import SCOPES, Caller
from agent_runtime_mcp.definitions import ToolAnswer, Unsupported
from agent_runtime_mcp.filesystem import FilesystemServer, kernel

WAYS = [True, False] if kernel.has_openat2() else [False]


class Nobody:
    """A client that can be asked nothing."""

    caller = Caller("local", frozenset(SCOPES), "cli")
    client = ""
    meta: Mapping[str, Any] = {}
    state = ""
    query: Mapping[str, str] = {}

    def can(self, capability: str) -> bool:
        return False

    async def progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        pass

    async def log(self, level: str, data: Any, logger: str | None = None) -> None:
        pass

    async def ask(self, questions: Mapping[str, Any], *, state: str = "") -> Mapping[str, Any]:
        raise Unsupported("nobody is there")


class Files:
    """Calls of a server's tools, as a client makes them: the short way first, then the long one."""

    def __init__(self, server: FilesystemServer) -> None:
        self.server = server
        self.tools = {tool.name: tool for tool in server.fixed_tools()}

    def answer(self, name: str, **arguments: Any) -> ToolAnswer:
        tool = self.tools[name]
        assert tool.now is not None
        said = tool.now(arguments, Nobody())
        return said if said is not None else anyio.run(tool.run, arguments, Nobody())

    def call(self, name: str, **arguments: Any) -> str:
        """The text of a call that must have worked."""
        said = self.answer(name, **arguments)
        assert not said.is_error, said.content
        assert isinstance(said.structured, dict)
        return str(said.structured["content"])

    def refused(self, name: str, **arguments: Any) -> str:
        """Why a call was refused; it must have been."""
        said = self.answer(name, **arguments)
        assert said.is_error, said.content
        return str(said.content[0]["text"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "allowed").mkdir()
    return tmp_path / "allowed"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory beside the root, with a secret in it."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("SECRET")
    return tmp_path / "outside"


@pytest.fixture(params=WAYS, ids=lambda openat2: "openat2" if openat2 else "steps")
def files(root: Path, request: pytest.FixtureRequest) -> Files:
    return Files(FilesystemServer([str(root)], openat2=request.param))


@pytest.fixture
def plain(root: Path) -> Files:
    """Where the way to a file makes no difference."""
    return Files(FilesystemServer([str(root)]))
