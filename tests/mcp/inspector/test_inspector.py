"""The Inspector's command line as a real client: both transports, both wires, several servers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.daemons import DaemonProcess, serving
from tests.mcp.node import environment, program

pytestmark = pytest.mark.long

INSPECTOR = ("@modelcontextprotocol/inspector", "2.12.0", "inspector")
REQUESTS = 500
SECONDS_MAX = 120
PROBES = {
    "filesystem": ("read_text_file", "path={root}/a.txt"),
    "runtime": ("list_tasks", "limit=5"),
    "tools": ("search_tools", "query=read a file"),
}
"""A call of each server, with an argument."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    directory = tmp_path_factory.mktemp("inspector")
    (directory / "root").mkdir()
    (directory / "root" / "a.txt").write_text("hello\n")
    with serving(directory / "state") as made:
        yield made


def target(daemon: DaemonProcess, server: str, transport: str) -> list[str]:
    """How the Inspector is told where the server is."""
    if transport == "http":
        mode = "?mode=search" if server == "tools" else ""
        url = f"http://127.0.0.1:{daemon.port}/mcp/{server}{mode}"
        return [url, "--transport", "http", "--header", f"Authorization: Bearer {daemon.token}"]
    root = str(daemon.directory.parent / "root")
    options = {"filesystem": ["--root", root], "tools": ["--search"]}.get(server, [])
    command = [str(Path(sys.executable).parent / "agent-runtime"), "--store", daemon.store]
    return [*command, "mcp", server, *options]


def inspect(arguments: list[str]) -> Any:
    """What it prints; it ends with 0, and has nothing to complain of."""
    done = subprocess.run(
        [*program(*INSPECTOR), "--cli", *arguments],
        env=environment(), capture_output=True, text=True, timeout=SECONDS_MAX,
    )  # fmt: skip
    assert (done.returncode, done.stderr.strip()) == (0, ""), done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize("transport", ["stdio", "http"])
@pytest.mark.parametrize("server", ["filesystem", "runtime", "tools"])
def test_the_inspector_lists_strictly_calls_and_loads(
    daemon: DaemonProcess, server: str, transport: str, era: str
) -> None:
    """No schema that another client could stumble over, no error under load."""
    where = [*target(daemon, server, transport), "--protocol-era", era]
    tools = inspect([*where, "--method", "tools/list", "--strict"])["tools"]
    name, argument = PROBES[server]
    assert name in [each["name"] for each in tools]
    if server == "filesystem" and transport == "http":
        name, argument = "list_allowed_directories", ""
    call = [*where, "--method", "tools/call", "--tool-name", name]
    if argument:
        call += ["--tool-arg", argument.format(root=daemon.directory.parent / "root")]
    result = inspect(call)
    assert not result.get("isError") and result["content"]
    load = [f"--load-requests={REQUESTS}", "--load-concurrency=8"]
    told = inspect([*call, "--load", *load])
    assert (told["ok"], told["errors"], told["toolErrors"]) == (REQUESTS, 0, 0)
