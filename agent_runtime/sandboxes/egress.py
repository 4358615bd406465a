"""The only way out of a sandbox: an allow-list proxy in the daemon, on a socket of its own.

The sandbox has no network. What it has is `relay`, which leads to a unix socket that is bound into
it; here the proxy listens, asks `egress_rules`, resolves the name, asks again about the address,
and connects to that very address: a name that resolves differently a moment later changes nothing.
Every connection is announced before it is made and reported when it ends; what cannot be reported
is not made. `Gate` is one sandbox's proxy from its start to its end.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - see Gate.open
import itertools
import logging
import os
import resource
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final

import anyio
from anyio.abc import (
    ByteReceiveStream,
    ByteStream,
    SocketAttribute,
    SocketListener,
)
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.stapled import StapledByteStream

from agent_runtime.egress_rules import Address, BadHost, Rules, address_of, parse_rules
from agent_runtime.errors import SandboxUnavailable
from agent_runtime.ports.egress import EgressRecord
from agent_runtime.ports.sandbox import SandboxSpec
from agent_runtime.sandboxes.egress_company import BadProxy, Company, Proxy, company
from agent_runtime.sandboxes.egress_heads import (
    HEAD_BYTES_MAX,
    BadRequest,
    Head,
    answer,
    established,
    parse_head,
    unauthorized,
)
from agent_runtime.sandboxes.egress_records import RecordFile
from agent_runtime.sandboxes.egress_tls import UNRECOGNIZED_NAME, BadHello, Look

log = logging.getLogger(__name__)

CONNECTIONS_MAX: Final = 128
"""At a time, of one sandbox."""
REFUSALS_MAX: Final = 32
"""Above that: these are told so; further ones wait in the kernel, where they cost us nothing."""
FULL_SECONDS: Final = 0.05
"""How often to look whether there is room again."""
RESOLVING_MAX: Final = 4
"""Names at a time, of one sandbox: a slow server of names holds a thread for each."""
CHUNK_LINE_BYTES_MAX: Final = 1024
LINGER_SECONDS_MAX: Final = 1.0
"""After an answer: closing at once would take the answer back from a client that still sends."""
PIECE_BYTES: Final = 1 << 16
ADDRESSES_MAX: Final = 4
"""Of one name, tried in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """How long the proxy waits, in seconds."""

    head: float = 15.0
    resolve: float = 10.0
    connect: float = 10.0
    idle: float = 300.0
    """Without a byte in either direction."""


class Refused(Exception):
    """The connection is not made. `short` is for the answer's first line, `text` for the rest."""

    def __init__(self, status: int, short: str, text: str, *, kind: str = "refused") -> None:
        super().__init__(short)
        self.status, self.short, self.text, self.kind = status, short, text, kind


Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
Report = Callable[[EgressRecord], None]


def resolver() -> Resolve:
    """The addresses of a name, as this machine sees them. `OSError` if it has none."""
    # Not asyncio's own few threads, which all sandboxes would share.
    limiter = anyio.CapacityLimiter(RESOLVING_MAX)

    def look_up(host: str, port: int) -> list[str]:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    async def resolve(host: str, port: int) -> list[str]:
        return await anyio.to_thread.run_sync(
            look_up, host, port, limiter=limiter, abandon_on_cancel=True
        )

    return resolve


class _Room:
    """All connections of this process: each takes two of its descriptors, which are for all."""

    def __init__(self) -> None:
        self.taken = 0

    def is_full(self) -> bool:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return soft != resource.RLIM_INFINITY and self.taken >= soft // 4


_room = _Room()


class EgressProxy:
    """Serves one sandbox. `report` hears of every connection; if it raises, none is made."""

    def __init__(
        self,
        rules: Rules,
        report: Report,
        *,
        upstream: Company | None = None,
        resolve: Resolve | None = None,
        waits: Waits | None = None,
        connections_max: int = CONNECTIONS_MAX,
        token: str = "",
    ) -> None:
        """With a `token` it serves only who knows it: a port has no door that others lack."""
        self._token = token
        self._rules = rules
        self._report = report
        self._company = upstream or Company()
        self._resolve = resolve or resolver()
        self._waits = waits or Waits()
        self._connections_max = connections_max
        self.live = 0
        """Connections that are accepted."""
        self._numbers = itertools.count(1)

    async def serve(self, listener: SocketListener) -> None:
        """Until cancelled."""
        async with anyio.create_task_group() as group:
            while True:
                while self.live >= self._connections_max + REFUSALS_MAX or _room.is_full():
                    await anyio.sleep(FULL_SECONDS)
                try:
                    client = await listener.accept()
                except (anyio.BrokenResourceError, OSError):  # out of descriptors: who is not?
                    await anyio.sleep(FULL_SECONDS)
                    continue
                self.live += 1
                _room.taken += 1
                group.start_soon(self._handle, client)

    async def _handle(self, client: ByteStream) -> None:
        """One connection of the sandbox, from its request to its end. Never raises."""
        exchange = _Exchange(next(self._numbers), self._report)
        try:
            async with client:
                try:
                    await self._exchange(client, exchange)
                except Refused as refusal:
                    await self._refuse(client, exchange, refusal)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError):
            pass  # the client, or the server, went away in the middle
        except Exception:  # the border of one connection: the others go on
            log.exception("the egress proxy failed at one connection")
        finally:
            self.live -= 1
            _room.taken -= 1
            exchange.end()

    async def _exchange(self, client: ByteStream, exchange: _Exchange) -> None:
        if self.live > self._connections_max:
            most = self._connections_max
            raise Refused(
                503,
                f"more than {most} connections",
                f"This sandbox has {most} connections open, the most it may have; close some.",
            )
        reader = BufferedByteReceiveStream(client)
        head = await self._head(reader)
        if head is None:
            return
        if self._token and not head.has_token(self._token):
            # Not reported: many a client asks without it first, and others are no sandbox of ours.
            await client.send(unauthorized())
            await _linger(client)
            return
        exchange.begin(head)
        async with self._dialled(head, exchange) as server:
            if head.is_tunnel:
                await client.send(established())
            await self._pass_on(client, reader, server, head, exchange)

    async def _refuse(self, client: ByteStream, exchange: _Exchange, refusal: Refused) -> None:
        exchange.refuse(refusal)
        await client.send(answer(refusal.status, refusal.short, refusal.text))
        await _linger(client)

    async def _head(self, reader: BufferedByteReceiveStream) -> Head | None:
        """What is asked for; None if nothing is."""
        try:
            with anyio.fail_after(self._waits.head):
                return parse_head(await reader.receive_until(b"\r\n\r\n", HEAD_BYTES_MAX))
        except TimeoutError:
            raise Refused(400, "no request", "No whole request came in time.") from None
        except anyio.DelimiterNotFound:
            text = f"The head of a request has at most {HEAD_BYTES_MAX} bytes."
            raise Refused(400, "the head is too long", text) from None
        except BadRequest as error:
            raise Refused(
                400, str(error), f"The egress proxy cannot pass this on: {error}."
            ) from None
        except (anyio.IncompleteRead, anyio.EndOfStream):
            return None

    # ---- whom to talk to -----------------------------------------------------------------

    @asynccontextmanager
    async def _dialled(self, head: Head, exchange: _Exchange) -> AsyncIterator[ByteStream]:
        """The server, or the company's proxy on the way to it. Raises `Refused`."""
        why = self._rules.refuse_target(head.host, head.port)
        if why is not None:
            raise self._not_allowed(head, why)
        proxy = self._company.proxy_for(head.host, is_tunnel=head.is_tunnel)
        addresses = await self._addresses(head, proxy)
        if proxy is None:
            async with await self._connect(addresses, head, exchange) as server:
                await self._send_head(server, b"" if head.is_tunnel else head.forwarded(), exchange)
                yield server
            return
        exchange.open(via=proxy.shown)
        try:
            with anyio.fail_after(self._waits.connect):
                stream = await anyio.connect_tcp(proxy.host, proxy.port)
        except (OSError, TimeoutError) as error:
            raise _unreachable(f"the company's proxy {proxy.shown}", error) from None
        async with stream:
            if head.is_tunnel:
                yield StapledByteStream(stream, await self._tunnel(stream, head, proxy))
            else:
                data = head.forwarded(absolute=True, authorization=proxy.authorization)
                await self._send_head(stream, data, exchange)
                yield stream

    async def _send_head(self, server: ByteStream, data: bytes, exchange: _Exchange) -> None:
        await server.send(data)
        exchange.moved(sent=len(data))  # an address can carry as much away as a body

    def _not_allowed(self, head: Head, why: str, address: Address | None = None) -> Refused:
        target = f"{head.host}:{head.port}"
        text = (
            f"The connection to {target} was refused: {why}.\n"
            f"Rules of {self._rules.place} (80 and 443 where no port is named): "
            f"{self._rules.shown()}.\n"
            f"Way out: {self._rules.way_out(head.host, head.port, address)}."
        )
        return Refused(403, f"{target} is not allowed by {self._rules.place}: {why}", text)

    async def _addresses(self, head: Head, proxy: Proxy | None) -> list[str]:
        """Those that may be dialled; with a proxy on the way also none, if we cannot know."""
        try:
            if (literal := address_of(head.host)) is not None:
                found: Sequence[str] = [str(literal)]
            else:
                with anyio.fail_after(self._waits.resolve):
                    found = await self._resolve(head.host, head.port)
        except (OSError, TimeoutError, UnicodeError) as error:
            if proxy is not None:  # many a company's own resolver does not know the world
                return []
            raise _unreachable(f"the name {head.host!r}", error, what="resolved") from None
        allowed, refusals = [], []
        for text in found:
            address = address_of(text.partition("%")[0])
            if address is None:
                continue
            own = is_own(address)
            why = self._rules.refuse_address(address, head.port, is_own=own)
            if why is None:
                allowed.append(str(address))
            else:
                refusals.append((why, address))
        if not allowed and refusals:
            raise self._not_allowed(head, refusals[0][0], refusals[0][1])
        return allowed

    async def _connect(
        self, addresses: Sequence[str], head: Head, exchange: _Exchange
    ) -> ByteStream:
        error: BaseException = OSError("it has no address")
        for address in addresses[:ADDRESSES_MAX]:
            exchange.open(address=address)
            try:
                with anyio.fail_after(self._waits.connect):
                    return await anyio.connect_tcp(address, head.port)
            except (OSError, TimeoutError) as failure:
                error = failure
                exchange.fail(_unreachable(f"{head.host}:{head.port}", error).short)
        raise _unreachable(f"{head.host}:{head.port}", error)

    async def _tunnel(self, stream: ByteStream, head: Head, proxy: Proxy) -> ByteReceiveStream:
        """Ask the company's proxy for a tunnel; the stream of what it sends after its answer."""
        lines = [f"CONNECT {head.authority} HTTP/1.1", f"Host: {head.authority}"]
        if proxy.authorization:
            lines.append(f"Proxy-Authorization: {proxy.authorization}")
        reader = BufferedByteReceiveStream(stream)
        try:
            with anyio.fail_after(self._waits.connect):
                await stream.send("\r\n".join([*lines, "", ""]).encode("latin-1"))
                said = await reader.receive_until(b"\r\n\r\n", HEAD_BYTES_MAX)
        except (TimeoutError, OSError, anyio.BrokenResourceError, anyio.IncompleteRead,
                anyio.DelimiterNotFound) as error:  # fmt: skip
            raise _unreachable(f"the company's proxy {proxy.shown}", error) from None
        first = said.split(b"\r\n")[0].decode("latin-1")
        words = first.split(" ", 2)
        if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].startswith("2"):
            text = f"the company's proxy {proxy.shown} answered {first[:100]!r}"
            raise Refused(502, text, f"{head.host}:{head.port}: {text}.", kind="failed")
        return reader

    # ---- passing on ----------------------------------------------------------------------

    async def _pass_on(
        self,
        client: ByteStream,
        reader: BufferedByteReceiveStream,
        server: ByteStream,
        head: Head,
        exchange: _Exchange,
    ) -> None:
        """Both directions, until the end of both, or of the answer for plain HTTP, or idle."""

        async def up() -> None:
            if head.is_tunnel:
                try:
                    data = await self._opening(reader, head)
                except Refused as refusal:
                    exchange.refuse(refusal)
                    await client.send(UNRECOGNIZED_NAME)
                    group.cancel_scope.cancel()
                    return
                await server.send(data)
                exchange.moved(sent=len(data))
                async for data in _pieces(reader):
                    await server.send(data)
                    exchange.moved(sent=len(data))
                await server.send_eof()
            else:
                async for data in _body(reader, head):
                    await server.send(data)
                    exchange.moved(sent=len(data))

        async def down() -> None:
            async for data in _pieces(server):
                await client.send(data)
                exchange.moved(received=len(data))
            await client.send_eof()

        async with anyio.create_task_group() as group:
            group.start_soon(self._watch, exchange, group.cancel_scope)
            async with anyio.create_task_group() as both:
                both.start_soon(_ended_by_peer, up)
                await _ended_by_peer(down)
                if not head.is_tunnel:  # an answer that came early ends the request, too
                    both.cancel_scope.cancel()
            group.cancel_scope.cancel()
        if not head.is_tunnel:
            exchange.end()  # all is said: the record is there before the client goes on
            await _linger(client)

    async def _opening(self, reader: BufferedByteReceiveStream, head: Head) -> bytes:
        """What the client says first in a tunnel, looked at. The server may speak before.

        Nothing of it is sent before it is known to be allowed. Raises `Refused`.
        """
        with suppress(anyio.EndOfStream):
            look, data = Look(), await reader.receive(PIECE_BYTES)
            try:
                with anyio.fail_after(self._waits.head):
                    while (found := look.feed(data)) is None:
                        data = await reader.receive(PIECE_BYTES)
            except TimeoutError:
                raise self._bad_opening(head, "its TLS hello did not come to an end") from None
            except BadHello as error:
                raise self._bad_opening(head, f"its TLS hello {error}") from None
            if found.is_tls:
                why = self._rules.refuse_server_name(head.host, head.port, found.server_name)
            else:
                why = self._rules.refuse_plain(head.host, head.port)
            if why is not None:
                raise self._bad_opening(head, why)
            return bytes(look.seen)
        return b""

    def _bad_opening(self, head: Head, why: str) -> Refused:
        text = f"{head.host}:{head.port} is not allowed by {self._rules.place}: {why}"
        return Refused(403, text, text)

    async def _watch(self, exchange: _Exchange, scope: anyio.CancelScope) -> None:
        while (left := exchange.moved_at + self._waits.idle - anyio.current_time()) > 0:
            await anyio.sleep(left)
        exchange.reason = f"no byte within {self._waits.idle:g} s"
        scope.cancel()


class _Exchange:
    """What is known of one connection, and whether it was told."""

    def __init__(self, number: int, report: Report) -> None:
        self._number, self._report = number, report
        self._head: Head | None = None
        self._address = self._via = ""
        self._sent = self._received = 0
        self._began_at = self.moved_at = anyio.current_time()
        self._is_open = False
        self._was_told = False
        """That an address could not be reached."""
        self.reason = ""

    def begin(self, head: Head) -> None:
        self._head = head

    def moved(self, *, sent: int = 0, received: int = 0) -> None:
        self._sent += sent
        self._received += received
        self.moved_at = anyio.current_time()

    def open(self, *, address: str = "", via: str = "") -> None:
        """Before it is made: after a crash the record shows that it may have been."""
        self._address, self._via = address, via
        self._is_open = True
        try:
            self._tell("opened")
        except OSError as error:
            self._is_open = False
            raise Refused(
                503,
                "the connection cannot be recorded",
                f"A connection that cannot be recorded is not made: {error}.",
            ) from error

    def fail(self, reason: str) -> None:
        """One address could not be reached; there may be others."""
        self._is_open = False
        self._was_told = True
        self.reason = reason
        with suppress(OSError):
            self._tell("failed")
        self.reason = ""

    def refuse(self, refusal: Refused) -> None:
        if self._was_told and not self._is_open and refusal.kind == "failed":
            return
        self._is_open = False
        self.reason = refusal.short
        with suppress(OSError):
            self._tell("failed" if refusal.kind == "failed" else "refused")

    def end(self) -> None:
        if self._is_open:
            self._is_open = False
            try:
                self._tell("closed")
            except OSError as error:
                log.warning("the end of a connection could not be recorded: %s", error)

    def _tell(self, kind: str) -> None:
        head = self._head
        self._report(
            EgressRecord(
                kind=kind,
                number=self._number,
                method=head.method if head else "",
                host=head.host if head else "",
                port=head.port if head else 0,
                address=self._address,
                via=self._via,
                reason=self.reason,
                bytes_sent=self._sent,
                bytes_received=self._received,
                seconds=round(anyio.current_time() - self._began_at, 3),
            )
        )


async def _pieces(stream: ByteReceiveStream) -> AsyncIterator[bytes]:
    with suppress(anyio.EndOfStream):
        while True:
            yield await stream.receive(PIECE_BYTES)


async def _body(reader: BufferedByteReceiveStream, head: Head) -> AsyncIterator[bytes]:
    """The body of a request and not a byte more: what follows would be a second request."""
    if head.body_bytes is not None:
        async for data in _counted(reader, head.body_bytes):
            yield data
        return
    while True:
        line = await reader.receive_until(b"\r\n", CHUNK_LINE_BYTES_MAX)
        size = line.partition(b";")[0].strip()
        if not size or len(size) > 15 or size.strip(b"0123456789abcdefABCDEF"):
            raise anyio.BrokenResourceError
        yield size + b"\r\n"
        if int(size, 16) == 0:
            break
        async for data in _counted(reader, int(size, 16)):
            yield data
        if await reader.receive_exactly(2) != b"\r\n":
            raise anyio.BrokenResourceError
        yield b"\r\n"
    # Trailers are left out; nobody needs them.
    while await reader.receive_until(b"\r\n", HEAD_BYTES_MAX):
        pass
    yield b"\r\n"


async def _counted(reader: BufferedByteReceiveStream, count: int) -> AsyncIterator[bytes]:
    while count > 0:
        data = await reader.receive(min(count, PIECE_BYTES))
        count -= len(data)
        yield data


async def _ended_by_peer(pump: Callable[[], Awaitable[None]]) -> None:
    """One direction. A peer that goes away ends it; the other direction ends by itself."""
    with suppress(
        anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream,
        anyio.IncompleteRead, anyio.DelimiterNotFound, OSError,
    ):  # fmt: skip
        await pump()


async def _linger(client: ByteStream) -> None:
    with anyio.move_on_after(LINGER_SECONDS_MAX), suppress(anyio.BrokenResourceError, OSError):
        await client.send_eof()
        async for _ in _pieces(client):
            pass


def _unreachable(name: str, error: BaseException, *, what: str = "reached") -> Refused:
    late = isinstance(error, TimeoutError)
    why = "no answer in time" if late else str(error) or type(error).__name__
    text = f"{name} could not be {what}: {why}"
    return Refused(504 if late else 502, text, f"{text[:1].upper()}{text[1:]}.", kind="failed")


def is_own(address: Address) -> bool:
    """Is it an address of this machine? Its services think that whoever reaches them is near."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((str(address), 9))  # sends nothing: only asks which way it would go
        return address_of(probe.getsockname()[0].partition("%")[0]) == address
    return False


# ---- one sandbox's proxy ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outlet:
    """What `mounts` needs to know: host paths, empty for none."""

    socket: str
    ca_bundle: str = ""
    ca_extra: str = ""
    port: int = 0
    """Of 127.0.0.1, where there is no socket to be bound into the sandbox."""
    token: str = ""


class Gate:
    """The proxy of one sandbox while it lives."""

    def __init__(
        self,
        outlet: Outlet,
        records: RecordFile,
        serving: asyncio.Task[None],
        listener: SocketListener,
    ) -> None:
        self.outlet = outlet
        self._listener = listener
        self._records = records
        self._serving = serving

    @classmethod
    async def open(cls, state_dir: str, spec: SandboxSpec, *, on_port: bool = False) -> Gate | None:
        """Listen for a sandbox; None if it has no network.

        With `on_port` on a port of this machine's own address, with a token; else on a socket.

        The proxy runs in a task of its own, not in a group of the caller's: a worker's session
        outlives the call that opens it. Sandboxes live on asyncio only.

        Raises:
            SandboxUnavailable: a rule, or the company's proxy, cannot be used; says which.
        """
        if spec.network == "none":
            return None
        try:
            rules = replace(parse_rules(spec.network, spec.egress), place=spec.egress_place)
            found = company(os.environ)
        except (BadHost, BadProxy) as error:
            raise SandboxUnavailable(f"no way out for the sandbox: {error}") from None
        path, port, token = "", 0, ""
        try:
            if on_port:
                found_here = await anyio.create_tcp_listener(local_host="127.0.0.1")
                (only,) = found_here.listeners
                assert isinstance(only, SocketListener)
                listener = only
                port = int(listener.extra(SocketAttribute.local_port))
                token = secrets.token_urlsafe(24)
            else:
                path, listener = await _listen(os.path.join(state_dir, "egress"))
        except OSError as error:
            raise SandboxUnavailable(f"no socket for the egress proxy: {error}") from error
        records = RecordFile(state_dir, spec.owner_id)

        def report(record: EgressRecord) -> None:
            if (redacted := spec.egress_redacted) is not None:
                record = replace(record, host=redacted(record.host), reason=redacted(record.reason))
            written = records.write(record)
            if spec.egress_heard is not None:
                spec.egress_heard(written)

        proxy = EgressProxy(rules, report, upstream=found, token=token)
        outlet = Outlet(path, _file(found.ca_bundle), _file(found.ca_extra), port, token)

        serving = asyncio.create_task(proxy.serve(listener), name=f"egress {spec.owner_id}")
        return cls(outlet, records, serving, listener)

    async def close(self) -> None:
        """End every connection; on return all of them are reported. Safe to call twice."""
        self._serving.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([self._serving])
            await self._listener.aclose()
        if not self._serving.cancelled() and (error := self._serving.exception()):
            log.error("the egress proxy had failed", exc_info=error)
        if self.outlet.socket:
            with suppress(OSError):
                os.unlink(self.outlet.socket)
        self._records.close()


_counter = itertools.count(1)


async def _listen(directory: str) -> tuple[str, SocketListener]:
    """A listening socket that only who may look into the directory, or is given it, can reach."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    number = next(_counter)
    if number == 1:
        _remove_dead(directory)
    name = f"{os.getpid()}-{number}-{os.urandom(4).hex()}"
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # A socket's path has at most 107 bytes; by this way it has, wherever the directory is.
        listener = await anyio.create_unix_listener(f"/proc/self/fd/{fd}/{name}.new", mode=0o666)
        path = os.path.join(directory, f"{name}.sock")
        os.rename(os.path.join(directory, f"{name}.new"), path)
        return path, listener
    finally:
        os.close(fd)


def _remove_dead(directory: str) -> None:
    """Sockets of daemons that were killed: nobody listens. Those that nobody listens to yet are
    called differently."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in os.listdir(directory):
            if name.endswith(".sock"):
                with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                    try:
                        probe.connect(f"/proc/self/fd/{fd}/{name}")
                    except ConnectionRefusedError:
                        os.unlink(os.path.join(directory, name))
    finally:
        os.close(fd)


def _file(path: str) -> str:
    return os.path.realpath(path) if path and os.path.isfile(path) else ""
