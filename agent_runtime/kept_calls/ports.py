"""Where kept calls are: the port, beside `agent_runtime.ports`.

Its fake is `stores.memory_kept_calls`; every adapter runs `tests/contracts/test_kept_calls.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from agent_runtime.kept_calls.records import KeptCall


class KeptCallStore(Protocol):
    """Durable when a method returns. All methods raise as those of `ports.Store`.

    An open call belongs to the process that added or adopted it, for as long as that lives.
    """

    async def add(self, call: KeptCall, *, open_max: int, kept_max: int) -> KeptCall:
        """Keep a new call. A known key (with server and caller) keeps nothing, and gives that call.

        Raises:
            Overloaded: its caller has `open_max` open calls at this server, or `kept_max` at all.
        """

    async def call(self, call_id: str) -> KeptCall:
        """Raises `NotFound` if there is none, or it is forgotten."""

    async def change(self, call_id: str, change: Callable[[KeptCall], KeptCall]) -> KeptCall:
        """Put what `change` makes of it in its place, in one transaction.

        `change` is pure, and may be called in another thread.

        Raises:
            NotFound: there is none.
        """

    async def of(
        self, server: str, caller: str, *, before: str = "", limit: int = 100
    ) -> list[KeptCall]:
        """A caller's, the newest first; those created before the call `before`."""

    async def adopt(self, server: str) -> list[KeptCall]:
        """Open calls whose process lives no more, oldest first: now they belong to this one."""

    async def prune(self, now_us: int, *, limit: int = 500) -> int:
        """Forget ended calls whose time has come, at most `limit`; how many."""
