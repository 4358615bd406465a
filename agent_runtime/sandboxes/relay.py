"""The way to the egress proxy from inside: 127.0.0.1:PORT to a unix socket. Then run the command.

Run as a script inside the sandbox, `relay.py SOCKET PORT COMMAND…`, with nothing but the standard
library. It listens first, leaves a child behind that relays, and becomes the command: no program
ever finds the port closed. It decides nothing: what is let through, the daemon's proxy decides.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
from contextlib import suppress

BUFFER_BYTES_MAX = 256 << 10
"""Of each direction; a full one is not read from until the other side takes some."""
CONNECTIONS_MAX = 256
"""More than the proxy serves at a time, and far below the number of files a process may open."""
BACKLOG = 128


def main() -> None:
    """Listen, fork, become the command."""
    path, port, *command = sys.argv[1:]
    listener = socket.create_server(("127.0.0.1", int(port)), backlog=BACKLOG)
    if os.fork() == 0:
        try:
            _stand_aside(listener.fileno())
            Relay(listener, path).serve()
        finally:
            os._exit(0)
    listener.close()
    os.execv(command[0], command)


def _stand_aside(kept: int) -> None:
    """Hold nothing of the command's: not its session, and none of its descriptors."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != kept:
            with suppress(OSError):
                os.close(int(name))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


class Side:
    """One socket of a pair, and what waits to be written to it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.other: Side = self
        self.waiting = bytearray()
        self.is_read_out = False
        """Its peer has sent everything."""
        self.is_closing = False
        """Shut the writing side down when nothing waits any more."""
        self.is_shut = False


class Relay:
    """One process for all connections: the sandbox's processes are counted."""

    def __init__(self, listener: socket.socket, path: str) -> None:
        self._listener = listener
        self._path = path
        self._count = 0
        self._selector = selectors.DefaultSelector()
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, None)

    def serve(self) -> None:
        """Until the sandbox ends."""
        while True:
            for key, mask in self._selector.select():
                if key.data is None:
                    self._accept()
                elif key.data.sock.fileno() >= 0:  # not closed by an event of this round
                    self._move(key.data, mask)

    def _accept(self) -> None:
        with suppress(OSError):
            inside, _ = self._listener.accept()
            if self._count >= CONNECTIONS_MAX:
                inside.close()
                return
            outside = socket.socket(socket.AF_UNIX)
            try:
                outside.connect(self._path)
            except OSError:  # the task is ending
                inside.close()
                outside.close()
                return
            self._count += 1
            a, b = Side(inside), Side(outside)
            a.other, b.other = b, a
            for side in (a, b):
                side.sock.setblocking(False)
                self._selector.register(side.sock, selectors.EVENT_READ, side)

    def _move(self, side: Side, mask: int) -> None:
        try:
            if mask & selectors.EVENT_READ and self._may_read(side):
                data = side.sock.recv(65536)
                if data:
                    side.other.waiting += data
                else:
                    side.is_read_out = side.other.is_closing = True
            for one in (side, side.other):
                self._write(one)
            if side.is_shut and side.other.is_shut:
                self._close(side)
            else:
                self._watch(side)
                self._watch(side.other)
        except BlockingIOError:
            pass
        except OSError:
            self._close(side)

    def _may_read(self, side: Side) -> bool:
        return not side.is_read_out and len(side.other.waiting) < BUFFER_BYTES_MAX

    def _write(self, side: Side) -> None:
        if side.waiting:
            with suppress(BlockingIOError):
                del side.waiting[: side.sock.send(side.waiting)]
        if side.is_closing and not side.waiting and not side.is_shut:
            side.is_shut = True
            side.sock.shutdown(socket.SHUT_WR)

    def _watch(self, side: Side) -> None:
        wanted = selectors.EVENT_READ if self._may_read(side) else 0
        wanted |= selectors.EVENT_WRITE if side.waiting else 0
        known = side.sock in self._selector.get_map()
        if wanted and known:
            self._selector.modify(side.sock, wanted, side)
        elif wanted:
            self._selector.register(side.sock, wanted, side)
        elif known:
            self._selector.unregister(side.sock)

    def _close(self, side: Side) -> None:
        self._count -= 1
        for one in (side, side.other):
            if one.sock.fileno() >= 0:
                with suppress(KeyError):
                    self._selector.unregister(one.sock)
                one.sock.close()


if __name__ == "__main__":
    main()
