"""A workspace and a way to call the built-in tools in it, as a worker does."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_runtime.errors import ToolRefused
from agent_runtime.ports import Tool
from agent_runtime.toolkit import FunctionTool
from agent_runtime.types import Json, ToolCall, ToolResult
from agent_runtime_tools import files, git, http, search, shell
from agent_runtime_tools.python import Interpreters, make_python


class Workbench:
    """Calls tools in one workspace; what is refused comes back as a worker reports it.

    `blocking` calls them in the caller's thread, as a worker does.
    """

    def __init__(self, workspace: Path, tools: dict[str, Tool]) -> None:
        self.workspace = workspace
        self.protected: tuple[str, ...] = ()
        self.env = {"PATH": os.environ["PATH"]}
        self.home = ""
        self.seconds = 20.0
        self.blocking = False
        self._tools = tools
        self._calls = 0

    async def __call__(self, name: str, /, **arguments: Json) -> ToolResult:
        self._calls += 1
        call = ToolCall(
            call_id=f"test-{os.getpid()}-{id(self)}-{self._calls}",
            tool=name,
            arguments=arguments,
            workspace=str(self.workspace),
            protected=self.protected,
            env=self.env,
            home=self.home,
            idempotency_key=f"key-{self._calls}",
            timeout_seconds=self.seconds,
        )
        tool = self._tools[name]
        assert isinstance(tool, FunctionTool)
        try:
            if self.blocking:
                assert tool.execute_blocking is not None, f"{name} needs an event loop"
                return tool.execute_blocking(call)
            return await tool.execute(call)
        except ToolRefused as error:
            return ToolResult(ok=False, kind="refused", output=str(error), paths=error.paths)

    def write(self, path: str, content: str | bytes) -> Path:
        """Put a file there without a tool."""
        file = self.workspace / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def read(self, path: str) -> bytes:
        """A file's bytes, without a tool."""
        return (self.workspace / path).read_bytes()

    def listing(self) -> list[str]:
        """Every path below the workspace but git's, sorted."""
        return sorted(
            str(path.relative_to(self.workspace))
            for path in self.workspace.rglob("*")
            if ".git" not in path.parts
        )

    def git(self, *arguments: str) -> str:
        """What the real git says, as the user would run it."""
        identity = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
        done = subprocess.run(
            ["git", *identity, *arguments],
            cwd=self.workspace,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout


@pytest.fixture
def anyio_backend() -> str:
    """Real processes and threads: virtual time does not see them."""
    return "asyncio"


@pytest.fixture
def use(tmp_path: Path) -> Iterator[Workbench]:
    """Calls tools in an empty workspace."""
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    interpreters = Interpreters()
    built_in = [
        *shell.tools(), *files.tools(), *search.tools(), *git.tools(), *http.tools(),
        make_python(interpreters),
    ]  # fmt: skip
    yield Workbench(workspace, {tool.name: tool for tool in built_in})
    interpreters.close()


@pytest.fixture
def repo(use: Workbench) -> Workbench:
    """The workspace is a git repository with one commit."""
    use.git("init", "-q", "-b", "main")
    use.write("a.txt", "one\n")
    use.git("add", "-A")
    use.git("commit", "-q", "-m", "first")
    return use
