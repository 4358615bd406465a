"""What became of one call, read from its session's log. Changes nothing and waits for nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from agent_runtime.loop import codec
from agent_runtime.loop import events as e
from agent_runtime.types import Json, Row, TaskId
from agent_runtime_mcp.definitions import ToolAnswer

META_TASK: Final = "io.agent-runtime/task"
META_CALL: Final = "io.agent-runtime/call"
"""Of an answer's `_meta`: where its record is."""

_OF_ALL: Final = frozenset({"TaskEnded", "ApprovalDecided", "ApprovalExpired"})
_OF_ONE: Final = frozenset({
    "CallRequested", "CallIntended", "CallReturned", "CallResolved", "EffectUnknown",
    "ApprovalRequested", "StepSucceeded", "StepFailed", "StepSkipped",
})  # fmt: skip


class Course:
    """Of the call `step_id` of a session."""

    def __init__(self, task_id: TaskId, step_id: str) -> None:
        self.task_id = task_id
        self.step_id = step_id
        self.asked: e.CallRequested | None = None
        self.intended: e.CallIntended | None = None
        self.pending: e.ApprovalRequested | None = None
        """A person is asked about it."""
        self.start = 0
        """Number of the row that asked for it; 0: not known."""
        self.seen = 0
        """Number of the last row that was looked at."""
        self.seen_at_us = self.began_at_us = 0
        self._returned: e.CallReturned | None = None
        self._unknown: e.EffectUnknown | None = None
        self._resolved = ""
        self._end: e.StepSucceeded | e.StepFailed | e.StepSkipped | e.TaskEnded | None = None
        self._named = step_id.encode()

    @property
    def ended(self) -> bool:
        return self._end is not None

    @property
    def withdrawn(self) -> bool:
        """It was cancelled before it came to an end of its own."""
        return isinstance(self._end, e.StepSkipped)

    @property
    def never_begun(self) -> bool:
        """Its session has ended, and nothing of it had run: it may be made in another."""
        return isinstance(self._end, e.TaskEnded) and self.intended is None

    def see(self, rows: Iterable[Row]) -> None:
        """Look at what the log holds beyond `seen`, up to the end of the call."""
        for row in rows:
            if self._end is not None:
                return
            self.seen, self.seen_at_us = row.seq, row.at_us
            # Rows of other calls are many and long: they are not decoded.
            if row.type in _OF_ALL or (row.type in _OF_ONE and self._named in row.data):
                self._take(codec.decode(row), row)

    def _take(self, event: e.AnyEvent, row: Row) -> None:
        match event:
            case e.CallRequested(step_id=step_id) if step_id == self.step_id:
                self.asked, self.start, self.began_at_us = event, row.seq, row.at_us
            case e.CallIntended(step_id=step_id) if step_id == self.step_id:
                self.intended = event
            case e.CallReturned(call_id=call_id) if self._is_mine(call_id):
                self._returned = event
            case e.CallResolved(call_id=call_id) if self._is_mine(call_id):
                self._resolved = event.message
            case e.EffectUnknown(step_id=step_id) if step_id == self.step_id:
                self._unknown = event
            case e.ApprovalRequested(step_id=step_id) if step_id == self.step_id:
                self.pending = event
            case e.ApprovalDecided(approval_id=id_) | e.ApprovalExpired(approval_id=id_):
                if self.pending is not None and self.pending.approval_id == id_:
                    self.pending = None
            case e.StepSucceeded(step_id=id_) | e.StepFailed(step_id=id_):
                if id_ == self.step_id:
                    self._end = event
            case e.StepSkipped(step_id=id_):
                if id_ == self.step_id:
                    self._end = event
            case e.TaskEnded():
                self._end = event
            case _:
                pass

    def _is_mine(self, call_id: str) -> bool:
        return call_id.rpartition(".")[0] == self.step_id

    def answer(self) -> ToolAnswer:
        """Of a call that has ended."""
        text, is_error = self._told()
        meta: dict[str, Json] = {META_TASK: self.task_id, META_CALL: self.step_id}
        structured = None
        returned = self._returned
        if returned is not None:
            if returned.output_blob and returned.output_bytes > len(returned.output):
                text = f"{text}\n{_more(self.task_id, returned)}"
            if returned.data is not None:
                structured = {"output": returned.output, "exit": returned.exit,
                              "data": returned.data}  # fmt: skip
        return ToolAnswer([{"type": "text", "text": text}], structured, is_error, meta)

    def _told(self) -> tuple[str, bool]:
        returned = self._returned
        match self._end:
            case e.StepSucceeded():
                return (returned.output if returned is not None else self._resolved), False
            case e.StepFailed(reason=reason):
                if self._unknown is not None:
                    return self._unknown.message, True
                # What it printed says more than the step's reason, which quotes it.
                said = returned is not None and not returned.ok and returned.output.strip()
                return (returned.output if returned is not None and said else reason), True
            case e.StepSkipped(reason=reason):
                if self._unknown is not None:
                    return self._unknown.message, True
                began = "ended" if self.intended is not None else "not run"
                return f"The call was {began}: {reason}.", True
            case e.TaskEnded() as end:
                if self._unknown is not None:
                    return self._unknown.message, True
                return self._cut_off(end), True
            case None:
                raise AssertionError("it has not ended")

    def _cut_off(self, end: e.TaskEnded) -> str:
        said = f"the session {self.task_id} is {end.status} ({end.reason})"
        if self.intended is None:
            return f"The call was not run: {said}."
        undone = f": {self._resolved}" if self._resolved else ""
        return f"The call has no result{undone}; {said}. Look before you call again."


def _more(task_id: TaskId, returned: e.CallReturned) -> str:
    asks = f'{{"call": "{task_id}/{returned.call_id}", "offset": 0}}'
    return f"[The whole output has {returned.output_bytes:,} bytes; read_output {asks} shows it.]"
