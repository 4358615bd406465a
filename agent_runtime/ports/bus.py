"""The ports for news inside one process: a log has grown, a model is saying something."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from agent_runtime.types import TaskId


class Bus(Protocol):
    """Tells readers in this process that a task's log has grown. Losing a message loses nothing."""

    def publish(self, task_id: TaskId, seq: int) -> None:
        """The log of `task_id` reaches to `seq` now; never blocks."""

    def subscribe(self, task_id: TaskId, heard: Callable[[int], None]) -> Callable[[], None]:
        """Call `heard(seq)` on every publish until the returned function is called."""


class Listeners(Protocol):
    """Who watches a task as it thinks. What they hear is not stored, and may be said twice."""

    def of(self, task_id: TaskId) -> Callable[[str], None] | None:
        """Gets each piece of a model's text as it comes; None: nobody watches this task."""

    def listen(self, task_id: TaskId, heard: Callable[[str], None]) -> Callable[[], None]:
        """Hear each piece until the returned function is called."""
