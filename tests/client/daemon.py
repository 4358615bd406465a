"""A daemon of the API's tests as its users find it, and tasks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent_runtime.client import Client
from agent_runtime.client.places import Place
from tests.api.daemons import DaemonProcess

IDLE = {"goal": "Think of something"}
"""Without a plan and a model it waits for a brain, and costs nothing."""


def shell_task(repo: Path, *commands: str, **more: Any) -> dict[str, Any]:
    """A playbook of shell steps, one after the other, on a repository."""
    steps = [
        {"id": f"s{at}", "tool": "shell", "args": {"command": command},
         "needs": [f"s{at - 1}"] if at else []}
        for at, command in enumerate(commands)
    ]  # fmt: skip
    return {
        "goal": "Run commands",
        "workspace": {"repo": str(repo)},
        "plan": {"steps": steps},
        "objectives": [{"id": "fine", "check": {"command": "true"}}],
        **more,
    }


def place_of(daemon: DaemonProcess) -> Place:
    return Place(f"http://127.0.0.1:{daemon.port}", daemon.token, str(daemon.directory))


def client_of(daemon: DaemonProcess) -> Client:
    return Client(place_of(daemon))


def state_of(home: Path) -> Path:
    """Where a user's daemon keeps everything; `tests.cli.helpers.Cli` looks there too."""
    return home / "state" / "agent-runtime"
