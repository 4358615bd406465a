"""What clients copy, install and look up: it starts, and agrees with itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_runtime import __version__
from tests.mcp.front.blocks import (
    README,
    blocks,
    commands,
    cursor_link,
    environment,
    lists_tools,
)
from tests.mcp.front.speaking import end_daemons
from tests.mcp.lines import ROOT

CLIENTS = ["Claude Desktop", "Claude Code", "VS Code", "Cursor", "Zed"]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Of a user who has nothing yet, with a project."""
    (tmp_path / "project").mkdir()
    yield tmp_path
    end_daemons(tmp_path / "state" / "agent-runtime")


def test_each_client_has_a_block_in_the_readme_and_its_commands_are_the_same() -> None:
    """Also in the link that Cursor opens."""
    found = {block.client: block.commands for block in blocks()}
    assert list(found) == CLIENTS
    hand_off = ("agent-runtime", "mcp", "runtime")
    assert all(commands[0] == hand_off for commands in found.values())
    assert cursor_link() == hand_off


def test_the_registry_is_told_what_there_is() -> None:
    """The rules of its schema of 2025-12-11 and of the official registry for packages of PyPI."""
    said = json.loads((ROOT / "server.json").read_text(encoding="utf-8"))
    assert said["$schema"].endswith("/schemas/2025-12-11/server.schema.json")
    assert re.fullmatch(r"[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+", said["name"])
    assert f"<!-- mcp-name: {said['name']} -->" in README.read_text(encoding="utf-8")
    assert 1 <= len(said["description"]) <= 100 and 1 <= len(said["title"]) <= 100
    (package,) = said["packages"]
    assert said["version"] == package["version"] == __version__
    assert (package["registryType"], package["identifier"]) == ("pypi", "agent-runtime")
    assert package["transport"] == {"type": "stdio"}
    for argument in package["packageArguments"]:
        assert argument["type"] == "positional" and {"value", "valueHint"} & set(argument)
    secret = {each["name"]: each.get("isSecret", False) for each in package["environmentVariables"]}
    assert secret == {"AGENT_RUNTIME_URL": False, "AGENT_RUNTIME_TOKEN": True}


@pytest.mark.long
def test_in_a_fresh_environment_everything_that_is_copied_or_installed_lists_its_tools(
    home: Path,
) -> None:
    """The built wheel in a new venv, a user without a daemon, the README's exact commands; and what
    is in the bundles, which the format's own program has validated and packed."""
    from distribution.__main__ import SERVERS, build_wheel, lay_out, pack

    wheel = build_wheel(home / "dist")
    venv = home / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    pip = [str(venv / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, str(wheel)], check=True)
    mine = environment(home, home / "state", venv / "bin")
    assert min(lists_tools(each, mine) for each in commands(home / "project")) > 10
    for name in SERVERS:
        target = home / f"{name}.mcpb"
        pack(lay_out(name, wheel, home / "bundles"), target)
        with zipfile.ZipFile(target) as bundle:
            bundle.extractall(home / "installed" / name)
            manifest = json.loads(bundle.read("manifest.json"))
        entry = home / "installed" / name / manifest["server"]["entry_point"]
        given = manifest["server"]["mcp_config"]["args"][5:]
        roots = [each.replace("${user_config.root}", str(home / "project")) for each in given]
        assert lists_tools(["python", str(entry), *roots], mine) > 10
