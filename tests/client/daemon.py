"""A daemon as a process of its own, that can be killed and started anew."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from agent_runtime.access import token
from agent_runtime.api.presence import find_daemon
from agent_runtime.client import Client
from agent_runtime.client.places import Place

SECONDS_MAX = 60.0
"""For its start; a loaded machine needs a few."""

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


IDLE = {"goal": "Think of something"}
"""Without a plan and a model it waits for a brain, and costs nothing."""


class Served:
    """`agent-runtime serve` with state below `home`; its tools run without a sandbox."""

    def __init__(self, home: Path, *options: str, port: int = 0) -> None:
        self.home = home
        self.state = home / "state" / "agent-runtime"
        self._options, self._port = options, port
        self.process: subprocess.Popen[bytes] | None = None

    def environment(self) -> dict[str, str]:
        """Nothing of the caller's that could be a setting."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("AGENT_RUNTIME") and not name.endswith(("_API_KEY", "_BASE_URL"))
        }
        return {
            **kept,
            "XDG_STATE_HOME": str(self.home / "state"),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "AGENT_RUNTIME_WORKSPACE_ROOTS": str(self.home),
            "COLUMNS": "200",
        }

    def start(self) -> None:
        """Start it, and wait until it takes work."""
        self.state.mkdir(parents=True, exist_ok=True)
        with open(self.home / "serve.log", "ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "agent_runtime", "serve", "--port", str(self._port)),
                    *("--unsafe-no-sandbox", *self._options),
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment(),
                cwd=self.home,
            )  # fmt: skip
        deadline = time.monotonic() + SECONDS_MAX
        while (found := find_daemon(str(self.state))) is None or found.pid != self.process.pid:
            said = (self.home / "serve.log").read_text()
            assert self.process.poll() is None and time.monotonic() < deadline, said
            time.sleep(0.02)
        with self.client() as client:
            while not client.ready():
                assert time.monotonic() < deadline
                time.sleep(0.02)

    @property
    def url(self) -> str:
        found = find_daemon(str(self.state))
        assert found is not None
        return found.address

    @property
    def place(self) -> Place:
        return Place(self.url, token.read(str(self.state)), str(self.state))

    def client(self) -> Client:
        return Client(self.place)

    def kill(self) -> None:
        """SIGKILL: no farewell."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(SECONDS_MAX)
            self.process = None
