from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from agent_runtime.sandboxes.bubblewrap import BubblewrapSandbox
from tests.cli.helpers import UNSAFE, Cli
from tests.sandboxes.web import ADDRESS, serving


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


@pytest.mark.long
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


@pytest.mark.parametrize("execute", ["bubblewrap"], indirect=True)
@pytest.mark.long
def test_egress_is_what_was_named_and_every_decision_is_told(
    cli: Cli, execute: list[str], tmp_path: Path
) -> None:
    """A port is a port, and the flag alone decides whether stderr is the command's own."""
    cli.env |= dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"), "")
    (tmp_path / "hello").write_text("hello from outside", encoding="utf-8")
    fetch = "import urllib.request as u, sys; print(u.urlopen(sys.argv[1]).read().decode())"
    with serving(tmp_path) as (_, port):
        allowed = [*execute, "--egress", f"{ADDRESS}:{port}"]
        command = ["--", "python3", "-c", fetch, f"http://{ADDRESS}:{port}/hello"]
        done = cli(*allowed, "--show-egress", *command)
        assert (done.code, done.out) == (0, "hello from outside\n")
        opened, closed = done.err.splitlines()
        assert opened == f"egress: opened GET {ADDRESS}:{port}"
        assert closed.startswith(f"egress: closed GET {ADDRESS}:{port} ")
        assert closed.endswith(" in") and " 0 bytes out" not in closed
        done = cli(*allowed, *command)
        assert (done.code, done.err) == (0, "")
        done = cli(*allowed, "--show-egress", *command[:-1], f"http://{ADDRESS}:1/")
        assert done.code == 1
        assert f"egress: refused GET {ADDRESS}:1: {ADDRESS}:1 is not allowed by" in done.err


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--egress", "http://a.org"], "the rule 'http://a.org' is a host with an optional port"),
        (["--network", "restricted"], "needs what may be reached, as --egress pypi.org"),
        (["--network", "none", "--egress", "a.org"], "leave one of them out"),
        (["--egress", "a.org", UNSAFE], "rules of the sandbox"),
    ],
)
@pytest.mark.parametrize("execute", ["bubblewrap"], indirect=True)
def test_egress_that_cannot_be_is_125_and_named(
    cli: Cli, execute: list[str], options: list[str], problem: str
) -> None:
    done = cli(*execute, *options, "--", "true")
    assert done.code == 125
    assert problem in done.err
