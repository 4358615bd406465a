"""Kept calls without a disk: the reference for the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio.lowlevel

from agent_runtime.errors import NotFound, Overloaded
from agent_runtime.kept_calls.records import KeptCall

RETRY_SECONDS: Final = 10.0


class SharedKeptCalls:
    """What several `MemoryKeptCalls` have in common: the "file", and who is alive."""

    def __init__(self) -> None:
        self.calls: dict[str, KeptCall] = {}
        self.owners: dict[str, object] = {}
        self.alive: set[object] = set()


class MemoryKeptCalls:
    """Implements `kept_calls.ports.KeptCallStore` for one "process"."""

    def __init__(self, shared: SharedKeptCalls | None = None) -> None:
        self._shared = shared if shared is not None else SharedKeptCalls()
        self._shared.alive.add(self)

    def close(self) -> None:
        """This "process" lives no more."""
        self._shared.alive.discard(self)

    async def add(self, call: KeptCall, *, open_max: int, kept_max: int) -> KeptCall:
        await anyio.lowlevel.checkpoint()
        known = [
            each
            for each in self._shared.calls.values()
            if (each.server, each.caller) == (call.server, call.caller)
        ]
        for each in known:
            if call.key and each.key == call.key:
                return each
        refuse_too_many(
            call, open_=sum(each.is_open for each in known), kept=len(known), open_max=open_max,
            kept_max=kept_max,
        )  # fmt: skip
        self._shared.calls[call.call_id] = call
        self._shared.owners[call.call_id] = self
        return call

    async def call(self, call_id: str) -> KeptCall:
        await anyio.lowlevel.checkpoint()
        return self._call(call_id)

    async def change(self, call_id: str, change: Callable[[KeptCall], KeptCall]) -> KeptCall:
        await anyio.lowlevel.checkpoint()
        call = self._shared.calls[call_id] = change(self._call(call_id))
        return call

    async def of(
        self, server: str, caller: str, *, before: str = "", limit: int = 100
    ) -> list[KeptCall]:
        await anyio.lowlevel.checkpoint()
        found = [
            each
            for each in self._shared.calls.values()
            if (each.server, each.caller) == (server, caller)
            and (not before or each.call_id < before)
        ]
        return sorted(found, key=lambda each: each.call_id, reverse=True)[:limit]

    async def adopt(self, server: str) -> list[KeptCall]:
        await anyio.lowlevel.checkpoint()
        found = [
            each
            for each in self._shared.calls.values()
            if each.server == server
            and each.is_open
            and self._shared.owners[each.call_id] not in self._shared.alive
        ]
        for each in found:
            self._shared.owners[each.call_id] = self
        return sorted(found, key=lambda each: each.call_id)

    async def prune(self, now_us: int, *, limit: int = 500) -> int:
        await anyio.lowlevel.checkpoint()
        calls = self._shared.calls
        old = [each.call_id for each in calls.values() if 0 < each.expires_at_us <= now_us][:limit]
        for call_id in old:
            del calls[call_id], self._shared.owners[call_id]
        return len(old)

    def _call(self, call_id: str) -> KeptCall:
        try:
            return self._shared.calls[call_id]
        except KeyError:
            raise no_call(call_id) from None


def no_call(call_id: str) -> NotFound:
    return NotFound(f"there is no kept call {call_id!r}, or it is forgotten")


def refuse_too_many(call: KeptCall, *, open_: int, kept: int, open_max: int, kept_max: int) -> None:
    """Raises `Overloaded` if there is no room for one more of its caller's."""
    if open_ >= open_max:
        raise Overloaded(
            f"{call.caller!r} has {open_} tasks open at {call.server!r}, the most there may be: "
            "wait for one, or cancel one",
            retry_after_seconds=RETRY_SECONDS,
        )
    if kept >= kept_max:
        raise Overloaded(
            f"{call.caller!r} has {kept} tasks kept at {call.server!r}, the most there may be: "
            "give new ones a shorter ttl; old ones are forgotten when theirs is over",
            retry_after_seconds=RETRY_SECONDS,
        )
