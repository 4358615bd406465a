"""The control socket between the daemon and a keeper: frames of a kind and a payload."""

from __future__ import annotations

import socket
import struct
from typing import Final

FRAME: Final = struct.Struct(">cI")
"""A frame: its kind (R request, F freeze, T thaw; S started, O output, X exit), its length."""


def receive(control: socket.socket) -> tuple[bytes, bytes]:
    kind, length = FRAME.unpack(receive_exactly(control, FRAME.size))
    return kind, receive_exactly(control, length)


def receive_exactly(control: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = control.recv(count - len(data))
        if not chunk:
            raise EOFError("the other side is gone")
        data += chunk
    return data


def send(control: socket.socket, kind: bytes, payload: bytes) -> None:
    control.sendall(FRAME.pack(kind, len(payload)) + payload)


def cmsg_cloexec() -> int:
    return getattr(socket, "MSG_CMSG_CLOEXEC", 0x40000000)
