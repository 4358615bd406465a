"""Writes the audit record: decisions before they are answered, submissions in batches.

Refusals are a stranger's to cause, so they are counted, not listed: of one reason, address and key
the first within a minute is an entry, the others are one more entry at the minute's end. Of many
addresses only so many are told apart. A flood of a day is some megabytes, whoever sends it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import anyio

from agent_runtime.access.audit import DETAIL_CHARS_MAX, Entry
from agent_runtime.access.callers import Caller
from agent_runtime.access.gate import Gate
from agent_runtime.access.ports import AccessStore
from agent_runtime.errors import StoreUnavailable

FLUSH_SECONDS: Final = 1.0
WINDOW_SECONDS: Final = 60.0
SOURCES_MAX: Final = 32
"""Kinds of refusals that are told apart within a window; the others are counted by reason."""
PENDING_MAX: Final = 20_000
"""Entries that wait for a disk that does not write, some 300 bytes each; then they are counted."""
BATCH_MAX: Final = 500

TARGETS_MAX: Final = 100
"""Of one entry for several alike."""

ELSEWHERE: Final = "(others)"

log = logging.getLogger(__name__)

_Source = tuple[str, str, str, str]
"""Reason, address, key, caller."""
_Alike = tuple[str, str, str, str, str]
"""Caller, key, action, detail, address."""


class Auditor:
    """One for a process, used on its event loop; `run` writes what `note` and `refused` take."""

    def __init__(self, store: AccessStore, *, now_us: Callable[[], int]) -> None:
        self._store = store
        self._now_us = now_us
        self._pending: list[Entry] = []
        self._noted: dict[_Alike, tuple[int, list[str]]] = {}
        """Since when, and what was done to which."""
        self._noted_count = 0
        self._lost = 0
        self._counts: dict[_Source, int] = {}
        """Refusals of this window beyond each one's first."""

    def entry(
        self, caller: Caller, action: str, target: str = "", *, detail: str = "", peer: str = ""
    ) -> Entry:
        """What `caller` did now."""
        return Entry(
            at_us=self._now_us(),
            by=caller.by,
            action=action,
            target=target,
            detail=detail[:DETAIL_CHARS_MAX],
            peer=peer,
            key_id=caller.key_id,
        )

    async def record(
        self, caller: Caller, action: str, target: str = "", *, detail: str = "", peer: str = ""
    ) -> None:
        """Write a decision down; durable when it returns. Errors as of the store."""
        await self._store.record([self.entry(caller, action, target, detail=detail, peer=peer)])

    def note(
        self, caller: Caller, action: str, target: str = "", *, detail: str = "", peer: str = ""
    ) -> None:
        """Write down within a second what is durable elsewhere, as a submission is in its log.

        What a caller does alike within that second becomes one entry: a submission may cost
        microseconds, and a row of its own costs ten.
        """
        if self._noted_count >= PENDING_MAX:
            self._lost += 1
            return
        alike = (caller.by, caller.key_id, action, detail, peer)
        noted = self._noted.get(alike)
        if noted is None:
            self._noted[alike] = (self._now_us(), [target])
        else:
            noted[1].append(target)
        self._noted_count += 1

    def refused(self, reason: str, *, peer: str, key_id: str = "", by: str = "") -> None:
        """Somebody was refused; neither waits nor fails."""
        source = (reason, peer, key_id, by)
        if source not in self._counts and len(self._counts) >= SOURCES_MAX:
            source = (reason, ELSEWHERE, "", "")
        if source in self._counts:
            self._counts[source] += 1
        else:
            self._counts[source] = 0
            self._add(self._refusal(source, 1))

    async def flush(self) -> None:
        """Write what was noted until now. Errors as of the store; nothing is lost by them."""
        self._take_noted()
        if self._lost and len(self._pending) < PENDING_MAX:
            lost, self._lost = self._lost, 0
            self._pending.append(self._lost_entry(lost))
        while self._pending:
            batch = self._pending[:BATCH_MAX]
            await self._store.record(batch)
            del self._pending[: len(batch)]

    def close_window(self) -> None:
        """Begin to count refusals anew; what was counted becomes entries."""
        counts, self._counts = self._counts, {}
        for source, more in counts.items():
            if more:
                self._add(self._refusal(source, more))

    async def run(self, gate: Gate | None = None, *, flush_seconds: float = FLUSH_SECONDS) -> None:
        """Write again and again, until it is cancelled; then once more, bounded.

        Of `gate`, the last uses of keys are written too.
        """
        window_at = anyio.current_time() + WINDOW_SECONDS
        try:
            while True:
                await anyio.sleep(flush_seconds)
                if anyio.current_time() >= window_at:
                    window_at += WINDOW_SECONDS
                    self.close_window()
                await self._flush_quietly(gate)
        finally:
            self.close_window()
            with anyio.move_on_after(5, shield=True):
                await self._flush_quietly(gate)

    async def _flush_quietly(self, gate: Gate | None) -> None:
        try:
            await self.flush()
            if gate is not None:
                await self._store.mark_used(gate.take_used())
        except StoreUnavailable as error:
            log.warning("the audit record waits: %s", error)

    def _take_noted(self) -> None:
        noted, self._noted, self._noted_count = self._noted, {}, 0
        for (by, key_id, action, detail, peer), (at_us, targets) in noted.items():
            for start in range(0, len(targets), TARGETS_MAX):
                some = targets[start : start + TARGETS_MAX]
                self._add(
                    Entry(
                        at_us=at_us,
                        by=by,
                        action=action,
                        target=some[0] if len(some) == 1 else "",
                        targets=tuple(some) if len(some) > 1 else (),
                        detail=detail[:DETAIL_CHARS_MAX],
                        peer=peer,
                        key_id=key_id,
                        count=len(some),
                    )
                )

    def _add(self, entry: Entry) -> None:
        if len(self._pending) < PENDING_MAX:
            self._pending.append(entry)
        else:
            self._lost += entry.count

    def _refusal(self, source: _Source, count: int) -> Entry:
        reason, peer, key_id, by = source
        return Entry(
            at_us=self._now_us(),
            by=by or "none:",
            action="auth.refuse",
            outcome="refused",
            detail=reason,
            peer=peer,
            key_id=key_id,
            count=count,
        )

    def _lost_entry(self, count: int) -> Entry:
        return Entry(
            at_us=self._now_us(), by="none:", action="audit.lose", detail="not written", count=count
        )
