from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from agent_runtime.sandboxes.bubblewrap import BubblewrapSandbox
from tests.cli.helpers import UNSAFE, Cli


@pytest.fixture(params=["bubblewrap", "unsafe"])
def execute(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """`sandbox exec` in a directory that every sandbox may write."""
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    os.chmod(workspace, 0o777)
    arguments = ["sandbox", "exec", "--workspace", str(workspace)]
    if request.param == "unsafe":
        return [*arguments, UNSAFE]
    if not anyio.run(BubblewrapSandbox(str(tmp_path / "state")).probe).ok:
        pytest.skip("bubblewrap does not work here: see agent-runtime doctor")
    return arguments


def test_stdio_and_arguments_are_the_callers(cli: Cli, execute: list[str]) -> None:
    done = cli(*execute, "--", "sh", "-c", 'cat; echo "$1|$2" >&2', "--", "--json", "a b",
               stdin="in")  # fmt: skip
    assert (done.code, done.out, done.err) == (0, "in", "--json|a b\n")


def test_an_option_of_the_command_is_not_ours(cli: Cli, execute: list[str]) -> None:
    assert cli(*execute, "sh", "-c", 'echo "$0"', "--help").out == "--help\n"


def test_the_exit_code_is_the_commands(cli: Cli, execute: list[str]) -> None:
    """DESIGN, "JSON": the command's code; 124 deadline, 126/127 as shells, 128+n signal."""
    assert cli(*execute, "--", "sh", "-c", "exit 42").code == 42
    assert cli(*execute, "--", "sh", "-c", "kill -TERM $$").code == 128 + 15
    assert cli(*execute, "--", "no-such-command").code == 127
    assert cli(*execute, "--timeout", "0.3", "--", "sleep", "60").code == 124


def test_variables_are_those_that_were_given(cli: Cli, execute: list[str]) -> None:
    cli.env["SECRET"] = "hidden"
    done = cli(*execute, "--env", "MINE=1=2", "--", "sh", "-c", 'echo "$MINE|$SECRET"')
    assert done.out == "1=2|\n"


def test_what_cannot_start_is_125_with_the_way_out(cli: Cli) -> None:
    missing = cli("sandbox", "exec", "--workspace", "/no/such/directory", "--", "true")
    assert missing.code == 125 and "/no/such/directory" in missing.err
    wrong = cli("sandbox", "exec", "--workspace", ".", "--python", "nowhere", "--", "true")
    assert wrong.code == 125 and "bin/python" in wrong.err
    assert cli("sandbox", "exec", "--", "true").code == 2
