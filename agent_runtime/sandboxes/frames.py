"""The stream between daemon and worker: 4 bytes of length, then MessagePack.

What comes out of a sandbox is not to be trusted: the reader bounds and checks every frame.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from agent_runtime.types import Json, ToolCall, ToolResult

LENGTH: Final = struct.Struct(">I")
OVERHEAD_BYTES_MAX: Final = 4 << 20
"""What a frame may hold beyond twice the limit of an output (`output` and `raw`)."""


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the daemon asks. `op` is hello, call, preview, render or ping."""

    number: int
    op: str
    source: str = ""
    tool: str = ""
    call: ToolCall | None = None
    template: Json = None
    variables: dict[str, Json] = {}
    env: dict[str, str] = {}
    output_bytes: int = 0
    seconds: float = 0.0


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the worker answers. `value`: a filled template, a preview; `error`: why not."""

    number: int
    result: ToolResult | None = None
    value: Json = None
    error: str = ""


def encode(message: Request | Answer) -> bytes:
    """One frame. Raises `msgspec.ValidationError`, `TypeError`, `OverflowError`, `UnicodeError`."""
    body = msgspec.msgpack.encode(message, enc_hook=_plain)
    return LENGTH.pack(len(body)) + body


_decode_request = msgspec.msgpack.Decoder(Request).decode
_decode_answer = msgspec.msgpack.Decoder(Answer).decode


def decode_request(body: bytes | memoryview) -> Request:
    """What the daemon sent."""
    return _decode_request(body)


def decode_answer(body: bytes | memoryview) -> Answer:
    """What the worker sent. Raises `msgspec.MsgspecError`."""
    return _decode_answer(body)


def bytes_max(output_bytes: int) -> int:
    """The longest answer that is read."""
    return 2 * output_bytes + OVERHEAD_BYTES_MAX


def read_frame(fd: int) -> bytes | None:
    """Blocking: the next frame's body, or None at the end of the stream."""
    header = _read_exactly(fd, LENGTH.size)
    if header is None:
        return None
    return _read_exactly(fd, LENGTH.unpack(header)[0])


def write_all(fd: int, data: bytes) -> None:
    """Blocking: all of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _read_exactly(fd: int, count: int) -> bytes | None:
    parts = []
    while count:
        data = os.read(fd, min(count, 1 << 20))
        if not data:
            return None
        parts.append(data)
        count -= len(data)
    return b"".join(parts)


def _plain(value: object) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")
