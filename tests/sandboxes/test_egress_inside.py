"""A sandbox with a way out: real clients inside, real servers outside."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute

from agent_runtime.egress_rules import is_public
from agent_runtime.errors import SandboxUnavailable
from agent_runtime.ports import EgressRecord, ExecResult, SandboxSpec
from agent_runtime.sandboxes.bubblewrap import BubblewrapSandbox
from agent_runtime.types import ToolInfo, ToolResult
from tests.sandboxes.support import call, info, make_spec, until
from tests.sandboxes.web import ADDRESS, make_certificate, make_wheel, serving

pytestmark = pytest.mark.anyio

PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_company(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/hello").write_text("hello from outside", encoding="utf-8")
    return tmp_path / "site"


def restricted(tmp_path: Path, *rules: str, **changes: Any) -> SandboxSpec:
    return make_spec(tmp_path, network="restricted", egress=rules, **changes)


async def sh(sandbox: BubblewrapSandbox, spec: SandboxSpec, command: str) -> ExecResult:
    return await sandbox.execute(spec, ["sh", "-c", command], deadline_seconds=60)


def python(code: str) -> str:
    return f"python3 -c '{code}'"


def get(url: str) -> str:
    return python(f'import urllib.request as u; print(u.urlopen("{url}").read().decode())')


async def test_an_allowed_address_is_reached_and_recorded(
    bubblewrap: BubblewrapSandbox, tmp_path: Path, site: Path
) -> None:
    heard: list[EgressRecord] = []
    with serving(site) as (_, port):
        spec = restricted(tmp_path, f"{ADDRESS}:{port}", egress_heard=heard.append)
        done = await sh(bubblewrap, spec, get(f"http://{ADDRESS}:{port}/hello"))
        assert (done.exit, done.output) == (0, b"hello from outside\n")
        refused = await sh(bubblewrap, spec, get(f"http://{ADDRESS}:1/hello"))
        assert refused.exit == 1
        assert b"127.0.0.2:1 is not allowed by policy.egress" in refused.output
    path = tmp_path / "state/results/task_1/egress.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["kind"] for line in lines] == ["opened", "closed", "refused"]
    assert [record.kind for record in heard] == ["opened", "closed", "refused"]
    assert lines[1]["bytes_received"] > len("hello from outside")
    assert os.stat(path).st_mode & 0o077 == 0
    assert list((tmp_path / "state/egress").iterdir()) == []


async def test_there_is_no_way_around_the_proxy(
    bubblewrap: BubblewrapSandbox, tmp_path: Path, site: Path
) -> None:
    with serving(site) as (server, port):
        spec = restricted(tmp_path, f"{ADDRESS}:{port}")
        connect = f'import socket; socket.create_connection(("{ADDRESS}", {port}), 5)'
        done = await sh(bubblewrap, spec, python(connect))
        assert b"ConnectionRefusedError" in done.output
        connect = 'import socket; socket.create_connection(("192.0.2.1", 80), 5)'
        done = await sh(bubblewrap, spec, python(connect))
        assert b"Network is unreachable" in done.output
        assert server.seen == []


async def test_without_a_network_nothing_of_it_is_there(
    bubblewrap: BubblewrapSandbox, tmp_path: Path
) -> None:
    """What `none` sees is what it always saw."""
    done = await sh(bubblewrap, make_spec(tmp_path), "env; ls /run")
    assert b"proxy" not in done.output.lower()
    assert b"agent-runtime" not in done.output
    assert not (tmp_path / "state/egress").exists()


async def test_a_command_keeps_its_exit_code_behind_the_relay(
    bubblewrap: BubblewrapSandbox, tmp_path: Path
) -> None:
    spec = restricted(tmp_path, "example.org")
    assert (await sh(bubblewrap, spec, "exit 7")).exit == 7
    assert (await bubblewrap.execute(spec, ["no-such"], deadline_seconds=30)).exit == 127


async def test_tls_is_verified_with_the_companys_certificates(
    bubblewrap: BubblewrapSandbox, tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundle that the daemon trusts is the one that the sandbox trusts."""
    certificate = make_certificate(tmp_path)
    with serving(site, certificate) as (_, port):
        spec = restricted(tmp_path, f"{ADDRESS}:{port}")
        url = f"https://{ADDRESS}:{port}/hello"
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        assert b"CERTIFICATE_VERIFY_FAILED" in (await sh(bubblewrap, spec, get(url))).output
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert (await sh(bubblewrap, spec, get(url))).output == b"hello from outside\n"
        if shutil.which("curl"):
            assert (await sh(bubblewrap, spec, f"curl -sS {url}")).output == b"hello from outside"


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
async def test_git_clones_through_the_proxy(
    bubblewrap: BubblewrapSandbox, tmp_path: Path, site: Path
) -> None:
    source = tmp_path / "source"
    for command in (
        f"git init -q {source} && cd {source} && echo x > file && git add file",
        f"cd {source} && git -c user.name=a -c user.email=a@b.c commit -qm first",
        f"git clone -q --bare {source} {site}/repo.git",
        f"cd {site}/repo.git && git update-server-info",
    ):
        subprocess.run(["sh", "-c", command], check=True, capture_output=True)
    with serving(site) as (_, port):
        spec = restricted(tmp_path, f"{ADDRESS}:{port}")
        url = f"http://{ADDRESS}:{port}/repo.git"
        done = await sh(bubblewrap, spec, f"git clone -q {url} clone && cat clone/file")
        assert (done.exit, done.output) == (0, b"x\n")
        done = await sh(bubblewrap, spec, "git clone -q https://evil.test/x.git")
        assert done.exit == 128
        assert b"403" in done.output


async def test_pip_downloads_from_an_index_that_is_named(
    bubblewrap: BubblewrapSandbox, tmp_path: Path, site: Path
) -> None:
    """An index of our own: `links` is what pip reads, `example` what it fetches."""
    project = tmp_path / "project"
    project.mkdir()
    wheel = site / "example_egress-1.0-py3-none-any.whl"
    make_wheel(wheel)
    (site / "links.html").write_text(f'<a href="{wheel.name}">x</a>', encoding="utf-8")
    with serving(site) as (_, port):
        spec = restricted(tmp_path, f"{ADDRESS}:{port}", python=None)
        pip = "python3 -m pip" if await has_pip(bubblewrap, spec) else None
        if pip is None:
            pytest.skip("the system's python has no pip")
        links = f"--find-links http://{ADDRESS}:{port}/links.html --trusted-host {ADDRESS}"
        done = await sh(
            bubblewrap, spec, f"{pip} download -q --no-index {links} example-egress && ls"
        )
        assert done.output.endswith(f"{wheel.name}\n".encode()), done.output
        done = await sh(
            bubblewrap, spec, f"{pip} download --retries 1 -i https://evil.test/simple example"
        )
        assert done.exit != 0
        assert b"evil.test:443 is not allowed by policy.egress" in done.output


async def test_pip_downloads_from_the_public_index_with_this_machines_configuration(
    bubblewrap: BubblewrapSandbox, tmp_path: Path
) -> None:
    outside = [
        sys.executable,
        "-c",
        "import urllib.request as u; u.urlopen('https://pypi.org', timeout=5)",
    ]
    if subprocess.run(outside, capture_output=True).returncode != 0:
        pytest.skip("the public package index cannot be reached from here")
    hosts = ("pypi.org", "files.pythonhosted.org")
    # A mirror in its place may have an address that is not public: a rule names that, then.
    found = {str(info[4][0]) for host in hosts for info in socket.getaddrinfo(host, 443)}
    private = [address for address in found if not is_public(ip_address(address))]
    spec = restricted(tmp_path, *hosts, *private, python=None)
    if not await has_pip(bubblewrap, spec):
        pytest.skip("the system's python has no pip")
    done = await sh(bubblewrap, spec, "python3 -m pip download -q --no-deps six==1.17.0 && ls")
    assert b"six-1.17.0" in done.output, done.output


async def has_pip(sandbox: BubblewrapSandbox, spec: SandboxSpec) -> bool:
    return (await sh(sandbox, spec, "python3 -m pip --version")).exit == 0


def built_in(name: str) -> ToolInfo:
    return info(name, f"agent_runtime_tools.{name}:tools")


async def test_the_http_tool_reaches_what_the_rules_allow_and_says_what_would_help(
    bubblewrap: BubblewrapSandbox, tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serving(site) as (_, plain), serving(site, certificate) as (_, secure):
        spec = restricted(tmp_path, f"{ADDRESS}:{plain}", f"{ADDRESS}:{secure}")
        session = await bubblewrap.open(spec)
        try:

            async def get(url: str) -> ToolResult:
                wanted = call("http", url=url)
                return await session.call(built_in("http"), wanted, deadline_seconds=30)

            for url in (f"http://{ADDRESS}:{plain}/hello", f"https://{ADDRESS}:{secure}/hello"):
                done = await get(url)
                assert done.output.endswith("hello from outside"), done.output
            for url in ("http://evil.test/", "https://evil.test/"):
                done = await get(url)
                assert (done.ok, done.kind) == (False, "denied")
                assert "add 'evil.test' to policy.egress of the task" in done.output
        finally:
            await session.close()
        session = await bubblewrap.open(make_spec(tmp_path))
        try:
            done = await get("https://evil.test:8443/")
            assert (done.ok, done.kind) == (False, "denied")
            assert 'network: restricted, egress: ["evil.test:8443"]' in done.output
        finally:
            await session.close()


async def test_packages_of_the_python_tool_come_through_the_proxy(
    bubblewrap: BubblewrapSandbox, tmp_path: Path, site: Path
) -> None:
    """From an index of our own, into HOME, which lies outside of the workspace."""
    wheel = site / "example_egress-1.0-py3-none-any.whl"
    make_wheel(wheel, "WORD = 'from a package'")
    (site / "links.html").write_text(f'<a href="{wheel.name}">x</a>', encoding="utf-8")
    home = tmp_path / "home"
    home.mkdir()
    with serving(site) as (_, port):
        env = {
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": f"http://{ADDRESS}:{port}/links.html",
            "PIP_TRUSTED_HOST": ADDRESS,
            "PIP_RETRIES": "0",
        }
        heard: list[EgressRecord] = []
        spec = restricted(
            tmp_path, f"{ADDRESS}:{port}", home=str(home), env=env, egress_heard=heard.append
        )
        session = await bubblewrap.open(spec)
        try:
            code = "import example_egress; example_egress.WORD"
            wanted = call("python", code=code, packages=["example-egress"])
            done = await session.call(built_in("python"), wanted, deadline_seconds=60)
            assert done.output == "'from a package'", done.output
            assert {record.port for record in heard} == {port}
        finally:
            await session.close()
    assert list((tmp_path / "workspace").iterdir()) == []


async def test_closing_a_worker_ends_its_connections_and_tells_them(
    bubblewrap: BubblewrapSandbox, tmp_path: Path
) -> None:
    """Stop means stop: nothing of a task talks on when its sandbox is dead."""
    heard: list[EgressRecord] = []
    async with await anyio.create_tcp_listener(local_host=ADDRESS) as silent:
        port = silent.extra(SocketAttribute.local_port)
        spec = restricted(tmp_path, f"{ADDRESS}:{port}", egress_heard=heard.append)
        session = await bubblewrap.open(spec)
        try:
            command = f"{get(f'http://{ADDRESS}:{port}/')} >/dev/null 2>&1 &"
            done = await session.call(
                info("shell"), call("shell", command=command),
                deadline_seconds=30,
            )  # fmt: skip
            assert done.ok, done.raw
            await until(lambda: heard)
        finally:
            await session.close()
        assert [record.kind for record in heard] == ["opened", "closed"]
    assert list((tmp_path / "state/egress").iterdir()) == []


async def test_the_socket_of_a_killed_daemon_is_removed_by_the_next_one(tmp_path: Path) -> None:
    """And that of a daemon that lives is not."""
    code = "import sys, anyio; from agent_runtime.sandboxes import egress\n"
    code += "async def main():\n"
    code += "    path, _ = await egress._listen(sys.argv[1])\n"
    code += "    print(path, flush=True)\n"
    code += "    sys.stdin.read()\n"
    code += "anyio.run(main)"

    def start() -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / ("a" * 100))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    killed, live, third = start(), start(), None
    try:
        killed[0].kill()
        killed[0].wait()
        assert os.path.exists(killed[1])
        third = start()
        assert not os.path.exists(killed[1])
        assert os.path.exists(live[1])
    finally:
        for process, _ in filter(None, (killed, live, third)):
            process.kill()
            process.communicate()


@pytest.mark.parametrize(
    ("egress", "variable", "problem"),
    [
        (("a.org", "http://b"), "", "the rule 'http://b' is a host with an optional port"),
        (("a.org",), "socks5://proxy:1080", "HTTPS_PROXY in the environment names a proxy of the"),
    ],
)
async def test_a_way_out_that_cannot_be_had_is_no_sandbox(
    bubblewrap: BubblewrapSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    egress: tuple[str, ...], variable: str, problem: str,
) -> None:  # fmt: skip
    if variable:
        monkeypatch.setenv("HTTPS_PROXY", variable)
    with pytest.raises(SandboxUnavailable, match=problem):
        await bubblewrap.open(restricted(tmp_path, *egress))


async def test_many_connections_at_a_time_and_large_answers_pass_the_relay(
    bubblewrap: BubblewrapSandbox, tmp_path: Path, site: Path
) -> None:
    (site / "large").write_bytes(os.urandom(1 << 20) * 8)
    code = """
import concurrent.futures, hashlib, sys, urllib.request
def one(_):
    return hashlib.sha256(urllib.request.urlopen(sys.argv[1]).read()).hexdigest()
with concurrent.futures.ThreadPoolExecutor(20) as pool:
    print(len(set(pool.map(one, range(40)))), one(0))
"""
    expected = hashlib.sha256((site / "large").read_bytes()).hexdigest()
    with serving(site) as (_, port):
        spec = restricted(tmp_path, f"{ADDRESS}:{port}")
        done = await bubblewrap.execute(
            spec,
            ["python3", "-c", code, f"http://{ADDRESS}:{port}/large"],
            deadline_seconds=60,
        )
        assert done.output.decode() == f"1 {expected}\n"
