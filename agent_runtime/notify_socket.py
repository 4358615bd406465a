"""Telling systemd how the daemon is: `Type=notify`, and a watchdog.

One datagram a message to the socket that `$NOTIFY_SOCKET` names; without it nothing is said. See
sd_notify(3) and sd_watchdog_enabled(3). Nothing here may end a daemon: who listens may be gone.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping

import anyio

log = logging.getLogger(__name__)


class NotifySocket:
    """Made once, at start: it takes its variables out of the environment that tools inherit."""

    def __init__(self, environ: MutableMapping[str, str] | None = None) -> None:
        variables = os.environ if environ is None else environ
        address = variables.pop("NOTIFY_SOCKET", "")
        period, whose = variables.pop("WATCHDOG_USEC", ""), variables.pop("WATCHDOG_PID", "")
        # A leading @ is the zero byte of an abstract name.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_seconds: float | None = None
        """How long systemd waits for a sign of life; None: it waits for none."""
        if address and period.isdecimal() and int(period) and whose in ("", str(os.getpid())):
            self.watchdog_seconds = int(period) / 1e6

    def ready(self) -> None:
        """Requests are answered from now on."""
        self._say("READY=1")

    def stopping(self) -> None:
        """The daemon drains; it need not be told to."""
        self._say("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._say("STATUS=" + " ".join(text.split()))

    async def keep_alive(self) -> None:
        """Say at half of the watchdog's time that the event loop turns, until cancelled."""
        while self.watchdog_seconds is not None:
            self._say("WATCHDOG=1")
            await anyio.sleep(self.watchdog_seconds / 2)

    def _say(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as one:
                one.setblocking(False)
                one.sendto(message.encode(), self._address)
        except OSError as error:
            log.warning("systemd was not told %r: %s", message.split("\n")[0], error)
