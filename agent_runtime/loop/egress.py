"""What leaves a task's sandboxes, on its way into the log.

`EgressLog.hear` makes the callback that a `SandboxSpec` takes as `egress_heard`. Records that look
the same are summed up until `store` puts them into the log, at the latest before the result of the
call during which they came; so an installation of packages is one event and not a thousand. What an
owner that was killed could not store any more, the next one picks up from the sandboxes' own
record: the log says how far that record is in it, so nothing is lost and nothing counted twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import anyio

from agent_runtime.loop.events import EgressEntry, EgressObserved
from agent_runtime.loop.journal import Journal
from agent_runtime.ports.egress import EgressFiles, EgressRecord

LISTED_MAX = 100
"""Entries of one event about what was opened and closed, and as many about what was not."""

_Key = tuple[str, str, str, str, int, str, str, str]
"""Source, kind, method, host, port, address, via, reason."""


@dataclass(slots=True)
class _Sum:
    count: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0


@dataclass(slots=True)
class _Batch:
    """What was heard since the last `store`."""

    let_out: dict[_Key, _Sum] = field(default_factory=dict)
    kept_in: dict[_Key, _Sum] = field(default_factory=dict)
    left_out: _Sum = field(default_factory=_Sum)

    mark: int = 0

    def add(self, record: EgressRecord, source: str) -> None:
        sums = self.let_out if record.kind in ("opened", "closed") else self.kept_in
        key = (
            source, record.kind, record.method, record.host, record.port, record.address,
            record.via, record.reason,
        )  # fmt: skip
        if key in sums or len(sums) < LISTED_MAX:
            total = sums.setdefault(key, _Sum())
        else:
            total = self.left_out
        total.count += 1
        total.bytes_sent += record.bytes_sent
        total.bytes_received += record.bytes_received
        self.mark = max(self.mark, record.mark)

    def event(self) -> EgressObserved:
        return EgressObserved(
            entries=[
                EgressEntry(
                    source=source,
                    kind=kind,  # type: ignore[arg-type]  # one of its literals, by the port
                    method=method,
                    host=host,
                    port=port,
                    address=address,
                    via=via,
                    reason=reason,
                    count=total.count,
                    bytes_sent=total.bytes_sent,
                    bytes_received=total.bytes_received,
                )
                for (source, kind, method, host, port, address, via, reason), total in (
                    *self.let_out.items(),
                    *self.kept_in.items(),
                )
            ],
            left_out=self.left_out.count,
            bytes_sent_left_out=self.left_out.bytes_sent,
            bytes_received_left_out=self.left_out.bytes_received,
            mark=self.mark,
        )


class EgressLog:
    """One driver's ear for all sandboxes of its task."""

    def __init__(self, journal: Journal, files: EgressFiles | None = None) -> None:
        self._journal = journal
        self._files = files
        self._heard: _Batch | None = None
        self._waiting: list[_Batch] = []
        self._running: dict[str, None] = {}
        self._ears: dict[str, Callable[[EgressRecord], None]] = {}

    @cached_property
    def _lock(self) -> anyio.Lock:
        return anyio.Lock()  # made when something is first heard

    def hear(self, source: str = "") -> Callable[[EgressRecord], None]:
        """A callback for `SandboxSpec.egress_heard` of one sandbox, whose owner must be the task.

        `source` says on whose behalf it goes out (`setup`); empty: the calls that run in the worker
        when a connection is asked for, which may be none: a process that one left behind. The same
        source has the same callback, so that equal specs stay equal.
        """
        if source not in self._ears:
            self._ears[source] = self._ear(source)
        return self._ears[source]

    def _ear(self, source: str) -> Callable[[EgressRecord], None]:
        sources: dict[int, str] = {}

        def heard(record: EgressRecord) -> None:
            # A connection that ends later belongs to whoever opened it.
            whose = sources.pop(record.number, None)
            if whose is None:
                whose = source or ", ".join(self._running)
            if record.kind == "opened":
                sources[record.number] = whose
            if record.mark <= self._journal.state.reached.mark:
                record = replace(record, mark=0)  # somebody removed the file: it is another one
            self._add(record, whose)

        return heard

    @contextmanager
    def during(self, call_id: str) -> Iterator[None]:
        """A call runs in the worker."""
        self._running[call_id] = None
        try:
            yield
        finally:
            del self._running[call_id]

    def pick_up(self) -> None:
        """Read what an earlier owner, which is dead, heard and could not store."""
        if self._files is not None:
            state = self._journal.state
            unfinished = ", ".join(state.calls)
            for record in self._files.after(state.task_id, state.reached.mark):
                self._add(record, unfinished)

    async def store(self) -> None:
        """Everything heard up to now is in the log when this returns. Raises as `commit`."""
        # After every action, mostly with nothing: a lock that is free still costs a turn of the
        # loop. What somebody else is storing stays in `_waiting` until it is stored.
        if self._heard is None and not self._waiting:
            return
        async with self._lock:
            if self._heard is not None:
                self._waiting.append(self._heard)
                self._heard = None
            # One that failed may be stored all the same: the core drops what it knows by its mark.
            while self._waiting:
                await self._journal.commit(self._waiting[0].event())
                del self._waiting[0]

    def _add(self, record: EgressRecord, source: str) -> None:
        if self._heard is None:
            self._heard = _Batch()
        self._heard.add(record, source)
