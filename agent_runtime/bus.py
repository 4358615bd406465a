"""The bus inside one process: who drives a task, or watches it, hears that its log has grown."""

from __future__ import annotations

from collections.abc import Callable

from agent_runtime.types import TaskId


class LocalBus:
    """Publishes to callbacks; a reader that is not there misses nothing, the log has it all."""

    def __init__(self) -> None:
        self._heard: dict[TaskId, list[Callable[[int], None]]] = {}

    def publish(self, task_id: TaskId, seq: int) -> None:
        """The log of `task_id` reaches to `seq` now."""
        for heard in tuple(self._heard.get(task_id, ())):
            heard(seq)

    def subscribe(self, task_id: TaskId, heard: Callable[[int], None]) -> Callable[[], None]:
        """Call `heard(seq)` on every publish until the returned function is called."""
        callbacks = self._heard.setdefault(task_id, [])
        callbacks.append(heard)

        def unsubscribe() -> None:
            callbacks.remove(heard)
            if not callbacks:
                self._heard.pop(task_id, None)

        return unsubscribe


class LocalListeners:
    """Who hears a model's text as it comes, in this process. Nobody: nothing is streamed."""

    def __init__(self) -> None:
        self._heard: dict[TaskId, list[Callable[[str], None]]] = {}

    def of(self, task_id: TaskId) -> Callable[[str], None] | None:
        """Passes each piece of text on to everybody who listens now; None: nobody does."""
        if task_id not in self._heard:
            return None

        def pass_on(text: str) -> None:
            for heard in tuple(self._heard.get(task_id, ())):
                heard(text)

        return pass_on

    def listen(self, task_id: TaskId, heard: Callable[[str], None]) -> Callable[[], None]:
        """Call `heard(text)` with each piece until the returned function is called."""
        callbacks = self._heard.setdefault(task_id, [])
        callbacks.append(heard)

        def unsubscribe() -> None:
            callbacks.remove(heard)
            if not callbacks:
                self._heard.pop(task_id, None)

        return unsubscribe
