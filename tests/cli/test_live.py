from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import WriteTask
from tests.cli.helpers import SECONDS_MAX, UNSAFE, Cli

ASK = "policy: {approvals: {shell: ask}}\n"


class Terminal:
    """A process on a pseudo-terminal: what it draws, and keys for it."""

    def __init__(self, cli: Cli, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "agent_runtime", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=cli.environment() | {"TERM": "xterm", "LINES": "40"},
            cwd=cli.home,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        os.close(theirs)
        self.drawn = ""

    def wait_for(self, pattern: str) -> str:
        """Read until the pattern was drawn; the first group."""
        deadline = time.monotonic() + SECONDS_MAX
        while not (found := re.search(pattern, self.drawn)):
            if not select.select([self._ours], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise AssertionError(f"{pattern!r} was not drawn: {self.drawn}")
            try:
                self.drawn += os.read(self._ours, 65_536).decode(errors="replace")
            except OSError as error:  # the other end is closed
                raise AssertionError(f"{pattern!r} was not drawn: {self.drawn}") from error
        return found[found.re.groups]

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._ours, text.encode())

    def close(self) -> int:
        """Read to the end; the exit code."""
        try:
            while data := os.read(self._ours, 65_536):
                self.drawn += data.decode(errors="replace")
        except OSError:
            pass
        os.close(self._ours)
        return self.process.wait(SECONDS_MAX)


@pytest.fixture
def asked(cli: Cli, shell_task: WriteTask) -> Iterator[Terminal]:
    """A task on a terminal that asks for an approval."""
    terminal = Terminal(cli, "run", str(shell_task("echo [bold]hi", ASK)), UNSAFE)
    yield terminal
    if terminal.process.poll() is None:
        terminal.process.kill()
        terminal.close()


def test_the_live_view_shows_phases_plan_and_the_result(
    cli: Cli, shell_task: WriteTask, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    command = f"while [ ! -e {flag} ]; do sleep 0.02; done; echo '[red]no markup[/red]'"
    terminal = Terminal(cli, "run", str(shell_task(command)), UNSAFE)
    terminal.wait_for(r"● [0-9a-f]{8}  working")
    terminal.wait_for(r"▶ try")
    flag.touch()
    terminal.wait_for(r"\[red\]no markup\[/red\]")
    assert terminal.close() == 0
    assert "succeeded: every check passed" in terminal.drawn
    assert terminal.drawn.rstrip().splitlines()[-1].startswith("  agent-runtime verify ")


def test_a_y_on_the_terminal_approves(asked: Terminal) -> None:
    asked.wait_for(r"type y or n here")
    assert 'shell {"command":"echo [bold]hi"}' in asked.drawn
    asked.type("y\n")
    assert asked.close() == 0, asked.drawn
    assert "approved by" in asked.drawn


@pytest.mark.long
def test_an_n_on_the_terminal_denies(asked: Terminal) -> None:
    asked.wait_for(r"type y or n here")
    asked.type("what?\nn\n")
    assert asked.close() == 1


@pytest.mark.long
def test_a_terminal_waits_for_ever_and_ctrl_c_leaves(asked: Terminal) -> None:
    asked.wait_for(r"type y or n here")
    asked.process.send_signal(signal.SIGINT)
    assert asked.close() == 130
    assert "resume with: agent-runtime resume" in asked.drawn
    assert asked.drawn.rindex("\x1b[?25h") > asked.drawn.rindex("\x1b[?25l"), "the cursor is back"
