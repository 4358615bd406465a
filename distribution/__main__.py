"""`make bundles`: a wheel, and of each server an .mcpb bundle, for clients that install those.

A bundle holds a manifest, the wheel and a program of a few lines. Dependencies are fetched by uv
when the client installs it: compiled ones differ by machine. Needs Node, and the network for npm.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from agent_runtime import __version__
from tests.mcp.node import environment, program

ROOT = Path(__file__).parents[1]
MCPB = ("@anthropic-ai/mcpb", "2.1.2", "mcpb")

LICENSE = "Apache-2.0"
SERVERS: dict[str, dict[str, Any]] = {
    "runtime": {
        "display_name": "agent-runtime: tasks",
        "description": "Hand off a coding task; get back a proven branch, or an honest 'not done'.",
        "arguments": [],
        "user_config": {},
    },
    "filesystem": {
        "display_name": "agent-runtime: files",
        "description": "Read, search and edit files below some directories, and nothing outside.",
        "arguments": ["--root", "${user_config.root}"],
        "user_config": {
            "root": {
                "type": "directory", "title": "Directory", "required": True,
                "description": "What may be read and written.",
            }
        },
    },
}  # fmt: skip

PROGRAM = '''"""Starts a server of agent-runtime, which uv has installed beside this."""

import sys

from agent_runtime.cli import main

if __name__ == "__main__":
    main(["mcp", {name!r}, *sys.argv[1:]])
'''

PROJECT = """[project]
name = "agent-runtime-{name}-bundle"
version = "{version}"
requires-python = ">=3.11"
dependencies = ["agent-runtime"]

[tool.uv]
package = false

[tool.uv.sources]
agent-runtime = {{path = "{wheel}"}}
"""


def manifest(name: str) -> dict[str, Any]:
    """What a client shows, and how it starts the server."""
    server = SERVERS[name]
    command = ["run", "--quiet", "--directory", "${__dirname}", "src/server.py"]
    return {
        "manifest_version": "0.4",
        "name": f"agent-runtime-{name}",
        "display_name": server["display_name"],
        "version": __version__,
        "description": server["description"],
        "author": {"name": "agent-runtime contributors"},
        "license": LICENSE,
        "server": {
            "type": "uv",
            "entry_point": "src/server.py",
            "mcp_config": {"command": "uv", "args": [*command, *server["arguments"]]},
        },
        "tools_generated": True,
        "compatibility": {"platforms": ["linux"], "runtimes": {"python": ">=3.11"}},
        "user_config": server["user_config"],
    }


def lay_out(name: str, wheel: Path, directory: Path) -> Path:
    """Write what goes into a bundle."""
    where = directory / name
    shutil.rmtree(where, ignore_errors=True)
    (where / "src").mkdir(parents=True)
    shutil.copy(wheel, where)
    text = json.dumps(manifest(name), indent=2)
    (where / "manifest.json").write_text(f"{text}\n", encoding="utf-8")
    project = PROJECT.format(name=name, version=__version__, wheel=wheel.name)
    (where / "pyproject.toml").write_text(project, encoding="utf-8")
    (where / "src" / "server.py").write_text(PROGRAM.format(name=name), "utf-8")
    return where


def build_wheel(directory: Path) -> Path:
    """The wheel of this checkout."""
    uv = shutil.which("uv") or str(ROOT / ".cache" / "boot" / "bin" / "uv")
    if Path(uv).exists():
        build = [uv, "build", "--quiet", "--wheel", "--out-dir", str(directory)]
    else:
        build = [*(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps")]
        build += ["--wheel-dir", str(directory), "."]
    subprocess.run(build, cwd=ROOT, check=True)
    (wheel,) = directory.glob(f"agent_runtime-{__version__}-*.whl")
    return wheel


def pack(folder: Path, target: Path) -> None:
    """Validate with the format's own program, and pack."""
    for arguments in (
        ["validate", str(folder / "manifest.json")],
        ["pack", str(folder), str(target)],
    ):
        subprocess.run([*program(*MCPB), *arguments], env=environment(), check=True)


def main() -> None:
    """Everything below `dist/`."""
    output = ROOT / "dist"
    output.mkdir(exist_ok=True)
    wheel = build_wheel(output)
    for name in SERVERS:
        target = output / f"agent-runtime-{name}-{__version__}.mcpb"
        pack(lay_out(name, wheel, output / "bundles"), target)
        print(target)


if __name__ == "__main__":
    main()
