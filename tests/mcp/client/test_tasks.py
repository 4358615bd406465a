"""Whole tasks whose tools are those of a hostile server: the command line, the sandbox, the log.

Row 7 of the issue: the task survives, effects are right, the reason is in the log.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import CommandLine

HOSTILE = Path(__file__).parent / "hostile.py"
SECONDS_MAX = 60
pytestmark = pytest.mark.long


@pytest.fixture
def command(tmp_path: Path) -> Iterator[CommandLine]:
    """The command line in a directory of its own."""
    (tmp_path / "work").mkdir()
    # The sandbox's program is another user where the tests run as root.
    (tmp_path / "work").chmod(0o777)
    tmp_path.chmod(0o755)
    yield CommandLine(tmp_path)


def declare(command: CommandLine, declared: dict[str, Any]) -> None:
    """The server `peer`, consented to. Its tools change the world, whatever they say."""
    path = command.home / "config" / "agent-runtime" / "config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    common = {"result_bytes": 1 << 20, "effects": {"note": "idempotent"}}
    path.write_text(json.dumps({"mcp_servers": {"peer": {**common, **declared}}}))
    done = command("mcp", "consent", "peer", "--yes")
    assert done.returncode == 0, done.stderr


def plan(*tools: str) -> dict[str, Any]:
    """Each tool in turn; what fails does not stop the rest."""
    steps = []
    for number, tool in enumerate(tools):
        steps.append({"id": f"s{number}", "tool": f"peer__{tool}", "args": {"text": f"t{number}"},
                      "timeout_seconds": 3, "fallback": f"f{number}",
                      "needs": [f"s{number - 1}"] if number else []})  # fmt: skip
        steps.append({"id": f"f{number}", "tool": "peer__note", "args": {"text": f"f{number}"}})
    return {
        "goal": "use a server that breaks every rule",
        "plan": {"steps": steps},
        "policy": {"tools": ["peer"], "unknown_effect": "fail"},
    }


HOSTILITIES = ("note", "failing", "hang", "huge", "note", "die", "twice", "flood", "note")


def survives(command: CommandLine) -> None:
    """Run the plan and look at the log and at what happened."""
    task = plan(*HOSTILITIES)
    code, lines = command.run(task)
    events = [line for line in lines if line["type"] != "result"]
    kinds = [event["type"] for event in events]
    assert lines[-1]["type"] == "result" and code in (0, 1), lines[-1]
    # No objective was given: nothing is proven, and nothing has failed either.
    assert "TaskSubmitted" in kinds and kinds[-1] != "CallIntended"
    text = json.dumps(events)
    assert "more than 1,048,576 bytes" in text and "no answer within" in text
    assert "quarantine" in text, "in the end it is left alone"
    effects = (command.home / "work" / "effects").read_text().splitlines()
    done = [line for line in effects if line != "heard a cancellation"]
    assert len(done) == len(set(done)), "nothing twice"
    lost = [event["data"] for event in events if event["type"] == "EffectUnknown"]
    assert lost, "calls of tools that lie about their effects are never made again"


def test_a_task_survives_a_hostile_program_in_the_sandbox(command: CommandLine) -> None:
    """stdio: the program is in the sandbox, too."""
    declare(command, {
        "command": "python", "args": [str(HOSTILE), str(command.home / "work")],
        "cwd": str(command.home / "work"), "read": [str(HOSTILE)],
    })  # fmt: skip
    survives(command)


def test_a_task_survives_a_hostile_address(command: CommandLine) -> None:
    """Streamable HTTP."""
    work = command.home / "work"
    process = subprocess.Popen([sys.executable, str(HOSTILE), str(work), "--http"])
    try:
        end = time.monotonic() + SECONDS_MAX
        while not (work / "port").exists():
            assert time.monotonic() < end, "the server does not start"
            time.sleep(0.01)
        declare(command, {"url": f"http://127.0.0.1:{(work / 'port').read_text()}/mcp"})
        survives(command)
    finally:
        process.kill()
        process.wait()
