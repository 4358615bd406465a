"""A stream of events that goes on where it was cut, whatever was cut. Pure.

The daemon resumes from its log by Last-Event-ID, so all that is needed is the last number. What
comes twice is dropped; a hole is never handed on: the connection counts as lost, and the stream is
asked for again from the last number before it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote, urlencode

import msgspec

from agent_runtime.client.sse import Frames
from agent_runtime.client.views import Event, TaskView

ENDED = "TaskEnded"

KindT = TypeVar("KindT")


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of what a model says, as it comes; stored nowhere, and not repeated."""

    text: str


class Broken(Exception):
    """The stream has a hole, or is none: ask again."""


class _Said(msgspec.Struct, frozen=True):
    text: str


class Following:
    """Of one task, or of all (`task_id` None). Each connection begins with `ask`."""

    def __init__(
        self,
        task_id: str | None,
        *,
        after: int | None = None,
        types: Collection[str] = (),
        snapshot: bool = False,
        output: bool = False,
    ) -> None:
        self.last = after
        """Number of the last event that was handed out, or read over."""
        self.moved = False
        """Has the present connection brought anything?"""
        self._task_id = task_id
        self._types = frozenset(types)
        self._snapshot = snapshot
        self._output = output
        self._frames = Frames()

    def ask(self) -> tuple[str, dict[str, str]]:
        """The path with its query, and the headers; a new connection begins."""
        self._frames, self.moved = Frames(), False
        query: dict[str, str] = {}
        if self._types:
            # The end is always wanted: it says when to stop. It is taken out again below.
            ends = {ENDED} if self._task_id is not None else set()
            query["types"] = ",".join(sorted(self._types | ends))
        if self._snapshot:
            query["snapshot"] = "true"
        if self._output:
            query["output"] = "true"
        headers = {"Accept": "text/event-stream"}
        if self.last is not None:
            query["after"] = str(self.last)
            headers["Last-Event-ID"] = str(self.last)
        if self._task_id is None:
            path = "/v1/events"
        else:
            path = f"/v1/tasks/{quote(self._task_id, safe='')}/events"
        return path + (f"?{urlencode(query)}" if query else ""), headers

    def feed(self, data: bytes) -> list[Event | Output | TaskView]:
        """What came, in its order.

        Raises:
            Broken: ask again.
        """
        found: list[Event | Output | TaskView] = []
        for frame in self._frames.feed(data):
            if frame.data is None:
                self._move(frame.id)
                continue
            self.moved = True
            if frame.event == "output":
                found.append(Output(_decoded(frame.data, _Said).text))
            elif frame.event == "snapshot":
                found.append(_decoded(frame.data, TaskView))
                self._snapshot = False
                self._move(frame.id)
            else:
                event = self._event(frame.id, _decoded(frame.data, Event))
                if event is not None:
                    found.append(event)
        return found

    def _event(self, cursor: str, event: Event) -> Event | None:
        at = event.seq if self._task_id is not None else int(cursor)
        last = self.last
        if last is not None and at <= last:
            return None
        # Positions of all tasks may have holes, and so has what is filtered.
        if self._task_id is not None and not self._types and at != (last or 0) + 1:
            raise Broken(f"event {at} came after event {last or 0}")
        self.last = at
        if self._types and event.type not in self._types:
            return None
        return event if self._task_id is not None else msgspec.structs.replace(event, position=at)

    def _move(self, cursor: str) -> None:
        if cursor.isascii() and cursor.isdigit():
            self.last = max(self.last or 0, int(cursor))


def _decoded(data: bytes, kind: type[KindT]) -> KindT:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise Broken(f"what came is no {kind.__name__}: {error}") from error
