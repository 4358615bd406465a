"""The egress proxy with real clients, servers and sockets; only names are resolved by the test."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketListener, SocketStream

from agent_runtime.egress_rules import NetworkMode, address_of, parse_rules
from agent_runtime.ports import EgressRecord
from agent_runtime.sandboxes import egress
from agent_runtime.sandboxes.egress import REFUSALS_MAX, EgressProxy, Waits, is_own
from agent_runtime.sandboxes.egress_company import BadProxy, Company, Proxy, company
from tests.sandboxes.support import until
from tests.sandboxes.web import ADDRESS, serving

pytestmark = pytest.mark.anyio


@dataclass
class Names:
    """A resolver that says what the test wants, and another thing the second time."""

    known: dict[str, list[list[str]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        answers = self.known.get(host)
        if not answers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return answers.pop(0) if len(answers) > 1 else answers[0]


@dataclass
class Way:
    """A running proxy, as a client sees it."""

    port: int
    records: list[EgressRecord]
    made: EgressProxy

    async def ask(self, *lines: str, body: bytes = b"") -> bytes:
        """Send a request, and return everything until the other side closes."""
        async with await anyio.connect_tcp("127.0.0.1", self.port) as stream:
            await stream.send("\r\n".join([*lines, "", ""]).encode() + body)
            return await everything(stream)

    async def told(self) -> list[tuple[str, str, int, str]]:
        """The records, when the last connection is over."""
        await until(lambda: self.records and self.records[-1].kind != "opened")
        return [(r.kind, r.host, r.port, r.address) for r in self.records]


async def everything(stream: anyio.abc.ByteReceiveStream) -> bytes:
    data = b""
    with anyio.fail_after(20):
        try:
            while True:
                data += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return data


@asynccontextmanager
async def proxy(
    rules: list[str], mode: NetworkMode = "restricted", **options: Any
) -> AsyncIterator[Way]:
    records: list[EgressRecord] = []
    options.setdefault("resolve", Names())
    report = options.pop("report", records.append)
    wrapped = options.pop("wrapped", lambda listener: listener)
    made = EgressProxy(parse_rules(mode, rules), report, **options)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(SocketAttribute.local_port)
        async with anyio.create_task_group() as group:
            group.start_soon(made.serve, wrapped(listener.listeners[0]))
            yield Way(port, records, made)
            group.cancel_scope.cancel()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/hello").write_text("hello from outside", encoding="utf-8")
    return tmp_path / "site"


async def test_an_allowed_host_is_reached_and_the_connection_is_told_with_its_bytes(
    site: Path,
) -> None:
    """DESIGN 5: announced before it is made, reported when it ends."""
    with serving(site) as (_, port):
        names = Names({"mirror.test": [[ADDRESS]]})
        async with proxy([f"mirror.test:{port}", f"{ADDRESS}:{port}"], resolve=names) as way:
            said = await way.ask(f"GET http://mirror.test:{port}/hello HTTP/1.1", "Host: x")
            assert said.endswith(b"\r\n\r\nhello from outside")
            assert await way.told() == [
                ("opened", "mirror.test", port, ADDRESS),
                ("closed", "mirror.test", port, ADDRESS),
            ]
            assert way.records[-1].bytes_received == len(said)


async def test_a_tunnel_carries_both_directions(site: Path) -> None:
    with serving(site) as (_, port):
        async with proxy([f"{ADDRESS}:{port}"]) as way:
            async with await anyio.connect_tcp("127.0.0.1", way.port) as stream:
                await stream.send(f"CONNECT {ADDRESS}:{port} HTTP/1.1\r\n\r\n".encode())
                assert (await stream.receive()).startswith(b"HTTP/1.1 200 ")
                await stream.send(b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert (await everything(stream)).endswith(b"hello from outside")
            assert [kind for kind, *_ in await way.told()] == ["opened", "closed"]


async def test_a_refusal_names_host_rules_and_the_way_out() -> None:
    async with proxy(["pypi.org", "*.corp:8080"]) as way:
        said = (await way.ask("CONNECT evil-pypi.org:443 HTTP/1.1")).decode()
        first, _, body = said.partition("\r\n\r\n")
        assert first.startswith(
            "HTTP/1.1 403 Forbidden: evil-pypi.org:443 is not allowed by policy.egress"
        )
        assert "evil-pypi.org:443 was refused: no rule names this host" in body
        assert "pypi.org, *.corp:8080" in body
        assert "add 'evil-pypi.org' to policy.egress" in body
        assert await way.told() == [("refused", "evil-pypi.org", 443, "")]


async def test_a_name_that_leads_inside_is_refused_and_nothing_is_dialled(site: Path) -> None:
    """An allowed name is the attacker's to point at this machine or at the cloud's credentials."""
    with serving(site) as (server, port):
        names = Names({"inside.test": [[ADDRESS]], "cloud.test": [["169.254.169.254"]]})
        rules = [f"inside.test:{port}", "cloud.test"]
        async with proxy(rules, resolve=names) as way:
            said = await way.ask(f"GET http://inside.test:{port}/hello HTTP/1.1")
            assert said.startswith(b"HTTP/1.1 403 ")
            assert f"add '{ADDRESS}:{port}' to policy.egress".encode() in said
            said = await way.ask("GET http://cloud.test/latest/meta-data HTTP/1.1")
            assert b"credentials" in said
            assert [kind for kind, *_ in await way.told()] == ["refused", "refused"]
        assert server.seen == []


async def test_a_name_is_resolved_once_and_that_address_is_dialled(site: Path) -> None:
    """DNS rebinding: the second answer would lead elsewhere."""
    with serving(site) as (_, port):
        names = Names({"mirror.test": [[ADDRESS], ["127.0.0.3"]]})
        async with proxy([f"mirror.test:{port}", f"{ADDRESS}:{port}"], resolve=names) as way:
            said = await way.ask(f"GET http://mirror.test:{port}/hello HTTP/1.1")
            assert said.endswith(b"hello from outside")
            assert names.asked == ["mirror.test"]


async def test_only_the_allowed_of_several_addresses_are_dialled(site: Path) -> None:
    with serving(site) as (_, port):
        names = Names({"mirror.test": [["127.0.0.3", "::1", ADDRESS]]})
        async with proxy([f"mirror.test:{port}", f"{ADDRESS}:{port}"], resolve=names) as way:
            await way.ask(f"GET http://mirror.test:{port}/hello HTTP/1.1")
            assert {address for *_, address in await way.told()} == {ADDRESS}


async def test_a_body_is_passed_on_whole_and_nothing_after_it(site: Path) -> None:
    """What follows a body would be a second request, to a host that nobody checked."""
    with serving(site) as (server, port):
        async with proxy([f"{ADDRESS}:{port}"]) as way:
            target = f"POST http://{ADDRESS}:{port}/ HTTP/1.1"
            second = b"GET /second HTTP/1.1\r\nHost: secret\r\n\r\n"
            said = await way.ask(
                target, "Host: secret", "Content-Length: 5", body=b"12345" + second
            )
            assert said.endswith(f"{ADDRESS}:{port} 12345".encode())
            chunks = b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: x\r\n\r\n"
            said = await way.ask(target, "Transfer-Encoding: chunked", body=chunks + second)
            assert said.endswith(f"{ADDRESS}:{port} abcde".encode())
        assert [line.split()[0] for line in server.seen] == ["POST", "POST"]


async def test_what_is_no_request_is_answered_400_and_told() -> None:
    async with proxy(["a.org"]) as way:
        assert (await way.ask("GET / HTTP/1.1")).startswith(b"HTTP/1.1 400 ")
        assert (await way.ask("GET http://u:p@a.org/ HTTP/1.1")).startswith(b"HTTP/1.1 400 ")
        assert (await way.ask("X" * 70_000)).startswith(b"HTTP/1.1 400 ")
        await until(lambda: len(way.records) == 3)
        assert {record.kind for record in way.records} == {"refused"}
        assert "u:p" not in repr(way.records)


async def test_a_client_that_says_nothing_is_not_waited_for() -> None:
    async with proxy(["a.org"], waits=Waits(head=0.05)) as way:
        async with await anyio.connect_tcp("127.0.0.1", way.port) as stream:
            assert (await everything(stream)).startswith(b"HTTP/1.1 400 ")


async def test_a_connection_without_a_byte_is_ended_and_told_why(site: Path) -> None:
    async with await anyio.create_tcp_listener(local_host=ADDRESS) as silent:
        port = silent.extra(SocketAttribute.local_port)
        async with proxy([f"{ADDRESS}:{port}"], waits=Waits(idle=0.05)) as way:
            await way.ask(f"CONNECT {ADDRESS}:{port} HTTP/1.1")
            await way.told()
            assert way.records[-1].reason == "no byte within 0.05 s"


async def test_more_connections_than_allowed_are_refused() -> None:
    async with proxy(["a.org"], connections_max=1) as way:
        async with await anyio.connect_tcp("127.0.0.1", way.port) as first:
            await first.send(b"CONNECT a")
            said = await way.ask("CONNECT a.org:443 HTTP/1.1")
            assert said.startswith(b"HTTP/1.1 503 ")


async def test_a_server_that_is_not_there_is_a_failure_and_no_refusal() -> None:
    with socket.socket() as free:
        free.bind((ADDRESS, 0))
        port = free.getsockname()[1]
        async with proxy([f"{ADDRESS}:{port}", "nowhere.test"]) as way:
            said = await way.ask(f"CONNECT {ADDRESS}:{port} HTTP/1.1")
            assert said.startswith(b"HTTP/1.1 502 ")
            assert await way.told() == [
                ("opened", ADDRESS, port, ADDRESS),
                ("failed", ADDRESS, port, ADDRESS),
            ]
            said = await way.ask("CONNECT nowhere.test:443 HTTP/1.1")
            assert b"'nowhere.test' could not be resolved" in said


async def test_a_connection_that_cannot_be_recorded_is_not_made(site: Path) -> None:
    """The log comes first, also for what leaves a sandbox."""

    def full(record: EgressRecord) -> None:
        raise OSError("No space left on device")

    with serving(site) as (server, port):
        async with proxy([f"{ADDRESS}:{port}"], report=full) as way:
            said = await way.ask(f"GET http://{ADDRESS}:{port}/hello HTTP/1.1")
            assert said.startswith(b"HTTP/1.1 503 ")
        assert server.seen == []


async def test_the_companys_proxy_is_gone_through_with_its_password(site: Path) -> None:
    """It resolves the name; what our rules refuse never gets there."""
    with serving(site) as (_, port):
        names = Names({"mirror.test": [[ADDRESS]]})
        async with proxy([f"mirror.test:{port}", f"{ADDRESS}:{port}"], resolve=names) as theirs:
            found = company({"HTTPS_PROXY": f"http://me:s%65cret@127.0.0.1:{theirs.port}"})
            assert found.tunnel is not None
            assert found.tunnel.authorization == "Basic bWU6c2VjcmV0"
            both = Company(tunnel=found.tunnel, plain=Proxy("127.0.0.1", theirs.port))
            async with proxy([f"mirror.test:{port}"], upstream=both) as way:
                said = await way.ask(f"GET http://mirror.test:{port}/hello HTTP/1.1")
                assert said.endswith(b"hello from outside")
                async with await anyio.connect_tcp("127.0.0.1", way.port) as stream:
                    await stream.send(f"CONNECT mirror.test:{port} HTTP/1.1\r\n\r\n".encode())
                    assert (await stream.receive()).startswith(b"HTTP/1.1 200 ")
                    await stream.send(b"GET /hello HTTP/1.0\r\n\r\n")
                    assert (await everything(stream)).endswith(b"hello from outside")
                assert (await way.ask("CONNECT b.org:443 HTTP/1.1")).startswith(b"HTTP/1.1 403 ")
                assert {record.via for record in way.records if record.kind == "opened"} == {
                    f"127.0.0.1:{theirs.port}"
                }
            async with proxy(["c.org"], upstream=both) as way:
                said = await way.ask("CONNECT c.org:443 HTTP/1.1")
                assert b"answered 'HTTP/1.1 403 Forbidden: c.org:443" in said
            assert len([r for r in theirs.records if r.host == "b.org"]) == 0


async def test_a_private_address_is_refused_also_before_the_companys_proxy() -> None:
    names = Names({"a.org": [["10.0.0.1"]]})
    upstream = Company(tunnel=Proxy("127.0.0.1", 1))
    async with proxy(["a.org"], resolve=names, upstream=upstream) as way:
        assert (await way.ask("CONNECT a.org:443 HTTP/1.1")).startswith(b"HTTP/1.1 403 ")


def test_exceptions_of_the_companys_proxy_are_reached_directly() -> None:
    found = company({"https_proxy": "proxy:3128", "NO_PROXY": ".corp, 10.0.0.0/8,host:80"})
    for host in ("a.corp", "corp", "10.1.1.1", "host", "127.0.0.1"):
        assert found.proxy_for(host, is_tunnel=True) is None
    assert found.proxy_for("a.org", is_tunnel=True) == Proxy("proxy", 3128)
    assert found.proxy_for("acorp", is_tunnel=True) is not None
    assert found.proxy_for("a.org", is_tunnel=False) is None


@pytest.mark.parametrize("value", ["socks5://user:hidden@proxy:1080", "http://u:hidden@proxy:x"])
def test_a_proxy_that_cannot_be_used_is_named_without_its_password(value: str) -> None:
    with pytest.raises(BadProxy) as caught:
        company({"ALL_PROXY": value})
    assert "ALL_PROXY" in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_an_address_of_this_machine_is_known_as_such() -> None:
    own, other = address_of("127.0.0.1"), address_of("192.0.2.1")
    assert own is not None and other is not None
    assert is_own(own)
    assert not is_own(other)


async def test_a_flood_of_connections_waits_in_the_kernel_and_is_over_when_it_ends() -> None:
    """Descriptors are the daemon's, for all its tasks: a sandbox must not use them up."""
    async with proxy(["a.org"], connections_max=1) as way:
        streams = [await anyio.connect_tcp("127.0.0.1", way.port) for _ in range(100)]
        await until(lambda: way.made.live == 1 + REFUSALS_MAX)
        for stream in streams:
            await stream.aclose()
        said = await way.ask("CONNECT b.org:443 HTTP/1.1")
        assert said.startswith(b"HTTP/1.1 403 ")


async def test_a_proxy_outlives_a_moment_without_descriptors() -> None:
    class Short:
        """A listener whose first accept finds no descriptor left."""

        def __init__(self, listener: SocketListener) -> None:
            self.accept = self.fail
            self.listener = listener

        async def fail(self) -> SocketStream:
            self.accept = self.listener.accept
            raise OSError(errno.EMFILE, "Too many open files")

    async with proxy(["a.org"], wrapped=Short) as way:
        assert (await way.ask("CONNECT b.org:443 HTTP/1.1")).startswith(b"HTTP/1.1 403 ")


async def test_an_address_of_this_machine_is_refused_in_full_mode_also_as_a_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A machine's public address leads to services that take who reaches them for near."""
    monkeypatch.setattr(egress, "is_own", lambda address: True)
    async with proxy([], mode="full") as way:
        said = await way.ask("CONNECT 8.8.8.8:443 HTTP/1.1")
        assert said.startswith(b"HTTP/1.1 403 ")
        assert b"an address of the machine that the sandbox runs on" in said
