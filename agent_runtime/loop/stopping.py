"""A wish to stop, heard by many: each driver has a callback in it, and none a task that waits."""

from __future__ import annotations

from collections.abc import Callable

import anyio


class Stop:
    """Set once, from the event loop's own thread."""

    def __init__(self) -> None:
        self._is_set = False
        self._event: anyio.Event | None = None
        """Made for the first who waits: nobody does for a single task."""
        self._heard: dict[Callable[[], None], None] = {}
        self.reason = "stopped by its owner"
        """For the log."""

    def set(self) -> None:
        """Whoever subscribed hears of it at once."""
        self._is_set = True
        if self._event is not None:
            self._event.set()
        for heard in tuple(self._heard):
            heard()

    def is_set(self) -> bool:
        return self._is_set

    async def wait(self) -> None:
        """Until it is set."""
        if self._event is None:
            self._event = anyio.Event()
        if self._is_set:
            self._event.set()
        await self._event.wait()

    def subscribe(self, heard: Callable[[], None]) -> Callable[[], None]:
        """Call `heard` when it is set, until the returned function is called."""
        self._heard[heard] = None
        return lambda: self._heard.pop(heard, None)
