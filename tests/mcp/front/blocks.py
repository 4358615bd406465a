"""What stands in the README for clients to copy."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.mcp.lines import ROOT, speaking

README = ROOT / "README.md"
SECTION = "From an IDE or a chat"
PLACE = "/home/you/project"
"""What a reader puts their own directory for."""

_BLOCK = re.compile(r"^\*\*([^*]+)\*\*.*?```(json|sh)\n(.*?)```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """Of one client: its name, and the command of each server in it."""

    client: str
    commands: tuple[tuple[str, ...], ...]


def blocks() -> list[Block]:
    """In the order of the README."""
    text = README.read_text(encoding="utf-8").partition(f"## {SECTION}\n")[2].partition("\n## ")[0]
    found = []
    for client, kind, body in _BLOCK.findall(text):
        if kind == "sh":
            line = shlex.split(body)
            commands = [line[line.index("--") + 1 :]]
        else:
            (servers,) = json.loads(body).values()
            commands = [[each["command"], *each["args"]] for each in servers.values()]
        found.append(Block(client, tuple(map(tuple, commands))))
    return found


def commands(project: Path) -> list[list[str]]:
    """Each different one, for this directory."""
    found = dict.fromkeys(command for block in blocks() for command in block.commands)
    return [[str(project) if word == PLACE else word for word in command] for command in found]


def cursor_link() -> tuple[str, ...]:
    """The command in the link that Cursor opens."""
    link = re.search(r"\((cursor://[^)]+)\)", README.read_text(encoding="utf-8"))
    assert link is not None
    query = parse_qs(urlsplit(link[1]).query)
    config = json.loads(base64.b64decode(query["config"][0]))
    return config["command"], *config["args"]


def environment(home: Path, state: Path, programs: Path) -> dict[str, str]:
    """What a client gives its servers: its own PATH, and the user's home."""
    return {
        "PATH": f"{programs}{os.pathsep}/usr/bin:/bin",
        "HOME": str(home),
        "XDG_STATE_HOME": str(state),
        "XDG_CONFIG_HOME": str(home / "config"),
    }


def lists_tools(command: list[str], environment: dict[str, str]) -> int:
    """Started as a client does it; how many there are."""
    program = shutil.which(command[0], path=environment["PATH"])
    assert program is not None
    with speaking([program, *command[1:]], **environment) as lines:
        lines.initialize("2025-06-18")
        tools = lines.ask("tools/list")["result"]["tools"]
        assert lines.close() == 0
    return len(tools)
