"""A wish to stop, heard by many: each driver has a callback in it, and none a task that waits."""

from __future__ import annotations

from collections.abc import Callable

import anyio


class Stop:
    """Set once, from the event loop's own thread."""

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._heard: dict[Callable[[], None], None] = {}
        self.reason = "stopped by its owner"
        """For the log."""

    def set(self) -> None:
        """Whoever subscribed hears of it at once."""
        self._event.set()
        for heard in tuple(self._heard):
            heard()

    def is_set(self) -> bool:
        return self._event.is_set()

    async def wait(self) -> None:
        """Until it is set."""
        await self._event.wait()

    def subscribe(self, heard: Callable[[], None]) -> Callable[[], None]:
        """Call `heard` when it is set, until the returned function is called."""
        self._heard[heard] = None
        return lambda: self._heard.pop(heard, None)
