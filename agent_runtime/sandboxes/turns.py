"""One task at a time in a container: whoever comes second waits.

A turn is an abstract unix socket, bound under a name of this container. It ends when everybody who
holds it is gone: the daemon, and the keepers of the task's sandboxes, which outlive a daemon that
is killed until they have killed the rest.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from typing import Final

import anyio

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.05
"""A free turn is seen that late; nothing tells of it."""
SAID_AFTER_SECONDS: Final = 2.0


class Turn:
    """One sandbox's share of its owner's turn."""

    def __init__(self, turns: Turns, fd: int) -> None:
        self.fd = fd
        """For the sandbox's keeper to hold."""
        self._turns: Turns | None = turns

    def end(self) -> None:
        """Safe to call twice."""
        if self._turns is not None:
            self._turns.give_back()
            self._turns = None


class Turns:
    """This process's turn: sandboxes of one owner go together."""

    def __init__(self, name: str = "") -> None:
        # Containers of one pod have one network, and with it one set of such names.
        self._name = name or f"agent-runtime-{os.stat('/proc/self/ns/mnt').st_ino}"
        self._socket: socket.socket | None = None
        self._owner = ""
        self._count = 0

    async def take(self, owner_id: str) -> Turn:
        """Wait until it is this owner's turn. Every turn that was taken must be ended."""
        began, said = anyio.current_time(), False
        while (taken := self._taken(owner_id)) is None:
            if not said and anyio.current_time() - began > SAID_AFTER_SECONDS:
                said = True
                log.warning(
                    "%s waits: this container runs one task at a time, and another one runs",
                    owner_id,
                )
            await anyio.sleep(POLL_SECONDS)
        self._count += 1
        return Turn(self, taken.fileno())

    def give_back(self) -> None:
        """One sandbox less; with the last one the turn ends for this process."""
        self._count -= 1
        if self._count == 0 and self._socket is not None:
            self._socket.close()
            self._socket = None

    def _taken(self, owner_id: str) -> socket.socket | None:
        if self._socket is not None:
            return self._socket if self._owner == owner_id else None
        one = socket.socket(socket.AF_UNIX)
        try:
            one.bind(f"\0{self._name}")
        except OSError as error:
            one.close()
            if error.errno != errno.EADDRINUSE:
                raise
            return None
        self._socket, self._owner = one, owner_id
        return one
