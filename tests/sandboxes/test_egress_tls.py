"""TLS inside a tunnel: hellos that real clients write, and a real server behind the proxy."""

from __future__ import annotations

import ssl
from pathlib import Path

import anyio
import pytest
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from agent_runtime import egress_rules
from agent_runtime.sandboxes.egress import Waits
from agent_runtime.sandboxes.egress_tls import HELLO_BYTES_MAX, BadHello, Look, Opening
from tests.sandboxes.test_egress import Names, Way, everything, proxy
from tests.sandboxes.web import ADDRESS, make_certificate, serving


def look(data: bytes) -> Opening | None:
    """Of bytes that come at once."""
    return Look().feed(data)


def hello(server_name: str | None) -> bytes:
    """What Python's own TLS client says first."""
    context = ssl.create_default_context()
    context.check_hostname = False
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=server_name).do_handshake()
    return outgoing.read()


def in_records(data: bytes, count: int) -> bytes:
    """The same hello in records of `count` bytes each."""
    body = data[5:]
    pieces = [body[at : at + count] for at in range(0, len(body), count)]
    return b"".join(data[:3] + len(piece).to_bytes(2) + piece for piece in pieces)


def named(data: bytes, name: bytes) -> bytes:
    """The hello with another name of the same length."""
    assert data.count(b"host.example") == 1 and len(name) == len(b"host.example")
    return data.replace(b"host.example", name)


def test_the_name_is_found_wherever_the_hello_is_cut() -> None:
    for data in (whole := hello("Host.Example"), in_records(whole, 1), in_records(whole, 100)):
        assert look(data + b"more") == Opening(is_tls=True, server_name="host.example")
        assert [look(data[:count]) for count in range(0, len(data), 7)] == [None] * -(
            -len(data) // 7
        )
        reader = Look()
        said = [reader.feed(data[at : at + 1]) for at in range(len(data))]
        assert said == [None] * (len(data) - 1) + [Opening(is_tls=True, server_name="host.example")]


def test_a_hello_without_a_name_and_what_is_no_tls_are_told_apart() -> None:
    assert look(hello(None)) == Opening(is_tls=True)
    assert look(b"\x16") is None
    for data in (b"SSH-2.0-x\r\n", b"GET / HTTP/1.1\r\n", b"\x80\x2e\x01\x03\x01", b"\x16\x00"):
        assert look(data) == Opening(is_tls=False)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (named(hello("host.example"), b"a\0b.example."), "is no name of a host"),
        (hello("host.example")[:60] + b"\xff" * 600, "is cut off|is broken off|more than"),
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", "does not begin with a hello"),
        (b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", "is cut off"),
        (b"\x16\x03\x01\x00\x00", "is broken off"),
        (b"\x16\x03\x01\x40\x01", "is broken off"),
        (b"\x16\x03\x01\x00\x04\x01\xff\xff\xff", f"more than {HELLO_BYTES_MAX}"),
        (b"\x16\x03\x01\x00\x01\x01\x15\x03\x01\x00\x02", "is broken off"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(data: bytes, problem: str) -> None:
    """A name that the proxy does not see is a name that the server might."""
    with pytest.raises(BadHello, match=problem):
        look(data)


def test_a_hello_that_says_its_name_twice_is_refused() -> None:
    """RFC 8446, section 4.2: there must not be more than one extension of the same type."""
    data = bytearray(hello("host.example"))
    at = data.index(b"host.example") - 9  # type, length, list length, type of name, its length
    extension = bytes(data[at : at + 9 + len(b"host.example")])
    start = data.index(extension)
    data[start:start] = extension.replace(b"host", b"evil")
    extensions_at = _extensions_at(data)
    for place, width in ((3, 2), (6, 3), (extensions_at, 2)):
        value = int.from_bytes(data[place : place + width]) + len(extension)
        data[place : place + width] = value.to_bytes(width)
    with pytest.raises(BadHello, match="twice"):
        look(bytes(data))


def _extensions_at(data: bytes | bytearray) -> int:
    at = 9 + 34
    at += 1 + data[at]
    at += 2 + int.from_bytes(data[at : at + 2])
    return at + 1 + data[at]


# ---- behind the proxy ------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/hello").write_text("hello from outside", encoding="utf-8")
    return tmp_path / "site"


async def fetch(way: Way, target: str, server_name: str, trusted: Path) -> bytes:
    """GET over TLS through a tunnel; everything that the server says."""
    async with await anyio.connect_tcp("127.0.0.1", way.port) as stream:
        await stream.send(f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())
        assert (await stream.receive()).startswith(b"HTTP/1.1 200 ")
        secure = await TLSStream.wrap(
            stream,
            hostname=server_name,
            ssl_context=ssl.create_default_context(cafile=str(trusted)),
            standard_compatible=False,
        )
        await secure.send(b"GET /hello HTTP/1.0\r\n\r\n")
        return await everything(secure)


@pytest.mark.anyio
async def test_tls_for_the_host_that_was_asked_for_passes_and_for_another_does_not(
    tmp_path: Path, site: Path
) -> None:
    """Behind one address of a content network are many hosts: the name inside decides."""
    certificate = make_certificate(tmp_path)
    with serving(site, certificate) as (server, port):
        names = Names({name: [[ADDRESS]] for name in ("mirror.test", "other.test")})
        rules = [f"mirror.test:{port}", f"other.test:{port}", f"{ADDRESS}:{port}"]
        async with proxy(rules, resolve=names) as way:
            said = await fetch(way, f"mirror.test:{port}", "mirror.test", certificate)
            assert said.endswith(b"hello from outside")
            said = await fetch(way, f"other.test:{port}", "mirror.test", certificate)
            assert said.endswith(b"hello from outside")
            assert len(server.seen) == 2
            with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized"):
                await fetch(way, f"mirror.test:{port}", "evil.test", certificate)
            with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized"):
                await fetch(way, f"{ADDRESS}:{port}", "evil.test", certificate)
            assert len(server.seen) == 2
            last = way.records[-1]
            assert (last.kind, last.host, last.bytes_sent) == ("refused", ADDRESS, 0)
            assert last.reason.endswith(
                "inside the tunnel TLS asks for another server, 'evil.test': no rule names this "
                "host"
            )
            kinds = [record.kind for record in way.records]
            assert kinds == ["opened", "closed"] * 2 + ["opened", "refused"] * 2


async def tunnelled(way: Way, target: str, *pieces: bytes) -> tuple[bytes, ByteStream]:
    stream = await anyio.connect_tcp("127.0.0.1", way.port)
    await stream.send(f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())
    assert (await stream.receive()).startswith(b"HTTP/1.1 200 ")
    for piece in pieces:
        await stream.send(piece)
    return await everything(stream), stream


@pytest.mark.anyio
async def test_port_443_is_for_tls_unless_a_rule_names_it(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What users expect of `ssh.example.org:443`, and of a rule that says no port."""
    with serving(site) as (server, port):
        monkeypatch.setattr(egress_rules, "HTTPS_PORT", port)
        monkeypatch.setattr(egress_rules, "DEFAULT_PORTS", (80, port))
        target, plain = f"{ADDRESS}:{port}", b"GET /hello HTTP/1.0\r\n\r\n"
        async with proxy([ADDRESS]) as way:
            _, stream = await tunnelled(way, target, plain)
            await stream.aclose()
            assert server.seen == []
            assert "carries TLS, unless a rule names the host with this port" in (
                way.records[-1].reason
            )
        async with proxy([target]) as way:
            said, stream = await tunnelled(way, target, plain)
            await stream.aclose()
            assert said.endswith(b"hello from outside")


@pytest.mark.anyio
async def test_a_hello_that_never_ends_is_not_waited_for_and_nothing_of_it_is_sent() -> None:
    received = bytearray()

    async def server(stream: ByteStream) -> None:
        async with stream:
            await stream.send(b"the server may speak first")
            received.extend(await everything(stream))

    async with await anyio.create_tcp_listener(local_host=ADDRESS) as listener:
        port = listener.listeners[0].extra(anyio.abc.SocketAttribute.local_port)
        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, server)
            async with proxy([f"{ADDRESS}:{port}"], waits=Waits(head=0.05)) as way:
                said, stream = await tunnelled(way, f"{ADDRESS}:{port}", hello("a.test")[:50])
                await stream.aclose()
                assert said.startswith(b"the server may speak first")
                assert "its TLS hello did not come to an end" in way.records[-1].reason
            group.cancel_scope.cancel()
    assert received == b""
