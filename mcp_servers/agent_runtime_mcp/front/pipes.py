"""The client's two ends: lines in, lines out, and the moment when it has gone.

A client may be killed while another process holds one of the two ends: whichever closes first
counts.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from agent_runtime_mcp.front.words import Message, dumped

READ_BYTES: Final = 1 << 16
LINE_BYTES_MAX: Final = 32 << 20
"""A client that sends more in one line is not speaking this protocol."""

_GONE: Final = select.POLLERR | select.POLLHUP | select.POLLNVAL


class Pipes:
    """Two file descriptors. Any thread may write, one reads."""

    def __init__(self, source: int, sink: int) -> None:
        self._source, self._sink = source, sink
        self._writing = threading.Lock()

    def lines(self) -> Iterator[bytes]:
        """What the client says, until it closes its side or has gone."""
        parts: list[bytes] = []
        size = 0
        poll = select.poll()
        poll.register(self._source, select.POLLIN)
        if self._sink != self._source:
            poll.register(self._sink, 0)
        while True:
            events = dict(poll.poll())
            if self._sink != self._source and events.get(self._sink, 0) & _GONE:
                return
            if self._source not in events:
                continue
            data = os.read(self._source, READ_BYTES)
            if not data:
                break
            *lines, rest = data.split(b"\n")
            for line in lines:
                yield b"".join((*parts, line))
                parts, size = [], 0
            parts.append(rest)
            size += len(rest)
            if size > LINE_BYTES_MAX:
                say(f"a message has more than {LINE_BYTES_MAX} bytes: ending")
                return
        yield b"".join(parts)

    def is_heard(self) -> bool:
        """Is there anybody who could read an answer?"""
        poll = select.poll()
        poll.register(self._sink, 0)
        return not poll.poll(0)

    def write(self, message: Message | bytes) -> None:
        """One message; whole, whoever else writes. What nobody reads is dropped."""
        data = (message if isinstance(message, bytes) else dumped(message)) + b"\n"
        with self._writing, suppress(BrokenPipeError):
            sent = os.write(self._sink, data)
            while sent < len(data):
                sent += os.write(self._sink, data[sent:])


def say(text: str) -> None:
    """To whoever looks at the client's logs."""
    with suppress(OSError, ValueError):
        sys.stderr.write(f"agent-runtime mcp: {text}\n")
        sys.stderr.flush()
