"""A TCP relay that puts a credential into each HTTP request and changes nothing else.

The conformance suite cannot be told a credential, and the daemon lets nobody in without one. What
is odd about a request (spaces in headers, a wrong Host) must arrive as it was sent, so bytes are
passed on, not requests.
"""

from __future__ import annotations

import re
from contextlib import suppress

import anyio
import anyio.abc

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked", re.IGNORECASE)


async def relay(to_port: int, token: str, *, task_status: anyio.abc.TaskStatus[int]) -> None:
    """Listen on a free port of 127.0.0.1 until cancelled; `started` gets the port."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    credential = f"Authorization: Bearer {token}\r\n".encode()

    async def serve(client: anyio.abc.SocketStream) -> None:
        async with client, await anyio.connect_tcp("127.0.0.1", to_port) as daemon:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_back, daemon, client, tasks.cancel_scope)
                with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                    await _forth(client, daemon, credential)
                tasks.cancel_scope.cancel()

    task_status.started(listener.extra(anyio.abc.SocketAttribute.local_port))
    await listener.serve(serve)


async def _back(
    daemon: anyio.abc.SocketStream, client: anyio.abc.SocketStream, scope: anyio.CancelScope
) -> None:
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        async for data in daemon:
            await client.send(data)
    scope.cancel()


async def _forth(
    client: anyio.abc.SocketStream, daemon: anyio.abc.SocketStream, credential: bytes
) -> None:
    buffer = b""

    async def more() -> bytes:
        try:
            return await client.receive()
        except anyio.EndOfStream:
            return b""

    while True:
        while (end := buffer.find(b"\r\n\r\n")) < 0:
            data = await more()
            if not data:
                return
            buffer += data
        head, buffer = buffer[: end + 4], buffer[end + 4 :]
        line, _, rest = head.partition(b"\r\n")
        await daemon.send(line + b"\r\n" + credential + rest)
        if _CHUNKED.search(head):
            while b"0\r\n\r\n" not in buffer:
                buffer += await more()
            at = buffer.index(b"0\r\n\r\n") + 5
            body, buffer = buffer[:at], buffer[at:]
            await daemon.send(body)
            continue
        length = _LENGTH.search(head)
        left = int(length[1]) if length else 0
        while left:
            if not buffer and not (buffer := await more()):
                return
            body, buffer = buffer[:left], buffer[left:]
            left -= len(body)
            await daemon.send(body)
