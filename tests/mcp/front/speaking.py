"""Fronts as their clients start them, and a daemon with the fixtures."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.api.daemons import DaemonProcess
from tests.mcp.lines import META, Lines

PLUGIN = Path(__file__).parent / "plugin"
SETTINGS = {"AGENT_RUNTIME_PLUGINS": "front-fixtures", "PYTHONPATH": str(PLUGIN)}
SECONDS_MAX = 30.0


def daemon_in(directory: Path) -> DaemonProcess:
    """Not started yet."""
    return DaemonProcess(directory, settings=SETTINGS)


def front(store: str, *arguments: str) -> list[str]:
    """The command of a front, to the fixtures if nothing else is said."""
    return [
        *(sys.executable, "-m", "agent_runtime", "--store", store, "mcp"),
        *(arguments or ("fixtures", "--no-start")),
    ]


def until(what: str, is_so: Callable[[], object]) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + SECONDS_MAX
    while not is_so():
        assert time.monotonic() < deadline, f"not {what}"
        time.sleep(0.01)


def send_call(lines: Lines, request_id: str, tool: str, *, modern: bool, **arguments: Any) -> None:
    """A call that is not waited for."""
    params: dict[str, Any] = {"name": tool, "arguments": arguments}
    params["_meta"] = {"progressToken": request_id, **(META if modern else {})}
    message = {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}
    lines.send(message)


def text_of(reply: dict[str, Any]) -> str:
    """Of a call that went well."""
    assert "result" in reply, reply
    return str(reply["result"]["content"][0]["text"])


def hear(lines: Lines, is_it: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The next message of that kind; others before it are dropped."""
    while True:
        message = lines.heard.get(timeout=SECONDS_MAX)
        assert message is not None, "the front has gone"
        if is_it(message):
            return message


def processes_with(word: str) -> list[int]:
    """Of this machine, by what stands in their command lines."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            command = Path(f"/proc/{entry}/cmdline").read_bytes()
            status = Path(f"/proc/{entry}/stat").read_bytes().rpartition(b")")[2].split()[0]
        except OSError:
            continue
        if word.encode() in command and status != b"Z":
            found.append(int(entry))
    return found


def end_daemons(directory: Path) -> None:
    """Of a state directory whose daemon was started by a front."""
    for process_id in processes_with(f"{directory}/store.db"):
        subprocess.run(["kill", "-9", str(process_id)], check=False)
