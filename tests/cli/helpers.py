"""The command line as a process of its own: run it, or start it and wait for its lines."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS_MAX = 60.0
"""For one process or one line; a loaded machine needs a few."""
UNSAFE = "--unsafe-no-sandbox"


@dataclass(slots=True)
class Done:
    """A finished process."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Its stdout as one document."""
        return json.loads(self.out)

    def lines(self) -> list[Any]:
        """Its stdout, a JSON value a line."""
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass(slots=True)
class Cli:
    """Calls `python -m agent_runtime` with state of its own."""

    home: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def state(self) -> Path:
        """The directory of the store."""
        return self.home / "state" / "agent-runtime"

    def __call__(self, *arguments: str, stdin: str = "", cwd: Path | None = None) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "agent_runtime", *arguments],
            input=stdin.encode(),
            capture_output=True,
            env=self.environment(),
            cwd=cwd or self.home,
            timeout=SECONDS_MAX,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *arguments: str) -> Started:
        """Start one beside us."""
        return Started(arguments, self)

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
            "COLUMNS": "200",
            **self.env,
        }


class Started:
    """A running process whose lines can be waited for."""

    def __init__(self, arguments: tuple[str, ...], cli: Cli) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "agent_runtime", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=cli.environment(),
            cwd=cli.home,
            # A runner in the background may ignore SIGINT, and that would be inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        self.seen: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.decode())
        self._lines.put(None)

    def wait_for(self, wanted: Callable[[str], bool] | str) -> str:
        """The next line that is wanted (or holds the text)."""
        fits = (lambda line: wanted in line) if isinstance(wanted, str) else wanted
        deadline = time.monotonic() + SECONDS_MAX
        while True:
            try:
                line = self._lines.get(timeout=max(deadline - time.monotonic(), 0.01))
            except queue.Empty:
                line = None
            if line is None:
                code = self.process.poll()
                raise AssertionError(f"{wanted!r} did not come (exit {code}): {self.seen}")
            self.seen.append(line)
            if fits(line):
                return line

    def wait_for_event(self, kind: str) -> dict[str, Any]:
        """The next stored event of a type, of a process with --json."""
        row: dict[str, Any] = json.loads(self.wait_for(f'"type":"{kind}"'))
        return row

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def finish(self) -> Done:
        """Wait for its end."""
        code = self.process.wait(SECONDS_MAX)
        while (line := self._lines.get(timeout=SECONDS_MAX)) is not None:
            self.seen.append(line)
        assert self.process.stderr is not None and self.process.stdout is not None
        err = self.process.stderr.read().decode()
        self.process.stderr.close()
        self.process.stdout.close()
        return Done(code, "".join(self.seen), err)
