"""A daemon that nobody started by hand ends by itself when nobody has needed it for a while.

What it knows is stored; whoever needs it next starts the next one.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from agent_runtime.api.answers import Receive, Scope, Send

App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger(__name__)

LOOKS: Final = 20
"""At it, in the time after which it ends."""


class Idling:
    """Wraps an ASGI application, and counts who is there, streams for as long as they are open."""

    def __init__(self, app: App, monotonic: Callable[[], float]) -> None:
        self._app = app
        self._monotonic = monotonic
        self._open = 0
        self._since = monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on."""
        self.enter()
        try:
            await self._app(scope, receive, send)
        finally:
            self.leave()

    def enter(self) -> None:
        """Somebody is there."""
        self._open += 1

    def leave(self) -> None:
        """And has gone."""
        self._open -= 1
        self._since = self._monotonic()

    async def until_idle(self, seconds: float, is_busy: Callable[[], bool]) -> None:
        """Returns when for so long nobody was there, and nothing was going on."""
        while True:
            await anyio.sleep(seconds / LOOKS)
            if self._open or is_busy():
                self._since = self._monotonic()
            elif self._monotonic() - self._since >= seconds:
                log.info("ending: nobody has needed this daemon for %.0f s", seconds)
                return
