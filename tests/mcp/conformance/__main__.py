"""`make conformance`: the official MCP conformance suites against a real daemon, both ways, and
against our client.

Prints a line a suite, and what failed; the exit code is 1 if anything did that must not.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from tests.api.daemons import DaemonProcess
from tests.mcp.conformance.relay import relay
from tests.mcp.node import environment, program

PACKAGE = "@modelcontextprotocol/conformance"
PLUGIN = Path(__file__).parent / "plugin"
SECONDS_MAX = 600

_SCENARIO = re.compile(r"^[✓✗] (\S+): (\d+) passed, (\d+) failed", re.MULTILINE)
_ALONE = re.compile(r"^Passed: (\d+)/(\d+), (\d+) failed", re.MULTILINE)
_COLOUR = re.compile(r"\x1b\[\d*m")
_UNSCORED = re.compile(r"^  [✓✗] (\S+) \(", re.MULTILINE)


@dataclass(frozen=True)
class Suite:
    """One run of the suite's program, and how many scenarios (or checks of one) must pass in it."""

    name: str
    version: str
    arguments: Sequence[str]
    expected: int


NEW = "0.2.0-alpha.12"
TASKS = {
    "tasks-lifecycle": 9,
    "tasks-capability-negotiation": 5,
    "tasks-wire-fields": 4,
    "tasks-request-state-removal": 3,
    "tasks-mrtr-input": 4,
    "tasks-request-headers": 5,
    "tasks-dispatch-and-envelope": 9,
    "tasks-required-task-error": 3,
    "tasks-mrtr-composition": 2,
}
"""The extension's scenarios and their checks; the tenth of them can be run nowhere as yet."""
SERVER = (
    Suite("0.1.16", "0.1.16", (), 30),
    Suite("2025-11-25", NEW, ("--requirements", "2025-11-25"), 30),
    Suite("2026-07-28", NEW, ("--requirements", "2026-07-28"), 37),
    Suite("headers", NEW, ("--scenario", "http-header-validation"), 14),
    Suite("parameters", NEW, ("--scenario", "http-custom-header-server-validation"), 10),
    Suite("schemas", NEW, ("--scenario", "json-schema-2020-12"), 8),
    *(Suite(name, NEW, ("--scenario", name), checks) for name, checks in TASKS.items()),
)


CLIENT = (
    Suite("client 2025", NEW, ("--requirements", "2025-11-25"), 18),
    Suite("client 2026", NEW, ("--requirements", "2026-07-28"), 32),
)
DRIVER = Path(__file__).parents[1] / "conformance_client.py"
CLIENT_MS_MAX = 300_000
"""Of one scenario: the suite starts all of them at once, and two cores take their time."""


@asynccontextmanager
async def fixtures(directory: Path, *, short_way: bool) -> AsyncIterator[str]:
    """The address of the fixtures in a daemon, as the suite may ask it."""
    settings = {
        "AGENT_RUNTIME_PLUGINS": "mcp-conformance",
        "AGENT_RUNTIME_MCP_SHORT_WAY": str(short_way).lower(),
        "PYTHONPATH": str(PLUGIN),
    }
    daemon = DaemonProcess(directory, settings=settings)
    await anyio.to_thread.run_sync(daemon.start)
    try:
        async with anyio.create_task_group() as tasks:
            port = await tasks.start(relay, daemon.port, daemon.token)
            yield f"http://localhost:{port}/mcp/conformance"
            tasks.cancel_scope.cancel()
    finally:
        daemon.kill()


def server(url: str) -> list[str]:
    """What the suite is told about a server."""
    return ["server", "--url", url]


def client() -> list[str]:
    """What the suite is told about our client."""
    driver = shlex.join([sys.executable, str(DRIVER)])
    return ["client", "--command", driver, "--timeout", str(CLIENT_MS_MAX)]


async def run(suite: Suite, subject: Sequence[str], output: Path) -> bool:
    """Print how a suite went; did it go as it must?"""
    command = [*program(PACKAGE, suite.version, "conformance"), *subject]
    command += [*suite.arguments, "-o", str(output)]
    with anyio.fail_after(SECONDS_MAX):
        done = await anyio.run_process(
            command, check=False, env=environment(), stderr=subprocess.STDOUT, cwd=output
        )
    text = _COLOUR.sub("", done.stdout.decode(errors="replace"))
    passed, bad = outcome(text)
    good = passed >= suite.expected and not bad and done.returncode == 0
    print(f"{'ok  ' if good else 'FAIL'} {suite.name:12} {passed} of {suite.expected}", flush=True)
    if not good:
        print(text[-8000:])
    return good


def outcome(text: str) -> tuple[int, list[str]]:
    """What the suite's program says: how much passed, and which scored scenarios did not."""
    if alone := _ALONE.search(text):
        return int(alone[1]), [text] if int(alone[3]) else []
    unscored = set(_UNSCORED.findall(text))
    scored = {name: int(bad) for name, _, bad in _SCENARIO.findall(text) if name not in unscored}
    return sum(not bad for bad in scored.values()), [name for name, bad in scored.items() if bad]


async def main() -> int:
    wanted = sys.argv[1:]
    good = True
    for short_way in (True, False):
        print(f"short way {'on' if short_way else 'off'}")
        with tempfile.TemporaryDirectory() as name:
            async with fixtures(Path(name), short_way=short_way) as url:
                for suite in SERVER:
                    if not wanted or suite.name in wanted:
                        good &= await run(suite, server(url), Path(name))
    print("our client")
    for suite in CLIENT:
        if not wanted or suite.name in wanted:
            with tempfile.TemporaryDirectory() as name:
                good &= await run(suite, client(), Path(name))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(anyio.run(main))
