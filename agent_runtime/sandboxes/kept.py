"""What is kept of an output."""

from __future__ import annotations

from typing import Final

from agent_runtime.sandboxes.kernel import PIPE_BYTES

NOTE_BYTES_MAX: Final = 64
"""Room for the line that says how much of an output was left out."""


class Kept:
    """The head and the tail of an output, at most `limit` bytes together, and its whole count."""

    def __init__(self, limit: int) -> None:
        self.total = 0
        self._head_max = limit // 2
        self._tail_max = limit - self._head_max
        self._head = bytearray()
        self._tail = bytearray()

    def add(self, data: bytes) -> None:
        self.total += len(data)
        room = self._head_max - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        if len(self._tail) > 2 * self._tail_max + PIPE_BYTES:
            del self._tail[: -self._tail_max]

    def join(self) -> bytes:
        if self.total <= self._head_max + self._tail_max:
            return bytes(self._head + self._tail)
        tail = self._tail[-max(self._tail_max - NOTE_BYTES_MAX, 1) :]
        missing = self.total - len(self._head) - len(tail)
        return bytes(self._head + b"\n[... %d bytes left out ...]\n" % missing + tail)
